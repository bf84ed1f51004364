"""How old things are: the time by which a store forgets accounts whose windows are over.

It is the wall clock's, but it goes no faster than the monotonic one. So a wall clock that is set a month ahead, and
put right again, finds what was spent: else it would be a second budget. A machine that slept forgets later.
"""

from __future__ import annotations

from llmshield import clock

STEP_KEPT_MS = 3_600_000
"""How long a step of a rolling window outlives it. A clock that steps back asks for more steps than count, never for
one that does not: an hour is for clocks that go apart. Ten minutes' windows leave 8,640 steps a day for each account.
"""


class Age:
    """`age(now_ms)` is the latest moment, in ms since 1970, that it can be since this was made."""

    def __init__(self) -> None:
        self._apart_ms: int | None = None

    def __call__(self, now_ms: int) -> int:
        elapsed_ms = int(clock.monotonic() * 1000)
        apart_ms = now_ms - elapsed_ms
        if self._apart_ms is None or apart_ms < self._apart_ms:
            self._apart_ms = apart_ms
        return self._apart_ms + elapsed_ms
