"""Finding a mitmproxy: which Python is taken, and what is said where none will do."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from llmshield.egress import interpreter


def pretends(folder: Path, answer: str, status: int = 0) -> str:
    """A program that answers as a Python would."""
    path = folder / f"python{len(list(folder.iterdir()))}"
    path.write_text(f"#!/bin/sh\necho '{answer}'\nexit {status}\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(
    ("answer", "status", "trouble"),
    [
        ("12.2.3 3 12", 0, None),
        ("12.3.0 3 13", 0, None),
        ("12.2.1 3 12", 0, "12.2.1"),
        ("11.0.2 3 12", 0, "11.0.2"),
        ("12.2.3 3 11", 0, "older than 3.12"),
        ("", 1, "no mitmproxy"),
    ],
)
def test_what_will_do(tmp_path: Path, answer: str, status: int, trouble: str | None) -> None:
    python = pretends(tmp_path, answer, status)
    if trouble is None:
        assert python == interpreter.find(python)
        return
    with pytest.raises(interpreter.NoMitmproxy, match=trouble) as raised:
        interpreter.find(python)

    assert "pip install" in str(raised.value)


def test_the_flag_wins_over_the_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = pretends(tmp_path, "12.2.3 3 12"), pretends(tmp_path, "12.2.3 3 12")
    monkeypatch.setenv(interpreter.VARIABLE, one)

    assert one == interpreter.find()
    assert other == interpreter.find(other)


def test_none_at_all(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(interpreter.VARIABLE, raising=False)
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "venv"))
    monkeypatch.setattr(sys, "executable", pretends(tmp_path, "", 1))
    with pytest.raises(interpreter.NoMitmproxy, match="no mitmproxy"):
        interpreter.find()
    beside = tmp_path / ".venv-egress" / "bin"
    beside.mkdir(parents=True)
    (beside / "python").symlink_to(pretends(tmp_path, "12.2.3 3 12"))

    assert str(beside / "python") == interpreter.find()


def test_a_program_that_is_not_there() -> None:
    with pytest.raises(interpreter.NoMitmproxy, match="can't be run"):
        interpreter.find("/no/such/python")


def test_nothing_of_ours_is_on_its_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "x")

    assert "PYTHONPATH" not in interpreter.clean()
    assert "PATH" in interpreter.clean()
