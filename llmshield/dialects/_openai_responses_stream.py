"""A streamed response of the responses API.

A text comes up to four times: in deltas, in its `.done` event, in the part and item that are done, and in the
whole response of the last event. All but the deltas repeat it. What filters still hold when a text is done
comes out as one more delta before that event; the sequence numbers behind it move up.
"""

from __future__ import annotations

from typing import Any

from llmshield.call import Call, Channel, Tree
from llmshield.dialects import Event, Piece
from llmshield.dialects._openai import (
    created,
    error_object,
    malformed,
    merge_usage,
    read_served,
    read_usage,
    upstream_error,
)
from llmshield.dialects._openai_codec import KEEP_ALIVE, OpenAICodec, as_arguments, other_pieces
from llmshield.dialects._openai_items import (
    COMMAND,
    PRINTED,
    SUMMARY,
    ItemReader,
    Place,
    check_logprobs,
    count_tool_requests,
    is_label,
    read_items,
)
from llmshield.dialects._sse import write_event
from llmshield.dialects._tree import is_token
from llmshield.errors import CallError

_DONE_FIELDS = frozenset(("text", "refusal", "arguments", "input", "code", "command", "transcript"))
_DELTA_KEYS = frozenset(
    (
        "type", "sequence_number", "item_id", "output_index", "content_index", "summary_index", "command_index",
        "delta", "logprobs", "obfuscation",
    )
)  # fmt: skip
_INDEX = {SUMMARY: "summary_index", COMMAND: "command_index", PRINTED: "command_index"}
_FIRST = frozenset(("response.created", "response.in_progress", "response.queued"))
_LAST = frozenset(("response.completed", "response.incomplete", "response.failed", "response.cancelled"))


