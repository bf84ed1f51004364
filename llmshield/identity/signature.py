"""`signature`: the caller signs each request with a secret that it shares with this gateway.

    x-llmshield-signature: signer=billing, at=1790000000, nonce=..., body=<SHA-256>, mac=<HMAC-SHA-256>

The MAC covers signer, time, nonce, method, path and query as they are sent, and the hash of the body. It is checked
before the body is read; the body is held to its hash while it is read. A nonce counts once: it is kept in the store
for as long as its time would be accepted. Nobody but a signer can put one there.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import ClassVar

from llmshield import clock, resolvers
from llmshield.errors import CallError, SecretError, StoreUnavailable
from llmshield.identity import Asked, Found, House, Way, Who

HEADER = "x-llmshield-signature"
SHELF = "nonces"
_FORM = re.compile(
    r"signer=(?P<signer>[A-Za-z0-9][A-Za-z0-9._-]{0,63}), ?at=(?P<at>[0-9]{1,12}), ?nonce=(?P<nonce>[A-Za-z0-9_-]{16,64}),"
    r" ?body=(?P<body>[0-9a-f]{64}), ?mac=(?P<mac>[0-9a-f]{64})"
)
_LONGEST = 512
_SHORTEST_SECRET = 16
"""Bytes: below 128 bits a secret can be found by trying (RFC 2104 advises as many as the hash has, 32)."""


class Signature(Way):
    """The tenant by a request's signature."""

    form: ClassVar[str] = "signature"

    def __init__(self, name: str, house: House) -> None:
        super().__init__(name, house)
        settings = house.policy.identity.signature
        assert settings is not None  # checked when the policy was read
        self._settings = settings
        self._secrets: dict[str, bytes] = {}
        self._signers: dict[str, Who] = {}
        # Without a shared store, nonces of before the start are forgotten: what was signed then is refused.
        self._not_before = 0

    async def start(self) -> None:
        """Resolve the signers' secrets. Raises: SecretError with the signer and the remedy."""
        for name, signer in self._settings.signers.items():
            place = f"identity.signature.signers.{name}.secret"
            try:
                secret = await asyncio.to_thread(
                    resolvers.resolve, signer.secret, self.house.base, f"signer:{name}"
                )
            except SecretError as error:
                raise SecretError(f"{place}: {error}") from None
            if len(secret.encode()) < _SHORTEST_SECRET:
                raise SecretError(
                    f"{place}: found a secret of less than {_SHORTEST_SECRET} bytes; make one: openssl rand -hex 32"
                )
            self._secrets[name] = secret.encode()
            tier = signer.tier or self.house.tier_of(signer.tenant)
            self._signers[name] = Who(signer.tenant, tier, f"signer:{name}", secret=secret)
        store = self.house.store
        if store is not None and not store.shared:
            self._not_before = int(clock.now())

    def look(self, headers: Mapping[str, str], key: str | None, peer: str, asked: Asked | None) -> Found:
        value = headers.get(HEADER)
        if value is None or asked is None:
            return None
        return self._check(value, asked)

    async def _check(self, value: str, asked: Asked) -> Who:
        """Who has signed this. Raises: CallError with the rule that it breaks."""
        found = _FORM.fullmatch(value) if len(value) <= _LONGEST else None
        if found is None:
            raise CallError("unauthenticated", f"The {HEADER} header is not written as it has to be.")
        signer, at, nonce, digest = found["signer"], found["at"], found["nonce"], found["body"]
        secret = self._secrets.get(signer)
        expected = mac(
            secret or b"nobody", signer, at, nonce, asked.method, asked.raw_path, asked.raw_query, digest
        )
        if not hmac.compare_digest(expected, found["mac"]) or secret is None:
            raise CallError("unauthenticated", "The signature is not right.")
        now, skew = clock.now(), self._settings.skew
        signed = int(at)
        if abs(now - signed) > skew:
            raise CallError("unauthenticated", f"The signature's time is more than {skew:g} s off.")
        if signed < self._not_before:
            raise CallError(
                "unauthenticated", "The signature is older than this gateway's memory; sign again."
            )
        await self._spend(f"{signer}/{nonce}", int((signed + 2 * skew + 1) * 1000), int(now * 1000))
        setattr(asked, "read_body", _held_to(asked.read_body, digest))  # noqa: B010  see `Asked`
        return self._signers[signer]

    async def _spend(self, nonce: str, until_ms: int, now_ms: int) -> None:
        """Raises: CallError when this nonce was used, or nobody can tell."""
        store = self.house.store
        assert store is not None  # a gateway has one
        try:
            there = await store.put_once(SHELF, nonce, b"1", until_ms, now_ms)
        except StoreUnavailable:
            raise CallError(
                "store_unavailable", "Signatures can't be checked: the store is away. Sign again and try again.",
                retry_after_s=5,
            ) from None  # fmt: skip
        if there is not None:
            raise CallError("unauthenticated", "The signature was used before; sign each request anew.")


def mac(
    secret: bytes,
    signer: str,
    at: str,
    nonce: str,
    method: str,
    raw_path: bytes,
    raw_query: bytes,
    digest: str,
) -> str:
    """The MAC in hexadecimal; no part can hold a line break, so that no two requests give the same text."""
    text = b"\n".join(
        (b"llmshield-signature-v1", signer.encode(), at.encode(), nonce.encode(), method.encode(), raw_path,
         raw_query, digest.encode())
    )  # fmt: skip
    return hmac.new(secret, text, hashlib.sha256).hexdigest()


def _held_to(read_body: Callable[[int], Awaitable[bytes]], digest: str) -> Callable[[int], Awaitable[bytes]]:
    """The same body, refused where it is another one than was signed."""

    async def read(limit: int) -> bytes:
        body = await read_body(limit)
        if not hmac.compare_digest(hashlib.sha256(body).hexdigest(), digest):
            raise CallError("unauthenticated", "The body is not the one that was signed.")
        return body

    return read
