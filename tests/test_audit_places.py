"""Segments: rotated by size and day, pruned with a word in the chain, anchored elsewhere; what is left verifies."""

import json
import os
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from llmshield import clock
from llmshield.audit import Audit, _places, _writer
from llmshield.evidence import anchor_path, heads_path, segments, verify
from llmshield.evidence import heads as heads_of
from llmshield.policy.apps import Audit as Settings
from llmshield.records import other_record
from llmshield.testing import FrozenClock


@pytest.fixture
def sink(tmp_path):
    return tmp_path / "audit.jsonl"


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    monkeypatch.setattr(_writer, "LOOK_S", 0.02)
    monkeypatch.setattr(_writer, "JOIN_S", 0.001)


def started(sink, **more):
    audit = Audit(Settings(sink=f"file://{sink}", **more), "h")
    audit.start()
    return audit


def wait_for(what):
    deadline = time.monotonic() + 20
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def put(audit, number, size=100):
    before = audit.written
    audit.record(other_record({"kind": "call", "n": number, "text": "x" * size}))
    wait_for(lambda: audit.written > before)


def records(sink):
    return [json.loads(line) for path in segments(sink) for line in path.read_bytes().splitlines()]


def faults(sink, **more):
    return [report.fault for report in verify(segments(sink), sink=sink, **more) if report.fault]


def calls(sink):
    return sorted(record["n"] for record in records(sink) if record["kind"] == "call")


@pytest.mark.parametrize("required", [False, True])
def test_a_full_segment_is_closed_and_never_taken_up_again(sink, required):
    audit = started(sink, required=required, rotate={"size": "2KiB", "every": "never"})
    for number in range(30):
        put(audit, number)
        if number % 10 == 9:
            wait_for(lambda: sink.exists() and sink.stat().st_size < 2048)
    audit.close()
    count = len(segments(sink))
    again = started(sink, rotate={"size": "2KiB", "every": "never"})
    put(again, 30)
    again.close()

    assert count >= 4
    assert len(segments(sink)) in {count, count + 1}, "the open one goes on; closed ones do not"
    assert calls(sink) == list(range(31))
    assert faults(sink) == []
    for path in segments(sink):
        lines = [json.loads(line) for line in path.read_bytes().splitlines()]
        assert [line["seq"] for line in lines if line.get("closed")] in ([], [len(lines)])
    heads = [record for record in records(sink) if record["kind"] == "head"]
    assert sum(bool(head["others"]) for head in heads) >= count - 1, "each next one quotes those before"


def test_a_new_day_begins_a_new_segment(sink):
    frozen = FrozenClock(1_790_000_000.0)
    before = clock.install(frozen)
    try:
        audit = started(sink)
        put(audit, 1)
        frozen.advance(86_400)
        wait_for(lambda: len(segments(sink)) == 2)
        put(audit, 2)
        audit.close()
    finally:
        clock.install(before)

    days = [
        {json.loads(line)["time"][:10] for line in path.read_bytes().splitlines()[:-1]}
        for path in segments(sink)
    ]
    assert all(len(day) == 1 for day in days)
    assert len(set.union(*days)) == 2
    assert faults(sink) == []


def aged(path, days):
    then = time.time() - days * 86_400
    os.utime(path, (then, then))


def test_what_is_older_than_the_policy_keeps_is_removed_and_the_chain_tells(sink, monkeypatch):
    """The oldest of three segments goes; verify knows why it is not there; a thief's cut is still noticed."""
    frozen = FrozenClock(time.time() - 200 * 86_400)
    before = clock.install(frozen)
    try:
        first = started(sink, retention="0s", rotate={"size": "1KiB", "every": "never"})
        put(first, 1, 2000)
        put(first, 3)
        put(first, 4)
        put(first, 5)
        put(first, 6)
        frozen.advance(10)
        wait_for(lambda: len(segments(sink)) == 2)
        first.close()
    finally:
        clock.install(before)
    victims = [path for path in segments(sink) if path != sink]
    for path in segments(sink):
        aged(path, 200)
    second = started(sink)
    wait_for(lambda: any(record["kind"] == "pruned" for record in records(sink)))
    put(second, 2)
    second.close()

    assert all(not path.exists() and not anchor_path(path).exists() for path in victims)
    (pruned,) = [record for record in records(sink) if record["kind"] == "pruned"]
    assert {each["file"] for each in pruned["segments"]} == {path.name for path in victims}
    assert all(each["seq"] and len(each["hash"]) == 64 for each in pruned["segments"])
    assert faults(sink) == []

    sink.unlink()
    anchor_path(sink).unlink()
    assert faults(sink) != [], "a segment that nobody pruned"


def test_a_segment_that_is_written_is_not_pruned(sink):
    one, two = started(sink), started(sink)
    put(one, 1)
    put(two, 2)
    for path in segments(sink):
        aged(path, 400)
    one._writer.places._pruned_at = float("-inf")
    time.sleep(0.2)
    one.close()
    two.close()

    assert len(segments(sink)) == 2
    assert calls(sink) == [1, 2]


def test_heads_are_told_to_another_place(sink, tmp_path):
    elsewhere = tmp_path / "other" / "heads.jsonl"
    audit = started(sink, anchor_to=f"file://{elsewhere}")
    put(audit, 1)
    audit.close()

    last = list(heads_of.read(elsewhere))[-1]
    assert (last.hash, last.seq) == (records(sink)[-1]["hash"], len(records(sink)))
    assert faults(sink, heads=[elsewhere]) == []
    lines = sink.read_bytes().splitlines(keepends=True)
    sink.write_bytes(b"".join(lines[:-1]))
    anchor_path(sink).unlink()
    heads_path(sink).write_text(heads_path(sink).read_text().splitlines(keepends=True)[0])
    assert faults(sink) == []
    assert "the end is missing" in faults(sink, heads=[elsewhere])[0]


def test_heads_are_told_to_an_address_and_records_do_not_wait_for_it(sink):
    got, go = [], threading.Event()

    class Notary(BaseHTTPRequestHandler):
        def do_POST(self):
            go.wait(10)
            got.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *said):
            pass

    with HTTPServer(("127.0.0.1", 0), Notary) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        audit = started(sink, anchor_to=f"http://127.0.0.1:{server.server_port}/")
        for number in range(5):
            put(audit, number)  # while the address does not answer
        go.set()
        audit.close()
        thread.join()

    assert got
    assert got[0]["segment"] == records(sink)[0]["segment"]


def test_a_place_that_takes_no_heads_stops_nothing(sink, tmp_path):
    (tmp_path / "file").write_text("")
    audit = started(sink, anchor_to=f"file://{tmp_path}/file/heads.jsonl")
    put(audit, 1)
    audit.close()

    assert faults(sink) == []


def test_a_torn_end_is_repaired_and_said(sink, caplog):
    audit = started(sink)
    put(audit, 1)
    audit.close()
    with sink.open("ab") as file:
        file.write(b'{"seq":99,"prev":"')

    again = started(sink)
    again.close()

    assert "audit_repaired" in caplog.text
    assert [record["repaired_bytes"] for record in records(sink) if record["kind"] == "head"] == [0, 18]
    assert faults(sink) == []


def test_the_sink_is_a_file_or_none():
    assert _places.sink_path("stdout") is None
    assert str(_places.sink_path("file://a/b.jsonl")) == "a/b.jsonl"
