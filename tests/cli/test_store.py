"""`llmshield store` from the command line: what it says, and what it refuses. The way through is in test_budget."""

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from llmshield.cli import build_app
from llmshield.errors import ShieldError
from llmshield.local_state import LocalState
from llmshield.stores import open_store, parse_url


def run(*words: str) -> Result:
    return CliRunner().invoke(build_app("store"), ["store", *words])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_policy(folder: Path, url: str) -> None:
    (folder / "policy.yaml").write_text(f"version: 1\nserver: {{store: '{url}', state_dir: state}}\n")


async def test_a_backup_says_what_it_has(folder: Path) -> None:
    write_policy(folder, "sqlite:///a.db")
    store = open_store("sqlite:///a.db")
    await store.open()
    await store.close()

    done = run("backup", "dest")
    assert done.exit_code == 0
    assert done.stdout == f"The book and 0 journals of sqlite:///{folder}/a.db are in dest.\n"
    back = run("restore", "dest")
    assert back.exit_code == 0
    assert "budget rebuild" in back.stdout
    assert LocalState(parse_url("sqlite:///a.db"), folder / "state").read().epoch == store.epoch


def test_of_redis_it_takes_the_journals(folder: Path) -> None:
    write_policy(folder, "redis://127.0.0.1:1/0")

    done = run("backup", "dest")
    assert "No book (Redis has tools of its own for that) and 0 journals" in done.stdout


@pytest.mark.parametrize(
    ("url", "words", "said"),
    [
        ("memory://", ("backup", "dest"), "memory://"),
        ("sqlite:///none.db", ("backup", "dest"), "no store at 'none.db'"),
        ("sqlite:///none.db", ("restore", "dest"), "no whole backup"),
        ("sqlite:///none.db", ("backup", "."), "not empty"),
    ],
)
def test_mistakes_are_told(folder: Path, url: str, words: tuple[str, ...], said: str) -> None:
    write_policy(folder, url)
    done = run(*words)

    assert isinstance(done.exception, ShieldError)
    assert said in str(done.exception)
