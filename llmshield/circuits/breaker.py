"""One circuit as one process keeps it: a state machine without I/O.

    closed ── too many failures ──> open ── the break is over ──> half open
       ^                             ^                               │ exactly one probe at a time
       └────────── probe answered ───┼────────────── probe failed ───┘ the break doubles, to `max_open`

Rule 1: time is monotonic; a stepped wall clock moves nothing. Rule 2: a probe's permit is a lease of one first break:
a probe that is never heard of again makes room for the next one, so half open always ends. Rule 3: a circuit lives in
generations, each begun by opening or closing; what was begun in an earlier one says nothing about now, and is not
counted. A probe that outlived its lease still speaks: it is of the same break.
"""

from __future__ import annotations

import math
import secrets
from collections import deque
from collections.abc import Callable
from threading import Lock
from typing import Any, Final, Literal, Protocol, TypeAlias

from llmshield import clock

State: TypeAlias = Literal["closed", "open", "half_open"]
Change: TypeAlias = Literal["closed", "opened", "freed"]
"""What a breaker tells of itself: it closed, it opened (anew), its probe came to nothing."""

SLOW = "slow"
BY_HAND = "by hand"
STEPS = 20
"""Steps of a window whose calls are counted: one leaves it at most 1/20 of its length early."""


class CircuitSettings(Protocol):
    """`providers.NAME.circuit`; times in seconds, `rate` from 0 to 1."""

    @property
    def failures(self) -> int: ...
    @property
    def rate(self) -> float | None: ...
    @property
    def slow(self) -> float | None: ...
    @property
    def window(self) -> float: ...
    @property
    def open_for(self) -> float: ...
    @property
    def max_open(self) -> float: ...


class Permit:
    """Leave to ask a provider once. The first report counts, later ones do nothing."""

    __slots__ = ("breaker", "generation", "probe")

    def __init__(self, breaker: Breaker | None, generation: str = "", *, probe: bool = False) -> None:
        self.breaker = breaker
        self.generation = generation
        self.probe = probe
        """This is the one attempt that decides whether the circuit closes."""

    def success(self, first_token_s: float | None = None) -> None:
        """The provider answered; a first token later than `slow` counts as a failure all the same."""
        breaker, self.breaker = self.breaker, None
        if breaker is not None:
            breaker.success(self, first_token_s)

    def failure(self, reason: str, retry_after_s: float | None = None) -> None:
        """The provider failed. `retry_after_s` is its advice; nonsense in it is ignored."""
        breaker, self.breaker = self.breaker, None
        if breaker is not None:
            breaker.failure(self, reason, retry_after_s)

    def refused(self) -> None:
        """The provider answered that it will not (a 4xx): it is alive, and the call counts neither way."""
        breaker, self.breaker = self.breaker, None
        if breaker is not None:
            breaker.refused(self)

    def abandon(self) -> None:
        """Nothing can be said: the client went away, nothing was sent, our own code failed."""
        breaker, self.breaker = self.breaker, None
        if breaker is not None:
            breaker.abandon(self)


ELSEWHERE: Final = Permit(None, probe=True)
"""Stands for a probe of another process."""


