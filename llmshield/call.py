"""Call, Reply, Channel, Attempt: one LLM request in words that no provider owns (its Texts: `texts.py`).

Rule 1: plugins propose, the engine applies. `text.replace()`, `call.clamp_output()` and `call.report()` go to
the list of proposals of the hook that runs; they count only if that hook returned in time and is enforced.
Rule 2: guards see Texts and Channels, never wire bytes.
Rule 3: nothing here does I/O or knows a dialect's fields; a dialect fills these in.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, TypeAlias

from llmshield.texts import (
    Clamp,
    Edit,
    Finding,
    Path,
    Proposal,
    Renames,
    Role,
    Rounds,
    Sealed,
    Text,
    TextKind,
    Tree,
    escape,
    shown,
)

if TYPE_CHECKING:
    from llmshield.verdicts import Block, Route, Skip, Target

    Ask: TypeAlias = Callable[[Target, str, str, int], Awaitable[str]]

Operation: TypeAlias = Literal["generate", "embed", "count_tokens", "models", "passthrough"]

ChannelKind: TypeAlias = Literal[
    "content", "reasoning", "refusal", "tool_name", "tool_arguments", "echo", "other"
]
"""`echo`: the provider repeats what the caller has sent; restorers see it, guards do not."""

FinishKind: TypeAlias = Literal["stop", "length", "tool_calls", "content_filter", "error", "other"]

Outcome: TypeAlias = Literal["ok", "failed", "cancelled", "blocked", "skipped"]


@dataclass(slots=True)
class Usage:
    """Tokens as the provider reported them, in one meaning for all dialects.

    `input` counts everything sent, cached tokens included; `output` everything produced, reasoning included.
    The `cache_*`, `*_audio`, `*_image`, `*_video` and `reasoning` figures are parts of these two,
    `cache_write_1h` of `cache_write` and `cache_audio` of `cache_read` and `input_audio`. None means: not reported.
    `tool_requests` counts web searches, `tools` the uses of the provider's other tools by their kind. `served` is
    how the provider says it served the call, as `(("service_tier", "priority"),)`.
    `estimated` marks figures that we made from the text seen because the provider gave none (or nonsense).
    """

    input: int | None = None
    output: int | None = None
    cache_read: int = 0
    cache_write: int = 0
    reasoning: int = 0
    input_audio: int = 0
    output_audio: int = 0
    input_image: int = 0
    tool_requests: int = 0
    estimated: bool = False
    malformed: bool = False
    cache_write_1h: int | None = None
    cache_audio: int | None = None
    input_video: int = 0
    output_image: int | None = None
    tools: dict[str, int] | None = None
    served: tuple[tuple[str, str], ...] = ()


__all__ = [
    "AttachedFilter", "AttachedGuard", "AttachedListener", "Attempt", "AttemptGuard", "Call", "Channel", "ChannelKind", "Clamp", "Edit",
    "Failure", "FilterFactory", "Finding", "FinishKind", "Hear", "Listener", "Operation", "Outcome", "Path", "Phase", "Proposal", "Reply",
    "Role", "Sealed", "Stop", "Text", "TextFilter", "TextKind", "Tree", "Usage",
]  # fmt: skip


class TextFilter(Protocol):
    """One stream of text going through one plugin; a new one for each channel of each attempt."""

    def feed(self, text: str) -> str | Stop:
        """Take the next piece; return what may go on now. What is held back comes out later or at `flush`."""
        ...

    def flush(self) -> str | Stop:
        """The channel ends: return what is still held."""
        ...


@dataclass(slots=True, frozen=True)
class Stop:
    """A filter's verdict to end the reply here; `release` is text that may still go out before the end."""

    block: Block
    release: str = ""


@dataclass(slots=True, frozen=True)
class Channel:
    """One stream of text inside a Reply.

    `choice` counts alternatives (n > 1), `index` content blocks or tool calls inside one, `path` the leaf
    inside JSON arguments (names and list indices), `tool` the called tool's name where it is known.
    """

    kind: ChannelKind
    choice: int = 0
    index: int = 0
    path: Path = ()
    tool: str | None = None

    def __str__(self) -> str:
        leaf = "".join(f"/{escape(shown(step))}" for step in self.path)
        return f"{self.kind}[{self.choice}.{self.index}]{leaf}"


