"""Rolling windows: a limit over many steps, in one atomic step of every store; never a second budget."""

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmshield.ledger import Cap, Ledger, Refusal, Reservation, tenant_account
from llmshield.stores import Balance, Grant, Labels, Line, Shortage, Standing, Store, open_store
from llmshield.testing import FrozenClock
from llmshield.windows import iso, length_ms, step_ms

LABELS = Labels("acme", "openai", "gpt-4o")
NOW = 1_900_000_000_000
ENDS = 2_000_000_000_000
SINCE = "24h:00000000100"


def step(number: int, limit: int | None = 1_000, account: str = "tenant=acme") -> Line:
    """A line of this step; the window counts from step 100 on."""
    return Line(account, f"24h:{number:011d}", limit, ENDS, SINCE)


async def reserve(
    store: Store, id: str, number: int, want: int, least: int | None = None
) -> Grant | Shortage:
    lines = (Line("tenant=acme", "ever"), step(number))
    return await store.reserve(id, lines, want, want if least is None else least, NOW + 60_000, NOW, LABELS)


async def test_a_limit_holds_for_the_sum_of_all_steps(store: Store) -> None:
    assert await reserve(store, "a", 100, 300) == Grant(300)
    assert await reserve(store, "b", 130, 300) == Grant(300)
    await store.settle("a", (Line("tenant=acme", "ever"), step(100)), 200, NOW, LABELS)
    assert await reserve(store, "c", 160, 400) == Grant(400)

    assert await reserve(store, "d", 160, 101) == Shortage(1, 200, 700, "24h:00000000100")
    assert await reserve(store, "e", 160, 5_000, 50) == Grant(100)
    assert await store.standing([step(160)]) == [Standing(200, 800, "24h:00000000100")]


async def test_what_is_older_does_not_count_and_what_is_ahead_does(store: Store) -> None:
    await reserve(store, "old", 99, 900)
    await reserve(store, "ahead", 5_000, 600)

    assert await reserve(store, "b", 160, 401) == Shortage(1, 0, 600, "24h:00000005000")
    assert await reserve(store, "c", 160, 400) == Grant(400)


async def test_other_lengths_and_other_accounts_do_not_count(store: Store) -> None:
    for index, line in enumerate(
        (
            Line("tenant=acme", "1h:00000000150", None, ENDS),
            Line("tenant=acme", "day:2026-11-20", None, ENDS),
            Line("tenant=acme", "ever"),
            Line("tenant=acme2", "24h:00000000150", None, ENDS),
            Line("tenant=acme,model=24h:", "24h:00000000150", None, ENDS),
            Line("tenant=acm", "24h:00000000150", None, ENDS),
        )
    ):
        await store.settle(f"s{index}", (line,), 999, NOW, LABELS)

    assert await store.standing([step(150)]) == [Standing(0, 0)]
    assert await reserve(store, "a", 150, 1_000) == Grant(1_000)


async def test_names_that_look_like_steps_stay_what_they_are(store: Store) -> None:
    """Parts of an account's name come from clients."""
    odd = "cap=24h:00000000100,tag:a=1h:5|x"
    line = step(150, 500, odd)
    await store.settle("a", (step(140, None, odd),), 400, NOW, LABELS)

    assert await store.standing([line]) == [Standing(400, 0, "24h:00000000140")]
    assert isinstance(await store.reserve("b", (line,), 101, 101, NOW + 1, NOW, LABELS), Shortage)


async def test_steps_that_nothing_is_on_are_not_the_oldest(store: Store) -> None:
    await reserve(store, "a", 100, 300)
    await store.release("a", (Line("tenant=acme", "ever"), step(100)))
    await reserve(store, "b", 120, 300)

    assert await store.standing([step(160)]) == [Standing(0, 300, "24h:00000000120")]


async def test_orphans_are_charged_in_their_own_step(store: Store) -> None:
    await reserve(store, "a", 110, 300)
    await store.expire(NOW + 60_000)

    assert await store.standing([step(160), step(110)]) == [Standing(300, 0, "24h:00000000110")] * 2
    assert Balance("tenant=acme", "24h:00000000110", 300, 0, 1, 0) in await store.balances("tenant=acme")


