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

import hashlib
import json
import math
import zlib
from collections.abc import Iterator, Sequence
from contextvars import Context
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple

from llmshield import clock, vault
from llmshield.errors import StoreUnavailable
from llmshield.redact import redact
from llmshield.sealing import KeyRing
from llmshield.transcripts.people import People
from llmshield.transcripts.places import Place, Row, open_place, resolve

LONGEST_USER = 1024
"""Characters of a user's name; who is called longer than that has no transcripts."""
_SWEEP_S = 60.0
_TOUR_S = 3600.0
"""How often people are looked for that have no transcripts any more, a page a second."""
_EMPTY_S = 60.0


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
    """One conversation that is to be kept: whose it is, its call's id, until when (s), what is known and said of it.

    `erasures` is what was known when the call began (`Transcripts.known_at`); `texts` are [role, place, words]; `context`
    is the call's, whose own secrets are taken out of the words.
    """

    tenant: str
    user: str = field(repr=False)
    id: str
    until: float
    erasures: int
    about: dict[str, Any] = field(repr=False)
    texts: list[list[str]] = field(repr=False)
    context: Context | None = field(default=None, repr=False)

    @property
    def size(self) -> int:
        """Characters."""
        return sum(len(words) for _, _, words in self.texts)


class Stored(NamedTuple):
    """What became of some conversations: `kept`, or `late`: somebody was erased after they had begun, and there was no
    key for them before."""

    kept: int = 0
    late: int = 0


@dataclass(slots=True)
class Destroyed:
    """What an erasure did: `people` by their pseudonyms, transcripts removed, what is `left`, what proves it."""

    people: list[str] = field(default_factory=list)
    transcripts: int = 0
    left: list[str] = field(default_factory=list)
    proof: list[str] = field(default_factory=list)


