"""`address`: the network that a client calls from names its tenant (`identity.address`); the narrowest network wins.

The address is the connection's, or under the transparent mount the one that the proxy saw; behind `trusted_proxies` what
they say of it. Who shares a host shares a tenant: for services that nobody may touch, not for people.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import ClassVar

from llmshield.identity import Asked, House, Way, Who

_KNOWN = 4096


class Address(Way):
    """The tenant by the client's address."""

    form: ClassVar[str] = "address"

    def __init__(self, name: str, house: House) -> None:
        super().__init__(name, house)
        networks = house.policy.identity.address or {}
        self._networks = sorted(
            ((network, Who(tenant, house.tier_of(tenant))) for network, tenant in networks.items()),
            key=lambda item: -item[0].prefixlen,
        )
        self._known: dict[str, Who | None] = {}

    def look(self, headers: Mapping[str, str], key: str | None, peer: str, asked: Asked | None) -> Who | None:
        text = self.house.trusted.client(headers, peer)
        if text not in self._known:
            if len(self._known) >= _KNOWN:
                self._known.clear()
            self._known[text] = self._find(text)
        return self._known[text]

    def _find(self, text: str) -> Who | None:
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            return None
        address = getattr(address, "ipv4_mapped", None) or address
        return next((who for network, who in self._networks if address in network), None)
