"""100,000 records, each kind of damage: the first bad record is named. AUD-02 of the acceptance list.

One long segment is written by the real writer's own `append`; damage is done to a copy of its bytes. Each kind is done at
the first, the last and some records between.
"""

import random

import pytest

from llmshield.cli.audit import BROKEN, GOOD, verify
from llmshield.evidence import Segment, anchor_path, heads_path, segments
from llmshield.evidence import heads as heads_of
from llmshield.evidence import verify as verify_segments

COUNT = 100_000
TIME = "2026-11-20T10:00:00.000Z"
SIZES = [3_000, pytest.param(COUNT, marks=pytest.mark.nightly)]


@pytest.fixture(scope="module")
def lines(request, tmp_path_factory):
    """The lines of a whole log, with its anchor and its list of heads as they were."""
    made = {}

    def of(count):
        if count not in made:
            sink = tmp_path_factory.mktemp("many") / "audit.jsonl"
            segment = Segment.open(sink)
            segment.append([(TIME, b'{"kind":"head","segment":"%b","others":{}}' % segment.id.encode())])
            for begin in range(1, count, 1000):
                segment.append(
                    (TIME, b'{"kind":"call","n":%d}' % n) for n in range(begin, min(count, begin + 1000))
                )
            heads_of.anchor(segment)
            heads_of.note(heads_path(sink), heads_of.line_of(segment, TIME))
            segment.close()
            made[count] = (
                sink.read_bytes().splitlines(keepends=True), anchor_path(sink).read_bytes(), heads_path(sink).read_bytes()
            )  # fmt: skip
        return made[count]

    return of


def edit(lines, at):
    """One digit of the body is another one."""
    lines[at] = lines[at].replace(b'"kind":"', b'"kind":"X', 1)
    return at + 1


def delete(lines, at):
    del lines[at]
    return at + 1


def insert(lines, at):
    """A line with a right hash and number that was never written."""
    from llmshield.evidence.segments import chained

    previous = lines[at - 1][-67:-3].decode() if at else "0" * 64
    data, *_ = chained(at, previous, [(TIME, b'{"kind":"call","n":-1}')])
    lines.insert(at, data)
    return at + 2  # it follows rightly: the one behind it is the first that does not


def reorder(lines, at):
    lines[at], lines[at + 1] = lines[at + 1], lines[at]
    return at + 1


def cut(lines, at):
    """Whole lines from there on are gone, with the last line's end: nothing in the file tells."""
    del lines[at:]
    return at + 1


DAMAGE = {"edit": edit, "delete": delete, "insert": insert, "reorder": reorder, "cut": cut}


@pytest.mark.parametrize("count", SIZES)
@pytest.mark.parametrize("name", DAMAGE)
@pytest.mark.parametrize("anchored", [True, False], ids=["anchored", "anchor gone"])
def test_the_first_bad_record_is_named(lines, tmp_path, capsys, monkeypatch, name, count, anchored):
    monkeypatch.chdir(tmp_path)
    whole, anchor, heads = lines(count)
    chance = random.Random(f"{name}{count}")
    for at in [1, count - 2, *(chance.randrange(1, count - 1) for _ in range(3))]:
        damaged = list(whole)
        line = DAMAGE[name](damaged, at)
        sink = tmp_path / "audit.jsonl"
        sink.write_bytes(b"".join(damaged))
        heads_path(sink).write_bytes(heads)
        anchor_path(sink).unlink(missing_ok=True)
        if anchored:
            anchor_path(sink).write_bytes(anchor)

        (report,) = [each for each in verify_segments(segments(sink), sink=sink) if each.fault]
        assert (report.path, report.line) == (sink, line), (name, at, report.fault)
        assert verify([]) == BROKEN
        assert f"audit.jsonl:{line}: record " in capsys.readouterr().out

    (tmp_path / "audit.jsonl").write_bytes(b"".join(whole))
    assert verify([]) == GOOD
    assert f"{count} good records" in capsys.readouterr().out
