"""`llmshield block`: what it writes, what it shows, and what it refuses."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from llmshield.cli import build_app
from llmshield.errors import ShieldError
from llmshield.stores import open_store
from llmshield.testing import FrozenClock


@pytest.fixture
def url(tmp_path: Path) -> str:
    url = f"sqlite:///{tmp_path / 'book.db'}"

    async def make() -> None:
        store = open_store(url)
        await store.open()
        await store.close()

    asyncio.run(make())
    return url


def run(*words: str) -> int:
    status: Any = build_app("block")(["block", *words], standalone_mode=False)
    return int(status or 0)


def test_add_list_remove(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    with FrozenClock(1_790_000_000.0):
        assert run("add", "192.0.2.7", "--for", "24h", "--reason", "stuffing", "--store", url) == 0
        assert run("add", "2001:db8::1", "--store", url) == 0
        assert run("add", "tenant:acme", "--for", "30m", "--store", url) == 0
        said = capsys.readouterr().out.splitlines()
        assert run("list", "--format", "json", "--store", url) == 0
        rows = json.loads(capsys.readouterr().out)
        assert run("list", "--store", url) == 0
        table = capsys.readouterr().out
        assert run("remove", "192.0.2.7", "--store", url) == 0
        assert run("remove", "192.0.2.7", "--store", url) == 1
        assert capsys.readouterr().out == "192.0.2.7 is not blocked any more.\n192.0.2.7 was not blocked.\n"

    assert said == [
        "192.0.2.7 is blocked until 2026-09-22T14:13:20Z.",
        "2001:db8::/64 is blocked.",
        "tenant:acme is blocked until 2026-09-21T14:43:20Z.",
    ]
    assert {row["target"]: (row["until"], row["reason"]) for row in rows} == {
        "192.0.2.7": ("2026-09-22T14:13:20Z", "stuffing"),
        "2001:db8::/64": (None, ""),
        "tenant:acme": ("2026-09-21T14:43:20Z", ""),
    }
    assert "stuffing" in table


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("add", "acme"), "expected an address"),
        (("add", "192.0.2.7", "--for", "a while"), "expected a duration"),
        (("add", "192.0.2.7", "--for", "0s"), "expected a duration"),
        (("remove", "192.0.2.300"), "expected an address"),
    ],
)
def test_what_is_no_block_is_usage(
    url: str, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], told: str
) -> None:
    assert run(*words, "--store", url) == 2
    assert told in capsys.readouterr().err


def test_a_store_that_nobody_shares_or_has_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ShieldError, match="memory://"):
        run("list", "--store", "memory://")
    with pytest.raises(ShieldError, match="no store at"):
        run("remove", "192.0.2.7", "--store", f"sqlite:///{tmp_path / 'nowhere.db'}")


def test_the_policys_store(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("list") == 2
    Path("policy.yaml").write_text(f"version: 1\nserver: {{store: '{url}'}}\n")

    assert run("add", "192.0.2.7") == 0
    assert run("remove", "192.0.2.7", "--policy", "policy.yaml") == 0


def test_a_block_may_come_before_the_first_start(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = f"sqlite:///{tmp_path / 'new.db'}"
    assert run("add", "192.0.2.7", "--store", url) == 0
    assert "it is made now" in capsys.readouterr().err
    assert run("list", "--format", "json", "--store", url) == 0

    assert json.loads(capsys.readouterr().out)[0]["target"] == "192.0.2.7"