async def test_how_lines_stand(store: Store) -> None:
    day = Line("tenant=acme", "day:2026-11-20", 100, ENDS)
    await store.settle("a", (day,), 70, NOW, LABELS)
    await store.reserve("b", (day,), 30, 30, NOW + 60_000, NOW, LABELS)
    unknown = [Line(f"tenant={index}", "ever") for index in range(250)]

    assert await store.standing([]) == []
    assert await store.standing([*unknown, day, Line("tenant=acme", "ever")]) == [
        *[Standing(0, 0)] * 250, Standing(70, 30), Standing(0, 0),
    ]  # fmt: skip
    assert [found.account for found in await store.balances()] == ["tenant=acme"]


@pytest.mark.parametrize("url", ["memory", "sqlite"], indirect=True)
async def test_steps_are_forgotten_before_calendar_windows(store: Store) -> None:
    """An hour after they count no more; in Redis its own clock decides."""
    over = NOW - 3_600_001
    await store.settle("a", (step(100)._replace(ends_ms=over),), 70, NOW, LABELS)
    await store.settle("b", (step(101)._replace(ends_ms=over + 2),), 50, NOW, LABELS)
    await store.settle("c", (Line("tenant=acme", "day:2026-11-20", None, over),), 30, NOW, LABELS)
    await store.expire(NOW)

    assert await store.standing([step(160)]) == [Standing(50, 0, "24h:00000000101")]
    assert [found.window for found in await store.balances()] == ["24h:00000000101", "day:2026-11-20"]


async def test_redis_gives_steps_an_hour_and_forgets_their_names(redis_url: str) -> None:
    from redis.asyncio import Redis

    store = open_store(f"{redis_url}?prefix=steps")
    await store.open()
    client = Redis.from_url(redis_url)
    kept = "steps:{book}:acc:tenant=acme|"
    await store.settle("a", (step(100)._replace(ends_ms=NOW + 1_000),), 70, NOW, LABELS)
    await store.settle("b", (Line("tenant=acme", "day:x", None, NOW + 1_000),), 70, NOW, LABELS)
    left_s = [await client.ttl(kept + name) for name in ("24h:00000000100", "day:x")]
    await client.delete(kept + "24h:00000000100")
    await store.settle("c", (step(101),), 5, NOW, LABELS)
    names = await client.smembers("steps:{book}:accounts")
    listed = await client.zrange("steps:{book}:steps:tenant=acme|24h:", 0, -1)
    await client.aclose()
    await store.close()

    assert 3_590 <= left_s[0] <= 3_602
    assert left_s[1] > 6 * 86_400
    assert names == {b"tenant=acme|24h:00000000101", b"tenant=acme|day:x"}
    assert listed == [b"tenant=acme|24h:00000000101"]


CAP = 1_000_000_000_000


async def race(spend: Any, store: Store, run: int) -> None:
    processes, clients = 4, 16
    spent = await spend(run, processes, clients, CAP, 200, "rolling")
    found = [each for each in await store.balances("tenant=acme") if each.window != "ever"]

    assert spent == sum(each.spent for each in found) <= CAP
    assert CAP - spent < CAP // 200 * processes * clients
    assert sum(each.held for each in found) == 0
    assert len(found) > 10


@pytest.mark.parametrize("url", ["sqlite", "redis"], indirect=True)
async def test_a_rolling_cap_is_never_overspent(store: Store, spend: Any) -> None:
    """4 processes x 16 clients, each reservation in a step of its own choice: overshoot is exactly 0."""
    await race(spend, store, 0)


@pytest.mark.nightly
@pytest.mark.parametrize("run", range(100))
@pytest.mark.parametrize("url", ["sqlite", "redis"], indirect=True)
async def test_a_rolling_cap_is_never_overspent_many_times(store: Store, run: int, spend: Any) -> None:
    await race(spend, store, run)


