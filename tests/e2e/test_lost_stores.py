"""A Redis that is away at the start, killed or flushed under a serving gateway: money refuses, and comes back right."""

import asyncio
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from llmshield.local_state import LocalState
from llmshield.rebuilding import rebuild
from llmshield.simulator import Simulator
from llmshield.stores import open_store
from llmshield.testing import gateway

POLICY = """
version: 1
server: {{store: "redis://127.0.0.1:{port}/0", state_dir: "{folder}/state"}}
providers:
  openai: {{dialect: openai, base_url: "{provider}/v1", api_key: "env://E2E_KEY", prices: {{input: 1, output: 2}}}}
routes:
  - {{match: {{any: true}}, to: [openai]}}
tenants: {{anonymous: {{tier: t}}}}
tiers: {{t: {{budget: 0.002 USD/day, rate: [100000/minute], concurrent: 500}}}}
plugins: [{{use: rate_limit}}, {{use: cost_cap}}]
"""
BODY = {"model": "gpt-4o", "max_tokens": 8, "messages": [{"role": "user", "content": "hello"}]}
Start = Callable[[], "subprocess.Popen[bytes]"]


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def redis(port: int, start_redis: Any) -> Start:
    """Start a redis-server without a memory on this port, again and again."""
    return lambda: start_redis(port=port)[1]


def policy(port: int, folder: Path, primary: Simulator, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("E2E_KEY", "sk-of-a-test")
    return POLICY.format(port=port, folder=folder, provider=primary.url)


async def call(client: aiohttp.ClientSession, data: str) -> tuple[int, Any]:
    async with client.post(f"{data}/v1/chat/completions", json=BODY) as reply:
        return reply.status, await reply.json()


async def until_ready(client: aiohttp.ClientSession, admin: str, seconds: float = 2.0) -> None:
    end = time.monotonic() + seconds
    while True:
        async with client.get(f"{admin}/readyz") as reply:
            if reply.status == 200:
                return
            said = await reply.text()
        assert time.monotonic() < end, said
        await asyncio.sleep(0.02)


async def test_a_redis_that_comes_later(
    port: int, redis: Start, primary: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        gateway(policy(port, tmp_path, primary, monkeypatch)) as (data, admin),
        aiohttp.ClientSession() as client,
    ):
        async with client.get(f"{admin}/readyz") as reply:
            assert (reply.status, (await reply.json())["reason"]) == (503, "the store can't be reached")
        waits = []
        for _ in range(10):
            began = time.perf_counter()
            status, body = await call(client, data)
            waits.append(time.perf_counter() - began)
            assert (status, body["error"]["code"]) == (503, "store_unavailable")
        assert len(primary.calls) == 0
        assert sorted(waits)[5] < 0.06
        redis()
        await until_ready(client, admin)
        assert (await call(client, data))[0] == 200


@pytest.mark.parametrize("how", ["flushed", "killed"])
async def test_a_redis_that_loses_the_book_is_never_a_fresh_budget(
    how: str, port: int, redis: Start, primary: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sixteen clients spend; the store is emptied in the middle: from then on nothing goes upstream, until rebuilt."""
    server = redis()
    answers: list[tuple[float, int, str]] = []
    going = True

    async def client_of(client: aiohttp.ClientSession, data: str) -> None:
        while going:
            began = time.monotonic()
            status, body = await call(client, data)
            answers.append((began, status, body["error"]["message"] if status != 200 else ""))
            await asyncio.sleep(0.01 if status == 200 else 0.03)

    async with (
        gateway(policy(port, tmp_path, primary, monkeypatch)) as (data, admin),
        aiohttp.ClientSession() as client,
    ):
        await until_ready(client, admin)
        assert (await call(client, data))[0] == 200
        crowd = [asyncio.create_task(client_of(client, data)) for _ in range(4)]
        await asyncio.sleep(0.25)
        if how == "flushed":
            with socket.create_connection(("127.0.0.1", port)) as admin_of_redis:
                admin_of_redis.sendall(b"FLUSHALL\r\n")
                assert admin_of_redis.recv(10) == b"+OK\r\n"
        else:
            server.kill()
            server.wait(10)
            redis()
        lost_at = time.monotonic()
        await asyncio.sleep(0.7)
        going = False
        await asyncio.gather(*crowd)
        after = [(status, said) for began, status, said in answers if began > lost_at]
        assert len(after) > 20
        assert {status for status, _ in after} == {503}
        assert "llmshield budget rebuild" in after[-1][1]
        assert "sqlite" not in after[-1][1].lower()
        assert "redis" not in after[-1][1].lower()
        async with client.get(f"{admin}/readyz") as reply:
            assert "The money book is lost" in (await reply.json())["reason"]

        paid = len(primary.calls)
        store = open_store(f"redis://127.0.0.1:{port}/0")
        await rebuild(store, LocalState(store.url, tmp_path / "state"))
        await store.close()
        await until_ready(client, admin)
        status, body = await call(client, data)
        assert status == 200
        cost = (body["usage"]["prompt_tokens"] + 2 * body["usage"]["completion_tokens"]) * 10**6
        async with client.get(f"{admin}/usage") as reply:
            told = (await reply.json())["tenants"]["anonymous"]
        assert int(told["spent_usd"].replace(".", "")) == (paid + 1) * cost
        # The rest of the budget and no more.
        while (await call(client, data))[0] == 200:
            assert len(primary.calls) * cost <= 2 * 10**9
        assert len(primary.calls) * cost <= 2 * 10**9
