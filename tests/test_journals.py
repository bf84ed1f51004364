"""Journals: what was written is read again, torn or packed, and a disk that can't be written is told."""

import io
import os
import time
from pathlib import Path
from typing import Any

import pytest

from llmshield import journals
from llmshield.journals import Journal, Reading, Record
from llmshield.local_state import LocalState
from llmshield.stores import Labels, Line, parse_url

URL = parse_url("redis://:secret@db.internal:6380/2?prefix=prod")
LABELS = Labels("acme", "openai", "gpt-4o")
LINES = (Line("tenant=acme", "ever"), Line("tenant=acme", "day:2026-11-20", 5, 2_000_000_000_000))
BARE = tuple(Line(line.account, line.window, None, line.ends_ms) for line in LINES)


@pytest.fixture
def state(tmp_path: Path) -> LocalState:
    return LocalState(URL, tmp_path)


def write(state: LocalState, *ids: str, epoch: str = "e.1") -> Journal:
    journal = Journal(state)
    journal.begin(epoch)
    for id in ids:
        journal.reserved(id, 1_000, 700, LINES, LABELS)
    journal.settled(ids[0], 2_000, 300, 5, 6, LINES, LABELS)
    journal.released(ids[-1])
    journal.noted("locks", "acme", "9", 9)
    journal.close()
    assert journal.failure == ""
    return journal


def read(*folders: Path) -> list[Record]:
    return list(Reading(folders))


def test_what_was_written_is_read(state: LocalState) -> None:
    write(state, "a", "b")

    assert read(state.journals) == [
        Record("r", "a", "e.1", 1_000, 700, 0, 0, BARE, LABELS),
        Record("r", "b", "e.1", 1_000, 700, 0, 0, BARE, LABELS),
        Record("s", "a", "e.1", 2_000, 300, 5, 6, BARE, LABELS),
        Record("f", "b", "e.1"),
        Record("n", "acme", "e.1", shelf="locks", value="9", until_ms=9),
    ]


@pytest.mark.parametrize("cut", [1, 5, 60, 200])
def test_a_torn_end_loses_only_itself(state: LocalState, cut: int) -> None:
    write(state, "a", "b")
    (path,) = state.journals.iterdir()
    whole = read(state.journals)
    path.write_bytes(path.read_bytes()[:-cut])

    left = Reading([state.journals])
    found = list(left)
    assert found == whole[: len(found)]
    assert len(found) >= len(whole) - 1 - cut // 20
    assert left.torn == (cut > 1)


def test_a_line_that_was_changed_is_left_out(state: LocalState) -> None:
    write(state, "a", "b")
    (path,) = state.journals.iterdir()
    path.write_bytes(path.read_bytes().replace(b",300,", b",301,"))

    left = Reading([state.journals])
    assert [record.kind for record in left] == ["r", "r", "f", "n"]
    assert left.torn == 1


def test_a_turn_of_the_book_is_kept(state: LocalState) -> None:
    journal = Journal(state)
    journal.begin("e.1")
    journal.released("a")
    journal.turned("e.2")
    journal.released("b")
    journal.close()

    assert [(record.id, record.epoch) for record in read(state.journals)] == [("a", "e.1"), ("b", "e.2")]


def test_full_files_are_packed_and_nothing_is_lost(
    state: LocalState, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journals, "SEGMENT", 2_000)
    journal = Journal(state)
    journal.begin("e.1")
    for index in range(10):
        for each in range(20):
            journal.reserved(f"{index}.{each}", index, each, LINES, LABELS)
        time.sleep(0.04)
    journal.close()
    names = sorted(path.name for path in state.journals.iterdir())

    assert sum(name.endswith(".gz") for name in names) >= 2
    assert len(names) == len({name.removesuffix(".gz") for name in names})
    assert [f"{index}.{each}" for index in range(10) for each in range(20)] == [
        record.id for record in read(state.journals)
    ]
    packed = next(path for path in state.journals.iterdir() if path.suffix == ".gz")
    packed.write_bytes(packed.read_bytes()[:-30])
    damaged = Reading([state.journals])
    assert len(list(damaged)) < 200
    assert damaged.torn >= 1


