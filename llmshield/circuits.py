"""Circuit breakers: a provider that keeps failing is left alone for a while, and one probe finds out when it is back.

    closed ── `failures` inside `window` ──> open ── the break is over ──> half open
       ^                                      ^                                │ exactly one probe at a time
       └────────────── probe succeeded ───────┼──────────────── probe failed ──┘ the break doubles, to `max_open`

Rule 1: time is monotonic; a stepped wall clock moves nothing. Rule 2: who got a permit reports once, whatever
happens; a probe that never reports loses its permit after one break, so half open always ends. Rule 3: what was
begun before the circuit last changed says nothing about now, and is not counted.

State is this process's own. Whoever asks sees `Circuits` and `Permit` only, so that it can move into the store.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from threading import Lock
from typing import Any, Literal, Protocol, TypeAlias

from llmshield import clock

State: TypeAlias = Literal["closed", "open", "half_open"]


class CircuitSettings(Protocol):
    """`providers.NAME.circuit`; times in seconds."""

    @property
    def failures(self) -> int: ...
    @property
    def window(self) -> float: ...
    @property
    def open_for(self) -> float: ...
    @property
    def max_open(self) -> float: ...


class Breakable(Protocol):
    """What `Circuits` wants to know of a provider."""

    @property
    def circuit(self) -> Any: ...


class Permit:
    """Leave to ask a provider once. The first report counts, later ones do nothing."""

    __slots__ = ("_breaker", "_epoch", "probe")

    def __init__(self, breaker: _Breaker | None, epoch: int = 0, *, probe: bool = False) -> None:
        self._breaker = breaker
        self._epoch = epoch
        self.probe = probe
        """This is the one attempt that decides whether the circuit closes."""

    def success(self) -> None:
        """The provider answered."""
        breaker, self._breaker = self._breaker, None
        if breaker is not None:
            breaker.success(self._epoch)

    def failure(self, reason: str, retry_after_s: float | None = None) -> None:
        """The provider failed. `retry_after_s` is its advice; nonsense in it is ignored."""
        breaker, self._breaker = self._breaker, None
        if breaker is not None:
            breaker.failure(self._epoch, reason, retry_after_s)

    def abandon(self) -> None:
        """Nothing can be said: the client went away, the request was at fault, our own code failed."""
        breaker, self._breaker = self._breaker, None
        if breaker is not None:
            breaker.abandon(self._epoch)


_FREE = Permit(None)


class Circuits:
    """The circuits of a policy's providers; one without `circuit:` is always closed."""

    def __init__(self, providers: Mapping[str, Breakable]) -> None:
        self._breakers = {
            name: _Breaker(provider.circuit)
            for name, provider in providers.items()
            if provider.circuit is not None
        }

    def permit(self, provider: str, model: str | None = None) -> Permit | None:
        """Leave to ask this provider now, or None while its circuit is open or its probe is under way.

        A circuit covers a provider with all its models; `model` is for circuits that are kept more finely.
        """
        breaker = self._breakers.get(provider)
        return _FREE if breaker is None else breaker.permit()

    def state(self, provider: str) -> State:
        """How the circuit stands; `half_open` from the end of its break on."""
        breaker = self._breakers.get(provider)
        return "closed" if breaker is None else breaker.state()

    def retry_after_s(self, provider: str) -> float:
        """Seconds until this provider may be asked again; 0 when it may now."""
        breaker = self._breakers.get(provider)
        return 0.0 if breaker is None else breaker.retry_after_s()

    def snapshot(self) -> dict[str, dict[str, Any]]:
        """Every circuit for the status page."""
        return {name: breaker.snapshot() for name, breaker in self._breakers.items()}


@dataclass(slots=True)
class _Probe:
    epoch: int
    until: float


class _Breaker:
    """One circuit. `_epoch` counts changes of state and probes; a report from an earlier one is void."""

    def __init__(self, settings: CircuitSettings) -> None:
        self._settings = settings
        self._lock = Lock()  # permits may be asked for in threads as well
        self._failures: deque[float] = deque(maxlen=settings.failures)
        self._epoch = 0
        self._opened = False
        self._open_until = 0.0
        self._break_s = settings.open_for
        self._probe: _Probe | None = None
        self._opens = 0
        self._reason: str | None = None

    def permit(self) -> Permit | None:
        with self._lock:
            if not self._opened:
                return Permit(self, self._epoch)
            now = clock.monotonic()
            if now < self._open_until or (self._probe is not None and now < self._probe.until):
                return None
            self._epoch += 1
            self._probe = _Probe(self._epoch, now + self._settings.open_for)
            return Permit(self, self._epoch, probe=True)

    def success(self, epoch: int) -> None:
        with self._lock:
            if epoch == self._epoch and self._opened:
                self._epoch += 1
                self._opened, self._probe = False, None
                self._break_s = self._settings.open_for
                self._failures.clear()

    def failure(self, epoch: int, reason: str, retry_after_s: float | None) -> None:
        with self._lock:
            if epoch != self._epoch:
                return
            now = clock.monotonic()
            if not self._opened:
                self._failures.append(now)
                full = len(self._failures) == self._failures.maxlen
                if not full or now - self._failures[0] > self._settings.window:
                    return
            else:
                self._break_s = min(self._break_s * 2, self._settings.max_open)
            self._epoch += 1
            self._opened, self._probe = True, None
            self._opens += 1
            self._reason = reason
            advice = retry_after_s if retry_after_s is not None and math.isfinite(retry_after_s) else 0.0
            longest = max(self._settings.max_open, self._settings.open_for)
            self._open_until = now + min(max(self._break_s, advice), longest)

    def abandon(self, epoch: int) -> None:
        with self._lock:
            if epoch == self._epoch and self._opened:
                self._probe = None  # the next one who asks is the probe

    def state(self) -> State:
        if not self._opened:
            return "closed"
        return "open" if clock.monotonic() < self._open_until else "half_open"

    def retry_after_s(self) -> float:
        if not self._opened:
            return 0.0
        until = self._open_until if self._probe is None else self._probe.until
        return max(0.0, until - clock.monotonic())

    def snapshot(self) -> dict[str, Any]:
        with self._lock:
            now = clock.monotonic()
            recent = [at for at in self._failures if now - at <= self._settings.window]
            return {
                "state": self.state(),
                "failures": len(recent),
                "opens": self._opens,
                "reason": self._reason if self._opened else None,
                "retry_after_s": round(self.retry_after_s(), 3),
            }
