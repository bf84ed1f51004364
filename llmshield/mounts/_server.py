"""A listening port of ours: binds it, makes a connection of each client, and closes when what is under way is done."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Mapping
from typing import Any

from llmshield.errors import ShieldError
from llmshield.mounts._asgi import App, Message
from llmshield.mounts._protocol import Connection, Handler
from llmshield.mounts._request import HttpRequest
from llmshield.open_files import most_connections
from llmshield.policy.units import HostPort

BACKLOG = 2048
BODY_LIMIT = 64 * 1024
"""Bytes of a body that a small app of ours takes."""


Kind = Callable[[Handler, set[Connection], float, float], Connection]


class Server:
    """Serves a bound socket. `head_s` and `receive_s` are seconds for a request's head, and for its body; `kind` makes
    the connections, `most` of them at once (None: as many as there are files for)."""

    def __init__(
        self,
        handler: Handler,
        sock: socket.socket,
        *,
        head_s: float,
        receive_s: float,
        kind: Kind = Connection,
        most: int | None = None,
    ) -> None:
        self._kind = kind
        self._handler = handler
        self._sock = sock
        self._head_s = head_s
        self._receive_s = receive_s
        self._most = most if most is not None else most_connections()
        self._connections: set[Connection] = set()
        self._server: asyncio.Server | None = None
        self.url = _url(sock)

    async def start(self) -> None:
        """Take clients from now on."""
        self._server = await asyncio.get_running_loop().create_server(
            self._make,
            sock=self._sock,
            backlog=BACKLOG,
        )

    def _make(self) -> Connection:
        connection = self._kind(self._handler, self._connections, self._head_s, self._receive_s)
        connection.most = self._most
        return connection

    def refuse(self) -> None:
        """Take no more clients; connections close when what is under way on them is answered."""
        if self._server is not None:
            self._server.close()
        for connection in tuple(self._connections):
            connection.shutdown()

    async def stop(self, seconds: float) -> None:
        """Take no more clients; wait for answers under way, then close what is left of them."""
        self.refuse()
        until = asyncio.get_running_loop().time() + seconds
        while self._connections and asyncio.get_running_loop().time() < until:  # noqa: ASYNC110  a set has no event
            await asyncio.sleep(0.01)
        for connection in tuple(self._connections):
            connection.transport.abort()  # clients that take nothing of their last bytes are not waited for
        await asyncio.sleep(0)
        self._sock.close()


def bind(address: HostPort, what: str) -> socket.socket:
    """A listening socket. Raises: ShieldError with the remedy when the address can't be had."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    # asyncio sets TCP_NODELAY on accepted sockets only where the protocol is named: without it every answer of
    # two writes waits 40 ms for the client's delayed acknowledgement.
    sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((address.host, address.port))
    except OSError as error:
        sock.close()
        raise ShieldError(
            f"The {what} port {address} can't be opened: {error.strerror}. Free it, or choose another "
            f"(--{'listen' if what == 'data' else 'admin'} HOST:PORT)."
        ) from error
    sock.listen(BACKLOG)
    sock.setblocking(False)
    return sock


def handler_of(app: App) -> Handler:
    """A small ASGI app as a handler: what it takes of a body is `BODY_LIMIT` bytes at most, its answers have one part.

    `receive` raises CallError `too_large`, `client_timeout`.
    """

    async def handle(request: HttpRequest) -> None:
        scope: dict[str, Any] = {
            "type": "http",
            "method": request.method,
            "path": request.raw_path.decode("latin-1"),
            "raw_path": request.raw_path,
            "query_string": request.raw_query,
            "headers": [(name.lower(), value) for name, value in request.headers],
            "client": (request.peer, 0),
        }

        async def receive() -> Message:
            body = await request.read_body(BODY_LIMIT)
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers: Mapping[str, str] = {
                    name.decode("latin-1"): value.decode("latin-1") for name, value in message["headers"]
                }
                await request.start(message["status"], headers)
            else:
                if message.get("body"):
                    await request.send(message["body"])
                if not message.get("more_body", False):
                    await request.end()

        await app(scope, receive, send)

    return handle


def _url(sock: socket.socket) -> str:
    host, port = sock.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
