"""Streams of choices: what chat completions and legacy completions have in common."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

from llmshield.call import Call, Channel, Tree, Usage
from llmshield.dialects import Event
from llmshield.dialects._openai import FINISH, created, flag, malformed, merge_usage, read_served, read_usage
from llmshield.dialects._openai_codec import DONE, OpenAICodec, other_pieces
from llmshield.dialects._sse import write_event
from llmshield.dialects._tree import expect
from llmshield.errors import CallError

CHUNK_KEYS = frozenset(
    (
        "id",
        "object",
        "created",
        "model",
        "system_fingerprint",
        "service_tier",
        "choices",
        "usage",
        "obfuscation",
    )
)
"""Fields of a reply or chunk that hold no text of their own."""

_MOST_CHOICES = 4096


def wants_usage(tree: Tree, *, streamed: bool) -> bool:
    """Whether the client is to see the usage: of a stream only if it asks. Raises: WireError for other values."""
    options = tree.get("stream_options")
    if options is not None:
        expect(options, dict, "/stream_options", "an object")
    return not streamed or (options is not None and flag(options, "include_usage", "/stream_options"))


def asking_usage(call: Call, model: str) -> Tree:
    """The call's body for `model`; a stream has to end with its usage, whether the client asked or not."""
    body = dict(call.body)
    body["model"] = model
    if call.stream:
        body["stream_options"] = {**(body.get("stream_options") or {}), "include_usage": True}
    return body


class ChoicesCodec(OpenAICodec):
    """A stream of chunks with choices; subclasses know what is in a choice."""

    object: ClassVar[str]
    prefix: ClassVar[str]
    """What ids begin with."""

    def __init__(self, call: Call) -> None:
        super().__init__(call)
        self._expected = call.choices
        self._head: Tree = {}
        self._seen: set[int] = set()
        self._finished: set[int] = set()
        self._told: set[int] = set()
        """Choices whose finish has been written; events are read ahead of that."""

    @abstractmethod
    def _texts(self, event: Event, choice: Tree, number: int) -> None:
        """The pieces of one choice."""

    @abstractmethod
    def _end(self, number: int) -> tuple[Channel, ...]:
        """The channels that end with this choice."""

    @abstractmethod
    def _put(self, choice: Tree, channel: Channel, text: str) -> None:
        """Add text to a choice."""

    @abstractmethod
    def _bare(self, number: int) -> Tree:
        """A choice without text and finish."""

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
                number = choice.get("index")
                if type(number) is not int or not 0 <= number < _MOST_CHOICES:
                    number = choice["index"] = position
                self._seen.add(number)
                self._texts(event, choice, number)
                if number in self._finished and any(
                    not p.whole and p.channel.choice == number for p in event.pieces
                ):
                    # Its filters have let go of what they held: a value that goes on here would not be seen.
                    event.error = malformed("goes on behind the finish of a choice")
                    return
                reason = choice.get("finish_reason")
                if type(reason) is str and reason:
                    self._finish(event, number, reason)
            if usage is not None:
                event.again = False
        elif usage is not None and not self._wants_usage:
            event.hidden = True
        if not self._wants_usage and "usage" in tree and not event.hidden:
            del tree["usage"]
        if not tree.keys() <= CHUNK_KEYS:
            for key in tree.keys() - CHUNK_KEYS:
                other_pieces(event.pieces, tree, key, 0, (key,))

    def _finish(self, event: Event, number: int, reason: str) -> None:
        self._finished.add(number)
        self.finish = FINISH.get(reason, "other")
        self.finished = len(self._finished) >= max(self._expected, len(self._seen))
        event.ends = (*event.ends, *self._end(number))

    def _left_open(self) -> tuple[Channel, ...]:
        return tuple(
            channel for number in sorted(self._seen - self._finished) for channel in self._end(number)
        )

    def _usage(self, tree: Tree) -> None:
        self.usage = merge_usage(self.usage, read_served(tree, read_usage(tree.get("usage"))))

    def write(self, event: Event) -> bytes:
        for channel in event.ends:
            self._told.add(channel.choice)
        return super().write(event)

    def late(self, event: Event | None, channel: Channel, text: str) -> bytes:
        choice = None if event is None else self._finishing(event, channel)
        if choice is not None:
            self._put(choice, channel, text)
            return b""
        choice = self._bare(channel.choice)
        self._put(choice, channel, text)
        return self._chunk([choice])

    def _finishing(self, event: Event, channel: Channel) -> Tree | None:
        """The choice in `event` that finishes this channel's choice, if there is one; `[DONE]` has none."""
        for choice in event.tree["choices"] if event.tree is not None else ():
            if choice["index"] == channel.choice and choice.get("finish_reason"):
                return choice  # type: ignore[no-any-return]
        return None

    def finalise(self) -> bytes:
        return b"" if self.ended else DONE

    def stop(self, error: CallError) -> bytes:
        still_open = sorted((self._seen or {0}) - self._told) or [0]
        out = self._chunk(
            [{**self._bare(number), "finish_reason": "content_filter"} for number in still_open]
        )
        if self._wants_usage:
            out += self._chunk([], usage=usage_tree(self.usage))
        return out + DONE

    def _chunk(self, choices: list[Tree], *, usage: Tree | None = None) -> bytes:
        head = self._head
        tree: Tree = {
            "id": head.get("id") or f"{self.prefix}{self._call.id}",
            "object": self.object,
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
