"""`memory://`: one process, lost at its end.

Everything happens on the event loop between two awaits, so each step is whole by itself. What is finished is
forgotten after a while: the journal keeps `KEPT_ENTRIES`, an account whose window is over goes after
`KEPT_MS` more, a gate once nothing is counted there.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Sequence
from heapq import heappop, heappush
from typing import ClassVar

from llmshield.stores import (
    MAX_AMOUNT,
    STEPS,
    Admission,
    Balance,
    Book,
    Entry,
    EntryKind,
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
    book_of,
)
from llmshield.stores._accounts import Accounts
from llmshield.stores._ages import Age
from llmshield.stores._gates import Gate, Gates
from llmshield.stores._sums import added, room, wait_ms

KEPT_ENTRIES = 50_000
"""Journal entries in memory, about 20 MB."""

KEPT_MS = 2 * 86_400_000
"""An account outlives its window by two days: a clock that steps back finds what was spent."""

_AFTER = STEPS + 1
"""Steps after which a step has left its window for good."""

_SWEEP_MS = 30_000
"""How often forgotten accounts and gates are looked for: with 100,000 of them a look takes 20 ms."""


class _Hold:
    __slots__ = ("amount", "labels", "lines", "until_ms")

    def __init__(self, amount: int, lines: Sequence[Line], until_ms: int, labels: Labels) -> None:
        self.amount = amount
        self.lines = lines
        self.until_ms = until_ms
        self.labels = labels


class MemoryStore(Store):
    """State in this process."""

    shared: ClassVar[bool] = False
    instant: ClassVar[bool] = True

    def __init__(self, url: StoreUrl) -> None:
        super().__init__(url)
        self._accounts = Accounts()
        self._holds: dict[str, _Hold] = {}
        self._entries: deque[Entry] = deque()
        self._ended: dict[str, tuple[EntryKind, int]] = {}
        self._due_ms = 2**63
        """No hold ends before this."""
        self._gates = Gates()
        self._seats: dict[str, dict[str, int]] = {}
        self._epoch = ""
        self._shelves: dict[str, dict[str, tuple[bytes, int]]] = {}
        self._ends: list[tuple[int, str, str]] = []
        """When notes end, the next one first."""
        self._revisions: dict[str, int] = {}
        self._swept_ms = 0
        self._age = Age()

    async def open(self) -> None:
        self.warnings = ("memory:// forgets what was spent when this process ends.",)
        await self._agree()

    async def close(self) -> None:
        """Nothing to close: what is in memory goes with the process."""

    async def ping(self) -> None:
        """Always there."""

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
        return self.reserve_now(id, lines, want, least, until_ms, now_ms, labels)

    def reserve_now(
        self,
        id: str,
        lines: Sequence[Line],
        want: int,
        least: int,
        until_ms: int,
        now_ms: int,
        labels: Labels,
    ) -> Grant | Shortage:
        if now_ms >= self._due_ms:
            self._expire(now_ms)
        hold = self._holds.get(id)
        if hold is not None:
            return Grant(hold.amount, repeated=True)
        if id in self._ended:
            return Grant(0, repeated=True)
        amount = want
        least_left, tightest = None, 0
        by_key = self._accounts.by_key
        touched = [by_key.get(line[:2]) or self._accounts.at(line) for line in lines]
        for account, line in zip(touched, lines, strict=True):
            limit = line[2]
            if limit is not None:
                found = self._accounts.standing(line) if line.since else account
                left = room(limit, found.spent, found.held)
                if left < least:
                    return Shortage(lines.index(line), *self._accounts.standing(line))
                if left < amount:
                    amount = left
                if least_left is None or left < least_left:
                    least_left, tightest = left, lines.index(line)
        for account in touched:
            held = account.held + amount
            account.held = held if 0 <= held <= MAX_AMOUNT else added(account.held, amount)
        self._holds[id] = _Hold(amount, lines, until_ms, labels)
        if until_ms < self._due_ms:
            self._due_ms = until_ms
        return Grant(amount, False, None if least_left is None else least_left - amount, tightest)

    async def settle(
        self, id: str, lines: Sequence[Line], actual: int, now_ms: int, labels: Labels,
        tokens_in: int = 0, tokens_out: int = 0,
    ) -> Settled:  # fmt: skip
        return self.settle_now(id, lines, actual, now_ms, labels, tokens_in, tokens_out)

    def settle_now(
        self, id: str, lines: Sequence[Line], actual: int, now_ms: int, labels: Labels,
        tokens_in: int = 0, tokens_out: int = 0,
    ) -> Settled:  # fmt: skip
        hold = self._holds.pop(id, None)
        ended = None if hold is not None else self._ended.get(id)
        kind: EntryKind = "settle"
        charge = actual
        if ended is not None:
            if ended[0] != "expire":
                return Settled(0, 0)
            kind, charge = "correct", actual - ended[1]
        held = hold.amount if hold is not None else 0
        self._charge(id, kind, lines, charge, held, now_ms, labels, tokens_in, tokens_out)
        return Settled(charge, held)

    async def release(self, id: str, lines: Sequence[Line]) -> int:
        hold = self._holds.pop(id, None)
        if hold is None:
            return 0
        for line in lines:
            account = self._accounts.at(line)
            account.held = added(account.held, -hold.amount)
        return hold.amount

    async def renew(self, ids: Sequence[str], until_ms: int) -> int:
        found = 0
        for id in ids:
            hold = self._holds.get(id)
            if hold is not None:
                hold.until_ms = until_ms
                found += 1
        return found

    async def expire(self, now_ms: int) -> int:
        self._forget(now_ms)
        self._forget_notes(now_ms)
        return self._expire(now_ms) if now_ms >= self._due_ms else 0

    async def standing(self, lines: Sequence[Line]) -> list[Standing]:
        return [self._accounts.standing(line) for line in lines]

    async def balances(self, prefix: str = "") -> list[Balance]:
        return sorted(
            Balance(name, window, account.spent, account.held, account.requests, account.tokens)
            for (name, window), account in self._accounts.by_key.items()
            if name.startswith(prefix)
        )

    async def journal(self, since_ms: int = 0, until_ms: int | None = None) -> AsyncIterator[Entry]:
        for entry in tuple(self._entries):
            if entry.at_ms >= since_ms and (until_ms is None or entry.at_ms < until_ms):
                yield entry

    async def holds(self) -> int:
        return len(self._holds)

    async def admit(
        self, windows: Sequence[Window], seats: Sequence[Seat], now_ms: int, cost: int = 1
    ) -> Admission:
        return self.admit_now(windows, seats, now_ms, cost)

    def admit_now(
        self, windows: Sequence[Window], seats: Sequence[Seat], now_ms: int, cost: int = 1
    ) -> Admission:
        book = self._gates
        if book.crowded:
            book.trim(now_ms)
        objects = book.objects
        gates: list[Gate] = []
        full, longest = -1, 0
        for window in windows:
            key, limit, seconds = window
            gate = objects.get((key, seconds))
            if gate is None or (gate.steps and gate.steps[0] < now_ms // gate.step_ms - STEPS):
                gate = book.at(window, now_ms)
            if gate.hits + cost > limit:
                wait = wait_ms(window, gate.steps, now_ms, cost)
                if wait > longest:
                    full, longest = len(gates), wait
            gates.append(gate)
        if full < 0 and seats:
            full = self._sit_down(seats, now_ms, len(gates))
        used: list[int] = []
        resets: list[int] = []
        for gate in gates:
            steps, step_ms = gate.steps, gate.step_ms
            if full < 0:  # `gate.add`, for the way that every call goes
                step = now_ms // step_ms
                if steps and steps[-2] >= step:
                    steps[-1] += cost
                else:
                    steps += (step, cost)
                gate.hits += cost
            used.append(gate.hits)
            left = (steps[0] + _AFTER) * step_ms - now_ms if steps else 0
            resets.append(left if left > 0 else 0)
        return Admission(full, tuple(used), tuple(resets), longest)

    async def count(
        self, windows: Sequence[Window], now_ms: int, cost: int, at_ms: int | None = None
    ) -> None:
        if self._gates.crowded:
            self._gates.trim(now_ms)
        for window in windows:
            gate = self._gates.at(window, now_ms)
            gate.add((now_ms if at_ms is None else at_ms) // gate.step_ms, cost)

    async def leave(self, seats: Sequence[Seat]) -> None:
        self.leave_now(seats)

    def leave_now(self, seats: Sequence[Seat]) -> None:
        for key, _, id, _ in seats:
            taken = self._seats.get(key)
            if taken is not None and taken.pop(id, None) is not None and not taken:
                del self._seats[key]

    async def sit(self, seats: Sequence[Seat]) -> None:
        for seat in seats:
            self._seats.setdefault(seat.key, {})[seat.id] = seat.until_ms

    async def book(self) -> Book:
        return book_of(self._epoch, len(self._entries), ())

    async def begin(self, epoch: str) -> None:
        self._epoch = self._epoch or epoch

    async def turn(self, epoch: str, past: Sequence[str] = (), *, wipe: bool = False) -> None:
        self._epoch = epoch
        if wipe:
            self._accounts.clear()
            self._holds.clear()

    async def put(self, shelf: str, key: str, value: bytes, until_ms: int = 0) -> None:
        self._shelves.setdefault(shelf, {})[key] = (value, until_ms)
        if until_ms:
            heappush(self._ends, (until_ms, shelf, key))
        self._changed(shelf)

    async def put_once(self, shelf: str, key: str, value: bytes, until_ms: int, now_ms: int) -> bytes | None:
        there = await self.look(shelf, key, now_ms)
        if there is None:
            await self.put(shelf, key, value, until_ms)
        return there

    async def swap(
        self, shelf: str, key: str, old: bytes | None, new: bytes, until_ms: int, now_ms: int
    ) -> bytes | None:
        there = await self.look(shelf, key, now_ms)
        if there != old:
            return there
        await self.put(shelf, key, new, until_ms)
        return new

    async def look(self, shelf: str, key: str, now_ms: int) -> bytes | None:
        value, until_ms = self._shelves.get(shelf, {}).get(key, (None, 0))
        return None if 0 < until_ms <= now_ms else value

    async def strike(self, shelf: str, key: str) -> bool:
        if self._shelves.get(shelf, {}).pop(key, None) is None:
            return False
        self._changed(shelf)
        return True

    async def notes(self, shelf: str, now_ms: int) -> dict[str, bytes]:
        return {
            key: value
            for key, (value, until_ms) in self._shelves.get(shelf, {}).items()
            if not 0 < until_ms <= now_ms
        }

    async def revision(self, shelf: str) -> int:
        return self._revisions.get(shelf, 0)

    def _changed(self, shelf: str) -> None:
        self._revisions[shelf] = self._revisions.get(shelf, 0) + 1

    def _charge(
        self, id: str, kind: EntryKind, lines: Sequence[Line], charge: int, held: int, now_ms: int,
        labels: Labels, tokens_in: int, tokens_out: int,
    ) -> None:  # fmt: skip
        tokens = tokens_in + tokens_out
        requests = kind != "correct"
        by_key = self._accounts.by_key
        for line in lines:
            account = by_key.get(line[:2]) or self._accounts.at(line)
            spent, left, used = account.spent + charge, account.held - held, account.tokens + tokens
            account.spent = spent if 0 <= spent <= MAX_AMOUNT else added(account.spent, charge)
            account.held = left if 0 <= left <= MAX_AMOUNT else added(account.held, -held)
            account.tokens = used if 0 <= used <= MAX_AMOUNT else added(account.tokens, tokens)
            account.requests += requests
        if len(self._entries) >= KEPT_ENTRIES:
            self._ended.pop(self._entries.popleft().id, None)
        accounts = tuple([line[:2] for line in lines])
        self._entries.append(Entry(id, kind, now_ms, charge, labels, tokens_in, tokens_out, accounts))
        self._ended[id] = (kind, charge)

    def _expire(self, now_ms: int) -> int:
        due = [(id, hold) for id, hold in self._holds.items() if hold.until_ms <= now_ms]
        for id, hold in due:
            del self._holds[id]
            self._charge(id, "expire", hold.lines, hold.amount, hold.amount, now_ms, hold.labels, 0, 0)
        self._due_ms = min((hold.until_ms for hold in self._holds.values()), default=2**63)
        return len(due)

    def _sit_down(self, seats: Sequence[Seat], now_ms: int, before: int) -> int:
        """Take every seat, or none: -1, or the index of the one that is not free, counted from `before`."""
        for index, (key, limit, id, _) in enumerate(seats):
            taken = self._seats.get(key)
            if taken and len(taken) >= limit and id not in taken and len(self._taken(key, now_ms)) >= limit:
                return before + index
        for key, _, id, until_ms in seats:
            taken = self._seats.get(key)
            if taken is None:
                self._seats[key] = {id: until_ms}
            else:
                taken[id] = until_ms
        return -1

    def _taken(self, key: str, now_ms: int) -> dict[str, int]:
        """The seats of a key, without those whose time is over."""
        taken = self._seats[key]
        for id in [id for id, until_ms in taken.items() if until_ms <= now_ms]:
            del taken[id]
        return taken

    def _forget(self, now_ms: int) -> None:
        """Drop what no later step can ask for."""
        if abs(now_ms - self._swept_ms) < _SWEEP_MS:
            return
        self._swept_ms = now_ms
        self._accounts.forget(self._age(now_ms), KEPT_MS)
        self._gates.forget(now_ms)
        for name in list(self._seats):
            if not self._taken(name, now_ms):
                del self._seats[name]

    def _forget_notes(self, now_ms: int) -> None:
        while self._ends and self._ends[0][0] <= now_ms:
            _, shelf, key = heappop(self._ends)
            notes = self._shelves[shelf]
            if 0 < notes.get(key, (b"", 0))[1] <= now_ms:
                del notes[key]
                self._changed(shelf)
