"""What every ASGI mount shares: reading a request's body, writing its answer, noticing that the client is gone."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from functools import lru_cache
from typing import Any, TypeAlias

from llmshield import clock
from llmshield.engine import Engine
from llmshield.errors import CallError, ShieldError
from llmshield.exchange import Exchange, Incoming
from llmshield.logs import log
from llmshield.transport import Transport

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

LINGER = 64 * 1024 * 1024
"""Bytes of a body over its limit that are read and dropped before the refusal."""
WRITE_STALL_S = 60.0
"""A client that takes nothing for so long is gone (nginx's `send_timeout` has the same default)."""
WATCH_AFTER_S = 0.05
"""From then on a hang-up is watched for: the task that does it costs more than what an answer in time would save."""


class AsgiClient:
    """The client of one exchange. `app_headers` are raw headers of a wrapped app that go back as they are."""

    __slots__ = (
        "_gone",
        "_receive",
        "_send",
        "_since",
        "_task",
        "_timer",
        "_watched",
        "app_headers",
        "gone",
        "lingers",
        "receive_s",
        "started",
        "was_cut",
    )
    at_once = None  # a server may always make `send` wait

    def __init__(self, receive: Receive, send: Send, receive_s: float) -> None:
        self._receive = receive
        self._send = send
        self._task = asyncio.current_task()
        self._gone: asyncio.Task[None] | None = None
        self._since: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._watched = False
        self.receive_s = receive_s
        self.app_headers: list[tuple[bytes, bytes]] = []
        self.started = False
        self.gone = False
        """It hung up, or took nothing for too long: the exchange was cancelled for its sake."""
        self.lingers = False
        """The answer is made all the same: it is wanted when the client comes again."""
        self.was_cut = False

    async def read_body(self, limit: int) -> bytes:
        """The request's whole body. Raises: CallError `too_large`, `client_timeout`; CancelledError when gone.

        What is too large is read to its end (`LINGER` bytes at most) and dropped: a client that is still sending
        would see a reset connection, and try again, instead of the answer.
        """
        parts: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(self.receive_s):
                while True:
                    message = await self._receive()
                    if message["type"] != "http.request":
                        self.gone = True
                        raise asyncio.CancelledError
                    data = message.get("body", b"")
                    size += len(data)
                    if size <= limit:
                        parts.append(data)
                    else:
                        parts.clear()
                    if not message.get("more_body", False) or size > limit + LINGER:
                        break
        except TimeoutError:
            raise CallError(
                "client_timeout",
                f"The request did not arrive within {self.receive_s:g} s.",
                headers={"connection": "close"},
            ) from None
        if size > limit:
            raise CallError(
                "too_large", f"The body is larger than {limit} bytes.", headers={"connection": "close"}
            )
        self._watched = True
        self._timer = asyncio.get_running_loop().call_later(WATCH_AFTER_S, self._look)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def _watch(self) -> None:
        """Cancel the exchange as soon as the client hangs up."""
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.gone = True
        if self._task is not None and not self.lingers:
            self._task.cancel()

    async def start(self, status: int, headers: Mapping[str, str]) -> None:
        """Send the head."""
        self.started = True
        raw = [(_raw_name(name), value.encode("latin-1", "replace")) for name, value in headers.items()]
        if self.app_headers:
            raw += [
                (name, value) for name, value in self.app_headers if name.decode("latin-1") not in headers
            ]
        await self._send({"type": "http.response.start", "status": status, "headers": raw})

    async def send(self, data: bytes) -> None:
        """Send a part of the body; waits for a slow client, `WRITE_STALL_S` at most."""
        self._since = clock.monotonic()
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(WRITE_STALL_S, self._look)
        await self._send({"type": "http.response.body", "body": data, "more_body": True})
        self._since = None

    async def end(self) -> None:
        """The body is complete."""
        self._unwatch()
        self._since = clock.monotonic()
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})
        self.close()

    def cut(self) -> None:
        """The body is not complete: `run_exchange` raises, which makes the server close the connection."""
        self.was_cut = True

    def _look(self) -> None:
        """The one timer: begin to watch for a hang-up, and see whether the client still takes what it is sent."""
        self._timer = None
        if self._watched and self._gone is None:
            self._gone = asyncio.get_running_loop().create_task(self._watch())
        if self._since is None:
            return
        left = self._since + WRITE_STALL_S - clock.monotonic()
        if left <= 0 and self._task is not None:
            self.gone = True
            self._task.cancel()
        else:
            self._timer = asyncio.get_running_loop().call_later(max(left, 0.1), self._look)

    def close(self) -> None:
        """Stop watching; safe to call more than once."""
        self._unwatch()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _unwatch(self) -> None:
        self._watched = False
        if self._gone is not None:
            self._gone.cancel()
            self._gone = None


@lru_cache(1024)
def _raw_name(name: str) -> bytes:
    return name.encode("latin-1")


async def run_exchange(
    engine: Engine,
    scope: Scope,
    client: AsgiClient,
    *,
    mount: str,
    local: Mapping[str, Transport] | None = None,
    on_begin: Callable[[Exchange], None] | None = None,
) -> Exchange | None:
    """One request through the engine; None when the client went away before its end."""
    raw_path = scope.get("raw_path") or scope["path"].encode("utf-8")
    peer = scope.get("client")
    incoming = Incoming(
        method=scope["method"],
        raw_path=raw_path.partition(b"?")[0],
        raw_query=scope.get("query_string", b""),
        headers=list(scope["headers"]),  # a copy: uvicorn appends trailers to the list while the body arrives
        peer=peer[0] if peer else "",
        read_body=client.read_body,
        mount=mount,
        local=local or {},
        on_begin=on_begin,
    )
    task = asyncio.current_task()
    try:
        exchange = await engine.handle(incoming, client)
    except asyncio.CancelledError:
        if not client.gone or task is None:
            raise
        while task.cancelling():
            task.uncancel()  # it was the client's going, not the server's shutdown
        return None
    finally:
        client.close()
    if client.was_cut:
        raise ShieldError("The answer broke off in the middle; the connection is cut.")
    return exchange


class Lifespan:
    """Runs `start` and `close` at an ASGI server's start-up and shutdown, around the wrapped app's own."""

    def __init__(self, start: Callable[[], Awaitable[None]], close: Callable[[], Awaitable[None]]) -> None:
        self._start = start
        self._close = close

    async def run(self, receive: Receive, send: Send) -> None:
        """Serve a lifespan scope by itself, for a mount that wraps no app."""
        await receive()
        try:
            await self._start()
        except Exception as error:
            log.exception("start_failed", error)
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            raise
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self._close()
        await send({"type": "lifespan.shutdown.complete"})

    async def around(self, app: App, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a lifespan scope of a wrapped app: ours starts before it and ends after it."""
        started = False

        async def receive_ours() -> Message:
            nonlocal started
            message = await receive()
            if message["type"] == "lifespan.startup" and not started:
                await self._start()
                started = True
            return message

        async def send_ours(message: Message) -> None:
            if message["type"] in {"lifespan.shutdown.complete", "lifespan.shutdown.failed"} and started:
                await self._close()
            await send(message)

        await app(scope, receive_ours, send_ours)
