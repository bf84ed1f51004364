"""What the policy says of hosts, clients and addresses, as the addon was told. Standard library only."""

from __future__ import annotations

import ipaddress
from typing import Any


class Known:
    """Looks things up in what was handed over."""

    def __init__(self, said: dict[str, Any]) -> None:
        self.gateway: tuple[str, int] = (said["gateway"][0], said["gateway"][1])
        self.exact: dict[str, dict[str, Any]] = {
            k: v for k, v in said["hosts"].items() if not k.startswith("*.")
        }
        self.below = sorted(
            ((k[1:], v) for k, v in said["hosts"].items() if k.startswith("*.")),
            key=lambda item: -len(item[0]),
        )
        self.ports = frozenset(said["ports"])
        self.own = {tuple(each) for each in said["own"]} | {self.gateway}
        self.clients = [ipaddress.ip_network(each) for each in said["bypass"]["clients"]]
        self.loopback = said["loopback"] == "pass"
        self.closed = said["bypass"]["hosts"]
        self.addresses: frozenset[str] = frozenset()
        """Where the listed hosts live, as far as DNS tells."""

    def find(self, host: str | None) -> dict[str, Any] | None:
        """What the policy says of a host; None for one that it does not list."""
        if not host:
            return None
        name = host.lower().rstrip(".")
        found = self.exact.get(name)
        if found is None:
            found = next((about for suffix, about in self.below if name.endswith(suffix)), None)
        return found

    def is_bypassed(self, client: str, host: str) -> bool:
        name = host.lower().rstrip(".")
        if any(name == each or (each[:2] == "*." and name.endswith(each[1:])) for each in self.closed):
            return True
        return bool(self.clients) and any(ip_of(client) in network for network in self.clients)

    def may_go(self, address: tuple[str, int]) -> str | None:
        """Why nobody may be connected to this address, if so."""
        if address[1] not in self.ports:
            return f"port {address[1]} is none of egress.ports"
        return self.is_closed(*address)

    def is_closed(self, host: str, port: int) -> str | None:
        """The same of addresses that nobody may reach on any port."""
        ip = ip_of(host)
        if ip is not None and (ip.is_link_local or str(ip) in {"fd00:ec2::254", "100.100.100.200"}):
            return "link-local addresses (metadata of clouds) are closed"
        if any(port == own and (host in {there, "localhost"} or (ip is not None and (ip.is_loopback or ip.is_unspecified)))
               for there, own in self.own):  # fmt: skip
            return "this is llmshield itself"
        here = (
            host == "localhost"
            or host.endswith(".localhost")
            or (ip is not None and (ip.is_loopback or ip.is_unspecified))
        )
        return "services of this machine are closed (egress.loopback)" if here and not self.loopback else None


def shown(host: str) -> str:
    """A host as it may stand in a log, a label and on a terminal: clients write what they like into a Host header."""
    return "".join(
        each if each.isascii() and each.isprintable() and each not in ' "\\' else "?" for each in host[:253]
    )


def kind_of(request: Any) -> str:
    """`websocket` or `grpc` for a request that is one in all its parts (RFC 6455, 4.1; gRPC needs HTTP/2), else nothing:
    a single header makes no call one that the policy lets pass."""
    headers = request.headers
    if headers.get("upgrade", "").lower() == "websocket":
        with_body = headers.get("content-length", "0") != "0" or "transfer-encoding" in headers
        return (
            "websocket"
            if request.method == "GET" and "sec-websocket-key" in headers and not with_body
            else ""
        )
    is_grpc = request.is_http2 and headers.get("content-type", "").startswith("application/grpc")
    return "grpc" if is_grpc and request.method == "POST" else ""


def ip_of(text: str) -> Any:
    """The address in a text; None for a name."""
    try:
        found = ipaddress.ip_address(text.partition("%")[0].strip("[]"))
    except ValueError:
        return None
    return getattr(found, "ipv4_mapped", None) or found
