"""One request and its answer on their way through the engine, and the client at the other end."""

from __future__ import annotations

import math
import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

from llmshield import clock
from llmshield.call import Attempt, Call, Reply
from llmshield.chain import Chain, Trail
from llmshield.errors import PROVIDERS_FAULT, CallError
from llmshield.identity import Caller

if TYPE_CHECKING:
    from llmshield.channels import Channels
    from llmshield.dialects import Dialect, StreamCodec
    from llmshield.heads import Head, Kept
    from llmshield.idempotency import Claim
    from llmshield.origins import Origin
    from llmshield.policy import Route as Rule
    from llmshield.racing import Floor
    from llmshield.resuming import Resumption, Shadow
    from llmshield.transport import Transport
    from llmshield.verdicts import Target
    from llmshield.witness import Witness

_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_PAIRS = tuple(high + low for high in _CROCKFORD for low in _CROCKFORD)
_DIGITS = (_CROCKFORD * 8).encode("ascii")
"""A random byte -> a random digit of 5 bits."""


class _Ids:
    """Makes ids; the random digits of 400 of them are made at once."""

    def __init__(self) -> None:
        self._at_ms = 0
        self._time = ""
        self._forget()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forget)  # two processes must not make the same ones

    def _forget(self) -> None:
        self._random = ""
        self._used = 0

    def __call__(self) -> str:
        """A ULID: 48 bits of milliseconds and 80 random bits, in 26 characters that sort by time."""
        now_ms = int(clock.now() * 1000)
        if now_ms != self._at_ms:
            self._at_ms = now_ms
            self._time = "".join([_PAIRS[(now_ms >> shift) & 1023] for shift in (40, 30, 20, 10, 0)])
        used = self._used
        if used >= len(self._random):
            self._random, used = os.urandom(6400).translate(_DIGITS).decode("ascii"), 0
        self._used = used + 16
        return self._time + self._random[used : used + 16]


new_id = _Ids()


AtOnce: TypeAlias = Callable[[bytes], None]


class Client(Protocol):
    """The other end of an exchange, whichever mount it came through. A client that is gone cancels the task, unless
    it `lingers`: then what is sent goes nowhere."""

    started: bool
    lingers: bool

    async def start(self, status: int, headers: Mapping[str, str]) -> None:
        """Send the head of the answer."""
        ...

    async def send(self, data: bytes) -> None:
        """Send a part of the body; waits while the client does not read (backpressure)."""
        ...

    @property
    def at_once(self) -> AtOnce | None:
        """What sends a part of the body now; None while that might have to wait, and where it always may."""
        ...

    async def end(self) -> None:
        """The body is complete."""
        ...

    def cut(self) -> None:
        """The body is not complete and never will be: close the connection, so that nobody takes it for whole."""
        ...


class BodyReader(Protocol):
    """Reads a request's whole body, up to `limit` bytes. Raises: CallError `too_large`, `client_timeout`."""

    def __call__(self, limit: int, /) -> Awaitable[bytes]: ...


class Arrival(Protocol):
    """A request as its mount took it: nothing parsed but the head. `local` are transports of this request alone
    (the wrapped app); `on_begin` is given the exchange before anything happens; `origin` is where an intercepted call
    was going; `kept` is what it shares with requests of the same head, if it may."""

    @property
    def method(self) -> str: ...
    @property
    def raw_path(self) -> bytes: ...
    @property
    def raw_query(self) -> bytes: ...
    @property
    def headers(self) -> list[tuple[bytes, bytes]]: ...
    @property
    def peer(self) -> str: ...
    @property
    def read_body(self) -> BodyReader: ...
    @property
    def mount(self) -> str: ...
    @property
    def local(self) -> Mapping[str, Transport]: ...
    @property
    def on_begin(self) -> Callable[[Exchange], None] | None: ...
    @property
    def origin(self) -> Origin | None: ...
    @property
    def kept(self) -> Kept | None: ...


@dataclass(slots=True)
class Incoming:
    """An `Arrival` of plain values."""

    method: str
    raw_path: bytes
    raw_query: bytes
    headers: list[tuple[bytes, bytes]]
    peer: str
    read_body: BodyReader
    mount: str = "gateway"
    local: Mapping[str, Transport] = field(default_factory=dict)
    on_begin: Callable[[Exchange], None] | None = None
    origin: Origin | None = None
    kept: Kept | None = None

    def __repr__(self) -> str:  # the client's key is in the head, or in the query
        return f"<Incoming {self.method} {len(self.headers)} headers>"


