"""Streams of Anthropic's messages, into and out of happenings."""

from __future__ import annotations

import orjson

from llmshield.call import Call, FinishKind, Tree, Usage
from llmshield.conversation import (
    Begun,
    Finished,
    Happening,
    Metered,
    Over,
    PartBegun,
    PartEnded,
    PartGrew,
)
from llmshield.dialects._anthropic import UsageMeter, error_event, finish_kind
from llmshield.dialects._sse import SseParser, write_event
from llmshield.errors import CallError
from llmshield.translators import Reader, Writer
from llmshield.translators._json import SIGNATURE, note, object_of, text, whole

STOPS: dict[FinishKind, str] = {
    "stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use", "content_filter": "refusal",
    "error": "end_turn", "other": "end_turn",
}  # fmt: skip
THOUGHTS = "content: Anthropic shows its own thoughts only"
REFUSAL = "content: a refusal is told as words"
OWN = "content: what Anthropic's server did with tools of its own"
CITATIONS = "content: citations have no place in other dialects"
INPUT = "content: a call whose arguments are no JSON object is shown as an input of its own"
_GROWS = {"text_delta": "text", "thinking_delta": "thinking", "input_json_delta": "partial_json"}


class MessagesReader(Reader):
    """A stream of message events; its blocks are parts, and there is one choice."""

    def __init__(self) -> None:
        self._parser = SseParser()
        self._meter = UsageMeter()
        self._parts: dict[int, int] = {}
        self._signatures: dict[int, str] = {}
        self._sealed: dict[int, str] = {}
        self._stop: tuple[FinishKind, str | None] | None = None

    def feed(self, data: bytes) -> list[Happening]:
        out: list[Happening] = []
        for _, payload in self._parser.feed(data):
            if payload:
                self._event(object_of(orjson.loads(payload)), out)
        return out

    def _event(self, tree: Tree, out: list[Happening]) -> None:
        kind = tree.get("type")
        if kind == "content_block_delta":
            self._delta(tree, out)
        elif kind == "content_block_start":
            self._start(tree, out)
        elif kind == "content_block_stop":
            index = whole(tree.get("index")) or 0
            part = self._parts.get(index)
            if part is not None:
                out.append(PartEnded(0, part, self._signatures.get(index), self._sealed.get(index)))
        elif kind == "message_start":
            message = object_of(tree.get("message"))
            usage = self._meter.feed(message.get("usage"))
            out.append(Begun(text(message.get("model")) or "", text(message.get("id")) or "", 0, usage))
        elif kind == "message_delta":
            delta = object_of(tree.get("delta"))
            finish = finish_kind(delta.get("stop_reason"))
            usage = self._meter.feed(tree.get("usage"))
            if usage is not None and not usage.malformed:
                out.append(Metered(usage))
            if finish is not None:
                self._stop = (finish, text(delta.get("stop_sequence")))
        elif kind == "message_stop":
            finish, sequence = self._stop or ("stop", None)
            out.append(Finished(0, finish, sequence))
            out.append(Over())

    def aligned(self) -> bool:
        return OWN not in self.lost and list(self._parts) == list(range(len(self._parts)))

    def _start(self, tree: Tree, out: list[Happening]) -> None:
        index, block = whole(tree.get("index")) or 0, object_of(tree.get("content_block"))
        kind = block.get("type")
        part = len(self._parts)
        if kind == "tool_use":
            begun = PartBegun(
                0, part, "tool_call", text(block.get("id")) or "", text(block.get("name")) or ""
            )
        elif kind == "text":
            begun = PartBegun(0, part, "text")
        elif kind == "thinking" or kind == "redacted_thinking":
            begun = PartBegun(0, part, "reasoning", family="anthropic")
        else:
            note(self.lost, OWN)
            return
        self._parts[index] = part
        out.append(begun)
        if sealed := text(block.get("data")):
            self._sealed[index] = sealed
        if signature := text(block.get("signature")):
            self._signatures[index] = signature
        said = text(block.get("text")) or text(block.get("thinking"))
        if said:
            out.append(PartGrew(0, part, said))

    def _delta(self, tree: Tree, out: list[Happening]) -> None:
        index, delta = whole(tree.get("index")) or 0, object_of(tree.get("delta"))
        part = self._parts.get(index)
        if part is None:
            return
        kind = delta.get("type")
        if kind == "citations_delta":
            note(self.lost, CITATIONS)
        elif kind == "signature_delta":
            self._signatures[index] = self._signatures.get(index, "") + (text(delta.get("signature")) or "")
        elif (said := text(delta.get(_GROWS.get(str(kind), "")))) is not None and said:
            out.append(PartGrew(0, part, said))


