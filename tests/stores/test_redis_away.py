"""A Redis that hangs, dies, comes back empty or was never there: no call waits long, nothing stays broken."""

import asyncio
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from redis.asyncio import Redis

from llmshield.errors import BookLost, StoreError, StoreUnavailable
from llmshield.ledger import Cap, Ledger, Reservation, tenant_account
from llmshield.local_state import LocalState
from llmshield.stores import Grant, Labels, Line, Seat, Store, Window, open_store

LABELS = Labels("acme", "openai", "gpt-4o")
LINES = (Line("tenant=acme", "ever", 1_000),)
Own = tuple[str, "subprocess.Popen[bytes]"]
Start = Callable[..., Own]


async def reserve(store: Store, id: str) -> Grant:
    granted = await store.reserve(id, LINES, 10, 10, 2_000_000_060_000, 2_000_000_000_000, LABELS)
    assert isinstance(granted, Grant)
    return granted


@pytest.fixture
async def away(own_redis: Own) -> AsyncIterator[tuple[Store, "subprocess.Popen[bytes]"]]:
    store = open_store(own_redis[0])
    await store.open()
    yield store, own_redis[1]
    await store.close()


async def test_a_hanging_redis_costs_its_patience_once(away: tuple[Store, "subprocess.Popen[bytes]"]) -> None:
    store, server = away
    await reserve(store, "before")
    server.send_signal(signal.SIGSTOP)
    try:
        waits = []
        for index in range(20):
            began = time.perf_counter()
            with pytest.raises(StoreUnavailable):
                await reserve(store, f"hang{index}")
            waits.append(time.perf_counter() - began)
        together = time.perf_counter()
        said = await asyncio.gather(
            *[reserve(store, f"g{index}") for index in range(50)], return_exceptions=True
        )
        together = time.perf_counter() - together
    finally:
        server.send_signal(signal.SIGCONT)
    back = time.perf_counter()
    while True:
        try:
            await reserve(store, "after")
            break
        except StoreUnavailable:
            await asyncio.sleep(0.02)
    back = time.perf_counter() - back

    assert all(isinstance(answer, StoreUnavailable) for answer in said)
    assert sum(waits) < 0.5
    assert sorted(waits)[-2] < 0.06
    assert together < 0.2
    assert back < 2.0


async def test_a_black_hole_is_unavailable_at_once() -> None:
    with socket.socket() as hole:
        hole.bind(("127.0.0.1", 0))
        port = hole.getsockname()[1]
    store = open_store(f"redis://127.0.0.1:{port}/0")

    with pytest.raises(StoreUnavailable):
        await store.open()
    await store.close()


@pytest.mark.parametrize("kept", ["yes", "no"])
async def test_a_killed_redis_comes_back(tmp_path: Path, start_redis: Start, kept: str) -> None:
    """With its data it goes on at once; without, it is not a fresh budget."""
    url, server = start_redis("--appendonly", kept, "--appendfsync", "always")
    port = int(url.rsplit(":", 1)[1].partition("/")[0])
    store = open_store(url)
    await store.open()
    assert bool(store.warnings) == (kept == "no")
    await reserve(store, "before")
    server.kill()
    server.wait(10)
    for index in range(5):
        with pytest.raises(StoreUnavailable):
            await reserve(store, f"dead{index}")
    start_redis("--appendonly", kept, port=port)
    back = time.perf_counter()
    said = ""
    while time.perf_counter() - back < 2:
        try:
            await reserve(store, "after")
            said = "held"
            break
        except StoreUnavailable as error:
            said = str(error)
            if "book is lost" in said:
                break
            await asyncio.sleep(0.02)

    if kept == "yes":
        assert said == "held"
        assert [found.held for found in await store.balances()] == [20]
    else:
        assert "book is lost" in said
        with pytest.raises(BookLost, match="budget rebuild"):
            await reserve(store, "later")
        assert (await store.admit([Window("t", 5, 60)], [], 2_000_000_000_000)).refused == -1
    await store.close()


