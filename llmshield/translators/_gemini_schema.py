"""Gemini's own schemas as JSON Schema."""

from __future__ import annotations

from llmshield.call import Tree
from llmshield.dialects._gemini_texts import camel
from llmshield.translators._json import object_of


def as_json_schema(schema: Tree) -> Tree:
    """Gemini's `Schema` (OpenAPI 3.0 with types in capitals) as JSON Schema."""
    out: Tree = {}
    for key, value in schema.items():
        name = camel(key)
        if name == "type" and type(value) is str:
            out["type"] = value.lower()
        elif name == "properties" and type(value) is dict:
            out["properties"] = {each: as_json_schema(object_of(inner)) for each, inner in value.items()}
        elif name == "items" and type(value) is dict:
            out["items"] = as_json_schema(value)
        elif name == "anyOf" and type(value) is list:
            out["anyOf"] = [as_json_schema(object_of(inner)) for inner in value]
        elif name == "nullable":
            continue
        elif name != "propertyOrdering":
            out[name] = value
    if schema.get("nullable") is True and type(out.get("type")) is str:
        out["type"] = [out["type"], "null"]
    return out
