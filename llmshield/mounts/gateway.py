"""The sidecar gateway: a process of its own that programs reach through their `base_url`.

Data port and admin port are two servers in one event loop: nothing on the data port leads to the admin routes.
What one connection may do is told in `_protocol`.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Callable, Iterator
from typing import Any

import uvicorn

from llmshield.errors import ShieldError
from llmshield.logs import log
from llmshield.mounts._asgi import AsgiClient, Receive, Scope, Send, run_exchange
from llmshield.mounts._protocol import GuardedProtocol
from llmshield.mounts.admin import Admin
from llmshield.mounts.cors import Cors
from llmshield.policy import Policy
from llmshield.policy.units import HostPort
from llmshield.runtime import Runtime

DRAIN_S = 20.0
"""How long calls under way may go on after SIGTERM; Kubernetes kills after 30 s."""
LINGER_S = 3.0
"""How long connections may take to close after that."""
BACKLOG = 2048


class Gateway:
    """The data port as an ASGI app."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._receive_s = runtime.policy.server.limits.receive
        cors = runtime.policy.server.cors
        self._cors = Cors(cors.origins) if cors is not None else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise ShieldError(f"The data port does not serve {scope['type']!r}.")
        if self._cors is not None:
            if await self._cors.answered(scope, send):
                return
            send = self._cors.wrap(scope, send)
        client = AsgiClient(receive, send, self._receive_s)
        await run_exchange(self._runtime.engine, scope, client, mount="gateway")


class _Server(uvicorn.Server):
    """A server whose signals belong to `serve`."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


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


def _config(app: Any, protocol: Any) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=protocol,
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        date_header=False,
        timeout_keep_alive=75,  # nginx's default; clients' pools keep idle connections for 5 to 60 s
        backlog=BACKLOG,
    )


async def serve(
    policy: Policy,
    listen: HostPort,
    admin: HostPort | None,
    *,
    on_ready: Callable[[str, str | None], None] | None = None,
    stop: asyncio.Event | None = None,
    signals: bool = True,
) -> None:
    """Run the gateway until `stop`, or SIGTERM and SIGINT where `signals` are ours.

    `on_ready(data_url, admin_url)` is called once it serves.

    Raises: ShieldError when a port is taken, a key can't be resolved or a plugin can't start.
    """
    data_socket = bind(listen, "data")
    admin_socket = bind(admin, "admin") if admin is not None else None
    runtime = Runtime(policy, mount="gateway")
    stop = stop or asyncio.Event()
    loop = asyncio.get_running_loop()
    ours = (signal.SIGTERM, signal.SIGINT) if signals else ()
    for name in ours:
        loop.add_signal_handler(name, stop.set)

    class Protocol(GuardedProtocol):
        head_s = policy.server.limits.head
        receive_s = policy.server.limits.receive

    data = _Server(_config(Gateway(runtime), Protocol))
    servers = [data]
    sockets = [data_socket]
    ports: list[asyncio.Task[None]] = []
    if admin_socket is not None:
        # The admin port answers while detectors warm up: /healthz is 200, /readyz 503.
        servers.append(_Server(_config(Admin(runtime), Protocol)))
        sockets.append(admin_socket)
        ports.append(loop.create_task(servers[1].serve(sockets=[admin_socket])))
    try:
        await runtime.start()
        ports.insert(0, loop.create_task(data.serve(sockets=[data_socket])))
        url = _url(data_socket)
        admin_url = _url(admin_socket) if admin_socket is not None else None
        log.info(
            "serving", data=url, admin=admin_url or "", policy=policy.hash, plugins=list(runtime.chain.modes)
        )
        if on_ready is not None:
            on_ready(url, admin_url)
        stopping = loop.create_task(stop.wait())
        await asyncio.wait({stopping, *ports}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        log.info("draining", seconds=DRAIN_S)
        data.should_exit = True
        await runtime.drain(DRAIN_S)
        await asyncio.wait(ports[:1], timeout=LINGER_S)
    finally:
        for name in ours:
            loop.remove_signal_handler(name)
        for server in servers:
            server.should_exit = True
        if ports:
            await asyncio.wait(ports, timeout=LINGER_S)
        for server in servers:
            server.force_exit = True  # clients that take nothing of their last bytes are not waited for
        await asyncio.gather(*ports, return_exceptions=True)
        for sock in sockets:
            sock.close()
        await runtime.close()
        log.info("stopped")


def _url(sock: socket.socket) -> str:
    host, port = sock.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
