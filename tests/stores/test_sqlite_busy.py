"""A SQLite file that another program keeps locked: the first calls wait for half a second, the next ones not at all."""

import asyncio
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

from llmshield.errors import StoreUnavailable
from llmshield.stores import Grant, Labels, Line, Store, open_store

LINES = (Line("tenant=acme", "ever", 1_000),)


async def reserve(store: Store, id: str) -> float:
    """How long it took to be refused; 0 when it was granted."""
    began = time.monotonic()
    try:
        said = await store.reserve(
            id, LINES, 1, 1, 2_000_000_060_000, 2_000_000_000_000, Labels("acme", "", "")
        )
    except StoreUnavailable:
        return time.monotonic() - began
    assert said == Grant(1)
    return 0.0


async def test_a_locked_file_costs_half_a_second_once(tmp_path: Path) -> None:
    file = tmp_path / "book.db"
    store = open_store(f"sqlite:///{file}")
    await store.open()
    assert await reserve(store, "before") == 0
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        first = [asyncio.create_task(reserve(store, f"first{index}")) for index in range(5)]
        await asyncio.sleep(0.2)
        later = [await reserve(store, f"later{index}") for index in range(20)]
        waits = await asyncio.gather(*first)
        other.execute("ROLLBACK")

    assert all(0.4 < wait < 1.0 for wait in waits), waits
    assert all(0 < wait < 0.06 for wait in later), later
    assert await reserve(store, "after") == 0
    assert [found.held for found in await store.balances()] == [2]
    await store.close()


async def test_a_short_lock_is_waited_for(tmp_path: Path) -> None:
    file = tmp_path / "book.db"
    store = open_store(f"sqlite:///{file}")
    await store.open()
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        waiting = asyncio.create_task(reserve(store, "a"))
        await asyncio.sleep(0.03)
        other.execute("ROLLBACK")
        assert await waiting == pytest.approx(0)
    await store.close()