class ResponsesCodec(OpenAICodec):
    """A streamed response."""

    def __init__(self, call: Call) -> None:
        super().__init__(call)
        self._reader = ItemReader()
        self._open: dict[Place, Channel] = {}
        self._deltas: dict[Channel, Tree] = {}
        self._fields: dict[Channel, str] = {}
        """The fields of deltas that hold several texts."""
        self._response: Tree = {}
        self._item: str | None = None
        """The item that the last delta belonged to."""
        self._written = -1
        """Sequence number of the last event that was written."""
        self._shift = 0
        """Events that we have put in: what the provider's numbers move up by."""

    def _odd(self, name: str, payload: bytes) -> Event:
        if not self.ended and payload.strip() == b"[DONE]":
            return Event(raw=KEEP_ALIVE)  # no word of this API: without its last event, a response is cut off
        return super()._odd(name, payload)

    def _read(self, event: Event, tree: Tree) -> None:
        kind = tree.get("type")
        if type(kind) is not str:
            kind = event.name
        if kind.endswith(".delta"):
            self._delta(event, tree, kind[:-6])
        elif kind in _FIRST:
            self._head(tree)
            event.pieces, _ = read_items(self._response, self._reader, self._call.body, repeats=True)
        elif kind in _LAST:
            self._last(event, tree, kind)
        elif kind == "error":
            event.error = upstream_error(tree)
        else:
            self._other(event, tree, kind)

    def _delta(self, event: Event, tree: Tree, base: str) -> None:
        value = tree.get("delta")
        if not tree.keys() <= _DELTA_KEYS or tree.get("item_id") != self._item:
            self._around_delta(event, tree)
        if base == "response.audio":  # sound
            return
        if not value:
            if tree.get("logprobs"):
                tree["logprobs"] = []
            return
        place = _place(base, tree)
        if type(value) is not str:
            self._deltas_of(event, tree, value, place)
            return
        channel = self._streaming(place, tree)
        if channel is None:
            # Its filters have let go of what they held: a value that goes on here would not be seen.
            event.error = malformed("goes on behind the end of a text")
            return
        shadows = check_logprobs(tree, value) if "logprobs" in tree else ()
        event.pieces.append(Piece(channel, tree, "delta", False, False, shadows))
        event.output = True

    def _deltas_of(self, event: Event, tree: Tree, value: Any, place: Place) -> None:
        """A delta of several texts: what a shell printed, on each of its streams."""
        start = len(event.pieces)
        for key, text in value.items() if type(value) is dict else ():
            if type(text) is str and text:
                channel = self._streaming((f"{place[0]}/{key}", *place[1:]), tree)
                if channel is None:
                    event.error = malformed("goes on behind the end of a text")
                    return
                self._fields[channel] = key
                event.pieces.append(Piece(channel, value, key))
        rest: list[Piece] = []
        other_pieces(rest, tree, "delta", 0, (place[0], place[2]), index=place[1])
        event.pieces += [
            piece for piece in rest if not (piece.holder is value and type(value.get(piece.key)) is str)
        ]
        event.output = len(event.pieces) > start

    def _streaming(self, place: Place, tree: Tree) -> Channel | None:
        """The channel of a text that a delta goes on with; None if it has ended."""
        channel = self._open.get(place)
        if channel is None:
            channel = self._open[place] = self._reader.channel(*place)
            if channel in self._deltas:
                return None
        self._deltas[channel] = tree
        return channel

    def _around_delta(self, event: Event, tree: Tree) -> None:
        """What a delta event holds besides its delta."""
        for key, value in tree.items():
            if key == "item_id" and type(value) is str and is_token(value):
                self._item = value
            elif key == "item_id" or key not in _DELTA_KEYS:
                self._reader.rest(event.pieces, tree, key, _index(tree, "output_index"), repeats=False)

    def _other(self, event: Event, tree: Tree, kind: str) -> None:
        """Parts and items begun and done, texts done, annotations, and events that nobody knows yet."""
        pieces = event.pieces
        output = _index(tree, "output_index")
        for key, value in tree.items():
            if not value or is_label(key, value):
                continue
            if key == "item" and type(value) is dict:
                if str(value.get("type", "")).endswith("_call"):
                    event.output = True
                self._reader.item(pieces, value, output, repeats=True)
            elif key == "part":
                base = SUMMARY if "summary_index" in tree else None
                part = _index(tree, "summary_index" if base else "content_index")
                self._reader.part(pieces, tree, key, output, part, repeats=True, base=base)
            elif key in _DONE_FIELDS and type(value) is str:
                channel = self._reader.channel(*_place(kind.rpartition(".")[0], tree))
                pieces.append(Piece(channel, tree, key, True, True, check_logprobs(tree, value)))
            elif key == "logprobs":
                if type(tree.get("text")) is not str:
                    tree[key] = []
            else:
                self._reader.rest(pieces, tree, key, output, repeats=True)
        if self._open and kind.endswith(".done"):
            event.ends = self._ended(kind, tree, output)

    def _ended(self, kind: str, tree: Tree, output: int) -> tuple[Channel, ...]:
        if kind == "response.output_item.done":
            places = [place for place in self._open if place[1] == output]
        elif kind == "response.content_part.done":
            part = _index(tree, "content_index")
            places = [p for p in self._open if p[1] == output and p[2] == part and p[0] != SUMMARY]
        elif kind == "response.reasoning_summary_part.done":
            places = [
                place for place in self._open if place == (SUMMARY, output, _index(tree, "summary_index"))
            ]
        else:
            base, *where = _place(kind[:-5], tree)
            places = [p for p in self._open if p[0].partition("/")[0] == base and [*p[1:]] == where]
        return tuple(self._open.pop(place) for place in places)

    def _head(self, tree: Tree) -> None:
        response = tree.get("response")
        if type(response) is dict:
            self._response = response
            model = response.get("model")
            if type(model) is str:
                self.model = model

    def _last(self, event: Event, tree: Tree, kind: str) -> None:
        self._usage(tree)
        response = tree.get("response")
        if type(response) is not dict:
            event.error = malformed("ends without its response")
            return
        if kind == "response.failed" or kind == "response.cancelled":
            event.error = upstream_error(response)
            return
        self._head(tree)
        event.pieces, self.finish = read_items(response, self._reader, self._call.body, repeats=True)
        event.output = bool(event.pieces)
        event.ends = tuple(self._open.values())
        self._open = {}
        self.ended = self.finished = True

    def _usage(self, tree: Tree) -> None:
        response = tree.get("response")
        if type(response) is dict:
            usage = read_served(response, read_usage(response.get("usage")))
            count_tool_requests(response, usage)
            self.usage = merge_usage(self.usage, usage)

    def write(self, event: Event) -> bytes:
        tree = event.tree
        if tree is None:
            return event.raw
        number = tree.get("sequence_number")
        if type(number) is int:
            self._written = number + self._shift
            if self._shift:
                tree["sequence_number"] = self._written
        return write_event(tree, event.name)

    def late(self, event: Event | None, channel: Channel, text: str) -> bytes:
        pattern = self._deltas.get(channel) or self._pattern(channel)
        if pattern is None:
            return b""  # a text that never streamed: it has no delta to be put into
        self._written += 1
        self._shift += 1
        delta: Any = as_arguments(channel, text)
        if channel in self._fields:
            empty = {key: "" for key, value in pattern["delta"].items() if type(value) is str}
            delta = {**empty, self._fields[channel]: text}
        tree = {**pattern, "delta": delta, "sequence_number": self._written}
        if "logprobs" in tree:
            tree["logprobs"] = []
        return write_event(tree, tree["type"])

    def _pattern(self, channel: Channel) -> Tree | None:
        """The last delta of the text that this leaf of JSON arguments belongs to."""
        for known, tree in self._deltas.items():
            if known.kind == channel.kind and known.index == channel.index:
                return tree
        return None

    def finalise(self) -> bytes:
        return b""

    def stop(self, error: CallError) -> bytes:
        response = {
            "id": f"resp_{self._call.id}",
            "object": "response",
            "created_at": created(),
            "model": self._call.model,
            **self._response,
            "output": [],
            "status": "failed",
            # Codex shows the message of `invalid_prompt` and gives up; other codes it tries again.
            "error": {"code": "invalid_prompt", "message": error_object(error)["message"]},
        }
        if self.usage is not None:
            before, after = self.usage.input or 0, self.usage.output or 0
            response["usage"] = {
                "input_tokens": before,
                "input_tokens_details": {"cached_tokens": self.usage.cache_read},
                "output_tokens": after,
                "output_tokens_details": {"reasoning_tokens": self.usage.reasoning},
                "total_tokens": before + after,
            }
        tree = {"type": "response.failed", "sequence_number": self._written + 1, "response": response}
        return write_event(tree, "response.failed")

    def abort(self, error: CallError, request_id: str) -> bytes:
        """`event: error` whose data also has an `error` object: without it the SDK yields an event and goes on."""
        found = error_object(error)
        tree = {**found, "type": "error", "sequence_number": self._written + 1, "error": found}
        return write_event(tree, "error")


def _place(base: str, tree: Tree) -> Place:
    field = _INDEX.get(base, "content_index")
    return base, _index(tree, "output_index"), _index(tree, field)


def _index(tree: Tree, field: str) -> int:
    value: Any = tree.get(field)
    return value if type(value) is int else 0
