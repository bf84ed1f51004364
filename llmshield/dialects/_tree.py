"""Parsed JSON trees: read them strictly, collect their texts, write them back.

What a guard saw is what the provider gets: the tree that is read here is the tree that is sent, never the
client's bytes. A duplicate key is thereby harmless (the last one wins and is the only one sent). What would not
survive the way through a tree (numbers that lose digits, lone surrogates, NaN) is refused.

Every string leaf that travels to a provider is a Text, with two exceptions: leaves that a dialect has on its
written list *and* that look like a token (`is_token`: ids, enum members, type tags; whatever else stands there
is scanned), and the words of `HARMLESS`, which are the vocabulary of the formats themselves.
"""

from __future__ import annotations

import binascii
import json
from base64 import b64decode, b64encode
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

import orjson

from llmshield.call import Call, Path, Role, Sealed, Text, TextKind, Tree
from llmshield.errors import WireError

DEPTH_CEILING = 200
"""No policy may allow deeper bodies: the walk below and orjson's writer (254 levels) recurse."""


@dataclass(slots=True, frozen=True)
class Limits:
    """What a body may be: `body` in bytes, `depth` in nested arrays and objects."""

    body: int = 10 * 2**20
    depth: int = 64


DEFAULT_LIMITS = Limits()

# JSON Schema 2020-12 keywords, types and formats, and the words of the tool and message formats.
_WORDS = """
type object string number integer boolean array null properties required description title items enum const anyOf
oneOf allOf not if then else default examples format pattern minimum maximum minLength maxLength minItems maxItems
uniqueItems minProperties maxProperties additionalProperties patternProperties propertyNames exclusiveMinimum
exclusiveMaximum multipleOf prefixItems contains $ref $defs definitions $schema $id nullable deprecated readOnly
writeOnly date-time date time uuid uri email function functions name parameters strict arguments text user
assistant system developer tool auto none true false json_schema json_object content ephemeral cache_control
http://json-schema.org/draft-07/schema# https://json-schema.org/draft/2020-12/schema
"""
HARMLESS = frozenset(_WORDS.split())
"""Names and values that are the formats' own words: never a Text in a free walk."""

