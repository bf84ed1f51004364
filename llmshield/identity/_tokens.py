"""Signed tokens under one `Tokens` section of a policy: verified, and what they claim.

What is believed is pinned in the policy: issuer, audience, algorithms (none with a shared secret), and where the
issuer's keys are; nothing in a token (`jku`, `jwk`, `x5u`) says where to look. `exp` must be there. Whatever has a
token's form and can't be verified is refused. Who the claims are about is for others to say.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import orjson
from joserfc import jwt as jose
from joserfc.errors import JoseError, UnsupportedAlgorithmError
from joserfc.jws import JWSRegistry
from joserfc.jwt import ClaimsOption, JWTClaimsRegistry
from joserfc.util import urlsafe_b64decode

from llmshield import clock
from llmshield.errors import CallError
from llmshield.identity._claims import Claims
from llmshield.identity._jwks import Jwks, Key
from llmshield.policy.identity import Tokens


class Verifier:
    """Checks tokens. `place` is the section's name for messages; `changed` is called when the issuer's keys change."""

    def __init__(self, settings: Tokens, base: Path, *, place: str, changed: Callable[[], None]) -> None:
        self._settings = settings
        self._jwks = Jwks(
            settings.jwks,
            settings.issuer,
            base,
            refresh_s=settings.refresh,
            outage_s=settings.outage,
            changed=changed,
            place=place,
        )
        self._registry = _Headers(algorithms=list(settings.algorithms), strict_check_header=False)
        rules: dict[str, ClaimsOption] = {claim: {"essential": True} for claim in settings.require}
        rules["iss"] = {"essential": True, "value": settings.issuer}
        rules["aud"] = {"essential": True, "values": list(settings.audience)}
        rules["exp"] = {"essential": True}
        self._claims = JWTClaimsRegistry(lambda: int(clock.now()), int(settings.leeway), **rules)

    async def start(self) -> None:
        """Get the issuer's keys. Raises: ShieldError for a file that can't be used."""
        await self._jwks.start()

    async def close(self) -> None:
        """Stop fetching."""
        await self._jwks.close()

    def usable(self) -> bool:
        """Whether there are keys of the issuer that may be believed."""
        return self._jwks.usable()

    def ends_s(self, claims: Claims) -> float:
        """Until when verified claims hold, in seconds since 1970."""
        return float(claims["exp"]) + self._settings.leeway

    def check(self, text: str) -> Claims | Awaitable[Claims] | None:
        """The claims of a token, at once where the issuer's key is known; None for a text that is no token.

        Raises: CallError `unauthenticated` with the rule that it breaks, `policy_unavailable` where the issuer's keys
        can't be had; the awaitable raises the same.
        """
        header = _header(text)
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
            return self._verify(text, found)
        return self._after_fetch(text, kid, algorithm)

    async def _after_fetch(self, token: str, kid: str | None, algorithm: str) -> Claims:
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

    def _verify(self, token: str, key: Key) -> Claims:
        """What this token claims. Raises: CallError with the rule that it breaks."""
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
        return claims


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


def _why(error: Exception) -> str:
    """A library's refusal in a sentence of ours; it never quotes a value."""
    claim = getattr(error, "claim", None)
    kind = getattr(error, "error", "")
    if kind == "expired_token":
        return "The token has expired."
    if kind == "missing_claim":
        return f"The token has no `{claim}`."
    return f"The token's `{claim}` is not right." if claim else "The token's claims are not right."
