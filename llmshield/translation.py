"""From a call in one dialect to a provider of another, and back: the way of one attempt.

The provider is asked and read in its own dialect, by that dialect's own code: what guards and filters see, what is
metered and how a broken stream is told are the same as if the client had spoken it. Only what goes to the client is
translated, behind the filters.
"""

from __future__ import annotations

from typing import Protocol

from llmshield import registry
from llmshield.call import Call, Channel, FinishKind, Tree, Usage
from llmshield.conversation import Answered, Begun, Conversation, Finished, Happening, Over
from llmshield.dialects import Dialect, Event, StreamCodec, WireRequest
from llmshield.dialects._tree import dump
from llmshield.errors import CallError, UpstreamError, WireError
from llmshield.policy import Provider
from llmshield.traffic import Dialects
from llmshield.translators import Reader, Translator, Writer
from llmshield.translators._json import note


class Goes(Protocol):
    """Puts the question to go on into a conversation (`resuming.Resumption`)."""

    def ask(self, conversation: Conversation, family: str) -> None: ...


def untold(code: str, why: str) -> UpstreamError:
    """A target that is passed over, for good: the same call could not be told it the next time either. The client
    learns why if nobody else could be asked."""
    return UpstreamError("skipped", why, code=code, refusal=CallError("bad_request", why))


class Translations:
    """All translators there are, and the dialects they translate."""

    def __init__(self, dialects: Dialects) -> None:
        self._dialects = dialects
        self._translators: dict[str, Translator] = {
            name: registry.find("translator", name)() for name in registry.names("translator")
        }
        self._targets = {each.targets: name for name, each in self._translators.items() if each.targets}

    def adapt(self, dialect: str, body: Tree, provider: Provider) -> None:
        """Change the body of a call that lands at a provider, as the policy says for it. The client's own objects
        stay as they are: `body` is a copy of their top level."""
        translator = self._translators.get(dialect)
        if translator is None:
            return
        system = provider.system
        if system is not None and (system.prefix or system.suffix):
            translator.around_system(body, system.prefix, system.suffix)
        if provider.parameters:
            translator.set_defaults(body, provider.parameters)

    def reader(self, dialect: str) -> Reader | None:
        """Reads a stream in this dialect; None where it has no translator."""
        known = self._translators.get(dialect)
        return known.reader() if known is not None else None

    def to(
        self,
        family: str,
        call: Call,
        model: str,
        resumption: Goes | None = None,
        *,
        whole: bool = False,
        lost: list[str] | None = None,
    ) -> Translation:
        """The way of this call to a provider of another family, or (with a `resumption`) of the rest of its answer;
        `whole`: its answer is not to be streamed.

        Raises: UpstreamError `skipped` where there is none; what the provider would miss is added to `lost` then.
        """
        source, name = self._translators.get(call.dialect), self._targets.get(family)
        if family == call.family:
            name = call.dialect if call.dialect in self._translators else None
        if source is None or name is None or call.operation != "generate":
            raise untold(
                "dialect",
                f"Calls of {call.dialect!r} ({call.operation}) are not translated for a provider of {family!r}.",
            )
        conversation = source.read_conversation(call)
        conversation.model = model
        if resumption is not None:
            resumption.ask(conversation, family)
        if whole:
            conversation.stream = False
        return self._way(source, name, call, conversation, family, lost)

    def aside(self, family: str, call: Call, conversation: Conversation) -> Translation:
        """The way of a question of a plugin's own. Raises: UpstreamError `skipped` where there is none."""
        name = self._targets.get(family)
        if name is None:
            raise UpstreamError("skipped", f"A provider of {family!r} can't be asked this.", code="dialect")
        return self._way(self._translators[name], name, call, conversation, family)

    def _way(
        self,
        source: Translator,
        name: str,
        call: Call,
        conversation: Conversation,
        family: str,
        lost: list[str] | None = None,
    ) -> Translation:
        target = self._translators[name]
        body = target.write_conversation(conversation)
        if conversation.missing:
            if lost is not None:
                lost += conversation.missing
            raise untold(
                "translation",
                f"A provider of {family!r} would miss a part of the call: {conversation.missing[0]}.",
            )
        path, query = target.route(conversation)
        dialect = self._dialects[name]
        try:
            twin = dialect.read_call(call.id, "generate", WireRequest("POST", path, query, {}, b""), body)
        except WireError as error:
            raise UpstreamError(
                "skipped", f"A provider of {family!r} can't be asked this: {error}", code="translation"
            ) from None
        twin.tenant, twin.tier, twin.key_id, twin.client = call.tenant, call.tier, call.key_id, call.client
        twin.tags = call.tags
        twin.headers = target.headers
        twin.texts = []  # guards look at the client's; these would lead back to the call: a circle
        return Translation(source, target, dialect, call, twin, conversation.lost)


