"""JSON read strictly from clients, leniently from providers, and written so that every parser reads the same.

What a guard saw is what the provider gets: the tree that is read here is the tree that is sent, never the
client's bytes. A duplicate key is thereby harmless (the last one wins and is the only one sent). What would not
survive the way through a tree (numbers that lose digits, lone surrogates, NaN) is refused.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import orjson

from llmshield.call import Tree
from llmshield.dialects._surrogates import mend_tree
from llmshield.errors import WireError

DEPTH_CEILING = 200
"""No policy may allow deeper bodies: the walk below and orjson's writer (254 levels) recurse."""


@dataclass(slots=True, frozen=True)
class Limits:
    """What a body may be: `body` in bytes, `depth` in nested arrays and objects."""

    body: int = 10 * 2**20
    depth: int = 64


DEFAULT_LIMITS = Limits()

_DEEP = frozenset((dict, list, float))
_INT64 = 2.0**63
_LARGE = 2**18
_SMALL = 2**14
"""Bytes of a body that can't hold too many values; brackets and digits are counted before its tree is walked."""
_ZEROS = bytes(ord("0") if 48 <= byte <= 57 else 32 for byte in range(256))
_LONG = b"0" * 19
"""The digits of an integer that may need more than 64 bits, as `_ZEROS` shows them."""
_WIDE = 64
_MOST_STRINGS = 200_000
_MOST_VALUES = 1_000_000
"""A request of 1,000 inputs of 512 token ids, as embedding clients send it, has half a million."""


def parse_body(data: bytes, limits: Limits = DEFAULT_LIMITS) -> Tree:
    """The object in a request body, read strictly.

    Raises: WireError when the bytes are not UTF-8, not JSON, no object, too large, too deep, or hold a number
    that a tree can't keep (NaN, Infinity, integers beyond 64 bits) or a lone surrogate.
    """
    if len(data) > limits.body:
        raise WireError(f"The body has {len(data)} bytes; at most {limits.body} are allowed.")
    if not data:
        raise WireError("The body is empty; a JSON object was expected.")
    refuse_crowds(data)
    try:
        tree = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise WireError(f"The body is not valid JSON: {error.msg} at character {error.pos}.") from None
    if type(tree) is not dict:
        raise WireError(f"The body is {kind_of(tree)}; a JSON object was expected.")
    depth = min(limits.depth, DEPTH_CEILING)
    plain = len(data) <= _SMALL and data.count(b"{") + data.count(b"[") <= depth
    if not (plain and _LONG not in data.translate(_ZEROS)) and check_depth(tree, depth):
        _refuse_long_integers(data)
    return tree


def load_reply(data: bytes | str) -> Any:
    """Parsed JSON of a provider, read as leniently as money allows: NaN, long integers and lone surrogates pass
    (a usage of NaN must not cost the answer); `dump` writes them in a form that every client reads.

    Lone surrogates become U+FFFD. Raises: ValueError when it is no JSON at all.
    """
    tree, odd = load_event(data)
    return mend_tree(tree) if odd else tree


def load_event(data: bytes | str) -> tuple[Any, bool]:
    """As `load_reply`, for one event of a stream: lone surrogates stay, since the next event may bring the other
    half; True where there may be some.

    Raises: ValueError when it is no JSON at all.
    """
    try:
        return orjson.loads(data), False
    except orjson.JSONDecodeError:
        pass
    try:
        return json.loads(data if isinstance(data, str) else data.decode("utf-8-sig")), True
    except RecursionError:
        raise ValueError("nested too deeply") from None


def dump(tree: Any) -> bytes:
    """The tree as compact JSON bytes. Raises: ValueError for what JSON can't say (a tree of our own making)."""
    try:
        return orjson.dumps(tree)
    except TypeError:  # lone surrogates, integers beyond 64 bits, more than 254 levels: from a lenient reply
        return json.dumps(tree, ensure_ascii=True, separators=(",", ":")).encode()


def dump_str(tree: Any) -> str:
    """The tree as compact JSON text."""
    return dump(tree).decode()


def kind_of(value: Any) -> str:
    if value is None:
        return "null"
    return _KINDS.get(type(value), "of an unknown type")


_KINDS: dict[type, str] = {
    dict: "an object", list: "an array", str: "a string", int: "a number", float: "a number", bool: "a boolean",
}  # fmt: skip


def check_depth(tree: Any, depth: int) -> bool:
    """True when a float beyond 64 bits is in the tree.

    Raises: WireError when it is deeper than `depth`, or holds more than a million values.
    """
    suspicious = False
    levels = values = 0
    level = [tree] if type(tree) is dict or type(tree) is list else []
    while level:
        levels += 1
        if levels > depth:
            raise WireError(f"The body is nested deeper than {depth} levels.")
        found: list[Any] = []
        for node in level:
            inside = node.values() if type(node) is dict else node
            values += len(inside)
            if values > _MOST_VALUES:
                raise WireError(f"The body holds more than {_MOST_VALUES} values.")
            if len(inside) > _WIDE and _DEEP.isdisjoint(map(type, inside)):
                continue
            for value in inside:
                if type(value) in _DEEP:
                    if type(value) is not float:
                        found.append(value)
                    elif not -_INT64 < value < 2 * _INT64:
                        suspicious = True
        level = found
    return suspicious


def refuse_crowds(data: bytes | str) -> None:
    """Raises: WireError when a large JSON text holds more than 200,000 strings and names, or brackets as no text
    and no code has. Parsed, they would stand still the loop for seconds; counting takes milliseconds."""
    if len(data) <= _LARGE:
        return
    raw = data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data
    if raw.count(b'"') - raw.count(b'\\"') > 2 * _MOST_STRINGS:
        raise WireError(f"The body holds more than {_MOST_STRINGS} strings.")
    if raw.count(b"[") + raw.count(b"{") > _MOST_VALUES:
        raise WireError(f"The body holds more than {_MOST_VALUES} arrays and objects.")
    if (
        isinstance(data, str) and raw.count(b",") > _MOST_STRINGS
    ):  # inside a string each number is a text as well
        raise WireError(f"JSON in a string of the body holds more than {_MOST_STRINGS} values.")


def has_long_integer(data: bytes | str) -> bool:
    try:
        _refuse_long_integers(data)
    except WireError:
        return True
    return False


def _refuse_long_integers(data: bytes | str) -> None:
    """Raises: WireError when an integer needs more than 64 bits; orjson makes it a float and drops digits."""
    json.loads(data, parse_int=_short_integer)


def _short_integer(digits: str) -> int:
    if len(digits) > 20 or not -(2**63) <= int(digits) < 2**64:
        raise WireError("The body holds an integer beyond 64 bits; its digits would be lost.")
    return 0
