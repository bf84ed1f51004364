"""Stores on real backends: memory, a SQLite file, a redis-server of our own."""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from llmshield.stores import Store, open_store


@pytest.fixture
def own_redis(
    start_redis: Callable[..., "tuple[str, subprocess.Popen[bytes]]"],
) -> "tuple[str, subprocess.Popen[bytes]]":
    """A redis-server for this test alone."""
    return start_redis()


@pytest.fixture(params=["memory", "sqlite", "redis"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a store that holds nothing yet."""
    if request.param == "memory":
        return "memory://"
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'book.db'}"
    redis_url: str = request.getfixturevalue("redis_url")
    return f"{redis_url}?prefix=t{abs(hash((request.node.nodeid, time.monotonic_ns())))}"


@pytest.fixture
async def store(url: str) -> AsyncIterator[Store]:
    """An open store."""
    opened = open_store(url)
    await opened.open()
    yield opened
    await opened.close()


@pytest.fixture
def spend(url: str) -> Callable[..., Awaitable[int]]:
    """`await spend(run, processes, clients, cap, share, window)`: what so many processes, with so many clients each,
    spend on a cap until all of them are refused; see spender.py."""

    async def race(run: int, processes: int, clients: int, cap: int, share: int, window: str) -> int:
        script = Path(__file__).with_name("spender.py")
        workers = [
            await asyncio.create_subprocess_exec(
                sys.executable, str(script), url, f"{run}-{index}", str(clients), str(cap), str(share), window,
                stdout=subprocess.PIPE,
            )
            for index in range(processes)
        ]  # fmt: skip
        return sum([json.loads((await worker.communicate())[0]) for worker in workers])

    return race
