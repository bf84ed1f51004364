"""One HTTP/1.1 connection to a provider: one question at a time, and its answer as it arrives (RFC 9112).

Parsing is httptools' (llhttp, as node has it, without its leniencies): what two parsers could read differently is a
broken answer. Rule 1: a connection is given back for the next question only when the answer has ended by its own
framing, the question went out whole and nothing came behind it. Rule 2: an answer whose end only the closing of
the connection tells ends well with a clean close and no other. Rule 3: silence is measured while somebody waits
for the provider; a slow client is no fault of it.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import Any, Protocol

import httptools

from llmshield import clock
from llmshield.answer import Answer
from llmshield.errors import UpstreamError
from llmshield.headers import name_of

READ_LIMIT = 256 * 1024
"""Bytes of an answer that are kept before the socket is read no further: backpressure for slow clients."""
HEAD_LIMIT = 256 * 1024
"""Bytes of an answer's head, informational ones included, and of what comes between two parts of its body (chunk
extensions, trailers): aiohttp takes 8 KiB a line, curl 300 KiB in all."""
ONE_WRITE = 256 * 1024
"""Bytes of a question that are written in one go; more of it goes as the provider takes it."""


class Pool(Protocol):
    """Whom a connection belongs to."""

    def keep(self, connection: Connection) -> None:
        """It may be asked again."""
        ...

    def lost(self, connection: Connection) -> None:
        """It is closed."""
        ...


class Connection(asyncio.Protocol):
    """The client's side of one connection."""

    __slots__ = (
        "_answer",
        "_clean",
        "_drained",
        "_headers",
        "_loop",
        "_mid_body",
        "_overhead",
        "_parser",
        "_paused_reading",
        "_pool",
        "_sending",
        "_timer",
        "_timer_at",
        "_transport",
        "alive",
        "idle_since",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop, pool: Pool) -> None:
        self._loop = loop
        self._pool = pool
        self._transport: Any = None
        self._parser: Any = httptools.HttpResponseParser(self)
        self._answer: Answer | None = None
        self._headers: dict[str, str] = {}
        self._overhead = 0
        """Bytes since the last part of a body."""
        self._mid_body = False
        self._clean = True
        """It can be asked again: the framing allows it, and nothing came that no question asked for."""
        self._sending = False
        self._paused_reading = False
        self._drained: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self.alive = True
        self.idle_since = 0.0

    # -- what goes out -----------------------------------------------------------------------------------------

    async def ask(
        self, head: bytes, body: bytes, began: float, first_s: float, total_s: float, *, is_head: bool
    ) -> Answer:
        """Send a question; its answer once the head of it is here. `began` is when the seconds began to count.

        Raises: UpstreamError.
        """
        if not self.alive:  # it died before whoever opened it was told that it is open
            raise UpstreamError("reset", "The connection died before the question.")
        answer = self._answer = Answer(self, began + first_s, began + total_s, first_s)
        answer.is_head = is_head
        self._headers = {}
        self._overhead = 0
        self._mid_body = False
        self._watch(answer.first_by)
        try:
            if len(body) <= ONE_WRITE:
                self._transport.write(head + body)
            else:
                await self._send_long(head, body)
            while answer.status == 0:
                if answer.failure is not None:
                    raise answer.failure
                await answer.wait()
        except BaseException as error:
            # If it is not: all of it came while we were cancelled, and somebody else may be asking by now.
            if self._answer is answer:
                self.abort()
            if isinstance(error, RuntimeError):  # uvloop, where the connection is closed already
                raise UpstreamError("reset", "The connection died before the question.") from error
            raise
        return answer

    async def _send_long(self, head: bytes, body: bytes) -> None:
        """Send a large question as the provider takes it; one that answers before its end needs no more of it."""
        answer = self._answer
        assert answer is not None
        self._sending = True
        self._transport.write(head)
        view = memoryview(body)
        for at in range(0, len(body), ONE_WRITE):
            if answer.failure is not None or answer.status:
                return
            self._transport.write(view[at : at + ONE_WRITE])
            if self._drained is not None:
                answer.reading = True
                try:
                    await self._drained
                finally:
                    answer.reading = False
        self._sending = False

    def pause_writing(self) -> None:
        self._drained = self._loop.create_future()

    def resume_writing(self) -> None:
        drained, self._drained = self._drained, None
        if drained is not None and not drained.done():
            drained.set_result(None)

    # -- what comes in -----------------------------------------------------------------------------------------

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        answer = self._answer
        if answer is None:  # nobody has asked: what comes would be taken for the next answer
            self.abort()
            return
        self._overhead += len(data)
        if self._overhead > HEAD_LIMIT + len(data):
            what = "framing" if self._mid_body else "head"
            self._fail(f"The {what} of the answer is too large.")
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._fail("The provider changed the protocol.")
        except httptools.HttpParserError:
            if answer.complete:  # a whole answer, and garbage behind it
                self._clean = False
            else:
                self._fail("The answer is not HTTP.")
        if answer.take is not None:
            answer.offer()
        if answer.complete and self._answer is not None:
            self._end()

    def on_message_begin(self) -> None:
        if self._answer is None or self._answer.complete:
            self._clean = False

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._mid_body:  # else a trailer
            self._headers[name_of(name)] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        answer = self._answer
        if answer is None or answer.complete:
            return
        status: int = self._parser.get_status_code()
        if status < 200:  # informational (RFC 9110, 15.2): the answer is still to come
            self._headers = {}
            if status < 100:
                self._fail("The answer is not HTTP.")
            return
        self._mid_body = True
        if not self._parser.should_keep_alive():  # asked now: behind the body llhttp has forgotten
            self._clean = False
        answer.headers = self._headers
        answer.status = status
        if answer.is_head:
            answer.complete = True
            self._clean = False  # the parser waits for a body that never comes
        self.resume_writing()
        answer.wake()

    def on_body(self, body: bytes) -> None:
        answer = self._answer
        if answer is None or answer.complete:
            return
        if answer.status == 0:  # informational answers have none (RFC 9110, 15.2): whose is it?
            self._fail("The answer is not HTTP.")
            return
        self._overhead = 0
        answer.parts.append(body)
        answer.size += len(body)
        if answer.size > READ_LIMIT and not self._paused_reading:
            self._paused_reading = True
            self._transport.pause_reading()
        if answer.take is None:
            answer.wake()

    def on_message_complete(self) -> None:
        answer = self._answer
        if answer is not None and answer.status and not answer.complete:
            answer.complete = True
            answer.wake()

    def read_on(self, answer: Answer) -> None:
        """There is room for more of this answer."""
        if self._paused_reading and self._answer is answer:
            self._read_again()

    def _read_again(self) -> None:
        self._paused_reading = False
        if self.alive:
            self._transport.resume_reading()

    def eof_received(self) -> None:
        answer = self._answer
        if answer is None:
            self.alive = (
                False  # now, and not when the loop comes round to close it: somebody may ask in between
            )
        elif (
            answer.status
            and not answer.complete
            and "content-length" not in answer.headers
            and "chunked" not in answer.headers.get("transfer-encoding", "").lower()
            and self._said_goodbye()
        ):
            answer.complete = True  # RFC 9112, 6.3, 8: the close is its end
            answer.wake()

    def _said_goodbye(self) -> bool:
        """Whether it was the provider that closed. Under TLS anybody on the way can end the TCP connection; what the
        provider ends it says inside (RFC 9112, 9.8: close_notify). OpenSSL tells by what one more read gives."""
        tls = self._transport.get_extra_info("ssl_object")
        if tls is None:
            return True
        try:
            return bool(tls.read(1) == b"")
        except ssl.SSLZeroReturnError:
            return True
        except (ssl.SSLError, ValueError):
            return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.alive = False
        self._stop_watching()
        self._parser = None  # it holds our methods: a circle that only the collector would find
        answer, self._answer = self._answer, None
        if answer is not None and not answer.complete:
            where = "in the answer" if answer.status else "before an answer"
            why = f": {type(exc).__name__}" if exc is not None else ""
            answer.fail(UpstreamError("reset", f"The connection died {where}{why}."))
        self.resume_writing()
        self._pool.lost(self)

    def _end(self) -> None:
        """The answer is here to its last byte."""
        self._answer = None
        if (
            self._clean
            and not self._sending
            and self._drained is None
            and self.alive
            and self._transport.get_write_buffer_size() == 0
        ):
            if self._paused_reading:
                self._read_again()
            self.idle_since = clock.monotonic()
            self._pool.keep(self)
        else:
            self.abort()

    def _fail(self, message: str) -> None:
        self.abort(UpstreamError("reset", message))

    def abort(self, failure: UpstreamError | None = None) -> None:
        """Close at once; nothing more is read or written. Whoever waits for an answer gets `failure`."""
        self.alive = False
        answer, self._answer = self._answer, None
        self._stop_watching()
        if self._transport is not None:
            self._transport.abort()
        else:
            self._parser = None  # as in `connection_lost`, which nobody will call
        if answer is not None and not answer.complete:
            answer.fail(failure or UpstreamError("reset", "The connection was closed."))
        self.resume_writing()

    # -- deadlines: one timer for all, set anew only when a deadline comes nearer -------------------------------

    def _watch(self, until: float) -> None:
        if self._timer is None or until < self._timer_at:
            self._set(until)

    def _set(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = at
        self._timer = self._loop.call_later(max(0.0, at - clock.monotonic()), self._look)

    def _look(self) -> None:
        self._timer = None
        answer = self._answer
        if answer is None or answer.complete:
            return
        now = clock.monotonic()
        failure = answer.late(now)
        if failure is not None:
            answer.parts.clear()
            self.abort(failure)
        else:
            self._set(answer.next_look(now))

    def watch(self, answer: Answer, until: float) -> None:
        """Look at this answer's deadlines not later than `until`."""
        if self._answer is answer:
            self._watch(until)

    def _stop_watching(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
