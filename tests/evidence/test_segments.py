"""Segments: one writer, whole lines, repaired after a crash, never taken up when closed."""

import os
import subprocess
import sys

import pytest

from llmshield.errors import ShieldError
from llmshield.evidence import (
    EvidenceError,
    Segment,
    Stream,
    segments,
    verify,
)
from llmshield.evidence.heads import anchor

TIME = "2026-11-20T10:00:00.000Z"


def test_the_file_is_for_its_owner_only(sink, fill):
    fill(sink)

    assert sink.stat().st_mode & 0o777 == 0o600


def test_a_restart_goes_on_in_the_same_file(sink, fill, fault):
    first = fill(sink, 3)
    second = fill(sink, 3)

    assert second.id == first.id
    assert second.seq == first.seq + 4
    assert fault(sink) is None
    assert segments(sink) == [sink]


@pytest.mark.parametrize(
    "torn", [b'{"seq":12,"pr', b"{", b'{"seq":12,"prev":"%b","time":"' + b"x" * 1000, b"\0" * 70_000]
)
def test_a_torn_last_line_is_cut_off_at_the_next_start(sink, torn, fill, fault):
    torn = torn.replace(b"%b", fill(sink, 10).hash.encode())
    with sink.open("ab") as file:
        file.write(torn)

    assert fault(sink) is None
    assert "torn" in verify([sink])[0].notes[0]

    segment = fill(sink, 2)

    assert segment.repaired == len(torn)
    assert fault(sink) is None
    assert verify([sink])[0].records == 14


@pytest.mark.parametrize(
    "end", [b"not a record\n", b"no record and no line end", b'{"seq":1e999,"hash":""}\n']
)
def test_a_file_with_a_damaged_end_is_left_alone(sink, end, fill, fault):
    """It is evidence, though broken: the next process takes a segment of its own."""
    fill(sink, 3)
    with sink.open("ab") as file:
        file.write(end)
    before = sink.read_bytes()

    second = fill(sink, 3)

    assert second.path != sink
    assert sink.read_bytes() == before
    assert fault(sink) == (5, 5)


def test_a_file_of_somebody_else_is_left_alone(sink, fill):
    """A sink that names a file without line ends: it is not a torn record, and not ours to cut."""
    sink.write_bytes(b"somebody's notes")

    assert fill(sink, 3).path != sink
    assert sink.read_bytes() == b"somebody's notes"


def test_processes_share_a_folder_and_no_file(sink, fault):
    """Four at once, each with a segment of its own; after their end the files are taken up again."""
    program = "import sys; from pathlib import Path; from tests_fill import fill; fill(Path(sys.argv[1]))"
    helper = sink.parent / "lib"
    helper.mkdir()
    (helper / "tests_fill.py").write_text(
        "import json, sys\n"
        "from llmshield.evidence import Segment\n"
        "from llmshield.evidence.heads import anchor, others\n"
        "def fill(sink):\n"
        "    s = Segment.open(sink)\n"
        "    print('open', flush=True); sys.stdin.readline()\n"
        "    if not s.seq:\n"
        "        s.append([('t', json.dumps({'kind': 'head', 'segment': s.id, 'others': others(s.path.with_name('audit.jsonl'), s.id)}, separators=(',', ':')).encode())])\n"
        "    for n in range(200):\n"
        "        s.append([('t', b'{\"n\":%d}' % n)])\n"
        "    anchor(s)\n"
    )
    for _ in range(2):
        running = [
            subprocess.Popen(
                [sys.executable, "-c", program, str(sink)],
                env={**os.environ, "PYTHONPATH": str(helper)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            for _ in range(4)
        ]
        for process in running:
            assert process.stdout.readline() == b"open\n"
        for process in running:
            process.communicate(b"go\n")
            assert process.returncode == 0

    assert len(segments(sink)) == 4
    assert fault(sink) is None
    assert [report.records for report in verify(segments(sink))] == [401] * 4


def test_a_rotated_file_is_noticed_and_both_parts_verify(sink, head, fill, fault):
    segment = Segment.open(sink)
    segment.append([(TIME, head(segment))])
    anchor(segment)
    assert not segment.moved()

    sink.rename(sink.with_name("audit-old.jsonl"))

    assert segment.moved()
    segment.close()
    fill(sink)
    assert fault(sink) is None
    assert [report.notes for report in verify(segments(sink))] == [[], []]
    assert "is not here" in verify([sink])[0].notes[0]


def test_a_failed_write_leaves_no_torn_line(sink, fill, fault):
    """The disk is full in the middle of a batch: what was written of it is taken back."""
    resource = pytest.importorskip("resource")
    signal = pytest.importorskip("signal")
    segment = fill(sink, 3)
    segment = Segment.open(sink)
    good = sink.read_bytes()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(good) + 100, before[1]))
    try:
        with pytest.raises(OSError, match="large"):
            segment.append((TIME, b'{"n":%d}' % n) for n in range(5))
        assert sink.read_bytes() == good
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)

    segment.append([(TIME, b'{"n":1}')])
    segment.close()

    assert fault(sink) is None


def test_a_folder_that_cannot_be_made_is_told_with_the_remedy(tmp_path):
    (tmp_path / "file").write_text("")

    with pytest.raises(EvidenceError, match=r"audit\.sink"):
        Segment.open(tmp_path / "file" / "audit.jsonl")

    assert issubclass(EvidenceError, ShieldError)


def test_a_stream_has_the_same_lines(tmp_path):
    target = tmp_path / "out.jsonl"
    with target.open("wb") as file:
        stream = Stream(file.fileno())
        stream.append([(TIME, b'{"kind":"head","segment":"%b","others":{}}' % stream.id.encode())])
        stream.append([(TIME, b'{"n":1}'), (TIME, b'{"n":2}')])

    assert [report.fault for report in verify([target])] == [""]
    assert stream.seq == 3
