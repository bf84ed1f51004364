"""The stream side that the OpenAI dialects share: bytes to trees, broken events, pieces of unknown fields."""

from __future__ import annotations

import itertools
from abc import abstractmethod
from typing import Any

import orjson

from llmshield.call import Call, Channel, Path, Tree
from llmshield.dialects import Event, Piece, StreamCodec
from llmshield.dialects._openai import error_object, malformed, upstream_error
from llmshield.dialects._pieces import Names
from llmshield.dialects._sse import COMMENT, SseParser, write_event
from llmshield.dialects._surrogates import Halves
from llmshield.dialects._tree import dump_str, load_event
from llmshield.errors import CallError, UpstreamError
from llmshield.json_pieces import NAME

CUSTOM: Path = (-1,)
"""Path of free text among `tool_arguments` (a custom tool's input, code): it must not be read as JSON."""

DONE = b"data: [DONE]\n\n"
KEEP_ALIVE = b":\n\n"
"""Stands for every comment: its words were for nobody, and no filter has read them."""


class OpenAICodec(StreamCodec):
    """Base of the codecs: subclasses say what one tree means (`_read`)."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._wants_usage = call.wants_usage
        self._parser = SseParser()
        self._broken = False
        self._halves = Halves()

    @abstractmethod
    def _read(self, event: Event, tree: Tree) -> None:
        """Fill in what this tree says."""

    def feed(self, data: bytes) -> list[Event]:
        if self._broken:
            return []
        events: list[Event] = []
        parser = self._parser
        for name, payload in parser.feed(data):
            try:
                tree = orjson.loads(payload)
            except orjson.JSONDecodeError:
                event = self._odd(name, payload)
            else:
                event = self._event(name, tree)
            events.append(event)
            if event.error is not None:
                self._broken = True
                return events
        if parser.error is not None:
            self._broken = True
            events.append(
                Event(error=UpstreamError("malformed", f"The provider broke its stream: {parser.error}."))
            )
        return events

    def close(self) -> list[Event]:
        return []

    def write(self, event: Event) -> bytes:
        return write_event(event.tree, event.name) if event.tree is not None else event.raw

    def abort(self, error: CallError, request_id: str) -> bytes:
        return write_event({"error": error_object(error)})

    def _event(self, name: str, tree: Any) -> Event:
        event = Event(name, tree)
        if type(tree) is not dict:
            event.error = malformed("holds an event that is no JSON object")
        elif tree.get("error"):
            event.error = upstream_error(tree)
        elif (
            self.ended
        ):  # nothing after the end is for a client; a usage that comes too late is still metered
            event.hidden = True
            self._usage(tree)
        else:
            self._read(event, tree)
        return event

    def _odd(self, name: str, payload: bytes) -> Event:
        """What is no strict JSON: the end, a comment, or JSON that only a lenient reader takes."""
        if payload.strip() == b"[DONE]":
            ends = () if self.ended else self._left_open()
            self.ended = True
            return Event(raw=DONE, ends=ends)
        if name == COMMENT or not payload:
            return Event(raw=KEEP_ALIVE)
        try:
            tree, odd = load_event(payload)
        except ValueError:
            return Event(error=malformed("holds an event that is not JSON"))
        event = self._event(name, tree)
        if odd or self._halves:
            self._halves.mend(event.pieces)
        return event

    def _left_open(self) -> tuple[Channel, ...]:
        """The channels that a provider has not ended before its `[DONE]`: behind that, no SDK reads on."""
        return ()

    @abstractmethod
    def _usage(self, tree: Tree) -> None:
        """Meter the usage in this tree, if there is any."""


def other_pieces(
    pieces: list[Piece],
    holder: Any,
    key: Any,
    choice: int,
    path: Path,
    *,
    whole: bool = True,
    index: int = 0,
    free: bool = False,
) -> None:
    """Every string below `holder[key]`, a field that the dialect does not know: none goes out unfiltered.

    `path` names the place, so that each has a channel of its own. `whole` False: they stream (inside a delta).
    Names are filtered where they may be a model's (`free`: below arguments, metadata and the like) or do not
    look like a field's name.
    """
    value = holder[key]
    kind = type(value)
    if kind is str:
        if value:
            pieces.append(Piece(Channel("other", choice, index, path), holder, key, whole))
    elif kind is dict:
        free = free or key in _FREE
        for name in value:
            other_pieces(pieces, value, name, choice, (*path, name), whole=whole, index=index, free=free)
        for name in value:
            if free or not _is_field(name):
                pieces.append(Piece(Channel("other", choice, index, (*path, NAME)), Names(value), name, True))
    elif kind is list:
        for position in range(len(value)):
            other_pieces(
                pieces, value, position, choice, (*path, position), whole=whole, index=index, free=free
            )


_FREE = frozenset(
    (
        "arguments",
        "attributes",
        "env",
        "filters",
        "headers",
        "metadata",
        "parameters",
        "input_schema",
        "output_schema",
    )
)


def _is_field(name: str) -> bool:
    """True for names as programmers give them to fields."""
    return len(name) <= 32 and name.isascii() and name.isidentifier() and name.islower()


def put_at(node: Any, path: Path, text: str) -> None:
    """Add `text` to the string at `path` below `node`, making what is missing on the way."""
    for step, following in itertools.pairwise(path):
        node = _child(node, step, [] if type(following) is int else {})
    last = path[-1]
    if type(node) is list:
        if type(last) is int and last < len(node) and type(node[last]) is str:
            node[last] += text
        else:
            node.append(text)
        return
    before = node.get(last)
    node[last] = before + text if type(before) is str else text


def put_beside(node: Any, path: Path, tags: Tree) -> None:
    """Give the object that holds the string at `path` what it lacks of `tags`."""
    for step in path[:-1]:
        at: Any = min(step, len(node) - 1) if type(node) is list and type(step) is int else step
        node = node[at]
    for name, tag in tags.items():
        node.setdefault(name, tag)


def _child(node: Any, step: str | int, new: Any) -> Any:
    if type(node) is list:
        position = step if type(step) is int else len(node)
        if position < len(node) and type(node[position]) is type(new):
            return node[position]
        node.append(new)
        return new
    child = node.get(step)
    if type(child) is not type(new):
        child = node[step] = new
    return child


def as_arguments(channel: Channel, text: str) -> str:
    """Text of a leaf inside JSON arguments as it stands in the JSON text; other text as it is."""
    inside = channel.kind == "tool_arguments" and channel.path and channel.path != CUSTOM
    return dump_str(text)[1:-1] if inside else text


def spelled(entries: Any) -> str | None:
    """The text that log-probability entries spell: by bytes where given, since a token may be half a character."""
    out = bytearray()
    try:
        for entry in entries:
            data = entry.get("bytes")
            out += bytes(data) if data is not None else entry["token"].encode()
        return out.decode()
    except (AttributeError, KeyError, TypeError, ValueError):
        return None


def offsets(annotations: Any) -> tuple[tuple[Any, Any], ...]:
    """The places of offsets into a text, which mean nothing once the text has changed."""
    found: list[tuple[Any, Any]] = []
    for annotation in annotations if type(annotations) is list else ():
        if type(annotation) is dict:
            for inner in (annotation, *annotation.values()):
                if type(inner) is dict:
                    found += [(inner, key) for key in ("start_index", "end_index", "index") if key in inner]
    return tuple(found)