async def test_a_flushed_redis_is_no_fresh_budget(own_redis: Own) -> None:
    store, other = open_store(own_redis[0]), open_store(own_redis[0])
    await store.open()
    await other.open()
    held = await reserve(store, "before")
    await store._read("flushall")  # type: ignore[attr-defined]
    for each in (store, other):
        with pytest.raises(BookLost, match="budget rebuild"):
            await reserve(each, "after")
    with pytest.raises(BookLost):
        await store.settle("before", LINES, held.amount, 2_000_000_000_000, LABELS)
    await store.close()
    await store.open()
    with pytest.raises(BookLost):
        await reserve(store, "again")
    late = open_store(own_redis[0])
    await late.open()
    with pytest.raises(BookLost):
        await reserve(late, "knows nothing")

    await late.turn("0123456789abcdef.1")
    assert await reserve(store, "anew") == Grant(10)
    assert await reserve(other, "anew too") == Grant(10)
    assert await reserve(late, "as well") == Grant(10)
    assert {store.epoch, other.epoch, late.epoch} == {"0123456789abcdef.1"}
    for each in (store, other, late):
        await each.close()


async def test_a_reply_that_was_lost_is_held_once(away: tuple[Store, "subprocess.Popen[bytes]"]) -> None:
    """The script runs after the caller gave up; the same id finds what it did."""
    store, server = away
    server.send_signal(signal.SIGSTOP)
    with pytest.raises(StoreUnavailable):
        await reserve(store, "lost")
    server.send_signal(signal.SIGCONT)
    await asyncio.sleep(0.3)

    assert await reserve(store, "lost") == Grant(10, repeated=True)
    assert [found.held for found in await store.balances()] == [10]


async def test_scripts_that_redis_forgot_are_loaded_again(
    away: tuple[Store, "subprocess.Popen[bytes]"],
) -> None:
    store, _ = away
    await store._read("script_flush")  # type: ignore[attr-defined]

    assert await reserve(store, "a") == Grant(10)


@pytest.mark.parametrize("text", ["redis://h:1/0?prefix=a%7Bb", "redis://h:1/0?prefix=a*"])
def test_a_prefix_that_could_break_keys_is_refused(text: str) -> None:
    with pytest.raises(StoreError, match="prefix="):
        open_store(text)


async def test_keys_that_belong_to_a_window_have_an_end(
    away: tuple[Store, "subprocess.Popen[bytes]"],
) -> None:
    """Only what lasts is kept for ever: the set of accounts, the journal, the accounts without a window."""
    store, _ = away
    lines = (Line("tenant=acme", "ever"), Line("tenant=acme", "day:2026-11-20", 1_000, 2_000_000_500_000))
    await store.reserve("a", lines, 10, 10, 2_000_000_060_000, 2_000_000_000_000, LABELS)
    await store.settle("a", lines, 10, 2_000_000_000_000, LABELS)
    await store.admit([Window("t", 5, 60)], [Seat("t", 2, "id", 2_000_000_060_000)], 2_000_000_000_000)
    forever = set()
    for key in await store._read("keys", "*"):  # type: ignore[attr-defined]
        if await store._read("pttl", key) < 0:  # type: ignore[attr-defined]
            forever.add(key.partition("}:")[2])

    assert forever == {"accounts", "journal", "book", "acc:tenant=acme|ever"}


async def test_a_redis_that_drops_keys_keeps_no_money(tmp_path: Path, start_redis: Start) -> None:
    """`maxmemory-policy volatile-lru` forgets a window's account without a word: under a cap nothing is spent."""
    url, _ = start_redis("--maxmemory", "64mb", "--maxmemory-policy", "volatile-lru")
    store = open_store(url)
    ledger = Ledger(store, LocalState(store.url, tmp_path / "state"))
    await ledger.start()
    labels, cap = Labels("acme", "openai", "gpt-4o"), Cap(tenant_account("acme"), 1_000, "day")
    with pytest.raises(StoreUnavailable, match="Set maxmemory-policy noeviction"):
        await ledger.reserve("a", labels, [cap], 100)
    assert "volatile-lru" in ledger.closed
    assert isinstance(await ledger.reserve("b", labels, [], 100), Reservation)

    async with Redis.from_url(url) as admin:
        await admin.config_set("maxmemory-policy", "noeviction")
        await store.book()  # as the ledger does every ten seconds
        assert isinstance(await ledger.reserve("c", labels, [cap], 100), Reservation)
        await admin.config_set("maxmemory-policy", "allkeys-lru")
        await store.book()
        assert "allkeys-lru" in store.unfit
        await admin.config_set("maxmemory", "0")
        await store.book()
        assert store.unfit == ""
    await ledger.close()
    await store.close()
