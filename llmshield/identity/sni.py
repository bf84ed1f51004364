"""`sni`: the host that a client's TLS handshake named tells its tenant (`identity.sni`), under the transparent mount.

For services that reach a provider under names of their own (`billing.llm.internal`), each of them one of
`egress.hosts`. Any client may name any of these hosts: it tells services apart, it does not keep them apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from llmshield.identity import Asked, House, Way, Who


class Sni(Way):
    """The tenant by the name in the TLS handshake."""

    form: ClassVar[str] = "sni"

    def __init__(self, name: str, house: House) -> None:
        super().__init__(name, house)
        hosts = house.policy.identity.sni or {}
        who = {host: Who(tenant, house.tier_of(tenant)) for host, tenant in hosts.items()}
        self._exact = {host: each for host, each in who.items() if not host.startswith("*.")}
        below = [(host[1:], each) for host, each in who.items() if host.startswith("*.")]
        self._below = sorted(below, key=lambda item: -len(item[0]))

    def look(self, headers: Mapping[str, str], key: str | None, peer: str, asked: Asked | None) -> Who | None:
        origin = asked.origin if asked is not None else None
        if origin is None or not origin.sni:
            return None
        found = self._exact.get(origin.sni)
        if found is None:
            found = next((who for suffix, who in self._below if origin.sni.endswith(suffix)), None)
        return found
