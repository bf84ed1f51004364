"""The gateway behind the transparent mount: takes connections from a proxy that ends TLS, on loopback only.

The proxy is not known by name here: what it has to say is one line for each connection (`llmshield.origins`), what it
has to know is in `llmshield.egress`. Everything else is the sidecar's: the same engine answers.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable
from functools import partial
from typing import Any

from llmshield.errors import ShieldError
from llmshield.mounts._protocol import Handler
from llmshield.mounts._request import HttpRequest
from llmshield.mounts._server import Server
from llmshield.mounts._spliced import Spliced, welcome
from llmshield.policy import Policy
from llmshield.runtime import Runtime


class Intercepted:
    """Answers the requests of spliced connections."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    async def __call__(self, request: HttpRequest) -> None:
        if await welcome(request):
            await self._runtime.engine.handle(request, request, request.task)


def refuse_all(sock: socket.socket) -> None:
    """Have the kernel refuse connections to a socket that others hold too. Its port stays ours, for which it was bound
    without SO_REUSEADDR: with it, anybody else who says so could have the port while nobody listens."""
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
        sock.shutdown(socket.SHUT_RDWR)


class _Shared(Server):
    """On a socket that another process holds too: without us the kernel would go on taking connections for nobody."""

    def __init__(self, handler: Handler, sock: socket.socket, **more: Any) -> None:
        super().__init__(handler, sock, **more)
        self._kept: socket.socket | None = sock.dup()  # the loop closes its own

    async def start(self) -> None:
        """Raises: ShieldError where the kernel takes no connections for us."""
        kept = self._kept
        assert kept is not None
        # Connections of the gateway before us are in TIME_WAIT, or not closed yet, and have this port: listening again
        # would fail (EADDRINUSE) for a minute.
        kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        await super().start()
        if not kept.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):  # uvloop keeps its failure to itself
            raise ShieldError(f"Nobody can listen on {self.url} now.")

    def refuse(self) -> None:
        """Take no more clients; who is not answered yet and not read is refused by the kernel."""
        super().refuse()
        kept, self._kept = self._kept, None
        if kept is not None:
            with kept:
                refuse_all(kept)


def port(policy: Policy, token: str) -> Callable[[Runtime, socket.socket], Server]:
    """What `gateway.serve` makes of its data socket under this mount. `token` is what the proxy has to know."""
    egress = policy.egress
    limits = policy.server.limits

    def make(runtime: Runtime, sock: socket.socket) -> Server:
        kind = partial(
            Spliced, token=token, provider_of=egress.provider_of if egress is not None else lambda host: None
        )
        return _Shared(
            Intercepted(runtime),
            sock,
            head_s=limits.head,
            receive_s=limits.receive,
            kind=kind,
            most=limits.connections,
        )

    return make
