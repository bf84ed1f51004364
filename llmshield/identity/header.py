"""`header:NAME`: a proxy in front has told who is calling, and names the tenant in a header.

Believed from the policy's `trusted_proxies` only; from anybody else the header says nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from llmshield.errors import CallError
from llmshield.identity import Asked, House, Way, Who

_NAME = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-_")


class Header(Way):
    """The tenant by a header of a trusted proxy."""

    form: ClassVar[str] = "header:NAME"

    def __init__(self, name: str, house: House) -> None:
        super().__init__(name, house)
        self._tenants = {tenant: Who(tenant, made.tier) for tenant, made in house.policy.tenants.items()}

    @classmethod
    def read_name(cls, name: str) -> str | None:
        return name.lower() if name and set(name.lower()) <= _NAME else None

    def look(self, headers: Mapping[str, str], key: str | None, peer: str, asked: Asked | None) -> Who | None:
        named = headers.get(self.name)
        if named is None or not self.house.trusted.trusts(peer):
            return None
        who = self._tenants.get(named)
        if who is None:
            raise CallError("unauthenticated", f"The {self.name} header names no tenant of the policy.")
        return who
