"""How many erasures were known of, and since when: what began before one must not make a person anew after it.

began ──────────── erased ───── ended          known_at(began) < count now: there is no new key for it
"""

from __future__ import annotations

from llmshield import clock

_REMEMBERED = 1000


class Erasures:
    """The count of erasures as one process came to know it. Written by one thread, read by any."""

    __slots__ = ("_history", "count")

    def __init__(self) -> None:
        self.count = 0
        self._history: list[tuple[float, int]] = []

    def note(self, count: int) -> bool:
        """It was asked just now, and this is the answer; whether it is another one than before, or the first."""
        if self._history and count == self.count:
            return False
        self.count = count
        self._history = [*self._history[-_REMEMBERED:], (clock.monotonic(), count)]
        return True

    def known_at(self, when: float) -> int:
        """How many were known of at this time of `clock.monotonic()`; -1: nobody had asked yet, or it is long ago."""
        return next((count for since, count in reversed(self._history) if since <= when), -1)
