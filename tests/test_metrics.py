"""Every event is counted, under bounded labels; figures per provider are of the day."""

import time

import pytest
from prometheus_client.parser import text_string_to_metric_families

from llmshield import clock
from llmshield import metrics as metrics_module
from llmshield.metrics import Metrics


def samples(metrics):
    """{(name, labels): value} by the reference parser, rendered afresh."""
    metrics._rendered = (-1e9, b"")
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(metrics.render().decode())
        for sample in family.samples
    }


def value(metrics, name, **labels):
    return samples(metrics).get((name, tuple(sorted(labels.items()))))


CALL = {
    "mount": "gateway", "dialect": "openai_chat", "status": 200, "action": "redact", "stream": True, "tenant": "acme",
    "latency_s": 0.8, "overhead_s": 0.0004, "first_byte_s": 0.2, "client_retry": True,
}  # fmt: skip
ATTEMPT = {
    "provider": "openai", "model": "gpt-4o", "outcome": "ok", "reason": None, "seconds": 0.7, "tenant": "acme",
    "input_tokens": 12, "output_tokens": 30, "cost_picousd": 214_000_000,
}  # fmt: skip


def test_a_call():
    metrics = Metrics()
    metrics.call(**CALL)

    out = samples(metrics)
    kind = {"dialect": "openai_chat", "stream": "true"}

    def at(name, **labels):
        return out[(name, tuple(sorted(labels.items())))]

    assert (
        at("llmshield_requests_total", mount="gateway", dialect="openai_chat", status="200", action="redact")
        == 1
    )
    assert at("llmshield_request_duration_seconds_sum", **kind) == 0.8
    assert at("llmshield_request_duration_seconds_bucket", **kind, le="1") == 1
    assert at("llmshield_overhead_seconds_bucket", **kind, le="0.0005") == 1
    assert at("llmshield_first_byte_seconds_count", **kind) == 1
    assert at("llmshield_tenant_requests_total", tenant="acme", action="redact") == 1
    assert at("llmshield_client_retries_total") == 1


def test_an_attempt():
    metrics = Metrics()
    metrics.attempt(**ATTEMPT)
    metrics.attempt(
        **ATTEMPT | {"outcome": "failed", "reason": "connect", "input_tokens": None, "output_tokens": None}
    )

    assert value(metrics, "llmshield_attempts_total", provider="openai", outcome="ok", reason="") == 1
    assert (
        value(metrics, "llmshield_attempts_total", provider="openai", outcome="failed", reason="connect") == 1
    )
    assert (
        value(metrics, "llmshield_tokens_total", provider="openai", model="gpt-4o", direction="output") == 30
    )
    assert value(metrics, "llmshield_tenant_tokens_total", tenant="acme", direction="input") == 12
    assert value(metrics, "llmshield_cost_usd_total", provider="openai", model="gpt-4o") == pytest.approx(
        0.000428
    )
    assert value(metrics, "llmshield_tenant_cost_usd_total", tenant="acme") == pytest.approx(0.000428)
    assert value(metrics, "llmshield_attempt_duration_seconds_count", provider="openai") == 2


def test_verdicts_findings_cache():
    metrics = Metrics()
    metrics.verdict(plugin="pii", hook="pre_request", mode="monitor", action="would-redact", seconds=0.002)
    metrics.verdict(
        plugin="pii", hook="pre_request", mode="enforce", action="error", seconds=0.3, failed=True
    )
    metrics.finding(plugin="pii", type="US_SSN", action="redact", count=3)
    metrics.cache("hit")
    metrics.policy("sha256:1")
    metrics.policy("sha256:2")
    metrics.in_flight = 4

    kind = {"plugin": "pii", "hook": "pre_request"}

    assert value(metrics, "llmshield_verdicts_total", **kind, mode="monitor", action="would-redact") == 1
    assert value(metrics, "llmshield_plugin_duration_seconds_sum", **kind) == 0.302
    assert value(metrics, "llmshield_plugin_errors_total", **kind) == 1
    assert value(metrics, "llmshield_findings_total", plugin="pii", type="US_SSN", action="redact") == 3
    assert value(metrics, "llmshield_cache_total", result="hit") == 1
    assert value(metrics, "llmshield_in_flight_requests") == 4
    info = [labels for name, labels in samples(metrics) if name == "llmshield_build_info"]
    assert [dict(labels)["policy"] for labels in info] == ["sha256:2"]


def test_made_up_models_take_no_label():
    """Only a model that answered gets one; refused names count under `other`."""
    metrics = Metrics(models=3)
    for n in range(1000):
        metrics.attempt(**ATTEMPT | {"model": f"made-up-{n}", "outcome": "failed", "reason": "status"})
    metrics.attempt(**ATTEMPT)

    models = {dict(labels)["model"] for name, labels in samples(metrics) if name == "llmshield_tokens_total"}

    assert models == {"other", "gpt-4o"}


