"""Circuits: one probe at a time, never wedged, monotonic time only."""

import math
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from llmshield.circuits import Circuits, Permit
from llmshield.testing import FrozenClock


@dataclass
class Circuit:
    failures: int = 3
    window: float = 30.0
    open_for: float = 60.0
    max_open: float = 200.0


@dataclass
class Provider:
    circuit: Circuit | None


@pytest.fixture
def time() -> Iterator[FrozenClock]:
    with FrozenClock() as frozen:
        yield frozen


@pytest.fixture
def circuits(time: FrozenClock) -> Circuits:
    return Circuits({"a": Provider(Circuit()), "b": Provider(None)})


def fail(circuits: Circuits, times: int = 1, retry_after_s: float | None = None) -> None:
    for _ in range(times):
        permit = circuits.permit("a")
        assert permit is not None
        permit.failure("connect", retry_after_s)


def test_failures_inside_the_window_open_it(circuits: Circuits, time: FrozenClock) -> None:
    fail(circuits, 2)
    time.advance(31)
    fail(circuits, 2)
    assert circuits.state("a") == "closed"
    fail(circuits)

    assert circuits.state("a") == "open"
    assert circuits.permit("a") is None
    assert circuits.retry_after_s("a") == 60
    assert circuits.snapshot() == {
        "a": {"state": "open", "failures": 3, "opens": 1, "reason": "connect", "retry_after_s": 60.0}
    }


def test_a_provider_without_a_circuit_is_always_asked(circuits: Circuits) -> None:
    for _ in range(100):
        permit = circuits.permit("b")
        assert permit is not None
        permit.failure("connect")

    assert circuits.state("b") == "closed"
    assert circuits.permit("unheard of") is not None


def test_a_probe_that_succeeds_closes_it(circuits: Circuits, time: FrozenClock) -> None:
    fail(circuits, 3)
    time.advance(60)
    assert circuits.state("a") == "half_open"
    probe = circuits.permit("a")
    assert probe is not None
    assert probe.probe
    assert circuits.permit("a") is None

    probe.success()

    assert circuits.state("a") == "closed"
    fail(circuits, 2)
    assert circuits.state("a") == "closed"


def test_the_break_doubles_to_its_longest_and_starts_anew(circuits: Circuits, time: FrozenClock) -> None:
    fail(circuits, 3)
    breaks = []
    for _ in range(4):
        breaks.append(circuits.retry_after_s("a"))
        time.advance(breaks[-1])
        fail(circuits)
    assert breaks == [60, 120, 200, 200]
    time.advance(200)
    probe = circuits.permit("a")
    assert probe is not None
    probe.success()
    fail(circuits, 3)

    assert circuits.retry_after_s("a") == 60


@pytest.mark.parametrize(
    ("advice", "expected"),
    [(None, 60), (0, 60), (-5, 60), (90, 90), (1e9, 200), (math.nan, 60), (math.inf, 60), (-math.inf, 60)],
)
def test_the_providers_advice_is_taken_within_reason(
    circuits: Circuits, advice: float | None, expected: float
) -> None:
    fail(circuits, 3, advice)

    assert circuits.retry_after_s("a") == expected


def test_a_wall_clock_that_jumps_changes_nothing(circuits: Circuits, time: FrozenClock) -> None:
    fail(circuits, 3)
    time.step(86_400)
    assert circuits.state("a") == "open"
    time.step(-200_000)
    time.advance(60)

    assert circuits.state("a") == "half_open"


@pytest.mark.parametrize("outcome", ["success", "failure", "abandon"])
def test_only_the_first_report_counts(circuits: Circuits, time: FrozenClock, outcome: str) -> None:
    fail(circuits, 3)
    time.advance(60)
    probe = circuits.permit("a")
    assert probe is not None
    report(probe, outcome)
    before = circuits.snapshot()
    for again in ("success", "failure", "abandon"):
        report(probe, again)

    assert circuits.snapshot() == before


def test_what_began_before_the_break_says_nothing_about_now(circuits: Circuits, time: FrozenClock) -> None:
    early = [circuits.permit("a") for _ in range(3)]
    fail(circuits, 3)
    time.advance(60)
    probe = circuits.permit("a")
    for permit, outcome in zip(early, ("success", "failure", "abandon"), strict=True):
        assert permit is not None
        report(permit, outcome)

    assert circuits.state("a") == "half_open"
    assert circuits.permit("a") is None
    assert probe is not None
    probe.success()
    assert circuits.state("a") == "closed"


