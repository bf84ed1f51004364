"""Records: complete, in order, on one line each, with no prompt, key or address in them."""

import asyncio
import json
import subprocess
import sys
import threading
import time

import pytest

from llmshield import redact
from llmshield.audit import Audit, _writer
from llmshield.errors import StoreUnavailable
from llmshield.evidence import segments, verify
from llmshield.policy.apps import Audit as Settings
from llmshield.records import other_record

SECRET = "sk-proj-Qz81xW73LmTTbA0Kd9"


def settings(sink, **more):
    return Settings(sink=sink, **more)


@pytest.fixture
def sink(tmp_path):
    return tmp_path / "audit.jsonl"


@pytest.fixture
def audit(sink):
    made = Audit(settings(f"file://{sink}"), "sha256:1f3a")
    made.start()
    yield made
    made.close()


def record(**more):
    return other_record({"kind": "call", "request_id": "01J", "policy": "sha256:1f3a"} | more)


def calls(sink):
    return [r for r in map(json.loads, sink.read_text().splitlines()) if r["kind"] == "call"]


def good(sink):
    return [report.fault for report in verify(segments(sink), sink=sink) if report.fault] == []


def test_head_and_end_frame_the_records(audit, sink):
    audit.record(record())
    audit.close()

    first, *_, last = [json.loads(line) for line in sink.read_text().splitlines()]

    assert first["kind"] == "head"
    assert first["policy"] == "sha256:1f3a"
    assert first["pid"] > 0
    assert last["kind"] == "end"
    assert good(sink)


def test_order_is_kept_and_nothing_is_lost(audit, sink):
    for n in range(5000):
        audit.record(record(status=n))
    audit.close()

    assert [call["status"] for call in calls(sink)] == list(range(5000))
    assert audit.dropped == 0
    assert good(sink)


def test_records_of_several_threads(audit, sink):
    threads = [
        threading.Thread(target=lambda: [audit.record(record()) for _ in range(500)]) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    audit.close()

    assert len(calls(sink)) == 2000
    assert good(sink)


def test_an_idle_audit_writes_within_a_moment(audit, sink):
    time.sleep(0.05)
    audit.record(record())
    deadline = time.monotonic() + 5
    while not (sink.exists() and calls(sink)) and time.monotonic() < deadline:
        time.sleep(0.01)

    assert len(calls(sink)) == 1


@pytest.mark.parametrize(
    "value",
    [
        "a\r\nb",
        "\x1b[31m",
        "a\u2028b\u2029c\x85",
        "\u202eevil",
        "x" * 1_000_000,
        "\ud83d",
        f"key {SECRET}",
        SECRET[::-1],
        '"}\n{"seq":1',
        "漢字",
        "\x00",
    ],
)
def test_a_hostile_name_stays_one_plain_line(audit, sink, value):
    redact.remember(SECRET)
    try:
        audit.record(
            record(
                tenant=value, model=value, key_id=value, path=value, unscanned=[value], tags={value: value}
            )
        )
        audit.close()
    finally:
        redact.forget(SECRET)

    text = sink.read_text(encoding="ascii")

    assert len(calls(sink)) == 1
    assert good(sink)
    assert SECRET not in text
    assert SECRET[::-1] not in text
    assert max(map(len, text.splitlines())) < 10_000
    assert text.isprintable() or set(text) - set(map(chr, range(32, 127))) == {"\n"}


def test_a_restart_goes_on_with_the_chain(sink):
    for _ in range(3):
        audit = Audit(settings(f"file://{sink}"), "h")
        audit.start()
        audit.record(record())
        audit.close()

    assert good(sink)
    assert len(calls(sink)) == 3
    assert segments(sink) == [sink]


def test_two_processes_of_one_policy(sink):
    one, two = Audit(settings(f"file://{sink}"), "h"), Audit(settings(f"file://{sink}"), "h")
    one.start()
    two.start()
    one.record(record(status=1))
    two.record(record(status=2))
    one.close()
    two.close()

    assert len(segments(sink)) == 2
    assert good(sink)


def test_the_sink_none_costs_nothing():
    audit = Audit(settings("none"), "h")
    audit.start()
    audit.record(record())
    audit.close()

    assert not audit.enabled
    assert audit.ready
    assert audit.written == 0


def test_standard_error_as_a_sink(capfd):
    audit = Audit(settings("stderr"), "h")
    audit.start()
    audit.record(record(tenant="acme"))
    audit.close()

    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines()]

    assert [line["kind"] for line in lines] == ["head", "call", "end"]
    assert lines[1]["prev"] == lines[0]["hash"]


class Broken:
    """A disk that refuses until it is mended."""

    def __init__(self, segment):
        self._segment = segment
        self.broken = True

    def append(self, bodies):
        if self.broken:
            raise OSError(28, "No space left on device")
        self._segment.append(bodies)

    def __getattr__(self, name):
        return getattr(self._segment, name)


def breaks(audit):
    places = audit._writer.places
    places._out = broken = Broken(places._out)
    return broken


def wait_for(what):
    deadline = time.monotonic() + 10
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.fixture
def fast_retry(monkeypatch):
    monkeypatch.setattr(_writer, "LOOK_S", 0.02)


