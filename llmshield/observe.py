"""What is told about a finished exchange: counters for `/metrics` and `/status`, and one record for the audit."""

from __future__ import annotations

from collections.abc import Sequence

from llmshield import clock
from llmshield.audit import AttemptRecord, Audit, FindingRecord, Record, VerdictRecord
from llmshield.call import Attempt
from llmshield.chain import Took
from llmshield.exchange import Exchange
from llmshield.metrics import Metrics

PICO = 10**12


class Observer:
    """Counts and records each exchange once, whatever path it took out."""

    def __init__(self, metrics: Metrics, audit: Audit, policy_hash: str) -> None:
        self._metrics = metrics
        self._audit = audit
        self._policy = policy_hash

    def __call__(self, x: Exchange) -> None:
        """Tell about an exchange that is over."""
        now = clock.monotonic()
        latency = now - x.started_at
        overhead = max(0.0, latency - x.upstream_s)
        tenant = x.caller.tenant if x.caller is not None else ""
        streamed = x.reply is not None and x.reply.stream
        dialect = x.dialect.name if x.dialect is not None else ""
        status = 499 if x.cancelled and not x.status else x.status  # nginx's word for a client that went away
        metrics = self._metrics
        metrics.call(
            mount=x.incoming.mount,
            dialect=dialect,
            status=status,
            action=x.action,
            stream=streamed,
            tenant=tenant,
            latency_s=latency,
            overhead_s=overhead,
            first_byte_s=x.first_byte_at - x.started_at if x.first_byte_at is not None else None,
            client_retry=x.headers.get("x-stainless-retry-count", "0") not in {"0", ""},
        )
        for attempt in x.attempts:
            self._count_attempt(attempt, tenant)
        for name, (requests, tokens) in x.remaining.items():
            metrics.remaining(name, requests, tokens)
        metrics.hooks(x.trail.took)
        if self._audit.enabled:
            self._audit.record(self._record(x, latency, overhead, status, dialect))

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

    def _record(self, x: Exchange, latency: float, overhead: float, status: int, dialect: str) -> Record:
        call, reply, caller = x.call, x.reply, x.caller
        usage = reply.usage if reply is not None else None
        cost = x.cost_picousd
        return Record(
            request_id=x.id,
            policy=self._policy,
            mount=x.incoming.mount,
            dialect=dialect,
            operation=x.operation,
            path=x.path,
            tenant=caller.tenant if caller is not None else "",
            tier=caller.tier if caller is not None else None,
            key_id=caller.key_id if caller is not None else None,
            client=caller.address if caller is not None else x.incoming.peer,
            stream=bool(reply is not None and reply.stream),
            model=call.model if call is not None else "",
            provider=x.attempts[-1].provider if x.attempts else None,
            answered_model=reply.model if reply is not None else None,
            attempts=[
                AttemptRecord(
                    provider=attempt.provider,
                    model=attempt.model,
                    outcome=attempt.outcome or "failed",
                    reason=attempt.reason,
                    status=attempt.status,
                    ms=_ms(_seconds(attempt)),
                    cost_usd=usd(attempt.cost_picousd),
                    prices=attempt.prices,
                    dialect=attempt.dialect,
                    lost=attempt.lost,
                )
                for attempt in x.attempts
            ],
            verdicts=[
                VerdictRecord(
                    took.plugin,
                    took.hook,
                    took.action,
                    "enforce" if took.enforced else "monitor",
                    int(took.ms * 1000 + 0.5) / 1000,
                    _findings(took) if took.findings else (),
                    took.error,
                )
                for took in x.trail.took
            ],
            action=x.action,
            status=status,
            error=_ending(x),
            finish=reply.finish if reply is not None else None,
            input_tokens=usage.input if usage is not None else None,
            output_tokens=usage.output if usage is not None else None,
            cost_usd=usd(cost),
            latency_ms=_ms(latency),
            first_byte_ms=_ms(x.first_byte_at - x.started_at) if x.first_byte_at else None,
            overhead_ms=_ms(overhead),
            unscanned=tuple(call.unseen) if call is not None else (),
            overrides=x.overrides,
            route_why=x.why,
            tags=dict(call.tags) if call is not None else {},
        )


def usd(picousd: int | None) -> str | None:
    """An amount as an exact decimal with twelve digits, or None for none."""
    if picousd is None:
        return None
    sign, amount = ("-", -picousd) if picousd < 0 else ("", picousd)
    return f"{sign}{amount // PICO}.{amount % PICO:012d}"


def _ending(x: Exchange) -> str | None:
    """Why the exchange did not end well, as a constant; None when it did."""
    if x.cancelled and x.error is None:
        return "client_gone"
    return x.error.kind if x.error is not None else None


def _seconds(attempt: Attempt) -> float:
    return (attempt.ended_at - attempt.started_at) if attempt.ended_at is not None else 0.0


def _ms(seconds: float) -> float:
    """Milliseconds, to the microsecond; a fifth of what `round` takes."""
    return int(seconds * 1_000_000 + 0.5) / 1000


def _findings(took: Took) -> Sequence[FindingRecord]:
    return [FindingRecord(f.type, f.action, f.count, f.score, f.place) for f in took.findings]
