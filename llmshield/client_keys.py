"""Client keys that are kept in the store: made, listed, revoked, and seen by every process within a second.

A key is `llmsk_`, 256 random bits and a checksum, so that secret scanners, and we, can tell one anywhere. The store
holds its SHA-256 and what it is for, never the key. A revoked key stays in the store as revoked; a process that has
seen the revocation never takes it back, whatever becomes of the store.

Rule: nothing here decides who is calling (that is `identity`), and nothing here reads a policy.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import orjson

from llmshield import clock
from llmshield.errors import ShieldError
from llmshield.logs import log
from llmshield.stores import Store
from llmshield.watching import Watcher

SHELF = "client_keys"
PREFIX = "llmsk_"
_RANDOM, _CHECKSUM = 43, 6
"""Digits of base 62: 43 hold 256 bits, 6 hold a CRC-32."""
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
ID_LENGTH = 12
"""A key's id is so many hexadecimal digits of its hash: 48 bits tell a million keys apart."""
KEPT_MS = 30 * 86_400_000
"""For so long after its end a key is still listed."""
WATCH_S = 0.3
"""Between two looks at the shelf's revision: well inside the second in which a revocation has to be known."""
_IN_THREAD = 2_000
"""Notes from which reading them leaves the event loop: a few milliseconds."""


@dataclass(slots=True, frozen=True)
class ClientKey:
    """What the store knows about one key. Times in ms; 0: never. `fades_at` is `clock.monotonic()` seconds: a key
    that the store has lost goes on until then."""

    digest: str
    tenant: str
    tier: str | None = None
    name: str = ""
    created_ms: int = 0
    expires_ms: int = 0
    revoked_ms: int = 0
    fades_at: float | None = None

    @property
    def id(self) -> str:
        """The public name of the key: how it is listed, revoked and recorded."""
        return self.digest[:ID_LENGTH]

    def state(self, now_ms: int) -> str:
        """`active`, `expired` or `revoked`."""
        if self.revoked_ms:
            return "revoked"
        return "expired" if 0 < self.expires_ms <= now_ms else "active"

    def dump(self) -> bytes:
        """As it stands in the store."""
        return orjson.dumps(
            {"tenant": self.tenant, "tier": self.tier, "name": self.name, "created_ms": self.created_ms,
             "expires_ms": self.expires_ms, "revoked_ms": self.revoked_ms}
        )  # fmt: skip

    @classmethod
    def load(cls, digest: str, note: bytes) -> ClientKey | None:
        """The key in a note; None for a note that is none (whoever can write to the store can break it)."""
        try:
            tree: Any = orjson.loads(note)
            return cls(
                digest, str(tree["tenant"]), None if tree["tier"] is None else str(tree["tier"]), str(tree["name"]),
                int(tree["created_ms"]), int(tree["expires_ms"]), int(tree["revoked_ms"]),
            )  # fmt: skip
        except (ValueError, KeyError, TypeError):
            return None


def make() -> str:
    """A new key."""
    body = PREFIX + _base62(int.from_bytes(secrets.token_bytes(32), "big"), _RANDOM)
    return body + _checksum(body)


def has_our_form(key: str) -> bool:
    """Whether this is meant to be one of our keys: such a one never travels to a provider, known or not."""
    return key.startswith(PREFIX)


def is_whole(key: str) -> bool:
    """Whether a key of our form is as it was made: right length, right checksum."""
    body = key[:-_CHECKSUM]
    return (
        len(key) == len(PREFIX) + _RANDOM + _CHECKSUM
        and key.isascii()
        and _checksum(body) == key[-_CHECKSUM:]
    )


def digest_of(key: str) -> str:
    """SHA-256 of the key's bytes, in hexadecimal; `key` has one character for each byte (latin-1), as headers do."""
    try:
        data = key.encode("latin-1")
    except UnicodeEncodeError:
        data = key.encode("utf-8", "surrogatepass")
    return hashlib.sha256(data).hexdigest()


async def create(
    store: Store, *, tenant: str, tier: str | None, name: str = "", expires_ms: int = 0
) -> tuple[str, ClientKey]:
    """A new key, written to the store: the key itself, which is nowhere else, and what is known about it.

    Raises: StoreUnavailable.
    """
    now_ms = _now_ms()
    ids = {digest[:ID_LENGTH] for digest in await store.notes(SHELF, now_ms)}
    while True:
        key = make()
        made = ClientKey(digest_of(key), tenant, tier, name, now_ms, expires_ms)
        if made.id not in ids:
            break
    await store.put(SHELF, made.digest, made.dump(), expires_ms + KEPT_MS if expires_ms else 0)
    return key, made


