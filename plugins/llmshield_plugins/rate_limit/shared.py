"""The shared store as limits ask it: an answer within `PATIENCE_S`, or none; what is given back gets there in the end.

Redis keeps to that by itself. Another store may wait for its file or disk: its step is then given up, and for `REST_S`
nobody asks again. Patience is counted in turns of our own loop: where that gets no processor, so may the store.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from llmshield import clock
from llmshield.errors import StoreUnavailable
from llmshield.stores import Admission, Seat, Store, Window

T = TypeVar("T")

PATIENCE_S = 0.05
REST_S = 0.2
_TICK_S = 0.01
_AGAIN_S = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
"""Waits between the tries of giving a place back; the last one until its lease is over."""


class Shared:
    """One store. `away` is told whenever it answers (False) or does not (True)."""

    def __init__(self, store: Store, lease_s: float, away: Callable[[bool], None]) -> None:
        self._store = store
        self._lease_s = lease_s
        self._away = away
        self._rest_until = 0.0
        self._later: set[asyncio.Task[None]] = set()
        self.instant = store.instant
        self._hurries = store.bounded or store.instant

    async def close(self) -> None:
        """Stop trying: what is not given back by now is free after its lease."""
        for task in self._later:
            task.cancel()
        if self._later:
            await asyncio.wait(self._later)

    async def admit(
        self, windows: Sequence[Window], seats: Sequence[Seat], now_ms: int, cost: int = 1
    ) -> Admission:
        """`Store.admit`. Whether seats were taken by a step that nobody waits for any more nobody knows: they are
        given back. Raises: StoreUnavailable."""
        try:
            return await self._within(self._store.admit(windows, seats, now_ms, cost))
        except (asyncio.CancelledError, StoreUnavailable):
            if seats:
                self._spawn(self._leave_later(seats))
            raise

    async def count(self, windows: Sequence[Window], now_ms: int, cost: int, at_ms: int) -> None:
        """`Store.count`. Never again after a failure: it may have happened. Raises: StoreUnavailable."""
        await self._within(self._store.count(windows, now_ms, cost, at_ms))

    async def sit(self, seats: Sequence[Seat]) -> None:
        """`Store.sit`; nobody waits for it. Raises: StoreUnavailable."""
        await self._store.sit(seats)

    async def leave(self, seats: Sequence[Seat]) -> None:
        """`Store.leave`, later if it can't be now."""
        try:
            await self._within(self._store.leave(seats))
        except asyncio.CancelledError:
            self._spawn(self._leave_later(seats))
            raise
        except StoreUnavailable:
            self._spawn(self._leave_later(seats))

    async def _within(self, step: Coroutine[Any, Any, T]) -> T:
        if self._hurries:
            try:
                said = await step
            except StoreUnavailable:
                self._away(True)
                raise
            self._away(False)
            return said
        if self._rest_until and clock.monotonic() < self._rest_until:
            step.close()
            raise StoreUnavailable("the store did not answer just now")
        ticks = _Ticks(round(PATIENCE_S / _TICK_S))
        try:
            async with asyncio.timeout(None) as ticks.limit:
                said = await step
        except (TimeoutError, StoreUnavailable) as error:
            self._away(True)
            self._rest_until = clock.monotonic() + REST_S
            raise StoreUnavailable(f"no answer within {PATIENCE_S * 1000:.0f} ms") from error
        finally:
            ticks.stop()
        self._away(False)
        self._rest_until = 0.0
        return said

    async def _leave_later(self, seats: Sequence[Seat]) -> None:
        """Try until the places are given back, or free by themselves."""
        gone = clock.monotonic() + self._lease_s
        turn = 0
        while clock.monotonic() < gone:
            await asyncio.sleep(_AGAIN_S[min(turn, len(_AGAIN_S) - 1)])
            turn += 1
            try:
                await self._store.leave(seats)
                return
            except StoreUnavailable:
                continue

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._later.add(task)
        task.add_done_callback(self._later.discard)


class _Ticks:
    """Ends a timeout after so many turns of the loop, each at least `_TICK_S` after the one before."""

    __slots__ = ("_handle", "_left", "_loop", "limit")

    def __init__(self, count: int) -> None:
        self.limit: asyncio.Timeout | None = None
        self._left = count
        self._loop = asyncio.get_running_loop()
        self._handle = self._loop.call_later(_TICK_S, self._tick)

    def stop(self) -> None:
        self._handle.cancel()

    def _tick(self) -> None:
        self._left -= 1
        if self._left:
            self._handle = self._loop.call_later(_TICK_S, self._tick)
        elif self.limit is not None:
            self.limit.reschedule(self._loop.time())
