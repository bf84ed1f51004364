"""Stores on real backends: memory, a SQLite file, a redis-server of our own."""

import subprocess
import time
from collections.abc import AsyncIterator, Callable
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
