"""One streamed Messages reply: Anthropic's events in, the client's events out.

Rule 1: `feed` keeps the books of what the provider said, `write` and `late` those of what the client got; only
the latter decide what `stop` and `finalise` still have to close.
Rule 2: no edited text travels with a valid signature. The reasoning channel of a thinking block ends with its
`signature_delta`; if what was written differs from what was read, the signature goes out as `EDITED` (see _anthropic_sealed). Text that nobody changed keeps its signature.
Rule 3: unknown events, deltas and fields pass on. Each text of an unknown delta is a channel of its own, by block,
type of delta and field; all other strings go through the filters in one piece.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llmshield.call import Channel, ChannelKind
from llmshield.dialects import Event, Piece, StreamCodec
from llmshield.dialects._anthropic import UsageMeter, error_event, error_in_reply, finish_kind
from llmshield.dialects._anthropic_block import Block, ShapeError
from llmshield.dialects._anthropic_own import delta_event, own_message
from llmshield.dialects._anthropic_pieces import add_others, block_pieces
from llmshield.dialects._anthropic_sealed import EDITED
from llmshield.dialects._sse import COMMENT, SseParser, write_event
from llmshield.dialects._surrogates import Halves, mend_tree
from llmshield.dialects._tree import load_event
from llmshield.dialects._wire import may_be_deep, too_deep
from llmshield.errors import CallError, UpstreamError

_KEEP_ALIVE = b":\n\n"

_DELTAS: dict[ChannelKind, tuple[str, str]] = {
    "content": ("text_delta", "text"),
    "reasoning": ("thinking_delta", "thinking"),
    "tool_arguments": ("input_json_delta", "partial_json"),
}
_KINDS: dict[str, tuple[ChannelKind, str]] = {
    "text_delta": ("content", "text"),
    "thinking_delta": ("reasoning", "thinking"),
    "input_json_delta": ("tool_arguments", "partial_json"),
}


class MessagesStream(StreamCodec):
    """See StreamCodec."""

    def __init__(self, call_id: str, model: str) -> None:
        self._parser = SseParser()
        self._meter = UsageMeter()
        self._halves = Halves()
        self._call_id = call_id
        self._asked_model = model
        self._over = False
        self._started = False
        self._indices: set[int] = set()
        self._blocks: dict[int, Block] = {}
        self._thinking: dict[int, Block] = {}
        # What the client got so far:
        self._got_start = False
        self._got_stop = False
        self._got_open: dict[int, bool] = {}
        """Blocks that stand open at the client; True for thinking that lacks its signature."""

    def feed(self, data: bytes) -> list[Event]:
        events: list[Event] = []
        for name, payload in self._parser.feed(data):
            if self._over:
                break
            events.append(self._event(name, payload))
        if self._parser.error is not None and not self._over:
            events.append(self._malformed(self._parser.error))
        return events

    def close(self) -> list[Event]:
        return []

    def _event(self, name: str, payload: bytes) -> Event:
        if name == COMMENT:
            return Event(COMMENT, None, _KEEP_ALIVE)
        try:
            tree, odd = load_event(payload)
        except ValueError:
            return self._malformed("an event of the stream is not JSON")
        if odd or self._halves:
            tree = self._join_halves(tree)
        if type(tree) is not dict:
            return self._malformed("an event of the stream is no object")
        if may_be_deep(payload) and too_deep(tree):
            return self._malformed("an event of the stream is nested too deeply")
        kind = tree.get("type")
        if type(kind) is str and kind in _READERS:
            try:
                return _READERS[kind](self, kind, tree)
            except ShapeError as error:
                return self._malformed(str(error))
        if "error" in tree and kind is None:
            return self._error(name, tree)
        event = Event(kind if type(kind) is str and kind.isidentifier() else name, tree)
        add_others(event.pieces, tree, Channel("other"))
        return event

    def _join_halves(self, tree: Any) -> Any:
        """The tree with whole characters: what streams may end with the first half of one."""
        delta = tree.get("delta") if type(tree) is dict else None
        if type(delta) is dict:
            for key, text in delta.items():
                if type(text) is str:
                    delta[key] = self._halves.join((str(tree.get("index")), key), text)
        return mend_tree(tree)

    def _message_start(self, name: str, tree: dict[str, Any]) -> Event:
        message = tree.get("message")
        if type(message) is not dict or self._started:
            raise ShapeError("message_start comes twice or without a message")
        self._started = True
        model = message.get("model")
        self.model = model if type(model) is str else ""
        self.usage = self._meter.feed(message.get("usage"))
        event = Event(name, tree)
        blocks = message.get("content")
        if type(blocks) is list and blocks:
            if any(type(block) is not dict for block in blocks):
                raise ShapeError("message_start holds something else than blocks")
            block_pieces(event.pieces, blocks)
            event.output = True
        add_others(event.pieces, message, Channel("other"), ("content",))
        return event

    def _block_start(self, name: str, tree: dict[str, Any]) -> Event:
        index, content = tree.get("index"), tree.get("content_block")
        if type(index) is not int or type(content) is not dict:
            raise ShapeError("content_block_start lacks its index or block")
        if index in self._indices:
            raise ShapeError("content_block_start opens a block twice")
        self._indices.add(index)
        kind = content.get("type")
        tool = content.get("name")
        block = self._blocks[index] = Block(index, tool if type(tool) is str else None)
        event = Event(name, tree)
        pieces = event.pieces
        if kind == "text":
            if content.get("text"):
                event.output = True
                if type(content["text"]) is str:
                    pieces.append(Piece(block.channel("content"), content, "text"))
            else:
                block.channel("content")
            add_others(pieces, content, Channel("other", 0, index), ("text",))
        elif kind == "thinking":
            self._thinking[index] = block
            block.channel("reasoning")
            thinking = content.get("thinking")
            if thinking is not None and type(thinking) is not str:
                raise ShapeError("a thinking block holds no text")
            if thinking:
                event.output = True
                block.read.append(thinking)
                pieces.append(Piece(block.channel("reasoning"), content, "thinking"))
            add_others(pieces, content, Channel("other", 0, index), ("thinking",))
        else:
            event.output = True
            block_pieces(pieces, [content], index)
            if "input" in content:
                block.channel("tool_arguments")
        return event

    def _block_delta(self, name: str, tree: dict[str, Any]) -> Event:
        index = tree.get("index")
        block = self._blocks.get(index) if type(index) is int else None
        delta = tree.get("delta")
        if block is None or type(delta) is not dict:
            raise ShapeError("content_block_delta belongs to no open block")
        kind = delta.get("type")
        known = _KINDS.get(kind) if type(kind) is str else None
        event = Event(name, tree)
        if known is None:
            if kind == "signature_delta":
                block.signed = True
                if "reasoning" in block.channels:
                    event.ends = (block.channels["reasoning"],)
            else:
                block.read_other(event.pieces, kind if type(kind) is str else "", delta)
                event.output = True
            return event
        channel_kind, key = known
        text = delta.get(key)
        if type(text) is not str:
            raise ShapeError("a delta of the stream holds no text")
        if channel_kind == "reasoning":
            if block.signed:
                raise ShapeError("a thinking block goes on behind its signature")
            block.read.append(text)
        channel = block.channels.get(channel_kind)
        if channel is None:
            channel = block.channel(channel_kind)
        event.pieces.append(Piece(channel, delta, key))
        if text:
            event.output = True
            event.again = channel_kind != "reasoning"
        if len(delta) > 2:
            add_others(event.pieces, delta, Channel("other", 0, block.index), (key, "type"))
        return event

    def _block_stop(self, name: str, tree: dict[str, Any]) -> Event:
        index = tree.get("index")
        block = self._blocks.pop(index, None) if type(index) is int else None
        if block is None:
            raise ShapeError("content_block_stop belongs to no open block")
        return Event(name, tree, ends=block.ends)

    def _message_delta(self, name: str, tree: dict[str, Any]) -> Event:
        event = Event(name, tree, ends=self._end_blocks())
        self.usage = self._meter.feed(tree.get("usage"))
        delta = tree.get("delta")
        if type(delta) is dict:
            finish = finish_kind(delta.get("stop_reason"))
            if finish is not None:
                self.finish = finish
                self.finished = True
                event.output = finish == "content_filter"
        elif delta is not None:
            raise ShapeError("message_delta holds no delta")
        add_others(event.pieces, tree, Channel("other"))
        return event

    def _message_stop(self, name: str, tree: dict[str, Any]) -> Event:
        event = Event(name, tree, ends=self._end_blocks())
        self.ended = self.finished = self._over = True
        add_others(event.pieces, tree, Channel("other"))
        return event

    def _ping(self, name: str, tree: dict[str, Any]) -> Event:
        event = Event(name, tree)
        add_others(event.pieces, tree, Channel("other"))
        return event

    def _error(self, name: str, tree: dict[str, Any]) -> Event:
        self._over = True
        return Event("error", tree, error=error_in_reply(tree))

    def _malformed(self, what: str) -> Event:
        self._over = True
        return Event("error", error=UpstreamError("malformed", what))

    def _end_blocks(self) -> tuple[Channel, ...]:
        """The channels of blocks whose stop the provider left out."""
        if not self._blocks:
            return ()
        ends = tuple(channel for block in self._blocks.values() for channel in block.ends)
        self._blocks.clear()
        return ends

    def write(self, event: Event) -> bytes:
        tree = event.tree
        if tree is None:
            return event.raw
        kind = tree.get("type")
        if kind == "content_block_delta":
            if self._thinking:
                self._write_delta(tree["index"], tree["delta"])
        elif kind == "content_block_start":
            self._write_start(tree["index"], tree["content_block"])
        elif kind == "content_block_stop":
            self._got_open.pop(tree["index"], None)
            self._thinking.pop(tree["index"], None)
        elif kind == "message_start":
            self._got_start = True
        elif kind == "message_stop":
            closing = self._close_blocks()
            self._got_stop = True
            return closing + write_event(tree, event.name)
        elif kind == "message_delta" and self._got_open:
            return self._close_blocks() + write_event(tree, event.name)
        return write_event(tree, event.name)

    def _write_start(self, index: int, content: dict[str, Any]) -> None:
        block = self._thinking.get(index)
        self._got_open[index] = block is not None
        if block is not None:
            block.written.append(content.get("thinking") or "")
            if content.get("signature"):
                self._sign(block, content)

    def _write_delta(self, index: int, delta: dict[str, Any]) -> None:
        block = self._thinking.get(index)
        if block is None:
            return
        kind = delta.get("type")
        if kind == "thinking_delta":
            block.written.append(delta["thinking"])
        elif kind == "signature_delta":
            self._sign(block, delta)

    def _sign(self, block: Block, holder: dict[str, Any]) -> None:
        self._got_open[block.index] = False
        if block.edited:
            holder["signature"] = EDITED

    def late(self, event: Event | None, channel: Channel, text: str) -> bytes:
        if channel.index not in self._got_open:
            return b""
        if channel.kind == "other" and len(channel.path) == 2:
            kind, key = str(channel.path[0]), str(channel.path[1])
        elif channel.path or channel.kind not in _DELTAS:
            # Text that a guard let go with its stop, from a place that arrives whole: it has no delta.
            return b""
        else:
            kind, key = _DELTAS[channel.kind]
        block = self._thinking.get(channel.index)
        if block is not None and channel.kind == "reasoning":
            block.written.append(text)
        return delta_event(channel.index, {"type": kind, key: text})

    def finalise(self) -> bytes:
        if self._got_stop or not self.finished:
            return b""
        self._got_stop = True
        return self._close_blocks() + write_event({"type": "message_stop"}, "message_stop")

    def stop(self, error: CallError) -> bytes:
        out = b"" if self._got_start else self._own_start()
        out += self._close_blocks()
        delta = {"stop_reason": "refusal", "stop_sequence": None}
        out += write_event(
            {"type": "message_delta", "delta": delta, "usage": self._meter.wire()}, "message_delta"
        )
        self._over = self._got_stop = True
        return out + write_event({"type": "message_stop"}, "message_stop")

    def abort(self, error: CallError, request_id: str) -> bytes:
        self._over = self._got_stop = True
        return error_event(error, request_id)

    def _close_blocks(self) -> bytes:
        """What the client lacks of the blocks that stand open at its end."""
        out = b""
        for index, unsigned in self._got_open.items():
            if unsigned:  # half a thought has no signature: it must not come back as if it had one
                out += delta_event(index, {"type": "signature_delta", "signature": EDITED})
            out += write_event({"type": "content_block_stop", "index": index}, "content_block_stop")
        self._got_open.clear()
        return out

    def _own_start(self) -> bytes:
        self._got_start = True
        message = own_message(self._call_id, self.model or self._asked_model, [], None)
        message["usage"] = self._meter.wire()
        return write_event({"type": "message_start", "message": message}, "message_start")


_READERS: dict[str, Callable[[MessagesStream, str, dict[str, Any]], Event]] = {
    "message_start": MessagesStream._message_start,
    "content_block_start": MessagesStream._block_start,
    "content_block_delta": MessagesStream._block_delta,
    "content_block_stop": MessagesStream._block_stop,
    "message_delta": MessagesStream._message_delta,
    "message_stop": MessagesStream._message_stop,
    "ping": MessagesStream._ping,
    "error": MessagesStream._error,
}
