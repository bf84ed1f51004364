"""How a budget stands, from the balances of its account."""

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmshield.budgets import Cap, budget, by_account, of_window, percent, threshold, window_of
from llmshield.stores import Balance

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC).timestamp()


def balance(window: str, spent: int, held: int = 0, account: str = "tenant=acme") -> Balance:
    return Balance(account, window, spent, held, 1, 0)


def test_a_calendar_budget_counts_its_own_window() -> None:
    cap = Cap("tenant=acme", 10**12, "day", "Europe/Berlin")
    found = [
        balance("ever", 5), balance("day:2026-11-20", 7),
        balance("day:2026-11-20@Europe/Berlin", 400_000_000_000, 700_000_000_000),
    ]  # fmt: skip

    assert budget(cap, found, NOON) == {
        "account": "tenant=acme",
        "limit_usd": "1.000000000000",
        "window": "day",
        "time_zone": "Europe/Berlin",
        "spent_usd": "0.400000000000",
        "held_usd": "0.700000000000",
        "remaining_usd": "0.000000000000",
        "resets_at": "2026-11-20T23:00:00Z",
    }


def test_a_rolling_budget_counts_its_steps_and_says_when_the_oldest_leaves() -> None:
    cap = Cap("tenant=acme", 1_000, "24h")
    current = window_of(cap, NOON)
    first = int(current.since.partition(":")[2])
    found = [
        balance(f"24h:{first - 1:011d}", 900),
        balance(f"24h:{first:011d}", 0),
        balance(f"24h:{first + 10:011d}", 100),
        balance(f"24h:{first + 20:011d}", 200, 50),
        balance("1h:99999999999", 900),
    ]
    said = budget(cap, found, NOON)

    assert (said["spent_usd"], said["held_usd"]) == ("0.000000000300", "0.000000000050")
    # Ten steps of 24 minutes after the one that leaves next.
    assert said["resets_at"] == "2026-11-20T16:24:00Z"


@pytest.mark.parametrize(
    ("spent", "warned"), [(0, []), (499, []), (500, ["50%"]), (799, ["50%"]), (800, ["50%", "80%"])]
)
def test_what_has_been_warned_of(spent: int, warned: list[str]) -> None:
    cap = Cap("tenant=acme", 1_000, "day", "UTC", (0.5, 0.8))

    assert budget(cap, [balance("day:2026-11-20", spent)], NOON)["warned_at"] == warned


def test_balances_are_sorted_by_account() -> None:
    one, two, other = balance("a", 1), balance("b", 2), balance("a", 3, account="tenant=b")

    assert by_account([one, other, two]) == {"tenant=acme": [one, two], "tenant=b": [other]}
    assert of_window([one, two], "b") == [two]


@given(st.integers(0, 2**62), st.integers(0, 100_000))
def test_thresholds_are_exact(limit: int, thousandths: int) -> None:
    """The smallest amount that is this share or more, without a float on the way."""
    cap: Any = Cap("a", limit, "day")
    amount = threshold(cap, thousandths / 100_000)

    assert amount * 100_000 >= limit * thousandths > (amount - 1) * 100_000 or amount == 0


@pytest.mark.parametrize(
    ("share", "text"), [(0.5, "50%"), (0.125, "12.5%"), (1.0, "100%"), (0.00001, "0.001%")]
)
def test_shares_are_written_as_in_a_policy(share: float, text: str) -> None:
    assert percent(share) == text
