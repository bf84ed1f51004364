"""Wire formats: bytes in, events out; no sockets, no clocks, no policy.

A dialect is one file: a module with one public subclass of `Dialect`; its `name` is the module's name. The
contract suite in tests/contracts covers it the day its file appears. What belongs to a whole family (errors,
authentication, the model list) lives in `_openai.py`, `_anthropic.py`, `_gemini.py`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from llmshield.call import Call, Channel, FinishKind, Operation, Tree, Usage
from llmshield.errors import CallError, UpstreamError
from llmshield.verdicts import Answer

if TYPE_CHECKING:
    from llmshield.dialects._plain_text import PlainText


@dataclass(slots=True)
class WireRequest:
    """A request as it came in or will go out. `path` is decoded once and canonical, `query` raw, header names
    lower-case, `body` decompressed bytes."""

    method: str
    path: str
    query: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    lines: str = ""
    """The headers as lines of HTTP/1.1, where somebody has written them already."""

    def __repr__(self) -> str:  # keys are in the head, prompts in the body
        return f"<WireRequest {self.method} {len(self.headers)} headers, {len(self.body)} bytes>"


@dataclass(slots=True)
class WireReply:
    """A whole reply that llmshield made or rewrote."""

    status: int
    headers: dict[str, str]
    body: bytes

    def __repr__(self) -> str:
        return f"<WireReply {self.status} {len(self.headers)} headers, {len(self.body)} bytes>"


@dataclass(slots=True)
class Piece:
    """One place in a reply (or in one event) that holds text for a client.

    `holder[key]` is the string (or number). `whole` is True where the text does not stream: it arrives in one
    piece (`repeats` False) or repeats the channel's full text (`repeats` True). `shadows` are places that
    spell the same text again (log-probabilities, offsets): set to None when the text changes or is held.
    """

    channel: Channel
    holder: Any
    key: Any
    whole: bool = False
    repeats: bool = False
    shadows: tuple[tuple[Any, Any], ...] = ()

    def __repr__(self) -> str:
        return f"<Piece of {self.channel}>"


@dataclass(slots=True)
class Event:
    """One wire event of a streamed reply.

    `tree` is its parsed data (None: comment, `[DONE]`, keep-alive), `pieces` its texts, `ends` the channels
    that are complete with it, `output` True when it carries anything that a client would show or run (text,
    tool call, refusal): before the first such event an attempt can still be replaced. `hidden`: not for the
    client (a usage chunk it did not ask for). `error`: the provider's error object or a broken event; the
    stream is over. `again`: reading it told the codec nothing but the text in its one piece, so that the next
    such event need not be read by it (`_again`).
    """

    name: str = ""
    tree: Any = None
    raw: bytes = b""
    pieces: list[Piece] = field(default_factory=list)
    ends: tuple[Channel, ...] = ()
    output: bool = False
    hidden: bool = False
    error: UpstreamError | None = None
    again: bool = False

    def __repr__(self) -> str:  # what a provider says may quote a key, or be somebody's answer
        return f"<Event {self.name!r} {len(self.pieces)} pieces, {len(self.raw)} bytes>"


@dataclass(slots=True)
class WholeReply:
    """What a whole reply says. `error` is set where a 200 carries an error object or an unusable shape."""

    tree: Any
    pieces: list[Piece]
    usage: Usage | None
    finish: FinishKind | None
    model: str
    error: UpstreamError | None = None


class StreamCodec(ABC):
    """One streamed reply in one dialect: reads the provider's bytes, writes the client's.

    Attributes are filled while events go by: `usage`, `model`, `finish`, `ended` (the dialect's terminator was
    seen), `finished` (every open part has its finish: the reply is complete even without the terminator).
    `media_type` is the content type that this form of stream has.
    """

    media_type: str = "text/event-stream"

    usage: Usage | None = None
    model: str = ""
    finish: FinishKind | None = None
    ended: bool = False
    finished: bool = False

    @abstractmethod
    def feed(self, data: bytes) -> list[Event]:
        """The events that these bytes complete. Never raises: what is broken is an Event with `error`."""

    @abstractmethod
    def close(self) -> list[Event]:
        """The provider's bytes are over. An event without its blank line is discarded (WHATWG HTML 9.2.6)."""

    @abstractmethod
    def write(self, event: Event) -> bytes:
        """The event for the client, re-serialised from `tree`; U+2028, U+2029, U+0085 are escaped."""

    @abstractmethod
    def late(self, event: Event | None, channel: Channel, text: str) -> bytes:
        """Text left over in a channel that `event` ends: put it into the event where it has room for it (and
        return b""), else the bytes of a delta event to be written before it. `event` None: the stream ends."""

    @abstractmethod
    def finalise(self) -> bytes:
        """What a complete reply still lacks: the terminator that the provider left out, or b""."""

    @abstractmethod
    def stop(self, error: CallError) -> bytes:
        """End the stream because a guard said so, with the dialect's own stop signal and usage so far."""

    @abstractmethod
    def abort(self, error: CallError, request_id: str) -> bytes:
        """End the stream with an error that makes an SDK raise: the answer is not complete."""


