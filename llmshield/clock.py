"""The one place that reads time, so that tests can hold it still.

`now()` is wall time (UTC, seconds since 1970) for windows, records and signatures; `monotonic()` is for
deadlines, breakers and durations, which a stepped clock must not move. `overdue()` judges what computes: a thread that
was ready to run and did not, on a busy machine or in a container that has used up its share of CPU, is not late by
its own fault.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
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


# -- a thread's own time ---------------------------------------------------------------------------------------

_SCHEDSTAT = "/proc/thread-self/schedstat"
"""Linux: nanoseconds on a CPU, and ready but not on one (Documentation/scheduler/sched-stats.rst)."""
_FRESH_S = 0.2


class _Mark(threading.local):
    at = float("-inf")
    kept_s = 0.0


_mark = _Mark()


def mark() -> None:
    """Work begins in this thread: what it was kept waiting so far is not `overdue()`'s business. Looks at most every
    200 ms: a look takes 30 us."""
    at = time.monotonic()
    if at - _mark.at > _FRESH_S:
        _mark.at, _mark.kept_s = at, _kept_waiting()


def overdue(deadline: float | None) -> bool:
    """Whether `deadline` (`monotonic()` seconds) has passed, the time not counted in which the machine let this thread
    wait since its last `mark()`. None never passes."""
    if deadline is None:
        return False
    late = monotonic() - deadline
    if late <= 0:
        return False
    return _mark.at == float("-inf") or late > _kept_waiting() - _mark.kept_s


def _kept_waiting() -> float:
    """Seconds that this thread was ready to run and did not; 0.0 where the system does not tell."""
    with contextlib.suppress(OSError, ValueError, IndexError), open(_SCHEDSTAT, "rb") as file:  # noqa: PTH123  no path
        return int(file.read().split()[1]) / 1e9
    return 0.0
