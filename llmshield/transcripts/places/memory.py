"""`memory://`: keys and transcripts of one process, gone when it ends. For tests and trials: no command reaches them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

from llmshield.transcripts.places import Entry, Owner, Place, Row


class MemoryPlace(Place):
    """Dictionaries."""

    shared: ClassVar[bool] = False

    _mark: bytes | None = None
    _erasures = 0

    @property
    def name(self) -> str:
        return "the memory of one process"

    def open(self, *, make: bool = True) -> bool:
        if not hasattr(self, "_keys"):
            self._keys: dict[Owner, Entry] = {}
            self._rows: dict[str, dict[str, Row]] = {}
        return True

    def close(self) -> None:
        """Nothing is held but memory."""

    def mark(self, value: bytes | None) -> bytes | None:
        if self._mark is None:
            self._mark = value
        return self._mark

    def remark(self, value: bytes) -> None:
        self._mark = value

    def erasures(self) -> int:
        return self._erasures

    def find(self, owner: Owner) -> Entry | None:
        return self._keys.get(owner)

    def add(self, owner: Owner, entry: Entry) -> Entry | None:
        if entry.born != self._erasures:
            return None
        return self._keys.setdefault(owner, entry)

    def named(self, name: str) -> list[tuple[Owner, Entry]]:
        return sorted((owner, entry) for owner, entry in self._keys.items() if owner.name == name)

    def page(self, cursor: str = "") -> tuple[list[tuple[Owner, Entry]], str]:
        return list(self._keys.items()), ""

    def move(self, owner: Owner, old: Entry, new_owner: Owner, sealed: bytes) -> bool:
        if self._keys.get(owner) != old or (new_owner != owner and new_owner in self._keys):
            return False
        del self._keys[owner]
        self._keys[new_owner] = old._replace(sealed=sealed)
        return True

    def destroy(self, owners: Sequence[Owner], *, erasing: bool) -> int:
        self._erasures += erasing
        return sum(self._keys.pop(owner, None) is not None for owner in owners)

    def scrub(self, gone: Sequence[bytes]) -> list[str]:
        return []

    def append(self, rows: Sequence[Row]) -> None:
        for row in rows:
            self._rows.setdefault(row.person, {})[row.id] = row

    def read(self, person: str, now_ms: int) -> Iterator[Row]:
        rows = self._rows.get(person, {})
        yield from sorted(row for row in rows.values() if row.until_ms > now_ms)

    def people(self) -> set[str]:
        return {person for person, rows in self._rows.items() if rows}

    def having(self, people: Sequence[str]) -> set[str]:
        return self.people() & set(people)

    def remove(self, people: Sequence[str]) -> int:
        return sum(len(self._rows.pop(person, ())) for person in people)

    def sweep(self, now_ms: int) -> int:
        gone = 0
        for rows in self._rows.values():
            for row in [row for row in rows.values() if row.until_ms <= now_ms]:
                del rows[row.id]
                gone += 1
        return gone
