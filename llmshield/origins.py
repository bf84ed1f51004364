"""Where an intercepted call was going, and who had sent it: the one line before the bytes that a proxy splices to us.

    LLMSHIELD/1 {"t": token, "peer": ["10.0.0.5", 51234], "sni": "api.openai.com", "dst": ["api.openai.com", 443]}\\r\\n

Then the client's own HTTP/1.1 follows, byte for byte. `peer` is the client's address, `sni` the name in its TLS
handshake (null without one), `dst` the destination that it had named or dialled. Other members are not looked at.
The token is shared by the two ends and by nobody else. A line `{"t": token, "alive": true}` asks for a sign of life and
gets `ALIVE` back. This contract knows no proxy by name: whoever ends TLS can speak it. No I/O here.
"""

from __future__ import annotations

import hmac
import json
import socket
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

MAGIC = b"LLMSHIELD/1 "
HEADER = b"x-llmshield-origin"
"""In this header the same JSON may come with each request instead, where a proxy can't write before the first byte."""
ALIVE = b"LLMSHIELD/1 alive\r\n"
LONGEST = 4096
"""Bytes of the line: a name has 255 at the most, a token of ours 43."""


@dataclass(slots=True)
class Origin:
    """An intercepted connection. `sni` and `host` are in lower case; `sni` is empty without one.

    `provider` is whom the destination stands for; empty where the policy does not say. `uid` is the client's user on
    this machine, once somebody has looked for it.
    """

    address: str
    port: int
    sni: str
    host: str
    host_port: int
    provider: str = ""
    uid: int | None = None

    @property
    def name(self) -> str:
        """The host that the client means: the one of its TLS handshake, else the destination."""
        return self.sni or self.host

    def is_for(self, host: str) -> bool:
        """Whether a Host header names the host that the connection was made for."""
        name, _, port = host.strip().rpartition(":")
        if not name or not port.isdigit() or name.endswith(":"):
            name = host.strip()
        return name.strip("[]").rstrip(".").lower() == self.name


def read(line: bytes, token: str) -> Origin | None:
    """The origin in a line (without its end), or in the header's value; None for anything that is not exactly such
    a thing with our token in it."""
    said = _said(line, token)
    if said is None:
        return None
    peer, to, sni = _address(said.get("peer")), _address(said.get("dst")), said.get("sni")
    if peer is None or to is None or not (sni is None or _is_name(sni)):
        return None
    try:
        address = ip_address(peer[0].partition("%")[0])
    except ValueError:
        return None
    mapped = getattr(address, "ipv4_mapped", None)
    return Origin(
        str(mapped or address), peer[1], (sni or "").lower().rstrip("."), to[0].lower().rstrip("."), to[1]
    )


def asks(line: bytes, token: str) -> bool:
    """Whether somebody who knows the token asks for a sign of life, and for nothing else."""
    return (_said(line, token) or {}).get("alive") is True


def _said(line: bytes, token: str) -> dict[str, Any] | None:
    """What somebody says who knows the token."""
    try:
        said = json.loads(line.removeprefix(MAGIC))
    except (ValueError, RecursionError):
        return None
    given = said.get("t") if isinstance(said, dict) else None
    if not isinstance(given, str) or not hmac.compare_digest(
        given.encode("utf-8", "replace"), token.encode()
    ):
        return None
    return said  # type: ignore[no-any-return]


def write(token: str, peer: tuple[str, int], sni: str | None, to: tuple[str, int]) -> bytes:
    """The line for a connection, its end included."""
    said = {"t": token, "peer": list(peer), "sni": sni, "dst": list(to)}
    return MAGIC + json.dumps(said, separators=(",", ":")).encode() + b"\r\n"


def _address(value: Any) -> tuple[str, int] | None:
    """A host (or address) and a port."""
    if not isinstance(value, list) or len(value) != 2:
        return None
    host, port = value
    if not _is_name(host) or isinstance(port, bool) or not isinstance(port, int) or not 0 <= port <= 65535:
        return None
    return host, port


def _is_name(value: Any) -> bool:
    return (
        isinstance(value, str)
        and 0 < len(value) <= 255
        and value.isascii()
        and all(char.isalnum() or char in ".-_:%" for char in value)
    )


def uid_of(
    address: str, port: int, tables: tuple[str, ...] = ("/proc/net/tcp", "/proc/net/tcp6")
) -> int | None:
    """The user whose socket on this machine has this address, as Linux tells it; None where it does not."""
    try:
        ip = ip_address(address)
    except ValueError:
        return None
    forms = {_hex(ip.packed, port)}
    if ip.version == 4:  # a socket for both families has the mapped form
        forms.add(_hex(b"\0" * 10 + b"\xff\xff" + ip.packed, port))
    for table in tables:
        try:
            with open(table, encoding="ascii") as lines:  # noqa: PTH123  /proc has no size to read ahead
                next(lines, None)
                for line in lines:
                    words = line.split(None, 8)
                    if words[1] in forms and words[3] == _ESTABLISHED:
                        return int(words[7])
        except (OSError, ValueError, IndexError):
            continue
    return None


_ESTABLISHED = "01"


def _hex(packed: bytes, port: int) -> str:
    """An address as /proc/net/tcp writes it: words of 32 bits in the machine's own order."""
    words = [packed[at : at + 4] for at in range(0, len(packed), 4)]
    return (
        "".join(
            f"{socket.htonl(int.from_bytes(word)) if _LITTLE else int.from_bytes(word):08X}" for word in words
        )
        + f":{port:04X}"
    )


_LITTLE = socket.htonl(1) != 1
