"""Whether the gateway is there and answers, and what becomes of those who wait for one that does not.

A gateway that died is refused by the kernel at once. One that hangs is not: the kernel goes on taking connections for
it. Who supervises both says so (`gateway_is`); a mitmproxy that nobody supervises asks by itself (`watch`). Needs the
standard library and mitmproxy and nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from typing import Any

from mitmproxy import ctx

ASK_S = 1.0
SILENT_S = 5.0
"""As long as `llmshield.egress.pulse` waits for a sign of life."""


class Alive:
    """What is known of the gateway. `waiting` has the clients between two requests whose gateway has closed; they can
    be closed at any time."""

    def __init__(self) -> None:
        self.gateway_up = True
        self.waiting: set[str] = set()

    def gateway_is(self, up: bool, silent_s: float = 0.0) -> None:
        """It is there, or not. A gateway that has been silent for so long will not answer whom it has not heard: they
        are told that it is not there. Those that it may have heard before wait on."""
        self.gateway_up = up
        if up or not silent_s:
            return
        since = time.monotonic() - silent_s
        for handler in list(ctx.master.addons.get("proxyserver").connections.values()):
            for each, io in list(handler.transports.items()):
                if (asked_at(each) or 0.0) < since:
                    continue
                if io.writer is not None:
                    with contextlib.suppress(OSError):  # it is closed already
                        io.writer.write_eof()  # before its client is told: the gateway may go on at any moment
                handler.close_connection(each)

    async def watch(self, gateway: tuple[str, int], token: str) -> None:
        """Ask it once a second."""
        while True:
            alive = await answers(gateway, token, SILENT_S)
            if alive is not self.gateway_up:
                self.gateway_is(alive, SILENT_S + ASK_S)
            await asyncio.sleep(ASK_S)


def ask_at(server: Any, when: float | None) -> None:
    """Note since when somebody waits for the gateway on this connection; None: nobody does."""
    server.llmshield_asked = when


def asked_at(server: Any) -> float | None:
    """What was noted."""
    when: float | None = getattr(server, "llmshield_asked", None)
    return when


async def answers(gateway: tuple[str, int], token: str, seconds: float) -> bool:
    """Whether the gateway answers in time. One that has too many connections and hangs up is there, too."""
    writer = None
    try:
        async with asyncio.timeout(seconds):
            reader, writer = await asyncio.open_connection(*gateway)
            writer.write(b"LLMSHIELD/1 " + json.dumps({"t": token, "alive": True}).encode() + b"\r\n")
            await reader.read(64)
    except ConnectionResetError:
        return writer is not None
    except OSError:  # a TimeoutError too
        return False
    finally:
        if writer is not None:
            writer.transport.abort()
    return True