class Dialect(ABC):
    """One wire format. Stateless and shared by all calls.

    `name` is the module's name, `family` what a provider's `dialect:` says (openai, anthropic, gemini).
    """

    name: ClassVar[str]
    family: ClassVar[str]

    @abstractmethod
    def claims(self, method: str, path: str, headers: Mapping[str, str]) -> Operation | None:
        """What this request asks of this dialect, or None if it is not one of its paths."""

    @abstractmethod
    def read_call(self, id: str, operation: Operation, request: WireRequest, tree: Tree) -> Call:
        """The Call in a parsed body: model, bounds, stream flag, every text, what the provider holds unseen.

        Raises: WireError with the place when a field that we rely on has another type than its dialect allows.
        """

    @abstractmethod
    def write_call(self, call: Call, model: str) -> Tree:
        """The body for a provider of this family: a copy of the top level of `call.body`, ready to be changed
        for one attempt: the target's model, usage reporting in streams switched on."""

    @abstractmethod
    def target(self, call: Call, model: str) -> tuple[str, str]:
        """Path (below the provider's base_url) and query for this call at a provider of this family."""

    @abstractmethod
    def bound(self, body: Tree) -> int | None:
        """Output tokens for each choice that the body allows; None without a bound."""

    @abstractmethod
    def clamp(self, body: Tree, tokens: int) -> None:
        """Bound the answer in a body made by `write_call`; never raises a bound that is lower."""

    def limit_rounds(self, body: Tree, rounds: int) -> None:  # noqa: B027  most APIs have no word for it
        """Bound how often the provider's own tools may run, in a body made by `write_call`, where it has no bound."""

    @abstractmethod
    def read_reply(self, call: Call, tree: Any) -> WholeReply:
        """A whole reply taken apart; texts stay in the tree and are changed there."""

    @abstractmethod
    def open_stream(self, call: Call) -> StreamCodec:
        """A codec for one streamed reply to this call."""

    def plain_text(self, headers: Mapping[str, str]) -> PlainText | None:
        """How the answer with this head is read if it is no JSON; None: it has to be JSON. Raises: UpstreamError."""
        return None

    @abstractmethod
    def answer(self, call: Call, answer: Answer) -> Tree:
        """A whole reply with a text of our own, with zero usage."""

    @abstractmethod
    def answer_stream(self, call: Call, answer: Answer) -> bytes:
        """The same as a complete stream."""

    @abstractmethod
    def write_error(self, error: CallError, request_id: str) -> WireReply:
        """An error of ours in this dialect's shape; statuses and types as in docs/errors.md."""

    @abstractmethod
    def read_error(self, status: int, headers: Mapping[str, str], body: bytes) -> UpstreamError:
        """A provider's error answer, classified (context length, content policy, retry advice)."""

    @abstractmethod
    def credentials(self, key: str) -> dict[str, str]:
        """The headers that carry a provider key in this family."""
