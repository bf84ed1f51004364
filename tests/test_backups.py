"""Backups: whole and consistent beside writers, refused when damaged, and closed until rebuilt when put back."""

import asyncio
import random
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest

from llmshield.backups import Backup, backup, restore
from llmshield.errors import BookLost, StoreError
from llmshield.ledger import Cap, Ledger, Reservation, tenant_account
from llmshield.local_state import LocalState
from llmshield.rebuilding import rebuild
from llmshield.stores import Labels, open_store, parse_url

LABELS = Labels("acme", "openai", "gpt-4o")
CAPS = (Cap(tenant_account("acme"), 10**12, "day"),)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'book.db'}"


@pytest.fixture
def state(url: str, tmp_path: Path) -> LocalState:
    return LocalState(parse_url(url), tmp_path / "state")


@pytest.fixture
async def ledger(url: str, state: LocalState) -> AsyncIterator[Ledger]:
    opened = Ledger(open_store(url), state)
    await opened.start()
    yield opened
    await opened.close()
    await opened._store.close()


async def spend(ledger: Ledger, id: str, amount: int) -> None:
    held = await ledger.reserve(id, LABELS, CAPS, amount)
    assert isinstance(held, Reservation)
    await ledger.settle(held, amount)


async def spent(ledger: Ledger) -> int:
    found = await ledger._store.balances("tenant=acme")
    return {each.spent for each in found}.pop()


async def test_a_copy_beside_writers_adds_up(ledger: Ledger, state: LocalState, tmp_path: Path) -> None:
    rng, going = random.Random(3), True

    async def write(name: int) -> None:
        index = 0
        while going:
            index += 1
            await spend(ledger, f"{name}.{index}", rng.randrange(1000))

    writers = [asyncio.create_task(write(name)) for name in range(8)]
    counts = []
    for index in range(5):
        await asyncio.sleep(0.05)
        await asyncio.to_thread(backup, ledger._store.url, state, tmp_path / f"b{index}")
        with closing(sqlite3.connect(tmp_path / f"b{index}" / "book.db")) as copy:
            (total, entries) = copy.execute("SELECT sum(amount), count(*) FROM journal").fetchone()
            balances = copy.execute("SELECT spent, requests FROM account").fetchall()
        assert balances == [(total, entries)] * 2
        counts.append(entries)
    going = False
    await asyncio.gather(*writers)

    assert sorted(set(counts)) == counts


async def test_a_restored_book_is_closed_until_rebuilt_under_a_running_gateway(
    ledger: Ledger, state: LocalState, tmp_path: Path
) -> None:
    await spend(ledger, "a", 100)
    made = await asyncio.to_thread(backup, ledger._store.url, state, tmp_path / "b")
    assert (made.book, made.epoch) == (True, ledger._store.epoch)
    await spend(ledger, "b", 10)
    await asyncio.sleep(0.1)  # until the journal is written
    await asyncio.to_thread(restore, ledger._store.url, state, tmp_path / "b")

    with pytest.raises(BookLost):
        await spend(ledger, "c", 1)
    store = open_store(ledger._store.url.text)
    done = await rebuild(store, state)
    await store.close()
    assert (done.settled, done.present) == (1, 1)
    await spend(ledger, "d", 1)
    assert await spent(ledger) == 111


async def test_a_lost_machine_starts_from_its_backup(
    ledger: Ledger, state: LocalState, url: str, tmp_path: Path
) -> None:
    await spend(ledger, "a", 100)
    await asyncio.sleep(0.1)
    made = await asyncio.to_thread(backup, ledger._store.url, state, tmp_path / "b")
    assert made.journals == 1
    await ledger.close()
    await ledger._store.close()
    new_url = f"sqlite:///{tmp_path / 'new' / 'book.db'}"
    (tmp_path / "new").mkdir()
    new_state = LocalState(parse_url(new_url), tmp_path / "new-state")
    restore(parse_url(new_url), new_state, tmp_path / "b")
    store = open_store(new_url)
    await rebuild(store, new_state)
    await store.close()

    again = Ledger(open_store(new_url), new_state)
    await again.start()
    assert again.closed == ""
    assert await spent(again) == 100
    await again.close()
    await again._store.close()


async def test_a_book_of_an_earlier_version_is_put_back(state: LocalState, url: str, tmp_path: Path) -> None:
    """Its file has pages of another size; a gateway has made a new file in its place already."""
    book = tmp_path / "book.db"
    with closing(sqlite3.connect(book)) as earlier:
        earlier.execute("PRAGMA page_size=4096")
        earlier.execute("PRAGMA journal_mode=WAL")
    ledger = Ledger(open_store(url), state)
    await ledger.start()
    await spend(ledger, "a", 100)
    await asyncio.to_thread(backup, ledger._store.url, state, tmp_path / "b")
    await ledger.close()
    await ledger._store.close()
    book.unlink()
    gateway = Ledger(open_store(url), state)
    await gateway.start()
    with closing(sqlite3.connect(book)) as now, closing(sqlite3.connect(tmp_path / "b" / "book.db")) as then:
        sizes = [each.execute("PRAGMA page_size").fetchone()[0] for each in (then, now)]
    assert sizes == [4096, 1024]
    restore(parse_url(url), state, tmp_path / "b")
    store = open_store(url)
    await rebuild(store, state)
    await store.close()

    assert await spent(gateway) == 100
    await gateway.close()
    await gateway._store.close()


async def test_damage_and_mistakes_are_told_and_change_nothing(
    ledger: Ledger, state: LocalState, tmp_path: Path
) -> None:
    await spend(ledger, "a", 100)
    store = ledger._store.url
    backup(store, state, tmp_path / "b")
    with pytest.raises(StoreError, match="not empty"):
        backup(store, state, tmp_path / "b")
    with pytest.raises(StoreError, match="no whole backup"):
        restore(store, state, tmp_path)
    with pytest.raises(StoreError, match="policy's store is redis"):
        restore(parse_url("redis://h:1/0"), LocalState(parse_url("redis://h:1/0"), tmp_path), tmp_path / "b")
    book = tmp_path / "b" / "book.db"
    data = bytearray(book.read_bytes())
    data[5_000] ^= 1
    book.write_bytes(data)
    with pytest.raises(StoreError, match=r"damaged: book\.db"):
        restore(store, state, tmp_path / "b")
    with pytest.raises(StoreError, match="no store"):
        backup(parse_url(f"sqlite:///{tmp_path}/none.db"), state, tmp_path / "c")

    await spend(ledger, "b", 1)
    assert await spent(ledger) == 101


def test_of_redis_the_journals_are_kept(tmp_path: Path) -> None:
    url = parse_url("redis://127.0.0.1:1/0")
    state = LocalState(url, tmp_path / "one")
    state.journals.mkdir(parents=True)
    (state.journals / "x.jsonl").write_text("")

    made = backup(url, state, tmp_path / "b")
    assert made == Backup(state.store, "", made.at, False, 1)
    other = LocalState(url, tmp_path / "two")
    restore(url, other, tmp_path / "b")
    assert [path.name for path in other.journals.iterdir()] == ["x.jsonl"]
