"""A block holds in every process of a store within a second, outlives its store's absence, and a restart."""

import asyncio
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from llmshield import blocks
from llmshield.blocks import Blocks
from llmshield.errors import CallError, StoreUnavailable
from llmshield.stores import Store, open_store


def is_blocked(seen: Blocks, tenant: str) -> bool:
    try:
        seen.check(tenant, "198.51.100.1")
    except CallError:
        return True
    return False


async def within(seconds: float, seen: Blocks, tenant: str, *, blocked: bool) -> float:
    began = time.monotonic()
    while is_blocked(seen, tenant) != blocked:
        assert time.monotonic() - began < seconds
        await asyncio.sleep(0.01)
    return time.monotonic() - began


@pytest.fixture
def shared(url: str) -> str:
    if url == "memory://":
        pytest.skip("one process")
    return url


async def test_a_block_holds_everywhere_within_a_second(shared: str, store: Store) -> None:
    processes = [open_store(shared) for _ in range(3)]
    for process in processes:
        await process.open()
    seen = [Blocks(process) for process in processes]
    for each in seen:
        await each.start()
    await blocks.add(store, "tenant:acme")
    for each in seen:
        await within(1.0, each, "acme", blocked=True)
    await blocks.remove(store, "tenant:acme")
    for each in seen:
        await within(1.0, each, "acme", blocked=False)
    await blocks.add(store, "tenant:acme")
    for each, process in zip(seen, processes, strict=True):
        await each.close()
        await process.close()
    again = open_store(shared)
    await again.open()
    after = Blocks(again)
    await after.refresh()

    assert is_blocked(after, "acme")
    await again.close()


async def test_a_store_that_is_away_changes_nothing(
    own_redis: tuple[str, "subprocess.Popen[bytes]"],
) -> None:
    url, server = own_redis
    store = open_store(url)
    await store.open()
    await blocks.add(store, "tenant:acme")
    seen = Blocks(store)
    await seen.start()
    server.send_signal(signal.SIGSTOP)
    try:
        await asyncio.sleep(1.0)
        assert is_blocked(seen, "acme")
    finally:
        server.send_signal(signal.SIGCONT)
    other = open_store(url)
    await other.open()
    await blocks.add(other, "tenant:umbrella")

    assert await within(3.0, seen, "umbrella", blocked=True) < 3
    await seen.close()
    await other.close()
    await store.close()


async def test_a_redis_that_lost_its_data_frees_nobody(
    tmp_path: Path, start_redis: Callable[..., "tuple[str, subprocess.Popen[bytes]]"]
) -> None:
    url, _ = start_redis()
    store = open_store(url)
    await store.open()
    await blocks.add(store, "tenant:acme")
    seen = Blocks(store)
    await seen.refresh()
    from redis.asyncio import Redis

    async with Redis.from_url(url) as client:
        await client.flushall()
    with pytest.raises(StoreUnavailable, match="lost"):
        await seen.refresh()

    assert is_blocked(seen, "acme")
    await store.close()
