"""The gateway's process under `llmshield egress run`: told over standard input what to do, and saying when it serves.

In, one JSON object a line: first `{"token": ..., "splice": fd, "admin": fd or null, "issuing": PEM or null}`, then
`{"health": why not all is up, or null}`, `{"seen": [[how, host, client, number], ...]}` and `{"alive": true}`. The end of
the input is the end of whoever started it: it stops then, as after SIGTERM. Out: `{"serving": true}`, then `{"alive": true}`
each time it is asked.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from dataclasses import dataclass
from typing import Any

from llmshield.egress import capturing
from llmshield.metrics import Metrics
from llmshield.mounts import egress, gateway
from llmshield.policy import Policy
from llmshield.runtime import Runtime


@dataclass
class _Told:
    """What the supervisor said last."""

    health: str | None = "starting"
    metrics: Metrics | None = None


async def serve(policy: Policy) -> None:
    """Serve spliced connections until told to stop. Raises: ShieldError as `gateway.serve`."""
    capturing.call_gateway()
    loop = asyncio.get_running_loop()
    lines = asyncio.StreamReader(limit=2**22)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    first = json.loads(await lines.readline())
    told, stop = _Told(), asyncio.Event()

    async def listen() -> None:
        while line := await lines.readline():
            said = json.loads(line)
            if "health" in said:
                told.health = said["health"]
            if "alive" in said:
                _say(alive=True)
            if told.metrics is not None:
                count(told.metrics, said.get("seen", ()))
        stop.set()

    make = egress.port(policy, first["token"])

    def port(runtime: Runtime, sock: socket.socket) -> Any:
        told.metrics = runtime.metrics
        return make(runtime, sock)

    listening = loop.create_task(listen())
    splice = socket.socket(fileno=first["splice"])
    admin = socket.socket(fileno=first["admin"]) if first["admin"] is not None else None
    try:
        await gateway.serve(
            policy, splice, admin, port=port, mount="egress", health=lambda: told.health, on_ready=_say_serving,
            stop=stop, issuing=(first.get("issuing") or "").encode(),
        )  # fmt: skip
    finally:
        listening.cancel()


def count(metrics: Metrics, seen: Any) -> None:
    """Connections that the proxy counted, by how and host; who the client was stays out of the labels."""
    counter = metrics.counter(
        "llmshield_egress_connections_total",
        "Connections at the proxy: intercepted, rewritten, passed, bypassed, blocked, refused, distrusted, websocket,"
        " grpc, crash_bypassed, error.",
        "how",
        "host",
    )
    for how, host, _, number in seen:
        counter.add(number, str(how), str(host))


def _say_serving(data: str, admin: str | None) -> None:
    _say(serving=True)


def _say(**said: bool) -> None:
    sys.stdout.write(json.dumps(said) + "\n")
    sys.stdout.flush()