@dataclass(slots=True)
class Exchange:
    """Everything about one exchange that the engine, the audit record and the metrics need."""

    incoming: Arrival
    client: Client
    id: str
    started_at: float
    method: str = ""
    path: str = ""
    query: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    head: Head | None = None
    """What the request's head says; None until it is read."""
    caller: Caller | None = None
    claim: Claim | None = None
    """The Idempotency-Key that this exchange answers for."""
    dialect: Dialect | None = None
    operation: str = ""
    call: Call | None = None
    user: str = ""
    """Whom the caller says that the call is for (`user`, `metadata.user_id`), before any plugin has edited it."""
    witness: Witness | None = None
    """Where nothing may happen without its record."""
    heard: dict[str, list[str]] | None = None
    """The reply's texts by channel, as guards left them; None where nobody keeps them."""
    chain: Chain | None = None
    trail: Trail = field(default_factory=Trail)
    attempts: list[Attempt] = field(default_factory=list)
    deadline: float = math.inf
    """When the call is over, whatever its attempts may still take, by the monotonic clock."""
    reply: Reply | None = None
    codec: StreamCodec | None = None
    """The stream under way, once its head has gone out: it can still be ended in its dialect."""
    status: int = 0
    error: CallError | None = None
    stopped: bool = False
    """A guard ended the reply after parts of it had reached the client."""
    broken: bool = False
    """The reply broke after parts of it had reached the client."""
    mid_stream: Literal["error", "continue", "restart_marker"] = "error"
    """What the route says of streams that break after their first output."""
    to: tuple[Target, ...] = ()
    """Whom the policy's own route names: the client's own key is for the first of them."""
    regions: tuple[str, ...] | None = None
    """Regions outside of which nobody is asked."""
    failed: Attempt | None = None
    """The attempt that failed last."""
    floor: Floor | None = None
    """Who may speak to the client, while several providers are asked at once."""
    shadow: Shadow | None = None
    """What the client has got of a stream that may be resumed."""
    channels: Channels | None = None
    """The filters of a stream that may be resumed."""
    resumption: Resumption | None = None
    """How the next provider takes over a stream that broke."""
    first_token: float | None = None
    """The route's limit for the silence before a first output, in seconds."""
    on_loss: str = "record"
    """What the route says of wishes that a translation can't carry: record, or refuse."""
    own_key: bool = False
    """A provider was asked with the client's own key: its 401 is the client's to read."""
    degraded: bool = False
    cancelled: bool = False
    asked_at: float | None = None
    """Since when somebody waits for a provider."""
    upstream_s: float = 0.0
    """Seconds spent waiting for providers: what is left of the latency is ours."""
    first_byte_at: float | None = None
    remaining: dict[str, tuple[int | None, int | None]] = field(default_factory=dict)
    """What each provider's rate limit headers say is left: requests, tokens."""
    overrides: tuple[str, ...] = ()
    why: str = ""

    def __repr__(self) -> str:
        return f"<Exchange {self.id} {self.method} {self.operation} {self.status}>"

    def take(self, call: Call, *, keeps_texts: bool) -> None:
        """The request was read: what it is, and whom it says it is for."""
        self.call = call
        body = call.body
        user = body.get("user") or body.get("safety_identifier")
        if not user and type(metadata := body.get("metadata")) is dict:
            user = metadata.get("user_id")
        self.user = call.user = user if type(user) is str else ""
        call.began, call._trail = self.started_at, self.trail.took
        if keeps_texts:
            self.heard = {}

    def waited(self) -> None:
        """The provider has said all that is waited for: the time since it was asked was its own."""
        if self.asked_at is not None:
            now = clock.monotonic()
            self.upstream_s += now - self.asked_at
            raced = self.floor is not None and self.floor.winner is None  # others may still answer
            self.asked_at = now if raced else None

    @property
    def action(self) -> str:
        """What became of the call, for header and record: allow, redact, block, would-block, would-redact."""
        if self.stopped or (self.error is not None and self.error.kind not in PROVIDERS_FAULT):
            return "block"
        would = ""
        redacted = False
        for took in self.trail.took:
            if took.action == "redact":
                redacted = True
            elif took.action in {"would-block", "would-redact"}:
                would = would if would == "would-block" else took.action
        return "redact" if redacted else would or "allow"

    def follow(self, rule: Rule) -> None:
        """What the route of the policy says of this call."""
        self.to, self.regions, self.first_token = rule.to, rule.regions, rule.first_token
        self.on_loss, self.mid_stream = rule.on_loss, rule.mid_stream

    def decision(self) -> dict[str, Any]:
        """What was decided so far, for `scope["llmshield"]`: plain values, never a text."""
        return {
            "request_id": self.id,
            "tenant": self.caller.tenant if self.caller is not None else None,
            "tier": self.caller.tier if self.caller is not None else None,
            "action": self.action,
            "status": self.status or None,
            "provider": self.attempts[-1].provider if self.attempts else None,
            "plugins": [
                {
                    "plugin": took.plugin,
                    "hook": took.hook,
                    "action": took.action,
                    "findings": [finding.type for finding in took.findings],
                }
                for took in self.trail.took
            ],
        }

    @property
    def cost_picousd(self) -> int | None:
        """What all attempts cost so far; None when nobody priced them."""
        attempts = self.attempts
        if len(attempts) == 1:  # nearly always
            return attempts[0].cost_picousd
        costs = [attempt.cost_picousd for attempt in attempts if attempt.cost_picousd is not None]
        return sum(costs) if costs else None