_DEEP = frozenset((dict, list, float))
_INT64 = 2.0**63
_TOKEN_CHARS = dict.fromkeys(map(ord, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.:/"))
_TOKEN_LENGTH = 256
_SHORT_NUMBER = 4
_BIG_NUMBER = 10_000
"""Outside tool arguments a smaller integer is a setting (`maxLength: 64`), no account or telephone number."""


def parse_body(data: bytes, limits: Limits = DEFAULT_LIMITS) -> Tree:
    """The object in a request body, read strictly.

    Raises: WireError when the bytes are not UTF-8, not JSON, no object, too large, too deep, or hold a number
    that a tree can't keep (NaN, Infinity, integers beyond 64 bits) or a lone surrogate.
    """
    if len(data) > limits.body:
        raise WireError(f"The body has {len(data)} bytes; at most {limits.body} are allowed.")
    if not data:
        raise WireError("The body is empty; a JSON object was expected.")
    try:
        tree = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise WireError(f"The body is not valid JSON: {error.msg} at character {error.pos}.") from None
    if type(tree) is not dict:
        raise WireError(f"The body is {_kind(tree)}; a JSON object was expected.")
    if _check(tree, min(limits.depth, DEPTH_CEILING)):
        _refuse_long_integers(data)
    return tree


def load_reply(data: bytes | str) -> Any:
    """Parsed JSON of a provider, read as leniently as money allows: NaN, long integers and lone surrogates pass
    (a usage of NaN must not cost the answer); `dump` writes them in a form that every client reads.

    Raises: ValueError when it is no JSON at all.
    """
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        pass
    try:
        return json.loads(data if isinstance(data, str) else data.decode("utf-8-sig"))
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


def is_token(value: str) -> bool:
    """True for ASCII words as ids and enum members are, with a letter and without blanks or `@`: no sentence, no
    mail address, no number of more than four digits can pass for one."""
    return (
        len(value) <= _TOKEN_LENGTH
        and value.isascii()
        and not value.translate(_TOKEN_CHARS)
        and (value.lower() != value.upper() or 0 < len(value) <= _SHORT_NUMBER)
    )


def add_text(
    call: Call,
    role: Role,
    holder: Any,
    key: Any,
    path: Path,
    kind: TextKind = "prompt",
    sealed: Sealed | None = None,
) -> Text:
    """Make `holder[key]` (a string or number) a Text of the call."""
    text = Text(call, role, holder, key, path, kind=kind, sealed=sealed)
    call.texts.append(text)
    return text


def add_name(call: Call, role: Role, holder: Any, key: str, path: Path, kind: TextKind = "prompt") -> None:
    """Make the name (object key) itself a Text, unless it is a word of the formats."""
    if key and key not in HARMLESS:
        call.texts.append(Text(call, role, holder, key, path, kind=kind, is_name=True))


def add_token(call: Call, role: Role, holder: Any, key: Any, path: Path, kind: TextKind = "prompt") -> None:
    """A leaf of the written list: no Text if it is what it should be (`is_token`, a number, nothing); else
    whatever stands there is walked like an unknown field."""
    value = holder[key]
    if type(value) is str:
        if value not in HARMLESS and not is_token(value):
            add_text(call, role, holder, key, path, kind)
    elif type(value) is dict or type(value) is list:
        walk(call, role, value, path, kind)


def walk_unknown(
    call: Call, role: Role, holder: Any, key: str, path: Path, kind: TextKind = "prompt"
) -> None:
    """A field that a dialect does not know: its name and everything in it are scanned, and it survives."""
    add_name(call, role, holder, key, path, kind)
    walk_value(call, role, holder, key, path, kind)


def walk_value(
    call: Call,
    role: Role,
    holder: Any,
    key: Any,
    path: Path,
    kind: TextKind = "prompt",
    *,
    numbers: bool = False,
) -> None:
    """Everything in `holder[key]`, whatever it is: the default for fields that a dialect does not know."""
    value = holder[key]
    leaf = type(value)
    if leaf is str:
        if value:
            add_text(call, role, holder, key, path, kind)
    elif leaf is dict or leaf is list:
        walk(call, role, value, path, kind, numbers=numbers)
    elif (leaf is int or leaf is float) and (numbers or not -_BIG_NUMBER < value < _BIG_NUMBER):
        add_text(call, role, holder, key, path, kind)


def walk(
    call: Call,
    role: Role,
    node: Any,
    path: Path,
    kind: TextKind = "prompt",
    *,
    numbers: bool = False,
    sealed: Sealed | None = None,
) -> None:
    """All strings, names and numbers below `node` (an object or array) become Texts.

    `numbers` takes every number (tool arguments and results), else only those that could be an account or a
    telephone number. `sealed` marks them as leaves of JSON inside a string.
    """
    texts = call.texts
    if type(node) is dict:
        for key, value in node.items():
            below = (*path, key)
            if key and key not in HARMLESS:
                texts.append(Text(call, role, node, key, below, kind=kind, is_name=True, sealed=sealed))
            leaf = type(value)
            if leaf is dict or leaf is list:
                if value:
                    walk(call, role, value, below, kind, numbers=numbers, sealed=sealed)
                continue
            if leaf is str:
                if not value or value in HARMLESS:
                    continue
            elif leaf is int or leaf is float:
                if not numbers and -_BIG_NUMBER < value < _BIG_NUMBER:
                    continue
            else:
                continue
            texts.append(Text(call, role, node, key, below, kind=kind, sealed=sealed))
        return
    for index, value in enumerate(node):
        leaf = type(value)
        if leaf is dict or leaf is list:
            if value:
                walk(call, role, value, (*path, index), kind, numbers=numbers, sealed=sealed)
            continue
        if leaf is str:
            if not value or value in HARMLESS:
                continue
        elif leaf is int or leaf is float:
            if not numbers and -_BIG_NUMBER < value < _BIG_NUMBER:
                continue
        else:
            continue
        texts.append(Text(call, role, node, index, (*path, index), kind=kind, sealed=sealed))


def seal_json(
    call: Call, role: Role, holder: Any, key: Any, path: Path, limits: Limits = DEFAULT_LIMITS
) -> None:
    """`holder[key]` is a string that holds JSON: its leaves become Texts (places continue inside).

    What is no JSON, or would not survive the way through a tree, becomes one plain Text. A duplicate name is
    resolved at once, in the string as well: the model must not read what no guard has seen.
    """
    raw: str = holder[key]
    try:
        tree = orjson.loads(raw)
        if _check(tree, min(limits.depth, DEPTH_CEILING)) and _has_long_integer(raw):
            raise ValueError
    except (ValueError, WireError):
        add_text(call, role, holder, key, path)
        return
    if type(tree) is not dict and type(tree) is not list:
        root = [tree]
        sealed = Sealed(root, holder, key, _dump_first)
        call.sealed.append(sealed)
        if type(tree) is str or type(tree) is int or type(tree) is float:
            add_text(call, role, root, 0, path, sealed=sealed)
        return
    if dump_str(tree) != raw and _has_duplicates(raw):
        holder[key] = dump_str(tree)
    sealed = Sealed(tree, holder, key, dump_str)
    call.sealed.append(sealed)
    walk(call, role, tree, path, numbers=True, sealed=sealed)


def seal_base64(call: Call, role: Role, holder: Any, key: Any, path: Path) -> bool:
    """`holder[key]` is base64, bare or in a data URL: if it holds text, the text becomes a Text and True is
    returned; False for pictures, sound, archives and for what is no base64."""
    raw: str = holder[key]
    start = 0
    if raw[:5].lower() == "data:":
        start = raw.find(",") + 1
        if not start:
            return False
        if not raw[:start].lower().endswith(";base64,"):
            return False
    try:
        head = b64decode(raw[start : start + 88], validate=True) if len(raw) - start >= 88 else b""
        if head and not _looks_like_text(head):
            return False
        data = b64decode(raw[start:], validate=True)
        if not data or not _looks_like_text(data[:4096]):
            return False
        text = data.decode("utf-8")
    except (binascii.Error, ValueError):
        return False
    prefix = raw[:start]
    sealed = Sealed([text], holder, key, lambda tree: prefix + b64encode(tree[0].encode()).decode())
    call.sealed.append(sealed)
    add_text(call, role, sealed.tree, 0, path, sealed=sealed)
    return True


def expect(value: Any, kind: type, place: str, words: str) -> Any:
    """The value, if it is of this type. Raises: WireError naming the place and what was expected."""
    if type(value) is not kind:
        refuse(place, f"is {_kind(value)}; {words} was expected")
    return value


def refuse(place: str, what: str) -> NoReturn:
    """Raises: WireError with a sentence about one field; `place` is a JSON pointer."""
    field = place[1:].replace("/", ".")
    raise WireError(f"{field!r} {what}.", place)


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    return _KINDS.get(type(value), "of an unknown type")


_KINDS: dict[type, str] = {
    dict: "an object", list: "an array", str: "a string", int: "a number", float: "a number", bool: "a boolean",
}  # fmt: skip


def _check(tree: Any, depth: int) -> bool:
    """True when a float beyond 64 bits is in the tree. Raises: WireError when it is deeper than `depth`."""
    suspicious = False
    levels = 0
    level = [tree] if type(tree) is dict or type(tree) is list else []
    while level:
        levels += 1
        if levels > depth:
            raise WireError(f"The body is nested deeper than {depth} levels.")
        found: list[Any] = []
        for node in level:
            for value in node.values() if type(node) is dict else node:
                if type(value) in _DEEP:
                    if type(value) is not float:
                        found.append(value)
                    elif not -_INT64 < value < 2 * _INT64:
                        suspicious = True
        level = found
    return suspicious


def _has_long_integer(data: bytes | str) -> bool:
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


def _has_duplicates(raw: str) -> bool:
    try:
        json.loads(raw, object_pairs_hook=_refuse_duplicates)
    except _DuplicateNameError:
        return True
    return False


class _DuplicateNameError(Exception):
    pass


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> None:
    if len(dict(pairs)) != len(pairs):
        raise _DuplicateNameError


def _dump_first(tree: Any) -> str:
    return dump_str(tree[0])


def _looks_like_text(head: bytes) -> bool:
    """True for UTF-8 without control characters; the cut may fall inside a character."""
    for cut in range(4):
        try:
            text = head[: len(head) - cut].decode()
        except UnicodeDecodeError:
            continue
        return not any(char < " " and char not in "\t\n\r\f" for char in text)
    return False


Walker = Callable[[Call, Role, Any, Any, Path], None]
"""How a dialect's tables name the reader of one field: (call, role, holder, key, path)."""