MOVES = st.lists(
    st.tuples(
        st.floats(0, 0.4),  # share of the window that goes by
        st.integers(1, 400),  # wanted
        st.floats(0, 1),  # share of it that it costs
        st.sampled_from([0.0, 0.0, 0.0, -0.1, -0.5, 0.5, -3.0, 3.0]),  # share by which the clock is wrong now
    ),
    min_size=5,
    max_size=40,
)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(["1m", "10m", "24h", "7d"]), MOVES)
def test_no_stretch_of_real_time_holds_more(
    period: str, moves: list[tuple[float, int, float, float]]
) -> None:
    """What was reserved in any stretch of the window's length adds up to the limit at the most, by a clock that nobody
    touches; the machine's own is set forth and back all the time."""
    length = length_ms(period) / 1000
    cap = Cap(tenant_account("acme"), 1_000, period)
    spends: list[tuple[float, int]] = []

    async def play() -> None:
        ledger = Ledger(open_store("memory://"))
        wrong = 0.0
        for turn, (wait, want, share, off) in enumerate(moves):
            time.advance(wait * length)
            time.step(off * length - wrong)
            wrong = off * length
            held = await ledger.reserve(f"r{turn}", LABELS, (cap,), want, 1)
            if isinstance(held, Reservation):
                cost = int(held.amount * share)
                await ledger.settle(held, cost)
                spends.append((time.monotonic(), cost))

    with FrozenClock(1_795_000_000.0) as time:
        asyncio.run(play())
    for begin, _ in spends:
        within = sum(cost for at, cost in spends if begin <= at < begin + length)

        assert within <= 1_000


async def test_room_comes_back_step_by_step() -> None:
    cap = Cap(tenant_account("acme"), 1_000, "24h")
    with FrozenClock(1_795_000_000.0) as time:
        ledger = Ledger(open_store("memory://"))
        ledger.declare(lambda tenant: (cap,))
        for turn in range(10):
            held = await ledger.reserve(f"r{turn}", LABELS, (cap,), 100)
            assert isinstance(held, Reservation)
            await ledger.settle(held, 100)
            time.advance(3_600)
        refused = await ledger.reserve("x", LABELS, (cap,), 100)
        assert isinstance(refused, Refusal)
        assert (refused.spent, refused.held) == (1_000, 0)
        first_leaves = 1_795_000_000 + 86_400 + step_ms("24h") / 1000
        assert first_leaves - step_ms("24h") / 1000 < refused.resets_at <= first_leaves
        said: dict[str, Any] = (await ledger.usage(("acme",)))["tenants"]["acme"]["budgets"][0]
        assert (said["window"], said["remaining_usd"]) == ("24h", "0.000000000000")
        assert said["resets_at"] == iso(refused.resets_at)
        time.advance(refused.resets_at - time.now() - 1)
        assert isinstance(await ledger.reserve("y", LABELS, (cap,), 100), Refusal)
        time.advance(1.001)

        assert isinstance(await ledger.reserve("z", LABELS, (cap,), 100), Reservation)
        assert isinstance(await ledger.reserve("z2", LABELS, (cap,), 100), Refusal)


async def test_sums_over_steps_are_exact_at_any_size(store: Store) -> None:
    """Doubles are exact to 2^53 only, and Lua has nothing else; sums are cut, never wrapped."""
    amounts = [2**53 + 1, 999_999_999, 10**18 - 1, 1, 10**9, 10**9 - 1, 3]
    for index, amount in enumerate(amounts):
        await store.settle(f"s{index}", (step(100 + index, None),), amount, NOW, LABELS)
        await store.reserve(
            f"h{index}", (step(100 + index, None),), amount + 7, amount + 7, ENDS, NOW, LABELS
        )
    (found,) = await store.standing([step(160)])
    assert found == Standing(sum(amounts), sum(amounts) + 49, "24h:00000000100")
    for index in range(3):
        await store.settle(f"b{index}", (step(130 + index, None),), 2**62 - 1, NOW, LABELS)

    assert (await store.standing([step(160)]))[0].spent == 2**62 - 1


async def test_a_book_that_was_wiped_counts_nothing(store: Store) -> None:
    await reserve(store, "a", 120, 300)
    await store.turn("next", wipe=True)

    assert await store.standing([step(160)]) == [Standing(0, 0)]
    assert await reserve(store, "b", 120, 1_000) == Grant(1_000)
    assert await store.standing([step(160)]) == [Standing(0, 1_000, "24h:00000000120")]
