"""What every store promises: the same steps, the same answers, on memory, a SQLite file and a real redis-server."""

import asyncio
import random

import pytest

from llmshield.errors import StoreError
from llmshield.stores import (
    MAX_AMOUNT,
    Balance,
    Entry,
    Grant,
    Labels,
    Line,
    Seat,
    Settled,
    Shortage,
    Store,
    Window,
    open_store,
)

LABELS = Labels("acme", "openai", "gpt-4o")
DAY = Line("tenant=acme", "day:2026-11-20", 1_000, 2_000_000_000_000)
EVER = Line("tenant=acme", "ever")
LINES = (EVER, DAY)
NOW = 1_900_000_000_000
LEASE = NOW + 60_000


async def balance(store: Store, line: Line) -> tuple[int, int]:
    """Spent and held of one account."""
    for found in await store.balances(line.account):
        if (found.account, found.window) == (line.account, line.window):
            return found.spent, found.held
    return 0, 0


async def entries(store: Store) -> list[Entry]:
    return [entry async for entry in store.journal()]


async def reserve(
    store: Store,
    id: str,
    want: int,
    least: int | None = None,
    lines: tuple[Line, ...] = LINES,
    now: int = NOW,
) -> Grant | Shortage:
    return await store.reserve(id, lines, want, want if least is None else least, now + 60_000, now, LABELS)


async def test_a_reservation_is_held_on_every_line_and_settled_once(store: Store) -> None:
    assert Grant(700) == await reserve(store, "a", 700)
    assert await balance(store, DAY) == (0, 700)
    assert await balance(store, EVER) == (0, 700)
    assert await store.holds() == 1

    assert Settled(200, 700) == await store.settle("a", LINES, 200, NOW, LABELS, 11, 7)
    assert Settled(0, 0) == await store.settle("a", LINES, 200, NOW, LABELS, 11, 7)

    assert await balance(store, DAY) == (200, 0)
    assert await balance(store, EVER) == (200, 0)
    assert [
        Entry("a", "settle", NOW, 200, LABELS, 11, 7, (("tenant=acme", "ever"), ("tenant=acme", DAY.window)))
    ] == await entries(store)
    assert [
        Balance("tenant=acme", DAY.window, 200, 0, 1, 18),
        Balance("tenant=acme", "ever", 200, 0, 1, 18),
    ] == await store.balances()


async def test_no_room_holds_nothing(store: Store) -> None:
    await reserve(store, "a", 700)

    assert Shortage(1, 0, 700) == await reserve(store, "b", 301)
    assert await balance(store, EVER) == (0, 700)
    assert Grant(300) == await reserve(store, "c", 300)
    assert Shortage(1, 0, 1_000) == await reserve(store, "d", 1)
    assert Grant(0) == await reserve(store, "e", 0)


async def test_as_much_as_there_is(store: Store) -> None:
    tight = Line("model=x", "ever", 250)
    await reserve(store, "a", 700)

    assert Grant(250) == await reserve(store, "b", 5_000, 250, (*LINES, tight))
    assert await balance(store, tight) == (0, 250)
    assert await balance(store, DAY) == (0, 950)


async def test_a_grant_tells_what_the_tightest_line_has_left(store: Store) -> None:
    tight, rolling = (
        Line("model=x", "ever", 250),
        Line("key=k", "24h:00000001000", 5_000, 0, "24h:00000000941"),
    )
    none = await reserve(store, "a", 100, lines=(EVER,))
    first = await reserve(store, "b", 200, lines=(EVER, DAY, tight))
    then = await reserve(store, "c", 40, lines=(EVER, tight, DAY, rolling))
    huge = await reserve(store, "d", 10**15, lines=(EVER, Line("model=y", "ever", 10**17 + 1)))
    again = await reserve(store, "b", 200, lines=(EVER, DAY, tight))

    found = [(each.left, each.line) for each in (none, first, then, huge, again) if isinstance(each, Grant)]
    assert found == [(None, 0), (50, 2), (10, 1), (99 * 10**15 + 1, 1), (None, 0)]


