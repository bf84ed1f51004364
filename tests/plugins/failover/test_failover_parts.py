"""failover's smaller parts: the retry budget, the score of complexity, rolling figures."""

import pytest

from llmshield.call import Attempt, Usage
from llmshield.testing import FrozenClock, call
from llmshield.verdicts import Target
from llmshield_plugins.failover.budget import LEAST, SHARE, Budget
from llmshield_plugins.failover.complexity import HIGH, MEDIUM, score
from llmshield_plugins.failover.statistics import Statistics


@pytest.mark.parametrize("lasts_s", [0, 1, 3], ids=["at once", "a second", "three seconds"])
def test_when_everything_fails_tries_are_a_fifth_of_the_calls(lasts_s: int) -> None:
    """However long it takes a call to fail; of its tries the first ones are known to have failed before it is over."""
    with FrozenClock(1000.0) as time:
        budget = Budget()
        taken = 0
        pending: list[tuple[int, int]] = []
        for second in range(20):  # seconds of 200 calls each, all of which fail
            for _ in range(200):
                budget.call()
                if budget.take():
                    taken += 1
                    budget.failed()
                    pending.append((second + lasts_s, 1))
                while pending and pending[0][0] <= second:
                    budget.over(pending.pop(0)[1], answered=False)
            time.advance(1.0)

    assert taken <= 20 * 200 * 0.2
    assert taken >= 20 * 200 * SHARE * 0.6


def test_tries_that_answer_cost_nothing_however_long_they_last() -> None:
    with FrozenClock(1000.0):
        budget = Budget()
        for _ in range(10_000):
            budget.call()
            assert budget.take()
        for _ in range(10_000):
            budget.over(1, answered=True)
        assert budget.take()


def test_two_dead_ones_before_one_that_is_well_are_no_storm() -> None:
    """Of each call's two further tries the first fails; what counts is that the call is answered."""
    with FrozenClock(1000.0):
        budget = Budget()
        budget.take()
        budget.over(1, answered=True)
        for _ in range(1_000):
            budget.call()
            assert budget.take()
            budget.failed()
            assert budget.take()
        for _ in range(1_000):
            budget.over(2, answered=True)


def test_a_caller_that_leaves_says_nothing_of_providers() -> None:
    with FrozenClock(1000.0):
        budget = Budget()
        for _ in range(LEAST):
            assert budget.take()
            budget.over(1, answered=False)
        for _ in range(100):
            budget.over(0, answered=None)
        assert not budget.take()


def test_who_is_back_is_asked_again() -> None:
    """The share of calls in vain falls with each that is answered, and what was in vain is forgotten."""
    with FrozenClock(1000.0) as time:
        budget = Budget()
        for _ in range(LEAST):
            budget.take()
            budget.over(1, answered=False)
        assert not budget.take()
        time.advance(10.0)
        for _ in range(1_000):
            budget.call()
            assert budget.take()
            budget.over(1, answered=True)


def test_a_few_are_always_allowed_and_forgotten_after_a_while() -> None:
    with FrozenClock(1000.0) as time:
        budget = Budget()
        for _ in range(LEAST):
            assert budget.take()
            budget.over(1, answered=False)
        assert not budget.take()
        time.advance(10.0)
        assert budget.take()


@pytest.mark.parametrize(
    ("text", "more", "least", "most"),
    [
        ("hello", {}, 0.0, 0.05),
        ("Translate 'dog'", {}, 0.0, MEDIUM),
        ("x " * 4000, {}, MEDIUM, HIGH),
        ("Fix this:\n```python\ndef f(): pass\n```\nand explain why it fails, step by step", {}, 0.5, HIGH),
        (
            "Design and evaluate a strategy; prove that it is optimal. " * 60 + "```\nimport x\n```",
            {},
            HIGH,
            1.0,
        ),
        ("Beweise den Satz und analysiere ihn", {}, MEDIUM, HIGH),
        ("hello", {"max_tokens": 8000}, 0.05, 0.06),
        (
            "hello",
            {"tools": [{"type": "function", "function": {"name": f"f{n}"}} for n in range(9)]},
            0.15,
            0.16,
        ),
    ],
)
def test_complexity(text: str, more: dict[str, object], least: float, most: float) -> None:
    assert least <= score(call(text, **more)) <= most


def noted(statistics: Statistics, first_s: float, *, stream: bool = True, ended: bool = True) -> None:
    asked = call("x")
    asked.stream = stream
    attempt = Attempt(asked, number=1, provider="p", model="m", dialect="openai_chat", body={})
    attempt.started_at = 100.0
    attempt.first_token_at = 100.0 + first_s
    attempt.ended_at = 102.0 + first_s if ended else None
    attempt.usage = Usage(input=1, output=100)
    statistics.note(attempt)


def test_shares_need_ten_measurements_and_forget_old_ones() -> None:
    statistics, asked = Statistics(), call("x", model="m")
    asked.stream = True
    for number in range(9):
        noted(statistics, 0.1 * (number + 1))
    assert statistics.first_token_s(Target("p"), asked, 0.95) is None
    noted(statistics, 1.0)
    assert statistics.first_token_s(Target("p"), asked, 0.95) == pytest.approx(1.0)
    assert statistics.first_token_s(Target("p"), asked, 0.5) == pytest.approx(0.6)
    for _ in range(64):
        noted(statistics, 0.2)
    assert statistics.first_token_s(Target("p", "m"), asked, 0.95) == pytest.approx(0.2)


def test_pace_follows_the_newest() -> None:
    statistics, asked = Statistics(), call("x", model="m")
    asked.stream = True
    noted(statistics, 1.0)
    pace = statistics.pace(Target("p"), asked)
    assert pace is not None
    assert (1.0, 50.0, 7.0) == (
        pytest.approx(pace.first_s),
        pytest.approx(pace.per_s),
        pytest.approx(pace.expected_s),
    )
    for _ in range(20):
        noted(statistics, 0.1)
    assert pace.first_s < 0.12
    noted(statistics, 9.0, ended=False)
    assert 21 == pace.tries
