"""The shipped plans, and the models that a tier may ask for, through the gateway."""

import asyncio
import hashlib
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from llmshield.policy import load
from llmshield.testing import FakeProvider, gateway, policy

SHIPPED = Path(__file__).parents[3] / "policies" / "tiers.yaml"
KEYS = {name: f"key-of-{name}" for name in ("acme", "umbrella")}

PLANS = [("free", (20, 100), 1), ("pro", (100, 1_000), 3), ("enterprise", (1_000, 10_000), 10)]


@pytest.mark.parametrize(("name", "rates", "concurrent"), PLANS)
def test_what_the_plans_say(name: str, rates: tuple[int, int], concurrent: int) -> None:
    tier = load(SHIPPED).tiers[name]

    assert tuple((rate.limit, rate.per) for rate in tier.rate) == ((rates[0], "hour"), (rates[1], "day"))
    assert tier.concurrent == concurrent


async def test_what_the_plans_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test-0123456789")
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-test-0123456789")
    async with FakeProvider() as sim:
        text = SHIPPED.read_text().replace("sqlite:///llmshield.db", f"sqlite:///{tmp_path / 'book.db'}")
        text = text.replace("file://audit.jsonl", f"file://{tmp_path / 'audit.jsonl'}")
        for name, base in (("openai", f"{sim.url}/v1"), ("anthropic", sim.url)):
            text = text.replace(f"dialect: {name}\n", f"dialect: {name}\n    base_url: {base}\n")
        for name, key in KEYS.items():
            digest = hashlib.sha256(key.encode()).hexdigest()
            text = text.replace(f"{name}: {{tier", f'{name}: {{keys: ["sha256:{digest}"], tier')
        async with gateway(policy(text)) as (url, _), aiohttp.ClientSession() as client:

            async def post(key: str = "") -> tuple[int, Any]:
                body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "x"}]}
                headers = {"authorization": f"Bearer {key}"} if key else {}
                async with client.post(f"{url}/v1/chat/completions", json=body, headers=headers) as reply:
                    await reply.read()
                    return reply.status, reply.headers

            said = [await post() for _ in range(21)]
            assert [status for status, _ in said] == [200] * 20 + [429]
            assert said[-1][1]["ratelimit-policy"] == (
                '"hour";q=20;w=3600, "day";q=100;w=86400, "address-minute";q=600;w=60'
            )
            assert int(said[-1][1]["retry-after"]) <= 60
            sim.set(ttft=0.7)
            together = await asyncio.gather(*[post(KEYS["acme"]) for _ in range(6)])
            assert sorted(status for status, _ in together) == [200] * 6  # three wait in the queue
            assert min(int(h["x-ratelimit-remaining-requests"]) for _, h in together) == 94
            status, headers = await post(KEYS["umbrella"])

            assert status == 200
            assert headers["ratelimit-policy"].startswith('"hour";q=1000;w=3600, "day";q=10000;w=86400')


MODELS = """
providers: {{openai: {{dialect: openai, base_url: "{url}/v1"}}, anthropic: {{dialect: anthropic, base_url: "{url}"}}}}
tenants: {{anonymous: {{tier: free}}}}
tiers: {{free: {{rate: [3/hour], models: ["gpt-*-mini", "claude-?-haiku"]}}}}
plugins: [{{use: rate_limit}}]
"""

ASKED = [
    ("/v1/chat/completions", "gpt-4o-mini", 200),
    ("/v1/chat/completions", "gpt-4o", 404),
    ("/v1/chat/completions", "my-gpt-4o-mini", 404),
    ("/v1/chat/completions", "gpt-4o-mini-2", 404),
    ("/v1/messages", "claude-3-haiku", 200),
    ("/v1/messages", "claude-33-haiku", 404),
    ("/v1/embeddings", "text-embedding-3-small", 404),
]


@pytest.mark.parametrize(("path", "model", "expected"), ASKED)
async def test_models_of_a_tier(path: str, model: str, expected: int) -> None:
    """A model that is not on the list is 404, named in the client's dialect, counted nowhere, and asked of nobody."""
    async with FakeProvider() as sim:
        async with (
            gateway(MODELS.format(url=sim.url)) as (url, _),
            aiohttp.ClientSession(headers={"authorization": "Bearer k"}) as client,
        ):
            body: dict[str, Any] = {"model": model, "max_tokens": 5, "input": "x"}
            body["messages"] = [{"role": "user", "content": "x"}]
            async with client.post(url + path, json=body) as reply:
                status, told, headers = reply.status, await reply.json(), reply.headers
            asked = len(sim.calls)

    assert status == expected
    assert asked == (1 if expected == 200 else 0)
    if expected == 404:
        assert told["error"]["message"] == f"Model {model!r} is not open to tier 'free'."
        assert told["error"]["type"] == ("not_found_error" if "messages" in path else "invalid_request_error")
        assert "ratelimit" not in headers


FORWARDED: list[tuple[str, list[str], list[int]]] = [
    # Who writes the header is nobody whom the policy trusts: the connection's address counts.
    ("[192.0.2.99/32]", ["1.1.1.1", "2.2.2.2", "3.3.3.3"], [200, 200, 429]),
    # The proxy is trusted; what stands before the hop that it wrote is the client's own invention.
    ("[127.0.0.1/32]", ["1.1.1.1, 192.0.2.7", "2.2.2.2, 192.0.2.7", "192.0.2.7"], [200, 200, 429]),
    ("[127.0.0.1/32, 10.0.0.0/8]", ["192.0.2.7, 10.0.0.5", "9.9.9.9, 192.0.2.7, 10.1.1.1", "192.0.2.7"], [200, 200, 429]),
    ("[127.0.0.1/32]", ["192.0.2.7", "::ffff:192.0.2.7", "192.0.2.7"], [200, 200, 429]),
    ("[127.0.0.1/32]", ["2001:db8::1", "2001:db8::2", "2001:db8:0:0:ffff::1"], [200, 200, 429]),
    ("[127.0.0.1/32]", ["192.0.2.7", "192.0.2.8", "192.0.2.9"], [200, 200, 200]),
]  # fmt: skip


@pytest.mark.parametrize(("trusted", "hops", "expected"), FORWARDED)
async def test_whose_address_counts(trusted: str, hops: list[str], expected: list[int]) -> None:
    async with FakeProvider() as sim:
        text = f"""
providers: {{openai: {{dialect: openai, base_url: "{sim.url}/v1"}}}}
trusted_proxies: {trusted}
plugins: [{{use: rate_limit, per_address: [2/hour]}}]
"""
        async with (
            gateway(text) as (url, _),
            aiohttp.ClientSession(headers={"authorization": "Bearer k"}) as client,
        ):
            said = []
            for hop in hops:
                body = {"model": "gpt-4o", "messages": [{"role": "user", "content": "x"}]}
                headers = {"x-forwarded-for": hop}
                async with client.post(f"{url}/v1/chat/completions", json=body, headers=headers) as reply:
                    said.append(reply.status)

    assert said == expected
