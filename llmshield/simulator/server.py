"""The HTTP/1.1 server that plays plans, on an asyncio protocol: resets and half closes need the transport.

Rule 1: parsing is httptools'; every byte that is sent is decided by the plan.
Rule 2: a plain reply is written in the callback that read the request, without a task; whatever pauses, streams or
ends oddly gets a task, cancelled when the client leaves.
"""

from __future__ import annotations

import asyncio
import collections
import http
import socket
import struct
import time
from collections.abc import Callable
from typing import cast

import httptools

from llmshield.simulator.control import as_control
from llmshield.simulator.plan import Fin, Hang, Pause, Plan, Reset, Wire
from llmshield.simulator.provider import Provider
from llmshield.simulator.record import Received

_BATCH = 1 << 16
_WAITING = 32
# A reset throws away what the client has not read yet; on loopback this long is ample for it to arrive.
_BEFORE_RESET_S = 0.02
_LINGER_ZERO = struct.pack("ii", 1, 0)
_REASONS = {status.value: status.phrase for status in http.HTTPStatus}


def head(plan: Plan, *, close: bool) -> bytes:
    """Status line and headers of a plan."""
    version = "1.0" if plan.http10 else "1.1"
    lines = [f"HTTP/{version} {plan.status} {_REASONS.get(plan.status, 'Overloaded')}"]
    lines += [f"{name}: {value}" for name, value in plan.headers]
    if plan.framing == "chunked":
        if plan.trailers:
            lines.append("trailer: " + ", ".join(name for name, _ in plan.trailers))
        lines.append("transfer-encoding: chunked")
    elif plan.framing == "length" and plan.status != 204:
        body = plan.body if isinstance(plan.body, bytes) else b""
        lines.append(f"content-length: {len(body) if plan.length is None else plan.length}")
    if close:
        lines.append("connection: close")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace")