def test_best_effort_counts_what_does_not_fit_and_tells_the_chain(sink, fast_retry, capfd):
    audit = Audit(settings(f"file://{sink}"), "h", queue=10)
    audit.start()
    wait_for(lambda: audit._writer.places._out is not None)
    broken = breaks(audit)
    for n in range(50):
        audit.record(record(status=n))
    wait_for(lambda: audit.failure)

    assert audit.ready, "best effort: calls go on"
    assert audit.failure == "No space left on device"
    assert audit.dropped == 40

    broken.broken = False
    wait_for(lambda: audit.failure is None)
    audit.record(record(status=99))
    audit.close()

    assert [call["status"] for call in calls(sink)] == [*range(10), 99]
    assert '"kind":"dropped","count":40' in sink.read_text()
    assert good(sink)


def test_required_is_not_ready_while_the_disk_refuses_and_loses_nothing(sink, fast_retry):
    audit = Audit(settings(f"file://{sink}", required=True), "h", queue=100)
    audit.start()
    wait_for(lambda: audit._writer.places._out is not None)
    broken = breaks(audit)
    for n in range(50):
        audit.record(record(status=n))
    wait_for(lambda: not audit.ready)

    broken.broken = False
    wait_for(lambda: audit.ready)
    audit.close()

    assert [call["status"] for call in calls(sink)] == list(range(50))
    assert audit.dropped == 0
    assert good(sink)


async def test_record_and_wait_returns_when_the_line_is_in_the_file(audit, sink):
    await audit.record_and_wait(record(status=7))

    assert [call["status"] for call in calls(sink)] == [7]


async def test_record_and_wait_tells_of_a_full_disk(sink, fast_retry):
    audit = Audit(settings(f"file://{sink}", required=True), "h")
    audit.start()
    await asyncio.to_thread(wait_for, lambda: audit._writer.places._out is not None)
    broken = breaks(audit)

    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="No space left"):
            await audit.record_and_wait(record(status=1))
        assert not audit.ready

    broken.broken = False
    await asyncio.to_thread(wait_for, lambda: audit.ready)
    await audit.record_and_wait(record(status=2))
    await asyncio.to_thread(audit.close)

    assert [call["status"] for call in calls(sink)] == [1, 1, 2]


def test_log_rotation_is_followed(sink, fast_retry):
    audit = Audit(settings(f"file://{sink}"), "h")
    audit.start()
    audit.record(record(status=1))
    wait_for(lambda: audit.written == 1)
    old = sink.with_name("audit-old.jsonl")
    sink.rename(old)
    wait_for(sink.exists)
    audit.record(record(status=2))
    audit.close()

    assert [call["status"] for call in calls(old)] == [1]
    assert [call["status"] for call in calls(sink)] == [2]
    assert good(sink)


async def test_a_change_by_an_administrator_is_a_link_of_the_chain(audit, sink):
    await audit.change(
        actor="admin-key-7",
        role="operate",
        action="block.add",
        target="203.0.113.7/32",
        client="198.51.100.9",
        detail={"hours": 2},
    )
    await audit.record_and_wait(record(status=1))

    text = sink.read_text()
    (change,) = [line for line in map(json.loads, text.splitlines()) if line["kind"] == "admin"]

    assert (change["role"], change["action"], change["target"]) == ("operate", "block.add", "203.0.113.7/32")
    assert change["outcome"] == "begun"
    assert change["detail"] == {"hours": 2}
    assert "admin-key-7" not in text
    assert "198.51.100.9" not in text
    assert good(sink)


async def test_no_change_without_its_record(sink, fast_retry):
    audit = Audit(settings(f"file://{sink}", required=True), "h")
    audit.start()
    await asyncio.to_thread(wait_for, lambda: audit._writer.places._out is not None)
    broken = breaks(audit)

    with pytest.raises(StoreUnavailable, match="No space left"):
        await audit.change(actor="a", role="admin", action="provider.configure", target="openai")

    broken.broken = False
    await asyncio.to_thread(wait_for, lambda: audit.ready)
    await audit.change(actor="a", role="admin", action="provider.configure", target="openai")
    await asyncio.to_thread(audit.close)
    assert good(sink)


WRITER = """
import sys
from llmshield.audit import Audit
from llmshield.policy.apps import Audit as Settings
from llmshield.records import other_record
audit = Audit(Settings(sink="file://" + sys.argv[1], required=True), "h")
audit.start()
n = 0
while True:
    audit.record(other_record({"kind": "call", "request_id": str(n)}))
    n += 1
    if n % 200 == 0:
        import asyncio
        asyncio.run(audit.record_and_wait(other_record({"kind": "call", "request_id": str(n)})))
        print(n, flush=True)
        n += 1
"""


def test_kill_9_at_any_moment(sink):
    """What was confirmed is there, the chain verifies, at most a torn last line was cut off."""
    confirmed = 0
    for round in range(6):
        process = subprocess.Popen([sys.executable, "-c", WRITER, str(sink)], stdout=subprocess.PIPE)
        for _ in range(round + 1):
            confirmed += int(process.stdout.readline()) > 0
        time.sleep(0.003 * round)
        process.kill()
        confirmed += len(process.communicate()[0].splitlines())

    assert good(sink)
    assert segments(sink) == [sink]
    records = [json.loads(line) for line in sink.read_text().splitlines() if line.endswith("}")]
    assert sum(record["kind"] == "head" for record in records) == 6
    waited = [r for r in records if r["kind"] == "call" and int(r["request_id"]) in range(200, 10**9, 200)]
    assert len(waited) >= confirmed
