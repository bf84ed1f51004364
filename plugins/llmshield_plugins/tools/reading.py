"""The tools that a request offers and has called, in whatever dialect it is written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import orjson

from llmshield.json_pieces import JsonPieces
from llmshield.texts import shown

from .rules import as_text

_DEEPEST = 64


class Use(NamedTuple):
    """A tool that a call offers (`arguments` is None) or has called, and where that stands."""

    name: str
    place: str
    arguments: Any = None
    called: bool = False


def uses(body: Mapping[str, Any]) -> Iterator[Use]:
    """The tools that a body offers or has called, in whatever dialect it is written.

    Known are the shapes of OpenAI's chat and responses, Anthropic's and Gemini's APIs; anything of these shapes counts,
    wherever it stands.
    """
    for key in ("tools", "functions"):
        offered = body.get(key)
        for number, entry in enumerate(offered if isinstance(offered, list) else ()):
            if isinstance(entry, dict):
                for name in _offered(entry):
                    yield Use(name, f"/{key}/{number}")
    servers = body.get("mcp_servers")
    for number, entry in enumerate(servers if isinstance(servers, list) else ()):
        if isinstance(entry, dict):
            yield Use(f"mcp:{entry.get('name', '')}", f"/mcp_servers/{number}")
    for key in ("messages", "input", "contents"):
        yield from _called(body.get(key), f"/{key}", 0)


def _offered(entry: Mapping[str, Any]) -> Iterator[str]:
    """The names of the tools in one entry of `tools`."""
    declared = False
    for key in ("functionDeclarations", "function_declarations"):
        for one in entry.get(key) or ():
            declared = True
            if isinstance(one, dict) and isinstance(one.get("name"), str):
                yield one["name"]
    inner = entry.get("function") or entry.get("custom")
    if isinstance(inner, dict) and isinstance(inner.get("name"), str):
        yield inner["name"]
        return
    name, kind = entry.get("name"), entry.get("type")
    if kind in ("mcp", "mcp_toolset"):
        yield f"mcp:{entry.get('server_label') or entry.get('mcp_server_name') or ''}"
        return
    if isinstance(kind, str) and kind not in ("function", "custom"):
        yield kind  # a tool of the provider's own: web_search_20250305
    elif isinstance(name, str):
        yield name
    elif not declared:
        # Gemini's own tools are keys: {"googleSearch": {}}.
        yield from (key for key, value in entry.items() if isinstance(value, dict))


def _called(value: Any, place: str, depth: int) -> Iterator[Use]:
    if depth > _DEEPEST:
        return
    if isinstance(value, list):
        for number, one in enumerate(value):
            if isinstance(one, dict | list):
                yield from _called(one, f"{place}/{number}", depth + 1)
        return
    if not isinstance(value, dict):
        return
    for key in ("function", "functionCall", "function_call", "custom"):
        inner = value.get(key)
        if isinstance(inner, dict) and isinstance(inner.get("name"), str):
            yield Use(inner["name"], f"{place}/{key}", _arguments(inner), called=True)
    kind = value.get("type")
    if isinstance(kind, str) and isinstance(value.get("name"), str) and kind.endswith(("_call", "tool_use")):
        yield Use(value["name"], place, _arguments(value), called=True)
    for key, one in value.items():
        if isinstance(one, dict | list) and key not in ("arguments", "args"):
            yield from _called(one, f"{place}/{shown(key)}", depth + 1)


def _arguments(of: Mapping[str, Any]) -> Any:
    """What a tool was called with, as a tree; arguments that are no JSON are text."""
    for key in ("arguments", "args", "input"):
        given = of.get(key)
        if isinstance(given, str):
            try:
                return orjson.loads(given)
            except orjson.JSONDecodeError:
                return given
        if given is not None:
            return given
    return None


def leaves(arguments: Any) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """The values of arguments, each as text, and where they stand; text that is no JSON is read as that of a reply is,
    which may end anywhere."""
    if not isinstance(arguments, str):
        yield from _leaves(arguments, ())
        return
    found: list[_Leaf] = []

    def opened(path: tuple[str | int, ...]) -> _Leaf:
        found.append(_Leaf(path))
        return found[-1]

    pieces = JsonPieces(opened)
    pieces.feed(arguments)
    pieces.flush()
    for leaf in found:
        yield leaf.path, "".join(leaf.parts)


class _Leaf:
    """Keeps what goes through one leaf."""

    def __init__(self, path: tuple[str | int, ...]) -> None:
        self.path = path
        self.parts: list[str] = []

    def feed(self, text: str) -> str:
        self.parts.append(text)
        return text

    def flush(self) -> str:
        return ""


def _leaves(tree: Any, path: tuple[str | int, ...]) -> Iterator[tuple[tuple[str | int, ...], str]]:
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from _leaves(value, (*path, key))
    elif isinstance(tree, list):
        for number, value in enumerate(tree):
            yield from _leaves(value, (*path, number))
    else:
        yield path, as_text(tree)
