"""Small readings of JSON that all translators share: a value if it is of its type, media in data URLs, tool JSON."""

from __future__ import annotations

import re
from typing import Any

import orjson

from llmshield.call import Tree
from llmshield.conversation import MediaPart

_NAME = re.compile(r"[A-Za-z_$][A-Za-z0-9_.$-]{0,40}\Z")

SIGNATURE = "content: a thought's signature is for its own provider"
"""A loss in answers that every dialect has."""
STOP_SEQUENCE = "finish: only Anthropic tells which stop sequence it was"


def text(value: Any) -> str | None:
    """The value if it is a string."""
    return value if type(value) is str else None


def number(value: Any) -> float | None:
    """The value if it is a number."""
    return value if type(value) is float or type(value) is int else None


def whole(value: Any) -> int | None:
    """The value if it is a whole number."""
    return value if type(value) is int else None


def truth(value: Any) -> bool | None:
    """The value if it is true or false."""
    return value if type(value) is bool else None


def object_of(value: Any) -> Tree:
    """The value if it is an object, else an empty one."""
    return value if type(value) is dict else {}


def items(value: Any) -> list[Any]:
    """The value if it is a list, else an empty one."""
    return value if type(value) is list else []


def without_none(value: Tree) -> Tree:
    """The object without the fields that nobody set."""
    return {key: item for key, item in value.items() if item is not None}


def media_from_url(kind: Any, url: str, **more: Any) -> MediaPart:
    """A picture or file by its URL; one in a `data:` URL (RFC 2397) is taken out of it."""
    if url.startswith("data:"):
        head, comma, data = url[5:].partition(",")
        media_type, _, coding = head.partition(";")
        if comma and coding.rpartition(";")[2] == "base64":
            return MediaPart(kind, data=data, media_type=media_type or "text/plain", **more)
    return MediaPart(kind, url=url, **more)


def url_of(media: MediaPart) -> str | None:
    """The URL of a medium: its address, or itself as a `data:` URL; None for one that only has a provider's id."""
    if media.url is not None:
        return media.url
    if media.data is not None:
        return f"data:{media.media_type or 'application/octet-stream'};base64,{media.data}"
    return None


def arguments_tree(arguments: str) -> Tree | None:
    """A call's arguments as an object; None when the model wrote something else."""
    if not arguments.strip():
        return {}
    try:
        value = orjson.loads(arguments)
    except orjson.JSONDecodeError:
        return None
    return value if type(value) is dict else None


def arguments_text(value: Any) -> str:
    """The same as JSON text; an empty object is told as such."""
    return orjson.dumps(value).decode()


def wrapped(content: Any, prefix: str, suffix: str, kind: str) -> Any:
    """Words with others before and behind them: a string, or a list of parts of this `kind`."""
    if type(content) is list:
        before = [{"type": kind, "text": prefix}] if prefix else []
        behind = [{"type": kind, "text": suffix}] if suffix else []
        return [*before, *content, *behind]
    return f"{prefix}{content if type(content) is str else ''}{suffix}"


def note(notes: list[str], what: str) -> None:
    """Add a loss once: the same one in every message is still one."""
    if what not in notes:
        notes.append(what)


def shown(name: Any) -> str:
    """A field's name as a record may hold it: what is no plain name may be a text of the client's."""
    return name if type(name) is str and _NAME.match(name) else "(a name of the client's)"


def unread(notes: list[str], tree: Tree, known: frozenset[str], place: str, whose: str) -> None:
    """Name what an object says beside the fields that were read; `""`, `[]`, `{}`, false and null ask for nothing.

    A hint to cache for the usual time asks for nothing either: it is about the price at one provider.
    """
    if tree.keys() <= known:
        return
    for name, value in tree.items():
        if name in known or value is None or value is False or value in ("", [], {}):
            continue
        if name == "cache_control" and object_of(value).get("ttl") in (None, "5m"):
            continue
        where = f"{place}/{shown(name)}" if place else shown(name)
        note(notes, f"{where}: known to {whose} only")
