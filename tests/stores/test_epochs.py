"""Which book it is: a store that lost its data is never a fresh budget, for anybody, at any moment."""

import asyncio
import os
import shutil
from pathlib import Path

import pytest

from llmshield.errors import BookLost, StoreUnavailable
from llmshield.stores import Book, Grant, Labels, Line, Store, open_store

LABELS = Labels("acme", "openai", "gpt-4o")
LINES = (Line("tenant=acme", "ever", 1_000),)
NOW = 2_000_000_000_000


async def reserve(store: Store, id: str, amount: int = 10) -> Grant:
    granted = await store.reserve(id, LINES, amount, amount, NOW + 60_000, NOW, LABELS)
    assert isinstance(granted, Grant)
    return granted


async def another(url: str, epoch: str = "", seen: int = 0) -> Store:
    """The store as a process opens it that knows this epoch."""
    opened = open_store(url)
    opened.epoch, opened.seen = epoch, seen
    await opened.open()
    return opened


@pytest.fixture(params=["sqlite", "redis"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'book.db'}"
    redis_url: str = request.getfixturevalue("redis_url")
    return f"{redis_url}?prefix=e{os.urandom(6).hex()}"


async def test_a_first_installation_gets_an_epoch_that_all_share(url: str) -> None:
    told: list[str] = []
    first = open_store(url)
    first.on_epoch = told.append
    await first.open()
    second = await another(url)

    assert first.epoch == second.epoch != ""
    assert told == [first.epoch]
    assert (await first.book())[:2] == ("open", first.epoch)
    await reserve(first, "a")
    assert (await second.balances())[0].held == 10
    for each in (first, second):
        await each.close()


async def test_whoever_knows_another_book_closes_this_one_for_all(url: str) -> None:
    """An empty store that a newcomer began before the others noticed: their word counts, at once."""
    newcomer = await another(url)
    await reserve(newcomer, "a")
    old = await another(url, "0ld0ld0ld0ld0ld0.1")
    with pytest.raises(BookLost, match="budget rebuild"):
        await reserve(old, "b")

    for steps in (
        lambda: reserve(newcomer, "c"),
        lambda: newcomer.settle("a", LINES, 5, NOW, LABELS),
        lambda: newcomer.release("a", LINES),
        lambda: newcomer.renew(["a"], NOW),
        lambda: newcomer.expire(NOW),
        lambda: newcomer.put("keys", "k", b""),
        lambda: newcomer.look("keys", "k", NOW),
        lambda: newcomer.notes("keys", NOW),
        lambda: newcomer.revision("keys"),
        lambda: newcomer.ping(),
    ):
        with pytest.raises(BookLost):
            await steps()
    assert (await newcomer.book()).state == "lost"
    assert "0ld0ld0ld0ld0ld0.1" in (await newcomer.book()).doubted
    late = await another(url)
    with pytest.raises(BookLost):
        await reserve(late, "d")

    await late.turn("new.1")
    for name, each in (("e", newcomer), ("f", old), ("g", late)):
        assert await reserve(each, name) == Grant(10)
        assert each.epoch == "new.1"
        await each.close()


async def test_a_book_under_repair_is_closed_to_all_but_one(url: str) -> None:
    store = await another(url)
    epoch = store.epoch
    await store.turn("rebuilding:x.2")
    repairer = await another(url, "rebuilding:x.2")

    with pytest.raises(BookLost):
        await reserve(store, "a")
    assert await reserve(repairer, "b") == Grant(10)
    assert await store.book() == Book("rebuilding", "x.2", (await store.book()).steps)
    await repairer.turn("x.2")
    assert await reserve(store, "c") == Grant(10)
    assert (store.epoch, epoch) == ("x.2", epoch)
    late = await another(url, epoch)
    assert await reserve(late, "d") == Grant(10)
    for each in (store, repairer, late):
        await each.close()


async def test_a_reset_forgets_amounts_and_keeps_notes(url: str) -> None:
    store = await another(url)
    await reserve(store, "a", 600)
    await store.settle("a", LINES, 600, NOW, LABELS)
    await reserve(store, "b", 300)
    await store.put("keys", "k", b"v")
    await store.turn("fresh.1", wipe=True)

    assert await reserve(store, "c", 1_000) == Grant(1_000)
    assert [(found.spent, found.held) for found in await store.balances()] == [(0, 1_000)]
    assert await store.look("keys", "k", NOW) == b"v"
    await store.close()


async def test_an_older_copy_of_a_sqlite_file_is_found_out(tmp_path: Path) -> None:
    file, copy = tmp_path / "book.db", tmp_path / "copy.db"
    url = f"sqlite:///{file}"
    store = await another(url)
    await reserve(store, "a")
    await store.close()
    shutil.copy(file, copy)
    store = await another(url, store.epoch)
    for index in range(3):
        await store.settle(f"s{index}", LINES, 1, NOW, LABELS)
    seen = (await store.book()).steps
    await store.close()
    for path in tmp_path.glob("book.db*"):
        path.unlink()
    shutil.copy(copy, file)

    again = await another(url, store.epoch, seen)
    with pytest.raises(BookLost):
        await reserve(again, "b")
    await again.close()


async def test_an_older_copy_of_a_running_redis_is_found_out(own_redis: tuple[str, object]) -> None:
    """Same epoch, fewer steps: what a replica or a snapshot without the last writes looks like."""
    store = await another(own_redis[0])
    other = await another(own_redis[0])
    for index in range(3):
        await reserve(store, f"r{index}")
    await store._read("hset", "llmshield:{book}:book", "n", 1)  # type: ignore[attr-defined]

    with pytest.raises(BookLost):
        await reserve(store, "a")
    with pytest.raises(BookLost):
        await reserve(other, "b")
    for each in (store, other):
        await each.close()


@pytest.mark.parametrize("how", ["removed", "replaced"])
async def test_a_sqlite_file_that_goes_away_under_a_process(tmp_path: Path, how: str) -> None:
    file = tmp_path / "book.db"
    store = await another(f"sqlite:///{file}")
    await reserve(store, "a")
    file.rename(tmp_path / "gone.db")
    if how == "replaced":
        fresh = await another(f"sqlite:///{file}")
        await fresh.close()

    with pytest.raises(BookLost, match="removed or replaced"):
        await reserve(store, "b")
    with pytest.raises(BookLost):
        await store.settle("a", LINES, 1, NOW, LABELS)
    said = await asyncio.gather(*[reserve(store, f"c{index}") for index in range(5)], return_exceptions=True)
    assert all(isinstance(error, BookLost) for error in said)
    assert store.replaced
    await store.close()
    await store.open()
    with pytest.raises(BookLost):
        await reserve(store, "d")
    await store.turn("next.1", [store.epoch])
    assert await reserve(store, "e") == Grant(10)
    await store.close()


async def test_flushed_in_the_middle_of_a_crowd_no_call_is_free(own_redis: tuple[str, object]) -> None:
    """Clients spend as fast as they can while Redis is flushed: after the flush nothing is granted any more."""
    stores = [await another(own_redis[0]) for _ in range(3)]
    lines = (Line("tenant=acme", "ever", 10**9),)
    flushed = False
    after: list[str] = []

    async def client(store: Store, name: str) -> int:
        granted = 0
        for turn in range(10_000):
            began_after = flushed
            try:
                await store.reserve(f"{name}.{turn}", lines, 1, 1, NOW + 60_000, NOW, LABELS)
            except BookLost:
                return granted
            except StoreUnavailable:
                continue
            if began_after:
                after.append(f"{name}.{turn}")
            granted += 1
        raise AssertionError("never closed")

    async def flush() -> None:
        nonlocal flushed
        await asyncio.sleep(0.15)
        await stores[0]._read("flushall")  # type: ignore[attr-defined]
        flushed = True

    work = [client(store, f"{index}.{each}") for index, store in enumerate(stores) for each in range(8)]
    granted, _ = await asyncio.gather(asyncio.gather(*work), flush())

    assert sum(granted) > 100
    assert after == []
    assert await stores[0].balances() == []
    for each in stores:
        await each.close()