class Connection(asyncio.Protocol):
    """One client connection; requests on it are answered one behind the other."""

    def __init__(self, provider: Provider, open_ones: set[Connection], number: int) -> None:
        self.provider, self.number = provider, number
        self.open = open_ones
        self.transport: asyncio.Transport | None = None
        self.parser = httptools.HttpRequestParser(self)
        self.client = ""
        self.task: asyncio.Task[None] | None = None
        self.playing: Received | None = None
        self.waiting: collections.deque[tuple[Received, bool]] = collections.deque()
        self.writable = asyncio.Event()
        self.writable.set()
        self.wire: bytearray | None = None
        self._start()

    def _start(self) -> None:
        self.url = b""
        self.headers: list[tuple[str, str]] = []
        self.parts: list[bytes] = []

    # asyncio's callbacks

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are not asyncio's subclasses.
        self.transport = cast(asyncio.Transport, transport)
        peer = transport.get_extra_info("peername")
        self.client = f"{peer[0]}:{peer[1]}" if isinstance(peer, tuple) else ""
        self.open.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.open.discard(self)
        for call in (self.playing, *(call for call, _ in self.waiting)):
            if call is not None and not call.finished:
                call.disconnected = True
        self.waiting.clear()
        self.writable.set()
        if self.task is not None:
            self.task.cancel()

    def eof_received(self) -> bool:
        # A client that closes and one that only stops sending look alike: both are taken as having left.
        if self.playing is not None and self.transport is not None:
            self.transport.abort()
        return False

    def pause_writing(self) -> None:
        self.writable.clear()

    def resume_writing(self) -> None:
        self.writable.set()

    def data_received(self, data: bytes) -> None:
        if self.wire is not None:
            self.wire += data
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            # What follows would be another protocol, or the body: either way this connection is over.
            return
        except httptools.HttpParserError:
            if self.transport is not None and self.task is None:
                self.transport.write(
                    b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
                )
                self.transport.close()

    # httptools' callbacks

    def on_message_begin(self) -> None:
        self._start()

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.decode("latin-1").lower(), value.decode("latin-1")))
        if name.lower() == b"expect" and value.lower() == b"100-continue" and self.transport is not None:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        self.parts.append(body)

    def on_message_complete(self) -> None:
        method = self.parser.get_method().decode("latin-1")
        call = self.provider.record(
            method,
            self.url.decode("latin-1"),
            self.headers,
            b"".join(self.parts) if len(self.parts) != 1 else self.parts[0],
            time.monotonic(),
            self.number,
            self.client,
        )
        self.waiting.append((call, self.parser.should_keep_alive() and not self.parser.should_upgrade()))
        if self.task is None:
            self._next()
        elif len(self.waiting) > _WAITING and self.transport is not None:
            self.transport.pause_reading()

    # playing

    def _next(self) -> None:
        """Answer what is waiting, until something needs a task."""
        transport = self.transport
        while self.waiting and transport is not None and not transport.is_closing():
            call, keep = self.waiting.popleft()
            plan = as_control(self.provider, call) if _control(call) else self.provider.answer(call)
            close = not keep or plan.framing == "close" or plan.http10
            self.playing = call
            if isinstance(plan.body, bytes) and not plan.before and plan.framing == "length":
                body = b"" if call.method == "HEAD" else plan.body
                transport.write(head(plan, close=close) + body)
                self._done(call, len(body), close)
                continue
            self.task = asyncio.ensure_future(self._play(call, plan, close))
            self.task.add_done_callback(self._played)
            return

    def _done(self, call: Received, sent: int, close: bool) -> None:
        call.sent, call.pieces, call.finished = call.sent + sent, call.pieces + bool(sent), True
        self.playing = None
        if close and self.transport is not None:
            self.transport.close()

    def _played(self, task: asyncio.Task[None]) -> None:
        self.task = None
        if not task.cancelled() and task.exception() is not None:
            assert self.transport is not None
            self.transport.abort()
            task.get_loop().call_exception_handler(
                {"message": "the simulator failed to play a reply", "exception": task.exception()}
            )
            return
        if self.transport is not None and not self.transport.is_closing():
            self.transport.resume_reading()
            self._next()

    async def _play(self, call: Received, plan: Plan, close: bool) -> None:
        transport = self.transport
        assert transport is not None
        for step in plan.before:
            if isinstance(step, bytes):
                step = Wire(step)
            if not await self._odd(call, step):
                return
        transport.write(head(plan, close=close))
        chunked = plan.framing == "chunked"
        batch: list[bytes] = []
        size = 0
        for step in plan.steps() if call.method != "HEAD" else ():
            if isinstance(step, bytes):
                batch.append(b"%x\r\n%b\r\n" % (len(step), step) if chunked else step)
                call.pieces += 1
                call.sent += len(step)
                size += len(step)
                if size < _BATCH:
                    continue
                step = Pause(0.0)
            transport.write(b"".join(batch))
            batch, size = [], 0
            if not self.writable.is_set():
                await self.writable.wait()
            if not await self._odd(call, step):
                return
        if chunked:
            trailers = "".join(f"{name}: {value}\r\n" for name, value in plan.trailers)
            batch.append(b"0\r\n" + trailers.encode() + b"\r\n")
        transport.write(b"".join(batch))
        self._done(call, 0, close)

    async def _odd(self, call: Received, step: object) -> bool:
        """Play a step that is no plain bytes; False when the connection is over with it."""
        transport = self.transport
        assert transport is not None
        if isinstance(step, Pause):
            await asyncio.sleep(step.seconds)
        elif isinstance(step, Wire):
            transport.write(step.data)
        elif isinstance(step, Hang):
            await asyncio.get_running_loop().create_future()
        elif isinstance(step, Reset):
            await self._drained()
            await asyncio.sleep(_BEFORE_RESET_S)
            call.finished = True
            reset(transport)
            return False
        elif isinstance(step, Fin):
            call.finished = True
            if step.half and transport.can_write_eof():
                transport.write_eof()
                await asyncio.get_running_loop().create_future()
            transport.close()
            return False
        return True

    async def _drained(self) -> None:
        """Wait until the network has taken everything, so that an ending comes behind it."""
        assert self.transport is not None
        # asyncio tells of a buffer that fell below a mark only if it was above it, hence no event to wait for.
        while self.transport.get_write_buffer_size() and not self.transport.is_closing():  # noqa: ASYNC110
            await asyncio.sleep(0.001)


def _control(call: Received) -> bool:
    return call.path.startswith("/__sim__/")


def reset(transport: asyncio.Transport) -> None:
    """End a connection with a RST: closing with a linger time of zero does that."""
    sock = transport.get_extra_info("socket")
    if sock is not None:
        duplicate = socket.socket(fileno=socket.dup(sock.fileno()))
        try:
            duplicate.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)
        finally:
            duplicate.close()
    transport.abort()


def factory(
    provider: Provider, open_ones: set[Connection], made: Callable[[Connection], None]
) -> Callable[[], Connection]:
    """A protocol factory; `made` is told of each connection."""

    def make() -> Connection:
        factory_numbers[0] += 1
        connection = Connection(provider, open_ones, factory_numbers[0])
        made(connection)
        return connection

    factory_numbers = [0]
    return make
