"""failover's smaller parts: the retry budget, the score of complexity, rolling figures."""

import pytest

from llmshield.call import Attempt, Usage
from llmshield.testing import FrozenClock, call
from llmshield.verdicts import Target
from llmshield_plugins.failover.budget import LEAST, SHARE, Budget
from llmshield_plugins.failover.complexity import HIGH, MEDIUM, score
from llmshield_plugins.failover.statistics import Statistics


def test_when_everything_fails_tries_are_a_fifth_of_the_calls() -> None:
    with FrozenClock(1000.0) as time:
        budget = Budget()
        taken = 0
        for _ in range(20):  # seconds of 200 calls each, all of which fail
            for _ in range(200):
                budget.call()
                taken += budget.take()
            time.advance(1.0)

    assert taken <= 20 * 200 * 0.2
    assert taken >= 20 * 200 * SHARE * 0.85


def test_a_try_that_answers_costs_nothing() -> None:
    with FrozenClock(1000.0):
        budget = Budget()
        for _ in range(10_000):
            budget.call()
            assert budget.take()
            budget.give_back()


def test_a_few_are_always_allowed_and_forgotten_after_a_while() -> None:
    with FrozenClock(1000.0) as time:
        budget = Budget()
        assert [True] * LEAST + [False] == [budget.take() for _ in range(LEAST + 1)]
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
