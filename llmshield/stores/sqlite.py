"""`sqlite:///file.db`: one file, any number of processes on one machine.

One connection per process writes (`_sqlite_file` tells how), and every step is in the file before it is answered.

What a crash costs. Killing this process, or all of them, loses nothing: a commit is in the operating system's
hands before it is answered (https://www.sqlite.org/pragma.html#pragma_synchronous). A power cut is another
matter: `?sync=normal` (the default) puts the log on disk once a second, so that up to that second of spending
may be forgotten, never the file's consistency; `?sync=full` puts it there before each answer and forgets
nothing, at the price of a disk flush per transaction (1-10 ms, shared by the steps that wait together).
Normal is the default because a budget is exceeded by a second of traffic at the most, after a power cut only.
"""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from typing import ClassVar, Concatenate, ParamSpec, TypeVar

from llmshield.errors import StoreError, StoreUnavailable
from llmshield.stores import (
    Admission,
    Balance,
    Book,
    Entry,
    Grant,
    Labels,
    Line,
    Seat,
    Settled,
    Shortage,
    Standing,
    Store,
    StoreUrl,
    Window,
    book_lost,
)
from llmshield.stores import _sqlite_book as which
from llmshield.stores import _sqlite_notes as notes
from llmshield.stores import _sqlite_steps as steps
from llmshield.stores._ages import Age
from llmshield.stores._sqlite_book import Turned
from llmshield.stores._sqlite_file import SqliteFile

P = ParamSpec("P")
R = TypeVar("R")

_SWEEP_MS = 1_000
"""How often a reservation looks for due holds on its way."""

_PRUNE_MS = 60_000
"""How often accounts and windows that nobody can ask for any more are looked for."""

_PRUNED = 500
"""How many of them go in one transaction: 5 ms."""

_PAGE = 2_000
"""Journal entries read at once."""


