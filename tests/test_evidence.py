"""A chain that can't be edited, cut, reordered or torn without being told."""

import json
import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmshield.errors import ShieldError
from llmshield.evidence import GENESIS, EvidenceError, Segment, Stream, anchor_path, segments, verify

TIME = "2026-11-20T10:00:00.000Z"


def head(segment):
    """A head record as `audit` writes it."""
    body = {"kind": "head", "segment": segment.id, "others": segment.others()}
    return json.dumps(body, separators=(",", ":")).encode()


def fill(sink, count=10, start=0):
    """A segment with a head and `count` records, anchored and closed."""
    segment = Segment.open(sink)
    segment.append([(TIME, head(segment))])
    segment.append((TIME, b'{"kind":"call","n":%d}' % n) for n in range(start, start + count))
    segment.anchor()
    segment.close()
    return segment


def fault(sink):
    """(line, record) of the first fault, None when all is good."""
    faults = [(report.line, report.seq) for report in verify(segments(sink)) if report.fault]
    return faults[0] if faults else None


@pytest.fixture
def sink(tmp_path):
    return tmp_path / "audit.jsonl"


def test_a_segment_is_lines_of_json_that_chain(sink):
    fill(sink, 3)

    records = [json.loads(line) for line in sink.read_text().splitlines()]

    assert [record["seq"] for record in records] == [1, 2, 3, 4]
    assert records[0]["prev"] == GENESIS
    assert [r["prev"] for r in records[1:]] == [r["hash"] for r in records[:-1]]
    assert fault(sink) is None


def test_the_file_is_for_its_owner_only(sink):
    fill(sink)

    assert sink.stat().st_mode & 0o777 == 0o600


def test_a_restart_goes_on_in_the_same_file(sink):
    first = fill(sink, 3)
    second = fill(sink, 3)

    assert second.id == first.id
    assert second.seq == first.seq + 4
    assert fault(sink) is None
    assert segments(sink) == [sink]


def swap(lines, a, b):
    lines[a], lines[b] = lines[b], lines[a]


