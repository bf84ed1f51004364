"""Transcripts of people under one master key: who they are, their keys, sealing, opening, erasing.

A person is who a call names as its `user`, within a tenant, as in the audit log. At their first transcript they get 32
random bytes; keys for sealing are derived from these (HKDF, `sealing.py`), and every transcript of theirs is sealed
under them. The 32 bytes are sealed under LLMSHIELD_SECRET_KEY and stand in one place only, found by a keyed hash of
the name. Erasing is destroying that one entry: whatever copies of transcripts there are, in logs of databases, in
backups, in blocks that a disk has given up, nobody can open them any more, not even with the master key.

After an erasure nothing that was said before it comes back: erasures are counted, a transcript carries the count of
its call's beginning, a key is made only by who knows the newest count, and a transcript is kept only under a key that
was there when its call began.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import zlib
from collections.abc import Iterator, Sequence
from contextvars import Context
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple

from llmshield import clock, vault
from llmshield.errors import SecretError, StoreUnavailable
from llmshield.redact import redact
from llmshield.sealing import KeyRing
from llmshield.transcripts.places import Entry, Owner, Place, Row, open_place, resolve

LOOK_S = 1.0
"""How soon a process notices that another one has erased a person."""
LONGEST_USER = 1024
"""Characters of a user's name; who is called longer than that has no transcripts."""
_KNOWN = 10_000
_SWEEP_S = 60.0
_TURNS = 10
_MARK = b"llmshield transcripts 1"
_MARK_CONTEXT = "transcripts:mark"


class Kept(NamedTuple):
    """Where transcripts are kept, and where the keys of people; without `keys`, beside them."""

    store: str
    keys: str = ""

    @property
    def keys_place(self) -> str:
        """The URL of the keys: of `sqlite:///a.db` it is `sqlite:///a-keys.db`, of others the same."""
        if self.keys or not self.store.startswith("sqlite:"):
            return self.keys or self.store
        path, question, options = self.store.partition("?")
        stem, dot, ending = path.rpartition(".")
        base, ending = (
            (stem, dot + ending) if dot and "/" not in ending and stem[-1:] not in {"", "/"} else (path, "")
        )
        return f"{base}-keys{ending}{question}{options}"


@dataclass(slots=True)
class Told:
    """One conversation that is to be kept: whose it is, its call's id, when it began (s), until when (s), what it says.

    `erasures` is what was known when the call began; `texts` are [role, place, words]; `context` is the call's, whose
    own secrets are taken out of the words.
    """

    tenant: str
    user: str
    id: str
    until: float
    erasures: int
    about: dict[str, Any]
    texts: list[list[str]]
    context: Context | None = None

    @property
    def size(self) -> int:
        """Characters."""
        return sum(len(words) for _, _, words in self.texts)


class Stored(NamedTuple):
    """What became of some conversations: `kept`, or `late`: their person was erased after they had begun."""

    kept: int = 0
    late: int = 0


@dataclass(slots=True)
class Destroyed:
    """What an erasure did: `people` by their pseudonyms, transcripts removed, what is `left`, what proves it."""

    people: list[str] = field(default_factory=list)
    transcripts: int = 0
    left: list[str] = field(default_factory=list)
    proof: list[str] = field(default_factory=list)


class _Person(NamedTuple):
    pseudonym: str
    ring: KeyRing
    born: int


