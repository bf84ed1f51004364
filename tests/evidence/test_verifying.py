"""A chain that can't be edited, cut, reordered or torn without being told."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmshield.evidence import (
    GENESIS,
    Segment,
    anchor_path,
    segments,
    verify,
)
from llmshield.evidence.heads import anchor

TIME = "2026-11-20T10:00:00.000Z"


def test_a_segment_is_lines_of_json_that_chain(sink, fill, fault):
    fill(sink, 3)

    records = [json.loads(line) for line in sink.read_text().splitlines()]

    assert [record["seq"] for record in records] == [1, 2, 3, 4]
    assert records[0]["prev"] == GENESIS
    assert [r["prev"] for r in records[1:]] == [r["hash"] for r in records[:-1]]
    assert fault(sink) is None


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
def test_damage_is_named_with_line_and_record(sink, name, fill, fault):
    damage, expected = DAMAGE[name]
    fill(sink, 10)
    lines = sink.read_bytes().splitlines(keepends=True)

    damage(lines)
    sink.write_bytes(b"".join(lines))

    assert fault(sink) == expected


def test_an_emptied_file_is_noticed_by_its_anchor(sink, fill):
    """Its id is gone with its head, so it counts as a segment that is not here."""
    fill(sink, 10)
    sink.write_bytes(b"")

    (report,) = verify([sink])

    assert "the file is empty" in report.notes[0]
    assert "is not here" in report.notes[1]
    assert verify([sink], complete=True)[0].fault


@given(place=st.integers(0, 10_000), new=st.binary(min_size=1, max_size=3))
def test_any_changed_byte_is_found(tmp_path_factory, place, new, fill):
    sink = tmp_path_factory.mktemp("chain") / "audit.jsonl"
    fill(sink, 5)
    data = sink.read_bytes()
    place %= len(data) - 3
    changed = data[:place] + new + data[place + len(new) :]
    sink.write_bytes(changed)

    report = verify([sink])[0]

    assert bool(report.fault or report.notes) == (changed != data)


def test_a_forged_chain_is_found_by_the_head_of_another_segment(sink, head, fill):
    """Somebody rewrites one process' file with correct hashes and its anchor too: another head quotes the old."""
    first = Segment.open(sink)
    first.append([(TIME, head(first))])
    first.append((TIME, b'{"n":%d}' % n) for n in range(5))
    anchor(first)
    fill(sink)  # the second process: the first file is taken
    first.close()
    sink.unlink()
    forged = Segment.open(sink)
    forged.id = first.id
    forged.append([(TIME, head(first))])
    forged.append((TIME, b'{"n":%d}' % (n + 1)) for n in range(5))
    anchor(forged)
    forged.close()

    reports = [report for report in verify(segments(sink)) if report.fault]

    assert [(report.path.name, report.seq) for report in reports] == [("audit.jsonl", 6)]
    assert "quotes" in reports[0].fault


def test_a_missing_anchor_only_takes_from_the_proof(sink, fill, fault):
    fill(sink)
    anchor_path(sink).unlink()

    assert fault(sink) is None
