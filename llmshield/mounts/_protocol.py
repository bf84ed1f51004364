"""The server's side of one connection: bytes in, requests out, answers back (RFC 9112); one request at a time.

A head has a deadline and a size. Bytes that are no body (chunk sizes, chunk extensions, trailers) may not outgrow
the body. Trailers are dropped: an `authorization` that no proxy in front has seen must not count (RFC 9110, 6.5.1).
A client that takes nothing for `stall_s` loses its connection; one that hangs up has its call cancelled at once.
`Upgrade` is ignored, as RFC 9110, 7.8 allows: Java's HttpClient asks for h2c with every plain POST, and httptools
would skip the body.

It takes uvicorn's place on our own ports because a call through it costs a third of one through uvicorn and ASGI
(docs/design-decisions.md); apps that we are mounted in keep their own server.
"""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

import httptools

from llmshield.logs import log
from llmshield.mounts._request import HttpRequest

HEAD_LIMIT = 64 * 1024
"""Bytes of a request's head: nginx takes 4 x 8 KiB, Envoy 60 KiB. As many of framing and trailers may come on top of
as many bytes as the body has."""
KEEP_S = 75.0
"""How long an idle connection stays: nginx's default; clients' pools keep theirs for 5 to 60 s."""
STALL_S = 60.0
"""A client that takes nothing for so long is gone (nginx's `send_timeout` has the same default)."""
_UNREAD = 64 * 1024
"""Bytes of a body that nobody has asked for yet, before the socket is read no further."""
_WAITING = 8
"""Pipelined requests that wait for their turn, before the socket is read no further."""
_UPGRADE = frozenset({b"upgrade", b"connection", b"http2-settings"})

Handler = Callable[[HttpRequest], Coroutine[Any, Any, None]]


