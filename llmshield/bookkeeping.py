"""What one process keeps beside a shared book: which book it is, its journal, and the notes about money.

The book is in the store; here is what outlives the store (`journals`) and a copy of two shelves of notes that every
reservation looks at: tenants that are locked, and budgets that were raised. The copy is at most half a second old.

Rule: where the folder of state can't be written, money under a cap is closed. A loss of the store could not be told
from a first installation, nor the book be rebuilt.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import orjson

from llmshield import clock
from llmshield.budgets import Cap, window_of
from llmshield.errors import StoreUnavailable
from llmshield.journals import Journal
from llmshield.local_state import Known, LocalState
from llmshield.logs import log
from llmshield.stores import Labels, Line, Store

LOCKS, RAISES = "locks", "raises"
"""Shelves: the tenant and the end of its lock in ms; an id and what was raised as JSON."""

_KEEP_S = 10.0
"""How often the number of its steps is kept on disk. It lags by as much, so that a power cut, which may take the last
second of a SQLite file, is not taken for an older copy."""

_FOLDER = "Give llmshield a folder that it may write: server.state_dir, or XDG_STATE_HOME"


class Bookkeeper:
    """Beside one store. `open` and `look` belong to the ledger's keeper; the rest is asked by each reservation."""

    def __init__(self, store: Store, state: LocalState | None = None) -> None:
        self._store = store
        self._state = state if store.shared else None
        self.journal = Journal(self._state) if self._state is not None else None
        self.opened = False
        self.locked: dict[str, float] = {}
        """Tenants that may spend nothing, and until when, in seconds since 1970."""
        self._raises: dict[tuple[str, str, str], list[tuple[int, int]]] = {}
        self._revisions = (0, 0)
        self._unwritten: Known | None = None
        self._steps = 0
        self._keep_at = 0.0

    @property
    def failure(self) -> str:
        """Why money under a cap is closed on this machine, or empty."""
        if self._store.unfit:
            return self._store.unfit
        if self._state is None or self.journal is None:
            return ""
        failure = self._state.failure or self.journal.failure
        if not failure:
            return ""
        return f"{failure}. {_FOLDER if self.journal.alive else 'Start llmshield again'}"

    async def open(self) -> None:
        """Open the store as the book this machine knows. Raises: StoreUnavailable, StoreError."""
        known = Known()
        if self._state is not None:
            known = await asyncio.to_thread(self._state.read)
            self._store.on_epoch = self._turned
            if self._store.epoch in (
                "",
                known.epoch,
            ):  # else it has been turned meanwhile, and not yet been kept
                self._store.epoch, self._store.seen = known.epoch, known.steps
        await self._store.open()
        if self.journal is not None:
            self.journal.begin(self._store.epoch)
        if self._state is not None and self._store.epoch:
            # Also where nothing is new: whether the folder can be written is told before money is spent.
            self._unwritten = Known(self._store.epoch, known.steps if known.epoch == self._store.epoch else 0)
            await self._write()
        await self.copy()
        self.opened = True

    async def look(self) -> None:
        """Twice a second: see new notes, keep what is known. Raises: StoreUnavailable."""
        if self._store.replaced:
            self.opened = False
            await self._store.close()
        if not self.opened:
            await self.open()
            for warning in self._store.warnings:
                log.warning("store", warning=warning)
        await self.copy()
        if self._state is None:
            return
        if self._unwritten is None and clock.monotonic() >= self._keep_at:
            self._keep_at = clock.monotonic() + _KEEP_S
            book = await self._store.book()
            if book.state == "open" and book.epoch == self._store.epoch:
                if self._steps:
                    self._unwritten = Known(book.epoch, self._steps)
                self._steps = book.steps
        if self._unwritten is not None:
            await self._write()

    async def close(self) -> None:
        """Write what waits."""
        if self.journal is not None:
            await asyncio.to_thread(self.journal.close)

    def reserved(self, id: str, at_ms: int, amount: int, lines: Sequence[Line], labels: Labels) -> None:
        """Journal a reservation."""
        if self.journal is not None:
            self.journal.reserved(id, at_ms, amount, lines, labels)

    def raised(self, caps: Sequence[Cap], now: float) -> Sequence[Cap]:
        """These caps with what they were raised by."""
        if not self._raises:
            return caps
        out = []
        for cap in caps:
            more = self._raises.get((cap.account, cap.period, cap.zone), ())
            by = sum(amount for until_ms, amount in more if until_ms > now * 1000)
            out.append(replace(cap, limit=max(0, cap.limit + by)) if by else cap)
        return out

    async def lock(self, tenant: str, until_ms: int) -> None:
        """Let a tenant spend nothing until then, in every process. Raises: StoreUnavailable."""
        self.locked[tenant] = max(self.locked.get(tenant, 0.0), until_ms / 1000)
        await self.note(LOCKS, tenant, str(until_ms), until_ms)

    async def unlock(self, tenant: str) -> bool:
        """Take a lock back; whether there was one. Raises: StoreUnavailable."""
        self.locked.pop(tenant, None)
        there = await self._store.strike(LOCKS, tenant)
        if self.journal is not None:
            self.journal.noted(LOCKS, tenant, None)
        return there

    async def raise_by(self, cap: Cap, amount: int, until_ms: int = 0) -> int:
        """Lift a cap's limit by `amount` pico-USD in its present window, or until `until_ms`; when that ends.

        Raises: StoreUnavailable.
        """
        now = clock.now()
        current = window_of(cap, now)
        ends_ms = int((current.over if current.since else current.ends) * 1000)
        until_ms = min(until_ms, ends_ms) if until_ms else ends_ms
        grant = {
            "account": cap.account, "period": cap.period, "zone": cap.zone, "picousd": amount, "until_ms": until_ms,
            "at_ms": int(now * 1000),
        }  # fmt: skip
        await self.note(RAISES, secrets.token_hex(8), orjson.dumps(grant).decode(), until_ms)
        return until_ms

    async def note(self, shelf: str, key: str, value: str, until_ms: int) -> None:
        """Write a note about money, and journal it. Raises: StoreUnavailable."""
        if self.journal is not None:
            self.journal.noted(shelf, key, value, until_ms)
        await self._store.put(shelf, key, value.encode(), until_ms)

    async def copy(self) -> None:
        """Copy the shelves, if somebody changed them. Raises: StoreUnavailable."""
        revisions = (await self._store.revision(LOCKS), await self._store.revision(RAISES))
        if revisions == self._revisions:
            return
        now_ms = int(clock.now() * 1000)
        locks = await self._store.notes(LOCKS, now_ms)
        self.locked.clear()  # the same dict: others keep it
        self.locked.update({tenant: int(until) / 1000 for tenant, until in locks.items()})
        found: dict[tuple[str, str, str], list[tuple[int, int]]] = {}
        for text in (await self._store.notes(RAISES, now_ms)).values():
            grant: dict[str, Any] = orjson.loads(text)
            key = (grant["account"], grant["period"], grant["zone"])
            found.setdefault(key, []).append((grant["until_ms"], grant["picousd"]))
        self._raises, self._revisions = found, revisions

    def _turned(self, epoch: str) -> None:
        self._unwritten, self._steps = Known(epoch), 0
        if self.journal is not None:
            self.journal.turned(epoch)

    async def _write(self) -> None:
        known, state = self._unwritten, self._state
        if known is None or state is None:
            return
        await asyncio.to_thread(state.write, known)
        if not state.failure:
            self._unwritten = None


def closed(failure: str) -> StoreUnavailable:
    """What a caller is told while money is closed on this machine."""
    return StoreUnavailable(f"Budgets are closed: {failure}.")
