"""The sidecar gateway: a process of its own that programs reach through their `base_url`.

Data port and admin port are two servers in one event loop: nothing on the data port leads to the admin routes.
What one connection may do is told in `_protocol`.
"""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable

from llmshield.logs import log
from llmshield.mounts._request import HttpRequest
from llmshield.mounts._server import Server, bind, handler_of
from llmshield.mounts.admin import Admin
from llmshield.mounts.cors import Cors
from llmshield.open_files import raise_limit
from llmshield.policy import Policy
from llmshield.policy.units import HostPort
from llmshield.runtime import Runtime

DRAIN_S = 20.0
"""How long calls under way may go on after SIGTERM; Kubernetes kills after 30 s."""
LINGER_S = 3.0
"""How long connections may take to close after that."""


def stop_signals() -> tuple[signal.Signals, ...]:
    """The signals that mean "stop": SIGTERM, SIGINT, and SIGHUP (a terminal that is closed), unless whoever started us
    wants that one ignored (`nohup`)."""
    found = (signal.SIGTERM, signal.SIGINT)
    hang_up = getattr(signal, "SIGHUP", None)  # Windows has none
    if hang_up is None or signal.getsignal(hang_up) is signal.SIG_IGN:
        return found
    return (*found, hang_up)


class Gateway:
    """The data port: answers the requests of its connections (`_server.Server`)."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        cors = runtime.policy.server.cors
        self._cors = Cors(cors.origins) if cors is not None else None

    async def __call__(self, request: HttpRequest) -> None:
        if self._cors is not None:
            origin = _header(request, b"origin")
            asks = _header(request, b"access-control-request-method")
            if request.method == "OPTIONS" and asks is not None:
                wanted = _header(request, b"access-control-request-headers")
                await request.start(*self._cors.preflight(origin, wanted))
                await request.end()
                return
            request.extra = self._cors.headers(origin)
        await self._runtime.engine.handle(request, request, request.task)


def _header(request: HttpRequest, name: bytes) -> str | None:
    for found, value in request.headers:
        if found.lower() == name:
            return value.decode("latin-1")
    return None


async def serve(
    policy: Policy,
    listen: HostPort | socket.socket,
    admin: HostPort | socket.socket | None,
    *,
    port: Callable[[Runtime, socket.socket], Server] | None = None,
    mount: str = "gateway",
    health: Callable[[], str | None] | None = None,
    issuing: bytes = b"",
    on_ready: Callable[[str, str | None], None] | None = None,
    stop: asyncio.Event | None = None,
    signals: bool = True,
) -> None:
    """Run the gateway until `stop`, or one of `stop_signals` where `signals` are ours.

    `listen` and `admin` may be sockets that are bound already. `port` makes something else of the data socket than
    the sidecar's port, `mount` names it, `health` says why not all of it is up, if so, and `issuing` is our own authority's
    certificate (PEM), which no provider may show. `on_ready(data_url,
    admin_url)` is called once it serves.

    Raises: ShieldError when a port is taken, a key can't be resolved or a plugin can't start.
    """
    raise_limit()
    data_socket = bind(listen, "data") if isinstance(listen, HostPort) else listen
    admin_socket = bind(admin, "admin") if isinstance(admin, HostPort) else admin
    runtime = Runtime(policy, mount=mount, issuing=issuing)
    if health is not None:
        runtime.health = health
    stop = stop or asyncio.Event()
    loop = asyncio.get_running_loop()
    ours = stop_signals() if signals else ()
    for name in ours:
        loop.add_signal_handler(name, stop.set)

    limits = policy.server.limits
    if port is not None:
        data = port(runtime, data_socket)
    else:
        data = Server(
            Gateway(runtime),
            data_socket,
            head_s=limits.head,
            receive_s=limits.receive,
            most=limits.connections,
        )
    servers = [data]
    admin_url = None
    desk = admin_port = None
    if admin_socket is not None:
        desk = Admin(runtime, names=[admin.host] if isinstance(admin, HostPort) else [])
        admin_port = Server(handler_of(desk), admin_socket, head_s=limits.head, receive_s=limits.receive)
        servers.append(admin_port)
        admin_url = admin_port.url
    try:
        if desk is not None and admin_port is not None:
            # The admin port answers while detectors warm up: /healthz is 200, /readyz 503.
            await desk.start()
            await admin_port.start()
        await runtime.start()
        await data.start()
        log.info(
            "serving",
            data=data.url,
            admin=admin_url or "",
            policy=policy.hash,
            plugins=list(runtime.chain.modes),
        )
        if on_ready is not None:
            on_ready(data.url, admin_url)
        await stop.wait()
        log.info("draining", seconds=DRAIN_S)
        data.refuse()
        await runtime.drain(DRAIN_S)
    finally:
        for name in ours:
            loop.remove_signal_handler(name)
        await asyncio.gather(*[server.stop(LINGER_S) for server in servers])
        if desk is not None:
            await desk.close()
        await runtime.close()
        log.info("stopped")
