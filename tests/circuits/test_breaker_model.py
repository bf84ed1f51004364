"""The state machine of a circuit against a model that keeps everything and computes the state from scratch."""

from dataclasses import dataclass

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from llmshield.circuits.breaker import STEPS, Breaker, Permit
from llmshield.testing import FrozenClock

OUTCOMES = ("success", "slow", "failure", "refused", "abandon")
WINDOW, FIRST, LONGEST, FAILURES, SLOW = 30.0, 60.0, 200.0, 3, 10.0


@dataclass
class Circuit:
    rate: float | None
    failures: int = FAILURES
    slow: float | None = SLOW
    window: float = WINDOW
    open_for: float = FIRST
    max_open: float = LONGEST


class CircuitMachine(RuleBasedStateMachine):
    """`era` counts every opening and closing; `reports` is all that was ever said in this era: (time, failed)."""

    @initialize(rate=st.sampled_from([None, 0.5, 1.0]))
    def begin(self, rate: float | None) -> None:
        self.time = FrozenClock()
        self.time.__enter__()
        self.rate = rate
        self.breaker = Breaker(Circuit(rate), ("a", "m"))
        self.permits: list[tuple[Permit, int]] = []
        self.era = 0
        self.reports: list[tuple[float, bool]] = []
        self.opened = False
        self.until = 0.0
        self.length = FIRST
        self.probe: tuple[Permit, float] | None = None

    def teardown(self) -> None:
        if hasattr(self, "time"):
            self.time.__exit__()

    @rule(seconds=st.sampled_from([0.5, 1.5, 5.0, 15.0, 29.0, 31.0, 60.0]))
    def wait(self, seconds: float) -> None:
        self.time.advance(seconds)

    @rule(seconds=st.sampled_from([-90_000.0, 90_000.0]))
    def step(self, seconds: float) -> None:
        self.time.step(seconds)

    @rule(times=st.integers(1, 4))
    def ask(self, times: int) -> None:
        for _ in range(times):
            now = self.time.monotonic()
            permit = self.breaker.permit()
            free = not self.opened or (now >= self.until and (self.probe is None or now >= self.probe[1]))

            assert (permit is not None) == free
            if permit is not None:
                assert permit.probe == self.opened
                if self.opened:
                    self.probe = (permit, now + FIRST)
                self.permits.append((permit, self.era))

    @rule(times=st.integers(1, 4))
    def fail(self, times: int) -> None:
        """Fresh calls that fail at once: without it most runs never open."""
        for _ in range(times):
            before = len(self.permits)
            self.ask(1)
            if len(self.permits) > before:
                permit, era = self.permits.pop()
                permit.failure("status", None)
                self.ended(permit, era, "failure", None)

    @rule(more=st.sampled_from([-0.5, 0.0, 0.0, FIRST]))
    def break_ends(self, more: float) -> None:
        """To the instant at which a break, or a probe's lease behind it, ends."""
        if self.opened:
            self.time.advance(max(self.until - self.time.monotonic() + more, 0.0))

    @rule()
    def probe_succeeds(self) -> None:
        if self.probe is not None and any(permit is self.probe[0] for permit, _ in self.permits):
            permit, era = next(each for each in self.permits if each[0] is self.probe[0])
            self.permits.remove((permit, era))
            permit.success(None)
            self.ended(permit, era, "success", None)

    @rule(data=st.data(), outcome=st.sampled_from(OUTCOMES), advice=st.sampled_from([None, 0.0, 90.0, 1e9]))
    def end(self, data: st.DataObject, outcome: str, advice: float | None) -> None:
        if not self.permits:
            return
        permit, era = self.permits.pop(data.draw(st.integers(0, len(self.permits) - 1)))
        if outcome == "failure":
            permit.failure("status", advice)
        elif outcome in ("success", "slow"):
            permit.success(11.0 if outcome == "slow" else 9.0)
        elif outcome == "refused":
            permit.refused()
        else:
            permit.abandon()
        self.ended(permit, era, outcome, advice if outcome == "failure" else None)

    def ended(self, permit: Permit, era: int, outcome: str, advice: float | None) -> None:
        if era != self.era:
            return
        failed = outcome in ("failure", "slow")
        now = self.time.monotonic()
        if not self.opened:
            if outcome in ("success", "failure", "slow"):
                self.reports.append((now, failed))
            if failed and self.too_many(now):
                self.open(now, FIRST, advice)
        elif failed:
            self.open(now, min(self.length * 2, LONGEST), advice)
        elif outcome in ("success", "refused"):
            self.opened, self.probe, self.reports, self.length = False, None, [], FIRST
            self.era += 1
        elif self.probe is not None and self.probe[0] is permit:
            self.probe = None

    def too_many(self, now: float) -> bool:
        if len([at for at, failed in self.reports if failed and now - at <= WINDOW]) < FAILURES:
            return False
        step = WINDOW / STEPS
        counted = [failed for at, failed in self.reports if int(at / step) > int(now / step) - STEPS]
        return self.rate is None or sum(counted) >= self.rate * len(counted)

    def open(self, now: float, length: float, advice: float | None) -> None:
        self.opened, self.probe, self.length = True, None, length
        self.until = now + min(max(length, advice or 0.0), LONGEST)
        self.era += 1

    @invariant()
    def the_same(self) -> None:
        if hasattr(self, "breaker"):
            now = self.time.monotonic()
            expected = "closed" if not self.opened else "open" if now < self.until else "half_open"

            assert self.breaker.state == expected


@pytest.mark.parametrize("runs", [400, pytest.param(2_000, marks=pytest.mark.nightly)])
def test_a_circuit_is_its_model(runs: int) -> None:
    """50 steps a run: 100,000 of them at night."""
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        CircuitMachine, settings=settings(max_examples=runs, stateful_step_count=50, deadline=None)
    )
