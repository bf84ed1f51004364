"""A lost book, written again: the same balances, once, whatever was lost and however often it is done."""

import asyncio
import random
import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from llmshield.errors import BookLost, StoreError, StoreUnavailable
from llmshield.ledger import Cap, Ledger, Refusal, Reservation, tenant_account
from llmshield.local_state import LocalState
from llmshield.rebuilding import Rebuilt, rebuild, reset
from llmshield.stores import Balance, Labels, Store, open_store

CAPS = {
    "acme": (Cap(tenant_account("acme"), 10**12, "day"), Cap(tenant_account("acme"), 10**12, "30m")),
    "umbrella": (Cap(tenant_account("umbrella"), 10**12, "month", "Europe/Berlin"),),
    "öäü|x": (),
}


class House:
    """Machines on one store, which can lose its data."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        self.folder = folder
        self.running: list[Ledger] = []

    def state(self, machine: str = "one") -> LocalState:
        return LocalState(open_store(self.url).url, self.folder / machine)

    async def start(self, machine: str = "one") -> Ledger:
        ledger = Ledger(open_store(self.url), self.state(machine))
        await ledger.start()
        self.running.append(ledger)
        return ledger

    async def stop(self) -> None:
        for ledger in self.running:
            await ledger.close()
            await ledger._store.close()
        self.running.clear()

    async def lose(self) -> None:
        if self.url.startswith("redis"):
            from redis.asyncio import Redis

            url, _, prefix = self.url.partition("?prefix=")
            async with Redis.from_url(url) as client:
                async for key in client.scan_iter(f"{prefix}:*"):
                    await client.delete(key)
        else:
            for path in Path(open_store(self.url).url.path).parent.glob("book.db*"):
                path.unlink()

    async def rebuild(self, machine: str = "one", *folders: Path, dry: bool = False) -> Rebuilt:
        store = open_store(self.url)
        try:
            return await rebuild(store, self.state(machine), folders, dry=dry)
        finally:
            await store.close()

    async def balances(self) -> list[Balance]:
        store = self.state().recall(open_store(self.url))
        await store.open()
        try:
            found = await store.balances()
            return [each._replace(held=0) for each in found if each.spent or each.requests]
        finally:
            await store.close()


@pytest.fixture(params=["sqlite", "redis"])
async def house(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[House]:
    url = f"sqlite:///{tmp_path / 'book.db'}"
    if request.param == "redis":
        url = f"{request.getfixturevalue('redis_url')}?prefix=r{time.monotonic_ns()}"
    made = House(url, tmp_path / "machines")
    yield made
    await made.stop()


async def hold(ledger: Ledger, tenant: str, id: str, amount: int) -> Reservation:
    held = await ledger.reserve(id, Labels(tenant, "openai", "gpt-4o"), CAPS[tenant], amount)
    assert isinstance(held, Reservation)
    return held


async def written(ledger: Ledger) -> None:
    """A journal is written every 20 ms."""
    journal = ledger.books.journal
    assert journal is not None
    while journal._waiting:
        await asyncio.sleep(0.01)


async def opened(ledger: Ledger) -> None:
    """A gateway whose SQLite file was replaced opens the new one within a second."""
    for _ in range(200):
        if ledger.books.opened and not ledger.closed and not ledger._store.replaced:
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"still closed: {ledger.closed}")


async def live(ledger: Ledger, name: str, rng: random.Random, calls: int = 60) -> int:
    """Calls at random: settled, released or left open; what was left open, in pico-USD."""
    left = 0
    for index in range(calls):
        held = await hold(ledger, rng.choice(sorted(CAPS)), f"{name}.{index}", rng.randrange(1, 10**6))
        fate = rng.random()
        if fate < 0.7:
            await ledger.settle(held, rng.randrange(2 * held.amount), rng.randrange(99), rng.randrange(99))
        elif fate < 0.85:
            await ledger.release(held)
        else:
            left += held.amount
    return left


@pytest.mark.parametrize("seed", range(3))
async def test_every_balance_comes_back(house: House, seed: int) -> None:
    """Two machines, two runs of one of them; what was held counts in full, like the orphans of a crash."""
    rng = random.Random(seed)
    for machine, run in (("one", 1), ("two", 1), ("one", 2)):
        await live(await house.start(machine), f"{machine}.{run}", rng)
        if run == 2 or machine == "two":
            await house.stop()
    store = house.state().recall(open_store(house.url))
    await store.open()
    await store.expire(int((time.time() + 3_600) * 1000))
    await store.close()
    before = await house.balances()
    await house.lose()

    done = await house.rebuild("one", house.state("two").journals)
    assert await house.balances() == before
    assert (done.torn, done.others, done.present) == (0, 0, 0)
    assert done.settled + done.unended == sum(each.requests for each in before if each.window == "ever")
    with pytest.raises(StoreError, match="nothing to rebuild"):
        await house.rebuild("one")
    again = await house.rebuild("one", house.state("two").journals)
    assert (again.settled, again.unended) == (0, 0)
    assert await house.balances() == before
    ledger = await house.start()
    assert ledger.closed == ""
    await hold(ledger, "acme", "after", 1)


async def test_a_dry_run_changes_nothing_and_says_the_same(house: House) -> None:
    await live(await house.start(), "a", random.Random(1))
    await house.stop()
    await house.lose()

    told = await house.rebuild(dry=True)
    assert await house.balances() == []
    done = await house.rebuild()
    assert (told.settled, told.unended, told.amounts) == (done.settled, done.unended, done.amounts)


async def test_gateways_go_on_and_late_ends_count_once(house: House) -> None:
    """Calls under way at the loss end during it and after it: each is charged what it did cost."""
    ledger = await house.start()
    early = await hold(ledger, "acme", "early", 500)
    late = await hold(ledger, "acme", "late", 700)
    freed = await hold(ledger, "acme", "freed", 900)
    await house.lose()
    with pytest.raises(BookLost):
        await hold(ledger, "acme", "refused", 1)
    await ledger.settle(early, 100)
    await asyncio.sleep(0.1)
    done = await house.rebuild()
    assert (done.settled, done.unended) == (1, 2)
    await opened(ledger)
    await hold(ledger, "acme", "welcome", 10)
    await ledger.settle(late, 200)
    await ledger.release(freed)
    for _ in range(40):
        await asyncio.sleep(0.1)
        if not ledger._unsettled:
            break

    (found,) = [each for each in await house.balances() if each.window == "ever"]
    assert found.spent == 100 + 200 + 900, (
        "a release that comes after the loss is no proof that nothing was sent"
    )


async def test_what_one_machine_lacks_is_added_later(house: House) -> None:
    one, two = await house.start("one"), await house.start("two")
    await one.settle(await hold(one, "acme", "a", 10), 10)
    await two.settle(await hold(two, "acme", "b", 20), 20)
    await house.stop()
    await house.lose()
    await house.rebuild("one")
    assert {each.spent for each in await house.balances()} == {10}

    await house.rebuild("one", house.state("two").journals)
    assert {each.spent for each in await house.balances()} == {30}
    two = await house.start("two")
    assert two.closed == ""
    await hold(two, "acme", "c", 1)


async def test_a_new_machine_rebuilds_from_what_it_is_given(house: House) -> None:
    one = await house.start("one")
    await one.settle(await hold(one, "acme", "a", 10), 10)
    await house.stop()
    await house.lose()
    with pytest.raises(StoreError, match="--journal"):
        await house.rebuild("new")

    await house.rebuild("new", house.state("one").journals)
    one = await house.start("one")
    assert one.closed == ""
    assert {each.spent for each in await house.balances()} == {10}


async def test_without_a_journal_nothing_is_opened(house: House) -> None:
    """The journals are gone as well: a rebuild would be a fresh budget that nobody asked for."""
    ledger = await house.start()
    cap = CAPS["acme"][0]
    held = await ledger.reserve("a", Labels("acme", "p", "m"), [cap], 700)
    assert isinstance(held, Reservation)
    await ledger.settle(held, 700)
    await house.stop()
    await house.lose()
    shutil.rmtree(house.state().journals)

    for dry in (True, False):
        with pytest.raises(StoreError, match="No journal tells of the book"):
            await house.rebuild(dry=dry)
    ledger = await house.start()
    with pytest.raises(BookLost):
        await ledger.reserve("b", Labels("acme", "p", "m"), [cap], 700)


async def test_what_was_reset_stays_forgotten(house: House) -> None:
    ledger = await house.start()
    await ledger.settle(await hold(ledger, "acme", "a", 10), 10)
    store = open_store(house.url)
    await reset(store, house.state())
    await store.close()
    await ledger.settle(await hold(ledger, "acme", "b", 5), 5)
    assert {each.spent for each in await house.balances()} == {5}
    await house.stop()
    await house.lose()

    done = await house.rebuild()
    assert {each.spent for each in await house.balances()} == {5}
    assert done.others == 2


async def test_locks_and_raises_come_back(house: House) -> None:
    ledger = await house.start()
    until_ms = int(time.time() * 1000) + 3_600_000
    await ledger.lock("acme", "x", until_ms)
    await ledger.lock("umbrella", "x", until_ms)
    await ledger.books.unlock("umbrella")
    await ledger.books.raise_by(CAPS["umbrella"][0], 7)
    await house.stop()
    await house.lose()
    await house.rebuild()

    ledger = await house.start()
    assert await ledger.locks() == {"acme": until_ms / 1000}
    assert ledger.books.raised(CAPS["umbrella"], time.time())[0].limit == 10**12 + 7


async def test_an_interrupted_rebuild_stays_closed_and_is_repeated(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = await house.start()
    for index in range(5):
        await ledger.settle(await hold(ledger, "acme", f"a{index}", 10), 10)
    await written(ledger)
    await house.lose()
    store = open_store(house.url)
    settle, count = type(store).settle, 0

    async def dies(self: Store, *args: object, **kwargs: object) -> object:
        nonlocal count
        count += 1
        if count > 3:
            raise KeyError
        return await settle(self, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(type(store), "settle", dies)
    monkeypatch.setattr("llmshield.rebuilding._AT_ONCE", 1)
    with pytest.raises(KeyError):
        await rebuild(store, house.state())
    await store.close()
    monkeypatch.undo()
    with pytest.raises(BookLost):
        await hold(ledger, "acme", "during", 1)

    done = await house.rebuild()
    assert (done.settled, done.present) == (2, 3)
    await opened(ledger)
    await hold(ledger, "acme", "after", 1)
    assert {each.spent for each in await house.balances()} == {50}


async def test_torn_journals_still_charge_what_was_reserved(house: House) -> None:
    ledger = await house.start()
    held = await hold(ledger, "acme", "a", 700)
    await ledger.settle(held, 100)
    await house.stop()
    await house.lose()
    (path,) = house.state().journals.iterdir()
    path.write_bytes(path.read_bytes()[:-10])

    done = await house.rebuild()
    assert (done.torn, done.unended) == (1, 1)
    assert {each.spent for each in await house.balances()} == {700}


async def test_a_book_that_is_there_is_left_alone(house: House) -> None:
    ledger = await house.start()
    assert not isinstance(await hold(ledger, "acme", "a", 10), Refusal)
    before = await ledger._store.book()

    with pytest.raises(StoreError, match="nothing to rebuild"):
        await house.rebuild()
    assert (await ledger._store.book())[:2] == before[:2]
    shutil.rmtree(house.folder, ignore_errors=True)


async def test_a_store_that_is_slow_for_a_moment_is_asked_again(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call is refused after 50 ms; a rebuild goes on, also where the step was taken and its answer lost."""
    ledger = await house.start()
    await live(ledger, "one", random.Random(3))
    await written(ledger)
    await house.stop()
    await house.lose()
    await house.rebuild()
    expected = await house.balances()
    await house.lose()
    monkeypatch.setattr("llmshield.rebuilding._TRIES_S", (0.01,) * 20)
    store, rng, failures = open_store(house.url), random.Random(5), 0

    def slow(step: Callable[..., Awaitable[object]]) -> Callable[..., Awaitable[object]]:
        async def sometimes(*args: object, **more: object) -> object:
            nonlocal failures
            taken = rng.random() < 0.8
            said = await step(*args, **more) if taken else None
            if not taken or rng.random() < 0.2:
                failures += 1
                raise StoreUnavailable("no answer within 0.05 s")
            return said

        return sometimes

    for name in ("turn", "settle", "reserve", "expire"):
        monkeypatch.setattr(store, name, slow(getattr(store, name)))
    try:
        await rebuild(store, house.state())
    finally:
        await store.close()

    assert failures > 10
    assert await house.balances() == expected
