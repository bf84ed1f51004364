"""A connection that a proxy spliced to us: one line says where it was going and who had sent it (`llmshield.origins`),
then the client's own HTTP/1.1 follows. Whoever does not know the token gets no byte back.

A proxy that can't write before the first byte puts the same JSON into the header `x-llmshield-origin` of each request.
On a spliced connection that header is the client's own, and counts for nothing.
"""

from __future__ import annotations

import select
from collections.abc import Callable
from typing import Any

from llmshield.logs import log
from llmshield.mounts._protocol import Connection, Handler
from llmshield.mounts._request import HttpRequest
from llmshield.origins import ALIVE, HEADER, LONGEST, MAGIC, Origin, asks, read

GRPC = b"application/grpc"
_HUNG_UP = getattr(select, "POLLRDHUP", 0)
"""Linux tells that the other end has closed before what it had sent is read; elsewhere nothing does."""


class Spliced(Connection):
    """One connection from the proxy. `provider_of` says for whom a host stands."""

    mount = "egress"

    def __init__(
        self,
        handler: Handler,
        connections: set[Connection],
        head_s: float,
        receive_s: float,
        *,
        token: str,
        provider_of: Callable[[str], str | None],
    ) -> None:
        super().__init__(handler, connections, head_s, receive_s)
        self._token = token
        self._provider_of = provider_of
        self._line: bytes | None = b""
        """What came of the line; None when the client's own bytes follow."""
        self._gone: Any = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        if _HUNG_UP:
            self._gone = select.poll()
            self._gone.register(transport.get_extra_info("socket").fileno(), _HUNG_UP)

    def _begin_next(self) -> None:
        """Not for a client that has gone meanwhile: while this process stood still the proxy has told it that its call was
        refused, and nobody is to be asked on its behalf. Costs 0.7 us."""
        if self._gone is not None and self._gone.poll(0):
            self._close()
        else:
            super()._begin_next()

    def data_received(self, data: bytes) -> None:
        line = self._line
        if line is None:
            super().data_received(data)
            return
        if self.closed:
            return
        line += data
        if not line.startswith(MAGIC[: len(line)]):
            self._line = None  # each request has to tell
            super().data_received(line)
            return
        end = line.find(b"\r\n", 0, LONGEST)
        if end < 0:
            self._line = line
            if len(line) >= LONGEST:
                self._turn_away()
            return
        origin = read(line[:end], self._token)
        if origin is None and asks(line[:end], self._token):
            self.transport.write(ALIVE)
            self._close()
            return
        if origin is None:
            self._turn_away()
            return
        self._line = None
        origin.provider = self._provider_of(origin.name) or ""
        self.origin, self.peer = origin, origin.address
        if len(line) > end + 2:
            super().data_received(line[end + 2 :])

    def _turn_away(self) -> None:
        log.warning("stranger_on_the_splice", peer=self.peer)
        self._line = b""
        self.closed = True
        self.transport.abort()

    def origin_of(self, request: HttpRequest) -> Origin | None:
        """The origin that a request tells by itself, in its header."""
        told = [value for name, value in request.headers if name.lower() == HEADER]
        if len(told) != 1 or len(told[0]) > LONGEST:
            return None
        origin = read(told[0], self._token)
        if origin is not None:
            origin.provider = self._provider_of(origin.name) or ""
        return origin


async def welcome(request: HttpRequest) -> bool:
    """Whether this request says where it was going, by its connection or by itself; what it may not say is taken out.
    One that does not is not answered: its connection is cut."""
    connection = request.connection
    if request.origin is None:
        request.origin = connection.origin_of(request) if isinstance(connection, Spliced) else None
        if request.origin is None:
            log.warning("stranger_on_the_splice", peer=connection.peer)
            return False
    headers = [pair for pair in request.headers if pair[0].lower() != HEADER]
    if len(headers) != len(request.headers):
        request.headers, request.kept = headers, None
    if any(
        name.lower() == b"content-type" and value.lower().startswith(GRPC) for name, value in request.headers
    ):
        await request.start(
            200,
            {
                "content-type": "application/grpc",
                "content-length": "0",
                "grpc-status": "7",  # PERMISSION_DENIED: a client of gRPC reads no JSON
                "grpc-message": "gRPC is not served by policy",
            },
        )
        await request.end()
        return False
    return True
