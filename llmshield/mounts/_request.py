"""One request on a connection of ours, and its answer: the `Client` of an exchange without ASGI in between."""

from __future__ import annotations

import asyncio
import http
from collections.abc import Mapping
from email.utils import formatdate
from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol

import httptools

from llmshield import clock
from llmshield.errors import CallError
from llmshield.exchange import AtOnce
from llmshield.mounts._asgi import LINGER

if TYPE_CHECKING:
    from llmshield.exchange import BodyReader
    from llmshield.heads import Kept
    from llmshield.origins import Origin
    from llmshield.transport import Transport

_ONE_WRITE = 64 * 1024
"""Bytes of a body that are joined with their head: copying them costs less than a second write."""
_NO_BODY = frozenset({204, 304})


class Line(Protocol):
    """What a request needs of its connection."""

    mount: str
    origin: Origin | None
    peer: str
    keep_alive: bool

    @property
    def clogged(self) -> bool: ...
    def write(self, data: bytes) -> None: ...
    async def drain(self) -> None: ...
    def resume_reading(self) -> None: ...


class HttpRequest:
    """A request whose head is here; its body may still arrive. What it sends waits for nothing but its client."""

    __slots__ = (
        "_body",
        "_chunked",
        "_failure",
        "_head",
        "_left",
        "_limit",
        "_size",
        "_waiter",
        "complete",
        "connection",
        "ended",
        "extra",
        "gone",
        "headers",
        "keeps_alive",
        "kept",
        "lingers",
        "method",
        "mount",
        "origin",
        "raw_path",
        "raw_query",
        "read_body",
        "started",
        "task",
        "version",
        "wanted",
    )

    local: Mapping[str, Transport] = MappingProxyType({})
    on_begin: None = None
    read_body: BodyReader
    """Its body; who has to check it may put a reader of their own in this place."""

    def __init__(
        self,
        connection: Line,
        method: str,
        raw_path: bytes,
        raw_query: bytes,
        headers: list[tuple[bytes, bytes]],
        version: str,
        keeps_alive: bool,
        kept: Kept | None = None,
    ) -> None:
        self.connection = connection
        self.mount: str = connection.mount
        self.origin: Origin | None = connection.origin
        """Where an intercepted call was going."""
        self.read_body = self._read_body
        self.version = version
        self._body: list[bytes] = []
        self._size = 0
        self._limit: int | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._failure: CallError | None = None
        self._head = b""
        self._chunked = False
        self._left: int | None = None
        self.method = method
        self.raw_path = raw_path
        self.raw_query = raw_query
        self.headers = headers
        self.kept = kept
        self.keeps_alive = keeps_alive
        self.extra: Mapping[str, str] | None = None
        """Headers that every answer to it carries."""
        self.task: asyncio.Task[None] | None = None
        self.complete = False
        """Its body is here to the last byte."""
        self.wanted = False
        """Somebody waits for its body."""
        self.started = False
        """The head of the answer has gone out, or is about to."""
        self.ended = False
        """The answer is complete."""
        self.gone = False
        """The client hung up before that."""
        self.lingers = False
        """The answer is made all the same: it is wanted when the client comes again."""

    @property
    def peer(self) -> str:
        """The client's address; that of the other end where no proxy told of another."""
        origin = self.origin
        return self.connection.peer if origin is None else origin.address

    # -- its body ----------------------------------------------------------------------------------------------

    def take(self, body: bytes) -> int:
        """A part of the body; returns the bytes that are kept. What is over the limit is counted and dropped."""
        self._size += len(body)
        if self.ended:
            return 0
        if self._limit is not None and self._size > self._limit:
            self._body.clear()
            if self._size > self._limit + LINGER:
                self._wake()
            return 0
        self._body.append(body)
        return self._size

    def arrived(self) -> None:
        """The body is complete."""
        self.complete = True
        self._wake()

    async def _read_body(self, limit: int) -> bytes:
        """The request's whole body. Raises: CallError `too_large`, `client_timeout`; CancelledError when gone.

        What is too large is read to its end (`LINGER` bytes at most) and dropped: a client that is still sending
        would see a reset connection, and try again, instead of the answer.
        """
        self._limit = limit
        if not self.complete:
            self.wanted = True
            if self.version == "1.1" and any(
                name.lower() == b"expect" and value.lower() == b"100-continue" for name, value in self.headers
            ):
                self.connection.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            if self._size > limit:
                self._body.clear()
            self.connection.resume_reading()
            while not self.complete and self._failure is None and self._size <= limit + LINGER:
                self._waiter = asyncio.get_running_loop().create_future()
                await self._waiter
            self.wanted = False
        if self._failure is not None:
            raise self._failure
        if self._size > limit:
            raise CallError(
                "too_large", f"The body is larger than {limit} bytes.", headers={"connection": "close"}
            )
        parts, self._body = self._body, []
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def expire(self, seconds: float) -> bool:
        """The time for the body is over; False when nobody waits for it."""
        if self._waiter is None or self._waiter.done():
            return False
        self._failure = CallError(
            "client_timeout",
            f"The request did not arrive within {seconds:g} s.",
            headers={"connection": "close"},
        )
        self._wake()
        return True

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def forget(self) -> None:
        """It is over: let go of what leads back to it, a circle that only the collector would find."""
        self.task = None
        self.read_body = _over

    def hang_up(self) -> None:
        """The client is gone: whoever answers it is cancelled, unless the answer is kept."""
        if not self.ended and not self.gone:
            self.gone = True
            if self.task is not None and not self.lingers:
                self.task.cancel()

    @property
    def framed(self) -> bool:
        """Its answer tells by itself where it ends; else the close of the connection does."""
        return self._chunked or self._left is not None

    # -- its answer --------------------------------------------------------------------------------------------

    async def start(self, status: int, headers: Mapping[str, str]) -> None:
        """The head of the answer; it goes out with the first bytes behind it."""
        self.started = True
        if self.extra is not None:
            headers = {**headers, **self.extra}
        fields = "\r\n".join(map(": ".join, headers.items()))
        count = len(headers) - 1
        if fields.count("\n") != count or fields.count("\r") != count:
            # A value that would end its line early (RFC 9112, 11.1); who set it is not our client's trouble.
            lines = [f"{name}: {value}" for name, value in headers.items()]
            fields = "\r\n".join([line for line in lines if "\n" not in line and "\r" not in line])
        head = (
            f"{_status_line(status)}{date_line()}{fields}\r\n"
            if fields
            else _status_line(status) + date_line()
        )
        length = headers.get("content-length")
        if headers.get("connection") == "close" or not self.connection.keep_alive:
            self.keeps_alive = False
        if length is not None:
            self._left = int(length) if self.method != "HEAD" else 0
        elif self.method == "HEAD" or status in _NO_BODY:
            self._left = 0
        elif self.version == "1.1":
            self._chunked = True
            head += "transfer-encoding: chunked\r\n"
        else:
            self.keeps_alive = False
        if not self.keeps_alive and headers.get("connection") is None:
            head += "connection: close\r\n"
        elif self.version == "1.0" and self.keeps_alive:
            head += "connection: keep-alive\r\n"
        self._head = (head + "\r\n").encode("latin-1", "replace")
        if self._chunked:
            self.connection.write(self._head)  # a stream's head does not wait for its first event
            self._head = b""

    async def send(self, data: bytes) -> None:
        """A part of the body; waits while the client does not take what it was sent."""
        if self._chunked:
            data = b"%x\r\n%b\r\n" % (len(data), data) if data else b""
        elif self._left is not None:
            if self.method == "HEAD":
                data = b""
            self._left -= len(data)
            if self._left < 0:
                raise ValueError("The answer is longer than its content-length.")
        connection = self.connection
        if self._head:
            head, self._head = self._head, b""
            if len(data) <= _ONE_WRITE:
                data = head + data
            else:
                connection.write(head)
        connection.write(data)
        if connection.clogged:
            await connection.drain()

    @property
    def at_once(self) -> AtOnce | None:
        """Sends a part of a stream at once; None where that is for `send`."""
        return None if not self._chunked or self._head or self.connection.clogged else self._send_chunk

    def _send_chunk(self, data: bytes) -> None:
        if data:
            self.connection.write(b"%x\r\n%b\r\n" % (len(data), data))

    async def end(self) -> None:
        """The body is complete."""
        if self.ended or self.gone:
            return
        if self._head:
            self.connection.write(self._head)
            self._head = b""
        if self._chunked:
            self.connection.write(b"0\r\n\r\n")
        self.ended = not self._left
        self._body = []

    def cut(self) -> None:
        """The body is not complete and never will be: the connection is closed behind what was sent."""
        self.keeps_alive = False


async def _over(limit: int, /) -> bytes:
    raise RuntimeError("The request is over; its body was read or dropped.")


def taken_apart(url: bytes) -> tuple[bytes, bytes]:
    """Path and query of a request target (RFC 9112, 3.2)."""
    if url[:1] == b"/" and b"#" not in url:
        path, _, query = url.partition(b"?")
        return path, query
    try:
        parts = httptools.parse_url(url)
    except httptools.HttpParserInvalidURLError:
        return url.partition(b"?")[0], b""
    return parts.path or b"/", parts.query or b""


_date = (0, "")


def date_line() -> str:
    """When an answer was made (RFC 9110, 6.6.1); written once a second."""
    global _date
    now = int(clock.now())
    if now != _date[0]:
        _date = (now, f"date: {formatdate(now, usegmt=True)}\r\n")
    return _date[1]


@lru_cache(64)
def _status_line(status: int) -> str:
    try:
        phrase = http.HTTPStatus(status).phrase
    except ValueError:
        phrase = ""
    return f"HTTP/1.1 {status} {phrase}\r\n"
