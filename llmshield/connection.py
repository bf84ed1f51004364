"""One HTTP/1.1 connection to a provider: one question at a time, and its answer as it arrives (RFC 9112).

Parsing is httptools' (llhttp, as node has it, without its leniencies): what two parsers could read differently is a
broken answer. Rule 1: a connection is given back for the next question only when the answer has ended by its own
framing, the question went out whole and nothing came behind it. Rule 2: an answer whose end only the closing of
the connection tells ends well with a clean close and no other. Rule 3: silence is measured while somebody waits
for the provider; a slow client is no fault of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Protocol

import httptools

from llmshield import clock
from llmshield.compression import Decompressor, decompressor
from llmshield.errors import UpstreamError, WireError

READ_LIMIT = 256 * 1024
"""Bytes of an answer that are kept before the socket is read no further: backpressure for slow clients."""
HEAD_LIMIT = 256 * 1024
"""Bytes of an answer's head, informational ones included: aiohttp takes 8 KiB a line, curl 300 KiB in all."""
ONE_WRITE = 256 * 1024
"""Bytes of a question that are written in one go; more of it goes as the provider takes it."""
_LOOK_S = 0.5
"""How often it is looked again whether a slow client has begun to wait for the provider."""


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
        "_head_bytes",
        "_headers",
        "_loop",
        "_mid_body",
        "_parser",
        "_paused_reading",
        "_pool",
        "_sending",
        "_timer",
        "_timer_at",
        "_transport",
        "_until",
        "alive",
        "idle_since",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop, pool: Pool) -> None:
        self._loop = loop
        self._pool = pool
        self._transport: Any = None
        self._parser = httptools.HttpResponseParser(self)
        self._answer: Answer | None = None
        self._headers: dict[str, str] = {}
        self._head_bytes = 0
        self._mid_body = False
        self._clean = True
        """It can be asked again: the framing allows it, and nothing came that no question asked for."""
        self._sending = False
        self._paused_reading = False
        self._drained: asyncio.Future[None] | None = None
        self._until = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self.alive = True
        self.idle_since = 0.0

    # -- what goes out -----------------------------------------------------------------------------------------

    async def ask(self, head: bytes, body: bytes, first_s: float, total_s: float, *, is_head: bool) -> Answer:
        """Send a question; its answer once the head of it is here. Raises: UpstreamError."""
        now = clock.monotonic()
        answer = self._answer = Answer(self, now + first_s, now + total_s, first_s)
        answer.is_head = is_head
        self._headers = {}
        self._head_bytes = 0
        self._mid_body = False
        self._watch(answer.first_by)
        try:
            if len(body) <= ONE_WRITE:
                self._transport.write(head + body)
            else:
                await self._send_long(head, body)
            if answer.status == 0:
                await answer.wait()
                if answer.failure is not None:
                    raise answer.failure
        except BaseException:
            self.abort()
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
        if not self._mid_body:
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_LIMIT + len(data):
                self._fail("The head of the answer is too large.")
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
        if answer.complete and self._answer is not None:
            self._end()

    def on_message_begin(self) -> None:
        if self._answer is None or self._answer.complete:
            self._clean = False

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._mid_body:  # else a trailer
            self._headers[_name(name)] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        answer = self._answer
        if answer is None or answer.complete:
            return
        status = self._parser.get_status_code()
        if status < 200:  # informational (RFC 9110, 15.2): the answer is still to come
            self._headers = {}
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
        answer.parts.append(body)
        answer.size += len(body)
        if answer.size > READ_LIMIT and not self._paused_reading:
            self._paused_reading = True
            self._transport.pause_reading()
        answer.wake()

    def on_message_complete(self) -> None:
        answer = self._answer
        if answer is not None and answer.status and not answer.complete:
            answer.complete = True
            answer.wake()

    def read_on(self) -> None:
        """There is room for more of the answer."""
        if self._paused_reading:
            self._paused_reading = False
            if self.alive:
                self._transport.resume_reading()

    def eof_received(self) -> None:
        answer = self._answer
        if (
            answer is not None
            and answer.status
            and not answer.complete
            and "content-length" not in answer.headers
            and "chunked" not in answer.headers.get("transfer-encoding", "").lower()
        ):
            answer.complete = True  # RFC 9112, 6.3, 8: the close is its end
            answer.wake()

    def connection_lost(self, exc: Exception | None) -> None:
        self.alive = False
        self._stop_watching()
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
        if self._clean and not self._sending and self.alive:
            self.read_on()
            self.idle_since = clock.monotonic()
            self._pool.keep(self)
        else:
            self.abort()

    def _fail(self, message: str) -> None:
        answer = self._answer
        self.abort()
        if answer is not None and not answer.complete:
            answer.fail(UpstreamError("reset", message))

    def abort(self) -> None:
        """Close at once; nothing more is read or written."""
        self.alive = False
        self._answer = None
        self._stop_watching()
        if self._transport is not None:
            self._transport.abort()

    # -- deadlines: one timer for all, set anew only when a deadline comes nearer -------------------------------

    def _watch(self, until: float) -> None:
        self._until = until
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
        if answer is None:
            return
        now = clock.monotonic()
        failure = answer.late(now)
        if failure is not None:
            self.abort()
            answer.parts.clear()
            answer.fail(failure)
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


