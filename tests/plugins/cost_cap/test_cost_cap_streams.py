"""Streams and money: a provider that does not stop, a client that leaves, and what both cost."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest

from llmshield.stores import open_store
from llmshield.testing import FakeProvider, gateway

POLICY = """
server: {{store: "{store}"}}
providers:
  openai: {{dialect: openai, base_url: "{sim}/v1"}}
  claude: {{dialect: anthropic, base_url: "{sim}"}}
  google: {{dialect: gemini, base_url: "{sim}"}}
routes:
  - {{match: {{model: "claude-*"}}, to: [claude]}}
  - {{match: {{model: "gemini-*"}}, to: [google]}}
  - {{match: {{any: true}}, to: [openai]}}
tenants: {{anonymous: {{tier: free}}}}
tiers: {{free: {{budget: {budget}}}}}
plugins: [{{use: cost_cap, {settings}}}]
"""


@contextlib.asynccontextmanager
async def house(
    budget: str = "100 USD/day", store: str = "memory://", settings: str = "tool_rounds: 3"
) -> AsyncIterator[tuple[Any, str, str]]:
    async with FakeProvider() as sim:
        text = POLICY.format(sim=sim.url, store=store, budget=budget, settings=settings)
        async with gateway(text) as (url, admin):
            yield sim, url, admin


async def settled(admin: str, requests: int = 1) -> dict[str, Any]:
    """The tenant's figures, once so many calls are settled and nothing is held."""
    async with aiohttp.ClientSession() as http:
        for _ in range(400):
            async with http.get(admin + "/usage") as reply:
                found: dict[str, Any] = (await reply.json())["tenants"]["anonymous"]
            if Decimal(found["held_usd"]) == 0 and found["requests"] >= requests:
                return found
            await asyncio.sleep(0.01)
    raise AssertionError(f"not settled: {found}")


HI = [{"role": "user", "content": "How are you?"}]
PARTS = {"contents": [{"role": "user", "parts": [{"text": "How are you?"}]}], "generationConfig": {"maxOutputTokens": 40}}  # fmt: skip
STREAMS: dict[str, tuple[str, dict[str, Any], bytes, Decimal]] = {
    # path, body, the dialect's own stop signal, USD per output token
    "chat": ("/v1/chat/completions", {"model": "gpt-4o-mini", "messages": HI, "max_tokens": 40, "stream": True},
             b'"finish_reason":"content_filter"', Decimal("0.60") / 10**6),
    "completions": ("/v1/completions", {"model": "gpt-3.5-turbo-instruct", "prompt": "Hello", "max_tokens": 40, "stream": True},
                    b'"finish_reason":"content_filter"', Decimal(2) / 10**6),
    "responses": ("/v1/responses", {"model": "gpt-4o-mini", "input": "Hello", "max_output_tokens": 40, "stream": True},
                  b"response.failed", Decimal("0.60") / 10**6),
    "messages": ("/v1/messages", {"model": "claude-haiku-4-5", "messages": HI, "max_tokens": 40, "stream": True},
                 b'"stop_reason":"refusal"', Decimal(5) / 10**6),
    "gemini": ("/v1beta/models/gemini-2.5-flash:streamGenerateContent?alt=sse", PARTS, b'"finishReason":"PROHIBITED_CONTENT"', Decimal("2.50") / 10**6),
    "gemini, array": ("/v1beta/models/gemini-2.5-flash:streamGenerateContent", PARTS, b'"finishReason":"PROHIBITED_CONTENT"', Decimal("2.50") / 10**6),
}  # fmt: skip


@pytest.mark.parametrize("name", STREAMS)
async def test_a_stream_that_outruns_its_reservation_is_stopped(name: str) -> None:
    """A provider that ignores the bound and talks for ever: the client gets the dialect's stop signal, the tenant pays
    what was reserved and no more, and the provider's connection is closed."""
    path, body, signal, _ = STREAMS[name]
    async with house() as (sim, url, admin), aiohttp.ClientSession() as http:
        sim.set(fault="endless", text="word " * 20, chars=5, delay=0.001)
        async with asyncio.timeout(20):
            async with http.post(url + path, json=body, headers={"authorization": "Bearer k"}) as reply:
                said = await reply.read()
        found = await settled(admin)
        async with http.get(admin + "/metrics") as metrics:
            overruns = [line for line in (await metrics.text()).splitlines() if "cost_overrun_total{" in line]

        assert reply.status == 200
        assert signal in said, said[-600:]
        words = said.count(b"word")
        assert 40 <= words <= 400, words
        assert overruns == []
        assert 0 < Decimal(found["spent_usd"]) < Decimal("0.01")
        assert found["requests"] == 1


