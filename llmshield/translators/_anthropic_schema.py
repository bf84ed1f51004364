"""JSON Schema as Anthropic's structured outputs and strict tools take it.

https://platform.claude.com/docs/en/build-with-claude/structured-outputs ("JSON Schema limitations"): all else is
answered with 400. What only narrows a value is taken out and noted; the model may still keep to the description.
"""

from __future__ import annotations

from typing import Any

from llmshield.call import Tree
from llmshield.conversation import Conversation
from llmshield.translators._json import note, shown

_KEPT = frozenset({"type", "enum", "const", "required", "title", "description", "default", "$ref"})
_INSIDE = {"anyOf", "oneOf", "allOf", "prefixItems"}
_NAMED = {"properties", "$defs", "definitions"}
_FORMATS = frozenset(
    {"date-time", "time", "date", "duration", "email", "hostname", "uri", "ipv4", "ipv6", "uuid"}
)
_SILENT = frozenset({"$schema", "$id", "$comment", "additionalProperties"})


def narrowed(c: Conversation, schema: Tree, place: str) -> Tree:
    """The schema in the words that are taken; what is left out is added to `lost` or `missing`."""
    out: Tree = {}
    for name, value in schema.items():
        if name in _KEPT:
            out[name] = value
        elif name in _NAMED and type(value) is dict:
            out[name] = {key: _inner(c, each, place) for key, each in value.items()}
        elif name in _INSIDE and type(value) is list and name != "prefixItems":
            out["anyOf" if name == "oneOf" else name] = [_inner(c, each, place) for each in value]
        elif name == "items" and type(value) is dict:
            out["items"] = narrowed(c, value, place)
        elif (name == "format" and value in _FORMATS) or (name == "minItems" and value in (0, 1)):
            out[name] = value
        elif name in {"not", "if", "patternProperties", "prefixItems", "items", "dependentSchemas"}:
            note(c.missing, f"{place}: Anthropic's schemas have no {name!r}")
        elif name not in _SILENT:
            note(c.lost, f"{place}: Anthropic's schemas have no {shown(name)!r}")
    kind = schema.get("type")
    if kind == "object" or "properties" in schema or "additionalProperties" in schema:
        further = schema.get("additionalProperties")
        if further not in (None, False):
            if "properties" in schema:
                note(c.lost, f"{place}: Anthropic's objects have no properties beyond those of the schema")
            else:
                note(c.missing, f"{place}: Anthropic's objects can't have properties of any name")
        out["additionalProperties"] = False
    return out


def _inner(c: Conversation, schema: Any, place: str) -> Any:
    return narrowed(c, schema, place) if type(schema) is dict else schema