def test_the_same_file_from_two_places_counts_once(state: LocalState, tmp_path: Path) -> None:
    write(state, "a", "b")
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in state.journals.iterdir():
        (copy / path.name).write_bytes(path.read_bytes()[:-40])

    assert read(copy, state.journals) == read(state.journals, copy) == read(state.journals)


def test_old_files_go_and_so_does_what_is_too_much(
    state: LocalState, monkeypatch: pytest.MonkeyPatch
) -> None:
    state.journals.mkdir(parents=True)
    for name, days, size in (("0-old", 41, 10), ("1-large", 2, 3_000), ("2-young", 1, 10)):
        path = state.journals / f"{name}.jsonl"
        path.write_bytes(b"x" * size)
        os.utime(path, (time.time() - days * 86_400,) * 2)
    write(state, "a")
    assert {path.name[:6] for path in state.journals.iterdir()} >= {"1-larg", "2-youn"}
    assert not (state.journals / "0-old.jsonl").exists()

    monkeypatch.setattr(journals, "KEPT_BYTES", 2_500)
    write(state, "b")
    assert not (state.journals / "1-large.jsonl").exists()
    assert (state.journals / "2-young.jsonl").exists()


def test_a_disk_that_cannot_be_written_is_told_and_nothing_is_forgotten(
    state: LocalState, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journals, "_SYNC_S", 0.05)
    state.folder.mkdir(parents=True)
    state.journals.write_text("in the way")
    journal = Journal(state)
    journal.begin("e.1")
    journal.released("a")
    _until(lambda: journal.failure != "")
    assert "can't be written" in journal.failure
    journal.released("b")
    state.journals.unlink()
    _until(lambda: journal.failure == "")
    journal.close()

    assert [record.id for record in read(state.journals)] == ["a", "b"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_ended_is_told(state: LocalState, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody would write any more, and nobody would know: money is refused."""

    def end(seconds: float) -> None:
        raise OSError(22, "a system that can't sleep")

    journal = Journal(state)
    journal.begin("e.1")
    assert journal.failure == ""
    monkeypatch.setattr(journal._never, "wait", end)
    journal.released("a")
    assert journal._thread is not None
    journal._thread.join(5)

    assert "is not written any more" in journal.failure
    assert not journal.alive
    journal.close()


def test_what_was_written_in_part_is_written_again(
    state: LocalState, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that is full in the middle of a write: torn there, whole in the next file."""
    monkeypatch.setattr(journals, "_SYNC_S", 0.05)
    left = 600

    class Full(io.FileIO):
        def write(self, data: Any) -> int:
            nonlocal left
            room, left = max(0, left), left - len(data)
            return super().write(data[:room])

    journal = Journal(state)
    journal.begin("e.1")
    with monkeypatch.context() as patched:
        patched.setattr("llmshield.journals.io.FileIO", Full)
        for index in range(20):
            journal.reserved(str(index), 1, 2, LINES, LABELS)
        _until(lambda: journal.failure != "")
        assert "No space left" in journal.failure or "part" in journal.failure
        left = 10**9
        _until(lambda: journal.failure == "")
    journal.close()

    reading = Reading([state.journals])
    assert {record.id for record in reading} == {str(index) for index in range(20)}


def test_names_that_are_no_utf8_are_written(state: LocalState) -> None:
    journal = Journal(state)
    journal.begin("e.1")
    journal.reserved("\ud83d", 1, 2, LINES, Labels("a\udc00", "", "\n\x1b"))
    journal.released("ü")
    journal.close()

    found = read(state.journals)
    assert [(record.id, record.labels.model) for record in found] == [("\ud83d", "\n\x1b"), ("ü", "")]


def test_nothing_is_written_without_a_record(state: LocalState) -> None:
    journal = Journal(state)
    journal.begin("e.1")
    journal.close()

    assert not state.folder.exists()


def test_what_waits_for_too_long_is_counted(state: LocalState, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journals, "_MOST_WAITING", 3)
    state.folder.mkdir(parents=True)
    state.journals.write_text("in the way")
    journal = Journal(state)
    for index in range(5):
        journal.released(str(index))
    journal.close()

    assert journal.dropped == 2


def _until(said: object, seconds: float = 5.0) -> None:
    assert callable(said)
    end = time.monotonic() + seconds
    while not said():
        assert time.monotonic() < end, "not in time"
        time.sleep(0.01)