FilterFactory: TypeAlias = "Callable[[Channel], TextFilter | None]"
Phase: TypeAlias = Literal["guard", "restore"]
Hear: TypeAlias = "Callable[[str], None]"
"""Takes the next piece of one channel."""
Listener: TypeAlias = "Callable[[Channel], Hear | None]"
"""Asked once for each channel of one attempt's reply; None: that channel is of no interest."""


class AttachedFilter(NamedTuple):
    """A filter factory that a plugin hung on a Reply."""

    plugin: str
    factory: FilterFactory
    phase: Phase
    hold_back: int
    enforced: bool
    fail_open: bool
    untouched: Callable[[str], bool] | None = None


@dataclass(slots=True, frozen=True)
class AttachedListener:
    """Somebody who hears a reply and changes nothing."""

    plugin: str
    begin: Callable[[Attempt], Listener]
    enforced: bool
    fail_open: bool


class Reply:
    """The answer to a Call, live or whole; `post_response` runs once, when its head is known.

    There is one code path for both: a whole reply is a stream of one piece. So a guard never reads a finished
    text; it attaches a filter and gets every channel of the reply through it.
    """

    __slots__ = (
        "_enforced", "_fail_open", "_filters", "_listeners", "_on_end", "_plugin", "attempts", "cached", "cost_picousd", "dialect", "finish",
        "model", "provider", "status", "stream", "usage",
    )  # fmt: skip

    def __init__(self, *, provider: str, model: str, dialect: str, stream: bool, status: int = 200) -> None:
        self.provider = provider
        self.model = model
        self.dialect = dialect
        self.stream = stream
        self.status = status
        self.usage: Usage | None = None
        self.finish: FinishKind | None = None
        self.attempts = 1
        self.cost_picousd: int | None = None
        self.cached = False
        self._filters: list[AttachedFilter] = []
        self._listeners: list[AttachedListener] = []
        self._on_end: list[tuple[str, bool, Callable[[Reply], Awaitable[None] | None]]] = []
        self._plugin = ""
        self._enforced = True
        self._fail_open = False

    def filter(
        self,
        factory: FilterFactory,
        *,
        phase: Phase = "guard",
        hold_back: int = 0,
        untouched: Callable[[str], bool] | None = None,
    ) -> None:
        """Hang a filter on every channel of this reply.

        `factory(channel)` returns a new TextFilter, or None to leave that channel alone; for `tool_arguments` it is
        asked with an empty `path` first: None there leaves all leaves of that call alone. `guard` filters see the
        text as the provider wrote it (placeholders still in), in reverse policy order; then `restore` filters
        run. `hold_back` is the largest number of characters the filter keeps waiting. `untouched(text)` is True only
        if this text, fed whole to a new filter of any channel and flushed, would come out as it is, without a verdict:
        whole replies without a finding then cost that look and no filter.
        """
        self._filters.append(
            AttachedFilter(
                self._plugin, factory, phase, hold_back, self._enforced, self._fail_open, untouched
            )
        )

    def listen(self, begin: Callable[[Attempt], Listener]) -> None:
        """Hear what this reply says, behind all guards and before anything is put back; nothing is held or changed.

        `begin(attempt)` is asked for each attempt whose reply begins (several may, at once): `attempt.outcome` tells
        at the end which of them the client has got. What it returns is asked for each channel, as a filter's factory
        is; a channel of which the provider sends the whole text again is asked for anew.
        """
        self._listeners.append(AttachedListener(self._plugin, begin, self._enforced, self._fail_open))

    def at_end(self, fn: Callable[[Reply], Awaitable[None] | None]) -> None:
        """Call `fn(reply)` exactly once when the reply has ended, on every path: usage and finish are known.

        What a filter has seen can be told there: `call.report` in `fn` counts for the plugin that hung it here.
        """
        self._on_end.append((self._plugin, self._enforced, fn))

    def __repr__(self) -> str:
        return f"<Reply {self.provider!r} {self.model!r} {'stream' if self.stream else 'whole'}>"


