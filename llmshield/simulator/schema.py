"""The smallest instance of a JSON schema, good enough that validating clients accept it.

Understands $ref, anyOf/oneOf/allOf, enum, const, examples, default, nullable, types in either case (Gemini writes
`OBJECT`), bounds of numbers, strings and arrays, common formats. A `pattern` is met only if an example, a
default or one of a few usual values does.
"""

from __future__ import annotations

import math
import re
from typing import Any

_FORMATS = {
    "date-time": "2026-01-02T03:04:05Z",
    "date": "2026-01-02",
    "time": "03:04:05Z",
    "duration": "PT1S",
    "email": "someone@example.com",
    "hostname": "example.com",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "uri": "https://example.com/",
    "url": "https://example.com/",
    "uuid": "00000000-0000-4000-8000-000000000000",
}
_USUAL = (
    "a",
    "A",
    "1",
    "00",
    "abc",
    "ABC",
    "a1",
    "A1",
    "123",
    "1234",
    "12345",
    "2026-01-02",
    "a@example.com",
)
_DEPTH = 24


def instance(schema: Any, text: str = "text") -> Any:
    """A minimal valid instance; strings that may be anything are `text`."""
    return _make(schema, schema if isinstance(schema, dict) else {}, text, _DEPTH)


def _lookup(root: dict[str, Any], ref: str) -> Any:
    node: Any = root
    for part in ref.removeprefix("#").strip("/").split("/"):
        if part and isinstance(node, dict):
            node = node.get(part.replace("~1", "/").replace("~0", "~"))
    return node


def _make(schema: Any, root: dict[str, Any], text: str, depth: int) -> Any:
    if not isinstance(schema, dict) or depth <= 0:
        return None if depth <= 0 else text
    if "$ref" in schema:
        return _make(_lookup(root, str(schema["$ref"])), root, text, depth - 1)
    if "const" in schema:
        return schema["const"]
    for key in ("examples", "enum"):
        values = schema.get(key)
        if isinstance(values, list) and values:
            return values[0]
    if "default" in schema:
        return schema["default"]
    for key in ("anyOf", "any_of", "oneOf"):
        options = schema.get(key)
        if isinstance(options, list) and options:
            # A null branch is valid too, but an instance that shows something is the better test.
            chosen = next((o for o in options if _kind(o) != "null"), options[0])
            return _make({**{k: v for k, v in schema.items() if k != key}, **chosen}, root, text, depth - 1)
    if isinstance(schema.get("allOf"), list):
        merged: dict[str, Any] = {k: v for k, v in schema.items() if k != "allOf"}
        for part in schema["allOf"]:
            part = _lookup(root, str(part["$ref"])) if isinstance(part, dict) and "$ref" in part else part
            if isinstance(part, dict):
                properties = {**merged.get("properties", {}), **part.get("properties", {})}
                required = [*merged.get("required", []), *part.get("required", [])]
                merged.update(part)
                merged.update({"properties": properties, "required": required} if properties else {})
        return _make(merged, root, text, depth - 1)
    kind = _kind(schema)
    if kind == "object":
        properties = schema.get("properties") or {}
        wanted: list[str] = schema.get("required") or []
        return {k: _make(v, root, text, depth - 1) for k, v in properties.items() if k in wanted}
    if kind == "array":
        prefix: list[Any] = schema.get("prefixItems") or []
        least = max(int(schema.get("minItems") or 0), len(prefix))
        items = schema.get("items", {})
        return [_make(prefix[i] if i < len(prefix) else items, root, text, depth - 1) for i in range(least)]
    if kind in ("integer", "number"):
        return _number(schema, kind)
    if kind == "boolean":
        return True
    if kind == "null":
        return None
    return _string(schema, text)


def _kind(schema: Any) -> str:
    if not isinstance(schema, dict):
        return "string"
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = next((k for k in kind if k != "null"), "null")
    if isinstance(kind, str):
        return kind.lower()
    if "properties" in schema:
        return "object"
    return "array" if "items" in schema else "string"


def _bound(value: Any) -> float | None:
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _number(schema: dict[str, Any], kind: str) -> int | float:
    low, over = _bound(schema.get("minimum")), _bound(schema.get("exclusiveMinimum"))
    high, under = _bound(schema.get("maximum")), _bound(schema.get("exclusiveMaximum"))
    step = _bound(schema.get("multipleOf")) or (1 if kind == "integer" else 0)
    floor, ceiling = over if low is None else low, under if high is None else high
    if floor is not None and ceiling is not None and not step:
        value: float = (floor + ceiling) / 2
    elif floor is not None:
        value = floor if low is not None else floor + (step or 1)
    else:
        value = 1
        if high is not None:
            value = min(value, high)
        if under is not None and value >= under:
            value = under - (step or 1)
    if step:
        value = math.ceil(value / step) * step
    return int(value) if kind == "integer" else value


def _string(schema: dict[str, Any], text: str) -> str:
    value = _FORMATS.get(str(schema.get("format")), text)
    pattern = schema.get("pattern")
    if isinstance(pattern, str):
        # A test's own pattern over a dozen short constants: no user text meets this expression.
        value = next((c for c in (text, *_USUAL) if re.search(pattern, c)), value)
    least, most = schema.get("minLength"), schema.get("maxLength")
    if isinstance(least, int) and len(value) < least:
        value += "x" * (least - len(value))
    return value[:most] if isinstance(most, int) else value
