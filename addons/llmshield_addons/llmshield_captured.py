"""Local capture takes everything that a process sends; the policy is about TCP to some ports. The rest goes on as it is.

As the kernel's rules have it in transparent mode: loopback is untouched, other ports are untouched, names (UDP to 53)
are untouched, and HTTP/3 to the policy's ports is refused, so that clients take TCP. Needs the standard library and
mitmproxy and nothing else.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from mitmproxy.proxy import layer, layers

if TYPE_CHECKING:
    from llmshield_addons.llmshield_known import ip_of
else:
    from llmshield_known import ip_of

LOGGER = "mitmproxy.packet_sources.linux"


def captured(top: layer.Layer, ports: frozenset[int]) -> layer.Layer:
    """The layer that a captured connection begins with: mitmproxy's own where the policy has a say."""
    context = top.context
    host, port = context.server.address or ("", 0)
    ip = ip_of(host)
    ours = port in ports and not (ip is not None and ip.is_loopback)
    over_udp = context.client.transport_protocol == "udp"
    if ours and not over_udp:
        return top
    if ours and port != 80:
        context.client.error = (
            "HTTP/3 is refused"  # before its first byte is read, as mitmproxy's own Block does it
        )
        return top
    context.layers.clear()
    context.server.llmshield = "raw"  # type: ignore[attr-defined]
    return layers.UDPLayer(context, ignore=True) if over_udp else layers.TCPLayer(context, ignore=True)


class Over(logging.Handler):
    """Sees in mitmproxy's log that its capture has ended: it tells nobody else, and goes on without clients."""

    def __init__(self, then: Callable[[], object]) -> None:
        super().__init__(logging.WARNING)
        self._then = then

    def emit(self, record: logging.LogRecord) -> None:
        if "[linux-redirector] exited" in record.getMessage():
            self._then()
