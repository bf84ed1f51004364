"""The server's side of one connection: one request after the other, its deadlines, and how it ends (RFC 9112).

A head has a deadline. A client that takes nothing for `stall_s` loses its connection; one that hangs up has its call
cancelled at once. What can't be served is refused in its turn: requests before it are answered, what comes behind it is
not read. Behind a refused WebSocket the connection ends: its client waits for that.

It takes uvicorn's place on our own ports because a call through it costs a third of one through uvicorn and ASGI
(docs/design-decisions.md); apps that we are mounted in keep their own server.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Callable, Coroutine
from typing import Any

from llmshield.logs import log
from llmshield.mounts._receiving import WAITING, Receiving
from llmshield.mounts._request import HttpRequest, date_line

KEEP_S = 75.0
"""How long an idle connection stays: nginx's default; clients' pools keep theirs for 5 to 60 s."""
_LINGER_S = 1.0
"""How long a client may go on sending what is not read any more before it is cut off."""
_TOLD = 16
"""Clients above the limit who are told so at once: each takes a place until it has read that."""
Handler = Callable[[HttpRequest], Coroutine[Any, Any, None]]


class Connection(Receiving):
    """One connection. `handler` answers a request; `connections` holds those that are open.

    `head_s` and `receive_s` are seconds for a head, and for a body.
    """

    keep_s = KEEP_S
    most = sys.maxsize
    """Connections that this process can have at once; who comes above that is asked to come again."""

    def __init__(
        self, handler: Handler, connections: set[Connection], head_s: float, receive_s: float
    ) -> None:
        super().__init__(head_s)
        self._handler = handler
        self._connections = connections
        self._receive_s = receive_s
        self._last_words = b""
        """The refusal, while requests before it are answered."""
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._deadline = 0.0

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
        if request.task is None:  # begun before it could be told
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
            if len(self._waiting) <= WAITING:
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