class Transcripts:
    """Keeps transcripts. For one thread at a time, but for `known_at`."""

    def __init__(self, kept: Kept) -> None:
        """Raises: StoreError for a place that there is not."""
        kept = Kept(resolve(kept.store), resolve(kept.keys))
        self.rows: Place = open_place(kept.store)
        self.keys: Place = self.rows if kept.keys_place == kept.store else open_place(kept.keys_place)
        self.people = People(self.keys)
        self._under: KeyRing | None = None
        """The master keys that it was opened with."""
        self._swept = -math.inf
        self._toured = clock.monotonic()
        self._cursor: str | None = None
        self._empty: dict[str, float] = {}
        self._gone = False

    def open(self, *, make: bool = True) -> bool:
        """Connect and see that the master key is the right one; safe to repeat. Without `make` nothing is created:
        False where nothing is there.

        Raises: SecretError without the key that sealed what is there; StoreUnavailable, StoreError.
        """
        ring = vault.ring()
        if self._under is ring:
            return True
        try:
            if not self.keys.open(make=make):
                return False
            self.rows.open()
            self.people.check(make=make)
            self.people.look()
        except BaseException:
            self.close()
            raise
        self._under = ring
        return True

    def close(self) -> None:
        """Let go of both places, and of the keys that are in memory."""
        self.people.forget()
        self._under = None
        self.rows.close()
        self.keys.close()

    def known_at(self, when: float) -> int:
        """How many erasures were known of at a time of `clock.monotonic()`: what a conversation that began then says."""
        return self.people.known_at(when)

    # -- keeping

    def put(self, told: Sequence[Told]) -> Stored:
        """Seal these and keep them, all or none. Raises: StoreUnavailable, SecretError."""
        rows, late = [], 0
        self.people.look()
        for each in told:
            person = self.people.of(each.tenant, each.user, each.erasures)
            if person is None:
                late += 1
                continue
            until_ms = int(each.until * 1000)
            sealed = person.ring.seal(_packed(each), _context(person.pseudonym, each.id, until_ms))
            rows.append(Row(person.pseudonym, each.id, until_ms, sealed))
        if rows:
            self.rows.append(rows)
        return Stored(len(rows), late)

    # -- what a person may ask for

    def export(self, user: str, tenant: str | None) -> Iterator[dict[str, Any]]:
        """Every transcript of this person (of every tenant without one) that is not over, opened.

        Raises: StoreUnavailable; SecretError for one that was changed.
        """
        now_ms = int(clock.now() * 1000)
        for _, entry in self.people.found(user, tenant):
            person = self.people.opened(entry, tenant, user)
            for row in self.rows.read(entry.pseudonym, now_ms):
                opened = person.ring.unseal(row.sealed, _context(row.person, row.id, row.until_ms))
                said = json.loads(zlib.decompress(opened))
                until = datetime.fromtimestamp(row.until_ms / 1000, UTC).isoformat(timespec="seconds")
                yield {"id": row.id, "tenant": person.tenant, "until": until, **said}

    def erase(self, user: str, tenant: str | None) -> Destroyed:
        """Destroy this person's keys, and take their transcripts out; safe to repeat, and then it cleans up what a
        killed one has left.

        Raises: StoreUnavailable, SecretError: nobody may be told that it was done. Once the keys are destroyed, what
        fails is `left`.
        """
        done = Destroyed()
        gone = self.people.destroy(user, tenant)
        done.people = sorted({entry.pseudonym for entry in gone})
        try:
            done.left += self.keys.scrub([entry.sealed for entry in gone])
        except StoreUnavailable as error:
            done.left.append(f"traces of the destroyed keys could not be cleaned up; erase again: {error}")
        try:
            done.transcripts = self.rows.remove([*done.people, *self._orphans()])
        except StoreUnavailable as error:
            done.left.append(
                f"the transcripts, which nobody can open any more, are still there; erase again: {error}"
            )
        if gone and not done.left:
            when = datetime.fromtimestamp(clock.now(), UTC).isoformat(timespec="seconds")
            done.proof += [
                f"the key of {entry.pseudonym} was destroyed in {self.keys.name} at {when}; its sealed form had the SHA-256"
                f" {hashlib.sha256(entry.sealed).hexdigest()}"
                for entry in gone
            ]
        return done

    def _orphans(self) -> list[str]:
        """Pseudonyms that have transcripts and no key: an erasure was killed, or a process had not heard of it yet."""
        return sorted(self.rows.people() - {entry.pseudonym for _, entry in self.keys.everybody()})

    # -- looking after

    def look_after(self) -> None:
        """About once a second: ask for erasures; each minute take out what is over, each hour look for people that have
        had no transcripts for a minute, and forget them with their keys.

        Raises: StoreUnavailable.
        """
        self.people.look()
        now = clock.monotonic()
        if now - self._swept >= _SWEEP_S:
            self._swept = now
            self.rows.sweep(int(clock.now() * 1000))
        if self._cursor is None and now - self._toured >= _TOUR_S:
            self._toured, self._cursor = now, ""
        if self._cursor is not None:
            self._cursor = self._look_at_people(self._cursor, now) or None
            if self._cursor is None and self._gone:
                self._gone = False
                self.keys.scrub([])

    def _look_at_people(self, cursor: str, now: float) -> str:
        """One page of them; the cursor of the next."""
        some, after = self.keys.page(cursor)
        have = self.rows.having([entry.pseudonym for _, entry in some])
        since = {
            entry.pseudonym: self._empty.pop(entry.pseudonym, now)
            for _, entry in some
            if entry.pseudonym not in have
        }
        over = [owner for owner, entry in some if now - since.get(entry.pseudonym, now) >= _EMPTY_S]
        if over:
            self.keys.destroy(over, erasing=False)
            self.people.forget()
            self._gone = True
        if not cursor:
            self._empty = {person: at for person, at in self._empty.items() if now - at < 2 * _TOUR_S}
        self._empty |= since
        return after


def _packed(told: Told) -> bytes:
    """A conversation as packed JSON, without the keys that are known or look like some."""

    def clean() -> list[list[str]]:
        return [[role, place, redact(words)] for role, place, words in told.texts]

    texts = told.context.run(clean) if told.context is not None else clean()
    return zlib.compress(json.dumps({**told.about, "texts": texts}, separators=(",", ":")).encode(), 1)


def _context(pseudonym: str, id: str, until_ms: int) -> str:
    """What a transcript is sealed for: no row can be given to somebody else, or be kept for longer."""
    return f"transcripts:text:{pseudonym}:{id}:{until_ms}"
