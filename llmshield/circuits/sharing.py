"""Circuits over several processes: what one of them learns all of them know within a second, and the probe is one's.

A closed circuit costs nothing here. A process that opens or closes one writes its note; the others look twice a
second whether the shelf has changed. Who wants to probe swaps the note that it knows for its own, one atomic step of
the store: of any number of processes one gets it. A probe's note that nobody replaces for one lease, by the
watcher's own clock, is void: its process is gone.

Who loses a swap takes over what stands there. A store that is away leaves each process with circuits of its own
(`alone`); what changed meanwhile is written when it is back.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass, field

from llmshield import clock
from llmshield.circuits import notes
from llmshield.circuits.breaker import ELSEWHERE, Breaker, Permit, new_id
from llmshield.circuits.notes import Key, Note
from llmshield.errors import StoreError
from llmshield.logs import log
from llmshield.stores import Store

WATCH_S = 0.4
"""Between two looks at the shelf's revision: well inside the second in which an opened circuit has to be known."""
_RECENT_S = 3.0
"""A look that long ago is recent: what is new since then is counted from now on, not by the wall clock."""
_TRIES = 4
_LAST_WORDS_S = 0.5


@dataclass(slots=True)
class _Tie:
    """A breaker's note as this process saw or wrote it last. `wrote` is the number of that write."""

    seen: bytes | None = None
    generation: str = ""
    wrote: int = 0
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class Sharing:
    """One process' part.

    `breaker_of(key, make)` gives the breaker of a provider and model, or None for one that is not kept here;
    `whole(provider, note, seconds)` is called for what an operator says of all models of a provider.
    """

    def __init__(
        self,
        store: Store,
        breaker_of: Callable[[Key, bool], Breaker | None],
        whole: Callable[[str, Note, float], None],
    ) -> None:
        self._store = store
        self._breaker_of = breaker_of
        self._whole = whole
        self._me = f"{os.getpid()}-{new_id()}"
        self._ties: dict[Breaker, _Tie] = {}
        self._latest: dict[Key, bytes] = {}
        self._dirty: dict[Breaker, None] = {}
        self._revision = -1
        self._writes = 0
        self._looked_at = float("-inf")
        self._wake = asyncio.Event()
        self._syncing = asyncio.Lock()
        self._watcher: asyncio.Task[None] | None = None
        self.alone = False
        """The store is away: circuits are this process' own."""

    async def start(self) -> None:
        """Learn how the circuits stand, and watch them from now on."""
        if self._watcher is None:
            await self.sync()
            self._watcher = asyncio.create_task(self._watch(), name="llmshield-circuits")

    async def close(self) -> None:
        """Say the last words (a probe that came to nothing), and stop watching."""
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            watcher.cancel()
            await asyncio.wait({watcher})
        if self._dirty and not self.alone:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LAST_WORDS_S):
                    await self.sync()

    def changed(self, breaker: Breaker) -> None:
        """A breaker has changed by itself: the others have to know."""
        self._dirty[breaker] = None
        self._wake.set()

    def meet(self, breaker: Breaker) -> Note | None:
        """A breaker is new here: what the store last said of it."""
        raw = self._latest.get(breaker.key)
        return self._see(self._tie(breaker), raw)

    def forget(self, breaker: Breaker) -> None:
        """A breaker is kept no longer."""
        self._ties.pop(breaker, None)
        self._dirty.pop(breaker, None)

    async def confirm(self, permit: Permit) -> bool:
        """Whether this probe is the only one over all processes; one that is not may have become a plain permit."""
        breaker = permit.breaker
        if breaker is None or self.alone:
            if breaker is not None:
                self._dirty[breaker] = None  # told when the store is back
            return True
        try:
            await self._write(breaker)
        except Exception as error:  # noqa: BLE001  whatever it is, the call must go on
            self._away(error)
            self._dirty[breaker] = None
        if breaker.holds(permit):
            return True
        permit.breaker = None
        instead = breaker.permit() if not breaker.opened else None
        if instead is None:
            return False
        permit.breaker, permit.generation, permit.probe = breaker, instead.generation, False
        return True

    async def say(self, provider: str, model: str | None, note: Note) -> None:
        """Write what an operator says, and take it over at once. Raises: StoreUnavailable."""
        await self._store.put(notes.SHELF, notes.key_of(provider, model), note.dump(), note.until_ms)
        await self.sync()

    async def sync(self) -> None:
        """Say what changed here, take over what changed elsewhere. A store that is away is told once, in the log."""
        async with self._syncing:  # an older look must not come behind a newer one
            await self._sync()

    async def _sync(self) -> None:
        try:
            if self.alone:
                await self._refresh()
            for breaker in list(self._dirty):
                del self._dirty[breaker]
                try:
                    await self._write(breaker)
                except BaseException:
                    self._dirty[breaker] = None
                    raise
            await self._refresh()
        except Exception as error:  # noqa: BLE001  nobody else would look
            self._away(error)

    # -- inside ------------------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(WATCH_S):  # the machine's pace, whatever the clock says
                    await self._wake.wait()
            self._wake.clear()
            await self.sync()

    async def _refresh(self) -> None:
        """Take over what has changed since the last look."""
        revision = await self._store.revision(notes.SHELF)
        if revision != self._revision:
            writes = self._writes
            found = await notes.everyone(self._store)
            # A breaker that is written, or was while this was read, may be newer than what was read.
            late = [self._learn(key, raw, note, writes) for key, (raw, note) in found.items()]
            self._latest = {key: raw for key, (raw, _) in found.items() if len(key) == 2}
            if not any(late):
                self._revision = revision
        self._looked_at = clock.monotonic()
        if self.alone:
            self.alone = False
            log.info("circuits_shared_again")

    def _learn(self, key: Key, raw: bytes, note: Note, writes: int) -> bool:
        """One note of the shelf; True when it has to be read again."""
        if len(key) == 1:
            self._whole(key[0], note, self._left_s(note))
            return False
        breaker = self._breaker_of(key, note.state != "closed")
        if breaker is None:
            return False
        tie = self._tie(breaker)
        if tie.seen == raw:
            return False
        if tie.lock.locked() or tie.wrote > writes:
            return True
        self._see(tie, raw)
        self._take_over(breaker, note)
        return False

    async def _write(self, breaker: Breaker) -> None:
        """Have the store say how this breaker stands; or take over what somebody else has said there meanwhile."""
        tie = self._tie(breaker)
        async with tie.lock:
            for _ in range(_TRIES):
                note = self._note(breaker, tie)
                if note is None:
                    return
                raw = note.dump()
                stands = await self._store.swap(
                    notes.SHELF, notes.key_of(*breaker.key), tie.seen, raw, note.until_ms, notes.now_ms()
                )
                self._writes += 1
                tie.wrote = self._writes
                before = tie.generation
                other = self._see(tie, stands)
                if stands == raw:
                    self._latest[breaker.key] = raw
                    return
                if other is not None and not self._gives_way(other, note, before):
                    self._take_over(breaker, other)
                    return

    def _gives_way(self, there: Note, mine: Note, before: str) -> bool:
        """Whether a note that is not the one last seen may be replaced nonetheless. It is of the same break, and: nobody
        is probing, or this process is and never heard of it; or a probe has shown how that break ends."""
        if there.generation != before:
            return False
        if there.state != "probe" or there.by == self._me:
            return True
        return mine.state != "probe" and mine.generation != before

    def _note(self, breaker: Breaker, tie: _Tie) -> Note | None:
        """How the breaker stands, if that is for this process to say."""
        if not breaker.opened:
            if breaker.generation == tie.generation:
                return None
            return Note("closed", breaker.generation, self._me)
        probe = breaker.probing
        if probe is ELSEWHERE:
            return None
        state: notes.NoteState = "open" if probe is None else "probe"
        return Note(state, breaker.generation, self._me, breaker.wait_s, breaker.break_s, breaker.reason)

    def _take_over(self, breaker: Breaker, note: Note) -> None:
        self._dirty.pop(breaker, None)
        if note.state == "closed":
            if breaker.generation != note.generation:
                breaker.let_close(note.generation)
        elif note.state == "open":
            breaker.hold_open(note.generation, self._left_s(note), note.break_s, note.reason)
        else:
            breaker.probed(note.generation, note.break_s, note.reason)

    def _left_s(self, note: Note) -> float:
        """What is left of a break that this process has just heard of."""
        return note.wait_s if clock.monotonic() - self._looked_at < _RECENT_S else note.left_s

    def _tie(self, breaker: Breaker) -> _Tie:
        tie = self._ties.get(breaker)
        if tie is None:
            tie = self._ties[breaker] = _Tie()
        return tie

    @staticmethod
    def _see(tie: _Tie, raw: bytes | None) -> Note | None:
        note = Note.load(raw) if raw is not None else None
        tie.seen = raw
        if note is not None:
            tie.generation = note.generation
        return note

    def _away(self, error: Exception) -> None:
        if not self.alone:
            self.alone = True
            expected = isinstance(error, StoreError)
            log.warning("circuits_alone", error=type(error).__name__, expected=expected)