def test_a_million_names_stay_below_the_bounds():
    """Exposition below 5,000 series, 5 MB and 200 ms whatever callers invent."""
    metrics = Metrics()
    for n in range(20_000):
        name = f"n{n}"
        metrics.call(**CALL | {"tenant": name, "dialect": name, "mount": name})
        metrics.attempt(**ATTEMPT | {"provider": name, "model": name, "tenant": name, "reason": name})
        metrics.verdict(plugin=name, hook=name, mode="enforce", action=name, seconds=0)
        metrics.finding(plugin=name, type=name, action=name)

    start = time.process_time()
    text = metrics.render()
    spent = time.process_time() - start
    families = list(text_string_to_metric_families(text.decode()))

    assert len(text) < 5_000_000
    assert spent < 1.0
    assert (
        len({(f.name, *s.labels.items()) for f in families for s in f.samples if "le" not in s.labels})
        < 15_000
    )


def test_families_of_plugins():
    metrics = Metrics()
    metrics.counter("llmshield_limiter_degraded_total", "Falls to the local share.", "scope").add(1, "redis")
    metrics.counter("llmshield_limiter_degraded_total", "Falls to the local share.", "scope").add(1, "redis")
    metrics.gauge("llmshield_audit_dropped", "Records lost.", read=lambda: 5)
    metrics.histogram("llmshield_wait_seconds", "In the queue.", bounds=[1]).observe(0.5)

    assert value(metrics, "llmshield_limiter_degraded_total", scope="redis") == 2
    assert value(metrics, "llmshield_audit_dropped") == 5
    assert value(metrics, "llmshield_wait_seconds_count") == 1
    with pytest.raises(ValueError, match="is a counter already"):
        metrics.gauge("llmshield_limiter_degraded_total", "Another kind.")


def test_the_process_is_measured():
    out = samples(Metrics())

    assert out[("process_resident_memory_bytes", ())] > 1e6
    assert out[("process_cpu_seconds_total", ())] > 0
    assert out[("process_open_fds", ())] > 2
    assert out[("process_start_time_seconds", ())] > 1.7e9


def test_the_exposition_is_kept_for_a_second(monkeypatch):
    metrics = Metrics()
    first = metrics.render()
    metrics.cache("hit")

    assert metrics.render() is first

    monkeypatch.setattr(metrics_module, "_FRESH_S", -1)

    assert metrics.render() != first


def test_names_and_units():
    """`llmshield_` first; totals end in `_total`, times in `_seconds`, money in `_usd_total`."""
    for family in Metrics()._families.values():
        if family.name.startswith("process_"):
            continue
        assert family.name.startswith("llmshield_")
        assert family.name.endswith("_total") == (family.kind == "counter")
        if family.kind in {"histogram", "summary"}:
            assert family.name.endswith("_seconds")
        assert family.help.endswith(".")


class Stopped:
    """A clock that stands still."""

    def __init__(self, now):
        self.time = now

    def now(self):
        return self.time

    monotonic = now

    async def sleep(self, seconds):
        self.time += seconds


def test_figures_per_provider_are_of_the_day():
    stopped = Stopped(86_400 * 20_000 + 86_390)
    before = clock.install(stopped)
    try:
        metrics = Metrics()
        metrics.attempt(**ATTEMPT)
        metrics.attempt(**ATTEMPT | {"outcome": "failed", "reason": "status"})
        metrics.attempt(**ATTEMPT | {"outcome": "failed", "reason": "connect"})
        metrics.attempt(**ATTEMPT | {"outcome": "cancelled"})
        metrics.attempt(**ATTEMPT | {"outcome": "skipped"})
        metrics.remaining("openai", 59, 12_000)

        today = metrics.providers()["openai"]
        stopped.time += 20
        tomorrow = metrics.providers()["openai"]
    finally:
        clock.install(before)

    assert today["today"] == {"requests": 4, "ok": 1, "failed": 2, "input_tokens": 48, "output_tokens": 120}
    assert today["success_rate"] == 0.3333
    assert today["failures"] == 2
    assert today["last_ok"] == 86_400 * 20_000 + 86_390
    assert today["last_reason"] == "connect"
    assert today["model"] == "gpt-4o"
    assert today["remaining"] == {"requests": 59, "tokens": 12_000}
    assert tomorrow["today"]["requests"] == 0
    assert tomorrow["success_rate"] is None
    assert tomorrow["last_ok"] == today["last_ok"]
