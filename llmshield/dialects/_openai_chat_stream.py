"""A streamed chat completion."""

from __future__ import annotations

from llmshield.call import Call, Channel, Path, Tree, Usage
from llmshield.dialects import Event
from llmshield.dialects._openai import FINISH, created, malformed, merge_usage, read_usage
from llmshield.dialects._openai_codec import CUSTOM, DONE, OpenAICodec, as_arguments, other_pieces, put_at
from llmshield.dialects._openai_messages import CHOICE_KEYS, CHUNK_KEYS, MessageReader
from llmshield.dialects._sse import write_event
from llmshield.errors import CallError

_MOST_CHOICES = 1024


class ChatCodec(OpenAICodec):
    """A streamed chat completion."""

    def __init__(self, call: Call) -> None:
        super().__init__(call)
        self._reader = MessageReader(streams=True)
        self._head: Tree = {}
        self._finished: set[int] = set()
        self._told: set[int] = set()
        """Choices whose finish has been written; events are read ahead of that."""
        self._seen: set[int] = set()

    def _read(self, event: Event, tree: Tree) -> None:
        usage = tree.get("usage")
        if usage is not None:
            self._usage(tree)
        choices = tree.get("choices")
        if type(choices) is not list:
            for key in tree:
                if key not in CHUNK_KEYS or key == "choices":
                    other_pieces(event.pieces, tree, key, 0, (key,))
            event.output = bool(event.pieces)
            return
        if choices:
            self._head = tree
            model = tree.get("model")
            if type(model) is str and model:
                self.model = model
            for position, choice in enumerate(choices):
                if type(choice) is not dict:
                    event.error = malformed("holds a choice that is no object")
                    return
                self._choice(event, position, choice)
        elif usage is not None and not self._wants_usage:
            event.hidden = True
        if not self._wants_usage and "usage" in tree and not event.hidden:
            del tree["usage"]
        if not tree.keys() <= CHUNK_KEYS:
            for key in tree.keys() - CHUNK_KEYS:
                other_pieces(event.pieces, tree, key, 0, (key,))

    def _choice(self, event: Event, position: int, choice: Tree) -> None:
        number = choice.get("index")
        if type(number) is not int or not 0 <= number < _MOST_CHOICES:
            number = position
        self._seen.add(number)
        delta = choice.get("delta")
        if type(delta) is dict:
            before = len(event.pieces)
            self._reader.read(event, event.pieces, choice, number, delta)
            if len(event.pieces) > before or delta.get("tool_calls"):
                event.output = True
        for key in choice:
            if (
                key not in CHOICE_KEYS
                or (key == "delta" and delta is not None and type(delta) is not dict)
                or key == "message"
            ):
                other_pieces(event.pieces, choice, key, number, (key,), index=1)
        reason = choice.get("finish_reason")
        if type(reason) is str and reason:
            self._finished.add(number)
            self.finish = FINISH.get(reason, "other")
            self.finished = len(self._finished) >= max(self._call.choices, len(self._seen))
            event.ends = (*event.ends, *self._reader.end(number))

    def _usage(self, tree: Tree) -> None:
        self.usage = merge_usage(self.usage, read_usage(tree.get("usage")))

    def write(self, event: Event) -> bytes:
        for channel in event.ends:
            self._told.add(channel.choice)
        return super().write(event)

    def late(self, event: Event | None, channel: Channel, text: str) -> bytes:
        choice = self._finishing(event, channel)
        if choice is not None:
            delta = choice.get("delta")
            if type(delta) is not dict:
                delta = choice["delta"] = {}
            self._put(delta, channel, text)
            return b""
        new: Tree = {}
        self._put(new, channel, text)
        return self._chunk([{"index": channel.choice, "delta": new, "finish_reason": None}])

    def finalise(self) -> bytes:
        return b"" if self.ended else DONE

    def stop(self, error: CallError) -> bytes:
        still_open = sorted((self._seen or {0}) - self._told) or [0]
        out = self._chunk([{"index": n, "delta": {}, "finish_reason": "content_filter"} for n in still_open])
        if self._call.stream and self._wants_usage:
            out += self._chunk([], usage=usage_tree(self.usage))
        return out + DONE

    def _finishing(self, event: Event | None, channel: Channel) -> Tree | None:
        """The choice in `event` that ends this channel's choice, if there is one."""
        if event is None or type(event.tree) is not dict:
            return None
        for position, choice in enumerate(event.tree.get("choices") or ()):
            number = choice.get("index")
            if (number if type(number) is int else position) == channel.choice and choice.get(
                "finish_reason"
            ):
                return choice  # type: ignore[no-any-return]
        return None

    def _put(self, delta: Tree, channel: Channel, text: str) -> None:
        kind = channel.kind
        if kind == "tool_arguments" or kind == "tool_name":
            self._put_arguments(delta, channel, text)
        elif kind == "content":
            put_at(delta, ("audio", "transcript") if channel.index else ("content",), text)
        elif kind == "refusal":
            put_at(delta, ("refusal",), text)
        else:
            put_at(delta, channel.path, text)

    def _put_arguments(self, delta: Tree, channel: Channel, text: str) -> None:
        field: Path = ("custom", "input") if channel.path == CUSTOM else ("function", "arguments")
        text = as_arguments(channel, text)
        if channel.index == -1:
            put_at(delta, ("function_call", "arguments"), text)
            return
        wire = channel.index
        for tool in self._reader.tools.values():
            if tool.channel is channel:
                wire = tool.wire
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

    def _chunk(self, choices: list[Tree], *, usage: Tree | None = None) -> bytes:
        head = self._head
        tree: Tree = {
            "id": head.get("id") or f"chatcmpl-{self._call.id}",
            "object": "chat.completion.chunk",
            "created": head.get("created") or created(),
            "model": head.get("model") or self._call.model,
            "choices": choices,
        }
        if usage is not None:
            tree["usage"] = usage
        return write_event(tree)


def usage_tree(usage: Usage | None) -> Tree:
    """Usage so far in the words of chat completions; zeros where nothing is known."""
    before, after = (usage.input or 0, usage.output or 0) if usage is not None else (0, 0)
    return {"prompt_tokens": before, "completion_tokens": after, "total_tokens": before + after}