class Attempt:
    """One try of one provider.

    `body` is what will be sent to this provider, `input_bytes` its serialised length, `output_bound` the
    output tokens for each choice that this body allows (None: no bound), `unseen` names content that the
    provider holds and we cannot bound (`previous_response_id`, file ids, server tools).
    """

    __slots__ = (
        "_ends", "_proposals", "_spaced", "body", "call", "choices", "code", "cost_picousd", "dialect", "ended_at",
        "first_token_at", "input_bytes", "lost", "model", "number", "outcome", "output_bound", "output_chars",
        "output_twelfths", "prices", "provider", "reason", "reserved_picousd", "retry_after_s", "sent", "started_at", "status",
        "unseen", "usage", "watch",
    )  # fmt: skip

    def __init__(
        self, call: Call, *, number: int, provider: str, model: str, dialect: str, body: Tree
    ) -> None:
        self.call = call
        self.number = number
        self.provider = provider
        self.model = model
        self.dialect = dialect
        self.body = body
        self.input_bytes = 0
        self.output_bound: int | None = None
        self.choices = 1
        self.unseen: tuple[str, ...] = ()
        self.lost: list[str] = []
        """What the client wished and this provider, of another dialect, was not told."""
        self.sent = False
        self.started_at = 0.0
        self.first_token_at: float | None = None
        self.ended_at: float | None = None
        self.status: int | None = None
        self.reason: str | None = None
        self.code: str | None = None
        self.outcome: Outcome | None = None
        self.retry_after_s: float | None = None
        """The provider's advice when it failed, 0..60 seconds."""
        self.usage: Usage | None = None
        self.reserved_picousd: int | None = None
        """What was reserved for this attempt (1 USD = 10**12), set by the plugin that keeps the money."""
        self.cost_picousd: int | None = None
        """What it cost, set at its end by the same; None: nobody priced it."""
        self.prices: str | None = None
        """Where its price is from: the list and its version, `policy`, `assumed`; None: nobody priced it."""
        self.output_chars = 0
        """Characters of text received so far, all channels: the base of an estimate when usage is missing."""
        self._spaced = False
        self.output_twelfths = 0
        """A lower bound of the tokens received so far, in twelfths; counted while `watch` is set (`meter`)."""
        self.watch: tuple[str, Callable[[Attempt], Block | None]] | None = None
        """A plugin's name, and what it wants to be asked whenever a part of a stream has come (with `usage` as far
        as it is known): a Block stops the stream with the dialect's own stop signal."""
        self._ends: list[Callable[[Attempt], Awaitable[None] | None]] = []
        self._proposals: list[Clamp | Rounds] = []

    def meter(self, text: str) -> None:
        """Count a text of the reply: `output_chars`, and the tokens that it is at the least.

        Byte-level tokenizers cut at white space, so each run of it begins a token; where there is none, a token
        holds 12 characters at the most (6 beyond ASCII: a long word of a well-known language may be one token).
        """
        size = len(text)
        self.output_chars += size
        if self.watch is not None and size:
            runs = len(text.split()) - 1 + (text[0].isspace() and not self._spaced)
            self._spaced = text[-1].isspace()
            runs = 12 * (runs + self._spaced)
            least = size if text.isascii() else 2 * size
            self.output_twelfths += runs if runs > least else least

    def clamp_output(self, tokens: int) -> None:
        """Bound this attempt's answer to `tokens` for each choice; the body that is sent carries it."""
        self._proposals.append(Clamp(tokens))

    def limit_rounds(self, rounds: int) -> None:
        """Bound how often the provider's own tools may run in this attempt, where its API has a word for that; a
        bound that the body states already stays."""
        self._proposals.append(Rounds(rounds))

    def at_end(self, fn: Callable[[Attempt], Awaitable[None] | None]) -> None:
        """Call `fn(attempt)` exactly once, whatever happens: success, failure, cancel or verdict."""
        self._ends.append(fn)

    def __repr__(self) -> str:
        return f"<Attempt {self.number} {self.provider!r} {self.model!r} {self.outcome or 'open'}>"


