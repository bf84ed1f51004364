"""What a process keeps beside a shared book: a loss is noticed after a restart too, raises and locks reach all."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from llmshield import clock
from llmshield.errors import BookLost, StoreError, StoreUnavailable
from llmshield.journals import Reading
from llmshield.ledger import Cap, Ledger, Refusal, Reservation, tenant_account
from llmshield.local_state import Known, LocalState
from llmshield.stores import Labels, Line, open_store
from llmshield.testing import FrozenClock

MIDNIGHT = 1_790_035_200.0
LABELS = Labels("acme", "openai", "gpt-4o")
CAP = Cap(tenant_account("acme"), 1_000, "day")


class Machine:
    """Processes of one machine on one store: its state folder outlives them."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        self.folder = folder
        self.running: list[Ledger] = []

    async def start(self) -> Ledger:
        store = open_store(self.url)
        store.time = self._time  # type: ignore[method-assign]
        ledger = Ledger(store, LocalState(store.url, self.folder))
        await ledger.start()
        self.running.append(ledger)
        return ledger

    @staticmethod
    async def _time() -> float | None:
        return clock.now()  # frozen clocks are Redis' as well

    async def stop(self) -> None:
        for ledger in self.running:
            await ledger.close()
            await ledger._store.close()
        self.running.clear()

    @property
    def state(self) -> LocalState:
        return LocalState(open_store(self.url).url, self.folder)


@pytest.fixture(params=["sqlite", "redis"])
async def machine(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Machine]:
    url = f"sqlite:///{tmp_path / 'book.db'}"
    if request.param == "redis":
        url = f"{request.getfixturevalue('redis_url')}?prefix=b{time.monotonic_ns()}"
    made = Machine(url, tmp_path / "state")
    yield made
    await made.stop()


async def lose(machine: Machine) -> None:
    """The store is empty, as after a restart without its data."""
    if machine.url.startswith("redis"):
        from redis.asyncio import Redis

        url, _, prefix = machine.url.partition("?prefix=")
        async with Redis.from_url(url) as client:
            async for key in client.scan_iter(f"{prefix}:*"):
                await client.delete(key)
    else:
        file = Path(open_store(machine.url).url.path)
        for path in file.parent.glob("book.db*"):
            path.unlink()


async def reserve(ledger: Ledger, id: str, amount: int = 100) -> Reservation | Refusal:
    return await ledger.reserve(id, LABELS, [CAP], amount)


async def test_a_loss_between_two_runs_is_no_first_installation(machine: Machine) -> None:
    ledger = await machine.start()
    assert isinstance(await reserve(ledger, "a"), Reservation)
    epoch = machine.state.read().epoch
    await machine.stop()
    await lose(machine)

    ledger = await machine.start()
    assert "budget rebuild" in ledger.closed
    for _ in range(2):
        with pytest.raises(BookLost, match="budget reset"):
            await reserve(ledger, "b")
        with pytest.raises(StoreUnavailable, match="The money book is lost"):
            await ledger.usage(["acme"])  # an empty book's figures are no fresh budget either
    assert machine.state.read().epoch == epoch
    await machine.stop()


async def test_two_machines_agree_and_a_new_one_joins(machine: Machine, tmp_path: Path) -> None:
    first = await machine.start()
    second = Machine(machine.url, tmp_path / "elsewhere")
    other = await second.start()
    assert machine.state.read().epoch == second.state.read().epoch != ""
    assert isinstance(await reserve(first, "a", 600), Reservation)
    assert isinstance(await reserve(other, "b", 600), Refusal)
    await second.stop()


async def test_a_turn_is_followed_without_a_restart_and_kept(machine: Machine) -> None:
    ledger = await machine.start()
    old = machine.state.read().epoch
    await ledger._store.turn("next.1")
    assert isinstance(await reserve(ledger, "a"), Reservation)
    await asyncio.sleep(0.8)

    assert machine.state.read().epoch == "next.1" != old
    await ledger.close()
    assert {record.epoch for record in Reading([machine.state.journals])} == {"next.1"}


