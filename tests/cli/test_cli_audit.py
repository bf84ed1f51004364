"""`llmshield audit verify`: 0 good, 1 broken, 2 usage."""

import json

import pytest

from llmshield.cli.audit import BROKEN, GOOD, USAGE, verify
from llmshield.evidence import Segment


@pytest.fixture
def sink(tmp_path, monkeypatch):
    """A good segment `audit.jsonl` in the current folder."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "audit.jsonl"
    segment = Segment.open(path)
    head = {"kind": "head", "segment": segment.id, "others": {}}
    segment.append([("t", json.dumps(head, separators=(",", ":")).encode())])
    segment.append(("t", b'{"n":%d}' % n) for n in range(5))
    segment.anchor()
    segment.close()
    return path


def damage(sink):
    lines = sink.read_bytes().splitlines(keepends=True)
    lines[3] = lines[3].replace(b'"n":2', b'"n":3')
    sink.write_bytes(b"".join(lines))


def test_good(sink, capsys):
    assert verify([]) == GOOD
    assert "good: 1 segments, 6 good records, 0 broken" in capsys.readouterr().out


def test_broken_names_file_line_and_record(sink, capsys):
    damage(sink)

    assert verify([]) == BROKEN
    assert f"{sink.name}:4: record 4: the record was changed" in capsys.readouterr().out


def test_files_may_be_named(sink, tmp_path):
    other = tmp_path / "elsewhere.jsonl"
    other.write_bytes(sink.read_bytes())
    damage(sink)

    assert verify([other]) == GOOD
    assert verify([other, sink]) == BROKEN


def test_a_torn_end_is_a_note(sink, capsys):
    with sink.open("ab") as file:
        file.write(b'{"seq":7,')

    assert verify([]) == GOOD
    assert "note: line 7 is torn" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("audit: {sink: 'file://audit.jsonl'}", GOOD),
        ("audit: {sink: 'file://elsewhere/audit.jsonl'}", USAGE),
        ("audit: {sink: stdout}", USAGE),
        ("version: 1", USAGE),
        ("- a list", USAGE),
        ("{", USAGE),
        ("", USAGE),
    ],
)
def test_the_sink_of_a_policy(sink, tmp_path, capsys, policy, expected):
    """Only the sink is read: plugins that are not installed here do not matter."""
    path = tmp_path / "policy.yaml"
    path.write_text(policy)

    assert verify([], path) == expected

    captured = capsys.readouterr()
    assert bool(captured.err) == (expected == USAGE)
    assert len(captured.err.splitlines()) <= 1


def test_usage(sink, tmp_path, capsys):
    assert verify([tmp_path / "missing.jsonl"]) == USAGE
    assert verify([], tmp_path / "missing.yaml") == USAGE
    sink.unlink()
    assert verify([]) == USAGE
    assert len(capsys.readouterr().err.splitlines()) == 3


def test_a_segment_that_is_quoted_and_gone(sink, capsys):
    """Archived or rotated away: a note, and a fault only where everything should be here."""
    second = Segment.open(sink.with_name("audit-2.jsonl"))
    head = {"kind": "head", "segment": second.id, "others": {"0123456789abcdef": [9, "0" * 64]}}
    second.append([("t", json.dumps(head, separators=(",", ":")).encode())])
    second.close()

    assert verify([]) == GOOD
    assert "is not here" in capsys.readouterr().out
    assert verify([], complete=True) == BROKEN