class MessagesWriter(Writer):
    """Message events in answer to a call. Blocks follow one another: what is said in another part while one stands
    open waits for its end. Of several choices only the first is told.

    Thoughts of other families are left out: without Anthropic's signature they would break the next turn.
    """

    def __init__(self, call: Call) -> None:
        self._call = call
        self._open: PartBegun | None = None
        self._started = False
        """Whether the open part's block has begun; a thought's waits until it is clear which kind it is."""
        self._said: list[str] = []
        """Free text of the open part, if it is a call of a custom tool: its input is an object here."""
        self._waiting: list[PartBegun | PartGrew | PartEnded] = []
        self._index = 0
        self._usage: Usage | None = None
        self._finish: Finished | None = None
        self._refused = False

    def write(self, happening: Happening) -> bytes:
        if isinstance(happening, Begun):
            return self._begin(happening)
        if isinstance(happening, Metered):
            self._usage = happening.usage
            return b""
        if isinstance(happening, Over):
            return self._over()
        if happening.choice != 0:
            note(self.lost, "choices: Anthropic gives one answer")
            return b""
        if isinstance(happening, Finished):
            self._finish = happening
            return b""
        return self._part(happening)

    def _begin(self, begun: Begun) -> bytes:
        self._usage = begun.usage or self._usage
        message: Tree = {
            "id": f"msg_{self._call.id}",
            "type": "message",
            "role": "assistant",
            "model": begun.model or self._call.model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": usage_tree(self._usage, start=True),
        }
        return write_event({"type": "message_start", "message": message}, "message_start")

    def _part(self, happening: PartBegun | PartGrew | PartEnded) -> bytes:
        if (
            isinstance(happening, PartBegun)
            and happening.kind == "reasoning"
            and happening.family != "anthropic"
        ):
            note(self.lost, THOUGHTS)
            return b""
        if self._open is not None and happening.part != self._open.part:
            self._waiting.append(happening)
            return b""
        if isinstance(happening, PartBegun):
            self._open, self._started = happening, False
            if happening.kind == "refusal":
                self._refused = True
                note(self.lost, REFUSAL)
            return b"" if happening.kind == "reasoning" else self._start()
        if self._open is None:
            return b""  # a part that is not told
        if isinstance(happening, PartGrew):
            return self._grow(happening.text)
        return self._end(happening) + self._catch_up()

    def _start(self, sealed: str | None = None) -> bytes:
        assert self._open is not None
        self._started = True
        kind = self._open.kind
        if kind == "tool_call" or kind == "custom_call":
            block: Tree = {"type": "tool_use", "id": self._open.call_id, "name": self._open.name, "input": {}}
        elif kind == "reasoning":
            block = {"type": "thinking", "thinking": "", "signature": ""}
            if sealed is not None:
                block = {"type": "redacted_thinking", "data": sealed}
        else:
            block = {"type": "text", "text": ""}
        start = {"type": "content_block_start", "index": self._index, "content_block": block}
        return write_event(start, "content_block_start")

    def _grow(self, said: str) -> bytes:
        assert self._open is not None
        kind = self._open.kind
        if kind == "custom_call":
            self._said.append(said)
            return b""
        out = b"" if self._started else self._start()
        if kind == "tool_call":
            return out + _delta(self._index, {"type": "input_json_delta", "partial_json": said})
        if kind == "reasoning":
            return out + _delta(self._index, {"type": "thinking_delta", "thinking": said})
        return out + _delta(self._index, {"type": "text_delta", "text": said})

    def _end(self, ended: PartEnded) -> bytes:
        assert self._open is not None
        out = b"" if self._started else self._start(ended.sealed)
        if self._open.kind == "reasoning" and ended.signature:
            out += _delta(self._index, {"type": "signature_delta", "signature": ended.signature})
        elif self._open.kind != "reasoning" and (ended.signature or ended.sealed):
            note(self.lost, SIGNATURE)
        if self._open.kind == "custom_call":
            note(self.lost, INPUT)
            given = orjson.dumps({"input": "".join(self._said)}).decode()
            out += _delta(self._index, {"type": "input_json_delta", "partial_json": given})
            self._said.clear()
        self._open = None
        stop = {"type": "content_block_stop", "index": self._index}
        self._index += 1
        return out + write_event(stop, "content_block_stop")

    def _catch_up(self) -> bytes:
        """What has waited for the end of the open part."""
        waiting, self._waiting = self._waiting, []
        return b"".join([self._part(happening) for happening in waiting])

    def _close(self) -> bytes:
        out = b""
        while self._open is not None:
            out += self._end(PartEnded(0, self._open.part)) + self._catch_up()
        return out

    def _over(self) -> bytes:
        out = self._close()
        finish = self._finish or Finished(0, "stop")
        stop = (
            "stop_sequence" if finish.stop_sequence is not None else stop_reason(finish.finish, self._refused)
        )
        delta = {"stop_reason": stop, "stop_sequence": finish.stop_sequence}
        end = {"type": "message_delta", "delta": delta, "usage": usage_tree(self._usage)}
        out += write_event(end, "message_delta")
        return out + write_event({"type": "message_stop"}, "message_stop")

    def stop(self, error: CallError) -> bytes:
        self._waiting.clear()
        return super().stop(error)

    def abort(self, error: CallError, request_id: str) -> bytes:
        return error_event(error, request_id)


def stop_reason(finish: FinishKind, refused: bool) -> str:
    """Why an answer ended, in Anthropic's words; `refused`: it says that the model won't."""
    return "refusal" if refused and finish == "stop" else STOPS[finish]


def _delta(index: int, delta: Tree) -> bytes:
    return write_event({"type": "content_block_delta", "index": index, "delta": delta}, "content_block_delta")


def usage_tree(usage: Usage | None, *, start: bool = False) -> Tree:
    """Usage in Anthropic's words: its input leaves out what came from or went into the cache."""
    if usage is None:
        return {"input_tokens": 0, "output_tokens": 0}
    known = usage.cache_read + usage.cache_write
    out: Tree = {
        "input_tokens": max((usage.input or 0) - known, 0),
        "output_tokens": (usage.output or 0) if not start or usage.output else 0,
    }
    if usage.cache_read:
        out["cache_read_input_tokens"] = usage.cache_read
    if usage.cache_write:
        out["cache_creation_input_tokens"] = usage.cache_write
    if usage.reasoning:
        out["output_tokens_details"] = {"thinking_tokens": usage.reasoning}
    return out
