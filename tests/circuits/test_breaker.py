"""One process' circuits: when they open and close, one probe at a time, never wedged, monotonic time only."""

import math
import random
import timeit
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from llmshield.circuits import LIMIT, Circuits, Permit
from llmshield.testing import FrozenClock


@pytest.fixture
def time() -> Iterator[FrozenClock]:
    with FrozenClock() as frozen:
        yield frozen


@pytest.fixture
def circuits(time: FrozenClock, new: Any) -> Circuits:
    return new()


def asked(circuits: Circuits, model: str = "m") -> Permit:
    permit = circuits.permit("a", model)
    assert permit is not None
    return permit


def fail(circuits: Circuits, times: int = 1, retry_after_s: float | None = None, model: str = "m") -> None:
    for _ in range(times):
        asked(circuits, model).failure("connect", retry_after_s)


def report(permit: Permit, outcome: str) -> None:
    if outcome == "success":
        permit.success()
    elif outcome == "failure":
        permit.failure("status", None)
    elif outcome == "refused":
        permit.refused()
    else:
        permit.abandon()


OUTCOMES = ("success", "failure", "refused", "abandon")


def test_failures_inside_the_window_open_it(circuits: Circuits, time: FrozenClock) -> None:
    fail(circuits, 2)
    time.advance(31)
    fail(circuits, 2)
    assert circuits.state("a", "m") == "closed"
    fail(circuits)

    assert circuits.state("a", "m") == "open"
    assert circuits.permit("a", "m") is None
    assert circuits.retry_after_s("a", "m") == 60
    assert circuits.snapshot() == {
        "a": {"m": {"state": "open", "failures": 3, "opens": 1, "reason": "connect", "retry_after_s": 60.0}}
    }


def test_each_model_has_its_own(circuits: Circuits) -> None:
    fail(circuits, 3, model="ill")

    assert circuits.permit("a", "ill") is None
    assert circuits.permit("a", "well") is not None
    assert circuits.state("a", "well") == "closed"
    assert circuits.state("a") == "open", "the worst of its models"
    assert circuits.active("a")
    fail(circuits, 3, model="well")
    assert not circuits.active("a")
    assert circuits.active("b")


def test_a_provider_without_a_circuit_is_always_asked(circuits: Circuits) -> None:
    for _ in range(100):
        permit = circuits.permit("b", "m")
        assert permit is not None
        permit.failure("connect")

    assert circuits.state("b", "m") == "closed"
    assert circuits.permit("unheard of", "m") is not None


def test_a_rate_lets_a_busy_provider_fail_now_and_then(time: FrozenClock, new: Any) -> None:
    circuits = new(rate=0.5)
    for _ in range(20):
        asked(circuits).success()
    for _ in range(5):
        asked(circuits).refused()  # counts neither way
    fail(circuits, 19)
    assert circuits.state("a", "m") == "closed"
    fail(circuits)
    assert circuits.state("a", "m") == "open"


def test_calls_leave_the_rate_with_the_window(time: FrozenClock, new: Any) -> None:
    circuits = new(rate=0.5)
    for _ in range(100):
        asked(circuits).success()
    time.advance(31)
    fail(circuits, 2)
    assert circuits.state("a", "m") == "closed", "two are too few, whatever their share"
    fail(circuits)

    assert circuits.state("a", "m") == "open"


def test_a_late_first_token_is_a_failure(time: FrozenClock, new: Any) -> None:
    circuits = new(slow=10.0)
    for first_s in (10.0, None, 10.1, 11.0, 3.0):
        asked(circuits).success(first_s)
    assert circuits.state("a", "m") == "closed"
    asked(circuits).success(60.0)
    assert circuits.snapshot()["a"]["m"]["reason"] == "slow"
    time.advance(60)
    asked(circuits).success(10.1)  # the probe is slow as well

    assert circuits.retry_after_s("a", "m") == 120


def test_a_probe_that_succeeds_closes_it(circuits: Circuits, time: FrozenClock) -> None:
    fail(circuits, 3)
    time.advance(60)
    assert circuits.state("a", "m") == "half_open"
    probe = asked(circuits)
    assert probe.probe
    assert circuits.permit("a", "m") is None

    probe.success()

    assert circuits.state("a", "m") == "closed"
    fail(circuits, 2)
    assert circuits.state("a", "m") == "closed"


def test_the_break_doubles_to_its_longest_and_starts_anew(circuits: Circuits, time: FrozenClock) -> None:
    fail(circuits, 3)
    breaks = []
    for _ in range(4):
        breaks.append(circuits.retry_after_s("a", "m"))
        time.advance(breaks[-1])
        fail(circuits)
    assert breaks == [60, 120, 200, 200]
    time.advance(200)
    asked(circuits).success()
    fail(circuits, 3)

    assert circuits.retry_after_s("a", "m") == 60


