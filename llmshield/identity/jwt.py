"""`jwt:CLAIM`: a token that an issuer has signed for its user (OpenID Connect and alike); the claim names the tenant.

What is believed is pinned in the policy: issuer, audience, algorithms (none with a shared secret), and where the
issuer's keys are; nothing in a token (`jku`, `jwk`, `x5u`) says where to look. `exp` must be there. A token comes in
wherever a key may. Whatever has a token's form and can't be verified is refused: it is no provider's key.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from typing import Any, ClassVar
from urllib.parse import quote

import orjson
from joserfc import jwt as jose
from joserfc.errors import JoseError, UnsupportedAlgorithmError
from joserfc.jws import JWSRegistry
from joserfc.jwt import ClaimsOption, JWTClaimsRegistry
from joserfc.util import urlsafe_b64decode

from llmshield import clock
from llmshield.errors import CallError
from llmshield.identity import Asked, Found, House, Way, Who
from llmshield.identity._jwks import Jwks, Key

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
        self._jwks = Jwks(
            settings.jwks,
            settings.issuer,
            house.base,
            refresh_s=settings.refresh,
            outage_s=settings.outage,
            changed=self._seen.clear,
        )
        self._registry = _Headers(algorithms=list(settings.algorithms), strict_check_header=False)
        rules: dict[str, ClaimsOption] = {claim: {"essential": True} for claim in settings.require}
        rules["iss"] = {"essential": True, "value": settings.issuer}
        rules["aud"] = {"essential": True, "values": list(settings.audience)}
        rules["exp"] = {"essential": True}
        self._claims = JWTClaimsRegistry(lambda: int(clock.now()), int(settings.leeway), **rules)

    @classmethod
    def read_name(cls, name: str) -> str | None:
        return name or None

    async def start(self) -> None:
        """Get the issuer's keys."""
        await self._jwks.start()

    async def close(self) -> None:
        """Stop fetching."""
        await self._jwks.close()

    def look(self, headers: Mapping[str, str], key: str | None, peer: str, asked: Asked | None) -> Found:
        if key is None:
            return None
        seen = self._seen.get(key)
        if seen is not None and clock.now() < seen[1] and self._jwks.usable():
            return seen[0]
        header = _header(key)
        if header is None:
            return None
        algorithm, kid = header.get("alg"), header.get("kid")
        if algorithm not in self._settings.algorithms:
            raise CallError(
                "unauthenticated", "The token is signed in a way that this gateway does not take."
            )
        if kid is not None and not isinstance(kid, str):
            raise CallError("unauthenticated", "The token's key id is no text.")
        found = self._jwks.find(kid, algorithm)
        if found is not None and self._jwks.usable():
            return self._verify(key, found)
        return self._after_fetch(key, kid, algorithm)

    async def _after_fetch(self, token: str, kid: str | None, algorithm: str) -> Who:
        """The issuer may have new keys: look once, if the last look is some time ago."""
        if self._jwks.may_fetch:
            await asyncio.shield(self._jwks.fetch_soon())  # a client that leaves takes only itself away
        if not self._jwks.usable():
            raise CallError(
                "policy_unavailable", "Tokens can't be checked: the issuer's keys can't be had. Try again.",
                status=503, retry_after_s=5,
            )  # fmt: skip
        found = self._jwks.find(kid, algorithm)
        if found is None:
            raise CallError(
                "unauthenticated", "The token is signed with a key that its issuer does not list."
            )
        return self._verify(token, found)

    def _verify(self, token: str, key: Key) -> Who:
        """Who this token is for. Raises: CallError with the rule that it breaks."""
        try:
            claims = jose.decode(token, key, registry=self._registry).claims
        except (JoseError, ValueError, TypeError):
            raise CallError("unauthenticated", "The token's signature is not right.") from None
        for name in ("exp", "nbf", "iat"):
            value = claims.get(name)
            if isinstance(value, bool) or (isinstance(value, float) and not math.isfinite(value)):
                raise CallError("unauthenticated", f"The token's `{name}` is no time.")
        try:
            self._claims.validate(claims)
        except (JoseError, ValueError, TypeError, OverflowError) as error:
            raise CallError("unauthenticated", _why(error)) from None
        who = self._who(claims)
        ends_s = float(claims["exp"]) + self._settings.leeway
        if len(token) <= _LONGEST_SEEN:
            if len(self._seen) >= _MOST_SEEN:
                self._seen.clear()
            self._seen[token] = (who, ends_s)
        return who

    def _who(self, claims: Mapping[str, Any]) -> Who:
        policy, settings = self.house.policy, self._settings
        tenant = _tenant(_claim(claims, self.name), self.name)
        tier: str | None = None
        if settings.claims.tier is not None and (said := _claim(claims, settings.claims.tier)) is not None:
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
            for tag, claim in settings.claims.tags.items()
            if isinstance(value := _claim(claims, claim), str | int) and not isinstance(value, bool)
        }
        return Who(tenant, tier, tags=tags or None, uses_key=True)


class _Headers(JWSRegistry):
    """Fields that nobody knows are ignored (RFC 7515, 4), those in `crit` refused; some issuers write long ones."""

    max_header_length = 8 * 1024
    max_payload_length = 16 * 1024

    def get_alg(self, name: str) -> Any:
        """The library warns of `EdDSA`, as issuers still call `Ed25519` (RFC 9864); the policy has decided."""
        if name not in (self.allowed or ()):
            raise UnsupportedAlgorithmError(f"{name!r:.40} is not allowed")
        return self.algorithms[name]


def _header(token: str) -> dict[str, Any] | None:
    """The head of what has the form of a signed token (three parts, the first one JSON with `alg`), unverified; None
    for every other key."""
    if token.count(".") != 2 or not token.isascii():
        return None
    try:
        header = orjson.loads(urlsafe_b64decode(token.partition(".")[0].encode()))
    except ValueError:
        return None
    return header if isinstance(header, dict) and "alg" in header else None


def _claim(claims: Mapping[str, Any], name: str) -> Any:
    """A claim by its name, or by a pointer into it; None where there is none."""
    if not name.startswith("/"):
        return claims.get(name)
    value: Any = claims
    for step in name.split("/")[1:]:
        value = value.get(step.replace("~1", "/").replace("~0", "~")) if isinstance(value, dict) else None
    return value


def _tenant(value: Any, claim: str) -> str:
    """A claim as a tenant's name; two values never make one name."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not value:
        raise CallError("unauthenticated", f"The token has no `{claim}` that could name a tenant.")
    try:
        name = quote(value, safe=_SAFE)
    except UnicodeEncodeError:
        name = ""
    if not 0 < len(name) <= _LONGEST_NAME:
        raise CallError("unauthenticated", f"The token's `{claim}` can't be a tenant's name.")
    return name


def _why(error: Exception) -> str:
    """A library's refusal in a sentence of ours; it never quotes a value."""
    claim = getattr(error, "claim", None)
    kind = getattr(error, "error", "")
    if kind == "expired_token":
        return "The token has expired."
    if kind == "missing_claim":
        return f"The token has no `{claim}`."
    return f"The token's `{claim}` is not right." if claim else "The token's claims are not right."
