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
from llmshield.translators._json import object_of, text, whole

STOPS: dict[FinishKind, str] = {
    "stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use", "content_filter": "refusal",
    "error": "end_turn", "other": "end_turn",
}  # fmt: skip
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
            return  # what its own server did with its own tools
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
        if kind == "signature_delta":
            self._signatures[index] = self._signatures.get(index, "") + (text(delta.get("signature")) or "")
        elif (said := text(delta.get(_GROWS.get(str(kind), "")))) is not None and said:
            out.append(PartGrew(0, part, said))


class MessagesWriter(Writer):
    """Message events in answer to a call. Blocks follow one another; of several choices only the first is told.

    Thoughts of other families are left out: without Anthropic's signature they would break the next turn.
    """

    def __init__(self, call: Call) -> None:
        self._call = call
        self._kinds: dict[int, str] = {}
        self._index: dict[int, int] = {}
        self._open: int | None = None
        self._usage: Usage | None = None
        self._finish: Finished | None = None

    def write(self, happening: Happening) -> bytes:
        if isinstance(happening, Begun):
            return self._begin(happening)
        if isinstance(happening, Metered):
            self._usage = happening.usage
            return b""
        if isinstance(happening, Over):
            return self._over()
        if happening.choice != 0:
            return b""
        if isinstance(happening, PartGrew):
            return self._grow(happening)
        if isinstance(happening, PartBegun):
            return self._open_block(happening)
        if isinstance(happening, PartEnded):
            return self._close_block(happening)
        self._finish = happening
        return b""

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

    def _open_block(self, part: PartBegun) -> bytes:
        if part.kind == "reasoning" and part.family != "anthropic":
            return b""
        out = self._close_open()
        self._kinds[part.part] = part.kind
        index = self._open = self._index[part.part] = len(self._index)
        if part.kind == "tool_call" or part.kind == "custom_call":
            block: Tree = {"type": "tool_use", "id": part.call_id, "name": part.name, "input": {}}
        elif part.kind == "reasoning":
            block = {"type": "thinking", "thinking": "", "signature": ""}
        else:
            block = {"type": "text", "text": ""}
        start = {"type": "content_block_start", "index": index, "content_block": block}
        return out + write_event(start, "content_block_start")

    def _grow(self, part: PartGrew) -> bytes:
        kind = self._kinds.get(part.part)
        if kind is None:
            return b""
        if kind == "tool_call" or kind == "custom_call":
            delta: Tree = {"type": "input_json_delta", "partial_json": part.text}
        elif kind == "reasoning":
            delta = {"type": "thinking_delta", "thinking": part.text}
        else:
            delta = {"type": "text_delta", "text": part.text}
        return _delta(self._index[part.part], delta)

    def _close_block(self, part: PartEnded) -> bytes:
        index = self._index.get(part.part)
        if index is None or self._open != index:
            return b""
        out = b""
        if part.signature and self._kinds[part.part] == "reasoning":
            out = _delta(index, {"type": "signature_delta", "signature": part.signature})
        return out + self._close_open()

    def _close_open(self) -> bytes:
        index, self._open = self._open, None
        if index is None:
            return b""
        return write_event({"type": "content_block_stop", "index": index}, "content_block_stop")

    def _over(self) -> bytes:
        out = self._close_open()
        finish = self._finish or Finished(0, "stop")
        stop = "stop_sequence" if finish.stop_sequence is not None else STOPS[finish.finish]
        delta = {"stop_reason": stop, "stop_sequence": finish.stop_sequence}
        end = {"type": "message_delta", "delta": delta, "usage": usage_tree(self._usage)}
        out += write_event(end, "message_delta")
        return out + write_event({"type": "message_stop"}, "message_stop")

    def abort(self, error: CallError, request_id: str) -> bytes:
        return error_event(error, request_id)


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
    return out
