"""What was spent outlives a clock that is set ahead and back; what is really old goes."""

import pytest

from llmshield.stores import Labels, Line, Shortage, Store
from llmshield.stores._ages import Age
from llmshield.testing import FrozenClock

LABELS = Labels("acme", "openai", "gpt-4o")
DAY_MS = 86_400_000


def test_an_age_goes_no_faster_than_time() -> None:
    with FrozenClock(1_000_000.0) as time:
        age = Age()
        now = lambda: int(time.now() * 1000)  # noqa: E731
        assert age(now()) == 1_000_000_000
        time.step(30 * 86_400)
        assert age(now()) == 1_000_000_000
        time.advance(10)
        assert age(now()) == 1_000_010_000
        time.step(-31 * 86_400)
        assert age(now()) == now()
        time.step(86_400)
        time.advance(10)

        assert age(now()) == now() - DAY_MS


@pytest.mark.parametrize("url", ["memory", "sqlite"], indirect=True)
async def test_a_clock_set_ahead_and_back_gives_no_second_budget(store: Store) -> None:
    with FrozenClock(1_900_000_000.0) as time:
        now_ms = int(time.now() * 1000)
        lines = (Line("tenant=acme", "day:2030-03-17", 1_000, now_ms + DAY_MS),)
        await store.expire(now_ms)
        await store.settle("a", lines, 1_000, now_ms, LABELS)
        time.step(60 * 86_400)
        await store.expire(int(time.now() * 1000))
        time.step(-60 * 86_400)
        await store.expire(now_ms)
        assert isinstance(await store.reserve("b", lines, 1, 1, now_ms + 60_000, now_ms, LABELS), Shortage)
        time.advance(60 * 86_400)
        await store.expire(int(time.now() * 1000))

        assert await store.balances() == []