class Translation:
    """One attempt's way. `dialect` and `call` are the provider's; `lost` is what the provider is not told."""

    def __init__(
        self,
        source: Translator,
        target: Translator,
        dialect: Dialect,
        asked: Call,
        call: Call,
        lost: list[str],
    ) -> None:
        self._source = source
        self._target = target
        self._asked = asked
        self.dialect = dialect
        self.call = call
        self.lost = lost

    def answer(self, tree: Tree) -> bytes:
        """A whole reply of the provider, for the client."""
        return self.written(self.read(tree))

    def read(self, tree: Tree) -> Answered:
        """A whole reply of the provider, in neutral words."""
        return self._target.read_answer(tree)

    def written(self, answered: Answered) -> bytes:
        """A whole reply for the client."""
        out = self._source.write_answer(answered, self._asked)
        for what in answered.lost:
            note(self.lost, what)
        return dump(out)

    def codec(self, inner: StreamCodec) -> StreamCodec:
        """Reads the provider's stream by its own codec and writes the client's."""
        return TranslatingCodec(inner, *self.ends())

    def ends(self) -> tuple[Reader, Writer]:
        """A reader of the provider's dialect and a writer of the client's."""
        reader, writer = self._target.reader(), self._source.writer(self._asked)
        reader.lost = writer.lost = self.lost
        return reader, writer


_CALLS = 2
_ORDER = {"reasoning": 0, "content": 1, "refusal": 1, "tool_name": _CALLS, "tool_arguments": _CALLS}
"""The order of an answer's parts, by kind of channel."""


class TranslatingCodec(StreamCodec):
    """A stream read in one dialect and written in another. `inner` is the provider's own codec."""

    def __init__(self, inner: StreamCodec, reader: Reader, writer: Writer) -> None:
        self._inner = inner
        self._reader = reader
        self._writer = writer
        self._begun = False
        self._finished = False
        self._over = False
        self._words: dict[Channel, int] = {}
        """Channels of words that may still be open, with their place in the order of parts."""
        self.media_type = writer.media_type

    @property
    def usage(self) -> Usage | None:  # type: ignore[override]  # kept by the inner one
        return self._inner.usage

    @property
    def model(self) -> str:  # type: ignore[override]
        return self._inner.model

    @property
    def finish(self) -> FinishKind | None:  # type: ignore[override]
        return self._inner.finish

    @property
    def ended(self) -> bool:  # type: ignore[override]
        return self._over  # events are read ahead of what is written

    @property
    def finished(self) -> bool:  # type: ignore[override]
        return self._inner.finished

    def feed(self, data: bytes) -> list[Event]:
        events = self._inner.feed(data)
        for event in events:
            event.again = False  # its form is the provider's, not the client's
            if event.pieces:
                self._end_words(event)
        return events

    def _end_words(self, event: Event) -> None:
        """Where a part begins that comes behind words, those are over: what filters still hold of them goes before it.

        Dialects without borders between parts end their words with the answer only; in one that has them, the last word
        would stand behind the tool's call.
        """
        here = {piece.channel for piece in event.pieces}
        for channel in here:
            place = _ORDER.get(channel.kind)
            if place is None:
                continue
            for words, before in list(self._words.items()):
                if before < place and words.choice == channel.choice and words not in here:
                    del self._words[words]
                    event.ends = (words, *event.ends)
            if place < _CALLS:
                self._words[channel] = place

    def close(self) -> list[Event]:
        return self._inner.close()

    def write(self, event: Event) -> bytes:
        return self._translated(self._inner.write(event))

    def late(self, event: Event | None, channel: Channel, text: str) -> bytes:
        return self._translated(self._inner.late(event, channel, text))

    def finalise(self) -> bytes:
        return self._translated(self._inner.finalise()) + self._end()

    def stop(self, error: CallError) -> bytes:
        if self._over:
            return b""
        out = self._start()
        self._over = True
        return out + self._writer.stop(error)

    def abort(self, error: CallError, request_id: str) -> bytes:
        self._over = True
        return self._writer.abort(error, request_id)

    def _translated(self, data: bytes) -> bytes:
        if not data or self._over:
            return b""
        return b"".join([self._write(happening) for happening in self._reader.feed(data)])

    def _write(self, happening: Happening) -> bytes:
        if self._over:
            return b""  # whatever comes behind the end
        kind = type(happening)
        if kind is Over:
            return self._end()
        if kind is Begun:
            self._begun = True
        elif kind is Finished:
            self._finished = True
        return self._writer.write(happening)

    def _start(self) -> bytes:
        if self._begun:
            return b""
        self._begun = True
        return self._writer.write(Begun(self._inner.model))

    def _end(self) -> bytes:
        if self._over:
            return b""
        out = self._start()
        if not self._finished:
            out += self._writer.write(Finished(0, self._inner.finish or "stop"))
        self._over = True
        return out + self._writer.write(Over())
