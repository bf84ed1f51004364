"""How much extra load failing may make: tries beyond the first of calls that get no answer by them, as a share of all calls.

When everything is down, trying again makes it worse. What a further try leads to is known only when its call is over, and
an answer may take a minute: until then a try weighs as much as the calls lately that tried further and got nothing. So
failing over to a provider that is well costs nothing, however slow it is and however many calls do it (Finagle's and
Envoy's retry budgets limit all tries, and would end a failover); and when all are down each try counts in full.
"""

from __future__ import annotations

from llmshield import clock

SHARE = 0.19
"""Tries in vain for each call: a fifth, and a little room for what a window of time can miss."""
LEAST = 30
"""As many are always allowed in a window: a call now and then is no load."""
_WINDOW_S = 10


class Budget:
    """Counts over the last ten seconds, in steps of one."""

    def __init__(self, *, share: float = SHARE, least: int = LEAST) -> None:
        self._share = share
        self._least = least
        self._open = 0
        self._calls = [0] * _WINDOW_S
        self._vain = [0] * _WINDOW_S
        """Further tries of calls that got no answer."""
        self._lost = [0] * _WINDOW_S
        self._won = [0] * _WINDOW_S
        """Calls that tried further, by their end."""
        self._failed = [0] * _WINDOW_S
        """Further tries that failed, whatever came of their calls."""
        self._second = int(clock.monotonic())

    def call(self) -> None:
        """A call has begun."""
        self._calls[self._turn()] += 1

    def take(self) -> bool:
        """Ask for a further try of a call; False when there is nothing left."""
        self._turn()
        if sum(self._vain) + (self._open + 1) * self._risk() > max(
            self._least, self._share * sum(self._calls)
        ):
            return False
        self._open += 1
        return True

    def failed(self) -> None:
        """A further try has failed; its call may go on."""
        self._failed[self._turn()] += 1

    def over(self, tries: int, answered: bool | None) -> None:
        """A call is over that has taken so many further tries; None where nobody waited for its end."""
        at = self._turn()
        self._open -= tries
        if answered:
            self._won[at] += 1
        elif answered is not None:
            self._lost[at] += 1
            self._vain[at] += tries

    def _risk(self) -> float:
        """How likely a further try is in vain, 0..1. While no call is over that knows, a failed try is the best guess."""
        lost, won = sum(self._lost), sum(self._won)
        if lost or won:
            return lost / (lost + won)
        return 1.0 if any(self._failed) else 0.0

    def _turn(self) -> int:
        """This second's place; what lies outside of the window is forgotten."""
        now = int(clock.monotonic())
        gone = now - self._second
        if gone:
            self._second = now
            for step in range(min(gone, _WINDOW_S)):
                index = (now - step) % _WINDOW_S
                for counts in (self._calls, self._vain, self._lost, self._won, self._failed):
                    counts[index] = 0
        return now % _WINDOW_S
