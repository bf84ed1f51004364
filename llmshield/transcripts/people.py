"""People that have transcripts: found by keyed hashes of their names, each with a key of their own; and erasures, counted.

A person is who a call names as its `user`, within a tenant, as in the audit log. Their entry is sealed under the master
key: 32 random bytes, and the names, so that it can be found under a new master key as well (`reseal`). An entry that
was put into another person's place is no use there.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from typing import NamedTuple

from llmshield import clock, vault
from llmshield.errors import SecretError, StoreUnavailable
from llmshield.evidence.erasures import Erasures
from llmshield.sealing import KeyRing
from llmshield.transcripts.places import Entry, Owner, Place

LOOK_S = 1.0
"""How soon a process notices that another one has erased a person."""
_KNOWN = 10_000
_TURNS = 10
_NEW_A_SECOND = 500
"""Keys that one process makes in a second at the most: `user` is the caller's own word, and may be another one in
every call."""
_MARK = b"llmshield transcripts 1"
_MARK_CONTEXT = "transcripts:mark"


class Person(NamedTuple):
    """One person of one tenant: a name of no meaning, the keys for their transcripts, erasures before they were made."""

    pseudonym: str
    ring: KeyRing
    born: int
    tenant: str


class People:
    """Finds, makes and destroys people's keys in a place. For one thread at a time; `known_at` is for any."""

    def __init__(self, keys: Place) -> None:
        self.keys = keys
        self._erasures = Erasures()
        self._known: dict[tuple[str, str], tuple[Person, float]] = {}
        self._names: tuple[KeyRing, tuple[bytes, ...]] | None = None
        self._second, self._made_now = 0, 0

    def check(self, *, make: bool) -> None:
        """See that the master key is the one that this place is for. Raises: SecretError; StoreUnavailable."""
        ring = vault.ring()
        mark = self.keys.mark(ring.seal(_MARK, _MARK_CONTEXT) if make else None)
        if mark is None:
            return
        try:
            ring.unseal(mark, _MARK_CONTEXT)
        except SecretError as error:
            raise SecretError(f"the keys of people in {self.keys.name} can't be opened: {error}") from None

    def forget(self) -> None:
        """Let go of the keys that are in memory."""
        self._known.clear()

    def look(self) -> None:
        """Ask how many erasures there were. Raises: StoreUnavailable."""
        if self._erasures.note(self.keys.erasures()):
            self._known.clear()

    @property
    def erasures(self) -> int:
        """Erasures as far as this process knows; `look` asks."""
        return self._erasures.count

    def known_at(self, when: float) -> int:
        """How many erasures were known to have happened at a time of `clock.monotonic()`; -1: none was asked for yet, so
        that nothing which began then makes a key."""
        return self._erasures.known_at(when)

    def of(self, tenant: str, user: str, erasures: int) -> Person | None:
        """Whose a conversation is, made at the first sight of them. None: it began when fewer `erasures` were known than
        there were at the making of their key, or there are now, where they have none; or too many are made.

        Raises: StoreUnavailable, SecretError.
        """
        now = clock.monotonic()
        held = self._known.get((tenant, user))
        if held is not None and now - held[1] < LOOK_S:
            person = held[0]
        else:
            owners = self._owners(tenant, user)
            entry = next((found for owner in owners if (found := self.keys.find(owner)) is not None), None)
            if entry is None:
                if erasures != self.erasures or not self._may_make(now):
                    return None
                entry = self.keys.add(owners[0], self._made(tenant, user))
                if entry is None:
                    return None
            same = held is not None and entry.pseudonym == held[0].pseudonym
            person = held[0] if held is not None and same else self.opened(entry, tenant, user)
            if len(self._known) >= _KNOWN:
                self._known.clear()
            self._known[tenant, user] = (person, now)
        return person if person.born <= erasures else None

    def found(self, user: str, tenant: str | None) -> list[tuple[Owner, Entry]]:
        """All people of this name, in one tenant or in every. Raises: StoreUnavailable."""
        found = []
        for key in self._name_keys():
            whose = _hash(key, f"tenant\0{tenant}") if tenant is not None else None
            named = self.keys.named(_hash(key, f"user\0{user}"))
            found += [each for each in named if whose is None or each[0].tenant == whose]
        return found

    def opened(self, entry: Entry, tenant: str | None, user: str) -> Person:
        """The person in an entry. Raises: SecretError when it is another one's, and was put in this place."""
        said = _said_in(entry)
        if said["user"] != user or (tenant is not None and said["tenant"] != tenant):
            raise SecretError(
                f"a key of a person in {self.keys.name} stands in another person's place: it was changed"
            )
        return Person(entry.pseudonym, KeyRing(base64.b64decode(said["key"])), entry.born, said["tenant"])

    def destroy(self, user: str, tenant: str | None) -> list[Entry]:
        """Destroy the keys of all of this name, and count it, though there be none. Raises: StoreUnavailable."""
        found = self.found(user, tenant)
        self.keys.destroy([owner for owner, _ in found], erasing=True)
        for _ in range(_TURNS):  # a key that was being sealed anew at this moment may stand elsewhere now
            if not (moved := self.found(user, tenant)):
                break
            found += moved
            self.keys.destroy([owner for owner, _ in moved], erasing=True)
        else:
            raise StoreUnavailable(f"the keys in {self.keys.name} change all the time; erase again")
        self._known.clear()
        self.look()
        return [entry for _, entry in found]

    def reseal(self) -> tuple[int, int]:
        """Seal every person's key anew under the master key that seals now: how many, and how many could not be,
        because a process that does not know this key has made them anew.

        Raises: StoreUnavailable, SecretError.
        """
        ring, count, left = vault.ring(), 0, 0
        for owner, entry in list(self.keys.everybody()):
            about = _said_in(entry)
            new = self._owners(about["tenant"], about["user"])[0]
            if owner == new and ring.is_current(entry.sealed):
                continue
            said = ring.unseal(entry.sealed, _context(entry.pseudonym))
            moved = self.keys.move(owner, entry, new, ring.seal(said, _context(entry.pseudonym)))
            count, left = count + moved, left + (not moved and self.keys.find(owner) == entry)
        self._known.clear()
        if not left:
            self.keys.remark(ring.seal(_MARK, _MARK_CONTEXT))
        return count, left

    def _made(self, tenant: str, user: str) -> Entry:
        pseudonym = f"t:{os.urandom(8).hex()}"
        said = {"key": base64.b64encode(os.urandom(32)).decode(), "tenant": tenant, "user": user}
        sealed = vault.ring().seal(json.dumps(said).encode(), _context(pseudonym))
        return Entry(pseudonym, sealed, self.erasures)

    def _may_make(self, now: float) -> bool:
        if int(now) != self._second:
            self._second, self._made_now = int(now), 0
        self._made_now += 1
        return self._made_now <= _NEW_A_SECOND

    def _owners(self, tenant: str, user: str) -> list[Owner]:
        """Where this person's key may stand: under the current master key, and under older ones."""
        return [
            Owner(_hash(key, f"user\0{user}"), _hash(key, f"tenant\0{tenant}")) for key in self._name_keys()
        ]

    def _name_keys(self) -> tuple[bytes, ...]:
        ring = vault.ring()
        if self._names is None or self._names[0] is not ring:
            self._names = (ring, ring.derive_all("transcripts:names"))
        return self._names[1]


def _said_in(entry: Entry) -> dict[str, str]:
    """Key (base64), tenant and user in a sealed key. Raises: SecretError."""
    said: dict[str, str] = json.loads(vault.ring().unseal(entry.sealed, _context(entry.pseudonym)))
    return said


def _hash(key: bytes, value: str) -> str:
    raw = value.encode("utf-8", "surrogatepass")
    return hashlib.blake2b(raw, key=key, digest_size=16).hexdigest()


def _context(pseudonym: str) -> str:
    return f"transcripts:person:{pseudonym}"