@pytest.mark.parametrize(
    ("advice", "expected"),
    [(None, 60), (0, 60), (-5, 60), (90, 90), (1e9, 200), (math.nan, 60), (math.inf, 60), (-math.inf, 60)],
)
def test_the_providers_advice_is_taken_within_reason(
    circuits: Circuits, advice: float | None, expected: float
) -> None:
    fail(circuits, 3, advice)

    assert circuits.retry_after_s("a", "m") == expected


def test_a_wall_clock_that_jumps_changes_nothing(circuits: Circuits, time: FrozenClock) -> None:
    fail(circuits, 3)
    time.step(86_400)
    assert circuits.state("a", "m") == "open"
    time.step(-200_000)
    time.advance(60)

    assert circuits.state("a", "m") == "half_open"


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_only_the_first_report_counts(circuits: Circuits, time: FrozenClock, outcome: str) -> None:
    fail(circuits, 3)
    time.advance(60)
    probe = asked(circuits)
    report(probe, outcome)
    before = circuits.snapshot()
    for again in OUTCOMES:
        report(probe, again)

    assert circuits.snapshot() == before


def test_what_began_before_the_break_says_nothing_about_now(circuits: Circuits, time: FrozenClock) -> None:
    early = [asked(circuits) for _ in OUTCOMES]
    fail(circuits, 3)
    time.advance(60)
    probe = asked(circuits)
    for permit, outcome in zip(early, OUTCOMES, strict=True):
        report(permit, outcome)

    assert circuits.state("a", "m") == "half_open"
    assert circuits.permit("a", "m") is None
    probe.success()
    assert circuits.state("a", "m") == "closed"


def test_a_probe_that_outlives_its_lease_still_closes(circuits: Circuits, time: FrozenClock) -> None:
    """Where every answer takes longer than a break, half open would never end otherwise."""
    fail(circuits, 3)
    time.advance(60)
    slow = asked(circuits)
    time.advance(60)
    second = asked(circuits)
    assert second.probe
    slow.success()

    assert circuits.state("a", "m") == "closed"
    second.failure("reset")
    assert circuits.state("a", "m") == "closed", "it was begun before the circuit closed"


def test_one_probe_among_a_thousand_threads(circuits: Circuits, time: FrozenClock) -> None:
    fail(circuits, 3)
    time.advance(60)
    with ThreadPoolExecutor(32) as pool:
        permits = list(pool.map(lambda _: circuits.permit("a", "m"), range(1_000)))

    assert sum(permit is not None for permit in permits) == 1


@pytest.mark.parametrize("runs", [2_000, pytest.param(10_000, marks=pytest.mark.nightly)])
def test_half_open_never_lasts(time: FrozenClock, runs: int, new: Any) -> None:
    """Random runs in which probes answer, fail, are abandoned or never heard of again: one break later the next one
    is through."""
    rng = random.Random(5)
    circuits = new()
    for _ in range(runs):
        if circuits.state("a", "m") == "closed":
            fail(circuits, 3)
        time.advance(circuits.retry_after_s("a", "m"))
        probe = asked(circuits)
        outcome = rng.choice([*OUTCOMES, "lost"])
        if outcome == "lost":
            assert circuits.permit("a", "m") is None
            time.advance(60)
            asked(circuits).success()
            assert circuits.state("a", "m") == "closed"
        else:
            report(probe, outcome)
            if outcome == "abandon":
                asked(circuits).success()
            assert circuits.state("a", "m") == ("open" if outcome == "failure" else "closed")


def test_made_up_models_take_no_room(circuits: Circuits) -> None:
    for number in range(3 * LIMIT):
        asked(circuits, f"made-up-{number}").refused()
    assert len(circuits._breakers) <= LIMIT
    fail(circuits, 3, model="x" * 1_000)

    assert list(circuits.snapshot()["a"]) == ["other"]


def test_made_up_models_of_a_dead_provider_share_a_circuit(circuits: Circuits) -> None:
    served = 0
    for number in range(LIMIT + 100):
        permit = circuits.permit("a", f"made-up-{number}")
        if permit is not None:
            served += 1
            permit.failure("connect")

    assert served <= LIMIT + 3
    assert circuits.permit("a", "made-up-0") is not None


def test_permit_and_report_cost_little(new: Any) -> None:
    """A few microseconds a call, also where calls are counted for a rate; ten times as much is a defect."""
    circuits = new(rate=0.5, slow=10.0)

    def once() -> None:
        asked(circuits).success(0.2)

    assert min(timeit.repeat(once, number=2_000, repeat=5)) / 2_000 < 50e-6