async def everyone(store: Store) -> list[ClientKey]:
    """All keys in the store, the oldest first. Raises: StoreUnavailable."""
    notes = await store.notes(SHELF, _now_ms())
    found = [made for digest, note in notes.items() if (made := ClientKey.load(digest, note)) is not None]
    return sorted(found, key=lambda made: (made.created_ms, made.digest))


async def revoke(store: Store, made: ClientKey) -> ClientKey:
    """Revoke a key for good; one that is revoked already keeps its time. Raises: StoreUnavailable."""
    if made.revoked_ms:
        return made
    revoked = replace(made, revoked_ms=_now_ms())
    await store.put(SHELF, made.digest, revoked.dump(), made.expires_ms + KEPT_MS if made.expires_ms else 0)
    return revoked


class KeyTable:
    """The keys of a store as one process sees them; `changed` is called after each change of them.

    While the store is away, and for keys that it has lost (a revoked one stays there, marked), what is known goes on
    for `outage_s` seconds, then it is refused.
    """

    def __init__(self, store: Store, outage_s: float, changed: Callable[[], None]) -> None:
        self._store = store
        self._outage_s = outage_s
        self._changed = changed
        self._keys: dict[str, ClientKey] = {}
        self._revoked: set[str] = set()
        self._revision: int | None = None
        self._watcher = Watcher("client_keys", self.refresh, WATCH_S, go_on_s=outage_s)
        self.good_until = 0.0
        """`clock.monotonic()` seconds until which the table may be believed; put off by each look at the store."""

    async def start(self) -> None:
        """Read the keys, and watch them from now on; of a store that is away none is good until it is there."""
        await self._watcher.start()

    async def close(self) -> None:
        """Stop watching."""
        await self._watcher.close()

    def find(self, digest: str) -> ClientKey | None:
        """The key with this hash, if it is known, whatever its state."""
        return self._keys.get(digest)

    def is_revoked(self, digest: str) -> bool:
        """Whether the key with this hash was ever seen as revoked, one of the policy's included."""
        return digest in self._revoked

    async def refresh(self) -> None:
        """Take over what has changed since the last look. Raises: StoreUnavailable."""
        revision = await self._store.revision(SHELF)
        if revision != self._revision:
            notes = await self._store.notes(SHELF, _now_ms())
            until = clock.monotonic() + self._outage_s
            if len(notes) + len(self._keys) > _IN_THREAD:
                merged, lost = await asyncio.to_thread(self._merge, notes, until)
            else:
                merged, lost = self._merge(notes, until)
            if lost:
                log.warning("client_keys_lost", keys=lost, go_on_s=self._outage_s)
            self._keys = merged
            self._revoked.update([digest for digest, made in merged.items() if made.revoked_ms])
            self._revision = revision
            self._changed()
        self.good_until = clock.monotonic() + self._outage_s

    def _merge(self, notes: dict[str, bytes], until: float) -> tuple[dict[str, ClientKey], int]:
        """The keys of these notes and those that are missing in them, and how many went missing just now."""
        merged: dict[str, ClientKey] = {}
        for digest, note in notes.items():
            made = ClientKey.load(digest, note)
            if made is None:
                log.warning("client_key_unreadable", id=digest[:ID_LENGTH])
            else:
                merged[digest] = made
        lost = 0
        now_ms, now = _now_ms(), clock.monotonic()
        for digest, made in self._keys.items():
            if digest in notes or made.state(now_ms) != "active":
                continue
            if made.fades_at is None:
                lost += 1
                merged[digest] = replace(made, fades_at=until)
            elif now < made.fades_at:
                merged[digest] = made
        return merged, lost


def checked_id(text: str) -> str:
    """A key's id as it was typed. Raises: ShieldError for anything but its 12 hexadecimal digits."""
    if len(text) != ID_LENGTH or not set(text) <= set("0123456789abcdef"):
        raise ShieldError(
            f"A key's id has {ID_LENGTH} hexadecimal digits, as `llmshield keys list` shows it."
        )
    return text


def _base62(value: int, length: int) -> str:
    out = []
    for _ in range(length):
        value, digit = divmod(value, 62)
        out.append(_DIGITS[digit])
    return "".join(reversed(out))


def _checksum(body: str) -> str:
    return _base62(zlib.crc32(body.encode("ascii", "replace")), _CHECKSUM)


def _now_ms() -> int:
    return int(clock.now() * 1000)
