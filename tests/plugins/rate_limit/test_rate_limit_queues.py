"""The queue for calls above `concurrent`: first come first served, bounded in length and time, left by who goes."""

import asyncio
import time as machine
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from llmshield.call import Call
from llmshield.metrics import Metrics
from llmshield.stores import Admission, Seat, Store, open_store
from llmshield.testing import FakeProvider, gateway, run_hook
from llmshield.verdicts import Block
from llmshield_plugins.rate_limit import queues as waiting_lines
from llmshield_plugins.rate_limit.queues import Queues

TIER = "concurrent: 1, queue: {wait: 2s, length: 3}"


async def test_first_come_first_served(asked: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are woken: whoever polled would wait for an hour."""
    monkeypatch.setattr(waiting_lines, "POLL_S", 3600.0)
    plugin = await asked.plugin(TIER)
    calls = [asked.call() for _ in range(4)]
    assert await asked.ask(plugin, calls[0]) is None
    order: list[int] = []

    async def one(index: int) -> None:
        assert await asked.ask(plugin, calls[index]) is None
        order.append(index)
        await asyncio.sleep(0)
        await asked.end(calls[index])

    waiting = [asyncio.create_task(one(index)) for index in (1, 2, 3)]
    await asyncio.sleep(0.01)
    assert order == []
    await asked.end(calls[0])
    async with asyncio.timeout(30):
        await asyncio.gather(*waiting)

    assert order == [1, 2, 3]
    assert plugin._queues._queues == {}
    assert plugin._held == {}


async def test_who_comes_now_is_behind_who_waits(asked: Any) -> None:
    plugin = await asked.plugin(TIER)
    calls = [asked.call() for _ in range(3)]
    await asked.ask(plugin, calls[0])
    first = asyncio.create_task(asked.ask(plugin, calls[1]))
    await asyncio.sleep(0.01)
    leaving = plugin._leave(calls[0])  # the place is free, and the first one has not looked yet
    assert leaving is None
    second = asyncio.create_task(asked.ask(plugin, calls[2]))
    await asyncio.sleep(0.02)

    assert first.done()
    assert not second.done()
    await asked.end(calls[1])
    assert await second is None


async def test_a_full_queue_and_a_long_wait_are_refused(asked: Any) -> None:
    plugin = await asked.plugin("concurrent: 2, queue: {wait: 150ms, length: 2}")
    calls = [asked.call() for _ in range(5)]
    for call in calls[:2]:
        assert await asked.ask(plugin, call) is None
    began = machine.perf_counter()
    waiting = [asyncio.create_task(asked.ask(plugin, call)) for call in calls[2:4]]
    await asyncio.sleep(0.01)
    crowded = await asked.ask(plugin, calls[4])
    assert not any(task.done() for task in waiting)  # it did not wait with them
    late = await asyncio.gather(*waiting)
    waited = machine.perf_counter() - began

    assert crowded.kind == "rate_limited"
    assert "2 at once for tenant acme is reached, and 2 calls wait. Try again in 1.0 s." in crowded.message
    assert [block.kind for block in late] == ["rate_limited"] * 2
    assert "is reached for 0.15 s." in late[0].message
    assert 0.14 < waited < 5
    assert crowded.retry_after_s == 1.0


async def test_who_goes_leaves_the_queue_and_takes_nothing(asked: Any) -> None:
    plugin = await asked.plugin("rate: [9/minute], concurrent: 1, queue: {wait: 2s, length: 1}")
    calls = [asked.call() for _ in range(3)]
    await asked.ask(plugin, calls[0])
    gone = asyncio.create_task(asked.ask(plugin, calls[1]))
    await asyncio.sleep(0.01)
    gone.cancel()
    await asyncio.wait({gone})
    behind = asyncio.create_task(asked.ask(plugin, calls[2]))
    await asyncio.sleep(0.01)
    await asked.end(calls[0])

    assert await behind is None
    assert calls[2].response_headers["x-ratelimit-remaining-requests"] == "7"


async def test_a_full_window_ends_the_wait(asked: Any) -> None:
    """Waiting calls are counted when they are let in; then the window may be full."""
    plugin = await asked.plugin("rate: [1/hour], concurrent: 1, queue: {wait: 2s, length: 3}")
    calls = [asked.call() for _ in range(2)]
    assert await asked.ask(plugin, calls[0]) is None
    said = await asked.ask(plugin, calls[1])

    assert isinstance(said, Block)
    assert "1/hour" in said.message


async def test_nobody_waits_in_monitor_mode(asked: Any) -> None:
    plugin = await asked.plugin(TIER)
    await asked.ask(plugin)
    run = await run_hook(plugin, "pre_request", asked.call(), enforced=False)

    assert (run.verdict, run.action) == (None, "would-wait")


async def test_tenants_have_queues_of_their_own(asked: Any) -> None:
    plugin = await asked.plugin("concurrent: 1, queue: {wait: 50ms, length: 1}")
    await asked.ask(plugin, asked.call("acme"))
    waiting = asyncio.create_task(asked.ask(plugin, asked.call("acme")))
    await asyncio.sleep(0)

    assert await asked.ask(plugin, asked.call("umbrella")) is None
    assert await waiting is not None


async def test_a_place_that_another_process_left_is_found(asked: Any, tmp_path: Path) -> None:
    stores = [open_store(f"sqlite:///{tmp_path / 'shared.db'}") for _ in range(2)]
    for store in stores:
        await store.open()
    here, there = [await asked.plugin(TIER, store=store) for store in stores]
    theirs, ours = asked.call(), asked.call()
    await asked.ask(there, theirs)
    waiting = asyncio.create_task(asked.ask(here, ours))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    await asked.end(theirs)
    began = machine.perf_counter()

    assert await waiting is None
    assert machine.perf_counter() - began < 0.5
    await asked.end(ours)
    for store in stores:
        await store.close()


class Counting:
    """How often a queue asked for a place."""

    def __init__(self) -> None:
        self.asked = 0

    async def take(self) -> Any:
        self.asked += 1
        return "full"


async def test_however_many_wait_only_the_first_asks() -> None:
    queues, counting = Queues(Metrics()), Counting()
    began = machine.perf_counter()
    said = await asyncio.gather(*[queues.wait("k", 50, 0.35, counting.take) for _ in range(50)])
    took_s = machine.perf_counter() - began

    assert said == ["late"] * 50
    assert (
        counting.asked <= 1 + took_s / 0.1 + 50
    )  # every 100 ms, and each once when those before it have gone


class Slow(Store):
    """A store whose answer takes a while, over the real one."""

    def __init__(self, inner: Store) -> None:
        self.inner = inner

    def __getattribute__(self, name: str) -> Any:
        inner = object.__getattribute__(self, "inner") if name != "inner" else None
        if name == "instant":
            return False
        if name == "admit":

            async def admit(*args: Any) -> Any:
                said = await inner.admit(*args)
                await asyncio.sleep(0.03)
                return said

            return admit
        return object.__getattribute__(self, name) if name == "inner" else getattr(inner, name)


Slow.__abstractmethods__ = frozenset()  # everything is asked of the inner one


@pytest.mark.parametrize("patience", [0.01, 0.2])
async def test_a_client_that_goes_while_the_store_answers_holds_no_place(asked: Any, patience: float) -> None:
    """Its place may have been taken already: it is given back behind its back."""
    inner = open_store("memory://")
    plugin = await asked.plugin(TIER, store=Slow(inner))
    call: Call = asked.call()
    task = asyncio.create_task(asked.ask(plugin, call))
    await asyncio.sleep(patience)
    if patience < 0.03:
        task.cancel()
        await asyncio.wait({task})
    await asked.end(call)
    await asyncio.sleep(0.25)

    assert await inner.admit([], [Seat("tenant:acme", 1, "another", 2**60)], 0) == Admission(-1, (), ())


async def test_behind_the_gateway() -> None:
    async with FakeProvider() as sim:
        text = f"""
providers: {{openai: {{dialect: openai, base_url: "{sim.url}/v1"}}}}
tenants: {{anonymous: {{tier: free}}}}
tiers: {{free: {{concurrent: 1, queue: {{wait: 5s, length: 2}}}}}}
plugins: [{{use: rate_limit, timeout: 100ms}}]
"""
        async with (
            gateway(text) as (url, _),
            aiohttp.ClientSession(headers={"authorization": "Bearer k"}) as client,
        ):

            async def post() -> int:
                body = {"model": "gpt-4o", "messages": [{"role": "user", "content": "x"}]}
                async with client.post(f"{url}/v1/chat/completions", json=body) as reply:
                    await reply.read()
                    return reply.status

            sim.set(ttft=0.4)
            assert sorted(await asyncio.gather(*[post() for _ in range(4)])) == [200, 200, 200, 429]
            sim.set(ttft=0.8)
            running = asyncio.create_task(post())
            await asyncio.sleep(0.1)
            gone = [asyncio.create_task(post()) for _ in range(2)]
            await asyncio.sleep(0.1)
            for task in gone:
                task.cancel()
            await asyncio.sleep(0.2)
            late = post()  # there is room in the queue again

            assert [await running, await late] == [200, 200]
            assert len(sim.calls) == 5
