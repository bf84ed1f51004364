"""Circuits over real sockets: a primary that is down for a while, several gateways, clients that go away."""

import asyncio
import time
from typing import Any

import aiohttp
import pytest

from llmshield.circuits import notes
from llmshield.simulator import Simulator
from llmshield.stores import open_store
from llmshield.testing import gateway

BODY: dict[str, Any] = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}]}


def policy(primary: Simulator, backup: Simulator | None, circuit: str, *, store: str = "memory://") -> str:
    return f"""
server: {{store: "{store}"}}
providers:
  a: {{dialect: openai, base_url: "{primary.url}/v1", circuit: {{{circuit}}}}}
  b: {{dialect: openai, base_url: "{(backup or primary).url}/v1"}}
routes:
  - match: {{any: true}}
    to: [a{", b" if backup else ""}]
    retry: {{attempts: 2, when: [5xx, connect], backoff: 1ms..2ms}}
plugins: [{{use: failover}}]
"""


async def ask(http: aiohttp.ClientSession, url: str, **more: Any) -> tuple[int, str]:
    async with http.post(f"{url}/v1/chat/completions", json={**BODY, **more}) as reply:
        await reply.read()
        return reply.status, reply.headers.get("x-llmshield-provider", "")


async def circuit(http: aiohttp.ClientSession, admin: str, model: str = "gpt-4o") -> dict[str, Any]:
    async with http.get(f"{admin}/status") as reply:
        found: dict[str, Any] = (await reply.json())["providers"]["a"]["circuits"].get(
            model, {"state": "closed"}
        )
        return found


async def until(http: aiohttp.ClientSession, admin: str, state: str, seconds: float = 1.0) -> None:
    began = time.monotonic()
    while (await circuit(http, admin))["state"] != state:
        assert time.monotonic() - began < seconds
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("faster", [20, pytest.param(1, marks=pytest.mark.nightly)])
async def test_a_primary_that_is_down_for_a_minute(
    primary: Simulator, backup: Simulator, faster: int
) -> None:
    """A call every 4 s: served throughout, one probe for each break, back on the primary within 30 s."""
    given = policy(
        primary, backup, f"failures: 3, open_for: {10_000 // faster}ms, max_open: {20_000 // faster}ms"
    )
    async with gateway(given) as (url, admin), aiohttp.ClientSession() as http:
        assert (200, "a") == await ask(http, url)
        primary.set(fault="503")
        down, before, served = time.monotonic(), len(primary.calls), []
        while time.monotonic() - down < 60 / faster:
            served.append(await ask(http, url))
            await asyncio.sleep(4 / faster)
        opens = (await circuit(http, admin))["opens"]
        asked = len(primary.calls) - before
        primary.set(fault="none")
        up = time.monotonic()
        while (after := await ask(http, url)) != (200, "a"):
            served.append(after)
            await asyncio.sleep(4 / faster)
        back_s = (time.monotonic() - up) * faster
        state = (await circuit(http, admin))["state"]

    assert {(200, "b")} == set(served)
    assert opens >= 3
    assert 3 + opens - 1 == asked, "three failures, and one probe for each break; none is tried twice"
    assert back_s < 30
    assert "closed" == state


async def test_gateways_of_one_store_share_them(
    primary: Simulator, backup: Simulator, shared_url: str
) -> None:
    given = policy(primary, backup, "failures: 2, open_for: 700ms", store=shared_url)
    async with (
        gateway(given) as (one, admin_one),
        gateway(given) as (two, admin_two),
        aiohttp.ClientSession() as http,
    ):
        primary.set(fault="503")
        await ask(http, one)
        await until(http, admin_two, "open")
        asked = len(primary.calls)
        assert (200, "b") == await ask(http, two)
        assert asked == len(primary.calls)
        primary.set(fault="none", ttft=0.4)
        await until(http, admin_one, "half_open")
        await until(http, admin_two, "half_open")
        said = await asyncio.gather(*[ask(http, url) for url in (one, two) for _ in range(50)])
        assert 1 == [provider for _, provider in said].count("a"), "one probe over both"
        assert asked + 1 == len(primary.calls)
        await until(http, admin_one, "closed")
        await until(http, admin_two, "closed")
        primary.set(ttft=0)
        store = open_store(shared_url)
        await store.open()
        await notes.hold_open(store, "a", "gpt-4o")
        await store.close()
        await until(http, admin_one, "open")
        await until(http, admin_two, "open")
        assert (200, "b") == await ask(http, two)
        assert (200, "a") == await ask(http, two, model="gpt-4o-mini")
        async with http.get(f"{admin_two}/metrics") as reply:
            metrics = await reply.text()

    assert 'llmshield_circuit_state{provider="a",model="gpt-4o"} 2' in metrics
    assert "llmshield_circuits_alone 0" in metrics


async def test_without_a_fallback_the_client_is_told_to_come_again_soon(primary: Simulator) -> None:
    """SDKs sleep for as long as they are told, twice: 40 s of an open circuit must not become 80 s of standing still."""
    async with (
        gateway(policy(primary, None, "failures: 2, open_for: 40s")) as (url, _),
        aiohttp.ClientSession() as http,
    ):
        primary.set(fault="503")
        await ask(http, url)
        asked = len(primary.calls)
        async with http.post(f"{url}/v1/chat/completions", json=BODY) as reply:
            assert 503 == reply.status
            assert "5" == reply.headers["retry-after"]
            assert "5000" == reply.headers["retry-after-ms"]

    assert 2 == asked == len(primary.calls)


async def test_a_client_that_takes_the_probe_and_leaves(primary: Simulator, backup: Simulator) -> None:
    async with (
        gateway(policy(primary, backup, "failures: 2, open_for: 500ms")) as (url, admin),
        aiohttp.ClientSession() as http,
    ):
        primary.set(fault="503")
        await ask(http, url)
        primary.set(fault="silence")
        await until(http, admin, "half_open")
        asked = len(primary.calls)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await ask(http, url)
        assert asked + 1 == len(primary.calls)
        primary.set(fault="none")
        await asyncio.sleep(0.1)
        assert (200, "a") == await ask(http, url), "the next one is the probe"

        assert "closed" == (await circuit(http, admin))["state"]


async def test_slow_streams_open_it(primary: Simulator, backup: Simulator) -> None:
    async with (
        gateway(policy(primary, backup, "failures: 2, slow: 100ms")) as (url, admin),
        aiohttp.ClientSession() as http,
    ):
        primary.set(ttft=0.15)
        for stream in (False, False, True, True):
            assert (200, "a") == await ask(http, url, stream=stream)
        assert "slow" == (await circuit(http, admin))["reason"]

        assert (200, "b") == await ask(http, url, stream=True)


@pytest.mark.parametrize(("fault", "opens"), [("401", False), ("429", False), ("400", False), ("500", True)])
async def test_what_one_key_may_not_closes_nobodys_way(
    primary: Simulator, backup: Simulator, fault: str, opens: bool
) -> None:
    async with (
        gateway(policy(primary, backup, "failures: 2")) as (url, admin),
        aiohttp.ClientSession() as http,
    ):
        primary.set(fault=fault, retry_after="30")
        for _ in range(4):
            await ask(http, url)
        assert opens == ((await circuit(http, admin))["state"] == "open")