class Breaker:
    """One circuit. `changed(breaker, change)` is called for what it did by itself, never for what it was told."""

    def __init__(
        self,
        settings: CircuitSettings,
        key: tuple[str, str],
        changed: Callable[[Breaker, Change], None] | None = None,
    ) -> None:
        self.settings = settings
        self.key = key
        self.generation = ""
        self.opens = 0
        self.reason = ""
        self.break_s = settings.open_for
        self._changed = changed
        self._lock = Lock()  # permits may be asked for in threads as well
        self._failures: deque[float] = deque(maxlen=settings.failures)
        self._shares = None if settings.rate is None else _Shares(settings.window)
        self._opened = False
        self._open_until = 0.0
        self._probe: Permit | None = None
        self._probe_until = 0.0

    # -- asking ------------------------------------------------------------------------------------------------

    def permit(self) -> Permit | None:
        """Leave to ask now; None while the break lasts or a probe is under way."""
        if not self._opened:
            return Permit(self, self.generation)
        with self._lock:
            if not self._opened:
                return Permit(self, self.generation)
            now = clock.monotonic()
            if now < self._open_until or (self._probe is not None and now < self._probe_until):
                return None
            self._probe = Permit(self, self.generation, probe=True)
            self._probe_until = now + self.settings.open_for
            return self._probe

    def holds(self, permit: Permit) -> bool:
        """Whether this is the probe of now: its lease is not over, or nobody has taken its place yet."""
        return self._probe is permit

    # -- reports -----------------------------------------------------------------------------------------------

    def success(self, permit: Permit, first_token_s: float | None) -> None:
        """See `Permit.success`."""
        slow = self.settings.slow
        if slow is not None and first_token_s is not None and first_token_s > slow:
            self.failure(permit, SLOW, None)
        elif permit.probe:
            self._answered(permit)
        elif self._shares is not None:
            with self._lock:
                if permit.generation == self.generation:
                    self._shares.add(clock.monotonic(), failed=False)

    def failure(self, permit: Permit, reason: str, retry_after_s: float | None) -> None:
        """See `Permit.failure`."""
        with self._lock:
            if permit.generation != self.generation or permit.probe != self._opened:
                return
            now = clock.monotonic()
            if permit.probe:
                self.break_s = min(self.break_s * 2, self._longest_s)
            elif not self._too_many(now):
                return
            advice = retry_after_s if retry_after_s is not None and math.isfinite(retry_after_s) else 0.0
            self._open(new_id(), now, min(max(self.break_s, advice), self._longest_s), reason)
            self.opens += 1
        self._tell("opened")

    def refused(self, permit: Permit) -> None:
        """See `Permit.refused`."""
        if permit.probe:
            self._answered(permit)

    def abandon(self, permit: Permit) -> None:
        """See `Permit.abandon`: the next one who asks is the probe."""
        if not permit.probe:
            return
        with self._lock:
            if self._probe is not permit:
                return
            self._probe = None
        self._tell("freed")

    def _answered(self, probe: Permit) -> None:
        with self._lock:
            if probe.generation != self.generation or not self._opened:
                return
            self._close(new_id())
        self._tell("closed")

    def _too_many(self, now: float) -> bool:
        """Count a failure; whether it is one too many."""
        self._failures.append(now)
        if self._shares is not None:
            self._shares.add(now, failed=True)
        if len(self._failures) < self.settings.failures or now - self._failures[0] > self.settings.window:
            return False
        rate = self.settings.rate
        return self._shares is None or rate is None or self._shares.share(now) >= rate

    # -- what others say: an operator, another process ---------------------------------------------------------

    def hold_open(self, generation: str, wait_s: float, break_s: float | None, reason: str) -> None:
        """It is open since somebody else says so, `wait_s` seconds (may be infinite) from now on."""
        with self._lock:
            if generation == self.generation and self._opened:  # the same break: its probe came to nothing
                if self._probe is ELSEWHERE:
                    self._probe = None
                return
            self.break_s = min(break_s or self.settings.open_for, self._longest_s)
            self._open(generation, clock.monotonic(), wait_s, reason)
            self.opens += 1

    def probed(self, generation: str, break_s: float | None, reason: str) -> None:
        """Its break is over and its probe is somebody else's, for one lease from now on."""
        with self._lock:
            now = clock.monotonic()
            if generation != self.generation or not self._opened:
                self.break_s = min(break_s or self.settings.open_for, self._longest_s)
                self._open(generation, now, 0.0, reason)
            self._probe, self._probe_until = ELSEWHERE, now + self.settings.open_for

    def let_close(self, generation: str) -> None:
        """It is closed since somebody else says so; counting begins anew."""
        with self._lock:
            self._close(generation)

    # -- showing -----------------------------------------------------------------------------------------------

    @property
    def opened(self) -> bool:
        """Whether it is open or half open."""
        return self._opened

    @property
    def probing(self) -> Permit | None:
        """The probe under way, `ELSEWHERE` for another process' one; its lease may be over."""
        return self._probe

    @property
    def quiet(self) -> bool:
        """Whether it is closed with no failure on its mind: nothing is lost when it is forgotten."""
        failures = self._failures
        return not self._opened and (
            not failures or clock.monotonic() - failures[-1] > self.settings.window
        )  # fmt: skip

    @property
    def state(self) -> State:
        """`half_open` from the end of its break on."""
        if not self._opened:
            return "closed"
        return "open" if clock.monotonic() < self._open_until else "half_open"

    @property
    def wait_s(self) -> float:
        """Seconds of its break that are left; infinite where an operator gave it no end."""
        return max(0.0, self._open_until - clock.monotonic()) if self._opened else 0.0

    @property
    def retry_after_s(self) -> float:
        """Seconds until the provider may be asked again; 0 when it may now."""
        if not self._opened:
            return 0.0
        until = self._open_until if self._probe is None else max(self._open_until, self._probe_until)
        return max(0.0, until - clock.monotonic())

    def snapshot(self) -> dict[str, Any]:
        """The circuit for the status page; times in seconds, None: until somebody closes it."""
        with self._lock:
            now = clock.monotonic()
            wait = self.retry_after_s
            return {
                "state": self.state,
                "failures": sum(now - at <= self.settings.window for at in self._failures),
                "opens": self.opens,
                "reason": self.reason if self._opened else None,
                "retry_after_s": round(wait, 3) if math.isfinite(wait) else None,
            }

    # -- inside ------------------------------------------------------------------------------------------------

    @property
    def _longest_s(self) -> float:
        return max(self.settings.max_open, self.settings.open_for)

    def _open(self, generation: str, now: float, wait_s: float, reason: str) -> None:
        self.generation, self.reason = generation, reason
        self._opened, self._probe = True, None
        self._open_until = now + wait_s

    def _close(self, generation: str) -> None:
        self.generation = generation
        self._opened, self._probe = False, None
        self.break_s = self.settings.open_for
        self._failures.clear()
        if self._shares is not None:
            self._shares = _Shares(self.settings.window)

    def _tell(self, change: Change) -> None:
        if self._changed is not None:
            self._changed(self, change)


class _Shares:
    """Calls and failures of a window that slides, in `STEPS` steps."""

    def __init__(self, window_s: float) -> None:
        self._step_s = window_s / STEPS
        self._calls = [0] * STEPS
        self._failures = [0] * STEPS
        self._last = 0

    def add(self, now: float, *, failed: bool) -> None:
        """A call is over."""
        at = self._turn(now)
        self._calls[at] += 1
        self._failures[at] += failed

    def share(self, now: float) -> float:
        """Failures for each call of the window; 0 without calls."""
        self._turn(now)
        calls = sum(self._calls)
        return sum(self._failures) / calls if calls else 0.0

    def _turn(self, now: float) -> int:
        """The step of this moment; those that have left the window are empty again."""
        step = int(now / self._step_s)
        for gone in range(max(self._last + 1, step - STEPS + 1), step + 1):
            self._calls[gone % STEPS] = self._failures[gone % STEPS] = 0
        self._last = max(step, self._last)
        return step % STEPS


def new_id() -> str:
    """A name that nobody else gives."""
    return secrets.token_hex(8)
