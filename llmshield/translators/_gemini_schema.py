"""Gemini's own schemas as JSON Schema, and JSON Schema in the words that Gemini reads."""

from __future__ import annotations

from typing import Any

from llmshield.call import Tree
from llmshield.conversation import Conversation
from llmshield.dialects._gemini_texts import camel
from llmshield.translators._json import items, note, object_of, shown

_READ = frozenset(
    {
        "$id", "$ref", "$anchor", "type", "format", "title", "description", "enum", "minItems", "maxItems", "minimum",
        "maximum", "required", "propertyOrdering",
    }
)  # fmt: skip
"""Keywords of `responseJsonSchema` (https://ai.google.dev/api/generate-content#GenerationConfig), besides those with
schemas inside; the API ignores others or refuses them."""
_LISTS = frozenset({"anyOf", "oneOf", "prefixItems"})
_NAMED = frozenset({"properties", "$defs"})
_SILENT = frozenset({"$schema", "$comment"})
_FORMING = frozenset(
    {"allOf", "not", "if", "then", "else", "patternProperties", "dependentSchemas", "definitions"}
)
_COUNTS = frozenset({"minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties"})


def as_json_schema(schema: Tree) -> Tree:
    """Gemini's `Schema` (OpenAPI 3.0 with types in capitals, counts as strings) as JSON Schema."""
    out: Tree = {}
    for key, value in schema.items():
        name = camel(key)
        if name == "type" and type(value) is str:
            out["type"] = value.lower()
        elif name == "properties" and type(value) is dict:
            order = schema.get("propertyOrdering") or schema.get("property_ordering")
            names = [each for each in items(order) if type(each) is str and each in value]
            names += [each for each in value if each not in names]
            out["properties"] = {each: as_json_schema(object_of(value[each])) for each in names}
        elif name in {"items", "additionalProperties"} and type(value) is dict:
            out[name] = as_json_schema(value)
        elif name in _LISTS and type(value) is list:
            out[name] = [as_json_schema(object_of(inner)) for inner in value]
        elif name in _COUNTS and type(value) is str and value.isdigit():
            out[name] = int(value)
        elif name == "example":
            out["examples"] = [value]
        elif name in {"defs", "$defs"} and type(value) is dict:
            out["$defs"] = {each: as_json_schema(object_of(inner)) for each, inner in value.items()}
        elif name == "ref":
            out["$ref"] = value
        elif name not in {"nullable", "propertyOrdering"}:
            out[name] = value
    if schema.get("nullable") is True and type(out.get("type")) is str:
        out["type"] = [out["type"], "null"]
        if type(out.get("enum")) is list and None not in out["enum"]:
            out["enum"] = [*out["enum"], None]
    return out


def readable(c: Conversation, schema: Tree, place: str) -> Tree:
    """The schema in the words that Gemini reads; what is left out is added to `lost` or `missing`."""
    out: Tree = {}
    for name, value in schema.items():
        if name in _READ:
            out[name] = value
        elif name in _NAMED and type(value) is dict:
            out[name] = {key: _inner(c, each, place) for key, each in value.items()}
        elif name in _LISTS and type(value) is list:
            out[name] = [_inner(c, each, place) for each in value]
        elif name in {"items", "additionalProperties"}:
            out[name] = _inner(c, value, place)
        elif name == "const" and type(value) in (str, int, float):
            out["enum"] = [value]
        elif name in _FORMING:
            note(c.missing, f"{place}: Gemini's schemas have no {name!r}")
        elif name not in _SILENT:
            note(c.lost, f"{place}: Gemini's schemas have no {shown(name)!r}")
    return out


def _inner(c: Conversation, schema: Any, place: str) -> Any:
    return readable(c, schema, place) if type(schema) is dict else schema
