"""The state machine of a circuit against a model that keeps everything and computes the state from scratch; driven by
hypothesis, which shrinks what it finds, and by a long random walk, which gets everywhere."""

import random
from dataclasses import dataclass

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from llmshield.circuits.breaker import STEPS, Breaker, Permit
from llmshield.testing import FrozenClock

OUTCOMES = ("success", "slow", "failure", "refused", "abandon")
ADVICE = (None, 0.0, 90.0, 1e9)
WINDOW, FIRST, LONGEST, FAILURES, SLOW = 30.0, 60.0, 200.0, 3, 10.0


@dataclass
class Circuit:
    rate: float | None
    failures: int = FAILURES
    slow: float | None = SLOW
    window: float = WINDOW
    open_for: float = FIRST
    max_open: float = LONGEST


class Pair:
    """A breaker and its model. `era` counts every opening and closing; `reports` is all that was ever said in this
    one: (time, failed)."""

    def __init__(self, rate: float | None, time: FrozenClock, window: float = WINDOW) -> None:
        self.time = time
        self.rate = rate
        self.window = window
        self.breaker = Breaker(Circuit(rate, window=window), ("a", "m"))
        self.permits: list[tuple[Permit, int]] = []
        self.era = 0
        self.reports: list[tuple[float, bool]] = []
        self.opened = False
        self.until = 0.0
        self.length = FIRST
        self.probe: tuple[Permit, float] | None = None

    def ask(self) -> bool:
        """Ask for a permit; whether there was one."""
        now = self.time.monotonic()
        permit = self.breaker.permit()
        free = not self.opened or (now >= self.until and (self.probe is None or now >= self.probe[1]))

        assert (permit is not None) == free
        if permit is None:
            return False
        assert permit.probe == self.opened
        if self.opened:
            self.probe = (permit, now + FIRST)
        self.permits.append((permit, self.era))
        return True

    def end(self, index: int, outcome: str, advice: float | None) -> None:
        """Give a permit back."""
        permit, era = self.permits.pop(index)
        if outcome == "failure":
            permit.failure("status", advice)
        elif outcome in ("success", "slow"):
            permit.success(11.0 if outcome == "slow" else 9.0)
        elif outcome == "refused":
            permit.refused()
        else:
            permit.abandon()
        if era == self.era:
            self.ended(permit, outcome, advice if outcome == "failure" else None)
        self.check()

    def check(self) -> None:
        """The same state, and the same wait."""
        now = self.time.monotonic()
        expected = "closed" if not self.opened else "open" if now < self.until else "half_open"
        wait = max(self.until, self.probe[1] if self.probe else 0.0) - now if self.opened else 0.0

        assert expected == self.breaker.state
        assert abs(max(wait, 0.0) - self.breaker.retry_after_s) < 1e-6

    def ended(self, permit: Permit, outcome: str, advice: float | None) -> None:
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
        if len([at for at, failed in self.reports if failed and now - at <= self.window]) < FAILURES:
            return False
        step = self.window / STEPS
        counted = [failed for at, failed in self.reports if int(at / step) > int(now / step) - STEPS]
        return self.rate is None or sum(counted) >= self.rate * len(counted)

    def open(self, now: float, length: float, advice: float | None) -> None:
        self.opened, self.probe, self.length = True, None, length
        self.until = now + min(max(length, advice or 0.0), LONGEST)
        self.era += 1


class CircuitMachine(RuleBasedStateMachine):
    @initialize(rate=st.sampled_from([None, 0.5, 1.0]))
    def begin(self, rate: float | None) -> None:
        self.time = FrozenClock()
        self.time.__enter__()
        self.pair = Pair(rate, self.time)

    def teardown(self) -> None:
        if hasattr(self, "time"):
            self.time.__exit__()

    @rule(seconds=st.sampled_from([0.5, 1.5, 5.0, 15.0, 29.0, 31.0, 60.0]))
    def wait(self, seconds: float) -> None:
        self.time.advance(seconds)

    @rule(seconds=st.sampled_from([-90_000.0, 90_000.0]))
    def step(self, seconds: float) -> None:
        self.time.step(seconds)

    @rule(times=st.integers(1, 4), fails=st.booleans())
    def ask(self, times: int, fails: bool) -> None:
        for _ in range(times):
            if self.pair.ask() and fails:
                self.pair.end(-1, "failure", None)

    @rule(data=st.data(), outcome=st.sampled_from(OUTCOMES), advice=st.sampled_from(ADVICE))
    def end(self, data: st.DataObject, outcome: str, advice: float | None) -> None:
        if self.pair.permits:
            self.pair.end(data.draw(st.integers(0, len(self.pair.permits) - 1)), outcome, advice)

    @invariant()
    def the_same(self) -> None:
        if hasattr(self, "pair"):
            self.pair.check()


@pytest.mark.parametrize("runs", [100, pytest.param(2_000, marks=pytest.mark.nightly)])
def test_a_circuit_is_its_model(runs: int) -> None:
    """50 steps a run: 100,000 of them at night."""
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        CircuitMachine, settings=settings(max_examples=runs, stateful_step_count=50, deadline=None)
    )


@pytest.mark.parametrize(
    ("rate", "window"), [(None, WINDOW), (None, 5 * WINDOW), (0.3, WINDOW), (1.0, 5 * WINDOW)]
)
@pytest.mark.parametrize("steps", [100_000, pytest.param(1_000_000, marks=pytest.mark.nightly)])
def test_a_long_life_is_its_models(rate: float | None, window: float, steps: int) -> None:
    rng = random.Random(7)
    with FrozenClock() as time:
        pair = Pair(rate, time, window)
        for _ in range(steps):
            what = rng.random()
            if what < 0.35:
                pair.ask()
            elif what < 0.75 and pair.permits:
                back = min(
                    int(rng.expovariate(0.5)) + 1, len(pair.permits)
                )  # mostly the newest, now and then an old one
                outcome = rng.choices(OUTCOMES, (3, 1, 4, 1, 1))[0]
                pair.end(-back, outcome, rng.choice(ADVICE))
            elif what < 0.95:
                time.advance(rng.choice([0.25, 0.5, 1.5, 5.0]))
            elif what < 0.99:
                left_s = pair.until - time.monotonic()
                time.advance(
                    left_s if left_s > 0 else FIRST
                )  # to the end of the break, then of a probe's lease
            else:
                time.step(rng.choice([-90_000.0, 90_000.0]))
            del pair.permits[:-20]
            pair.check()