@pytest.mark.parametrize("name", STREAMS)
async def test_a_stream_within_its_reservation_is_never_stopped(name: str) -> None:
    """A long answer in every script, as long as the bound allows, ends as its provider ends it."""
    path, body, signal, _ = STREAMS[name]
    texts = ["word " * 5_000, "пользователь " * 2_000, "你好世界" * 3_000, "=" * 9_000, "a\n\n\n  b\t" * 2_000, "0123456789 " * 2_000]  # fmt: skip
    bound = b":500" if "array" in name else b":5000"
    many = orjson.loads(orjson.dumps(body).replace(b":40", bound))
    async with house() as (sim, url, _), aiohttp.ClientSession() as http:
        for text in texts:
            sim.set(text=text)
            async with http.post(url + path, json=many, headers={"authorization": "Bearer k"}) as reply:
                said = await reply.read()

            assert reply.status == 200
            assert signal not in said, (text[:20], said[-300:])


async def test_monitor_mode_stops_nothing() -> None:
    path, body, signal, _ = STREAMS["chat"]
    async with house(settings="mode: monitor") as (sim, url, _), aiohttp.ClientSession() as http:
        sim.set(fault="endless", text="word " * 20)
        read = b""
        async with http.post(url + path, json=body, headers={"authorization": "Bearer k"}) as reply:
            while len(read) < 200_000:
                read += await reply.content.read(65_536)

        assert signal not in read


async def test_a_model_that_thinks_unseen_is_charged_in_full_when_its_stream_is_cut() -> None:
    """gpt-5 may have produced thousands of tokens before the first that is shown: nobody here knows how many."""
    spent = {}
    for model in ("gpt-5", "gpt-4o"):
        async with house() as (sim, url, admin), aiohttp.ClientSession() as http:
            sim.set(text="word " * 400, delay=0.005)
            body = {"model": model, "messages": HI, "max_completion_tokens": 10_000, "stream": True}
            async with http.post(f"{url}/v1/chat/completions", json=body) as reply:
                await reply.content.readuntil(b"\n\n")
                reply.close()
            spent[model] = Decimal((await settled(admin))["spent_usd"])

    assert spent["gpt-5"] >= Decimal(10_000) * 10 / 10**6
    assert spent["gpt-4o"] < Decimal("0.05")


# -- clients that leave


async def leave(port: int, raw: bytes, after: int, *, reset: bool) -> None:
    """Read so many bytes of the answer, then close the connection or reset it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(raw)
    got = 0
    with contextlib.suppress(ConnectionError):
        while got < after:
            data = await reader.read(after - got)
            if not data:
                break
            got += len(data)
    if reset:
        writer.transport.abort()
    else:
        writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


def raw_request(path: str, body: dict[str, Any]) -> bytes:
    data = orjson.dumps(body)
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer k\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"  # fmt: skip
    return head.encode() + data


async def leave_at_random(count: int, tmp_path: Path, seed: int) -> None:
    """`count` streams over all dialects, 40 at a time, each left at a random byte; each is settled exactly once."""
    store = f"sqlite:///{tmp_path / 'left.db'}"
    rng = random.Random(seed)
    requests = [
        raw_request(path, orjson.loads(orjson.dumps(body).replace(b":40", b":300")))
        for path, body, _, _ in STREAMS.values()
    ]
    async with house(store=store, budget="100000 USD/day") as (sim, url, admin):
        sim.set(text="word " * 60, delay=0.0005)
        port = int(url.rsplit(":", 1)[1])
        places = asyncio.Semaphore(40)

        async def one() -> None:
            async with places:
                await leave(port, rng.choice(requests), rng.randrange(1, 16_000), reset=rng.random() < 0.5)

        await asyncio.gather(*[one() for _ in range(count)])
        found = await settled(admin, len(sim.calls))
        sent = len(sim.calls)

    book = open_store(store)
    await book.open()
    entries = [entry async for entry in book.journal()]
    holds = await book.holds()
    await book.close()

    assert found["requests"] == sent == len(entries) == len({entry.id for entry in entries})
    assert sent >= count * 0.95, "a request may be left before it is asked for; most are not"
    assert holds == 0
    assert all(entry.kind == "settle" and entry.amount > 0 for entry in entries)
    spent = sum(entry.amount for entry in entries)
    assert Decimal(found["spent_usd"]) == Decimal(spent) / 10**12


async def test_streams_left_at_a_random_byte_are_settled_once_each(tmp_path: Path) -> None:
    await leave_at_random(400, tmp_path, 17)


@pytest.mark.nightly
async def test_five_thousand_streams_left_at_a_random_byte(tmp_path: Path) -> None:
    await leave_at_random(5_000, tmp_path, 23)
