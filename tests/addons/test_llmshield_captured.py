"""What local capture leaves alone, and how its end is noticed."""

from __future__ import annotations

from typing import Any

import pytest

CODE = """
import logging
from mitmproxy.connection import Client, ConnectionState
from mitmproxy.options import Options
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layers.modes import TransparentProxy
from llmshield_captured import LOGGER, Over, captured

def one(host, port, protocol):
    client = Client(peername=("10.0.0.5", 1), sockname=("10.0.0.5", 2), timestamp_start=0, state=ConnectionState.OPEN,
                    transport_protocol=protocol)
    context = Context(client, Options())
    context.server.address = (host, port)
    top = TransparentProxy(context)
    layer = captured(top, frozenset([80, 443]))
    return [type(layer).__name__, context.layers == [layer], client.error or getattr(context.server, "llmshield", "")]

over = []
logger = logging.getLogger(LOGGER)
logger.addHandler(Over(lambda: over.append(True)))
logger.propagate = False
logger.warning("[linux-redirector] started")
before = len(over)
logger.error("[linux-redirector] exited: Ok(ExitStatus(256))")
result = [[one(*each) for each in given], before, len(over)]
"""
CASES: dict[tuple[str, int, str], tuple[str, str]] = {
    ("203.0.113.9", 443, "tcp"): ("TransparentProxy", ""),
    ("2001:db8::9", 80, "tcp"): ("TransparentProxy", ""),
    ("203.0.113.9", 5432, "tcp"): ("TCPLayer", "raw"),
    ("127.0.0.1", 443, "tcp"): ("TCPLayer", "raw"),
    ("::1", 80, "tcp"): ("TCPLayer", "raw"),
    ("::ffff:127.0.0.1", 443, "tcp"): ("TCPLayer", "raw"),
    ("203.0.113.9", 53, "udp"): ("UDPLayer", "raw"),
    ("127.0.0.53", 53, "udp"): ("UDPLayer", "raw"),
    ("203.0.113.9", 443, "udp"): ("TransparentProxy", "HTTP/3 is refused"),
    ("203.0.113.9", 80, "udp"): ("UDPLayer", "raw"),
}


def test_what_is_left_alone(inside: Any) -> None:
    found, before, after = inside(CODE, [list(case) for case in CASES])

    assert found == [[layer, True, mark] for layer, mark in CASES.values()]
    assert (before, after) == (0, 1)


@pytest.mark.parametrize(("mark", "allowed"), [("raw", True), ("refused", False), ("", False)])
def test_the_gate_lets_them_go(inside: Any, said: dict[str, Any], mark: str, allowed: bool) -> None:
    code = """
from types import SimpleNamespace
from mitm import LLMShield
said, mark = given
data = SimpleNamespace(server=SimpleNamespace(address=("203.0.113.9", 5432), error=None, llmshield=mark),
                       client=SimpleNamespace(id="c", peername=("10.0.0.5", 1)))
LLMShield(said).server_connect(data)
result = data.server.error
"""
    assert (inside(code, [said, mark]) is None) is allowed
