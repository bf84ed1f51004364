"""A stream that broke in the middle, and goes on from another provider: what was said, the question, and the seam.

While a stream may be resumed (a route's `mid_stream`), a `Shadow` reads what the client gets, in neutral words. When
it breaks, the next provider is asked to go on from the text so far, or to begin again behind a marker; what it says
is joined to what the client has by `ResumedCodec`: no event of the client's dialect opens twice, no text is doubled.

Rules: the next provider is shown the text as the last one wrote it, never with values put back. Filters go on across
the seam: what they held stays held. Calls of tools are never resumed: half of one can't be taken back.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import takewhile
from typing import Literal

from llmshield.call import Channel
from llmshield.channels import Channels
from llmshield.conversation import (
    Begun,
    Conversation,
    Finished,
    Happening,
    Message,
    Over,
    PartBegun,
    PartEnded,
    PartGrew,
    TextPart,
)
from llmshield.dialects import Event, Piece, StreamCodec
from llmshield.dialects._json_array import JsonArrayParser
from llmshield.errors import UpstreamError
from llmshield.translation import TranslatingCodec
from llmshield.translators import Reader, Writer

Way = Literal["continue", "restart_marker"]

MARKER = "\n\n[The answer was interrupted. It begins again.]\n\n"
GO_ON = (
    "Your last answer was interrupted. Go on with it from exactly where it stops: begin with the very next "
    "character, repeat nothing of it, and say nothing about the interruption."
)
_PREFILLED = ("claude-2", "claude-3", "claude-instant", "claude-opus-4-0", "claude-opus-4-1", "claude-opus-4-2025",
              "claude-sonnet-4-0", "claude-sonnet-4-2025", "claude-opus-4-5", "claude-sonnet-4-5", "claude-haiku-4-5")  # fmt: skip
"""Models that go on from an assistant's last message. Anthropic's later ones refuse one (400), OpenAI's and Gemini's
begin a message of their own: they are asked in words (https://platform.claude.com/docs/en/build-with-claude/
prefill-claudes-response)."""
_LEAST_OVERLAP = 12
"""Characters at the beginning that repeat the end so far, and are taken for a repetition: below it lies chance."""


class ArrayReader(Reader):
    """A stream that comes as a JSON array (Gemini without `alt=sse`), for a reader of events."""

    def __init__(self, inner: Reader) -> None:
        self._inner = inner
        self._array = JsonArrayParser()

    def feed(self, data: bytes) -> list[Happening]:
        return [
            happening
            for element in self._array.feed(data)
            for happening in self._inner.feed(b"data: " + element.replace(b"\n", b" ") + b"\n\n")
        ]


class Shadow:
    """What the client has got of a stream. `begun` is its head, `parts` what was opened, `last` the part that stands
    open."""

    def __init__(self, reader: Reader, way: Way) -> None:
        self._reader = reader
        self.way: Way = way
        self.happened: list[Happening] = []
        self._texts: list[str] = []
        self._words: list[str] = []
        self.begun: Begun | None = None
        self.parts: list[PartBegun] = []
        self.last: PartBegun | None = None
        self.finished = False
        self._others = False

    def feed(self, data: bytes) -> None:
        """These bytes went to the client."""
        for happening in self._reader.feed(data):
            if isinstance(happening, PartGrew):
                self._texts.append(happening.text)
                if self.last is not None and self.last.kind == "text":
                    self._words.append(happening.text)
                continue
            if isinstance(happening, PartEnded) and self.last is not None:
                self.happened.append(PartGrew(0, self.last.part, self.text))
            if isinstance(happening, Begun):
                self.begun = happening
            elif isinstance(happening, PartBegun):
                self.parts.append(happening)
                self.last = happening
                self._texts.clear()
                self._others |= happening.choice != 0
            elif isinstance(happening, PartEnded):
                self.last = None
            elif isinstance(happening, Finished):
                self.finished = True
            self.happened.append(happening)

    @property
    def text(self) -> str:
        """What the client has of the part that stands open."""
        return "".join(self._texts)

    @property
    def said(self) -> str:
        """What the client has of the answer's words, whether their part stands open or not."""
        return "".join(self._words)

    @property
    def resumable(self) -> bool:
        """Whether somebody else may go on: one answer, in words alone, not complete, and of parts that we can number."""
        return (
            not self.finished
            and not self._others
            and all(part.kind in {"text", "reasoning"} for part in self.parts)
            and sum(part.kind == "text" for part in self.parts) <= 1
            and self._reader.aligned()
        )