def report(permit: Permit, outcome: str) -> None:
    if outcome == "success":
        permit.success()
    elif outcome == "failure":
        permit.failure("status", None)
    else:
        permit.abandon()


def test_one_probe_among_a_thousand_threads(circuits: Circuits, time: FrozenClock) -> None:
    fail(circuits, 3)
    time.advance(60)
    with ThreadPoolExecutor(32) as pool:
        permits = list(pool.map(lambda _: circuits.permit("a"), range(1_000)))

    assert sum(permit is not None for permit in permits) == 1


def test_half_open_never_lasts(time: FrozenClock) -> None:
    """10,000 random runs in which probes succeed, fail, are abandoned or never heard of again."""
    rng = random.Random(5)
    circuits = Circuits({"a": Provider(Circuit())})
    for _ in range(10_000):
        if circuits.state("a") == "closed":
            fail(circuits, 3)
        time.advance(circuits.retry_after_s("a"))
        probe = circuits.permit("a")
        assert probe is not None
        outcome = rng.choice(["success", "failure", "abandon", "lost"])
        if outcome == "lost":
            assert circuits.permit("a") is None
            time.advance(60)
            probe = circuits.permit("a")
            assert probe is not None
            probe.success()
        else:
            report(probe, outcome)
            if outcome == "abandon":
                probe = circuits.permit("a")
                assert probe is not None
                probe.success()


class CircuitMachine(RuleBasedStateMachine):
    """The circuit against a model that keeps everything and computes the state from scratch."""

    @initialize()
    def begin(self) -> None:
        self.time = FrozenClock()
        self.time.__enter__()
        self.circuits = Circuits({"a": Provider(Circuit())})
        self.permits: list[tuple[Permit, int]] = []
        self.era = 0  # counts every change of state and every probe
        self.failures: list[float] = []
        self.opened = False
        self.until = 0.0
        self.length = 60.0
        self.probe: tuple[int, float] | None = None

    def teardown(self) -> None:
        if hasattr(self, "time"):
            self.time.__exit__()

    @rule(seconds=st.sampled_from([0.5, 5.0, 29.0, 31.0, 60.0, 250.0]))
    def wait(self, seconds: float) -> None:
        self.time.advance(seconds)

    @rule(seconds=st.sampled_from([-90_000.0, 90_000.0]))
    def step(self, seconds: float) -> None:
        self.time.step(seconds)

    @rule()
    def ask(self) -> None:
        now = self.time.monotonic()
        permit = self.circuits.permit("a")
        free = not self.opened or (now >= self.until and (self.probe is None or now >= self.probe[1]))

        assert (permit is not None) == free
        if permit is not None:
            if self.opened:
                self.era += 1
                self.probe = (self.era, now + 60.0)
            self.permits.append((permit, self.era))

    @rule(data=st.data(), outcome=st.sampled_from(["success", "failure", "abandon"]))
    def end(self, data: st.DataObject, outcome: str) -> None:
        if not self.permits:
            return
        permit, era = self.permits.pop(data.draw(st.integers(0, len(self.permits) - 1)))
        report(permit, outcome)
        if era != self.era:
            return
        now = self.time.monotonic()
        if outcome == "success" and self.opened:
            self.opened, self.probe, self.failures, self.length = False, None, [], 60.0
            self.era += 1
        elif outcome == "abandon" and self.opened:
            self.probe = None
        elif outcome == "failure":
            if self.opened:
                self.length = min(self.length * 2, 200.0)
            else:
                self.failures.append(now)
                if len([at for at in self.failures if now - at <= 30.0]) < 3:
                    return
            self.opened, self.probe, self.until = True, None, now + self.length
            self.era += 1

    @invariant()
    def the_same(self) -> None:
        if hasattr(self, "circuits"):
            now = self.time.monotonic()
            expected = "closed" if not self.opened else "open" if now < self.until else "half_open"

            assert self.circuits.state("a") == expected


CircuitMachine.TestCase.settings = settings(max_examples=200, stateful_step_count=60, deadline=None)
TestCircuitMachine = CircuitMachine.TestCase
