"""Several processes on one store: the limit is theirs together, and a killed one frees its places."""

import asyncio
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from llmshield.stores import open_store

WORKER = Path(__file__).with_name("rate_limit_worker.py")
CLIENTS = 32


class Workers:
    def __init__(self) -> None:
        self.started: list[subprocess.Popen[str]] = []

    def start(self, url: str, tier: str, do: str, count: int) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [sys.executable, str(WORKER), url, tier, do, str(count)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.started.append(process)
        return process

    def rush(self, url: str, tier: str, processes: int, decisions: int) -> list[int]:
        """The times in ms of all calls that were let in, of this many decisions over all processes."""
        running = [self.start(url, tier, "rush", decisions // processes) for _ in range(processes)]
        for process in running:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in running:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        times = [int(at) for process in running for at in process.communicate(timeout=900)[0].split()]
        return sorted(times)


@pytest.fixture
def workers() -> Iterator[Workers]:
    made = Workers()
    yield made
    for process in made.started:
        process.kill()
        process.communicate()


@pytest.fixture(params=["sqlite", "redis"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'shared.db'}"
    found: tuple[str, Any] = request.getfixturevalue("redis")
    return found[0]


def most_in(times: Sequence[int], window_ms: int) -> int:
    """The most calls in any stretch of this length."""
    inside: deque[int] = deque()
    most = 0
    for at in times:
        inside.append(at)
        while inside[0] <= at - window_ms:
            inside.popleft()
        most = max(most, len(inside))
    return most


async def test_a_killed_process_frees_its_places_after_the_lease(
    asked: Any, workers: Workers, url: str
) -> None:
    """It keeps them while it lives, however long the call takes; `lease: 1s`."""
    tier = "concurrent: 1"
    holding = workers.start(url, tier, "hold", 0)
    assert holding.stdout is not None
    assert await asyncio.to_thread(holding.stdout.readline) == "held\n"
    store = open_store(url)
    await store.open()
    plugin = await asked.plugin(tier, "lease: 1s", store=store)
    for _ in range(5):
        assert await asked.ask(plugin) is not None
        await asyncio.sleep(0.3)
    holding.send_signal(signal.SIGKILL)
    killed = time.monotonic()
    assert await asked.ask(plugin) is not None
    while await asked.ask(plugin) is not None:
        assert time.monotonic() - killed < 2.0
        await asyncio.sleep(0.05)

    assert time.monotonic() - killed < 1.5
    await plugin.close()
    await store.close()


def test_several_processes_never_pass_the_limit_together(workers: Workers, url: str) -> None:
    """Two processes, 64 clients, for as long as 4,000 decisions take."""
    times = workers.rush(url, "rate: [40/second, 90/minute]", 2, 4_000)

    assert 40 <= len(times) <= 90
    assert most_in(times, 1_000) <= 40


@pytest.mark.nightly
def test_a_million_decisions_on_one_redis(workers: Workers, redis: tuple[str, Any]) -> None:
    """RL-01: 4 processes x 32 clients, every second of it."""
    times = workers.rush(redis[0], "rate: [500/second, 20000/minute]", 4, 1_000_000)

    assert len(times) > 5_000
    assert most_in(times, 1_000) <= 500
    assert most_in(times, 60_000) <= 20_000
