"""Parsed JSON trees: collect their texts, seal what is JSON or base64 inside a string.

Every string leaf that travels to a provider is a Text, with two exceptions: leaves that a dialect has on its
written list *and* that look like a token (`is_token`: ids, enum members, type tags; whatever else stands there
is scanned), and the words of `HARMLESS`, which are the vocabulary of the formats themselves.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable
from typing import Any, NoReturn

import orjson

from llmshield.call import Call, Path, Role, Sealed, Text, TextKind
from llmshield.dialects._files import encoded, text_of
from llmshield.dialects._json import (
    DEFAULT_LIMITS,
    DEPTH_CEILING,
    Limits,
    check_depth,
    dump,
    dump_str,
    has_long_integer,
    kind_of,
    load_event,
    load_reply,
    parse_body,
    refuse_crowds,
)
from llmshield.errors import WireError

__all__ = [
    "DEFAULT_LIMITS", "DEPTH_CEILING", "HARMLESS", "MOST_TEXTS", "Limits", "Walker", "add_name", "add_text", "add_token", "dump",
    "dump_str", "expect", "is_token", "load_event", "load_reply", "parse_body", "refuse", "seal_base64", "seal_json", "walk",
    "walk_unknown", "walk_value",
]  # fmt: skip

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

_TOKEN_CHARS = dict.fromkeys(map(ord, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.:/"))
MOST_TEXTS = 50_000
"""Texts of one call. Ten times what the longest agent runs hold; a text costs each guard some microseconds."""

_TOKEN_LENGTH = 256
_SHORT_NUMBER = 4
_BIG_NUMBER = 10_000
"""Outside tool arguments a smaller integer is a setting (`maxLength: 64`), no account or telephone number."""


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
    if len(call.texts) >= MOST_TEXTS:
        raise WireError(f"The body holds more than {MOST_TEXTS} texts.")
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
    if len(texts) + len(node) > MOST_TEXTS:
        raise WireError(f"The body holds more than {MOST_TEXTS} texts.")
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
    call: Call,
    role: Role,
    holder: Any,
    key: Any,
    path: Path,
    limits: Limits = DEFAULT_LIMITS,
    *,
    numbers: bool = True,
) -> None:
    """`holder[key]` is a string that holds JSON: its leaves become Texts (places continue inside).

    `numbers` as in `walk`. What is no JSON, or would not survive the way through a tree, becomes one plain Text. A duplicate name is
    resolved at once, in the string as well: the model must not read what no guard has seen.
    """
    raw: str = holder[key]
    refuse_crowds(raw)
    try:
        tree = orjson.loads(raw)
        if check_depth(tree, min(limits.depth, DEPTH_CEILING)) and has_long_integer(raw):
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
    walk(call, role, tree, path, numbers=numbers, sealed=sealed)


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
        found = text_of(raw[start:])
    except ValueError:
        return False
    if found is None:
        return False
    text, encoding = found
    if "%PDF-" in text[:1024] and "pdf" not in call.unseen:
        call.unseen.append("pdf")  # text to us; to the model also a picture of each page
    prefix = raw[:start]
    sealed = Sealed([text], holder, key, lambda tree: prefix + b64encode(encoded(tree[0], encoding)).decode())
    call.sealed.append(sealed)
    add_text(call, role, sealed.tree, 0, path, sealed=sealed)
    return True


def expect(value: Any, kind: type, place: str, words: str) -> Any:
    """The value, if it is of this type. Raises: WireError naming the place and what was expected."""
    if type(value) is not kind:
        refuse(place, f"is {kind_of(value)}; {words} was expected")
    return value


def refuse(place: str, what: str) -> NoReturn:
    """Raises: WireError with a sentence about one field; `place` is a JSON pointer."""
    field = place[1:].replace("/", ".")
    raise WireError(f"{field!r} {what}.", place)


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


Walker = Callable[[Call, Role, Any, Any, Path], None]
"""How a dialect's tables name the reader of one field: (call, role, holder, key, path)."""
