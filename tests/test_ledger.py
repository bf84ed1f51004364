"""The ledger: windows, refusals, settles that survive a store's absence, figures for the admin port."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from llmshield.errors import StoreUnavailable
from llmshield.ledger import (
    EVER,
    LEASE_S,
    Cap,
    Ledger,
    Refusal,
    Reservation,
    account,
    tenant_account,
)
from llmshield.stores import Labels, Store, open_store
from llmshield.testing import FrozenClock

LABELS = Labels("acme", "openai", "gpt-4o")
CAP = Cap(tenant_account("acme"), 1_000, "day")
MIDNIGHT = datetime(2026, 11, 21, tzinfo=UTC).timestamp()


@pytest.fixture
def time() -> Iterator[FrozenClock]:
    with FrozenClock(MIDNIGHT - 3_600) as frozen:
        yield frozen


@pytest.fixture
async def store() -> Store:
    return open_store("memory://")


@pytest.fixture
async def ledger(store: Store, time: FrozenClock) -> AsyncIterator[Ledger]:
    opened = Ledger(store)
    await opened.start()
    yield opened
    await opened.close()


async def reserved(ledger: Ledger, id: str, amount: int, caps: tuple[Cap, ...] = (CAP,)) -> Reservation:
    found = await ledger.reserve(id, LABELS, caps, amount)
    assert isinstance(found, Reservation)
    return found


async def balances(store: Store) -> dict[str, tuple[int, int]]:
    return {found.window: (found.spent, found.held) for found in await store.balances(CAP.account)}


async def test_reserve_settle_release(ledger: Ledger, store: Store) -> None:
    first, second = await reserved(ledger, "a", 600), await reserved(ledger, "b", 400)
    assert await balances(store) == {EVER: (0, 1_000), "day:2026-11-20": (0, 1_000)}
    await ledger.settle(first, 250, 10, 5)
    await ledger.settle(first, 250, 10, 5)
    await ledger.release(first)
    await ledger.release(second)
    await ledger.settle(second, 400)

    assert await balances(store) == {EVER: (250, 0), "day:2026-11-20": (250, 0)}


async def test_a_refusal_says_what_there_is_and_until_when(ledger: Ledger) -> None:
    await ledger.settle(await reserved(ledger, "a", 600), 550)
    await reserved(ledger, "b", 300)

    assert await ledger.reserve("c", LABELS, (CAP,), 151) == Refusal(CAP, 550, 300, MIDNIGHT)


async def test_as_much_as_there_is(ledger: Ledger) -> None:
    await reserved(ledger, "a", 900)
    found = await ledger.reserve("b", LABELS, (CAP,), 5_000, 50)

    assert isinstance(found, Reservation)
    assert (found.amount, found.wanted) == (100, 5_000)


async def test_the_tightest_cap_counts(ledger: Ledger) -> None:
    hour = Cap(CAP.account, 100, "hour")
    model = Cap(account(model="gpt-4o"), 50, "month")

    found = await ledger.reserve("a", LABELS, (CAP, hour, model), 60)
    assert isinstance(found, Refusal)
    assert found.cap is model
    assert found.resets_at == datetime(2026, 12, 1, tzinfo=UTC).timestamp()


async def test_of_two_caps_on_one_account_the_lower_holds(ledger: Ledger, store: Store) -> None:
    lower = Cap(CAP.account, 400, "day")
    held = await reserved(ledger, "a", 300, (CAP, lower, CAP))

    found = await ledger.reserve("b", LABELS, (CAP, lower, CAP), 200)
    assert isinstance(found, Refusal)
    assert found.cap is lower
    await ledger.settle(held, 300)
    assert await balances(store) == {EVER: (300, 0), "day:2026-11-20": (300, 0)}


async def test_a_new_window_is_a_new_budget_and_an_old_one_is_not(ledger: Ledger, time: FrozenClock) -> None:
    await ledger.settle(await reserved(ledger, "a", 1_000), 1_000)
    assert isinstance(await ledger.reserve("b", LABELS, (CAP,), 1), Refusal)
    time.advance(3_600)
    await ledger.settle(await reserved(ledger, "c", 1_000), 1_000)
    time.step(-3_601)

    assert isinstance(await ledger.reserve("d", LABELS, (CAP,), 1), Refusal)


async def test_a_call_over_midnight_is_paid_in_the_window_that_it_began_in(
    ledger: Ledger, store: Store, time: FrozenClock
) -> None:
    held = await reserved(ledger, "a", 700)
    time.advance(3_700)
    await ledger.settle(held, 300)

    assert await balances(store) == {EVER: (300, 0), "day:2026-11-20": (300, 0)}


async def test_what_a_crashed_process_held_is_charged_at_the_next_start(
    store: Store, time: FrozenClock
) -> None:
    crashed = Ledger(store)
    await reserved(crashed, "a", 700)
    time.advance(LEASE_S + 1)
    again = Ledger(store)
    await again.start()
    await again.close()

    assert again.expired == 1
    assert (await balances(store))[EVER] == (700, 0)


async def test_what_is_under_way_is_renewed(store: Store, time: FrozenClock) -> None:
    ledger, other = Ledger(store), Ledger(store)
    await ledger.start()
    held = await reserved(ledger, "a", 700)
    for _ in range(4):
        time.advance(LEASE_S / 2)
        await asyncio.sleep(1.1)
        await other._store.expire(int(time.now() * 1000))
    await ledger.close()

    assert (await balances(store))[EVER] == (0, 700)
    await ledger.settle(held, 5)


class Flaky:
    """A store whose next steps are lost: before they happen, or after."""

    def __init__(self, inner: Store) -> None:
        self.inner = inner
        self.unfit = inner.unfit
        self.lost_before = self.lost_after = 0

    def __getattr__(self, name: str) -> Any:
        step = getattr(self.inner, name)

        async def take(*args: Any, **kwargs: Any) -> Any:
            if self.lost_before:
                self.lost_before -= 1
                raise StoreUnavailable("before")
            said = await step(*args, **kwargs)
            if self.lost_after:
                self.lost_after -= 1
                raise StoreUnavailable("after")
            return said

        return take


@pytest.mark.parametrize("lost", ["lost_before", "lost_after"])
@pytest.mark.parametrize("how", ["settle", "release"])
async def test_an_end_that_was_lost_is_tried_until_it_is_in(
    store: Store, time: FrozenClock, lost: str, how: str
) -> None:
    flaky = Flaky(store)
    ledger = Ledger(flaky)  # type: ignore[arg-type]
    held = await reserved(ledger, "a", 700)
    setattr(flaky, lost, 2)
    if how == "settle":
        await ledger.settle(held, 123)
    else:
        await ledger.release(held)
    await asyncio.sleep(1.0)
    await ledger.close()

    assert (await balances(store))[EVER] == ((123 if how == "settle" else 0), 0)
    assert ledger._open == {}


async def test_a_caller_that_gives_up_holds_nothing(store: Store, time: FrozenClock) -> None:
    ledger = Ledger(store)
    asked = asyncio.Event()

    class Slow(Flaky):
        def __getattr__(self, name: str) -> Any:
            step = getattr(self.inner, name)

            async def take(*args: Any, **kwargs: Any) -> Any:
                said = await step(*args, **kwargs)
                if name == "reserve":
                    asked.set()
                    await asyncio.sleep(5)
                return said

            return take

    ledger._store = Slow(store)  # type: ignore[assignment]
    asking = asyncio.create_task(reserved(ledger, "a", 700))
    await asked.wait()
    asking.cancel()
    await asyncio.wait({asking})
    await asyncio.sleep(0.3)
    await ledger.close()

    assert (await balances(store))[EVER] == (0, 0)


@pytest.mark.parametrize("lost", ["lost_before", "lost_after"])
async def test_a_reservation_that_was_lost_holds_nothing(store: Store, time: FrozenClock, lost: str) -> None:
    flaky = Flaky(store)
    ledger = Ledger(flaky)  # type: ignore[arg-type]
    setattr(flaky, lost, 1)
    with pytest.raises(StoreUnavailable):
        await reserved(ledger, "a", 700)
    await asyncio.sleep(0.3)
    await ledger.close()

    assert all(held == 0 for _, held in (await balances(store)).values())


async def test_usage(ledger: Ledger) -> None:
    ledger.declare(lambda tenant: (CAP,) if tenant == "acme" else ())
    await ledger.settle(await reserved(ledger, "a", 600), 123, 10, 5)
    await reserved(ledger, "b", 300)

    assert await ledger.usage(("acme", "umbrella")) == {
        "tenants": {
            "acme": {
                "spent_usd": "0.000000000123",
                "held_usd": "0.000000000300",
                "budgets": [
                    {
                        "account": "tenant=acme",
                        "limit_usd": "0.000000001000",
                        "window": "day",
                        "time_zone": "UTC",
                        "spent_usd": "0.000000000123",
                        "held_usd": "0.000000000300",
                        "remaining_usd": "0.000000000577",
                        "resets_at": "2026-11-21T00:00:00Z",
                    }
                ],
                "requests": 1,
                "tokens": 15,
            },
            "umbrella": {
                "spent_usd": "0.000000000000",
                "held_usd": "0.000000000000",
                "budgets": [],
                "requests": 0,
                "tokens": 0,
            },
        }
    }


async def test_a_lock_is_known_to_all_and_ends(store: Store, ledger: Ledger, time: FrozenClock) -> None:
    other = Ledger(store)
    await ledger.lock("acme, inc.", "a.1", int(MIDNIGHT * 1000))
    await ledger.lock("acme, inc.", "a.1", int(MIDNIGHT * 1000))
    assert await other.locks() == {"acme, inc.": MIDNIGHT}
    time.advance(3_601)
    await store.expire(int(time.now() * 1000))

    assert await other.locks() == {}


@given(
    st.dictionaries(st.sampled_from(["tenant", "model", "key", "tag:a"]), st.text(max_size=8)),
    st.dictionaries(st.sampled_from(["tenant", "model", "key", "tag:a"]), st.text(max_size=8)),
)
def test_no_two_sets_of_parts_share_an_account(first: dict[str, str], second: dict[str, str]) -> None:
    assert (account(**first) == account(**second)) == (first == second)


class Books(RuleBasedStateMachine):
    """Reserve, settle, release, expire and repeat in any order: the book is what adding up gives."""

    @initialize()
    def begin(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.time = FrozenClock(MIDNIGHT - 3_600)
        self.time.__enter__()
        self.store = open_store("memory://")
        self.ledger = Ledger(self.store)
        self.held: dict[str, Reservation] = {}
        self.ended: list[Reservation] = []
        self.orphans: dict[str, tuple[Reservation, float]] = {}
        self.spent = 0
        self.turn = 0

    def teardown(self) -> None:
        if hasattr(self, "loop"):
            self.time.__exit__()
            self.loop.close()

    def wait(self, work: Any) -> Any:
        return self.loop.run_until_complete(work)

    @rule(want=st.integers(0, 700), least=st.integers(0, 700))
    def reserve(self, want: int, least: int) -> None:
        self.turn += 1
        room = (
            1_000
            - self.spent
            - sum(held.amount for held in self.held.values())
            - sum(o.amount for o, _ in self.orphans.values())
        )
        found = self.wait(self.ledger.reserve(f"r{self.turn}", LABELS, (CAP,), want, min(least, want)))
        if isinstance(found, Reservation):
            assert found.amount == min(want, max(room, 0))
            self.held[found.id] = found
        else:
            assert max(room, 0) < min(least, want)

    @rule(data=st.data(), share=st.floats(0, 1))
    def settle(self, data: st.DataObject, share: float) -> None:
        if self.held:
            held = self.held.pop(data.draw(st.sampled_from(sorted(self.held))))
            actual = int(held.amount * share)
            self.wait(self.ledger.settle(held, actual))
            self.spent += actual
            self.ended.append(held)

    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        if self.held:
            held = self.held.pop(data.draw(st.sampled_from(sorted(self.held))))
            self.wait(self.ledger.release(held))
            self.ended.append(held)

    @rule(data=st.data())
    def again(self, data: st.DataObject) -> None:
        if self.ended:
            held = data.draw(st.sampled_from(self.ended))
            self.wait(self.store.settle(held.id + "x", (), 0, 0, LABELS))
            self.wait(self.ledger.settle(held, 999))
            self.wait(self.ledger.release(held))

    @rule(data=st.data())
    def crash(self, data: st.DataObject) -> None:
        if self.held:
            held = self.held.pop(data.draw(st.sampled_from(sorted(self.held))))
            self.ledger._open.pop(held.id)
            self.orphans[held.id] = (held, self.time.now() + LEASE_S)

    @rule()
    def lease_ends(self) -> None:
        self.time.advance(1)
        self.wait(self.store.renew(tuple(self.held), int((self.time.now() + LEASE_S) * 1000)))
        self.time.advance(LEASE_S - 1)
        self.wait(self.store.renew(tuple(self.held), int((self.time.now() + LEASE_S) * 1000)))
        self.wait(self.store.expire(int(self.time.now() * 1000)))
        for id, (held, _) in list(self.orphans.items()):
            self.spent += held.amount
            del self.orphans[id]

    @invariant()
    def the_book_adds_up(self) -> None:
        if not hasattr(self, "loop"):
            return
        found = self.wait(balances(self.store)).get(EVER, (0, 0))
        held = sum(one.amount for one in self.held.values()) + sum(
            one.amount for one, _ in self.orphans.values()
        )

        async def journal() -> int:
            return sum([entry.amount async for entry in self.store.journal()])

        assert found == (self.spent, held)
        assert self.wait(journal()) == self.spent


Books.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestBooks = Books.TestCase


async def test_a_store_that_reads_and_writes_nothing_is_told_once_and_as_long_as_it_lasts(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A full disk: the keeper's looks alone would go well, and /readyz said ready while every call was refused."""
    store: Any = open_store(f"sqlite:///{tmp_path / 'book.db'}")
    ledger = Ledger(store)
    await ledger.start()
    store._file.writer.execute("PRAGMA query_only=ON")
    with pytest.raises(StoreUnavailable, match="may not be written"):
        await ledger.writable()
    for number in range(3):
        with pytest.raises(StoreUnavailable):
            await reserved(ledger, f"a{number}", 1)
        with pytest.raises(StoreUnavailable):
            await ledger._look()
        closed = ledger.closed
        assert "may not be written" in closed
    store._file.writer.execute("PRAGMA query_only=OFF")
    await reserved(ledger, "b", 1)
    await ledger._look()
    await ledger.writable()

    assert (ledger.closed, ledger.available) == ("", True)
    assert sum("money_closed" in record.getMessage() for record in caplog.records) == 1
    await ledger.close()
    await store.close()
