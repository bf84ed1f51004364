"""Messages of chat completions: where their texts are, in whole replies and in deltas.

Channels: `content` index 0 is the text, 1 the transcript of spoken output; `tool_arguments` and `tool_name` are
counted in the order of the calls; `reasoning` and `other` carry the name of their field as path.
"""

from __future__ import annotations

from typing import Any

from llmshield.call import Call, Channel, ChannelKind, FinishKind, Path, Tree, Usage
from llmshield.dialects import Event, Piece, WholeReply
from llmshield.dialects._openai import FINISH, malformed, read_served, read_usage, upstream_error
from llmshield.dialects._openai_choices import CHUNK_KEYS
from llmshield.dialects._openai_codec import CUSTOM, offsets, other_pieces, spelled
from llmshield.dialects._pieces import TextSoFar, argument_pieces

_REASONING = frozenset(("reasoning_content", "reasoning"))
CHOICE_KEYS = frozenset(("index", "delta", "message", "finish_reason", "logprobs"))
_AUDIO_KEYS = frozenset(("id", "data", "expires_at", "transcript"))
_EMPTY: tuple[Any, ...] = (None, "", [], {})
_TAGS = frozenset(("type", "format", "id", "object", "signature"))
"""Strings of a delta's unknown objects that say what an object is: each delta repeats them, they do not go on from one to
the next. `reasoning_details` of OpenRouter have them (https://openrouter.ai/docs/use-cases/reasoning-tokens)."""


class Tool:
    """One tool call: its channel, its id and its index on the wire."""

    __slots__ = ("channel", "custom", "id", "name", "wire")

    def __init__(self, channel: Channel, id: str, wire: int, custom: bool) -> None:
        self.channel = channel
        self.id = id
        self.wire = wire
        self.custom = custom
        self.name = TextSoFar()