class Transcripts:
    """Keeps transcripts. For one thread at a time; `erasures` may be read by any."""

    def __init__(self, kept: Kept) -> None:
        """Raises: StoreError for a place that there is not."""
        kept = Kept(resolve(kept.store), resolve(kept.keys))
        self.rows: Place = open_place(kept.store)
        self.keys: Place = self.rows if kept.keys_place == kept.store else open_place(kept.keys_place)
        self.erasures = 0
        """Erasures as far as this process knows; `look` asks."""
        self._under: KeyRing | None = None
        """The master keys that it was opened with."""
        self._known: dict[tuple[str, str], tuple[_Person, float]] = {}
        self._names: tuple[KeyRing, tuple[bytes, ...]] | None = None
        self._empty: set[str] = set()
        self._swept = 0.0

    def open(self, *, make: bool = True) -> bool:
        """Connect and see that the master key is the right one; safe to repeat. Without `make` nothing is created:
        False where nothing is there.

        Raises: SecretError without the key that sealed what is there; StoreUnavailable, StoreError.
        """
        ring = vault.ring()
        if self._under is ring:
            return True
        if not self.keys.open(make=make):
            return False
        self.rows.open()
        mark = self.keys.mark(ring.seal(_MARK, _MARK_CONTEXT) if make else None)
        if mark is not None:
            try:
                ring.unseal(mark, _MARK_CONTEXT)
            except SecretError as error:
                raise SecretError(
                    f"the keys of people in {self.keys.name} can't be opened: {error}"
                ) from None
        self.look()
        self._under = ring
        return True

    def close(self) -> None:
        """Let go of both places, and of the keys that are in memory."""
        self._known.clear()
        self._under = None
        self.rows.close()
        self.keys.close()

    def look(self) -> None:
        """Ask how many erasures there were. Raises: StoreUnavailable."""
        self.erasures = self.keys.erasures()

    # -- keeping

    def put(self, told: Sequence[Told]) -> Stored:
        """Seal these and keep them, all or none. Raises: StoreUnavailable, SecretError."""
        rows, late = [], 0
        before = self.erasures
        self.look()
        if self.erasures != before:
            self._known.clear()
        for each in told:
            person = self._person(each)
            if person is None or person.born > each.erasures:
                late += 1
                continue
            until_ms = int(each.until * 1000)
            sealed = person.ring.seal(_packed(each), _context(person.pseudonym, each.id, until_ms))
            rows.append(Row(person.pseudonym, each.id, until_ms, sealed))
        if rows:
            self.rows.append(rows)
        return Stored(len(rows), late)

    def _person(self, told: Told) -> _Person | None:
        """Whose it is, made at the first sight of them; None: they may not be made for what began before an erasure."""
        whose = (told.tenant, told.user)
        now = clock.monotonic()
        held = self._known.get(whose)
        if held is not None and now - held[1] < LOOK_S:
            return held[0]
        owners = self._owners(*whose)
        entry = next((found for owner in owners if (found := self.keys.find(owner)) is not None), None)
        if held is not None and entry is not None and entry.pseudonym == held[0].pseudonym:
            person = held[0]
        else:
            if entry is None:
                if told.erasures != self.erasures:
                    return None
                made = self._made(told)
                entry = self.keys.add(owners[0], made)
                if entry is None:
                    return None
            person = self._opened(entry)[0]
        if len(self._known) >= _KNOWN:
            self._known.clear()
        self._known[whose] = (person, now)
        return person

    def _made(self, told: Told) -> Entry:
        pseudonym = f"t:{os.urandom(8).hex()}"
        said = {"key": base64.b64encode(os.urandom(32)).decode(), "tenant": told.tenant, "user": told.user}
        sealed = vault.ring().seal(json.dumps(said).encode(), _key_context(pseudonym))
        return Entry(pseudonym, sealed, self.erasures)

    @staticmethod
    def _opened(entry: Entry) -> tuple[_Person, str, str]:
        """A person, with tenant and user. Raises: SecretError."""
        said = json.loads(vault.ring().unseal(entry.sealed, _key_context(entry.pseudonym)))
        ring = KeyRing(base64.b64decode(said["key"]))
        return _Person(entry.pseudonym, ring, entry.born), said["tenant"], said["user"]

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

    def _found(self, user: str, tenant: str | None) -> list[tuple[Owner, Entry]]:
        """All people of this name, in one tenant or in every."""
        found = []
        for key in self._name_keys():
            whose = _hash(key, f"tenant\0{tenant}") if tenant is not None else None
            named = self.keys.named(_hash(key, f"user\0{user}"))
            found += [each for each in named if whose is None or each[0].tenant == whose]
        return found

    # -- what a person may ask for

    def export(self, user: str, tenant: str | None) -> Iterator[dict[str, Any]]:
        """Every transcript of this person (of every tenant without one) that is not over, opened.

        Raises: StoreUnavailable; SecretError for one that was changed.
        """
        now_ms = int(clock.now() * 1000)
        for _, entry in self._found(user, tenant):
            person, whose, _ = self._opened(entry)
            for row in self.rows.read(entry.pseudonym, now_ms):
                opened = person.ring.unseal(row.sealed, _context(row.person, row.id, row.until_ms))
                said = json.loads(zlib.decompress(opened))
                until = datetime.fromtimestamp(row.until_ms / 1000, UTC).isoformat(timespec="seconds")
                yield {"id": row.id, "tenant": whose, "until": until, **said}

    def erase(self, user: str, tenant: str | None) -> Destroyed:
        """Destroy this person's keys, and take their transcripts out; safe to repeat, and then it cleans up what a
        killed one has left.

        Raises: StoreUnavailable, SecretError: nobody may be told that it was done.
        """
        done = Destroyed()
        found = self._found(user, tenant)
        self.keys.destroy([owner for owner, _ in found], erasing=True)
        for _ in range(_TURNS):  # a key that was being sealed anew at this moment may stand elsewhere now
            if not (moved := self._found(user, tenant)):
                break
            found += moved
            self.keys.destroy([owner for owner, _ in moved], erasing=True)
        else:
            raise StoreUnavailable(f"the keys in {self.keys.name} change all the time; erase again")
        self._known.clear()
        self.look()
        done.people = sorted({entry.pseudonym for _, entry in found})
        done.left += self.keys.scrub([entry.sealed for _, entry in found])
        done.transcripts = self.rows.remove([*done.people, *self._orphans()])
        if found and not done.left:
            when = datetime.fromtimestamp(clock.now(), UTC).isoformat(timespec="seconds")
            done.proof += [
                f"the key of {entry.pseudonym} was destroyed in {self.keys.name} at {when}; its sealed form had the SHA-256"
                f" {hashlib.sha256(entry.sealed).hexdigest()}"
                for _, entry in found
            ]
        return done

    def _orphans(self) -> list[str]:
        """Pseudonyms that have transcripts and no key: an erasure was killed, or a process had not heard of it yet."""
        return sorted(self.rows.people() - {entry.pseudonym for _, entry in self.keys.everybody()})

    # -- looking after

    def look_after(self) -> None:
        """Once in a while: take out transcripts that are over, and people that have had none for a while.

        Raises: StoreUnavailable, SecretError.
        """
        self.look()
        now = clock.monotonic()
        if self._swept and now - self._swept < _SWEEP_S:
            return
        first, self._swept = not self._swept, now
        self.sweep(patient=not first)

    def sweep(self, *, patient: bool = True) -> int:
        """Take out what is over; `patient`: people without transcripts go when they had none the last time either."""
        gone = self.rows.sweep(int(clock.now() * 1000))
        have = self.rows.people()
        everybody = list(self.keys.everybody())
        empty = {entry.pseudonym for _, entry in everybody} - have
        over = [(owner, entry) for owner, entry in everybody if entry.pseudonym in empty & self._empty]
        self._empty = empty
        if over and patient:
            self.keys.destroy([owner for owner, _ in over], erasing=False)
            self._known.clear()
            self.keys.scrub([])
        if orphans := have - {entry.pseudonym for _, entry in everybody}:
            # looked for once more: somebody may have been made between the two questions
            still = orphans - {entry.pseudonym for _, entry in self.keys.everybody()}
            gone += self.rows.remove(sorted(still))
        return gone

    def reseal(self) -> tuple[int, int]:
        """Seal every person's key anew under the master key that seals now: how many, and how many could not be,
        because a process that does not know this key has made them anew.

        Raises: SecretError.
        """
        ring, count, left = vault.ring(), 0, 0
        for owner, entry in list(self.keys.everybody()):
            _, tenant, user = self._opened(entry)
            new = self._owners(tenant, user)[0]
            if owner == new and ring.is_current(entry.sealed):
                continue
            said = ring.unseal(entry.sealed, _key_context(entry.pseudonym))
            moved = self.keys.move(owner, entry, new, ring.seal(said, _key_context(entry.pseudonym)))
            count, left = count + moved, left + (not moved and self.keys.find(owner) == entry)
        self._known.clear()
        if not left:
            self.keys.remark(ring.seal(_MARK, _MARK_CONTEXT))
        return count, left


def _packed(told: Told) -> bytes:
    """A conversation as packed JSON, without the keys that are known or look like some."""

    def clean() -> list[list[str]]:
        return [[role, place, redact(words)] for role, place, words in told.texts]

    texts = told.context.run(clean) if told.context is not None else clean()
    return zlib.compress(json.dumps({**told.about, "texts": texts}, separators=(",", ":")).encode(), 1)


def _hash(key: bytes, value: str) -> str:
    raw = value.encode("utf-8", "surrogatepass")
    return hashlib.blake2b(raw, key=key, digest_size=16).hexdigest()


def _key_context(pseudonym: str) -> str:
    return f"transcripts:person:{pseudonym}"


def _context(pseudonym: str, id: str, until_ms: int) -> str:
    """What a transcript is sealed for: no row can be given to somebody else, or be kept for longer."""
    return f"transcripts:text:{pseudonym}:{id}:{until_ms}"
