"""The wire to one Redis: scripts go out as bytes, answers come back in order, nobody waits longer than patience.

redis-py costs 100 us of processor a step, several times what the step takes in Redis; so this speaks RESP itself.
What callers ask in one turn of the loop leaves in one write; answers are matched by their order.

Rule 1: an answer that does not come within 50 ms fails everything that is under way, once; while it is outstanding
every other step fails at once. After a second the connection is given up and the next step tries a new one.
Rule 2: a late answer is dropped by its place in the order: it can't meet another request.
Rule 3: a connection that turns out to be dead is replaced once within the same patience; its steps are asked again,
and every step of the book may be repeated.
Rule 4: where this is a node of a cluster that says who has our keys (`MOVED`), the connection goes there, and the steps
under way with it. All keys are in one slot, so one node has them all; when it is lost, the node of the URL is asked anew.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, cast
from urllib.parse import unquote, urlsplit

from llmshield.errors import StoreUnavailable
from llmshield.stores._redis_resp import RedisError, command, read, script_head
from llmshield.stores._trouble import redis_place, redis_trouble

PATIENCE_S = 0.05
"""What a dead Redis may cost a call."""

_TICK_S = 0.01
_TICKS = round(PATIENCE_S / _TICK_S)

_REST_S = 0.2
"""After two failures in a row: how long steps fail at once before one of them tries again."""

_GIVE_UP_S = 1.0
"""How long an outstanding answer may still come; then its connection is closed."""

_IN_FLIGHT = 64
"""Most steps under way: at 30 us each Redis is busy with them for 2 ms."""

Part = str | int | bytes


class _Step:
    __slots__ = ("born", "data", "future", "script", "tries")

    def __init__(self, script: str, data: bytes, future: asyncio.Future[Any] | None, born: int) -> None:
        self.script = script
        self.data = data
        self.future = future
        self.born = born
        self.tries = 0


class Wire:
    """One connection, made anew when it is lost. `scripts` are known by name."""

    def __init__(self, url: str, scripts: Mapping[str, str]) -> None:
        self._url = urlsplit(url)
        self._place = redis_place(url)
        self._scripts = scripts
        self._heads = {name: script_head(text) for name, text in scripts.items()}
        self._moved: tuple[str, int] | None = None
        """The node of the cluster that has our keys, as another one told."""
        self._link: _Link | None = None
        self._newest: _Link | None = None
        """The last one made, also while it is not yet of use."""
        self._joining: asyncio.Task[None] | None = None
        self._waiting: deque[_Step] = deque()
        self._flight: deque[_Step] = deque()
        self._flushing = False
        self._watch: asyncio.TimerHandle | None = None
        self._tick = 0
        self._stuck = False
        self._stuck_at = 0.0
        self._failures = 0
        self._rest_until = 0.0
        self._closed = True

    async def open(self, patience_s: float) -> None:
        """Connect and have Redis know the scripts. Raises: StoreUnavailable."""
        self._failures, self._rest_until = 0, 0.0
        try:
            async with asyncio.timeout(patience_s):
                if self._link is None:
                    await self._connect()
                link = self._link
                assert link is not None
                for text in self._scripts.values():
                    await self._send_now(link, "SCRIPT", "LOAD", text)
        except Exception as error:
            await self.close()
            raise redis_trouble(self._place, error, patience_s) from error
        self._closed = False

    async def close(self) -> None:
        """Let go of the connection; what waits fails."""
        self._closed = True
        joining, self._joining = self._joining, None
        if joining is not None:
            joining.cancel()
            await asyncio.wait({joining})
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        self._fail_all(StoreUnavailable("The Redis store is not open"))
        link, self._link = self._link, None
        if link is not None:
            await link.close()

    @property
    def url(self) -> str:
        """The URL of the node that has our keys."""
        if self._moved is None:
            return self._url.geturl()
        user, at, _ = self._url.netloc.rpartition("@")
        host, port = self._moved
        return self._url._replace(netloc=f"{user}{at}{f'[{host}]' if ':' in host else host}:{port}").geturl()

    def ask(self, script: str, key: bytes, args: Sequence[Part]) -> asyncio.Future[Any]:
        """Run a script with one key. Raises: StoreUnavailable, at once or in the future."""
        if self._closed:
            raise StoreUnavailable("The Redis store is not open")
        if self._stuck or (self._rest_until and time.monotonic() < self._rest_until):
            raise StoreUnavailable(f"Redis at {self._place} does not answer; it is asked again in a moment")
        parts = [b"*%d%b$%d\r\n%b\r\n" % (len(args) + 4, self._heads[script], len(key), key)]
        try:
            for arg in args:
                text = (
                    arg.encode() if isinstance(arg, str) else arg if isinstance(arg, bytes) else b"%d" % arg
                )
                parts.append(b"$%d\r\n%b\r\n" % (len(text), text))
        except UnicodeError as error:
            raise StoreUnavailable(f"Redis: {error.__class__.__name__}: a name that is no UTF-8") from error
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        self._waiting.append(_Step(script, b"".join(parts), future, self._tick))
        if not self._flushing:
            self._flushing = True
            loop.call_soon(self._flush)
        return future

    # -- going out

    def _flush(self) -> None:
        """Write what waits, as far as there is room; without a connection, get one."""
        self._flushing = False
        waiting, flight, link = self._waiting, self._flight, self._link
        if link is None:
            if waiting and self._joining is None and not self._closed:
                self._joining = asyncio.create_task(self._join())
        else:
            out = []
            while waiting and len(flight) < _IN_FLIGHT:
                step = waiting.popleft()
                # A caller that gave up before its turn gets nothing held in its name.
                if step.future is None or not step.future.done():
                    if not step.tries:
                        step.born = self._tick
                    out.append(step.data)
                    flight.append(step)
            if out:
                link.transport.write(out[0] if len(out) == 1 else b"".join(out))
        if self._watch is None and (waiting or flight):
            self._watch = asyncio.get_running_loop().call_later(_TICK_S, self._look)

    def _look(self) -> None:
        """Every 10 ms while something is under way. Patience is counted in turns of our own loop: where that gets no
        processor, so may Redis, and the answer may long be in the socket."""
        self._watch = None
        self._tick += 1
        oldest = (self._flight or self._waiting or (None,))[0]
        if oldest is None:
            return
        if self._stuck:
            if time.monotonic() - self._stuck_at > _GIVE_UP_S and self._link is not None:
                self._link.transport.abort()
        elif self._tick - oldest.born > _TICKS:
            self._stuck, self._stuck_at = True, time.monotonic()
            self._failed()
            error = redis_trouble(self._place, TimeoutError(), PATIENCE_S)
            for step in self._flight:  # they stay in the order, for their answers
                _answer(step.future, error)
            self._fail_waiting(error)
        self._watch = asyncio.get_running_loop().call_later(_TICK_S, self._look)

    async def _join(self) -> None:
        try:
            async with asyncio.timeout(_GIVE_UP_S):
                await self._connect()
        except Exception as error:  # noqa: BLE001  handed to everybody who waits
            self._failed()
            self._fail_waiting(redis_trouble(self._place, error, _GIVE_UP_S))
        finally:
            self._joining, self._stuck = None, False
        if self._link is not None:
            self._flush()

    async def _connect(self) -> None:
        url, loop = self._url, asyncio.get_running_loop()
        secure = ssl.create_default_context() if url.scheme == "rediss" else None
        host, port = self._moved or (url.hostname or "localhost", url.port or 6379)
        try:
            _, link = await loop.create_connection(lambda: _Link(self), host, port, ssl=secure)
        except OSError:
            self._moved = None
            raise
        self._newest = link
        try:
            if url.password is not None or url.username:
                user = [unquote(url.username)] if url.username else []
                await self._send_now(link, "AUTH", *user, unquote(url.password or ""))
            if url.path.strip("/"):
                await self._send_now(link, "SELECT", url.path.strip("/"))
        except BaseException:
            link.transport.abort()
            raise
        self._link = link

    async def _send_now(self, link: _Link, *parts: str) -> Any:
        """A command outside of the order of steps, on a connection that nobody else uses yet."""
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._flight.append(_Step("", b"", answer, self._tick))
        link.transport.write(command(parts))
        return await answer

    # -- coming in

    def answered(self, value: Any) -> None:
        """The answer to the oldest step under way."""
        step = self._flight.popleft()
        if (
            type(value) is RedisError
            and step.script
            and step.tries < 2
            and self._link is not None
            and value.args[0].startswith(("NOSCRIPT", "MOVED"))
        ):
            if value.args[0].startswith("MOVED"):
                if not step.tries and self._follow(value.args[0]):
                    self._flight.appendleft(step)
                    self._link.leave()
                    return
                if step.future is not None and not step.future.done():
                    step.future.set_exception(value)
                return
            # Redis was started anew or flushed.
            step.tries = 2
            self._flight.append(_Step("", b"", None, self._tick))
            self._flight.append(step)
            self._link.transport.write(command(("SCRIPT", "LOAD", self._scripts[step.script])) + step.data)
            return
        self._failures, self._rest_until = 0, 0.0
        if step.future is not None and not step.future.done():
            if isinstance(value, Exception):
                step.future.set_exception(value)
            else:
                step.future.set_result(value)
        if not self._flight:
            self._stuck = False
        if self._waiting:
            self._flush()

    def _follow(self, said: str) -> bool:
        """Take over where a `MOVED SLOT HOST:PORT` leads; whether it leads anywhere."""
        host, _, port = said.rpartition(" ")[2].rpartition(":")
        if not port.isdecimal() or len(port) > 5:
            return False
        host = (
            host or (self._moved or (self._url.hostname or "localhost", 0))[0]
        )  # the node does not know its own name
        if (host, int(port)) == self._moved:
            return False
        self._moved = (host, int(port))
        return True

    def disconnected(self, link: _Link, error: Exception | None) -> None:
        """The connection is gone."""
        if link is not self._newest:
            return
        steps, self._flight = list(self._flight), deque()
        if not link.left:
            self._moved = None
        self._link, self._stuck = None, False
        again = [step for step in steps if _open(step) and not step.tries]
        for step in again:
            step.tries = 1
        why = error.__class__.__name__ if error is not None else "by Redis, or by what stands before it"
        gone = StoreUnavailable(f"Redis at {self._place}: the connection was closed ({why})")
        for step in steps:
            if step not in again:
                _answer(step.future, gone)
        self._waiting.extendleft(reversed(again))
        if self._waiting and not self._closed:
            self._flush()

    def _failed(self) -> None:
        self._failures += 1
        if self._failures > 1:
            self._rest_until = time.monotonic() + _REST_S

    def _fail_waiting(self, error: StoreUnavailable) -> None:
        while self._waiting:
            _answer(self._waiting.popleft().future, error)

    def _fail_all(self, error: StoreUnavailable) -> None:
        self._fail_waiting(error)
        while self._flight:
            _answer(self._flight.popleft().future, error)


class _Link(asyncio.Protocol):
    """One connection: takes answers apart."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._rest = b""
        self.left = False
        """We went to another node: what still comes is for nobody."""
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass of it

    def data_received(self, data: bytes) -> None:
        if self._rest:
            data = self._rest + data
        at, end = 0, len(data)
        try:
            while at < end and not self.left:
                value, at = read(data, at)
                self._wire.answered(value)
        except IndexError:  # the rest is under way
            pass
        except (ValueError, RecursionError):  # no RESP: whatever this is, it is no Redis
            self.transport.abort()
        self._rest = data[at:]

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._over.done():
            self._over.set_result(None)
        self._wire.disconnected(self, exc)

    def leave(self) -> None:
        """Close it because our keys are elsewhere."""
        self.left = True
        self.transport.abort()

    async def close(self) -> None:
        """Close and wait until it is closed."""
        self.transport.abort()
        await self._over


def _open(step: _Step) -> bool:
    """Whether somebody waits for this script's answer."""
    return bool(step.script) and step.future is not None and not step.future.done()


def _answer(future: asyncio.Future[Any] | None, error: StoreUnavailable) -> None:
    """Each gets an exception of its own: a shared one would collect tracebacks."""
    if future is not None and not future.done():
        future.set_exception(StoreUnavailable(str(error)))