async def test_every_step_can_be_repeated(store: Store) -> None:
    assert Grant(700) == await reserve(store, "a", 700)
    assert Grant(700, repeated=True) == await reserve(store, "a", 700)
    assert await balance(store, DAY) == (0, 700)
    assert await store.release("a", LINES) == 700
    assert await store.release("a", LINES) == 0
    assert await balance(store, DAY) == (0, 0)

    await reserve(store, "b", 500)
    await store.settle("b", LINES, 100, NOW, LABELS)

    assert Grant(0, repeated=True) == await reserve(store, "b", 500)
    assert await store.release("b", LINES) == 0
    assert await balance(store, DAY) == (100, 0)


async def test_a_lost_hold_is_charged_all_the_same(store: Store) -> None:
    assert Settled(120, 0) == await store.settle("gone", LINES, 120, NOW, LABELS)
    assert await balance(store, DAY) == (120, 0)


async def test_what_nobody_comes_back_for_is_charged_in_full(store: Store) -> None:
    await reserve(store, "a", 700)
    await reserve(store, "b", 100)
    assert await store.renew(["b", "unknown"], LEASE + 60_000) == 1

    assert await store.expire(LEASE - 1) == 0
    assert await store.expire(LEASE) == 1
    assert await store.expire(LEASE) == 0

    assert await balance(store, DAY) == (700, 100)
    assert [entry.kind for entry in await entries(store)] == ["expire"]
    assert (await entries(store))[0].labels == LABELS


@pytest.mark.parametrize(("actual", "charged"), [(900, 200), (250, -450), (700, 0)])
async def test_a_late_settle_corrects_to_the_truth(store: Store, actual: int, charged: int) -> None:
    await reserve(store, "a", 700)
    await store.expire(LEASE)

    assert Settled(charged, 0) == await store.settle("a", LINES, actual, LEASE + 5, LABELS, 3, 4)
    assert Settled(0, 0) == await store.settle("a", LINES, actual, LEASE + 6, LABELS, 3, 4)

    assert (actual, 0) == await balance(store, DAY)
    assert actual == sum(entry.amount for entry in await entries(store))
    assert [found.requests for found in await store.balances()] == [1, 1]


async def test_reserving_deals_with_due_holds_on_its_way(store: Store) -> None:
    await reserve(store, "a", 700)

    assert Grant(100) == await reserve(store, "b", 100, now=LEASE + 2_000)
    assert await balance(store, DAY) == (700, 100)


@pytest.mark.parametrize("limit", [2**53 - 1, 2**53 + 1, 9_007_199_254_740_993_123, MAX_AMOUNT])
async def test_limits_hold_to_the_last_unit(store: Store, limit: int) -> None:
    """Doubles are exact to 2^53 only, and Lua has nothing else."""
    lines = (Line("big", "ever", min(limit, MAX_AMOUNT)),)
    limit = min(limit, MAX_AMOUNT)

    assert Grant(limit - 1) == await reserve(store, "a", limit - 1, lines=lines)
    assert Shortage(0, 0, limit - 1) == await reserve(store, "b", 2, lines=lines)
    assert Grant(1) == await reserve(store, "c", 2, 1, lines)
    await store.settle("a", lines, limit - 2, NOW, LABELS)
    assert (limit - 2, 1) == await balance(store, lines[0])


async def test_sums_are_cut_and_never_wrap(store: Store) -> None:
    lines = (Line("big", "ever"),)
    for id in ("a", "b", "c"):
        await store.settle(id, lines, MAX_AMOUNT, NOW, LABELS)

    assert await balance(store, lines[0]) == (MAX_AMOUNT, 0)


async def test_names_are_taken_literally(store: Store) -> None:
    for name in (
        "tenant=a%",
        "tenant=a_",
        "tenant=ab",
        "tenant=*",
        "tenant='; DROP TABLE account; --",
        "tenant=ü|x",
    ):
        await store.settle(name, (Line(name, "ever"),), 1, NOW, Labels("'", "\n{}", "*\r"))

    assert [found.account for found in await store.balances("tenant=a%")] == ["tenant=a%"]
    assert len(await store.balances("tenant=")) == 6
    assert len(await entries(store)) == 6


async def test_the_journal_is_read_in_order_and_by_time(store: Store) -> None:
    for index in range(2_500):
        await store.settle(f"s{index:04}", (EVER,), index, NOW + index, LABELS)

    found = await entries(store)

    assert list(range(2_500)) == [entry.amount for entry in found]
    assert [entry.amount async for entry in store.journal(NOW + 7, NOW + 9)] == [7, 8]
    assert sum(entry.amount for entry in found) == (await balance(store, EVER))[0]


