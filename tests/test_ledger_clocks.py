"""The ledger and its clock: zones, midnights, steps forth and back. No second budget, on every kind of store."""

import asyncio
import random
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmshield import clock
from llmshield.errors import StoreUnavailable
from llmshield.ledger import Cap, Ledger, Refusal, Reservation, tenant_account
from llmshield.stores import Labels, Store, open_store
from llmshield.testing import FrozenClock
from llmshield.windows import window

LABELS = Labels("acme", "openai", "gpt-4o")
ACCOUNT = tenant_account("acme")
HOUR, DAY = 3_600, 86_400


def at(text: str, zone: str = "UTC") -> float:
    moment = datetime.fromisoformat(text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=ZoneInfo(zone))).timestamp()


@pytest.fixture(params=["memory", "sqlite"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    opened = open_store("memory://" if request.param == "memory" else f"sqlite:///{tmp_path / 'book.db'}")
    await opened.open()
    yield opened
    await opened.close()


async def spend(ledger: Ledger, cap: Cap, amount: int, turn: object) -> bool:
    """Spend it, or tell that there is no room."""
    held = await ledger.reserve(f"{id(ledger)}.{turn}", LABELS, (cap,), amount)
    if isinstance(held, Reservation):
        await ledger.settle(held, amount)
        return True
    return False


# zone, period, then moments (in the zone) and whether a budget that is spent at each chance is fresh there
TABLES: dict[str, tuple[str, str, list[tuple[str, bool]]]] = {
    "25 hours in Berlin": ("Europe/Berlin", "day", [
        ("2025-10-26T00:00:00+02:00", True), ("2025-10-26T02:30:00+02:00", False),
        ("2025-10-26T02:30:00+01:00", False), ("2025-10-26T23:59:59+01:00", False),
        ("2025-10-27T00:00:00+01:00", True),
    ]),
    "23 hours in Berlin": ("Europe/Berlin", "day", [
        ("2025-03-29T23:59:59+01:00", True), ("2025-03-30T00:00:00+01:00", True),
        ("2025-03-30T03:00:00+02:00", False), ("2025-03-30T23:59:59+02:00", False), ("2025-03-31T00:00:00+02:00", True),
    ]),
    "midnight in UTC is none in Berlin": ("Europe/Berlin", "month", [
        ("2026-10-31T23:30:00+01:00", True), ("2026-11-01T00:30:00+01:00", True), ("2026-11-01T00:00:00+00:00", False),
        ("2026-11-30T23:30:00+00:00", True),
    ]),
    "a day that was left out": ("Pacific/Apia", "day", [
        ("2011-12-29T23:59:59-10:00", True), ("2011-12-31T00:00:00+14:00", True), ("2011-12-31T23:59:59+14:00", False),
    ]),
    "the end of a leap day": ("UTC", "day", [
        ("2028-02-28T23:59:59", True), ("2028-02-29T00:00:00", True), ("2028-02-29T23:59:59", False),
        ("2028-03-01T00:00:00", True),
    ]),
    "the end of February": ("UTC", "month", [
        ("2027-02-28T23:59:59", True), ("2027-03-01T00:00:00", True), ("2028-02-29T23:59:59", True),
        ("2028-02-01T00:00:00", False), ("2028-03-01T00:00:00", True), ("2027-02-01T00:00:00", False),
    ]),
    "a week over the year's end": ("UTC", "week", [
        ("2026-12-28T00:00:00", True), ("2026-12-31T23:59:59", False), ("2027-01-03T23:59:59", False),
        ("2027-01-04T00:00:00", True),
    ]),
    "back over midnight and forth": ("UTC", "day", [
        ("2026-11-20T23:59:00", True), ("2026-11-21T00:10:00", True), ("2026-11-20T23:50:00", False),
        ("2026-11-20T00:00:00", False), ("2026-11-21T00:10:00", False), ("2026-11-22T00:00:00", True),
        ("2026-11-21T12:00:00", False), ("2026-11-20T12:00:00", False),
    ]),
    "the hour that is told twice is two": ("Europe/Berlin", "hour", [
        ("2025-10-26T02:00:00+02:00", True), ("2025-10-26T02:59:59+02:00", False),
        ("2025-10-26T02:00:00+01:00", True), ("2025-10-26T02:59:59+01:00", False),
    ]),
    "rolling, whatever the calendar says": ("Europe/Berlin", "24h", [
        ("2025-10-26T00:00:00+02:00", True), ("2025-10-26T23:00:00+01:00", False),
        ("2025-10-27T00:00:00+01:00", True), ("2025-10-27T23:59:59+01:00", False),
    ]),
}  # fmt: skip


@pytest.mark.parametrize("name", TABLES)
async def test_when_a_budget_is_fresh(name: str, store: Store) -> None:
    zone, period, moments = TABLES[name]
    cap = Cap(ACCOUNT, 1_000, period, zone if period in ("day", "week", "month") else "UTC")
    ledger, said = Ledger(store), []
    with FrozenClock(at(moments[0][0], zone)) as time:
        for turn, (moment, _) in enumerate(moments):
            passed = at(moment, zone) - time.now()
            (time.advance if passed >= 0 else time.step)(passed)
            said.append((moment, await spend(ledger, cap, 1_000, turn)))

    assert said == moments


async def test_a_hold_from_before_midnight_settles_in_its_own_day(store: Store) -> None:
    """In Berlin's midnight, not in UTC's; also when the clock was set back meanwhile, and after its lease."""
    cap = Cap(ACCOUNT, 1_000, "day", "Europe/Berlin")
    ledger = Ledger(store)
    with FrozenClock(at("2025-10-26T23:59:59", "Europe/Berlin")) as time:
        early = await ledger.reserve("early", LABELS, (cap,), 700)
        lost = await ledger.reserve("lost", LABELS, (cap,), 300)
        assert isinstance(early, Reservation)
        assert isinstance(lost, Reservation)
        time.advance(2)
        assert await spend(ledger, cap, 1_000, "new day")
        await ledger.settle(early, 650)
        time.advance(100)
        await store.expire(int(time.now() * 1000))
        time.step(-200)
        refused = await ledger.reserve("again", LABELS, (cap,), 51)

    assert isinstance(refused, Refusal)
    assert (refused.spent, refused.held) == (950, 0)
    assert {found.window: found.spent for found in await store.balances(ACCOUNT)} == {
        "ever": 1_950, "day:2025-10-26@Europe/Berlin": 950, "day:2025-10-27@Europe/Berlin": 1_000,
    }  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(["minute", "hour", "day", "week", "month"]),
    st.sampled_from(["UTC", "Europe/Berlin", "Australia/Lord_Howe", "America/Havana", "Pacific/Apia"]),
    st.lists(st.tuples(st.floats(0, 1), st.floats(-2, 2), st.integers(1, 700)), min_size=5, max_size=30),
    st.integers(0, 2**32),
)
def test_no_window_ever_holds_more_than_its_limit(
    period: str, zone: str, turns: list[tuple[float, float, int]], seed: int
) -> None:
    """Two processes whose clocks go five minutes apart, set forth and back, around changes of summer time."""
    around = [
        at("2025-10-26T00:30:00+00:00"),
        at("2011-12-30T09:59:00+00:00"),
        at("2026-04-04T14:50:00+00:00"),
    ]
    lengths = {"minute": 60, "hour": HOUR, "day": DAY, "week": 7 * DAY, "month": 30 * DAY}
    cap, rng = Cap(ACCOUNT, 1_000, period, zone), random.Random(seed)
    booked: dict[str, int] = {}

    async def play() -> None:
        store = open_store("memory://")
        processes = [(Ledger(store), 0.0), (Ledger(store), 300.0)]
        now = rng.choice(around)
        for turn, (wait, jump, amount) in enumerate(turns):
            now += wait * lengths[period] / 3
            ledger, skew = rng.choice(processes)
            with FrozenClock(now + skew + (jump * lengths[period] if turn % 3 == 0 else 0.0)) as time:
                name = window(period, time.now(), zone).name
                if await spend(ledger, cap, amount, turn):
                    booked[name] = booked.get(name, 0) + amount

    asyncio.run(play())

    assert all(spent <= 1_000 for spent in booked.values())


async def test_caps_of_one_account_in_two_zones_are_two_budgets(store: Store) -> None:
    berlin, tokyo = (Cap(ACCOUNT, 1_000, "day", zone) for zone in ("Europe/Berlin", "Asia/Tokyo"))
    ledger = Ledger(store)
    with FrozenClock(at("2026-11-20T14:00:00")) as time:  # 15:00 in Berlin, 23:00 in Tokyo
        held = await ledger.reserve("a", LABELS, (berlin, tokyo), 600)
        assert isinstance(held, Reservation)
        await ledger.settle(held, 600)
        time.advance(2 * HOUR)
        refused = await ledger.reserve("b", LABELS, (tokyo, berlin), 401)

    assert isinstance(refused, Refusal)
    assert refused.cap is berlin
    assert refused.resets_at == at("2026-11-20T23:00:00")


@pytest.mark.parametrize("period", ["minute", "hour", "day", "month", "24h", "10m"])
@pytest.mark.parametrize("apart", [DAY, -DAY, 40 * DAY, 2 * HOUR])
async def test_a_machine_whose_clock_is_wrong_from_the_start_has_no_second_budget(
    store: Store,
    period: str,
    apart: float,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It finds out by the store's clock, where that is one of its own (Redis): what it spends counts by both."""
    noon = at("2026-11-20T12:00:30")
    cap = Cap(ACCOUNT, 1_000, period)

    async def time() -> float:
        return noon

    monkeypatch.setattr(store, "time", time)
    right, wrong = Ledger(store), Ledger(store)
    spent = 0
    for turn in range(30):
        for ledger, now in ((right, noon), (wrong, noon + apart)):
            with FrozenClock(now):
                await ledger._ask_time()
                if await spend(ledger, cap, 100, turn):
                    spent += 100
                else:
                    refused = await ledger.reserve(f"more {now} {turn}", LABELS, (cap,), 100)
                    assert isinstance(refused, Refusal)
                    assert refused.spent == 1_000

    assert spent == 1_000
    assert "clocks_apart" in caplog.text


async def test_redis_has_a_clock_of_its_own(redis_url: str) -> None:
    store = open_store(f"{redis_url}?prefix=clock")
    await store.open()
    told = await store.time()
    await store.close()

    assert told is not None
    assert abs(told - clock.now()) < 60


async def test_a_clock_that_may_not_be_asked_closes_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Redis whose rules (ACL) leave TIME out."""

    async def time() -> float:
        raise StoreUnavailable("NOPERM this user has no permissions to run the 'time' command")

    monkeypatch.setattr(store, "time", time)
    ledger = Ledger(store)
    await ledger.start()

    assert ledger.available
    assert await spend(ledger, Cap(ACCOUNT, 1_000, "24h"), 1_000, "a")
    await ledger.close()
