"""A finished exchange is counted once and recorded once, with all that an auditor asks."""

import json
from types import SimpleNamespace

import pytest

from llmshield import clock
from llmshield.audit import Audit
from llmshield.call import Attempt, Call, Finding, Reply, Usage
from llmshield.chain import Took
from llmshield.errors import CallError
from llmshield.exchange import Exchange, Incoming
from llmshield.identity import Caller
from llmshield.logs import LEVELS, log
from llmshield.metrics import Metrics
from llmshield.observe import Observer
from llmshield.policy.apps import Audit as Settings
from llmshield.testing import FrozenClock


@pytest.fixture
def frozen():
    """Time stands still at a known moment."""
    held = FrozenClock()
    before = clock.install(held)
    yield held
    clock.install(before)


@pytest.fixture
def tell(tmp_path, frozen):
    """Observe exchanges; return the records that were written."""
    metrics = Metrics()
    sink = Settings(sink=f"file://{tmp_path}/audit.jsonl")

    def run(*exchanges):
        audit = Audit(sink, "sha256:1f3a")
        audit.start()
        observer = Observer(metrics, audit)
        for exchange in exchanges:
            observer(exchange)
        audit.close()
        lines = [json.loads(line) for line in (tmp_path / "audit.jsonl").read_text().splitlines()]
        return [line for line in lines if line["kind"] == "call"]

    run.metrics = metrics
    return run


async def no_body(limit):
    return b""


def exchange(frozen, **more):
    """An exchange that began 0.8 s ago, 0.5 s of it spent waiting for a provider."""
    started = clock.monotonic()
    x = Exchange(
        incoming=Incoming("POST", b"/v1/chat/completions", b"", [], "203.0.113.7", no_body),
        client=SimpleNamespace(started=True),
        id="01JABC",
        started_at=started,
        path="/v1/chat/completions",
        operation="generate",
        status=200,
    )
    x.caller = Caller("acme", "pro", "k1", "sk-client-secret-1234", "203.0.113.7")
    x.dialect = SimpleNamespace(name="openai_chat")
    x.call = Call(
        id=x.id,
        dialect="openai_chat",
        family="openai",
        operation="generate",
        model="gpt-4o",
        body={"prompt": "SECRET"},
    )
    x.call.unseen.append("previous_response_id")
    x.upstream_s = 0.5
    for name, value in more.items():
        setattr(x, name, value)
    frozen.advance(0.8)
    return x


def attempt(x, outcome, **more):
    made = Attempt(
        x.call, number=len(x.attempts) + 1, provider="openai", model="gpt-4o", dialect="openai_chat", body={}
    )
    made.started_at, made.ended_at, made.outcome = 1.0, 1.25, outcome
    for name, value in more.items():
        setattr(made, name, value)
    x.attempts.append(made)


def answered(frozen):
    """Redacted by one plugin, flagged by another in monitor mode, answered at the second try."""
    x = exchange(frozen)
    attempt(x, "failed", reason="status", status=503)
    attempt(x, "ok", status=200, usage=Usage(input=12, output=30), cost_picousd=214_000_000)
    x.reply = Reply(provider="openai", model="gpt-4o-2024-11-20", dialect="openai_chat", stream=True)
    x.reply.usage = Usage(input=12, output=30)
    x.reply.finish = "stop"
    x.trail.took.append(
        Took("pii", "pre_request", "redact", True, 1.5, (Finding("US_SSN", "redact", 0.9, "/a", 2),))
    )
    x.trail.took.append(Took("injection", "pre_request", "would-block", False, 0.5))
    x.trail.took.append(Took("mine", "pre_request", "error", True, 300.0, error="timeout"))
    return x


def test_the_record_of_an_answered_call(tell, frozen):
    (record,) = tell(answered(frozen))

    expected = {
        "request_id": "01JABC", "policy": "sha256:1f3a", "mount": "gateway", "dialect": "openai_chat",
        "operation": "generate", "tenant": "acme", "tier": "pro", "stream": True, "model": "gpt-4o",
        "provider": "openai", "answered_model": "gpt-4o-2024-11-20", "action": "redact", "status": 200, "error": None,
        "finish": "stop", "input_tokens": 12, "output_tokens": 30, "cost_usd": "0.000214000000",
        "latency_ms": 800.0, "overhead_ms": 300.0, "unscanned": ["previous_response_id"],
    }  # fmt: skip
    assert {name: record[name] for name in expected} == expected
    assert [(a["outcome"], a["reason"], a["status"], a["ms"]) for a in record["attempts"]] == [
        ("failed", "status", 503, 250.0),
        ("ok", None, 200, 250.0),
    ]
    assert [(v["plugin"], v["action"], v["mode"], v["error"]) for v in record["verdicts"]] == [
        ("pii", "redact", "enforce", None),
        ("injection", "would-block", "monitor", None),
        ("mine", "error", "enforce", "timeout"),
    ]
    assert record["verdicts"][0]["findings"][0]["count"] == 2


