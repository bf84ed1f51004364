"""From left to right over a text that may not be complete: what is decided, what must wait.

A whole text is the case where nothing waits. Both kinds of search come together here: the segments of the
detector, and the policy's own recognisers, which look at the text as it stands.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from llmshield import clock
from llmshield_plugins.pii.custom import Custom
from llmshield_plugins.pii.detector import Detector, Found, Keep, resolve
from llmshield_plugins.pii.segments import next_segment, quiet_until, token_start
from llmshield_plugins.pii.shapes import shape

Settle: TypeAlias = Callable[..., tuple[list[Found], int]]


class Walker:
    """Finds values by a policy. Holds no text."""

    def __init__(self, detector: Detector, custom: Custom, keep: Keep) -> None:
        self._detector = detector
        self._custom = custom
        self._keep = keep
        self.quiet_until = None if custom else quiet_until
        """Where a text must be held in which nothing is complete; -1 where `settle` has to look, None: always."""
        self.suspects: Callable[[str], bool] = self._suspects if custom else detector.suspects
        """Whether `whole` could find anything; False is certain."""
        self.settle: Settle = self._both if custom else detector.settle
        """The values in `text[start:upto]`, and `upto`: what is before it stays so, whatever follows. `start`, then
        whether nothing follows; what is before `start` has been settled and serves as context."""

    def whole(self, text: str, deadline: float | None = None) -> list[Found]:
        """Every value in `text`, in order, without overlap. Raises: TimeoutError past the deadline."""
        if not self._custom:
            return self._detector.whole(text, deadline)
        return self.settle(text, 0, True, deadline)[0]

    def _suspects(self, text: str) -> bool:
        return self._detector.suspects(text) or bool(self._custom.find(text, 0))

    def _both(
        self, text: str, start: int, final: bool, deadline: float | None = None
    ) -> tuple[list[Found], int]:
        form = shape(text)
        own = self._custom.find(text, start)
        upto = (
            len(text)
            if final
            else max(start, token_start(form, max(start, len(text) - self._custom.width - 1)))
        )
        found: list[Found] = []
        solid: list[tuple[int, int]] = [(f.start, f.end) for f in own]
        position = start
        while True:
            if clock.overdue(deadline):
                raise TimeoutError
            segment, hold = next_segment(text, form, position, final)
            if segment is None:
                upto = min(upto, max(position, hold))
                break
            more, after = self._detector.judged(text, segment)
            found += more
            solid.append((segment.start, after))
            position = after
        moved = True
        while moved:
            moved = False
            for first, last in solid:
                if first < upto < last:
                    upto, moved = first, True
        wanted = [f for f in own if f.end <= upto and self._keep(f, text[f.start : f.end])]
        return resolve([f for f in found if f.end <= upto] + wanted), max(start, upto)