@dataclass(slots=True)
class Resumption:
    """How the next provider takes over: what the last ones wrote (`said`), on which channel, and the client's state."""

    shadow: Shadow
    said: str
    channel: Channel | None
    joins: bool
    """The new text is a continuation of the old (else it begins anew behind a marker)."""
    shown: str = ""
    """How much of `said` a prefilled model was shown: it goes on right behind that."""

    @classmethod
    def of(cls, shadow: Shadow, channels: Channels) -> Resumption | None:
        """What it takes to go on from here; None where nobody can."""
        if not shadow.resumable:
            return None
        channel, said = channels.words(), shadow.said
        if channel is not None:
            written = channels.said(channel)
            said = said if written is None else written
        joins = shadow.way == "continue"
        if not joins and channel is not None:
            channels.forget(channel)
        return cls(shadow, said, channel, joins)

    def ask(self, conversation: Conversation, family: str) -> None:
        """Put the question to go on into a conversation; where the text begins again it stays as it is."""
        self.shown = ""
        if not self.joins or not self.said.strip():
            return
        if conversation.output is not None:  # Anthropic refuses to prefill it, others would begin a new one
            conversation.missing.append("output: half an answer in JSON can't be continued")
        thinks = conversation.thinking is not None and not conversation.thinking.off
        if family == "anthropic" and conversation.model.startswith(_PREFILLED) and not thinks:
            # The API refuses a last message that ends in white space; the seam takes off what is written again.
            self.shown = self.said.rstrip()
            conversation.messages.append(Message("assistant", [TextPart(self.shown)]))
        else:
            conversation.messages.append(Message("assistant", [TextPart(self.said)]))
            conversation.messages.append(Message("user", [TextPart(GO_ON)]))


class Seam:
    """Joins a continuation to what was said: words that it repeats are taken off its beginning.

    `feed` holds the beginning back as long as it may repeat the end of the text, or all of it. A prefilled model
    (`shown`: what it saw of the text) repeats nothing: it only writes white space again that it was not shown.
    """

    def __init__(self, said: str, shown: str = "") -> None:
        self._said = said
        self._cut = said[len(shown) :] if shown else None
        self._held = ""
        self.open = bool(said) and self._cut != ""

    def feed(self, text: str) -> str:
        """The next piece of the continuation; what of it is new."""
        if not self.open:
            return text
        self._held += text
        may_repeat = self._held in self._said if self._cut is None else self._cut.startswith(self._held)
        return "" if may_repeat else self._join()

    @property
    def holds(self) -> bool:
        """Whether there is text that may be new, or not."""
        return self._held != ""

    def flush(self) -> str:
        """The continuation is over."""
        return self._join() if self.open else ""

    def _join(self) -> str:
        held, said, cut = self._held, self._said, self._cut
        self.open, self._held = False, ""
        if cut is not None:
            again = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(held, cut, strict=False)))
            return held[again:]
        for size in range(min(len(held), len(said)), 0, -1):
            if size < _LEAST_OVERLAP and size < len(said):
                break
            if said.endswith(held[:size]):
                return held[size:]
        return held


_REST = "llmshield.rest"
"""Name of an event of our own: what the seam held when a channel ended."""


