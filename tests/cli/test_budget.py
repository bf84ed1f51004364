"""`llmshield budget` and `llmshield store` as a user types them, beside a gateway's ledger; the drill of the docs."""

import asyncio
import csv
import io
import json
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from llmshield.cli import build_app
from llmshield.errors import BookLost, ShieldError
from llmshield.ledger import Cap, Ledger, Refusal, Reservation, tenant_account
from llmshield.local_state import LocalState
from llmshield.stores import Labels, open_store

DOCS = Path(__file__).parents[2] / "docs" / "money.md"
POLICY = """
version: 1
server: {{store: "{url}"}}
tenants: {{acme: {{tier: pro}}, umbrella: {{tier: free}}}}
tiers:
  pro: {{budget: [5 USD/day, 50 USD/month]}}
  free: {{}}
plugins:
  - use: cost_cap
    caps: [{{limit: 9 USD/day}}]
"""
USD = 10**12
CAP = Cap(tenant_account("acme"), 5 * USD, "day")
LABELS = Labels("acme", "openai", "gpt-4o")
Run = Callable[..., "asyncio.Future[subprocess.CompletedProcess[str]]"]


@pytest.fixture(params=["sqlite", "redis"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return "sqlite:///book.db"
    return f"{request.getfixturevalue('redis_url')}?prefix=c{time.monotonic_ns()}"


@pytest.fixture
async def ledger(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Ledger]:
    """A gateway's ledger, running beside the commands."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "policy.yaml").write_text(POLICY.format(url=url))
    store = open_store(url)
    opened = Ledger(store, LocalState(store.url))
    await opened.start()
    yield opened
    await opened.close()
    await store.close()


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command in the folder of the policy, in a thread: the test's own loop goes on meanwhile."""
    monkeypatch.setenv("COLUMNS", "300")

    def work(words: tuple[str, ...]) -> "subprocess.CompletedProcess[str]":
        done = CliRunner().invoke(build_app(words[0]), words)
        error = done.exception
        if error is not None and not isinstance(error, (ShieldError, SystemExit)):
            raise error
        said = f"llmshield: {error}" if isinstance(error, ShieldError) else done.stderr  # as `main` says it
        return subprocess.CompletedProcess(words, done.exit_code, done.stdout, said)

    return lambda *words: asyncio.ensure_future(asyncio.to_thread(work, words))


async def spend(ledger: Ledger, id: str, amount: int) -> Reservation | Refusal:
    held = await ledger.reserve(id, LABELS, [CAP], amount)
    if isinstance(held, Reservation):
        await ledger.settle(held, amount)
    return held


async def test_show_raise_and_unlock(ledger: Ledger, run: Run) -> None:
    await spend(ledger, "a", 5 * USD)
    await ledger.lock("acme", "x", int((time.time() + 3_600) * 1000))
    shown = await run("budget", "show", "--format", "json")
    rows = json.loads(shown.stdout)
    day, month, other = rows
    assert (day["tenant"], day["window"], day["spent_usd"]) == ("acme", "day", "5.000000000000")
    assert (day["limit_usd"], day["remaining_usd"]) == ("5.000000000000", "0.000000000000")
    assert (month["window"], month["remaining_usd"]) == ("month", "50.000000000000")
    assert day["locked"].endswith("Z")
    assert (other["tenant"], other["limit_usd"], other["locked"]) == ("umbrella", "", "")

    assert isinstance(await spend(ledger, "b", USD), Refusal)
    raised = await run("budget", "raise", "--tenant", "acme", "--by", "1.5 USD", "--window", "day")
    assert raised.returncode == 0, raised.stderr
    assert "raised by 1.500000000000 USD until" in raised.stdout
    unlocked = await run("budget", "unlock", "acme")
    assert (unlocked.returncode, unlocked.stdout) == (0, "acme may spend again.\n")
    await asyncio.sleep(0.6)
    assert ledger.books.locked == {}
    assert isinstance(await spend(ledger, "c", USD), Reservation)
    assert isinstance(await spend(ledger, "d", USD), Refusal)

    table = csv.DictReader(
        io.StringIO((await run("budget", "show", "--tenant", "acme", "--format", "csv")).stdout)
    )
    assert [(row["window"], row["limit_usd"], row["spent_usd"]) for row in table] == [
        ("day", "6.500000000000", "6.000000000000"),
        ("month", "50.000000000000", "0.000000000000"),
    ]
    assert (await run("budget", "unlock", "acme")).returncode == 1


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (("raise", "--tenant", "acme", "--by", "5"), 2, "'5 USD'"),
        (("raise", "--tenant", "acme", "--by", "-5 USD"), 2, "expected an amount"),
        (("raise", "--tenant", "acme", "--by", "0 USD"), 2, "expected an amount"),
        (("raise", "--tenant", "umbrella", "--by", "5 USD"), 1, "nothing to raise"),
        (("raise", "--tenant", "acme", "--by", "5 USD", "--until", "soon"), 2, "expected a time"),
        (("show", "--policy", "none.yaml"), 2, "name a policy"),
        (("reset",), 2, "--yes"),
        (("rebuild",), 1, "nothing to rebuild"),
        (("rebuild", "--journal", "nowhere"), 1, "no folder of journals"),
    ],
)
@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
async def test_mistakes_are_told_in_a_line(
    ledger: Ledger, run: Run, words: tuple[str, ...], status: int, said: str
) -> None:
    done = await run("budget", *words)

    assert status == done.returncode, done.stderr
    assert said in " ".join(done.stderr.replace("│", " ").split())
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("url", ["redis"], indirect=True)
async def test_a_flushed_redis_is_rebuilt_beside_a_running_gateway(
    ledger: Ledger, run: Run, url: str
) -> None:
    await spend(ledger, "a", 4 * USD)
    store, prefix = ledger._store, url.rpartition("=")[2]
    for key in await store._read("keys", f"{prefix}:*"):  # type: ignore[attr-defined]
        await store._read("delete", key)  # type: ignore[attr-defined]
    with pytest.raises(BookLost):
        await spend(ledger, "b", 1)
    await asyncio.sleep(0.6)
    assert "budget rebuild" in ledger.closed
    shown = await run("budget", "show")
    assert shown.returncode == 1
    assert "The money book is lost" in shown.stderr
    dry = await run("budget", "rebuild", "--dry-run")
    assert "Would add 1 settled calls and 0 without an end" in dry.stdout
    with pytest.raises(BookLost):
        await spend(ledger, "c", 1)

    done = await run("budget", "rebuild")
    assert done.returncode == 0, done.stderr
    assert "4.000000000000 USD  tenant=acme ever" in done.stdout
    assert isinstance(await spend(ledger, "d", USD), Reservation)
    assert isinstance(await spend(ledger, "e", 1), Refusal)
    await asyncio.sleep(0.6)
    assert ledger.closed == ""

    assert (await run("budget", "reset", "--yes")).returncode == 0
    assert isinstance(await spend(ledger, "f", 5 * USD), Reservation)


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
async def test_the_drill_of_the_docs(ledger: Ledger, run: Run, tmp_path: Path) -> None:
    """Every command of the drill, word for word, with a gateway that goes on."""
    drill = DOCS.read_text().partition("## A drill")[2]
    words = [line.split() for line in re.findall(r"(?m)^\$ (.+)$", drill.partition("\n## ")[0])]
    assert [each[1:3] for each in words if each[0] == "llmshield"] == [
        ["store", "backup"], ["store", "restore"], ["budget", "rebuild"], ["budget", "show"],
    ]  # fmt: skip
    await spend(ledger, "before", 2 * USD)
    for number, command in enumerate(words):
        if command[0] == "rm":
            await spend(ledger, "since", USD)
            await asyncio.sleep(0.1)
            for name in command[2:]:
                (tmp_path / name).unlink(missing_ok=True)
            with pytest.raises(BookLost):
                await spend(ledger, f"lost{number}", 1)
        else:
            done = await asyncio.to_thread(
                subprocess.run, [sys.executable, "-m", *command], cwd=tmp_path, capture_output=True, text=True
            )
            assert done.returncode == 0, (command, done.stderr)

    assert "3.000000000000" in done.stdout
    for _ in range(20):
        if not ledger.closed and not ledger._store.replaced:
            break
        await asyncio.sleep(0.1)
    assert isinstance(await spend(ledger, "after", USD), Reservation)
    assert isinstance(await spend(ledger, "more", 2 * USD), Refusal)
