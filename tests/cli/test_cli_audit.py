"""`llmshield audit verify`: 0 good, 1 broken, 2 usage."""

import json

import pytest

from llmshield.cli.audit import BROKEN, GOOD, USAGE, verify
from llmshield.evidence import Segment
from llmshield.evidence.heads import anchor


@pytest.fixture
def sink(tmp_path, monkeypatch):
    """A good segment `audit.jsonl` in the current folder."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "audit.jsonl"
    segment = Segment.open(path)
    head = {"kind": "head", "segment": segment.id, "others": {}}
    segment.append([("t", json.dumps(head, separators=(",", ":")).encode())])
    segment.append(("t", b'{"n":%d}' % n) for n in range(5))
    anchor(segment)
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
        file.write(b'{"seq":7,"prev":')

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


def lines(sink):
    return sink.read_bytes().splitlines(keepends=True)


def interleaved(sink):
    """Lines of two chains in one file, each of them good by itself."""
    path = sink.with_name("other.jsonl")
    segment = Segment.open(path)
    segment.append([("t", b'{"kind":"head","segment":"x","others":{}}'), ("t", b'{"n":1}')])
    segment.close()
    mixed = [line for pair in zip(lines(sink), lines(path), strict=False) for line in pair]
    path.unlink()
    return b"".join(mixed)


CHANGED = "the record was changed: its hash does not fit its text"
NO_RECORD = "the line is no record"
NO_BEGINNING = "the line is no record, nor the torn beginning of one"
FILES = {
    "garbage": (lambda sink: b"\x00\xff\x13 garbage\nmore\n", BROKEN, f"1: record 1: {NO_RECORD}"),
    "garbage without a line end": (lambda sink: b"garbage", BROKEN, f"1: record 1: {NO_BEGINNING}"),
    "one NUL": (lambda sink: b"\0", BROKEN, f"1: record 1: {NO_BEGINNING}"),
    "a line end alone": (lambda sink: b"\n", BROKEN, f"1: record 1: {NO_RECORD}"),
    "empty": (lambda sink: b"", GOOD, ": note: the file is empty"),
    "garbage behind the end": (lambda sink: sink.read_bytes() + b"x", BROKEN, f"7: record 7: {NO_BEGINNING}"),
    "NULs behind the end": (lambda sink: sink.read_bytes() + bytes(4096), GOOD, ": note: line 7 is torn"),
    "another record's beginning": (
        lambda sink: sink.read_bytes() + b'{"seq":9,"prev":"', BROKEN, f"7: record 7: {NO_BEGINNING}"
    ),
    "a torn end": (lambda sink: sink.read_bytes()[:-20], GOOD, ": note: line 6 is torn"),
    "one byte torn": (lambda sink: sink.read_bytes()[:-1], GOOD, ": note: line 6 is torn"),
    "one byte left": (lambda sink: b"".join(lines(sink)[:5]) + b"{", GOOD, ": note: line 6 is torn"),
    "a byte order mark": (lambda sink: b"\xef\xbb\xbf" + sink.read_bytes(), BROKEN, "1: record 1: a byte order mark"),
    "UTF-16": (lambda sink: sink.read_bytes().decode().encode("utf-16"), BROKEN, f"1: record 1: {NO_RECORD}"),
    "Windows' line ends": (lambda sink: sink.read_bytes().replace(b"\n", b"\r\n"), BROKEN, f"1: record 1: {CHANGED}"),
    "two segments, interleaved": (interleaved, BROKEN, "2: record 1: the chain is broken: found record 1, expected record 2"),
    "two segments, one behind the other": (
        lambda sink: sink.read_bytes() * 2, BROKEN, "7: record 1: the chain is broken: found record 1, expected record 7"
    ),
    "no number": (lambda sink: b'{"seq":1e999,"prev":"x"}\n', BROKEN, f"1: record 1: {NO_RECORD}"),
    "a list": (lambda sink: b"[1]\n", BROKEN, f"1: record 1: {NO_RECORD}"),
    "deep": (lambda sink: b"[" * 100_000 + b"\n", BROKEN, f"1: record 1: {NO_RECORD}"),
    "one endless line": (lambda sink: b'{"seq":1,"prev":"' + b"0" * 3_000_000, BROKEN, f"1: record 1: {NO_BEGINNING}"),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_what_a_file_may_hold(sink, capsys, name):
    made, status, said = FILES[name]
    data = made(sink)
    sink.with_suffix(".anchor").unlink()
    sink.write_bytes(data)

    assert (verify([]), f"{sink.name}:{said}".replace("::", ":") in capsys.readouterr().out) == (status, True)


def test_a_torn_end_that_an_anchor_quotes_is_a_fault(sink, capsys):
    sink.write_bytes(sink.read_bytes()[:-20])

    assert verify([]) == BROKEN
    assert f"{sink.name}:7: record 6: the end is missing" in capsys.readouterr().out


@pytest.mark.parametrize("anchor", [b"garbage", b"[]", b'{"segment":1,"seq":1e999,"hash":2}', b"", b"\xff"])
def test_an_anchor_that_is_none_takes_from_the_proof_alone(sink, anchor):
    sink.with_suffix(".anchor").write_bytes(anchor)

    assert verify([]) == GOOD


def test_a_folder(sink, tmp_path, capsys):
    assert verify([tmp_path]) == USAGE
    assert f"{tmp_path} is a folder; name its segments: {tmp_path}/audit*.jsonl" in capsys.readouterr().err
    assert verify([], tmp_path) == USAGE


def test_a_policy_of_garbage(sink, tmp_path, capsys):
    (tmp_path / "policy.yaml").write_bytes(b"\xff\xfe\x00 \x80")

    assert verify([], tmp_path / "policy.yaml") == USAGE
    assert "is no YAML" in capsys.readouterr().err


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