DAMAGE = {
    "a byte changed": (lambda lines: lines.__setitem__(5, lines[5].replace(b'"n":4', b'"n":7')), (6, 6)),
    "the last line changed": (
        lambda lines: lines.__setitem__(10, lines[10].replace(b'"n":9', b'"n":8')),
        (11, 11),
    ),
    "the head changed": (lambda lines: lines.__setitem__(0, lines[0].replace(b"head", b"hEad")), (1, 1)),
    "a line lost": (lambda lines: lines.pop(4), (5, 6)),
    "the first line lost": (lambda lines: lines.pop(0), (1, 2)),
    "two lines swapped": (lambda lines: swap(lines, 3, 4), (4, 5)),
    "a line twice": (lambda lines: lines.insert(3, lines[3]), (5, 4)),
    "a line added": (lambda lines: lines.insert(3, b'{"seq":4,"prev":"","hash":""}\n'), (4, 4)),
    "a line that is no JSON": (lambda lines: lines.insert(3, b"hello\n"), (4, 4)),
    "an empty line": (lambda lines: lines.insert(3, b"\n"), (4, 4)),
    "NULs, as a power cut leaves them": (lambda lines: lines.insert(3, b"\0" * 80 + b"\n"), (4, 4)),
    "the end cut off": (lambda lines: lines.__delitem__(slice(8, None)), (9, 9)),
    "all cut off but the head": (lambda lines: lines.__delitem__(slice(1, None)), (2, 2)),
    "emptied": (lambda lines: lines.clear(), None),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_named_with_line_and_record(sink, name):
    damage, expected = DAMAGE[name]
    fill(sink, 10)
    lines = sink.read_bytes().splitlines(keepends=True)

    damage(lines)
    sink.write_bytes(b"".join(lines))

    assert fault(sink) == expected


def test_an_emptied_file_is_noticed_by_its_anchor(sink):
    """Its id is gone with its head, so it counts as a segment that is not here."""
    fill(sink, 10)
    sink.write_bytes(b"")

    (report,) = verify([sink])

    assert "the file is empty" in report.notes[0]
    assert "is not here" in report.notes[1]
    assert verify([sink], complete=True)[0].fault


@given(st.integers(0, 10_000), st.binary(min_size=1, max_size=3))
def test_any_changed_byte_is_found(tmp_path_factory, place, new):
    sink = tmp_path_factory.mktemp("chain") / "audit.jsonl"
    fill(sink, 5)
    data = sink.read_bytes()
    place %= len(data) - 3
    changed = data[:place] + new + data[place + len(new) :]
    sink.write_bytes(changed)

    report = verify([sink])[0]

    assert bool(report.fault or report.notes) == (changed != data)


def test_a_forged_chain_is_found_by_the_head_of_another_segment(sink):
    """Somebody rewrites one process' file with correct hashes and its anchor too: another head quotes the old."""
    first = Segment.open(sink)
    first.append([(TIME, head(first))])
    first.append((TIME, b'{"n":%d}' % n) for n in range(5))
    first.anchor()
    fill(sink)  # the second process: the first file is taken
    first.close()
    sink.unlink()
    forged = Segment.open(sink)
    forged.id = first.id
    forged.append([(TIME, head(first))])
    forged.append((TIME, b'{"n":%d}' % (n + 1)) for n in range(5))
    forged.anchor()
    forged.close()

    reports = [report for report in verify(segments(sink)) if report.fault]

    assert [(report.path.name, report.seq) for report in reports] == [("audit.jsonl", 6)]
    assert "quotes" in reports[0].fault


@pytest.mark.parametrize(
    "torn", [b'{"seq":12,"pr', b"{", b'{"seq":12,"prev":"%b","time":"' + b"x" * 1000, b"\0" * 70_000]
)
def test_a_torn_last_line_is_cut_off_at_the_next_start(sink, torn):
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
def test_a_file_with_a_damaged_end_is_left_alone(sink, end):
    """It is evidence, though broken: the next process takes a segment of its own."""
    fill(sink, 3)
    with sink.open("ab") as file:
        file.write(end)
    before = sink.read_bytes()

    second = fill(sink, 3)

    assert second.path != sink
    assert sink.read_bytes() == before
    assert fault(sink) == (5, 5)


def test_a_file_of_somebody_else_is_left_alone(sink):
    """A sink that names a file without line ends: it is not a torn record, and not ours to cut."""
    sink.write_bytes(b"somebody's notes")

    assert fill(sink, 3).path != sink
    assert sink.read_bytes() == b"somebody's notes"


def test_processes_share_a_folder_and_no_file(sink):
    """Four at once, each with a segment of its own; after their end the files are taken up again."""
    program = "import sys; from pathlib import Path; from tests_fill import fill; fill(Path(sys.argv[1]))"
    helper = sink.parent / "lib"
    helper.mkdir()
    (helper / "tests_fill.py").write_text(
        "import json, sys\n"
        "from llmshield.evidence import Segment\n"
        "def fill(sink):\n"
        "    s = Segment.open(sink)\n"
        "    print('open', flush=True); sys.stdin.readline()\n"
        "    if not s.seq:\n"
        "        s.append([('t', json.dumps({'kind': 'head', 'segment': s.id, 'others': s.others()}, separators=(',', ':')).encode())])\n"
        "    for n in range(200):\n"
        "        s.append([('t', b'{\"n\":%d}' % n)])\n"
        "    s.anchor()\n"
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


def test_a_rotated_file_is_noticed_and_both_parts_verify(sink):
    segment = Segment.open(sink)
    segment.append([(TIME, head(segment))])
    segment.anchor()
    assert not segment.moved()

    sink.rename(sink.with_name("audit-old.jsonl"))

    assert segment.moved()
    segment.close()
    fill(sink)
    assert fault(sink) is None
    assert [report.notes for report in verify(segments(sink))] == [[], []]
    assert "is not here" in verify([sink])[0].notes[0]


def test_a_failed_write_leaves_no_torn_line(sink):
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


def test_a_missing_anchor_only_takes_from_the_proof(sink):
    fill(sink)
    anchor_path(sink).unlink()

    assert fault(sink) is None


def test_a_stream_has_the_same_lines(tmp_path):
    target = tmp_path / "out.jsonl"
    with target.open("wb") as file:
        stream = Stream(file.fileno())
        stream.append([(TIME, b'{"kind":"head","segment":"%b","others":{}}' % stream.id.encode())])
        stream.append([(TIME, b'{"n":1}'), (TIME, b'{"n":2}')])

    assert [report.fault for report in verify([target])] == [""]
    assert stream.seq == 3