def test_nothing_of_the_caller_is_in_the_record(tell, frozen):
    record = json.dumps(tell(answered(frozen)))

    for secret in ("SECRET", "sk-client-secret", "203.0.113.7", '"k1"'):
        assert secret not in record


def test_everything_is_counted(tell, frozen):
    tell(answered(frozen))
    text = tell.metrics.render().decode()

    for line in (
        'llmshield_requests_total{mount="gateway",dialect="openai_chat",status="200",action="redact"} 1',
        'llmshield_attempts_total{provider="openai",outcome="failed",reason="status"} 1',
        'llmshield_attempts_total{provider="openai",outcome="ok",reason=""} 1',
        'llmshield_tokens_total{provider="openai",model="gpt-4o",direction="output"} 30',
        'llmshield_verdicts_total{plugin="injection",hook="pre_request",mode="monitor",action="would-block"} 1',
        'llmshield_findings_total{plugin="pii",type="US_SSN",action="redact"} 2',
        'llmshield_plugin_errors_total{plugin="mine",hook="pre_request"} 1',
    ):
        assert line in text


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"status": 0, "cancelled": True}, {"status": 499, "error": "client_gone"}),
        ({"status": 200, "cancelled": True}, {"status": 200, "error": "client_gone"}),
        (
            {"status": 400, "error": CallError("blocked", "no", plugin="pii")},
            {"action": "block", "error": "blocked"},
        ),
        (
            {"status": 401, "error": CallError("unauthenticated", "no"), "caller": None},
            {"tenant": "", "action": "block", "error": "unauthenticated"},
        ),
        (
            {"status": 400, "error": CallError("bad_request", "no"), "call": None, "dialect": None},
            {"model": ""},
        ),
        ({"stopped": True}, {"action": "block"}),
    ],
)
def test_every_path_out_has_its_record(tell, frozen, changes, expected):
    (record,) = tell(exchange(frozen, **changes))

    assert {name: record[name] for name in expected} == expected


def test_failed_attempts_are_logged_once_a_second_for_each_way(tell, frozen, monkeypatch):
    """Also without an audit log an operator sees why calls fail; a storm does not fill the disk."""
    lines = []
    monkeypatch.setattr(log, "_write", lambda level, event, fields: lines.append((level, event, fields)))
    monkeypatch.setattr(log, "level", LEVELS["info"])

    def failed(reason="status", status=503):
        x = exchange(frozen)
        frozen.advance(-0.8)
        attempt(x, "failed", reason=reason, status=status)
        return x

    def later(x):
        frozen.advance(1.0)
        return x

    calls = [
        failed(),
        failed(),
        failed("connect", None),
        failed("skipped", None),
        failed("circuit_open", None),
        failed(),
    ]
    tell.observer = Observer(tell.metrics, Audit(Settings(sink="none"), "sha256:1f3a"))
    for x in calls:
        tell.observer(x)
    tell.observer(later(failed()))
    told = [(level, event, f["reason"], f["status"], f["left_out"]) for level, event, f in lines]

    assert [
        (30, "provider_failed", "status", 503, 0),
        (30, "provider_failed", "connect", None, 0),
        (30, "provider_failed", "status", 503, 2),
    ] == told
    assert {"01JABC"} == {f["request_id"] for _, _, f in lines}


def test_at_debug_each_call_has_a_line(tell, frozen, monkeypatch):
    lines = []
    monkeypatch.setattr(log, "_write", lambda level, event, fields: lines.append((event, fields)))
    tell(answered(frozen))
    (line,) = [fields for event, fields in lines if event == "call"]

    assert ("01JABC", 200, "redact", ["openai", "openai"]) == (
        line["request_id"], line["status"], line["action"], line["attempts"],
    )  # fmt: skip
    assert "SECRET" not in str(lines)