class _Ran(Protocol):
    """What one hook of one plugin has done (`steps.Took`)."""

    @property
    def plugin(self) -> str: ...
    @property
    def hook(self) -> str: ...
    @property
    def enforced(self) -> bool: ...
    @property
    def action(self) -> str: ...


AttemptGuard: TypeAlias = "Callable[[Attempt], Skip | Block | Awaitable[Skip | Block | None] | None]"


class AttachedGuard(NamedTuple):
    """An attempt guard and the plugin that hung it on the call."""

    plugin: str
    run: AttemptGuard
    enforced: bool
    fail_open: bool


class Call:
    """One LLM request.

    `texts` are all strings that travel to the provider and mean something; `output_bound` the client's own
    bound in tokens for each choice, or None; `tenant` and `tier` come from identity, before any plugin;
    `client` is the caller's address as the trusted hops tell it; `headers` are the client's, lower-case, as
    they arrived; `deadline` is `clock.monotonic()` seconds, or None.
    """

    __slots__ = (
        "_ask",
        "_attempt_guards",
        "_enforced",
        "_fail_open",
        "_on_end",
        "_plugin",
        "_proposals",
        "_renames",
        "_trail",
        "_twins",
        "began",
        "body",
        "choices",
        "client",
        "deadline",
        "dialect",
        "family",
        "headers",
        "id",
        "key_id",
        "method",
        "model",
        "operation",
        "other_models",
        "output_bound",
        "path",
        "query",
        "response_headers",
        "sealed",
        "state",
        "stream",
        "tags",
        "tenant",
        "texts",
        "tier",
        "unseen",
        "user",
        "wants_usage",
    )  # fmt: skip

    def __init__(
        self,
        *,
        id: str,
        dialect: str,
        family: str,
        operation: Operation,
        model: str,
        body: Tree,
        headers: Mapping[str, str] | None = None,
        method: str = "POST",
        path: str = "",
        query: str = "",
        stream: bool = False,
        output_bound: int | None = None,
        choices: int = 1,
    ) -> None:
        self.id = id
        self.dialect = dialect
        self.family = family
        self.operation: Operation = operation
        self.model = model
        self.body = body
        self.headers: Mapping[str, str] = headers or {}
        self.method = method
        self.path = path
        self.query = query
        self.stream = stream
        self.output_bound = output_bound
        self.choices = choices
        self.texts: list[Text] = []
        self.sealed: list[Sealed] = []
        self.unseen: list[str] = []
        self.other_models: tuple[tuple[str, str], ...] = ()
        """Models that the body names beside its own, with the field: the provider may run them (`*`: any)."""
        self.wants_usage = True
        self.tenant = "anonymous"
        self.tier: str | None = None
        self.key_id: str | None = None
        self.client = ""
        self.began = 0.0
        """When it arrived, in seconds of `clock.monotonic()`."""
        self.user = ""
        """Whom the caller says that the call is for (`user`, `safety_identifier`, `metadata.user_id`), before any
        plugin has edited it; empty where it names nobody."""
        self.tags: dict[str, str] = {}
        self.deadline: float | None = None
        self.response_headers: dict[str, str] = {}
        """Headers that plugins add to whatever the client gets (rate limits); lower-case names."""
        self.state: dict[object, Any] = {}
        """Scratch room for plugins; the key is the plugin object, so that no two can meet."""
        self._proposals: list[Proposal] = []
        self._attempt_guards: list[AttachedGuard] = []
        self._on_end: list[Callable[[Call], Awaitable[None] | None]] = []
        self._plugin = ""
        self._enforced = True
        self._fail_open = False
        self._renames: Renames | None = None
        self._ask: Ask | None = None
        self._trail: Sequence[_Ran] = ()
        self._twins: tuple[Call, ...] = ()

    def was_run(self, plugin: str) -> bool:
        """Whether the plugin of this name has done its `pre_request` in this call: enforced, and without a failure."""
        return any(
            each.plugin == plugin and each.hook == "pre_request" and each.enforced and each.action != "error"
            for each in self._trail
        )

    def has_failed(self, plugin: str) -> bool:
        """Whether a hook or a filter of the plugin of this name has failed in this call, and was passed over."""
        return any(each.plugin == plugin and each.action == "error" for each in self._trail)

    @property
    def enforced(self) -> bool:
        """Whether the hook that runs now is enforced; False in monitor mode, for plugins that count."""
        return self._enforced

    def clamp_output(self, tokens: int) -> None:
        """Propose a bound for the answer, in output tokens for each choice; the lowest proposal wins."""
        self._proposals.append(Clamp(tokens))

    def report(
        self, type: str, action: str, *, score: float | None = None, place: str = "", count: int = 1
    ) -> None:
        """Say what was seen: a Finding for metrics, debug headers and the decision record; never the text."""
        self._proposals.append(Finding(type, action, score, place, count))

    def guard_attempt(self, run: AttemptGuard) -> None:
        """Run `run(attempt)` before each attempt of this call is sent, on the final body for that provider.

        It may `attempt.clamp_output()`, `attempt.at_end()`, return `Skip(reason)` to pass over this target, or
        `Block(...)` to end the call. Money, permits and breakers are built on this. In monitor mode what it
        returns and clamps is counted and not applied.
        """
        self._attempt_guards.append(AttachedGuard(self._plugin, run, self._enforced, self._fail_open))

    def at_end(self, fn: Callable[[Call], Awaitable[None] | None]) -> None:
        """Call `fn(call)` exactly once when this call is over, on every path out."""
        self._on_end.append(fn)

    async def ask(self, target: Target, prompt: str, *, system: str = "", max_tokens: int = 256) -> str:
        """Ask a provider something of the plugin's own, in the name of this call; its words. Guarded, reserved and
        paid like any attempt; no other hook sees it.

        Raises: UpstreamError when it fails, CallError when a guard of attempts refuses it, RuntimeError where there
        is nobody to ask (a call that is not under way).
        """
        if self._ask is None:
            raise RuntimeError("This call is not under way: nobody can be asked.")
        return await self._ask(target, prompt, system, max_tokens)

    def prompts(self, *roles: Role) -> Iterator[Text]:
        """The texts that a model reads, of these roles (all without an argument)."""
        for text in self.texts:
            if text.kind == "prompt" and (not roles or text.role in roles):
                yield text

    def snapshot(self) -> Call:
        """A copy for a hook that runs in a thread: what it proposes after its time counts for nothing."""
        twin = copy.copy(self)
        twin.texts = [text._of(twin) for text in self.texts]
        twin._attempt_guards = list(self._attempt_guards)
        twin._on_end = list(self._on_end)
        self._twins += (twin,)
        return twin

    def adopt(self, twin: Call, guards: int, ends: int) -> None:
        """Take over what a snapshot's hook hung on it, from these positions on."""
        self._attempt_guards += twin._attempt_guards[guards:]
        self._on_end += twin._on_end[ends:]

    def let_go(self) -> None:
        """The call is over: texts and what plugins keep lead back to it, circles that only the collector would find."""
        self.texts, self.state = [], {}
        for twin in self._twins:
            twin.let_go()

    def __repr__(self) -> str:
        return f"<Call {self.id} {self.dialect} {self.model!r}>"


@dataclass(slots=True, frozen=True)
class Failure:
    """What `on_failure` gets: the attempt that failed, and what is still possible.

    `reason` is an `errors.FailureReason`; `retry_after_s` the provider's advice (0..60) or None; `tries` counts
    attempts on this target so far in this call, this one included; `visible` is True once the client has got
    any part of the answer; `route` is the route that was being walked; `left_s` are seconds that the call as a whole
    may still take.
    """

    attempt: Attempt
    reason: str
    status: int | None
    code: str | None
    retry_after_s: float | None
    tries: int
    visible: bool
    route: Route
    history: tuple[Attempt, ...] = field(default=())
    left_s: float = math.inf
