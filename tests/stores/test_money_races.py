"""Money among processes: caps are never overspent, and a kill loses and doubles nothing."""

import asyncio
import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from llmshield.stores import Grant, Labels, Line, Store, open_store

CAP = 1_000_000_000_000
LARGEST = CAP // 800
LINES = (Line("tenant=acme", "ever"), Line("tenant=acme", "day:2026-11-20", CAP, 4_000_000_000_000))


@pytest.mark.parametrize(
    "run", [*range(5), *[pytest.param(run, marks=pytest.mark.nightly) for run in range(5, 100)]]
)
async def test_a_cap_is_never_overspent(run: int, store: Store, spend: Any) -> None:
    """4 processes x 64 clients spend at random until they are refused: overshoot is exactly 0."""
    processes, clients = (4, 64) if store.shared else (1, 64)
    if store.shared:
        spent = await spend(run, processes, clients, CAP, 800, "day")
    else:
        spent = await _spend_here(store, clients)

    by_window = {found.window: found for found in await store.balances("tenant=acme")}
    entries = [entry async for entry in store.journal()]

    assert by_window["ever"].spent == by_window["day:2026-11-20"].spent == spent
    assert spent <= CAP
    assert CAP - spent < LARGEST * processes * clients, "unused: below one reservation for each client"
    assert by_window["ever"].held == by_window["day:2026-11-20"].held == await store.holds() == 0
    assert sum(entry.amount for entry in entries) == spent
    assert len({entry.id for entry in entries}) == len(entries) == by_window["ever"].requests


async def _spend_here(store: Store, clients: int) -> int:
    rng, labels = random.Random(1), Labels("acme", "openai", "gpt-4o")

    async def spend(client: int) -> int:
        spent = 0
        for turn in range(100_000):
            id = f"{client}.{turn}"
            held = await store.reserve(id, LINES, LARGEST, LARGEST, 3 * 10**12, 2 * 10**12, labels)
            if not isinstance(held, Grant):
                return spent
            await asyncio.sleep(rng.random() / 500)
            cost = rng.randrange(held.amount + 1)
            await store.settle(id, LINES, cost, 2 * 10**12, labels, 1, 1)
            spent += cost
        raise AssertionError("never refused")

    return sum(await asyncio.gather(*[spend(client) for client in range(clients)]))


KILL = """
import asyncio, os, random, signal, sys, time
from llmshield.errors import StoreUnavailable
from llmshield.stores import Grant, Labels, Line, open_store
import redis.asyncio

url, log, rounds = sys.argv[1], sys.argv[2], int(sys.argv[3])
lines = (Line("tenant=acme", "ever"), Line("tenant=acme", "day:2026-11-20", 10**15, 4_000_000_000_000))
labels = Labels("acme", "openai", "gpt-4o")

async def until(step, *args):
    # On a busy machine an answer may come too late; the step is repeated with its id and happens once.
    for _ in range(100):
        try:
            return await step(*args)
        except StoreUnavailable:
            await asyncio.sleep(0.02)
    raise SystemExit("the store is gone")

async def client(store, out, name, rng):
    turn = 0
    while True:
        turn += 1
        id = f"{name}.{turn}"
        held = await until(store.reserve, id, lines, 1_000, 1_000, 2_000_000_060_000, 2_000_000_000_000, labels)
        assert isinstance(held, Grant)
        os.write(out, f"held {id} 1000\\n".encode())
        cost = rng.randrange(1001)
        os.write(out, f"billed {id} {cost}\\n".encode())
        await asyncio.sleep(0)
        await until(store.settle, id, lines, cost, 2_000_000_000_000, labels, 1, 1)
        os.write(out, f"settled {id} {cost}\\n".encode())

async def live(name, ready):
    out = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    store = open_store(url)
    try:
        await until(store.open)
    finally:
        os.write(ready, b"x")  # or the parent would wait for ever
    rng = random.Random(name)
    await asyncio.gather(*[client(store, out, f"{name}.{index}", rng) for index in range(2)])

open_store(url)  # its module is imported once, before the forks
rng = random.Random(7)
for index in range(rounds):
    # Four at once, so that the others go on while one is killed; each at a moment of its own.
    seen, ready = os.pipe()
    pids = []
    for each in range(4):
        pids.append(os.fork())
        if not pids[-1]:
            asyncio.run(live(f"p{index}.{each}", ready))
    for _ in pids:
        os.read(seen, 1)
    for pid in pids:
        time.sleep(rng.random() * 0.015)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    os.close(seen)
    os.close(ready)
"""


async def kill(url: str, log: Path, kills: int) -> None:
    rounds = kills // 4
    worker = await asyncio.create_subprocess_exec(sys.executable, "-c", KILL, url, str(log), str(rounds))
    assert await worker.wait() == 0
    acknowledged: dict[str, dict[str, int]] = {"held": {}, "billed": {}, "settled": {}}
    for line in log.read_text().splitlines():
        what, id, amount = line.split(" ")
        acknowledged[what][id] = int(amount)
    assert len(acknowledged["settled"]) > kills
    store = open_store(url)
    await store.open()
    try:
        at_once = {found.window: found for found in await store.balances("tenant=acme")}["ever"]
        assert at_once.spent + at_once.held >= sum(acknowledged["billed"].values())
        await store.expire(2_000_000_060_000)
        entries = [entry async for entry in store.journal()]
        amounts = {entry.id: (entry.kind, entry.amount) for entry in entries}

        assert max(Counter(entry.id for entry in entries).values()) == 1
        for id, cost in acknowledged["settled"].items():
            assert amounts[id] == ("settle", cost)
        for id in acknowledged["held"].keys() - acknowledged["settled"].keys():
            assert amounts[id] in {("expire", 1_000), ("settle", acknowledged["billed"].get(id, -1))}
        for found in await store.balances("tenant=acme"):
            assert (found.spent, found.held) == (sum(entry.amount for entry in entries), 0)
        assert await store.holds() == 0
    finally:
        await store.close()


@pytest.mark.parametrize("url", ["sqlite", "redis"], indirect=True)
async def test_a_kill_loses_and_doubles_nothing(url: str, tmp_path: Path) -> None:
    """200 kills at random points on each store; every acknowledged step is there once."""
    await kill(url, tmp_path / "acknowledged", 200)


@pytest.mark.nightly
@pytest.mark.parametrize("url", ["sqlite", "redis"], indirect=True)
async def test_a_kill_loses_and_doubles_nothing_many_times(url: str, tmp_path: Path) -> None:
    """The same, 2,000 times on each store."""
    await kill(url, tmp_path / "acknowledged", 2_000)


def test_several_processes_make_one_new_file(tmp_path: Path) -> None:
    """They all create the tables and switch to WAL at the same instant."""
    script = (
        "import asyncio, sys\nfrom llmshield.stores import open_store\n"
        "async def main():\n s = open_store(sys.argv[1]); await s.open(); await s.ping(); await s.close()\n"
        "asyncio.run(main())"
    )
    url = f"sqlite:///{tmp_path / 'new.db'}"
    workers = [subprocess.Popen([sys.executable, "-c", script, url]) for _ in range(6)]

    assert [worker.wait(30) for worker in workers] == [0] * 6
    assert os.path.exists(tmp_path / "new.db")
