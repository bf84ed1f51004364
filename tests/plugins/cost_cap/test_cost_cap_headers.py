"""What a client reads of its budget in the answer's head: what is left, until when, by whose clock."""

import re
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

Opened = Callable[..., Any]

NAME = "x-llmshield-budget-remaining"
ASK = {"model": "gpt-4o-mini", "max_tokens": 50, "messages": [{"role": "user", "content": "How are you?"}]}
ROUTES = [
    ("/v1/chat/completions", ASK),
    ("/v1/messages", {**ASK, "model": "claude-sonnet-4-5"}),
    ("/v1beta/models/gemini-2.5-flash:generateContent", {"contents": [{"role": "user", "parts": [{"text": "Hi"}]}]}),
]  # fmt: skip


def left(headers: Any) -> Decimal:
    amount, unit = headers[NAME].partition(";")[0].split(" ")
    assert unit == "USD"
    return Decimal(amount)


@pytest.fixture(params=["memory://", "sqlite:///{tmp}/book.db"])
def store(request: pytest.FixtureRequest, tmp_path: Any) -> str:
    return str(request.param).replace("{tmp}", str(tmp_path))


@pytest.mark.parametrize(("path", "body"), ROUTES, ids=["chat", "messages", "gemini"])
async def test_a_whole_answer_tells_what_is_left_after_it(
    path: str, body: dict[str, Any], store: str, opened: Opened
) -> None:
    async with opened(budget="[1 USD/day, 5 USD/month]", store=store) as house:
        for _ in range(2):
            status, _, headers = await house.post(body, path)
            assert status == 200

        assert left(headers) == 1 - await house.spent() < 1
        assert re.search(r"; reset=20\d\d-\d\d-\d\dT00:00:00Z$", headers[NAME])


async def test_a_stream_tells_what_is_left_beside_its_hold(opened: Opened) -> None:
    async with opened(budget="0.0001 USD/day") as house:
        status, _, headers = await house.post({**ASK, "stream": True, "max_tokens": 20})

        assert status == 200
        assert left(headers) < Decimal("0.0001") - await house.spent(), "the hold is more than the bill"


async def test_the_tightest_budget_and_its_zone_are_told(opened: Opened) -> None:
    async with opened(budget="[5 USD/day, 1 USD/month], time_zone: Australia/Lord_Howe") as house:
        _, _, headers = await house.post(ASK)

        assert left(headers) == 1 - await house.spent()
        assert re.search(
            r"; reset=20\d\d-\d\d-01T00:00:00\+1[01]:[03]0; zone=Australia/Lord_Howe$", headers[NAME]
        )


async def test_a_refusal_tells_it_too(opened: Opened) -> None:
    async with opened(budget="0.000001 USD/24h") as house:
        status, _, headers = await house.post(ASK)

        assert status in {400, 402, 429}
        assert left(headers) == Decimal("0.000001")


async def test_a_call_that_cost_nothing_leaves_all(opened: Opened) -> None:
    async with opened(budget="1 USD/day") as house:
        house.sim.set(fault="500")
        status, _, headers = await house.post(ASK)

        assert status >= 500
        assert left(headers) == 1


@pytest.mark.parametrize("budget", ["0.000001 USD/day", "1 USD/day"])
async def test_monitored_it_tells_nothing(budget: str, opened: Opened) -> None:
    async with opened(budget=budget, settings="mode: monitor") as house:
        for body in (ASK, {**ASK, "stream": True}):
            status, _, headers = await house.post(body)
            assert status == 200
            assert NAME not in headers


async def test_an_answer_that_is_given_again_does_not_tell_what_was_left(opened: Opened) -> None:
    async with opened(budget="1 USD/day") as house:
        for times in range(2):
            async with house.client.post(
                house.url + "/v1/chat/completions", json=ASK, headers={"idempotency-key": "once"}
            ) as reply:
                assert (NAME in reply.headers) == (times == 0)
