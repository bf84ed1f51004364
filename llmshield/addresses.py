"""Client addresses as limits, blocks and signals see them: an IPv4 address inside IPv6 is itself, and an IPv6 address
stands for its /64. A household or machine holds a whole /64 (RFC 6177), so single addresses in it mean nothing.
"""

from __future__ import annotations

import ipaddress
from functools import lru_cache
from typing import TypeAlias

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

_LONGEST = 80
"""An IPv6 address with its zone; whatever is longer is none, and is not kept."""


def parse(text: str) -> Address | None:
    """The address in `192.0.2.1`, `[2001:db8::1]`, `fe80::1%eth0` or `::ffff:192.0.2.1`; None for anything else."""
    return _parsed(text) if len(text) <= _LONGEST else None


def network_of(text: str) -> str:
    """The network that this client is: `192.0.2.1`, `2001:db8::/64`, or `none` for what is no address."""
    return _network_of(text) if len(text) <= _LONGEST else "none"


@lru_cache(maxsize=4096)
def _parsed(text: str) -> Address | None:
    try:
        address = ipaddress.ip_address(text.partition("%")[0].strip("[]"))
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


@lru_cache(maxsize=4096)
def _network_of(text: str) -> str:
    address = _parsed(text)
    if address is None:
        return "none"
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((int(address), 64), strict=False))
    return str(address)