class Connection(asyncio.Protocol):
    """One connection. `handler` answers a request; `connections` holds those that are open.

    `head_s` and `receive_s` are seconds for a head, and for a body.
    """

    keep_s = KEEP_S
    stall_s = STALL_S

    def __init__(
        self, handler: Handler, connections: set[Connection], head_s: float, receive_s: float
    ) -> None:
        self._handler = handler
        self._connections = connections
        self._head_s = head_s
        self._receive_s = receive_s
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpRequestParser(self)
        self._parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self._url = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._overhead = 0
        """Bytes of this message that were no body."""
        self._body_bytes = 0
        self._reading = 0
        self._in_head = False
        self._in_body = False
        self._refused = False
        self._arriving: HttpRequest | None = None
        """The request whose body is arriving."""
        self._current: HttpRequest | None = None
        """The request that is being answered."""
        self._waiting: deque[HttpRequest] = deque()
        self._read_paused = False
        self._drained: asyncio.Future[None] | None = None
        self._stall: asyncio.TimerHandle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._deadline = 0.0
        self.keep_alive = True
        self.transport: Any = None
        self.peer = ""
        self.closed = False

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        peer = transport.get_extra_info("peername")
        self.peer = peer[0] if isinstance(peer, tuple) else ""
        self._connections.add(self)
        self._due(self._head_s)

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        self._connections.discard(self)
        for timer in (self._timer, self._stall):
            if timer is not None:
                timer.cancel()
        self._timer = self._stall = None
        self._release_writers()
        for request in (self._current, *self._waiting):
            if request is not None:
                request.hang_up()
        self._waiting.clear()

    # -- what comes in -----------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        if not self._in_head and not self._in_body:
            self._in_head = True
            if self._current is None:
                self._due(self._head_s)
        self._feed(data)
        if self._overhead > HEAD_LIMIT + self._body_bytes and not self.transport.is_closing():
            self._close_with(b"431 Request Header Fields Too Large")
        if self._current is None and self._waiting and not self.transport.is_closing():
            self._begin_next()

    def _feed(self, data: bytes) -> None:
        self._reading = len(data)
        self._overhead += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._close_with(b"400 Bad Request")
        except httptools.HttpParserUpgrade as upgrade:
            self._without_upgrade(data[upgrade.args[0] :])

    def _without_upgrade(self, rest: bytes) -> None:
        """Read the request again as one that asks for no upgrade."""
        method = self._parser.get_method()
        if method == b"CONNECT":
            self._close_with(b"405 Method Not Allowed")
            return
        head = [b"%b %b HTTP/%b\r\n" % (method, self._url, self._parser.get_http_version().encode())]
        head += [
            b"%b: %b\r\n" % (name, value) for name, value in self._headers if name.lower() not in _UPGRADE
        ]
        self._parser = httptools.HttpRequestParser(self)
        self._parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self._feed(b"".join(head) + b"\r\n" + rest)

    def on_message_begin(self) -> None:
        self._url = b""
        self._headers = []
        self._overhead, self._reading = self._reading, 0
        self._body_bytes = 0
        self._in_head = True
        self._in_body = False

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._in_body:  # else a trailer
            self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._in_body = True
        parser, headers = self._parser, self._headers
        if self._overhead > HEAD_LIMIT and (  # else it can't be: the head is part of it
            len(self._url) + sum([len(name) + len(value) + 4 for name, value in headers]) > HEAD_LIMIT
        ):
            self._refused = True  # before anybody is asked for it
            self._close_with(b"431 Request Header Fields Too Large")
        elif not self._refused and not parser.should_upgrade():
            request = self._arriving = HttpRequest(
                self,
                parser.get_method(),
                self._url,
                headers,
                parser.get_http_version(),
                parser.should_keep_alive(),
            )
            self._waiting.append(request)
            if len(self._waiting) > _WAITING:
                self.pause_reading()

    def on_body(self, body: bytes) -> None:
        self._overhead -= len(body)
        self._body_bytes += len(body)
        request = self._arriving
        if request is not None and request.take(body) > _UNREAD and not request.wanted:
            self.pause_reading()

    def on_message_complete(self) -> None:
        self._in_body = False
        request, self._arriving = self._arriving, None
        if request is not None:
            request.arrived()
            if self._current is None and not self._waiting:
                self._idle()  # the rest of a request that was answered early

    def pause_reading(self) -> None:
        """Read no further: nobody wants what comes yet."""
        if not self._read_paused:
            self._read_paused = True
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        """Somebody wants what comes."""
        if self._read_paused and not self.closed:
            self._read_paused = False
            self.transport.resume_reading()

    # -- one request after the other ---------------------------------------------------------------------------

    def _begin_next(self) -> None:
        request = self._current = self._waiting.popleft()
        self._deadline = 0.0 if request.complete else self._loop.time() + self._receive_s
        if self._deadline:
            self._due(self._receive_s)
        work = self._answer(request)
        if sys.version_info >= (3, 12):  # up to its first wait at once: it saves a turn of the loop
            request.task = asyncio.Task(work, loop=self._loop, eager_start=True)
        else:
            request.task = self._loop.create_task(work)

    async def _answer(self, request: HttpRequest) -> None:
        """Run the handler; afterwards the connection serves its next request, or is closed."""
        request.task = asyncio.current_task()
        try:
            await self._handler(request)
        except asyncio.CancelledError:
            if not request.gone:
                raise
            while request.task is not None and request.task.cancelling():
                request.task.uncancel()  # it was the client's going, not the server's end
        except Exception as error:  # noqa: BLE001  the last line: the connection is cut, which no client takes for an answer
            log.exception("handler_failed", error)
        finally:
            self._over(request)

    def _over(self, request: HttpRequest) -> None:
        self._current = None
        if self.closed:
            return
        if not request.ended:
            self.transport.abort() if not request.started else self.transport.close()
        elif not request.keeps_alive or not self.keep_alive:
            self.transport.close()
        elif self._waiting:
            if len(self._waiting) <= _WAITING:
                self.resume_reading()
            self._loop.call_soon(self._next_if_idle)
        else:
            self.resume_reading()
            if self._arriving is None:
                self._idle()
            else:
                self._due(self._receive_s)

    def _next_if_idle(self) -> None:
        if self._current is None and self._waiting and not self.closed:
            self._begin_next()

    def _idle(self) -> None:
        self._due(self.keep_s if not self._in_head else self._head_s)

    def shutdown(self) -> None:
        """Serve what is under way, and then no more."""
        self.keep_alive = False
        if self._current is None and not self._waiting:
            self.transport.close()

    # -- deadlines: one timer, set anew only when a deadline comes nearer --------------------------------------

    def _due(self, seconds: float) -> None:
        self._deadline = at = self._loop.time() + seconds
        if self._timer is None or at < self._timer_at:
            if self._timer is not None:
                self._timer.cancel()
            self._timer_at = at
            self._timer = self._loop.call_at(at, self._look)

    def _look(self) -> None:
        self._timer = None
        if self.closed or not self._deadline:
            return
        if self._loop.time() < self._deadline - 0.001:
            self._timer_at = self._deadline
            self._timer = self._loop.call_at(self._deadline, self._look)
            return
        current = self._current
        if current is not None:
            if current.complete:
                self._deadline = 0.0
            elif not current.expire(self._receive_s):
                self.transport.close()
        elif self._overhead and not self._in_body and self._in_head:
            self._close_with(b"408 Request Timeout")
        else:
            self.transport.close()

    def _close_with(self, status: bytes) -> None:
        """Answer and close; where an answer has begun, only close: its bytes must not be mixed with these."""
        current = self._current
        if current is None or not current.started:
            self.transport.write(
                b"HTTP/1.1 " + status + b"\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
            )
        self.keep_alive = False
        self.transport.close()

    # -- what goes out -----------------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Send bytes; nothing happens on a connection that is gone."""
        if not self.closed:
            self.transport.write(data)

    async def drain(self) -> None:
        """Wait while the client does not take what it was sent."""
        if self._drained is not None:
            await asyncio.shield(self._drained)

    @property
    def clogged(self) -> bool:
        """The client does not take what it was sent."""
        return self._drained is not None

    def pause_writing(self) -> None:
        self._drained = self._loop.create_future()
        if self._stall is None:
            self._watch_writing()

    def resume_writing(self) -> None:
        self._release_writers()

    def _release_writers(self) -> None:
        drained, self._drained = self._drained, None
        if drained is not None and not drained.done():
            drained.set_result(None)

    def _watch_writing(self) -> None:
        waiting = self.transport.get_write_buffer_size()
        self._stall = self._loop.call_later(self.stall_s, self._look_at_writing, waiting)

    def _look_at_writing(self, before: int) -> None:
        """No byte went since the last look: `close` would wait for this client for ever."""
        self._stall = None
        waiting = self.transport.get_write_buffer_size()
        if waiting == 0:
            return
        if waiting >= before and (self.clogged or self.transport.is_closing()):
            self.transport.abort()
        else:
            self._watch_writing()