class Answer:
    """One answer, of which at least the head is here when somebody gets to see it (`transport.Upstream`)."""

    __slots__ = (
        "_connection",
        "_decoder",
        "_first_s",
        "_idle",
        "_last",
        "_total_by",
        "_waiter",
        "complete",
        "failure",
        "first_by",
        "headers",
        "is_head",
        "parts",
        "reading",
        "size",
        "status",
    )

    def __init__(self, connection: Connection, first_by: float, total_by: float, first_s: float) -> None:
        self._connection: Connection = connection
        self._decoder: Decompressor | None = None
        self._first_s = first_s
        self._idle: float | None = None
        self._last = 0.0
        self._total_by = total_by
        self._waiter: asyncio.Future[None] | None = None
        self.complete = False
        self.failure: UpstreamError | None = None
        self.first_by = first_by if first_by < total_by else total_by
        self.headers: Mapping[str, str] = {}
        self.is_head = False
        self.parts: list[bytes] = []
        self.reading = False
        self.size = 0
        self.status = 0

    # -- for whoever reads it ----------------------------------------------------------------------------------

    def unpack(self) -> None:
        """Decompress what follows, if it is compressed. Raises: UpstreamError for a coding that is not known."""
        encoding = self.headers.get("content-encoding")
        if encoding and encoding.lower() != "identity":
            try:
                self._decoder = decompressor(encoding)
            except WireError as error:
                self.close()
                raise UpstreamError("malformed", str(error)) from error

    async def chunk(self) -> bytes:
        """The next bytes of the body, decompressed; b"" at its end. Raises: UpstreamError."""
        while True:
            parts = self.parts
            if parts:
                data = parts[0] if len(parts) == 1 else b"".join(parts)
                parts.clear()
                self.size = 0
                self._connection.read_on()
                if self._decoder is None:
                    return data
                plain = self._plain(data)
                if plain:
                    return plain
            elif self.failure is not None:
                raise self.failure
            elif self.complete:
                if self._decoder is not None and not self._decoder.complete:
                    raise UpstreamError("truncated", "The compressed answer ends in the middle.")
                return b""
            else:
                await self.wait()

    def _plain(self, data: bytes) -> bytes:
        assert self._decoder is not None
        try:
            return self._decoder.feed(data)
        except WireError as error:
            self.close()
            raise UpstreamError("malformed", str(error)) from error

    def idle_after(self, seconds: float) -> None:
        """The first token is here: from now on, silence longer than this is an error (reason `idle`)."""
        self._idle = seconds
        self._last = now = clock.monotonic()
        self._connection.watch(self, min(self._total_by, now + seconds))

    def close(self) -> None:
        """Let go of the answer; a body that was not read to its end closes the connection."""
        if not self.complete:
            self._connection.abort()

    # -- for its connection ------------------------------------------------------------------------------------

    async def wait(self) -> None:
        """Until something has come."""
        self._last = clock.monotonic()
        self.reading = True
        waiter = self._waiter = asyncio.get_running_loop().create_future()
        try:
            await waiter
        finally:
            self._waiter = None
            self.reading = False

    def wake(self) -> None:
        """Something has come."""
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def fail(self, failure: UpstreamError) -> None:
        """Nothing more will come."""
        self.failure = failure
        self.wake()

    def late(self, now: float) -> UpstreamError | None:
        """What is wrong with the time, if anything is."""
        if now >= self._total_by and self.status:
            return UpstreamError("total", "The attempt's whole time is over.")
        if self._idle is None and now >= self.first_by and (self.reading or not self.status):
            if self.status:
                return UpstreamError("first_token", "The answer began too late.", status=504)
            return UpstreamError("first_token", f"No answer within {self._first_s:g} s.", status=504)
        if self._idle is not None and self.reading and now >= self._last + self._idle:
            return UpstreamError("idle", f"The answer stalled for {self._idle:g} s.")
        return None

    def next_look(self, now: float) -> float:
        """When to look at the time again."""
        due = self.first_by if self._idle is None else self._last + self._idle
        return min(self._total_by, max(due, now + (0.01 if self.reading else _LOOK_S)))


@lru_cache(1024)
def _name(raw: bytes) -> str:
    return raw.decode("latin-1").lower()
