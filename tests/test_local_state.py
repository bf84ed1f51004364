"""The state folder: one for each store, kept whole, and damage is no first installation."""

import stat
from pathlib import Path

import pytest

from llmshield.errors import StoreError
from llmshield.local_state import Known, LocalState, default_folder
from llmshield.stores import parse_url

URL = parse_url("redis://:secret@db.internal:6380/2?prefix=prod")


@pytest.fixture
def state(tmp_path: Path) -> LocalState:
    return LocalState(URL, tmp_path)


def test_what_is_known_is_kept_for_one_store(state: LocalState, tmp_path: Path) -> None:
    assert state.read() == Known()
    state.write(Known("e.7", 12))

    assert LocalState(URL, tmp_path).read() == Known("e.7", 12)
    assert LocalState(parse_url("redis://db.internal:6380/3?prefix=prod"), tmp_path).read() == Known()
    assert stat.S_IMODE(state.folder.stat().st_mode) == 0o700
    text = (state.folder / "epoch.json").read_text()
    assert "secret" not in text + str(state.folder)
    assert [path.name for path in state.folder.iterdir()] == ["epoch.json"]


@pytest.mark.parametrize("text", ["", "{}", '{"epoch": 1}', "\0\0"])
def test_a_damaged_state_is_no_first_installation(state: LocalState, text: str) -> None:
    state.write(Known("e.7", 12))
    (state.folder / "epoch.json").write_text(text)

    with pytest.raises(StoreError, match="budget reset"):
        state.read()


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "books").write_text("in the way")
    state = LocalState(URL, tmp_path)
    state.write(Known("e.1"))

    assert "can't be written" in state.failure


def test_one_file_has_one_state_however_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    relative, absolute = parse_url("sqlite:///a.db"), parse_url(f"sqlite:///{tmp_path}/a.db?sync=full")
    assert LocalState(relative, tmp_path).folder == LocalState(absolute, tmp_path).folder


def test_the_folder_is_the_users_state_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "llmshield"
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert default_folder() == tmp_path / "home" / ".local" / "state" / "llmshield"
