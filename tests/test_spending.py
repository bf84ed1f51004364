"""What was spent, grouped; the command line's part is tests/cli/test_spend.py, the admin port's tests/admin."""

import asyncio

import pytest

from llmshield import spending
from llmshield.stores import Labels, open_store

DAY_MS = 86_400_000


async def test_the_loop_has_its_turns_while_a_journal_is_added_up() -> None:
    """An in-memory journal never waits by itself: whoever shares the loop must not wait for all of it."""
    store = open_store("memory://")
    await store.open()
    for number in range(5_000):
        await store.settle(f"r{number}", (), 5, DAY_MS + number, Labels("acme", "a", "m"), 1, 2)
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(others())
    (row,) = await spending.rows(store, spending.groups("day", "UTC"))
    task.cancel()

    assert {"day": "1970-01-02", "requests": 5000, "input_tokens": 5000, "output_tokens": 10000,
            "usd": "0.000000025000"} == row  # fmt: skip
    assert turns >= 9


async def test_more_groups_than_wanted() -> None:
    store = open_store("memory://")
    await store.open()
    for name in "abc":
        await store.settle(name, (), 5, DAY_MS, Labels(name, "a", "m"))
    with pytest.raises(spending.Crowded):
        await spending.rows(store, spending.groups("tenant", "UTC"), most=2)

    assert 3 == len(await spending.rows(store, spending.groups("tenant", "UTC"), most=3))


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        (None, None),
        ("1970-01-02", DAY_MS),
        ("1970-01-02T00:00:01", DAY_MS + 1000),
        ("1970-01-02T01:00+01:00", DAY_MS),
    ],
)
def test_moments(text: str | None, ms: int | None) -> None:
    assert ms == spending.moment(text, "UTC")


@pytest.mark.parametrize("text", ["", "x", "99999999d", "7", "\u0667d"])
def test_what_is_no_moment(text: str) -> None:
    with pytest.raises(spending.Misuse):
        spending.moment(text, "Europe/Berlin")
