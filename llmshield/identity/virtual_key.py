"""`virtual_key`: a key that this gateway gave out, listed in the policy as a hash or kept in the store.

Keys are looked up by the SHA-256 of the whole key: no prefix, no scan, no comparison that could be timed. Those that
are good are remembered in the form they come in, so that each is hashed once; others never are, so that wrong keys
can't drive out right ones.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from typing import ClassVar, NamedTuple

from llmshield import client_keys, clock
from llmshield.client_keys import ClientKey, KeyTable
from llmshield.errors import CallError
from llmshield.identity import Asked, House, Way, Who

_MOST_KNOWN = 4096
"""Keys that are remembered in clear, of 512 characters at the most: 2 MiB."""
_LONGEST = 512


class _Known(NamedTuple):
    """A good key; `stored` is what the store says about it, None for one of the policy's."""

    who: Who
    stored: ClientKey | None


class VirtualKey(Way):
    """The tenant by a client key."""

    form: ClassVar[str] = "virtual_key"

    def __init__(self, name: str, house: House) -> None:
        super().__init__(name, house)
        policy = house.policy
        self._listed = {
            digest.removeprefix("sha256:"): (digest.removeprefix("sha256:"), tenant)
            for digest, tenant in policy.keys.items()
        }
        self._known: dict[str, _Known] = {}
        store = house.store
        self._table = (
            KeyTable(store, policy.identity.virtual_key.outage, self._known.clear)
            if store is not None and store.shared
            else None
        )

    async def start(self) -> None:
        """Read the store's keys and watch them. Raises: StoreUnavailable."""
        if self._table is not None:
            await self._table.start()

    async def close(self) -> None:
        """Stop watching."""
        if self._table is not None:
            await self._table.close()

    def look(self, headers: Mapping[str, str], key: str | None, peer: str, asked: Asked | None) -> Who | None:
        if key is None:
            return None
        known = self._known.get(key)
        if known is None:
            known = self._find(key)
            if known is None:
                return None
            if len(key) <= _LONGEST:
                if len(self._known) >= _MOST_KNOWN:
                    self._known.clear()
                self._known[key] = known
        if known.stored is not None:
            self._check(known.stored)
        return known.who

    def _find(self, key: str) -> _Known | None:
        """The key, if it is a good one; None for a key that is none of ours.

        Raises: CallError for one that was revoked, that is damaged, or whose form is ours and that nobody knows.
        """
        if not self._listed and not client_keys.has_our_form(key):
            return None
        digest = client_keys.digest_of(key)
        listed = self._listed.get(digest)
        table = self._table
        if table is not None and table.is_revoked(digest):
            raise CallError("unauthenticated", "The API key was revoked.")
        if listed is not None and hmac.compare_digest(listed[0], digest):
            return _Known(self._who(digest, listed[1], None, key), None)
        stored = table.find(digest) if table is not None else None
        if stored is not None and hmac.compare_digest(stored.digest, digest):
            return _Known(self._who(digest, stored.tenant, stored.tier, key), stored)
        if not client_keys.has_our_form(key):
            return None
        if not client_keys.is_whole(key):
            raise CallError("unauthenticated", "The API key is damaged: its checksum is wrong.")
        if table is not None and clock.monotonic() >= table.good_until:
            raise _away()
        raise CallError("unauthenticated", "The API key is not one of this gateway's client keys.")

    def _check(self, stored: ClientKey) -> None:
        """Raises: CallError when a key of the store is over, or the store was away for too long."""
        assert self._table is not None
        now = clock.monotonic()
        if now >= self._table.good_until or (stored.fades_at is not None and now >= stored.fades_at):
            raise _away()
        if stored.expires_ms and clock.now() * 1000 >= stored.expires_ms:
            raise CallError("unauthenticated", "The API key has expired.")

    def _who(self, digest: str, tenant: str, tier: str | None, key: str) -> Who:
        """Raises: CallError for a key of the store whose tier, or tenant, the policy does not know any more: no
        tier would mean no limits."""
        policy = self.house.policy
        known = policy.tenants.get(tenant)
        if tier is None:
            if known is None:
                raise CallError("unauthenticated", "The API key's tenant is not in this gateway's policy.")
            tier = known.tier
        elif tier not in policy.tiers:
            raise CallError("unauthenticated", "The API key's tier is not in this gateway's policy.")
        return Who(tenant, tier, digest[: client_keys.ID_LENGTH], secret=key, uses_key=True)


def _away() -> CallError:
    return CallError(
        "store_unavailable", "Client keys can't be checked: the store is away. Try again.", retry_after_s=5
    )
