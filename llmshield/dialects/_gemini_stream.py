"""One streamed Gemini reply, as server-sent events or as a JSON array: chunks in, chunks out.

Rule 1: a candidate is complete with its `finishReason`; there is no other terminator (the array's `]` counts only
behind complete candidates). What filters still hold then goes into that chunk.
Rule 2: what spells the text again (log-probabilities, grounding segments) waits until the client has the text that
the provider sent, and is dropped where the text was changed.
Rule 3: comments are not passed on: google-genai takes a line without `data: ` for the start of an error.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from llmshield.call import Channel, Usage
from llmshield.dialects import Event, Piece, StreamCodec
from llmshield.dialects._gemini import STOP_REASONS, UsageMeter, error_in_reply, error_tree, finish_kind
from llmshield.dialects._gemini_candidate import Candidate
from llmshield.dialects._gemini_pieces import (
    CALL_FIELDS,
    NOT_TEXT,
    call_pieces,
    choice_of,
    repeats_of,
    rest_pieces,
    searches_of,
    whole_chunk,
)
from llmshield.dialects._json_array import JsonArrayParser
from llmshield.dialects._pieces import other_pieces
from llmshield.dialects._sse import COMMENT, SseParser, escape_lines, write_event
from llmshield.dialects._surrogates import Halves
from llmshield.dialects._tree import dump, load_event
from llmshield.dialects._wire import may_be_deep, too_deep
from llmshield.errors import CallError, UpstreamError
from llmshield.json_pieces import NAME

_ARRAY_END = "]"
_KNOWN_TOP = ("candidates", "usageMetadata")
_PLAIN = frozenset(("content", "index", "finishReason"))
_PLAIN_CONTENT = frozenset(("parts", "role"))
_USUAL = frozenset(("candidates", "usageMetadata", "modelVersion", "responseId", "createTime"))


class GeminiStream(StreamCodec):
    """See StreamCodec. `array`: the stream is a JSON array;"""

    def __init__(self, call_id: str, model: str, *, array: bool) -> None:
        self.media_type = "application/json" if array else "text/event-stream"
        self._sse = None if array else SseParser()
        self._array = JsonArrayParser() if array else None
        self._meter = UsageMeter()
        self._halves = Halves()
        self._call_id = call_id
        self._asked_model = model
        self._ahead: deque[list[tuple[Candidate, str, bool]]] = deque()
        """Of each chunk that was read and not yet written: what its candidates say, and if something repeats it."""
        self._candidates: dict[int, Candidate] = {}
        self._paths: dict[Channel, dict[str, Any]] = {}
        """Of arguments in pieces: the last one, which has the path as the client is to see it."""
        self._over = False
        self._written = 0
        self._closed = False

    @property
    def usage(self) -> Usage | None:  # type: ignore[override]  # every chunk carries usage: added up when asked for
        return self._meter.usage()

    def feed(self, data: bytes) -> list[Event]:
        events: list[Event] = []
        if self._sse is not None:
            for name, payload in self._sse.feed(data):
                if self._over:
                    return events
                events.append(Event(COMMENT) if name == COMMENT else self._chunk(payload))
            broken = self._sse.error
        else:
            assert self._array is not None
            for payload in self._array.feed(data):
                if self._over:
                    return events
                events.append(self._chunk(payload))
            broken = self._array.error
            if self._array.closed and not self._over and broken is None:
                self._over = True
                self.ended = self.finished
                rest = tuple(channel for one in self._candidates.values() for channel in one.ends())
                events.append(Event(_ARRAY_END, ends=rest))
        if broken is not None and not self._over:
            events.append(self._malformed(broken))
        return events

    def close(self) -> list[Event]:
        return []

    def _chunk(self, payload: bytes) -> Event:
        try:
            tree, odd = load_event(payload)
        except ValueError:
            return self._malformed("a chunk of the stream is not JSON")
        if odd or self._halves:
            tree = whole_chunk(self._halves, tree)
        if type(tree) is not dict:
            return self._malformed("a chunk of the stream is no object")
        if may_be_deep(payload) and too_deep(tree):
            return self._malformed("a chunk of the stream is nested too deeply")
        candidates = tree.get("candidates")
        if "error" in tree and not candidates:
            self._over = True
            return Event("", tree, error=error_in_reply(tree))
        event = Event("", tree)
        said: list[tuple[Candidate, str, bool]] = []
        if type(candidates) is list:
            for position, candidate in enumerate(candidates):
                if type(candidate) is not dict:
                    return self._malformed("a candidate of the stream is no object")
                said.append(self._read_candidate(event, candidate, position))
        elif candidates is not None:
            return self._malformed("the candidates of the stream are no list")
        self._read_rest(event, tree)
        self._ahead.append(said)
        return event

    def _read_rest(self, event: Event, tree: dict[str, Any]) -> None:
        usage = tree.get("usageMetadata")
        if usage is not None:
            self._meter.feed(usage)
        model = tree.get("modelVersion")
        if type(model) is str:
            self.model = model
        if tree.keys() <= _USUAL:
            return
        feedback = tree.get("promptFeedback")
        if type(feedback) is dict and feedback.get("blockReason") is not None:
            self.finish = "content_filter"
            self.finished = all(one.finished for one in self._candidates.values())
            event.output = True
        other_pieces(event.pieces, tree, Channel("other"), NOT_TEXT, _KNOWN_TOP)

    def _read_candidate(
        self, event: Event, candidate: dict[str, Any], position: int
    ) -> tuple[Candidate, str, bool]:
        choice = candidate.get("index")
        if type(choice) is not int:
            choice = position
        state = self._candidates.get(choice)
        if state is None:
            state = self._candidates[choice] = Candidate(choice)
            self.finished = False
        content = candidate.get("content")
        parts = content.get("parts") if type(content) is dict else None
        plain = candidate.keys() <= _PLAIN and (type(content) is not dict or content.keys() <= _PLAIN_CONTENT)
        said = ""
        for part in parts if type(parts) is list else ():
            if type(part) is not dict:
                continue
            text = part.get("text")
            if text and type(text) is str:
                if part.get("thought"):
                    channel = state.reasoning
                    state.thinking = True
                else:
                    channel = state.content
                    state.speaking = True
                    said += text
                    if state.thinking:
                        event.ends = (*event.ends, state.end_thought())
                event.pieces.append(Piece(channel, part, "text"))
                event.output = True
                if len(part) == 1:
                    continue
            plain = False
            for name in CALL_FIELDS:
                if name in part:
                    self._read_call(event, state, part, name)
                    event.output = True
            if len(part) > 1 or "text" not in part:
                event.output = event.output or any(name not in ("text", "thoughtSignature") for name in part)
        if not plain:
            rest_pieces(event.pieces, candidate, choice, partial=False)
            self._meter.searches = max(self._meter.searches, searches_of(candidate))
        reason = candidate.get("finishReason")
        finish = None if reason is None else finish_kind(reason, called=state.calls > 0)
        if finish is not None:
            state.finished = True
            self.finished = all(one.finished for one in self._candidates.values())
            event.ends = (*event.ends, *state.ends())
            if self.finish is None or choice == 0:
                self.finish = finish
            if finish == "content_filter":
                event.output = True
        return state, said, not plain and bool(repeats_of(candidate))

    def _read_call(self, event: Event, state: Candidate, part: dict[str, Any], name: str) -> None:
        """A function call, whole or in pieces (`partialArgs`, each leaf under its own JSON path)."""
        call = part[name]
        if type(call) is not dict:
            return
        if type(call.get("name")) is str or "args" in call or not state.calls:
            call_pieces(event.pieces, part, state.choice, state.calls)
            state.calls += 1
        partial = call.get("partialArgs")
        for one in partial if type(partial) is list else ():
            if type(one) is not dict:
                continue
            path = one.get("jsonPath")
            path = path if type(path) is str else ""
            channel = state.arguments.get(path)
            if channel is None:
                tool = call.get("name")
                tool = tool if type(tool) is str else None
                channel = Channel("tool_arguments", state.choice, state.calls - 1, (path,), tool)
                state.arguments[path] = channel
            if path:
                named = Channel(channel.kind, channel.choice, channel.index, (NAME,), channel.tool)
                event.pieces.append(Piece(named, one, "jsonPath", True))
                self._paths[channel] = one
            for leaf in ("stringValue", "numberValue"):
                if leaf in one and type(one[leaf]) in (str, int, float):
                    event.pieces.append(Piece(channel, one, leaf, leaf != "stringValue"))
            if not one.get("willContinue"):
                event.ends = (*event.ends, channel)
                del state.arguments[path]
        if call.get("willContinue") is False or (partial is None and not call.get("willContinue")):
            for channel in state.arguments.values():
                event.ends = (*event.ends, channel)
            state.arguments.clear()

    def _malformed(self, what: str) -> Event:
        self._over = True
        return Event("", error=UpstreamError("malformed", what))

    def write(self, event: Event) -> bytes:
        tree = event.tree
        if tree is None:
            if event.name != _ARRAY_END or self._closed or not self.ended:
                return b""  # behind an answer that is not complete an error follows, inside the array
            self._closed = True
            return b"]" if self._written else b"[]"
        for state, said, repeats in self._ahead.popleft() if self._ahead else ():
            wrote = state.inserted
            if wrote:
                state.inserted = ""
            for piece in event.pieces:
                if piece.channel is state.content:
                    wrote += piece.holder[piece.key]
            if said != wrote or state.read:
                state.book(said, wrote)
            if repeats or state.logprobs or state.supports:
                state.hold_repeats(tree)
        return self._frame(tree)

    def write_own(self, tree: dict[str, Any]) -> bytes:
        """A chunk of our own."""
        return self._frame(tree)

    def go_on(self) -> None:
        """Chunks have gone out before: an array is open already."""
        self._written = max(self._written, 1)

    def _frame(self, tree: dict[str, Any]) -> bytes:
        self._written += 1
        if self._sse is not None:
            return write_event(tree)
        return (b"[" if self._written == 1 else b",\r\n") + escape_lines(dump(tree))

    def late(self, event: Event | None, channel: Channel, text: str) -> bytes:
        state = self._candidates.get(channel.choice)
        if state is None or channel.kind not in ("content", "reasoning", "tool_arguments"):
            return b""
        if channel.kind == "tool_arguments":
            return self._late_argument(event, channel, text)
        part: dict[str, Any] = {"text": text}
        if channel.kind == "reasoning":
            part["thought"] = True
        if event is None or event.tree is None:
            if channel.kind == "content":
                state.book("", text)
            return self._frame(_own_part(part, channel.choice))
        for piece in reversed(event.pieces):
            if piece.channel == channel and not piece.whole:
                piece.holder[piece.key] += text
                return b""
        candidate = next(
            one
            for place, one in enumerate(event.tree["candidates"])
            if choice_of(one, place) == channel.choice
        )
        content = candidate.get("content")
        if type(content) is not dict:
            content = candidate["content"] = {"role": "model"}
        parts: Any = content.get("parts")
        if type(parts) is not list:
            parts = []
            content.update(parts=parts)
        parts.insert(0, part)
        if channel.kind == "content":
            state.inserted += text
        return b""

    def _late_argument(self, event: Event | None, channel: Channel, text: str) -> bytes:
        """The end of an argument that comes in pieces."""
        if event is None or event.tree is None or len(channel.path) != 1 or type(channel.path[0]) is not str:
            return b""
        for piece in reversed(event.pieces):
            if piece.channel == channel and piece.key == "stringValue":
                piece.holder[piece.key] += text
                return b""
        path = self._paths[channel]["jsonPath"] if channel in self._paths else channel.path[0]
        one = {"jsonPath": path, "stringValue": text, "willContinue": True}
        part: dict[str, Any] = {"functionCall": {"partialArgs": [one], "willContinue": True}}
        return self._frame(_own_part(part, channel.choice))

    def finalise(self) -> bytes:
        if self._array is None or self._closed:
            return b""
        self._closed = True
        return b"]" if self._written else b"[]"

    def stop(self, error: CallError) -> bytes:
        reason = error.code if error.code in STOP_REASONS else "PROHIBITED_CONTENT"
        choices = [choice for choice, one in self._candidates.items() if not one.finished] or [0]
        tree: dict[str, Any] = {
            "candidates": [
                {"finishReason": reason, "finishMessage": error.message, "index": choice}
                for choice in sorted(choices)
            ],
            "usageMetadata": self._meter.wire(),
            "modelVersion": self.model or self._asked_model,
        }
        self._over = True
        return self._frame(tree) + self.finalise()

    def abort(self, error: CallError, request_id: str) -> bytes:
        self._over = True
        return self._frame(error_tree(error)) + self.finalise()


def _own_part(part: dict[str, Any], choice: int) -> dict[str, Any]:
    return {"candidates": [{"content": {"parts": [part], "role": "model"}, "index": choice}]}
