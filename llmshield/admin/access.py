"""Who may do what on the admin port: `LLMSHIELD_ADMIN_TOKEN`, the policy's keys, an issuer's tokens; else loopback.

A credential comes as `Authorization: Bearer`, and nowhere else: no cookie, no query, no Basic, nothing that a browser
sends by itself. Secrets are compared by their SHA-256, all of them, in constant time. Where there is no credential at
all, loopback clients may look and change nothing: whoever else runs on this machine reaches loopback too, the guarded
service included.

Wrong credentials are throttled by address. A request without one is no guess, and is not. A key that was right before goes
on meanwhile: whoever shares an address with a guesser, as everything on one machine does, keeps its metrics.
"""

from __future__ import annotations

import hashlib
import hmac
import math
import os
from collections.abc import Awaitable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from llmshield.addresses import parse
from llmshield.admin.problems import Problem
from llmshield.admin.throttle import Throttle
from llmshield.errors import CallError, ShieldError
from llmshield.identity._claims import Claims, claim
from llmshield.logs import log
from llmshield.policy.admin import Admin, Role

if TYPE_CHECKING:
    from llmshield.identity._tokens import Verifier

RANK: Mapping[Role, int] = {"read": 0, "operate": 1, "admin": 2}

_SHORTEST_TOKEN = 16
_LONGEST_NAME = 128


class Officer(NamedTuple):
    """Who asks: `token`, `key:NAME`, `jwt:NAME` or `loopback`; its role, and the address it asks from."""

    name: str
    role: Role
    address: str

    def may(self, role: Role) -> bool:
        """Whether this role, or one above it, is theirs."""
        return RANK[self.role] >= RANK[role]


class Access:
    """The policy's `admin` section and the environment's token, compiled."""

    def __init__(self, settings: Admin, base: Path, token: str) -> None:
        self._held: list[tuple[bytes, str, Role]] = [
            (bytes.fromhex(each.key.removeprefix("sha256:")), f"key:{name}", each.role)
            for name, each in settings.keys.items()
        ]
        if token:
            self._held.append(
                (hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest(), "token", "admin")
            )
        self._short = 0 < len(token) < _SHORTEST_TOKEN
        self._jwt = settings.jwt
        self._tokens: Verifier | None = None
        if settings.jwt is not None:
            from llmshield.identity._tokens import Verifier  # loading joserfc takes 70 ms

            self._tokens = Verifier(settings.jwt, base, place="admin.jwt", changed=_nothing)
        self._throttle = Throttle()
        self._proven: set[bytes] = set()
        """Digests of keys that were shown and right; never more than there are keys."""

    async def start(self) -> None:
        """Get the issuer's keys. Raises: ShieldError for a file of them that can't be used, and in production for a
        token that can be guessed."""
        if self._short:
            remedy = f"LLMSHIELD_ADMIN_TOKEN has fewer than {_SHORTEST_TOKEN} characters; make one with `openssl rand -hex 32`"
            if os.environ.get("LLMSHIELD_ENV", "").lower() == "production":
                raise ShieldError(f"{remedy}.")
            log.warning("admin_token_short", remedy=remedy)
        if self._tokens is not None:
            await self._tokens.start()

    async def close(self) -> None:
        """Stop fetching them."""
        if self._tokens is not None:
            await self._tokens.close()

    @property
    def open(self) -> bool:
        """Whether there is no credential at all: loopback clients may look."""
        return not self._held and self._tokens is None

    async def officer(self, headers: Mapping[str, str], peer: str) -> Officer:
        """Who asks. Raises: Problem `unauthenticated`, `forbidden`, `too_many_attempts`, `unavailable`."""
        if self.open:
            if _is_loopback(peer):
                return Officer("loopback", "read", peer)
            raise Problem(
                "forbidden",
                "Without a credential set up this port answers loopback clients only: set LLMSHIELD_ADMIN_TOKEN, or"
                " `admin.keys` in the policy.",
            )
        given = headers.get("authorization")
        if given is None:
            raise _refusal(
                "Send an admin key, a token of the issuer or LLMSHIELD_ADMIN_TOKEN in the Authorization header, as Bearer."
            )
        wait_s = self._throttle.wait_s(peer)
        if wait_s and not self._is_proven(given):
            raise Problem(
                "too_many_attempts",
                f"Too many wrong credentials came from this address; try again in {math.ceil(wait_s)} s.",
                headers={"retry-after": str(math.ceil(wait_s))},
            )
        try:
            return await self._known(given, peer)
        except Problem as problem:
            if problem.code == "unauthenticated":
                self._throttle.count(peer)
                log.warning("admin_refused", peer=peer, why=problem.detail)
            raise

    async def _known(self, given: str, peer: str) -> Officer:
        scheme, _, key = given.partition(" ")
        if scheme.lower() != "bearer":
            raise _refusal("The Authorization header is not the word Bearer and a key.")
        key = key.strip()
        digest = _digest(key)
        found: Officer | None = None
        for held, name, role in self._held:  # all of them: which one it was must not be timed
            if hmac.compare_digest(held, digest):
                found = Officer(name, role, peer)
        if found is not None:
            self._proven.add(digest)
            return found
        if self._tokens is not None:
            try:
                claims = self._tokens.check(key)
                if isinstance(claims, Awaitable):
                    claims = await claims
            except CallError as error:
                if error.kind != "unauthenticated":
                    raise Problem("unavailable", error.message, headers={"retry-after": "5"}) from None
                raise _refusal(error.message) from None
            if claims is not None:
                return self._of_claims(claims, peer)
        raise _refusal("The credential is none that this gateway knows.")

    def _is_proven(self, given: str) -> bool:
        """Whether this is a key that was right before."""
        digest = _digest(given.partition(" ")[2].strip())
        return sum([hmac.compare_digest(held, digest) for held in self._proven]) > 0

    def _of_claims(self, claims: Claims, peer: str) -> Officer:
        assert self._jwt is not None
        said = claim(claims, self._jwt.claim)
        values = said if isinstance(said, list) else [said]
        roles: list[Role] = [
            self._jwt.roles[value] for value in values if isinstance(value, str) and value in self._jwt.roles
        ]
        if not roles:
            raise Problem("forbidden", f"The token's `{self._jwt.claim}` gives none of the policy's roles.")
        name = _text(claim(claims, self._jwt.name))
        if not name:
            raise _refusal(f"The token has no `{self._jwt.name}` that could name its owner.")
        return Officer(f"jwt:{name}", max(roles, key=RANK.__getitem__), peer)


def _digest(key: str) -> bytes:
    """Of the bytes that came: latin-1 gives them back, and a token may be any text."""
    return hashlib.sha256(key.encode("latin-1", "replace")).digest()


def _refusal(detail: str) -> Problem:
    return Problem("unauthenticated", detail, headers={"www-authenticate": "Bearer"})


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.isprintable():
        return ""
    return value[:_LONGEST_NAME]


def _is_loopback(address: str) -> bool:
    parsed = parse(address)
    return parsed is not None and parsed.is_loopback


def _nothing() -> None:
    """Tokens are checked each time: nothing is remembered that a change of keys would have to end."""
