"""What is counted: one method for each event, Prometheus' text for `/metrics`, figures for `/status`.

Names begin with `llmshield_` and end with their unit. Models, tenants and finding types are bounded labels: a
model takes a label of its own only when a provider has answered for it, so that made-up names can't use them up.
A plugin that counts something of its own asks for a family by name (`counter`, `gauge`, `histogram`).
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, TypeVar

from llmshield import __version__, clock
from llmshield.process_figures import process_gauges
from llmshield.series import LIMIT, OTHER, Bounded, Counter, Family, Gauge, Histogram, Summary, render

_F = TypeVar("_F", bound=Family)

# Model answers take 0.1 s to minutes; what we add takes 0.1 ms to a few ms.
_ANSWER_S = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_OVERHEAD_S = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5)

_FRESH_S = 1.0


class HookRun(Protocol):
    """What a hook did in one call (`steps.Took`)."""

    plugin: str
    hook: str
    action: str
    enforced: bool
    ms: float
    findings: Any
    error: str | None


@dataclass(slots=True)
class ProviderFigures:
    """One provider on `/status`; counts are of the current UTC day, `last_ok` is seconds since 1970."""

    day: int = -1
    requests: int = 0
    ok: int = 0
    failed: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    in_a_row: int = 0
    last_ok: float | None = None
    last_failure: float | None = None
    last_reason: str | None = None
    model: str | None = None
    remaining_requests: int | None = None
    remaining_tokens: int | None = None


class _TrySeries:
    """The series that tries of one kind count in; those of tokens and money are made when there are any."""

    def __init__(
        self, metrics: Metrics, provider: str, model: str, outcome: str, reason: str | None, tenant: str
    ) -> None:
        self.attempts = metrics._attempts.child(provider, outcome, reason or "")
        self.duration: list[float] = []
        if outcome != "skipped":
            self.duration = metrics._attempt_duration.child(provider)
        self._metrics = metrics
        self._provider, self._tenant = provider, metrics._tenant(tenant)
        self.model = metrics._model(model, admit=outcome == "ok")

    @cached_property
    def input(self) -> tuple[list[float], list[float]]:
        return self._tokens("input")

    @cached_property
    def output(self) -> tuple[list[float], list[float]]:
        return self._tokens("output")

    @cached_property
    def cost(self) -> tuple[list[float], list[float]]:
        metrics = self._metrics
        return metrics._cost.child(self._provider, self.model), metrics._tenant_cost.child(self._tenant)

    def _tokens(self, direction: str) -> tuple[list[float], list[float]]:
        metrics = self._metrics
        mine = metrics._tokens.child(self._provider, self.model, direction)
        return mine, metrics._tenant_tokens.child(self._tenant, direction)


class Metrics:
    """All counts of one process."""

    def __init__(self, *, models: int = 100, tenants: int = 200, finding_types: int = 200) -> None:
        self._families: dict[str, Family] = {}
        self._model = Bounded(models)
        self._tenant = Bounded(tenants)
        self._type = Bounded(finding_types)
        self._place = Bounded(200)
        self._providers: dict[str, ProviderFigures] = {}
        # One look-up for each call, and for each hook of it; the latter is taken apart into two families when
        # somebody asks.
        self._tries: dict[tuple[str, str, str, str | None, str], _TrySeries] = {}
        self._calls: dict[tuple[str, str, int, str, bool, str], tuple[list[float], ...]] = {}
        self._took: dict[tuple[str, str, bool, str], list[float]] = {}
        self._rendered: tuple[float, bytes] = (-1e9, b"")
        self.in_flight = 0

        answer = _ANSWER_S
        self._requests = self.counter(
            "llmshield_requests_total", "Calls, by how they ended.", "mount", "dialect", "status", "action"
        )
        self._duration = self.histogram(
            "llmshield_request_duration_seconds", "From request to the reply's end.", "dialect", "stream", bounds=answer
        )  # fmt: skip
        self._first_byte = self.histogram(
            "llmshield_first_byte_seconds", "From request to the reply's first byte.", "dialect", "stream", bounds=answer
        )  # fmt: skip
        self._overhead = self.histogram(
            "llmshield_overhead_seconds", "What llmshield added to a call.", "dialect", "stream", bounds=_OVERHEAD_S
        )  # fmt: skip
        self._by_tenant = self.counter(
            "llmshield_tenant_requests_total", "Calls of a tenant.", "tenant", "action"
        )
        self._tenant_tokens = self.counter(
            "llmshield_tenant_tokens_total", "Tokens of a tenant.", "tenant", "direction"
        )
        self._tenant_cost = self._add(
            Counter("llmshield_tenant_cost_usd_total", "Cost of a tenant's calls.", ["tenant"], scale=1e-12)
        )
        self._attempts = self.counter(
            "llmshield_attempts_total", "Tries of a provider, by outcome.", "provider", "outcome", "reason"
        )
        self._attempt_duration = self.histogram(
            "llmshield_attempt_duration_seconds", "Duration of a try.", "provider", bounds=answer
        )
        self._tokens = self.counter(
            "llmshield_tokens_total", "Tokens, as providers reported them.", "provider", "model", "direction"
        )
        self._cost = self._add(
            Counter("llmshield_cost_usd_total", "Cost of all tries.", ["provider", "model"], scale=1e-12)
        )
        self._verdicts = self.counter(
            "llmshield_verdicts_total", "What plugins decided.", "plugin", "hook", "mode", "action"
        )
        self._plugin_time = self._add(
            Summary("llmshield_plugin_duration_seconds", "Time in a plugin's hook.", ["plugin", "hook"])
        )
        self._plugin_errors = self.counter(
            "llmshield_plugin_errors_total", "Hooks that failed or took too long.", "plugin", "hook"
        )
        self._findings = self.counter(
            "llmshield_findings_total", "What plugins saw.", "plugin", "type", "action"
        )
        self._cache = self.counter("llmshield_cache_total", "Answers looked for in the cache.", "result")
        self._retries = self.counter("llmshield_client_retries_total", "Calls that clients say are retries.")
        self._info = self.gauge("llmshield_build_info", "Version and policy in force.", "version", "policy")
        self._add(Gauge("llmshield_in_flight_requests", "Calls being answered.", read=lambda: self.in_flight))
        for gauge in process_gauges():
            self._add(gauge)

    # -- events ------------------------------------------------------------------------------------------------

    def call(
        self,
        *,
        mount: str,
        dialect: str,
        status: int,
        action: str,
        stream: bool,
        tenant: str,
        latency_s: float,
        overhead_s: float,
        first_byte_s: float | None = None,
        client_retry: bool = False,
    ) -> None:
        """A call is over. `action` is what became of it (allow, redact, block, would-block, would-redact)."""
        key = (mount, dialect, status, action, stream, tenant)
        held = self._calls.get(key)
        if held is None:
            kind = "true" if stream else "false"
            held = (
                self._requests.child(mount, dialect, str(status), action),
                self._by_tenant.child(self._tenant(tenant), action),
                self._duration.child(dialect, kind),
                self._overhead.child(dialect, kind),
                self._first_byte.child(dialect, kind),
            )
            if len(self._calls) < LIMIT:
                self._calls[key] = held
        requests, by_tenant, duration, overhead, first_byte = held
        requests[0] += 1
        by_tenant[0] += 1
        duration[bisect_left(_ANSWER_S, latency_s)] += 1
        duration[-1] += latency_s
        overhead[bisect_left(_OVERHEAD_S, overhead_s)] += 1
        overhead[-1] += overhead_s
        if first_byte_s is not None:
            first_byte[bisect_left(_ANSWER_S, first_byte_s)] += 1
            first_byte[-1] += first_byte_s
        if client_retry:
            self._retries.add(1)

    def attempt(
        self,
        *,
        provider: str,
        model: str,
        outcome: str,
        reason: str | None,
        seconds: float,
        tenant: str,
        input_tokens: int | None = None,
        output_tokens: int | None = None,
        cost_picousd: int | None = None,
    ) -> None:
        """A try of a provider is over: outcome ok, failed, cancelled, blocked or skipped."""
        key = (provider, model, outcome, reason, tenant)
        series = self._tries.get(key)
        if series is None:
            series = _TrySeries(self, *key)
            if len(self._tries) < LIMIT and series.model != OTHER:  # it may get a label of its own later
                self._tries[key] = series
        series.attempts[0] += 1
        if outcome == "skipped":
            return
        now = clock.now()
        figures = self._figures(provider, now)
        series.duration[bisect_left(_ANSWER_S, seconds)] += 1
        series.duration[-1] += seconds
        figures.requests += 1
        if outcome == "ok":
            figures.ok += 1
            figures.in_a_row = 0
            figures.last_ok = now
            figures.model = model
        elif outcome == "failed":
            figures.failed += 1
            figures.in_a_row += 1
            figures.last_failure = now
            figures.last_reason = reason
        if input_tokens and input_tokens > 0:
            figures.input_tokens += input_tokens
            for held in series.input:
                held[0] += input_tokens
        if output_tokens and output_tokens > 0:
            figures.output_tokens += output_tokens
            for held in series.output:
                held[0] += output_tokens
        if cost_picousd and cost_picousd > 0:
            for held in series.cost:
                held[0] += cost_picousd

    def verdict(
        self, *, plugin: str, hook: str, mode: str, action: str, seconds: float, failed: bool = False
    ) -> None:
        """A hook of a plugin has run; `mode` is enforce or monitor."""
        held = self._took_in((plugin, hook, mode == "enforce", action))
        held[0] += 1
        held[1] += seconds * 1000
        if failed:
            self._plugin_errors.add(1, plugin, hook)

    def hooks(self, took: Iterable[HookRun]) -> None:
        """All that hooks did in one call."""
        known = self._took
        for run in took:
            key = (run.plugin, run.hook, run.enforced, run.action)
            held = known.get(key) or self._took_in(key)
            held[0] += 1
            held[1] += run.ms
            if run.error is not None:
                self._plugin_errors.add(1, run.plugin, run.hook)
            for finding in run.findings:
                self.finding(plugin=run.plugin, type=finding.type, action=finding.action, count=finding.count)

    def _took_in(self, key: tuple[str, str, bool, str]) -> list[float]:
        """Where runs of this kind are counted: how many, and their milliseconds."""
        if key not in self._took and len(self._took) >= LIMIT:
            key = (OTHER, OTHER, True, OTHER)
        return self._took.setdefault(key, [0.0, 0.0])

    def finding(self, *, plugin: str, type: str, action: str, count: int = 1) -> None:
        """A plugin has seen something."""
        self._findings.add(count, plugin, self._type(type), self._place(action))

    def cache(self, result: str) -> None:
        """The cache was asked: hit, miss or bypass."""
        self._cache.add(1, self._place(result))

    def remaining(self, provider: str, requests: int | None, tokens: int | None) -> None:
        """What the provider's rate limit headers say is left."""
        figures = self._figures(provider, clock.now())
        figures.remaining_requests, figures.remaining_tokens = requests, tokens

    def policy(self, policy_hash: str) -> None:
        """This policy is in force now."""
        self._info.clear()
        self._info.set(1, __version__, policy_hash)

    # -- families of plugins and rooms -------------------------------------------------------------------------

    def counter(self, name: str, help: str, *labels: str) -> Counter:
        """The counter of this name, made on first use."""
        return self._get(Counter, name, lambda: Counter(name, help, labels))

    def gauge(self, name: str, help: str, *labels: str, read: Callable[[], float] | None = None) -> Gauge:
        """The gauge of this name, made on first use; with `read` it is asked when scraped."""
        return self._get(Gauge, name, lambda: Gauge(name, help, labels, read=read))

    def histogram(self, name: str, help: str, *labels: str, bounds: Sequence[float] = _ANSWER_S) -> Histogram:
        """The histogram of this name, made on first use; seconds."""
        return self._get(Histogram, name, lambda: Histogram(name, help, labels, bounds=bounds))

    # -- out ---------------------------------------------------------------------------------------------------

    def render(self) -> bytes:
        """The exposition, at most a second old; call it off the event loop (`asyncio.to_thread`)."""
        made, text = self._rendered
        now = time.monotonic()
        if now - made > _FRESH_S:
            self._take_apart()
            text = render(list(self._families.values()))
            self._rendered = (now, text)
        return text

    def providers(self) -> dict[str, dict[str, Any]]:
        """Figures per provider for `/status`; those of the day begin anew at midnight UTC."""
        out: dict[str, dict[str, Any]] = {}
        now = clock.now()
        for name in sorted(self._providers):
            f = self._figures(name, now)
            judged = f.ok + f.failed
            out[name] = {
                "model": f.model,
                "last_ok": f.last_ok,
                "failures": f.in_a_row,
                "last_failure": f.last_failure,
                "last_reason": f.last_reason,
                "today": {
                    "requests": f.requests,
                    "ok": f.ok,
                    "failed": f.failed,
                    "input_tokens": f.input_tokens,
                    "output_tokens": f.output_tokens,
                },
                "remaining": {"requests": f.remaining_requests, "tokens": f.remaining_tokens},
                "success_rate": round(f.ok / judged, 4) if judged else None,
            }
        return out

    def _take_apart(self) -> None:
        """What hooks did, as verdicts and as times."""
        verdicts: dict[tuple[str, ...], float] = {}
        times: dict[tuple[str, ...], list[float]] = {}
        for (plugin, hook, enforced, action), (count, ms) in list(self._took.items()):
            mode = OTHER if plugin == OTHER else "enforce" if enforced else "monitor"
            verdicts[plugin, hook, mode, action] = count
            held = times.setdefault((plugin, hook), [0.0, 0.0])
            held[0] += ms / 1000
            held[1] += count
        self._verdicts.load(verdicts)
        self._plugin_time.load(times)

    # -- inside ------------------------------------------------------------------------------------------------

    def _figures(self, provider: str, now: float) -> ProviderFigures:
        figures = self._providers.get(provider)
        if figures is None:
            figures = self._providers[provider] = ProviderFigures()
        day = int(now // 86_400)
        if figures.day != day:
            figures.day = day
            figures.requests = figures.ok = figures.failed = figures.input_tokens = figures.output_tokens = 0
        return figures

    def _add(self, family: _F) -> _F:
        self._families[family.name] = family
        return family

    def _get(self, kind: type[_F], name: str, make: Callable[[], _F]) -> _F:
        """Raises: ValueError when the name is taken by a family of another kind."""
        family = self._families.get(name)
        if family is None:
            return self._add(make())
        if not isinstance(family, kind):
            raise ValueError(f"{name} is a {family.kind} already")
        return family