class ResumedCodec(TranslatingCodec):
    """The next provider's stream as the continuation of what the client has."""

    def __init__(self, inner: StreamCodec, reader: Reader, writer: Writer, resumption: Resumption) -> None:
        super().__init__(inner, reader, writer)
        self._resumption = resumption
        shadow = resumption.shadow
        if shadow.begun is not None:
            writer.answer_id = shadow.begun.id
        for (
            happening
        ) in shadow.happened:  # the writer comes to where the client stands; nothing of it goes out
            writer.write(happening)
        if shadow.last is not None:
            writer.write(PartGrew(0, shadow.last.part, shadow.text))
        writer.catch_up(shadow._reader)
        self._begun = True
        self._open = shadow.last
        self._next = len(shadow.parts)
        self._numbers: dict[int, int] = {}
        self._seam = Seam(resumption.said, resumption.shown) if resumption.joins else None
        self._mine: Channel | None = None
        self._marked = resumption.joins

    def feed(self, data: bytes) -> list[Event]:
        return self._seamed(super().feed(data))

    def close(self) -> list[Event]:
        events = self._seamed(super().close())
        rest = self._rest()
        return [*events, rest] if rest is not None else events

    def _seamed(self, events: list[Event]) -> list[Event]:
        if self._seam is None:
            return events
        out: list[Event] = []
        old = self._resumption.channel
        silent = (self._inner.finished or self._inner.ended) and not any(map(_says, events))
        for event in events:
            if self._mine is None and old is not None and (silent or any(map(_calls, event.pieces))):
                out.append(
                    Event(_REST, ends=(old,))
                )  # no words follow: what filters hold of the old ones goes out
            event.pieces = [self._joined(piece) for piece in event.pieces]
            if self._mine is not None and self._mine in event.ends:
                rest = self._rest()
                if rest is not None:
                    out.append(rest)
                event.ends = tuple(self._old(channel) for channel in event.ends)
            out.append(event)
        return out

    def _rest(self) -> Event | None:
        """What the seam still holds, as an event that goes through the filters like any other."""
        rest = self._seam.flush() if self._seam is not None else ""
        if not rest or self._mine is None:
            return None
        return Event(_REST, pieces=[Piece(self._old(self._mine), {"rest": rest}, "rest")])

    def _old(self, channel: Channel) -> Channel:
        """The channel whose filters go on."""
        old = self._resumption.channel
        return old if old is not None and channel == self._mine else channel

    def _joined(self, piece: Piece) -> Piece:
        channel = piece.channel
        if (
            channel.kind != "content"
            or channel.choice != 0
            or (self._mine is not None and channel != self._mine)
        ):
            return piece
        self._mine = channel
        assert self._seam is not None
        if not piece.repeats and type(piece.holder[piece.key]) is str:
            piece.holder[piece.key] = self._seam.feed(piece.holder[piece.key])
        piece.channel = self._old(channel)
        return piece

    def write(self, event: Event) -> bytes:
        if event.name == _REST:
            return self._say(event.pieces[0].holder["rest"]) if event.pieces else b""
        return super().write(event)

    def _say(self, text: str) -> bytes:
        """Words of the answer, in the part that stands open, or in one of their own."""
        out = b""
        if self._open is None or self._open.kind != "text":
            out = self._begin(PartBegun(0, -1, "text"))
        assert self._open is not None
        return out + self._writer.write(PartGrew(0, self._open.part, text)) if text else out

    def late(self, event: Event | None, channel: Channel, text: str) -> bytes:
        old = self._resumption.channel
        if old is not None and channel == old:
            if self._mine is None:
                return self._say(text)
            channel = self._mine
        return super().late(event, channel, text)

    def _write(self, happening: Happening) -> bytes:
        if isinstance(happening, Begun):
            self._writer.resume(happening)
            return b""
        if isinstance(happening, PartBegun):
            return self._begin(happening)
        if isinstance(happening, PartGrew):
            number = self._numbers.get(happening.part)
            return b"" if number is None else super()._write(PartGrew(0, number, happening.text))
        if isinstance(happening, PartEnded):
            number = self._numbers.get(happening.part)
            if number is None:
                return b""
            if self._open is not None and self._open.part == number:
                self._open = None
            return super()._write(PartEnded(0, number, happening.signature, happening.sealed))
        if isinstance(happening, Finished | Over):
            if self._seam is not None and self._seam.holds:
                raise UpstreamError("malformed", "The provider ended its answer inside of a text.")
            return self._close() + super()._write(happening)
        return super()._write(happening)

    def _begin(self, part: PartBegun) -> bytes:
        """A part of the new answer: its text goes on in the part that stands open, thoughts are left out."""
        if part.kind == "reasoning" or part.choice != 0:
            return b""
        if part.kind == "text" and self._open is not None and self._open.kind == "text":
            self._numbers[part.part] = self._open.part
            return self._mark(self._open.part)
        out = b""
        if part.kind != "text" and self._open is not None and self._open.kind == "text":
            out = self._mark(self._open.part)
        out += self._close()
        number = self._numbers[part.part] = self._next
        self._next += 1
        begun = PartBegun(0, number, part.kind, part.call_id, part.name)
        if part.kind == "text":
            self._open = begun
        out += super()._write(begun)
        return out + self._mark(number) if part.kind == "text" else out

    def _mark(self, number: int) -> bytes:
        if self._marked:
            return b""
        self._marked = True
        return self._writer.write(PartGrew(0, number, MARKER))

    def _close(self) -> bytes:
        opened, self._open = self._open, None
        return self._writer.write(PartEnded(0, opened.part)) if opened is not None else b""


def _says(event: Event) -> bool:
    return any(piece.channel.kind == "content" for piece in event.pieces)


def _calls(piece: Piece) -> bool:
    return piece.channel.kind in {"tool_name", "tool_arguments"}
