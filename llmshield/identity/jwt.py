"""`jwt:CLAIM`: a token that an issuer has signed for its user (OpenID Connect and alike); the claim names the tenant.

How a token is verified is in `_tokens`. A token comes in wherever a key may. Whatever has a token's form and can't be
verified is refused: it is no provider's key.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from typing import Any, ClassVar
from urllib.parse import quote

from llmshield import clock
from llmshield.errors import CallError
from llmshield.identity import Asked, Found, House, Way, Who
from llmshield.identity._claims import Claims, claim
from llmshield.identity._tokens import Verifier

_MOST_SEEN = 4096
"""Verified tokens that are remembered until they end: 16 MiB of them at the most usual 1 to 4 KiB."""
_LONGEST_SEEN = 4096
_LONGEST_NAME = 128
_SAFE = "@+"
"""Besides letters, digits and `_.-~`: what a tenant's name may hold as it is. The rest is written %XX, so that `|`
or a line break in a claim never meets something that reads names apart."""


class Jwt(Way):
    """The tenant by a claim of a signed token."""

    form: ClassVar[str] = "jwt:CLAIM"

    def __init__(self, name: str, house: House) -> None:
        super().__init__(name, house)
        settings = house.policy.identity.jwt
        assert settings is not None  # checked when the policy was read
        self._settings = settings
        self._seen: dict[str, tuple[Who, float]] = {}
        self._tokens = Verifier(settings, house.base, place="identity.jwt", changed=self._seen.clear)

    @classmethod
    def read_name(cls, name: str) -> str | None:
        return name or None

    async def start(self) -> None:
        """Get the issuer's keys."""
        await self._tokens.start()

    async def close(self) -> None:
        """Stop fetching."""
        await self._tokens.close()

    def look(self, headers: Mapping[str, str], key: str | None, peer: str, asked: Asked | None) -> Found:
        if key is None:
            return None
        seen = self._seen.get(key)
        if seen is not None and clock.now() < seen[1] and self._tokens.usable():
            return seen[0]
        claims = self._tokens.check(key)
        if claims is None:
            return None
        if isinstance(claims, Mapping):
            return self._known(key, claims)
        return self._later(key, claims)

    async def _later(self, token: str, claims: Awaitable[Claims]) -> Who:
        return self._known(token, await claims)

    def _known(self, token: str, claims: Claims) -> Who:
        """Who this token is for, remembered until it ends."""
        who = self._who(claims)
        if len(token) <= _LONGEST_SEEN:
            if len(self._seen) >= _MOST_SEEN:
                self._seen.clear()
            self._seen[token] = (who, self._tokens.ends_s(claims))
        return who

    def _who(self, claims: Mapping[str, Any]) -> Who:
        policy, settings = self.house.policy, self._settings
        tenant = _tenant(claim(claims, self.name), self.name)
        tier: str | None = None
        if settings.claims.tier is not None and (said := claim(claims, settings.claims.tier)) is not None:
            if not isinstance(said, str) or said not in policy.tiers:
                raise CallError("unauthenticated", "The token's tier is not in this gateway's policy.")
            tier = said
        elif tenant in policy.tenants:
            tier = policy.tenants[tenant].tier
        elif settings.tier is not None:
            tier = settings.tier
        else:
            raise CallError("unauthenticated", "The token's tenant is not in this gateway's policy.")
        tags = {
            tag: str(value)[:256]
            for tag, name in settings.claims.tags.items()
            if isinstance(value := claim(claims, name), str | int) and not isinstance(value, bool)
        }
        return Who(tenant, tier, tags=tags or None, uses_key=True)


def _tenant(value: Any, name: str) -> str:
    """A claim as a tenant's name; two values never make one name."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not value:
        raise CallError("unauthenticated", f"The token has no `{name}` that could name a tenant.")
    try:
        tenant = quote(value, safe=_SAFE)
    except UnicodeEncodeError:
        tenant = ""
    if not 0 < len(tenant) <= _LONGEST_NAME:
        raise CallError("unauthenticated", f"The token's `{name}` can't be a tenant's name.")
    return tenant