async def test_at_the_same_time_one_of_them(store: Store) -> None:
    answers = await asyncio.gather(*[reserve(store, f"r{index}", 300) for index in range(50)])

    assert sum(isinstance(answer, Grant) for answer in answers) == 3
    assert await balance(store, DAY) == (0, 900)


async def test_a_step_that_nobody_waits_for_harms_no_other(store: Store) -> None:
    tasks = [asyncio.create_task(reserve(store, f"r{index}", 10)) for index in range(40)]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for index in range(40):
        await store.release(f"r{index}", LINES)

    assert await balance(store, DAY) == (0, 0)
    assert Grant(1_000) == await reserve(store, "after", 1_000)


HOUR = Window("tenant=acme", 3, 3_600)
STEP = 60_000


async def test_a_window_holds_its_limit_in_any_stretch(store: Store) -> None:
    for index in range(3):
        said = await store.admit([HOUR], [], NOW + index * STEP)
        assert (-1, (index + 1,)) == (said.refused, said.used)

    said = await store.admit([HOUR], [], NOW + 3 * STEP)

    assert (said.refused, said.used) == (0, (3,))
    free_at = (NOW // STEP + 61) * STEP
    assert free_at - (NOW + 3 * STEP) == said.wait_ms == said.resets_ms[0]
    assert (await store.admit([HOUR], [], free_at - 1)).refused == 0
    assert (await store.admit([HOUR], [], free_at)).refused == -1
    assert (await store.admit([HOUR], [], free_at)).refused == 0


async def test_a_refused_step_counts_nowhere(store: Store) -> None:
    day = Window("tenant=acme", 100, 86_400)
    seat = Seat("tenant=acme", 9, "call", NOW + 60_000)
    for _ in range(3):
        await store.admit([HOUR, day], [], NOW)
    for _ in range(5):
        assert (await store.admit([HOUR, day], [seat], NOW)).refused == 0

    said = await store.admit([day], [], NOW)

    assert said.used == (4,)


async def test_the_window_that_takes_longest_is_named(store: Store) -> None:
    day = Window("tenant=acme", 3, 86_400)
    for _ in range(3):
        await store.admit([HOUR, day], [], NOW)

    assert (await store.admit([HOUR, day], [], NOW)).refused == 1


async def test_a_clock_that_steps_back_opens_no_window(store: Store) -> None:
    for _ in range(3):
        await store.admit([HOUR], [], NOW)

    assert (await store.admit([HOUR], [], NOW - 3_000_000)).refused == 0


async def test_counting_more_and_less(store: Store) -> None:
    """What is taken back is taken from the step it was counted in, and from no other."""
    await store.count([HOUR], NOW, 2)
    await store.count([HOUR], NOW + STEP, 5)
    assert (await store.admit([HOUR], [], NOW + STEP)).used == (7,)
    await store.count([HOUR], NOW + STEP, -5, NOW + STEP)
    assert (await store.admit([HOUR], [], NOW + STEP)).used == (3,)
    await store.count([HOUR], NOW + 2 * STEP, -60, NOW)
    assert (await store.admit([HOUR], [], NOW + STEP)).used == (2,)
    await store.count([HOUR], NOW + STEP, -60)
    assert (await store.admit([HOUR], [], NOW + STEP)).used == (1,)
    await store.count([HOUR], NOW + 2 * STEP, -60, NOW + 5 * STEP)
    assert (await store.admit([HOUR], [], NOW + STEP)).used == (2,)


async def test_what_has_left_the_window_is_not_taken_from_others(store: Store) -> None:
    later = NOW + 61 * STEP
    await store.admit([HOUR], [], NOW, 3)
    await store.count([HOUR], later, 2)
    await store.count([HOUR], later, -3, NOW)

    assert (await store.admit([HOUR], [], later)).used == (3,)


async def test_seats_are_taken_left_kept_and_lost(store: Store) -> None:
    def seat(id: str, until_ms: int = NOW + 60_000) -> Seat:
        return Seat("tenant=acme", 2, id, until_ms)

    assert (await store.admit([], [seat("a")], NOW)).refused == -1
    assert (await store.admit([], [seat("a")], NOW)).refused == -1
    assert (await store.admit([HOUR], [seat("b")], NOW)).refused == -1
    assert (await store.admit([HOUR], [seat("c")], NOW)).refused == 1
    await store.leave([seat("a")])
    assert (await store.admit([], [seat("c")], NOW)).refused == -1
    await store.sit([seat("c", NOW + 120_000)])
    await asyncio.sleep(0.02)

    late = NOW + 60_000
    assert (await store.admit([], [seat("d", late + 60_000)], late)).refused == -1
    assert (await store.admit([], [seat("e", late + 60_000)], late)).refused == 0


@pytest.mark.parametrize("name", ["nowhere", "os", "mem-ory"])
def test_an_unknown_scheme_is_refused(name: str) -> None:
    with pytest.raises(StoreError, match="there are memory, redis, sqlite"):
        open_store(f"{name}://x")


@pytest.mark.parametrize("text", ["memory", "", "sqlite:", "memory:x"])
def test_what_is_no_url_is_refused(text: str) -> None:
    with pytest.raises(StoreError, match="A store is named like"):
        open_store(text)


def test_an_unknown_option_is_refused() -> None:
    with pytest.raises(StoreError, match="no option 'nosuch'"):
        open_store("sqlite:///x.db?nosuch=1")


async def test_one_value_that_cannot_be_kept_harms_no_other(store: Store) -> None:
    bad = store.settle("bad", (Line("tenant=\ud83d", "ever"),), 1, NOW, LABELS)
    said = await asyncio.gather(reserve(store, "a", 10), bad, reserve(store, "b", 10), return_exceptions=True)
    if isinstance(said[0], Exception):  # Redis: a pipeline is refused as a whole, and can be repeated
        said[0], said[2] = await reserve(store, "a", 10), await reserve(store, "b", 10)

    assert (said[0], said[2]) == (Grant(10), Grant(10))
    assert await balance(store, DAY) == (0, 20)


async def test_what_is_over_is_forgotten_and_the_rest_is_not(store: Store) -> None:
    await reserve(store, "a", 10)
    await store.settle("a", LINES, 10, NOW, LABELS)
    await store.admit([HOUR], [Seat("x", 1, "id", NOW + 60_000)], NOW)
    await store.expire(DAY.ends_ms + 8 * 86_400_000)

    assert (await balance(store, EVER))[0] == 10
    assert len(await entries(store)) == 1


async def test_sums_are_exact_at_any_size(store: Store) -> None:
    """300 random reservations and settlements of up to 10^16, against Python's integers."""
    rng = random.Random(13)
    lines = (Line("exact", "ever", 10**18), Line("exact", "day:1", None, 2_000_000_000_000))
    spent = 0
    holds: dict[str, int] = {}
    for index in range(300):
        want = rng.randrange(10 ** rng.randrange(1, 17))
        granted = await reserve(store, f"h{index}", want, lines=lines)
        assert granted == Grant(want)
        holds[f"h{index}"] = want
        if rng.random() < 0.7:
            id = rng.choice(sorted(holds))
            held = holds.pop(id)
            if rng.random() < 0.3:
                assert await store.release(id, lines) == held
            else:
                actual = rng.randrange(held + 1)
                assert await store.settle(id, lines, actual, NOW, LABELS) == Settled(actual, held)
                spent += actual
        for line in lines:
            assert await balance(store, line) == (spent, sum(holds.values()))
    left = 10**18 - spent - sum(holds.values())
    assert await reserve(store, "rest", 10**18, 1, lines) == Grant(left)


async def test_orphans_of_a_large_crash_are_charged_at_once(store: Store) -> None:
    """More than fit in one step of a store: `expire` leaves none."""
    for number in range(1_050):
        assert await store.reserve(f"id{number}", (EVER,), 3, 3, NOW + 1, NOW, LABELS) is not None
    assert await store.expire(NOW) == 0
    assert await store.expire(NOW + 1) == 1_050

    assert await store.holds() == 0
    assert await balance(store, EVER) == (3_150, 0)
    assert {entry.kind for entry in await entries(store)} == {"expire"}
