"""A dead store: each process goes on with its share, says so, waits for nobody, and comes back."""

import asyncio
import itertools
import signal
import sqlite3
import subprocess
import time as machine
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from llmshield.stores import open_store
from llmshield.testing import FakeProvider, gateway

TIER = "rate: [40/hour, 100000 tokens/hour], concurrent: 8, queue: {wait: 1s, length: 5}"

Redis = tuple[str, "subprocess.Popen[bytes]"]


async def call_through(asked: Any, plugin: Any) -> tuple[bool, float, float]:
    """One call with its attempt and its ends: whether it was let in, and the longest and the whole wait for it."""
    call = asked.call()
    waits = [machine.perf_counter()]
    said = await asked.ask(plugin, call)
    waits.append(machine.perf_counter())
    if said is None:
        attempt, said = await asked.attempt(call, size=100, bound=100)
        waits.append(machine.perf_counter())
        await asked.end_attempt(attempt, used=50)
        waits.append(machine.perf_counter())
        await asked.end(call)
        waits.append(machine.perf_counter())
    steps = [after - before for before, after in itertools.pairwise(waits)]
    return said is None, max(steps), sum(steps)


@pytest.mark.parametrize("how", [signal.SIGSTOP, signal.SIGKILL])
async def test_a_dead_redis_costs_its_patience_once(asked: Any, redis: Redis, how: signal.Signals) -> None:
    url, server = redis
    store = open_store(url)
    await store.open()
    plugin = await asked.plugin(TIER, store=store)
    assert (await call_through(asked, plugin))[0]
    server.send_signal(how)
    if how == signal.SIGKILL:
        server.wait(10)
    seen = [await call_through(asked, plugin) for _ in range(60)]
    away = plugin._degraded.value()
    back = 0.0
    if how == signal.SIGSTOP:
        server.send_signal(signal.SIGCONT)
        began = machine.monotonic()
        while plugin._degraded.value():
            assert machine.monotonic() - began < 3
            await call_through(asked, plugin)
            await asyncio.sleep(0.02)
        back = machine.monotonic() - began

    assert sum(let_in for let_in, _, _ in seen) == 20  # its share of 40/hour
    assert away == 1
    longest = sorted(step for _, step, _ in seen)
    assert longest[-3] < 0.06
    assert longest[-1] < 0.2
    assert sum(whole for _, _, whole in seen) < 2
    assert back < 2
    await plugin.close()
    await store.close()


async def test_a_locked_sqlite_file_costs_as_little(asked: Any, tmp_path: Path) -> None:
    """Another program holds its write lock; the store itself would wait two seconds."""
    file = tmp_path / "book.db"
    store = open_store(f"sqlite:///{file}")
    await store.open()
    plugin = await asked.plugin("rate: [40/hour], concurrent: 1", store=store)
    running = asked.call()
    assert await asked.ask(plugin, running) is None
    locked = sqlite3.connect(file, isolation_level=None)
    locked.execute("BEGIN IMMEDIATE")
    began = machine.perf_counter()
    await asked.end(running)
    waits = [machine.perf_counter() - began]
    let_in = 0
    for _ in range(40):
        call, began = asked.call(), machine.perf_counter()
        if await asked.ask(plugin, call) is None:
            let_in += 1
            await asked.end(call)
        waits.append(machine.perf_counter() - began)
    away = plugin._degraded.value()
    locked.execute("ROLLBACK")
    locked.close()
    began = machine.monotonic()
    while await asked.ask(plugin) is not None or plugin._degraded.value():
        assert machine.monotonic() - began < 3
        await asyncio.sleep(0.05)

    assert let_in == 20
    assert away == 1
    assert sorted(waits)[-3] < 0.06
    assert max(waits) < 0.2
    await plugin.close()
    await store.close()


async def test_what_was_taken_locally_is_given_back_there(asked: Any, redis: Redis) -> None:
    """A store that comes back meanwhile, and a renewal that takes the places there, change nothing."""
    url, server = redis
    store = open_store(url)
    await store.open()
    plugin = await asked.plugin("concurrent: 4", "lease: 600ms", store=store)
    server.send_signal(signal.SIGSTOP)
    calls = [asked.call() for _ in range(3)]
    said = [await asked.ask(plugin, call) for call in calls]
    assert [block is None for block in said] == [True, True, False]
    server.send_signal(signal.SIGCONT)
    await asyncio.sleep(1.5)  # renewed: now they count for everybody
    more = [asked.call() for _ in range(3)]
    assert [await asked.ask(plugin, call) is None for call in more] == [True, True, False]
    for call in (*calls[:2], *more[:2]):
        await asked.end(call)

    assert [await asked.ask(plugin) is None for _ in range(5)] == [True] * 4 + [False]
    await plugin.close()
    await store.close()


async def test_answers_keep_coming(redis: Redis) -> None:
    url, server = redis
    async with FakeProvider() as sim:
        text = f"""
server: {{store: "{url}"}}
providers: {{openai: {{dialect: openai, base_url: "{sim.url}/v1"}}}}
tenants: {{anonymous: {{tier: free}}}}
tiers: {{free: {{rate: [100/hour], concurrent: 50}}}}
plugins: [{{use: rate_limit}}]
"""
        async with (
            gateway(text) as (data, admin),
            aiohttp.ClientSession(headers={"authorization": "Bearer k"}) as client,
        ):

            async def post() -> tuple[int, float]:
                began = machine.perf_counter()
                body = {"model": "gpt-4o", "messages": [{"role": "user", "content": "x"}]}
                async with client.post(f"{data}/v1/chat/completions", json=body) as reply:
                    await reply.read()
                    return reply.status, machine.perf_counter() - began

            async def told(figure: str) -> bool:
                """Whether the exposition says so soon: it is at most a second old."""
                for _ in range(20):
                    async with client.get(f"{admin}/metrics") as reply:
                        if f"llmshield_limiter_degraded {figure}\n" in await reply.text():
                            return True
                    await asyncio.sleep(0.15)
                    await post()
                return False

            assert (await post())[0] == 200
            server.send_signal(signal.SIGSTOP)
            try:
                said = [await post() for _ in range(20)]
                assert await told("1")
            finally:
                server.send_signal(signal.SIGCONT)

            assert [status for status, _ in said] == [200] * 20
            assert sorted(wait for _, wait in said)[-3] < 0.15
            assert await told("0")
