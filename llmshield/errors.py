"""What can go wrong, as one tree. Callers catch a branch, not a string.

ShieldError
├── PolicyError          the policy can't be used: carries every finding at once
├── PluginError          a plugin breaks the hook contract (at load) or misuses it (in a call)
├── StoreError           the shared state
│   └── StoreUnavailable     it can't be reached: each plugin declares what that means
│       └── BookLost         it answers, and is not the money book that was spent from
├── SecretError          a key reference can't be resolved; never carries the value
├── WireError            bytes that are not what their dialect allows
├── UpstreamError        one attempt failed: its reason, status and advice
└── CallError            this call ends with an error, written in the client's own dialect

Rules: no message holds a prompt, a reply or a key. A CallError's message is for the caller's eyes; what only
an operator may know goes into the log record.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from llmshield.redact import redact_foreign

ErrorKind = Literal[
    "blocked",  # a guard's verdict
    "bad_request",  # malformed body, wrong type, depth, encoding
    "unauthenticated",  # bad, missing or contradicting client key
    "forbidden",  # an origin or address that may not call
    "model_denied",  # model not allowed for this tenant, or no route
    "not_found",  # a path or object that nobody serves
    "method_not_allowed",
    "unsupported",  # traffic that no dialect knows, refused by `unknown_traffic: deny`
    "unsupported_media",  # content type or encoding that can't be scanned
    "too_large",
    "conflict",  # the same Idempotency-Key in progress
    "rate_limited",
    "budget_spent",
    "policy_unavailable",  # a plugin failed and is `on_error: closed`
    "store_unavailable",  # money's store is lost: closed
    "no_provider",  # all targets failed, or their circuits are open
    "upstream_error",  # the provider's answer can't be used
    "upstream_timeout",
    "client_timeout",  # the request did not arrive in time
    "shutting_down",
]

PROVIDERS_FAULT: frozenset[ErrorKind] = frozenset({"no_provider", "upstream_error", "upstream_timeout"})
"""Errors of calls that the policy let through: the action of such a call is what was made of it. All others are
refusals of our own, by the policy, a limit or the state we are in: their action is `block`."""

FailureReason = Literal[
    "connect",  # no connection: refused, DNS, TLS, connect timeout
    "reset",  # the connection died before or inside the answer
    "first_token",  # silence, or the first token too late
    "idle",  # a stream that stalled
    "total",  # the attempt's whole time is over
    "status",  # an error status; see `status`
    "malformed",  # the answer breaks its dialect: not JSON, bad event, wrong length
    "truncated",  # the stream ended without its terminator and without a finish
    "error_in_stream",  # an error object inside a 200
    "context_length",  # the provider says that the input is too long for this model
    "content_policy",  # the provider refused the content
    "key",  # the provider's key can't be resolved
    "circuit_open",
    "skipped",  # an attempt guard passed over this target
]


FAILURES: tuple[type[BaseException], ...] = (Exception, SystemExit, GeneratorExit)
"""What code of plugins may raise as a failure of its own: `sys.exit` in a plugin must not end the gateway."""


class ShieldError(Exception):
    """Base of every error that llmshield raises on purpose; its message is redacted, whoever wrote parts of it."""

    def __init__(self, message: str = "") -> None:
        super().__init__(redact_foreign(message))

    def let_go(self) -> None:
        """Forget the frames that it came through, and the errors behind it. Whoever keeps an error keeps all that was in
        them (a body, what of a bomb was unpacked), and in a circle where it is kept in one of them."""
        self.__traceback__ = self.__context__ = self.__cause__ = None


class PolicyError(ShieldError):
    """The policy can't be used; `findings` holds all reasons, each with file, line, column and hint."""

    def __init__(self, findings: Sequence[object]) -> None:
        super().__init__("\n".join(str(finding) for finding in findings))
        self.findings = tuple(findings)


class PluginError(ShieldError):
    """A plugin breaks the hook contract; the message names plugin, hook and what was expected."""


class StoreError(ShieldError):
    """The shared state refused or broke an operation."""


class StoreUnavailable(StoreError):
    """The shared state can't be reached within its time limit."""


class BookLost(StoreUnavailable):
    """The store has lost the money book (flushed, replaced, restored): nothing is spent until somebody decides."""


class SecretError(ShieldError):
    """A key reference can't be resolved; the message names the reference, never a value."""


class WireError(ShieldError):
    """Bytes break their dialect. `place` is a JSON pointer, or empty for the whole."""

    def __init__(self, message: str, place: str = "") -> None:
        super().__init__(message)
        self.place = place


class UpstreamError(ShieldError):
    """One attempt failed.

    `status` is the provider's HTTP status or None, `retry_after_s` its advice in seconds (finite, 0..60) or
    None, `body` the provider's own error body, scrubbed of keys, to be passed on where the policy says so.
    `refusal` is what the client is told if this target was passed over and nobody else could be asked; `from_app`: the
    wrapped app refused a client of its own.
    """

    from_app = False

    def __init__(
        self,
        reason: FailureReason,
        message: str,
        *,
        status: int | None = None,
        code: str | None = None,
        retry_after_s: float | None = None,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        refusal: CallError | None = None,
    ) -> None:
        super().__init__(message)
        self.refusal = refusal
        self.reason: FailureReason = reason
        self.status = status
        self.code = redact_foreign(code) if code else code
        self.retry_after_s = retry_after_s
        self.headers = {name: redact_foreign(value) for name, value in headers.items()} if headers else {}
        self.body = body


class CallError(ShieldError):
    """This call ends here. A dialect writes it in the client's words (wire shapes: docs/errors.md).

    `param` is a place in the client's words (`messages[2].content`), `retry_after_s` seconds until a retry may
    succeed, `status` overrides the dialect's usual status for this kind, `plugin` names who decided.
    """

    def __init__(
        self,
        kind: ErrorKind,
        message: str,
        *,
        param: str | None = None,
        plugin: str | None = None,
        retry_after_s: float | None = None,
        status: int | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.kind: ErrorKind = kind
        self.param = param
        self.plugin = plugin
        self.retry_after_s = retry_after_s
        self.status = status
        self.code = code
        self.headers = dict(headers or {})

    @property
    def message(self) -> str:
        """The sentence for the caller."""
        return str(self.args[0])
