"""Ids sort by time; what became of an exchange is one word."""

import pytest

from llmshield.call import Attempt
from llmshield.chain import Took
from llmshield.errors import CallError, ErrorKind
from llmshield.exchange import Exchange, Incoming, new_id
from llmshield.testing import FrozenClock, call


def exchange() -> Exchange:
    async def nothing(limit: int) -> bytes:
        return b""

    return Exchange(Incoming("POST", b"/", b"", [], "", nothing), None, "id", 0.0)  # type: ignore[arg-type]


def test_ids_are_ulids_that_sort_by_time() -> None:
    with FrozenClock() as time:
        first = new_id()
        time.advance(0.002)
        second = new_id()

    assert 26 == len(first)
    assert first < second
    assert len({new_id() for _ in range(1000)}) == 1000


def took(action: str, *, enforced: bool = True) -> Took:
    return Took("p", "pre_request", action, enforced, 0.1)


@pytest.mark.parametrize(
    ("actions", "error", "word"),
    [
        ([], None, "allow"),
        (["allow", "flag"], None, "allow"),
        (["redact"], None, "redact"),
        (["would-redact"], None, "would-redact"),
        (["would-redact", "would-block"], None, "would-block"),
        (["would-block", "redact"], None, "redact"),
        ([], "blocked", "block"),
        ([], "bad_request", "block"),
        ([], "client_timeout", "block"),
        ([], "shutting_down", "block"),
        (["redact"], "client_timeout", "block"),
        ([], "no_provider", "allow"),
        ([], "upstream_error", "allow"),
        (["redact"], "upstream_timeout", "redact"),
    ],
)
def test_the_action_is_one_word(actions: list[str], error: ErrorKind | None, word: str) -> None:
    x = exchange()
    x.trail.took = [took(action) for action in actions]
    x.error = CallError(error, "m") if error else None

    assert word == x.action


def test_costs_of_all_attempts_add_up_and_none_is_none() -> None:
    x = exchange()
    assert x.cost_picousd is None
    for cost in (5, None, 7):
        attempt = Attempt(call("x"), number=1, provider="p", model="m", dialect="d", body={})
        attempt.cost_picousd = cost
        x.attempts.append(attempt)

    assert 12 == x.cost_picousd


def test_a_decision_holds_no_text() -> None:
    x = exchange()
    x.call = call("a secret prompt")

    assert "secret" not in repr(x.decision())
