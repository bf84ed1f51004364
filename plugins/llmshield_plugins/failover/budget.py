"""How much extra load failing may make: tries beyond the first of a call that did not help, as a share of the calls.

When everything is down, trying again makes it worse. A further try is paid for from this budget before it is made and
paid back if it answered, so failing over to a provider that is well costs nothing, however many calls do it; only
tries that fail as well are limited (Finagle's and Envoy's retry budgets limit all of them, and would end a failover).
"""

from __future__ import annotations

from llmshield import clock

SHARE = 0.19
"""Failed extra tries for each call: a fifth, and a little room for what a window of time can miss."""
LEAST = 30
"""As many are always allowed in a window: a call now and then is no load."""
_WINDOW_S = 10


class Budget:
    """Counts over the last ten seconds, in steps of one."""

    def __init__(self, *, share: float = SHARE, least: int = LEAST) -> None:
        self._share = share
        self._least = least
        self._calls = [0] * _WINDOW_S
        self._tries = [0] * _WINDOW_S
        self._second = int(clock.monotonic())

    def call(self) -> None:
        """A call has begun."""
        self._calls[self._turn()] += 1

    def take(self) -> bool:
        """Pay for a further try; False when there is nothing left."""
        at = self._turn()
        if sum(self._tries) + 1 > max(self._least, self._share * sum(self._calls)):
            return False
        self._tries[at] += 1
        return True

    def give_back(self) -> None:
        """A further try has answered."""
        at = self._turn()
        for back in range(_WINDOW_S):
            index = (at - back) % _WINDOW_S
            if self._tries[index]:
                self._tries[index] -= 1
                return

    def _turn(self) -> int:
        """This second's place; what lies outside of the window is forgotten."""
        now = int(clock.monotonic())
        gone = now - self._second
        if gone:
            self._second = now
            for step in range(min(gone, _WINDOW_S)):
                index = (now - step) % _WINDOW_S
                self._calls[index] = self._tries[index] = 0
        return now % _WINDOW_S
