"""Budgets over the admin port: shown, raised, given back whole, unlocked."""

from typing import Any

import pytest

from llmshield import clock
from llmshield.ledger import Refusal
from llmshield.stores import Labels


async def spend(desk: Any, picousd: int) -> bool:
    """Whether so much could be spent under acme's caps."""
    ledger = desk.runtime.ledger
    await ledger.books.copy()
    labels = Labels("acme", "a", "gpt-4o")
    made = await ledger.reserve(f"r{clock.monotonic()}", labels, ledger.caps_of("acme"), picousd)
    if isinstance(made, Refusal):
        return False
    await ledger.settle(made, picousd)
    return True


def figures(budgets: Any, name: str) -> dict[str, str]:
    return {each["window"]: each[name] for each in budgets["budgets"]}


async def test_raise(desk: Any) -> None:
    assert await spend(desk, 5 * 10**12)
    assert not await spend(desk, 10**12)
    said = await desk.ask("POST", "/v1/budgets/acme/raise", {"usd": "2.50", "window": "day"}, key="operate")

    assert 200 == said.status
    assert [("day", "2.500000000000")] == [(each["window"], each["usd"]) for each in said.json["raised"]]
    assert {"day": "2.500000000000", "month": "45.000000000000"} == figures(
        said.json["tenant"], "remaining_usd"
    )
    assert await spend(desk, 25 * 10**11)
    assert not await spend(desk, 1)
    shown = await desk.ask("GET", "/v1/budgets/acme", key="read")
    assert "7.500000000000" == figures(shown.json, "limit_usd")["day"]
    record = desk.records()[0]
    assert ("budget.raise", "acme", "2.500000000000") == (
        record["action"],
        record["target"],
        record["detail"]["usd"],
    )


async def test_reset_gives_the_whole_budget_again_and_forgets_nothing(desk: Any) -> None:
    await desk.ask("POST", "/v1/budgets/acme/raise", {"usd": "1", "window": "day"})
    assert await spend(desk, 55 * 10**11)
    said = await desk.ask("POST", "/v1/budgets/acme/reset", {"window": "day"})

    assert ["4.500000000000"] == [each["usd"] for each in said.json["raised"]]
    assert "5.500000000000" == figures(said.json["tenant"], "spent_usd")["day"]
    assert "5.000000000000" == figures(said.json["tenant"], "remaining_usd")["day"]
    again = await desk.ask("POST", "/v1/budgets/acme/reset", {"window": "day"})
    assert [] == again.json["raised"]
    usage = (await desk.ask("GET", "/usage")).json["tenants"]["acme"]
    assert "5.500000000000" == usage["spent_usd"]


async def test_unlock(desk: Any) -> None:
    await desk.runtime.ledger.books.lock("acme", int(clock.now() * 1000) + 3_600_000)
    locked = await desk.ask("GET", "/v1/budgets")
    said = await desk.ask("POST", "/v1/budgets/acme/unlock")

    assert locked.json["tenants"][0]["locked_until"]
    assert (200, None) == (said.status, said.json["locked_until"])
    assert {"was_locked": True} == desk.records()[1]["detail"]


async def test_a_budget_stays_what_an_account_can_hold(desk: Any) -> None:
    said = [
        (await desk.ask("POST", "/v1/budgets/acme/raise", {"usd": "4000000", "window": "day"})).status
        for _ in range(3)
    ]

    assert [200, 409, 409] == said
    assert await spend(desk, 10**12)


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("acme/raise", {}, 422),
        ("acme/raise", {"usd": 5}, 422),
        ("acme/raise", {"usd": "0"}, 422),
        ("acme/raise", {"usd": "-1"}, 422),
        ("acme/raise", {"usd": "1e3"}, 422),
        ("acme/raise", {"usd": "0.0000000000001"}, 422),
        ("acme/raise", {"usd": "5000000"}, 422),
        ("acme/raise", {"usd": "1", "window": "year"}, 422),
        ("acme/raise", {"usd": "1", "window": "24h"}, 404),
        ("nobody/raise", {"usd": "1"}, 404),
        ("nobody/reset", {}, 404),
        ("nobody/unlock", None, 200),
    ],
)
async def test_refusals(desk: Any, path: str, body: Any, status: int) -> None:
    assert status == (await desk.ask("POST", f"/v1/budgets/{path}", body)).status
