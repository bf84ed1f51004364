"""The server's side of one connection: bytes in, requests out, answers back (RFC 9112); one request at a time.

A head has a deadline and a size. Bytes that are no body (chunk sizes, chunk extensions, trailers) may not outgrow
the body. Trailers are dropped: an `authorization` that no proxy in front has seen must not count (RFC 9110, 6.5.1).
A client that takes nothing for `stall_s` loses its connection; one that hangs up has its call cancelled at once.
`Upgrade` is ignored, as RFC 9110, 7.8 allows: Java's HttpClient asks for h2c with every plain POST, and httptools
would skip the body. Behind a refused WebSocket the connection ends: its client waits for that. What can't be served is
refused in its turn: requests before it are answered, what comes behind it is not read.

It takes uvicorn's place on our own ports because a call through it costs a third of one through uvicorn and ASGI
(docs/design-decisions.md); apps that we are mounted in keep their own server.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections import deque
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

import httptools

from llmshield.logs import log
from llmshield.mounts._request import HttpRequest, date_line
from llmshield.mounts._sending import Sending

if TYPE_CHECKING:
    from llmshield.origins import Origin

HEAD_LIMIT = 64 * 1024
"""Bytes of a request's head: nginx takes 4 x 8 KiB, Envoy 60 KiB. As many of framing and trailers may come on top of
as many bytes as the body has."""
KEEP_S = 75.0
"""How long an idle connection stays: nginx's default; clients' pools keep theirs for 5 to 60 s."""
_UNREAD = 64 * 1024
"""Bytes of a body that nobody has asked for yet, before the socket is read no further."""
_WAITING = 8
"""Pipelined requests that wait for their turn, before the socket is read no further."""
_LINGER_S = 1.0
"""How long a client may go on sending what is not read any more before it is cut off."""
_TOLD = 16
"""Clients above the limit who are told so at once: each takes a place until it has read that."""
_UPGRADE = frozenset({b"upgrade", b"connection", b"http2-settings"})
_ENDING = {b"connection": b"close", b"upgrade": b"websocket"}  # what ends a connection behind the answer

Handler = Callable[[HttpRequest], Coroutine[Any, Any, None]]


class Connection(Sending):
    """One connection. `handler` answers a request; `connections` holds those that are open.

    `head_s` and `receive_s` are seconds for a head, and for a body.
    """

    keep_s = KEEP_S
    mount = "gateway"
    origin: Origin | None = None
    most = sys.maxsize
    """Connections that this process can have at once; who comes above that is asked to come again."""

    def __init__(
        self, handler: Handler, connections: set[Connection], head_s: float, receive_s: float
    ) -> None:
        super().__init__()
        self._handler = handler
        self._connections = connections
        self._head_s = head_s
        self._receive_s = receive_s
        self._parser: Any = self._new_parser()
        self._url = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._overhead = 0
        """Bytes of this message that were no body."""
        self._body_bytes = 0
        self._read = 0
        """Bytes that came last."""
        self._from_start = True
        """They began with a new message."""
        self._in_head = False
        self._in_body = False
        self._refused = False
        """Nothing more is read."""
        self._last_words = b""
        """The refusal, while requests before it are answered."""
        self._arriving: HttpRequest | None = None
        """The request whose body is arriving."""
        self._current: HttpRequest | None = None
        """The request that is being answered."""
        self._waiting: deque[HttpRequest] = deque()
        self._read_paused = False
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._deadline = 0.0
        self.keep_alive = True
        self.peer = ""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        peer = transport.get_extra_info("peername")
        self.peer = peer[0] if isinstance(peer, tuple) else ""
        self._connections.add(self)
        self._due(self._head_s)
        over = len(self._connections) - self.most
        if over > 0:
            self._refuse(b"503 Service Unavailable\r\nretry-after: 1") if over <= _TOLD else transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._connections.discard(self)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._parser = None  # it holds our methods: a circle that only the collector would find
        self._hang_up()

    def _hang_up(self) -> None:
        for request in (self._current, *self._waiting):
            if request is not None:
                request.hang_up()
        self._waiting.clear()

    # -- what comes in -----------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        if self._in_head or self._in_body:
            self._from_start = False
        else:
            self._from_start = self._in_head = True
            if self._current is None:
                self._due(self._head_s)
        self._feed(data)
        if self._overhead > HEAD_LIMIT + self._body_bytes and (self._in_head or self._in_body):
            self._refuse(b"431 Request Header Fields Too Large")
        if self._current is None and self._waiting and not self.closed:
            self._begin_next()

    def _feed(self, data: bytes) -> None:
        rest: bytes | memoryview = data
        while not self._refused:
            self._read = len(rest)
            self._overhead += self._read
            try:
                self._parser.feed_data(rest)
                break
            except httptools.HttpParserError:
                self._refuse(b"400 Bad Request")
            except httptools.HttpParserUpgrade as upgrade:
                rest = memoryview(rest)[upgrade.args[0] :]
                self._without_upgrade()

    def _without_upgrade(self) -> None:
        """Read the head that came last again, as that of a request that asks for no upgrade."""
        method = self._parser.get_method()
        if method == b"CONNECT":
            self._refuse(b"405 Method Not Allowed")
            return
        head = [b"%b %b HTTP/%b\r\n" % (method, self._url, self._parser.get_http_version().encode())]
        for name, value in self._headers:
            if name.lower() not in _UPGRADE:
                head.append(b"%b: %b\r\n" % (name, value))
            elif _ENDING.get(name.lower(), b"\n") in value.lower():
                head.append(b"connection: close\r\n")
        head.append(b"\r\n")
        self._parser = self._new_parser()
        self._from_start = False
        self._read = sum(map(len, head))
        try:
            self._parser.feed_data(b"".join(head))
        except httptools.HttpParserError:
            self._refuse(b"400 Bad Request")

    def _new_parser(self) -> Any:
        parser = httptools.HttpRequestParser(self)
        parser.set_dangerous_leniencies(
            lenient_data_after_close=True
        )  # it is not served, but no error either
        return parser

    def on_message_begin(self) -> None:
        self._url = b""
        self._headers = []
        # One that begins in the middle of a read is counted a read too little; heads are looked at exactly.
        self._overhead = self._read if self._from_start else 0
        self._from_start = False
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
        if self._refused or parser.should_upgrade():
            return
        version = parser.get_http_version()
        if (self._overhead > HEAD_LIMIT or self._read > HEAD_LIMIT) and (
            len(self._url) + sum([len(name) + len(value) + 4 for name, value in headers]) > HEAD_LIMIT
        ):
            self._refuse(b"431 Request Header Fields Too Large")  # before anybody is asked for it
        elif not _understood(version, headers):
            self._refuse(b"400 Bad Request")
        else:
            request = self._arriving = HttpRequest(
                self,
                parser.get_method(),
                self._url,
                headers,
                version,
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
        request.forget()
        if self.closed:
            return
        if not request.ended:
            if request.started and not request.framed:
                self._reset()
            else:
                self._close()
        elif not request.keeps_alive or not self.keep_alive:
            self._close() if self._arriving is None else self._linger()
        elif self._waiting:
            if len(self._waiting) <= _WAITING:
                self.resume_reading()
            self._loop.call_soon(self._next_if_idle)
        elif self._last_words:
            self._say(self._last_words)
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
        if self._current is None and not self._waiting and not self.closed:
            self._close()

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
                self._close()
        elif self._overhead and not self._in_body and self._in_head:
            self._refuse(b"408 Request Timeout")
        else:
            self._close()

    # -- how it ends -------------------------------------------------------------------------------------------

    def _refuse(self, status: bytes) -> None:
        """Read no further, and answer this when what came before is answered."""
        if self._refused or self.closed:
            return
        self._refused = True
        broken, self._arriving = self._arriving, None
        if broken is not None and broken in self._waiting:
            self._waiting.remove(broken)
        if broken is not None and broken is self._current:
            self._close() if broken.started else self._say(status)  # bytes of two answers must not be mixed
        elif self._current is None and not self._waiting:
            self._say(status)
        else:
            self._last_words = status

    def _say(self, status: bytes) -> None:
        date = date_line().encode("ascii")
        self.transport.write(
            b"HTTP/1.1 %b\r\n%bcontent-length: 0\r\nconnection: close\r\n\r\n" % (status, date)
        )
        self._linger()

    def _linger(self) -> None:
        """Say that nothing more comes, and close when the client has: a close on one that is still sending would be a
        reset, which takes away what it has not read yet (RFC 9112, 9.6)."""
        self._refused = self.closed = True
        self._hang_up()
        with contextlib.suppress(OSError):  # it is gone already
            self.transport.write_eof()
        if self._read_paused:
            self._read_paused = False
            self.transport.resume_reading()
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(_LINGER_S, self._close)


def _understood(version: str, headers: list[tuple[bytes, bytes]]) -> bool:
    """Whether it is HTTP/1.1 that says for which host (RFC 9112, 3.2) and has no coding but `chunked`, or HTTP/1.0 as
    such: with chunks, two servers would see two different ends (RFC 9112, 6.1)."""
    for name, value in headers:
        if (
            len(name) == 17
            and name.lower() == b"transfer-encoding"
            and (version != "1.1" or value.strip().lower() != b"chunked")
        ):
            return False
    if version == "1.1":
        return any(len(name) == 4 and name.lower() == b"host" for name, _ in headers)
    return version == "1.0"