class MessageReader:
    """Finds the texts in messages (of a whole reply) and deltas (of a stream)."""

    def __init__(self, *, streams: bool) -> None:
        self._whole = not streams
        self._channels: dict[tuple[ChannelKind, int, int, Path], Channel] = {}
        self.open: dict[int, list[Channel]] = {}
        self.tools: dict[tuple[int, int], Tool] = {}
        self.superseded: dict[Channel, int] = {}
        """Calls whose index another call has taken over, with that index."""
        self._counts: dict[int, int] = {}
        self._tags: dict[tuple[int, Path], Tree] = {}

    def channel(self, kind: ChannelKind, choice: int, index: int = 0, path: Path = ()) -> Channel:
        """The channel of this place; one object for all its pieces."""
        key = (kind, choice, index, path)
        channel = self._channels.get(key)
        if channel is None:
            channel = self._channels[key] = Channel(kind, choice, index, path)
            self.open.setdefault(choice, []).append(channel)
        return channel

    def end(self, choice: int) -> tuple[Channel, ...]:
        """The channels that end with this choice."""
        ended = tuple(self.open.pop(choice, ()))
        if ended:
            for key in [key for key in self._channels if key[1] == choice]:
                del self._channels[key]
        return ended

    def wire(self, channel: Channel) -> int:
        """The index on the wire of the call that a channel (or a leaf of its arguments) belongs to."""
        if channel in self.superseded:
            return self.superseded[channel]
        for (choice, wire), tool in self.tools.items():
            if choice == channel.choice and tool.channel.index == channel.index:
                return wire
        return channel.index

    def read(
        self, event: Event | None, pieces: list[Piece], choice: Tree, number: int, message: Tree
    ) -> None:
        """All texts of one message or delta."""
        logprobs = choice.get("logprobs")
        for key, value in message.items():
            if key == "role":
                continue
            if key == "content" and type(value) is str:
                if value:
                    shadows = _shadows(logprobs, "content", value) if logprobs else ()
                    if "annotations" in message and self._whole:
                        shadows += offsets(message["annotations"])
                    pieces.append(
                        Piece(self.channel("content", number), message, key, self._whole, False, shadows)
                    )
            elif value in _EMPTY:
                continue
            elif key == "tool_calls" and type(value) is list:
                for position, call in enumerate(value):
                    self._tool(event, pieces, value, position, call, number)
            elif key == "refusal" and type(value) is str:
                shadows = _shadows(logprobs, "refusal", value) if logprobs else ()
                pieces.append(
                    Piece(self.channel("refusal", number), message, key, self._whole, False, shadows)
                )
            elif key in _REASONING and type(value) is str:
                pieces.append(Piece(self.channel("reasoning", number, 0, (key,)), message, key, self._whole))
            elif key == "function_call" and type(value) is dict:
                self._function(event, pieces, value, number)
            elif key == "audio" and type(value) is dict:
                self._audio(pieces, value, number)
            elif key == "annotations":  # citations come whole, also in a stream
                other_pieces(pieces, message, key, number, (key,))
            else:
                self._other(pieces, message, key, number, (key,))
        if logprobs:
            _drop_unspelled(logprobs, choice, message, pieces, number)

    def _other(self, pieces: list[Piece], holder: Any, key: Any, number: int, path: Path) -> None:
        start = len(pieces)
        other_pieces(pieces, holder, key, number, path, whole=self._whole)
        if not self._whole:
            for piece in pieces[start:]:
                if piece.whole:
                    continue  # a name
                path = piece.channel.path
                if path[-1] in _TAGS and len(path) > 1:
                    piece.whole = True
                    continue
                piece.channel = self.channel("other", number, 0, path)
                if len(path) > 1 and type(piece.holder) is dict:
                    self._tags[number, path[:-1]] = {
                        name: tag
                        for name, tag in piece.holder.items()
                        if type(tag) is int or (name in _TAGS and name != "signature")
                    }

    def tags(self, channel: Channel) -> Tree:
        """What stands beside a text of an unknown object and says what it is, as the last delta had it."""
        return self._tags.get((channel.choice, channel.path[:-1]), {})

    def _tool(
        self,
        event: Event | None,
        pieces: list[Piece],
        calls: list[Any],
        position: int,
        call: Any,
        number: int,
    ) -> None:
        if type(call) is not dict:
            self._other(pieces, calls, position, number, ("tool_calls", position))
            return
        wire = call.get("index")
        if type(wire) is not int or not 0 <= wire < 2**31:
            wire = position
        id = call.get("id")
        id = id if type(id) is str else ""
        custom = type(call.get("custom")) is dict
        body = call["custom"] if custom else call.get("function")
        name = body.get("name") if type(body) is dict else None
        tool = self.tools.get((number, wire))
        if tool is None or (id and tool.id and id != tool.id):
            # Some servers give every call the index 0 and tell them apart by id alone.
            if tool is not None and event is not None:
                event.ends = (*event.ends, tool.channel)
                self.superseded[tool.channel] = tool.wire
                self.open[number].remove(tool.channel)
            count = self._counts[number] = self._counts.get(number, -1) + 1
            channel = Channel(
                "tool_arguments", number, count, CUSTOM if custom else (), name if type(name) is str else None
            )
            self.open.setdefault(number, []).append(channel)
            tool = self.tools[number, wire] = Tool(channel, id, wire, custom)
        for key in call:
            if key == "function" or key == "custom":
                if type(body) is not dict or call[key] is not body:
                    self._other(pieces, call, key, number, ("tool_calls", wire, key))
            elif key not in ("index", "id", "type"):
                self._other(pieces, call, key, number, ("tool_calls", wire, key))
        if type(body) is dict:
            self._body(event, pieces, body, tool, "input" if custom else "arguments", number)

    def _function(self, event: Event | None, pieces: list[Piece], body: Tree, number: int) -> None:
        """The legacy `function_call` of a message: one call, without index and id."""
        tool = self.tools.get((number, -1))
        if tool is None:
            name = body.get("name")
            channel = Channel("tool_arguments", number, -1, (), name if type(name) is str else None)
            self.open.setdefault(number, []).append(channel)
            tool = self.tools[number, -1] = Tool(channel, "", -1, False)
        self._body(event, pieces, body, tool, "arguments", number)

    def _body(
        self, event: Event | None, pieces: list[Piece], body: Tree, tool: Tool, field: str, number: int
    ) -> None:
        channel = tool.channel
        for key, value in body.items():
            if value in _EMPTY:
                continue
            if key == field and type(value) is str:
                pieces.append(Piece(channel, body, key, self._whole))
            elif key == "name" and type(value) is str:
                holder = body if event is None else tool.name.part(body, key)
                if holder is None and event is not None:
                    event.error = malformed("spells the name of a tool in too many parts")
                    return
                name = Channel("tool_name", number, channel.index, (), channel.tool)
                pieces.append(Piece(name, holder, key, True))
            elif key == field:
                _leaves(pieces, body, key, channel)
            else:
                self._other(pieces, body, key, number, ("tool_calls", channel.index, key))

    def _audio(self, pieces: list[Piece], audio: Tree, number: int) -> None:
        """Spoken output: the transcript is text; the sound says the same again and goes when the text changes."""
        transcript = audio.get("transcript")
        if type(transcript) is str and transcript:
            shadows = ((audio, "data"),) if audio.get("data") else ()
            pieces.append(
                Piece(self.channel("content", number, 1), audio, "transcript", self._whole, False, shadows)
            )
        for key, value in audio.items():
            if key not in _AUDIO_KEYS and value not in _EMPTY:
                self._other(pieces, audio, key, number, ("audio", key))


