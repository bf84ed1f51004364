"""The list of who was seen: sums, survives a restart, never grows without end, never stops a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmshield.egress import seen
from llmshield.egress.seen import Seen, Sight, read


def test_sums_over_restarts(tmp_path: Path) -> None:
    file = tmp_path / "egress" / "seen.json"
    one = Seen(file)
    one.add([["passed", "a.test", "10.0.0.1", 2], ["passed", "a.test", "10.0.0.1", 1]], 5.0)
    one.write()
    two = Seen(file)
    two.add([["passed", "a.test", "10.0.0.1", 4], ["blocked", "b.test", "10.0.0.2", 1]], 9.0)
    two.write()

    assert {("passed", 7, 5.0, 9.0), ("blocked", 1, 9.0, 9.0)} == {
        (each.how, each.connections, each.first, each.last) for each in read(file)
    }
    assert file.stat().st_mode & 0o777 == 0o600


def test_it_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seen, "MOST", 3)
    kept = Seen(tmp_path / "seen.json")
    for n in range(10):
        kept.add([["passed", f"h{n}.test", "10.0.0.1", 1]], float(n))
    kept.write()

    assert ["h9.test", "h8.test", "h7.test"] == [each.host for each in read(tmp_path / "seen.json")]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"seen": [[1]]}', '{"seen": 5}'])
def test_a_file_that_is_none_of_ours(tmp_path: Path, text: str) -> None:
    (tmp_path / "seen.json").write_text(text)

    assert read(tmp_path / "seen.json") == []


def test_what_cannot_be_written_is_told_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    kept = Seen(tmp_path / "file" / "seen.json")
    kept.add([["passed", "a.test", "10.0.0.1", 1]], 1.0)
    kept.write()

    assert [Sight("passed", "a.test", "10.0.0.1", 1, 1.0, 1.0)] == list(kept.sights.values())
