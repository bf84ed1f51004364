"""Whose word counts: trusted proxies, and the client's address as they tell it."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from functools import lru_cache

from llmshield.policy.tenants import Network

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_HOPS = 64
"""Hops of X-Forwarded-For that are looked at; no chain of proxies is longer, a forged one may be."""


class Trusted:
    """The policy's `trusted_proxies`."""

    def __init__(self, networks: tuple[Network, ...]) -> None:
        self._networks = networks

    def trusts(self, peer: str) -> bool:
        """Whether this address is one of them."""
        return self._holds(_address(peer))

    def client(self, headers: Mapping[str, str], peer: str) -> str:
        """The client's address: the last hop of X-Forwarded-For that no trusted proxy wrote for itself."""
        if not self._networks or not self.trusts(peer):
            return peer
        here = peer
        for hop in reversed(headers.get("x-forwarded-for", "").rsplit(",", _HOPS)):
            address = _address(hop.strip())
            if address is None:
                break
            here = str(address)
            if not self._holds(address):
                break
        return here

    def _holds(self, address: Address | None) -> bool:
        return address is not None and any(address in network for network in self._networks)


@lru_cache(4096)
def _parsed(text: str) -> Address | None:
    try:
        address = ipaddress.ip_address(text.strip("[]"))
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def _address(text: str) -> Address | None:
    return _parsed(text) if len(text) <= 64 else None
