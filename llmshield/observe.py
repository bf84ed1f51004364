"""What is told about a finished exchange: counters for `/metrics` and `/status`, one record for the audit, and a log line
for each failed attempt (at `debug` one for each call)."""

from __future__ import annotations

import math

from llmshield import clock
from llmshield.audit import Audit, Mode, Said, Subject
from llmshield.call import Attempt
from llmshield.chain import Took
from llmshield.exchange import Exchange
from llmshield.logs import LEVELS, log
from llmshield.metrics import Metrics
from llmshield.records import call_record
from llmshield.redact import redact

_NOT_ASKED = frozenset({"skipped", "circuit_open"})
_EVERY_S = 1.0
_MOST_WAYS = 1_000
_DEBUG = LEVELS["debug"]


class Observer:
    """Counts and records each exchange once, whatever path it took out."""

    def __init__(self, metrics: Metrics, audit: Audit) -> None:
        self._metrics = metrics
        self._audit = audit
        self._failures: dict[tuple[str, str | None, int | None], tuple[float, int]] = {}
        if audit.enabled:
            for name, help, read in (
                ("records", "Records that were written.", lambda: float(audit.written)),
                ("dropped", "Records that were lost.", lambda: float(audit.dropped)),
                ("failing", "1 while no record can be written.", lambda: float(audit.failure is not None)),
            ):
                metrics.gauge(f"llmshield_audit_{name}", help, read=read)

    @property
    def required(self) -> bool:
        """Whether nothing may happen without its record (`witness.py`)."""
        return self._audit.required

    @property
    def ready(self) -> bool:
        """Whether records can be written at the moment, as far as is known."""
        return self._audit.ready

    @property
    def keeps_texts(self) -> bool:
        """Whether records hold something of the texts."""
        return self._audit.enabled and self._audit.content != "none"

    async def write(self, x: Exchange, kind: str) -> None:
        """Record what an exchange is about to do, and wait until that is durable. Raises: StoreUnavailable."""
        latency = clock.monotonic() - x.started_at
        body = self._body(x, kind, x.action, latency, max(0.0, latency - x.upstream_s), x.status)
        await self._audit.record_and_wait(body, _subject(x, "none"))

    def __call__(self, x: Exchange) -> None:
        """Tell about an exchange that is over."""
        now = clock.monotonic()
        latency = now - x.started_at
        overhead = max(0.0, latency - x.upstream_s)
        tenant = x.caller.tenant if x.caller is not None else ""
        streamed = x.reply is not None and x.reply.stream
        dialect = x.dialect.name if x.dialect is not None else ""
        status = 499 if x.cancelled and not x.status else x.status  # nginx's word for a client that went away
        action = x.action
        metrics = self._metrics
        metrics.call(
            mount=x.incoming.mount,
            dialect=dialect,
            status=status,
            action=action,
            stream=streamed,
            tenant=tenant,
            latency_s=latency,
            overhead_s=overhead,
            first_byte_s=x.first_byte_at - x.started_at if x.first_byte_at is not None else None,
            client_retry=x.headers.get("x-stainless-retry-count", "0") not in {"0", ""},
        )
        for attempt in x.attempts:
            self._count_attempt(attempt, tenant)
            if attempt.outcome == "failed" and attempt.reason not in _NOT_ASKED:
                self._tell_failure(x.id, attempt, now)
        if log.level <= _DEBUG:
            log.debug(
                "call", request_id=x.id, dialect=dialect, operation=x.operation, tenant=tenant, status=status,
                action=action, attempts=[attempt.provider for attempt in x.attempts], ms=round(latency * 1000, 1),
            )  # fmt: skip
        for name, (requests, tokens) in x.remaining.items():
            metrics.remaining(name, requests, tokens)
        metrics.hooks(x.trail.took)
        if self._audit.enabled:
            body = self._body(x, "call", action, latency, overhead, status)
            self._audit.record(body, _subject(x, self._audit.content))

    def _body(self, x: Exchange, kind: str, action: str, latency: float, overhead: float, status: int) -> str:
        return call_record(
            x, kind=kind, policy=self._audit.policy, action=action, status=status, latency_s=latency,
            overhead_s=overhead, hashed=self._audit.hashed,
        )  # fmt: skip

    def _tell_failure(self, request_id: str, attempt: Attempt, now: float) -> None:
        """One line a second for each way in which a provider fails, with how many were left out since."""
        way = (attempt.provider, attempt.reason, attempt.status)
        told, more = self._failures.get(way, (-math.inf, 0))
        if now - told < _EVERY_S:
            self._failures[way] = (told, more + 1)
            return
        if len(self._failures) >= _MOST_WAYS:
            self._failures.clear()
        self._failures[way] = (now, 0)
        log.warning(
            "provider_failed", request_id=request_id, provider=attempt.provider, model=attempt.model,
            reason=attempt.reason or "", status=attempt.status, attempt=attempt.number, left_out=more,
        )  # fmt: skip

    def _count_attempt(self, attempt: Attempt, tenant: str) -> None:
        usage = attempt.usage
        self._metrics.attempt(
            provider=attempt.provider,
            model=attempt.model,
            outcome=attempt.outcome or "failed",
            reason=attempt.reason,
            seconds=_seconds(attempt),
            tenant=tenant,
            input_tokens=usage.input if usage is not None else None,
            output_tokens=usage.output if usage is not None else None,
            cost_picousd=attempt.cost_picousd,
        )


def _subject(x: Exchange, mode: Mode) -> Subject | None:
    """Whom a record is about, and what was said; None where that is nobody and nothing.

    Texts are redacted by the plugin `pii`, which sees them before anybody is asked: where it did not, because it is
    disabled, watches only, failed, or another plugin ended the call first, hashes are kept in their place. What no model
    reads (`user`, `metadata`) is no text.
    """
    call = x.call
    if mode == "redacted" and not (x.attempts and any(map(_edited, x.trail.took))):
        mode = "hash"
    said: list[Said] = []
    if mode != "none" and call is not None:
        said = [Said(text.role, text.place, text.value) for text in call.prompts()]
        said += [Said("output", place, "".join(parts)) for place, parts in (x.heard or {}).items()]
        if mode != "hash":
            # Here, while the call's own secrets are known: the writer's thread knows ours only.
            said = [Said(role, place, redact(text)) for role, place, text in said]
    if not said and not x.user:
        return None
    return Subject(x.id, x.caller.tenant if x.caller is not None else "", x.user, said, mode, x.started_at)


def _edited(took: Took) -> bool:
    return took.plugin == "pii" and took.hook == "pre_request" and took.enforced and took.action != "error"


def _seconds(attempt: Attempt) -> float:
    return (attempt.ended_at - attempt.started_at) if attempt.ended_at is not None else 0.0
