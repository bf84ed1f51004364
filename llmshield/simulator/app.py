"""The simulator as a thing to start: in a test's own loop, in a thread, or as a program."""

from __future__ import annotations

import asyncio
import signal
import ssl
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from llmshield.simulator import server
from llmshield.simulator.answer import Scripted, scripted
from llmshield.simulator.provider import Provider
from llmshield.simulator.record import Received


class Simulator:
    """A simulated provider on a loopback port, inside the running loop.

        async with Simulator(name="provider-b", fault="429", first=2) as sim:
            client = openai.AsyncOpenAI(base_url=sim.url + "/v1", api_key="any")
            ...
        assert sim.calls[0].json["model"] == "gpt-4o"

    `settings` are Provider's: name, require_key, models, script, reply, seed, keep, and every directive.
    `tls` serves https with that context; `wire=True` keeps each connection's raw bytes in `sim.wires`.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        tls: ssl.SSLContext | None = None,
        wire: bool = False,
        **settings: Any,
    ) -> None:
        self.provider = Provider(**settings)
        self.host, self.port, self.tls = host, port, tls
        self.wires: list[bytearray] | None = [] if wire else None
        self.connections = 0
        self._open: set[server.Connection] = set()
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        """The base address, without a slash at the end and without /v1."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.tls else 'http'}://{host}:{self.port}"

    @property
    def calls(self) -> list[Received]:
        """Every request so far, control requests left out."""
        return self.provider.calls

    @property
    def open_connections(self) -> int:
        """Connections that are open now."""
        return len(self._open)

    def set(self, **options: Any) -> None:
        """Change defaults while running; see Provider.set."""
        self.provider.set(**options)

    def reset(self) -> None:
        """Forget default directives, scripts and recorded calls."""
        self.provider.reset()

    def fail_next(self, count: int, fault: str) -> None:
        """The next `count` calls meet this fault, then all is well."""
        self.provider.fail_next(count, fault)

    def say(self, *replies: Scripted | str | list[str] | dict[str, Any]) -> None:
        """Script the next replies, behind those already waiting."""
        self.provider.script.extend(map(scripted, replies))

    def bill(self) -> dict[str, tuple[int, int]]:
        """Tokens generated so far by model, as (input, output)."""
        return self.provider.bill()

    async def wait(self, calls: int, timeout_s: float = 5.0) -> list[Received]:
        """Wait until so many calls have come in and are over, and return them. Raises: TimeoutError."""
        async with asyncio.timeout(timeout_s):
            # Records change from the connections' callbacks; a poll keeps an event out of the hot path.
            while len(self.calls) < calls or not all(c.finished or c.disconnected for c in self.calls):  # noqa: ASYNC110
                await asyncio.sleep(0.002)
        return list(self.calls)

    async def start(self) -> None:
        """Listen; the port stays the same when started again after `refuse`."""
        loop = asyncio.get_running_loop()
        make = server.factory(self.provider, self._open, self._made)
        self._server = await loop.create_server(
            make, self.host, self.port, ssl=self.tls, backlog=2048, reuse_address=True
        )
        self.port = self._server.sockets[0].getsockname()[1]

    def _made(self, connection: server.Connection) -> None:
        self.connections += 1
        if self.wires is not None:
            connection.wire = bytearray()
            self.wires.append(connection.wire)

    async def refuse(self) -> None:
        """Stop listening and reset what is open: new connections are refused until `accept`."""
        if self._server is not None:
            self._server.close()
        for connection in list(self._open):
            if connection.transport is not None:
                server.reset(connection.transport)
        await self._idle()

    async def accept(self) -> None:
        """Listen again, on the same port."""
        await self.start()

    async def stop(self) -> None:
        """Close the port and every connection."""
        if self._server is not None:
            self._server.close()
        for connection in list(self._open):
            if connection.transport is not None:
                connection.transport.abort()
        await self._idle()

    async def _idle(self) -> None:
        for _ in range(200):
            if not self._open:
                return
            await asyncio.sleep(0.001)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()


class SimulatorThread:
    """The same in a thread of its own, for synchronous clients: `with SimulatorThread() as sim: sim.url`.

    Everything else is the Simulator's (`calls`, `set`, `say`, ...); `refuse`, `accept` and `wait` are
    synchronous here.
    """

    def __init__(self, **settings: Any) -> None:
        self.inner = Simulator(**settings)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="simulator", daemon=True)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def _run(self, action: Callable[[], Any], patience_s: float = 10.0) -> Any:
        return asyncio.run_coroutine_threadsafe(action(), self._loop).result(patience_s)

    def wait(self, calls: int, timeout_s: float = 5.0) -> list[Received]:
        """Wait until so many calls have come in and are over, and return them. Raises: TimeoutError."""
        found: list[Received] = self._run(lambda: self.inner.wait(calls, timeout_s), timeout_s + 10)
        return found

    def refuse(self) -> None:
        """Stop listening and reset what is open."""
        self._run(self.inner.refuse)

    def accept(self) -> None:
        """Listen again, on the same port."""
        self._run(self.inner.accept)

    def __enter__(self) -> Self:
        self._thread.start()
        self._run(self.inner.start)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._run(self.inner.stop)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()


def run(
    host: str = "127.0.0.1",
    port: int = 8788,
    *,
    ready: Callable[[str], None] | None = None,
    **settings: Any,
) -> None:
    """Serve until SIGINT or SIGTERM; `ready` is called with the URL once the port is open.

    Raises: ValueError for a wrong setting, OSError when the port is taken.
    """
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_serve(Simulator(host=host, port=port, **settings), ready))


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    made: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return made


async def _serve(simulator: Simulator, ready: Callable[[str], None] | None) -> None:
    loop = asyncio.get_running_loop()
    over = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, over.set)
    async with simulator:
        if ready is not None:
            ready(simulator.url)
        await over.wait()
