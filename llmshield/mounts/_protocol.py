"""The server's side of one connection: uvicorn's protocol, held to deadlines and sizes that it does not have.

A head has a deadline and a size. Bytes that are no body (chunk sizes, chunk extensions, trailers) may not outgrow
the body. Trailers are dropped: uvicorn would append them to the headers, where an `authorization` that no proxy in
front has seen would count (RFC 9110, 6.5.1). A client that takes nothing for `WRITE_STALL_S` loses its connection.
`Upgrade` is ignored, as RFC 9110, 7.8 allows: Java's HttpClient asks for h2c with every plain POST, and httptools
would skip the body.
"""

from __future__ import annotations

import asyncio
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from llmshield.mounts._asgi import WRITE_STALL_S

HEAD_LIMIT = 64 * 1024
"""Bytes of a request's head: nginx takes 4 x 8 KiB, Envoy 60 KiB. As many of framing and trailers may come on top of
as many bytes as the body has."""
_UPGRADE = frozenset({b"upgrade", b"connection", b"http2-settings"})


class GuardedProtocol(HttpToolsProtocol):
    """One connection. `head_s` and `receive_s` (seconds for a head, and for a body that nobody waits for any more)
    are set per server by a subclass."""

    head_s = 10.0
    receive_s = 60.0
    stall_s = WRITE_STALL_S

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._overhead = 0
        """Bytes of this message that were no body."""
        self._body_bytes = 0
        self._reading = 0
        self._in_body = False
        self._refused = False
        self._stall: asyncio.TimerHandle | None = None
        self._head_timer: asyncio.TimerHandle | None = self.loop.call_later(self.head_s, self._head_is_late)

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None
        super().connection_lost(exc)

    # -- what comes in -----------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        if self._head_timer is None and (self.cycle is None or self.cycle.response_complete):
            limit = self.receive_s if self._in_body else self.head_s
            self._head_timer = self.loop.call_later(limit, self._head_is_late)
        self._feed(data)
        if self._overhead > HEAD_LIMIT + self._body_bytes and not self.transport.is_closing():
            self._close_with(b"431 Request Header Fields Too Large")

    def _feed(self, data: bytes) -> None:
        self._reading = len(data)
        self._overhead += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError:
            self.logger.info("Invalid HTTP request received.")
            self._close_with(b"400 Bad Request")
        except httptools.HttpParserUpgrade as upgrade:
            self._without_upgrade(data[upgrade.args[0] :])

    def _without_upgrade(self, rest: bytes) -> None:
        """Read the request again as one that asks for no upgrade."""
        method = self.parser.get_method()
        if method == b"CONNECT":
            self._close_with(b"405 Method Not Allowed")
            return
        head = [b"%b %b HTTP/%b\r\n" % (method, self.url, self.parser.get_http_version().encode())]
        head += [b"%b: %b\r\n" % (name, value) for name, value in self.headers if name not in _UPGRADE]
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self._feed(b"".join(head) + b"\r\n" + rest)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._overhead, self._reading = self._reading, 0
        self._body_bytes = 0
        self._in_body = False

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._in_body:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._disarm()
        self._in_body = True
        if len(self.url) + sum([len(name) + len(value) + 4 for name, value in self.headers]) > HEAD_LIMIT:
            self._refused = True  # before its cycle is made: nobody is asked for it
            self._close_with(b"431 Request Header Fields Too Large")
        elif not self._refused and not self.parser.should_upgrade():
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._overhead -= len(body)
        self._body_bytes += len(body)
        if not self._refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._in_body = False
        if not self._refused and not self.parser.should_upgrade():
            super().on_message_complete()
            if self.cycle.response_complete:  # the rest of a request that was answered early
                self._disarm()

    def _head_is_late(self) -> None:
        self._head_timer = None
        if not self.transport.is_closing():
            if self._overhead and not self._in_body:
                self._close_with(b"408 Request Timeout")
            else:
                self.transport.close()

    def _close_with(self, status: bytes) -> None:
        """Answer and close; where an answer has begun, only close: its bytes must not be mixed with these."""
        cycle = self.cycle
        if cycle is None or cycle.response_complete or not cycle.response_started:
            self.transport.write(
                b"HTTP/1.1 " + status + b"\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
            )
        self.transport.close()

    def _disarm(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    # -- what goes out -----------------------------------------------------------------------------------------

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._stall is None:
            self._watch_writing()

    def _watch_writing(self) -> None:
        waiting = self.transport.get_write_buffer_size()
        self._stall = self.loop.call_later(self.stall_s, self._look_at_writing, waiting)

    def _look_at_writing(self, before: int) -> None:
        """No byte went since the last look: `close` would wait for this client for ever."""
        self._stall = None
        waiting = self.transport.get_write_buffer_size()
        if waiting == 0:
            return
        if (waiting >= before and self.flow.write_paused) or (
            waiting >= before and self.transport.is_closing()
        ):
            self.transport.abort()
        else:
            self._watch_writing()
