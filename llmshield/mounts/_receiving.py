"""The receiving half of a connection of ours: bytes come in, requests are read out of them (RFC 9112).

A head has a size. Bytes that are no body (chunk sizes, chunk extensions, trailers) may not outgrow the body. Trailers are
dropped: an `authorization` that no proxy in front has seen must not count (RFC 9110, 6.5.1). `Upgrade` is ignored, as
RFC 9110, 7.8 allows: Java's HttpClient asks for h2c with every plain POST, and httptools would skip the body.

llhttp parses, once for the requests that a client begins with the same bytes: a head that came before is known again
(`_heads`), and the body behind it is counted here.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import deque
from typing import TYPE_CHECKING, Any

import httptools

from llmshield.mounts._heads import Pattern, pattern_of, understood, without_upgrade
from llmshield.mounts._request import HttpRequest, taken_apart
from llmshield.mounts._sending import Sending

if TYPE_CHECKING:
    from llmshield.origins import Origin

HEAD_LIMIT = 64 * 1024
"""Bytes of a request's head: nginx takes 4 x 8 KiB, Envoy 60 KiB. As many of framing and trailers may come on top of
as many bytes as the body has."""
_UNREAD = 64 * 1024
"""Bytes of a body that nobody has asked for yet, before the socket is read no further."""
WAITING = 8
"""Pipelined requests that wait for their turn, before the socket is read no further."""
_TRIES = 8
"""Heads that differ from those before them, until a connection's heads are not compared any more."""


class Receiving(Sending):
    """What comes in on one connection; `head_s` is how many seconds a head may take."""

    mount = "gateway"
    origin: Origin | None = None

    def __init__(self, head_s: float) -> None:
        super().__init__()
        self._head_s = head_s
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
        self._left = 0
        """Bytes of a body that is counted here, behind a head that was known."""
        self._known: Pattern | None = None
        """The head of the request that came last."""
        self._tries = _TRIES
        self._begun = 0
        """Messages that began in the bytes that came last."""
        self._refused = False
        """Nothing more is read."""
        self._arriving: HttpRequest | None = None
        """The request whose body is arriving."""
        self._current: HttpRequest | None = None
        """The request that is being answered."""
        self._waiting: deque[HttpRequest] = deque()
        self._read_paused = False
        self.keep_alive = True
        self.peer = ""

    @abstractmethod
    def _begin_next(self) -> None:
        """Answer the request that has waited longest."""

    @abstractmethod
    def _due(self, seconds: float) -> None:
        """What is waited for now has so long."""

    @abstractmethod
    def _idle(self) -> None:
        """Nothing is under way."""

    @abstractmethod
    def _refuse(self, status: bytes) -> None:
        """Read no further, and answer this when what came before is answered."""

    def data_received(self, data: bytes) -> None:
        while data and not self._refused:
            if self._left:
                data = self._count_body(data)
                continue
            begins = not (self._in_head or self._in_body)
            if begins and self._known is not None and (found := self._known.match(data)) is not None:
                data = self._begin_known(data, self._known, *found)
                continue
            self._parse(data, begins)
            break
        if self._current is None and self._waiting and not self.closed:
            self._begin_next()

    def _parse(self, data: bytes, begins: bool) -> None:
        """Bytes that the parser has to look at; they begin a message, or go on with one."""
        self._from_start = begins
        if begins:
            self._in_head = True
            if self._current is None:
                self._due(self._head_s)
        self._begun = 0
        self._feed(data)
        if self._overhead > HEAD_LIMIT + self._body_bytes and (self._in_head or self._in_body):
            self._refuse(b"431 Request Header Fields Too Large")
        elif begins and self._begun == 1 and self._tries and not (self._in_head or self._refused):
            self._learn(data[: len(data) - self._body_bytes])

    def _learn(self, head: bytes) -> None:
        """Keep the head of the request that came last: the next one is likely to have the same."""
        self._tries -= 1
        request = self._waiting[-1]
        if request.keeps_alive and request.version == "1.1":
            self._known = pattern_of(
                head, request.method, request.raw_path, request.raw_query, request.headers
            )
            request.kept = self._known.kept if self._known is not None else None

    def _begin_known(
        self, data: bytes, head: Pattern, start: int, headers: list[tuple[bytes, bytes]], length: int
    ) -> bytes:
        """A request whose head is known; returns the bytes behind it, from its body on if that is not here as a whole."""
        self._tries = _TRIES
        request = self._arriving = HttpRequest(
            self, head.method, head.raw_path, head.raw_query, headers, "1.1", True, head.kept
        )
        self._take_up(request)
        if len(data) - start >= length:  # all of it is here, which is usual
            self._arriving = None
            if length:
                request.take(data[start : start + length])
            request.arrived()
            return data[start + length :]
        self._left = length
        self._in_body = True
        return data[start:]

    def _count_body(self, data: bytes) -> bytes:
        """Bytes of a body behind a known head; returns those behind it."""
        body = data[: self._left]
        self._left -= len(body)
        self._keep_body(body)
        if not self._left:
            self.on_message_complete()
        return data[len(body) :]

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
        head = without_upgrade(method, self._url, self._parser.get_http_version(), self._headers)
        self._parser = self._new_parser()
        self._from_start = False
        self._read = len(head)
        try:
            self._parser.feed_data(head)
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
        self._begun += 1
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
        elif not understood(version, headers):
            self._refuse(b"400 Bad Request")
        else:
            method = parser.get_method().decode("latin-1")
            request = self._arriving = HttpRequest(
                self, method, *taken_apart(self._url), headers, version, parser.should_keep_alive()
            )
            self._take_up(request)

    def _take_up(self, request: HttpRequest) -> None:
        self._waiting.append(request)
        if len(self._waiting) > WAITING:
            self.pause_reading()

    def on_body(self, body: bytes) -> None:
        self._overhead -= len(body)
        self._body_bytes += len(body)
        self._keep_body(body)

    def _keep_body(self, body: bytes) -> None:
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