def count_searches(call: Call, usage: Usage | None) -> None:
    """A chat that may search the web does it once, and the search is billed; models made for it always do."""
    if (
        usage is not None
        and not usage.malformed
        and (call.body.get("web_search_options") is not None or "-search-" in call.model)
    ):
        usage.tool_requests = 1


def read_chat(call: Call, tree: Any) -> WholeReply:
    """A whole chat completion taken apart."""
    if type(tree) is not dict:
        return WholeReply(tree, [], None, None, "", malformed("is no JSON object"))
    usage = read_served(tree, read_usage(tree.get("usage")))
    count_searches(call, usage)
    model = tree.get("model")
    model = model if type(model) is str else ""
    if tree.get("error"):
        return WholeReply(tree, [], usage, None, model, upstream_error(tree))
    choices = tree.get("choices")
    if type(choices) is not list or not choices or not all(type(choice) is dict for choice in choices):
        return WholeReply(tree, [], usage, None, model, malformed("has no choices"))
    pieces: list[Piece] = []
    finish: FinishKind | None = None
    reader = MessageReader(streams=False)
    for position, choice in enumerate(choices):
        message = choice.get("message")
        if type(message) is dict:
            reader.read(None, pieces, choice, position, message)
        elif message is not None:
            other_pieces(pieces, choice, "message", position, ("message",))
        if not choice.keys() <= CHOICE_KEYS:
            for key in choice.keys() - CHOICE_KEYS:
                other_pieces(pieces, choice, key, position, (key,), index=1)
        reason = choice.get("finish_reason")
        if type(reason) is str and reason:
            finish = FINISH.get(reason, "other")
    if not tree.keys() <= CHUNK_KEYS:
        for key in tree.keys() - CHUNK_KEYS:
            other_pieces(pieces, tree, key, 0, (key,))
    return WholeReply(tree, pieces, usage, finish, model)


def _shadows(logprobs: Any, field: str, text: str) -> tuple[tuple[Any, Any], ...]:
    return ((logprobs, field),) if type(logprobs) is dict and logprobs.get(field) else ()


def _drop_unspelled(logprobs: Any, choice: Tree, message: Tree, pieces: list[Piece], number: int) -> None:
    """Log-probabilities that do not spell the text beside them would carry text past the filters: they go."""
    if type(logprobs) is not dict:
        choice["logprobs"] = None
        return
    for field in logprobs:
        if field not in ("content", "refusal"):
            other_pieces(pieces, logprobs, field, number, ("logprobs", field), index=1)
        elif logprobs[field] and spelled(logprobs[field]) != (message.get(field) or ""):
            logprobs[field] = None


def _leaves(pieces: list[Piece], holder: Any, key: Any, channel: Channel) -> None:
    """Arguments that came as an object, as a few local servers send them: each leaf by itself."""
    value = holder[key]
    kind = type(value)
    if kind is dict or kind is list:
        argument_pieces(
            pieces, value, Channel("tool_arguments", channel.choice, channel.index, (), channel.tool)
        )
    elif kind is int or kind is float:
        leaf = Channel("tool_arguments", channel.choice, channel.index, ("arguments",), channel.tool)
        pieces.append(Piece(leaf, holder, key, True))