class SqliteStore(Store):
    """State in one SQLite file."""

    options: ClassVar[frozenset[str]] = frozenset({"sync"})

    def __init__(self, url: StoreUrl) -> None:
        super().__init__(url)
        if not url.path:
            raise StoreError("An SQLite store names its file: sqlite:///llmshield.db")
        sync = url.options.get("sync", "normal").upper()
        if sync not in ("NORMAL", "FULL"):
            raise StoreError(f"Store option sync={sync.lower()!r} is unknown (known: normal, full)")
        self._file = SqliteFile(url.path, sync)
        self._sweep_ms = 0
        self._pruned_ms = 0
        self._age = Age()

    @property
    def replaced(self) -> bool:
        """See `Store.replaced`."""
        return self._file.replaced

    async def open(self) -> None:
        if self._file.writer is not None:
            return
        await self._file.open()
        if self.epoch and self.seen:
            await self._file.do(which.check, self.epoch, self.seen)
        await self._agree()

    async def close(self) -> None:
        await self._file.close()

    async def ping(self) -> None:
        await self._step(steps.ping)

    async def reserve(
        self,
        id: str,
        lines: Sequence[Line],
        want: int,
        least: int,
        until_ms: int,
        now_ms: int,
        labels: Labels,
    ) -> Grant | Shortage:
        if now_ms >= self._sweep_ms:
            self._sweep_ms = now_ms + _SWEEP_MS
            await self._step(steps.expire, now_ms)
        return await self._step(steps.reserve, id, lines, want, least, until_ms, now_ms, labels)

    async def settle(
        self, id: str, lines: Sequence[Line], actual: int, now_ms: int, labels: Labels,
        tokens_in: int = 0, tokens_out: int = 0,
    ) -> Settled:  # fmt: skip
        return await self._step(steps.settle, id, lines, actual, now_ms, labels, tokens_in, tokens_out)

    async def release(self, id: str, lines: Sequence[Line]) -> int:
        return await self._step(steps.release, id, lines)

    async def renew(self, ids: Sequence[str], until_ms: int) -> int:
        return await self._step(steps.renew, ids, until_ms)

    async def expire(self, now_ms: int) -> int:
        age_ms = self._age(now_ms)
        if abs(now_ms - self._pruned_ms) >= _PRUNE_MS:
            self._pruned_ms = now_ms
            await self._prune(now_ms, age_ms)
        await self._step(notes.forget, now_ms)
        total, part = 0, steps.EXPIRED
        while part == steps.EXPIRED:
            part = await self._step(steps.expire, now_ms)
            total += part
        return total

    async def _prune(self, now_ms: int, age_ms: int) -> None:
        """Forget what is old; what it is, is read beside the writers, who never wait for it."""
        old = await self._file.read(steps.old, now_ms, age_ms)
        for at in range(0, len(old), _PRUNED):
            await self._file.do_in_thread(steps.forget, old[at : at + _PRUNED], now_ms, age_ms)

    async def standing(self, lines: Sequence[Line]) -> list[Standing]:
        return await self._file.read(steps.standing, lines)

    async def balances(self, prefix: str = "") -> list[Balance]:
        return await self._file.read(steps.balances, prefix)

    async def journal(self, since_ms: int = 0, until_ms: int | None = None) -> AsyncIterator[Entry]:
        after = 0
        while True:
            page = await self._file.read(steps.page, after, since_ms, until_ms, _PAGE)
            for seq, entry in page:
                after = seq
                yield entry
            if len(page) < _PAGE:
                return

    async def holds(self) -> int:
        return await self._file.do(steps.holds)

    async def admit(
        self, windows: Sequence[Window], seats: Sequence[Seat], now_ms: int, cost: int = 1
    ) -> Admission:
        return await self._file.do(steps.admit, windows, seats, now_ms, cost)

    async def count(
        self, windows: Sequence[Window], now_ms: int, cost: int, at_ms: int | None = None
    ) -> None:
        await self._file.do(steps.count, windows, now_ms, cost, now_ms if at_ms is None else at_ms)

    async def leave(self, seats: Sequence[Seat]) -> None:
        await self._file.do(steps.leave, seats)

    async def sit(self, seats: Sequence[Seat]) -> None:
        await self._file.do(steps.sit, seats)

    async def put(self, shelf: str, key: str, value: bytes, until_ms: int = 0) -> None:
        await self._step(notes.put, shelf, key, value, until_ms)

    async def put_once(self, shelf: str, key: str, value: bytes, until_ms: int, now_ms: int) -> bytes | None:
        return await self._step(notes.put_once, shelf, key, value, until_ms, now_ms)

    async def swap(
        self, shelf: str, key: str, old: bytes | None, new: bytes, until_ms: int, now_ms: int
    ) -> bytes | None:
        return await self._step(notes.swap, shelf, key, old, new, until_ms, now_ms)

    async def look(self, shelf: str, key: str, now_ms: int) -> bytes | None:
        return await self._step(notes.look, shelf, key, now_ms)

    async def strike(self, shelf: str, key: str) -> bool:
        return await self._step(notes.strike, shelf, key)

    async def notes(self, shelf: str, now_ms: int) -> dict[str, bytes]:
        found = await self._file.read(which.of_book, self.epoch, notes.notes, shelf, now_ms)
        return await self._step(notes.notes, shelf, now_ms) if isinstance(found, Turned) else found

    async def revision(self, shelf: str) -> int:
        return await self._step(notes.revision, shelf)

    async def book(self) -> Book:
        return await self._file.do(which.book)

    async def begin(self, epoch: str) -> None:
        await self._file.do(which.begin, epoch)

    async def turn(self, epoch: str, past: Sequence[str] = (), *, wipe: bool = False) -> None:
        await self._file.do_in_thread(which.turn, epoch, past, wipe)

    async def _step(
        self, step: Callable[Concatenate[sqlite3.Connection, P], R], *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """A step of the book or of the notes: in the book that we know, or in none."""
        for _ in range(3):
            done = await self._file.do(which.guarded, self.epoch, step, *args, **kwargs)
            if not isinstance(done, Turned):
                return done
            if not done.epoch:
                raise book_lost(f"the SQLite file {self._file.path!r}")
            self._adopt(done.epoch)
        raise StoreUnavailable("SQLite: the money book changes too fast")
