"""Parts of a run: the socket between gateway and proxy, and what mitmproxy is told to listen on."""

from __future__ import annotations

import asyncio
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

from llmshield.egress import firewall
from llmshield.egress.running import Wanted, addon, modes, reserved
from llmshield.mounts.egress import _Shared, refuse_all
from llmshield.policy.units import HostPort


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux keeps such a port")
def test_the_port_stays_ours_while_nobody_listens() -> None:
    sock = reserved()
    address = sock.getsockname()
    sock.listen()
    socket.create_connection(address).close()
    refuse_all(sock)  # as when a gateway has died

    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address)
    for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):
        with socket.socket() as thief:
            thief.setsockopt(socket.SOL_SOCKET, option, 1)
            with pytest.raises(OSError, match="in use"):
                thief.bind(address)
    sock.listen()
    socket.create_connection(address).close()
    sock.close()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux keeps such a port")
async def test_a_gateway_listens_where_connections_of_the_one_before_still_end() -> None:
    """They have the port for a minute (TIME_WAIT), or for as long as a client keeps its end open. Nobody else gets it."""

    async def nothing(request: Any) -> None:
        return None

    sock = reserved()
    address = sock.getsockname()
    clients = []
    for _ in range(3):
        server = _Shared(nothing, sock.dup(), head_s=5.0, receive_s=5.0)
        await server.start()
        clients += [await asyncio.open_connection(*address) for _ in range(4)]
        for _, writer in clients[-2:]:
            writer.write(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        await asyncio.sleep(0.05)
        await server.stop(0.0)
        for _, writer in clients[-3:]:
            writer.close()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address)
        for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):
            with socket.socket() as thief:
                thief.setsockopt(socket.SOL_SOCKET, option, 1)
                with pytest.raises(OSError, match="in use"):
                    thief.bind(address)
    for _, writer in clients:
        writer.transport.abort()
    sock.close()


@pytest.mark.parametrize(
    ("mode", "host", "local", "wanted"),
    [
        ("regular", "127.0.0.1", "", ["regular@127.0.0.1:8080"]),
        ("socks5", "10.0.0.1", "", ["socks5@10.0.0.1:8080"]),
        ("transparent", "127.0.0.1", "", ["transparent@127.0.0.1:8080", "transparent@::1:8080"]),
        ("transparent", "0.0.0.0", "", ["transparent@0.0.0.0:8080"]),
        ("local", "127.0.0.1", "curl,1234", ["local:curl,1234,!llmshield-gate"]),
        ("local", "127.0.0.1", "", ["local:!llmshield-gate"]),
    ],
)
def test_modes(mode: Any, host: str, local: str, wanted: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(firewall, "has_ipv6", lambda: True)
    nothing: Any = None
    given = Wanted(nothing, Path(), mode, HostPort(host, 8080), None, "", nothing, local=local)

    assert wanted == modes(given)
    monkeypatch.setattr(firewall, "has_ipv6", lambda: False)
    assert modes(given) == [each for each in wanted if "::1" not in each], (
        "nobody can listen on what is not there"
    )


@pytest.mark.parametrize("name", ["mitm", "mitm_run", "llmshield_splice", "llmshield_captured"])
def test_addons_are_found(name: str) -> None:
    assert addon(name).read_text(encoding="utf-8").startswith('"""')
