"""Parts of a run: the socket between gateway and proxy, and what mitmproxy is told to listen on."""

from __future__ import annotations

import socket
import sys
from pathlib import Path
from typing import Any

import pytest

from llmshield.egress import firewall
from llmshield.egress.running import Wanted, addon, modes, reserved
from llmshield.policy.units import HostPort


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux keeps such a port")
def test_the_port_stays_ours_while_nobody_listens() -> None:
    sock = reserved()
    address = sock.getsockname()
    sock.listen()
    socket.create_connection(address).close()
    sock.shutdown(socket.SHUT_RDWR)  # as when a gateway has died

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