async def test_a_raise_reaches_every_process_and_ends_with_its_window(machine: Machine) -> None:
    with FrozenClock(MIDNIGHT - 3_600) as frozen:
        ledger, other = await machine.start(), await machine.start()
        assert isinstance(await reserve(other, "a", 1_000), Reservation)
        refused = await reserve(other, "b", 500)
        assert isinstance(refused, Refusal)
        ends_ms = await ledger.books.raise_by(CAP, 500)
        assert ends_ms == int(MIDNIGHT * 1000)
        began = time.monotonic()
        while isinstance(await reserve(other, f"c{time.monotonic()}", 500), Refusal):
            assert time.monotonic() - began < 1.0
            await asyncio.sleep(0.05)
        refused = await reserve(other, "d", 1)
        assert isinstance(refused, Refusal)
        assert refused.cap.limit == 1_500
        late = await machine.start()
        assert isinstance(await late.usage(["acme"]), dict)
        assert next(iter(late.books.raised([CAP], frozen.now()))).limit == 1_500

        frozen.advance(3_600)
        assert isinstance(await reserve(other, "e", 1_000), Reservation)
        assert isinstance(await reserve(other, "f", 1), Refusal)


async def test_a_raise_may_end_earlier_and_is_of_one_budget(machine: Machine) -> None:
    with FrozenClock(MIDNIGHT - 3_600) as frozen:
        ledger = await machine.start()
        until = int((MIDNIGHT - 1_800) * 1000)
        assert await ledger.books.raise_by(CAP, 500, until) == until
        assert await ledger.books.raise_by(CAP, 7, until + 10**9) == int(MIDNIGHT * 1000)
        await ledger.books.copy()
        month = Cap(CAP.account, 2_000, "month")
        limits = [cap.limit for cap in ledger.books.raised([CAP, month], frozen.now())]
        assert limits == [1_507, 2_000]
        assert [cap.limit for cap in ledger.books.raised([CAP], MIDNIGHT - 1_800)] == [1_007]


async def test_a_lock_and_its_end_reach_every_process(machine: Machine) -> None:
    ledger, other = await machine.start(), await machine.start()
    until_ms = int(time.time() * 1000) + 60_000
    await ledger.lock("acme", "a.1", until_ms)
    assert await other.locks() == {"acme": until_ms / 1000}
    assert await other.books.unlock("acme")
    assert not await other.books.unlock("acme")
    assert await ledger.locks() == {}


async def test_state_that_cannot_be_written_closes_capped_money_only(
    machine: Machine, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    machine.folder = tmp_path / "file" / "state"
    ledger = await machine.start()

    assert "can't be written" in ledger.closed
    with pytest.raises(StoreUnavailable, match=r"server\.state_dir"):
        await reserve(ledger, "a")
    assert isinstance(await ledger.reserve("b", LABELS, [], 100), Reservation)
    (tmp_path / "file").unlink()
    async with asyncio.timeout(20):
        while ledger.closed:
            await asyncio.sleep(0.05)
    assert isinstance(await reserve(ledger, "c"), Reservation)


async def test_a_damaged_state_refuses_to_start(machine: Machine) -> None:
    await machine.start()
    await machine.stop()
    (machine.state.folder / "epoch.json").write_text("?")
    store = open_store(machine.url)

    with pytest.raises(StoreError, match="which money book"):
        await Ledger(store, LocalState(store.url, machine.folder)).start()


async def test_the_steps_of_the_book_are_kept_with_a_lag(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmshield.bookkeeping._KEEP_S", 0.0)
    ledger = await machine.start()
    for index in range(5):
        held = await reserve(ledger, f"a{index}", 1)
        assert isinstance(held, Reservation)
        await ledger.settle(held, 1)
    await asyncio.sleep(1.8)
    known = machine.state.read()
    assert known == Known(known.epoch, (await ledger._store.book()).steps)
    assert known.steps >= 5


async def test_an_orphan_is_charged_within_a_second_of_its_lease(machine: Machine) -> None:
    """A process is killed; whoever is left finds its hold."""
    ledger = await machine.start()
    now_ms = int(time.time() * 1000)
    line = Line(CAP.account, "ever")
    await ledger._store.reserve("orphan", [line], 700, 700, now_ms + 400, now_ms, LABELS)
    while (await ledger._store.balances(CAP.account))[0].spent == 0:
        assert time.time() * 1000 < now_ms + 400 + 1_000
        await asyncio.sleep(0.02)

    (found,) = await ledger._store.balances(CAP.account)
    assert (found.spent, found.held, ledger.expired) == (700, 0, 1)


async def test_memory_keeps_nothing(tmp_path: Path) -> None:
    await (memory := Machine("memory://", tmp_path / "state")).start()
    await memory.stop()

    assert not (tmp_path / "state").exists()
