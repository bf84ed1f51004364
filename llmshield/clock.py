"""The one place that reads time, so that tests can hold it still.

`now()` is wall time (UTC, seconds since 1970) for windows, records and signatures; `monotonic()` is for
deadlines, breakers and durations, which a stepped clock must not move.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Protocol


class Clock(Protocol):
    """A source of time; seconds everywhere."""

    def now(self) -> float: ...

    def monotonic(self) -> float: ...

    def sleep(self, seconds: float, /) -> Awaitable[None]: ...


class SystemClock:
    """The machine's own clocks."""

    now = staticmethod(time.time)
    monotonic = staticmethod(time.monotonic)
    sleep = staticmethod(asyncio.sleep)


_clock: Clock = SystemClock()

# The names below are the clock's own functions, bound when a clock is installed: time is read twenty times a call.
now: Callable[[], float] = _clock.now
"""Wall time in seconds since 1970-01-01 UTC."""
monotonic: Callable[[], float] = _clock.monotonic
"""Seconds that never step back; the origin means nothing."""
sleep: Callable[[float], Awaitable[None]] = _clock.sleep
"""Wait; the engine does this, hooks never do."""


def install(clock: Clock) -> Clock:
    """Put another clock in place and return the one before; for tests (`llmshield.testing.FrozenClock`).

    Read time as `clock.now()`: a name imported from here would stay with the clock that was there.
    """
    global _clock, now, monotonic, sleep
    before, _clock = _clock, clock
    now, monotonic, sleep = clock.now, clock.monotonic, clock.sleep
    return before
