"""A streamed chat completion."""

from __future__ import annotations

from typing import ClassVar

from llmshield.call import Call, Channel, Path, Tree
from llmshield.dialects import Event, Piece
from llmshield.dialects._openai_choices import ChoicesCodec
from llmshield.dialects._openai_codec import CUSTOM, as_arguments, other_pieces, put_at, put_beside
from llmshield.dialects._openai_messages import CHOICE_KEYS, MessageReader, count_searches

_PLAIN = CHOICE_KEYS - {"message"}


class ChatCodec(ChoicesCodec):
    """A streamed chat completion."""

    object: ClassVar[str] = "chat.completion.chunk"
    prefix: ClassVar[str] = "chatcmpl-"

    def __init__(self, call: Call) -> None:
        super().__init__(call)
        self._reader = MessageReader(streams=True)
        self._content: dict[int, Channel] = {}

    def _texts(self, event: Event, choice: Tree, number: int) -> None:
        delta = choice.get("delta")
        pieces = event.pieces
        if type(delta) is dict:
            if (
                len(delta) == 1
                and "content" in delta
                and choice.keys() <= _PLAIN
                and not choice.get("logprobs")
            ):
                text = delta["content"]  # nearly all events of nearly all streams
                if type(text) is str and text:
                    channel = self._content.get(number)
                    if channel is None:
                        channel = self._content[number] = self._reader.channel("content", number)
                    pieces.append(Piece(channel, delta, "content"))
                    event.output = event.again = True
                    return
            before = len(pieces)
            self._reader.read(event, pieces, choice, number, delta)
            if len(pieces) > before or delta.get("tool_calls"):
                event.output = True
        elif delta is not None:
            other_pieces(pieces, choice, "delta", number, ("delta",), index=1)
        if not choice.keys() <= CHOICE_KEYS:
            for key in choice.keys() - CHOICE_KEYS:
                other_pieces(pieces, choice, key, number, (key,), index=1)
        if "message" in choice:  # a few servers repeat the text so far beside each delta
            other_pieces(pieces, choice, "message", number, ("message",), index=1)

    def _usage(self, tree: Tree) -> None:
        super()._usage(tree)
        count_searches(self._call, self.usage)

    def _end(self, number: int) -> tuple[Channel, ...]:
        self._content.pop(number, None)
        return self._reader.end(number)

    def _bare(self, number: int) -> Tree:
        return {"index": number, "delta": {}, "finish_reason": None}

    def _finishing(self, event: Event, channel: Channel) -> Tree | None:
        if channel in self._reader.superseded:
            return None
        return super()._finishing(event, channel)

    def _put(self, choice: Tree, channel: Channel, text: str) -> None:
        delta = choice.get("delta")
        if type(delta) is not dict:
            delta = choice["delta"] = {}
        kind = channel.kind
        if kind == "tool_arguments" or kind == "tool_name":
            self._put_arguments(delta, channel, as_arguments(channel, text))
        elif kind == "content":
            put_at(delta, ("audio", "transcript") if channel.index else ("content",), text)
        elif kind == "refusal":
            put_at(delta, ("refusal",), text)
        else:
            put_at(delta, channel.path, text)
            if tags := self._reader.tags(channel):
                put_beside(delta, channel.path, tags)

    def _put_arguments(self, delta: Tree, channel: Channel, text: str) -> None:
        if channel.index == -1:
            put_at(delta, ("function_call", "arguments"), text)
            return
        field: Path = ("custom", "input") if channel.path == CUSTOM else ("function", "arguments")
        wire = self._reader.wire(channel)
        calls = delta.get("tool_calls")
        if type(calls) is not list:
            calls = delta["tool_calls"] = []
        for call in calls:
            if type(call) is dict and call.get("index", 0) == wire:
                put_at(call, field, text)
                return
        call = {"index": wire}
        put_at(call, field, text)
        calls.append(call)
