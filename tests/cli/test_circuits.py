"""`llmshield circuits`: what it writes, what it shows, and what it refuses."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from llmshield.circuits import Circuits
from llmshield.cli import build_app
from llmshield.errors import ShieldError
from llmshield.policy import load
from llmshield.stores import open_store
from llmshield.testing import FrozenClock

POLICY = """
version: 1
server: {{store: "{store}"}}
providers:
  a: {{dialect: openai, base_url: "http://127.0.0.1:1/v1", circuit: {{open_for: 60s, failures: 1}}}}
  b: {{dialect: openai, base_url: "http://127.0.0.1:2/v1"}}
  c: {{dialect: openai, base_url: "http://127.0.0.1:3/v1", circuit: {{}}}}
plugins: [{{use: failover}}]
"""


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    url = f"sqlite:///{tmp_path / 'book.db'}"
    asyncio.run(having(url, []))
    path = tmp_path / "policy.yaml"
    path.write_text(POLICY.format(store=url))
    return path


async def having(url: str, failing: list[str], policy: Path | None = None) -> dict[str, Any]:
    """What a gateway of this store sees once these models of `a` have failed."""
    store = open_store(url)
    await store.open()
    seen: dict[str, Any] = {}
    if policy is not None:
        circuits = Circuits(load(policy).providers)
        await circuits.start(store)
        for model in failing:
            permit = circuits.permit("a", model)
            assert permit is not None
            permit.failure("reset")
        await circuits.close()
        seen = circuits.snapshot()
    await store.close()
    return seen


def run(*words: str) -> int:
    status: Any = build_app("circuits")(["circuits", *words], standalone_mode=False)
    return int(status or 0)


def listed(policy: Path, capsys: pytest.CaptureFixture[str], *words: str) -> list[dict[str, Any]]:
    capsys.readouterr()
    assert run("list", "--format", "json", "--policy", str(policy), *words) == 0
    rows: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    return rows


def test_list_open_close(policy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = load(policy).server.store
    on = ("--policy", str(policy))
    with FrozenClock(1_790_000_000.0) as time:
        closed = [
            {"provider": name, "model": "*", "state": "closed", "since": None, "left_s": None, "reason": ""}
            for name in ("a", "c")
        ]
        assert closed == listed(policy, capsys)
        asyncio.run(having(url, ["gpt-4o"], policy))
        time.advance(19)
        row = {"provider": "a", "model": "gpt-4o", "state": "open", "since": "2026-09-21T14:13:20Z",
               "left_s": 41.0, "reason": "reset"}  # fmt: skip
        assert [closed[0], row, closed[1]] == listed(policy, capsys)
        assert run("list", *on) == 0
        assert "41s" in capsys.readouterr().out
        time.advance(41)
        assert "half_open" == listed(policy, capsys, "--provider", "a", "--model", "gpt-4o")[1]["state"]
        assert run("open", "--provider", "c", "--model", "o3", "--for", "10m", *on) == 0
        assert run("open", "--provider", "a", *on) == 0
        assert capsys.readouterr().out.splitlines() == [
            "The circuit of c, o3 is open for 10m.", "The circuit of a, all models is open until it is closed.",
        ]  # fmt: skip
        time.advance(1)
        assert {("a", "*", "open", None), ("c", "*", "closed", None), ("c", "o3", "open", 599.0)} == {
            (row["provider"], row["model"], row["state"], row["left_s"]) for row in listed(policy, capsys)
        }
        seen = asyncio.run(having(url, [], policy))
        assert "open" == seen["a"]["gpt-4o"]["state"]
        assert 599 == seen["c"]["o3"]["retry_after_s"]
        assert run("close", "--provider", "a", *on) == 0
        assert capsys.readouterr().out == "The circuit of a, all models is closed.\n"
        assert ["closed"] == [row["state"] for row in listed(policy, capsys, "--provider", "a")]
        assert "closed" == asyncio.run(having(url, [], policy))["a"]["gpt-4o"]["state"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("open",), "--provider NAME"),
        (("close", "--model", "gpt-4o"), "--provider NAME"),
        (("open", "--provider", "b"), "'b' has no `circuit` in the policy; with a circuit: a, c"),
        (("close", "--provider", "x"), "'x' is not in the policy; with a circuit: a, c"),
        (("list", "--provider", "x"), "'x' is not in the policy"),
        (("open", "--provider", "a", "--for", "soon"), "expected a duration"),
        (("open", "--provider", "a", "--for", "0s"), "expected a duration"),
    ],
)
def test_what_means_nothing_is_usage(
    policy: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], told: str
) -> None:
    assert run(*words, "--policy", str(policy)) == 2
    assert told in capsys.readouterr().err


def test_a_store_that_nobody_shares_or_has_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(POLICY.format(store="memory://"))
    with pytest.raises(ShieldError, match="memory://"):
        run("list", "--policy", str(path))
    path.write_text(POLICY.format(store=f"sqlite:///{tmp_path / 'none.db'}"))
    with pytest.raises(ShieldError, match="no store at"):
        run("open", "--provider", "a", "--policy", str(path))
    assert run("list", "--policy", str(tmp_path / "none.yaml")) == 2
    assert "none.yaml" in capsys.readouterr().err
