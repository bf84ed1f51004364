"""The one place that reads time, so that tests can hold it still.

`now()` is wall time (UTC, seconds since 1970) for windows, records and signatures; `monotonic()` is for
deadlines, breakers and durations, which a stepped clock must not move.
"""

from __future__ import annotations

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    """A source of time; seconds everywhere."""

    def now(self) -> float: ...

    def monotonic(self) -> float: ...

    async def sleep(self, seconds: float) -> None: ...


class SystemClock:
    """The machine's own clocks."""

    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


_clock: Clock = SystemClock()


def now() -> float:
    """Wall time in seconds since 1970-01-01 UTC."""
    return _clock.now()


def monotonic() -> float:
    """Seconds that never step back; the origin means nothing."""
    return _clock.monotonic()


async def sleep(seconds: float) -> None:
    """Wait; the engine does this, hooks never do."""
    await _clock.sleep(seconds)


def install(clock: Clock) -> Clock:
    """Put another clock in place and return the one before; for tests (`llmshield.testing.FrozenClock`)."""
    global _clock
    before, _clock = _clock, clock
    return before
