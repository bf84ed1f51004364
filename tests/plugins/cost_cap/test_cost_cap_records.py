"""The record of a call names what priced it: the list and its version, or the policy."""

import asyncio
import json
from importlib.metadata import version
from pathlib import Path

import aiohttp
import pytest

from llmshield.testing import FakeProvider, gateway

POLICY = """
server: {{store: "memory://"}}
providers:
  listed: {{dialect: openai, base_url: "{sim}/v1"}}
  own: {{dialect: openai, base_url: "{sim}/v1", prices: {{input: 1, output: 2}}}}
routes:
  - {{match: {{model: "own-*"}}, to: [own]}}
  - {{match: {{any: true}}, to: [listed]}}
tiers: {{free: {{budget: 1 USD/day}}}}
tenants: {{anonymous: {{tier: free}}}}
plugins: [{{use: cost_cap, on_unknown_price: {{assume: 10 USD/Mtok}}}}]
audit: {{sink: "file://{sink}"}}
"""


@pytest.mark.parametrize(
    ("model", "prices"),
    [
        ("gpt-4o-mini", f"genai-prices {version('genai-prices')}"),
        ("own-model", "policy"),
        ("gpt-nobody-knows", "assumed"),
    ],
)
async def test_the_record_names_the_prices(model: str, prices: str, tmp_path: Path) -> None:
    sink = tmp_path / "audit.jsonl"
    async with FakeProvider() as sim, aiohttp.ClientSession(headers={"authorization": "Bearer k"}) as client:
        async with gateway(POLICY.format(sim=sim.url, sink=sink)) as (url, _):
            body = {"model": model, "max_tokens": 20, "messages": [{"role": "user", "content": "Hi"}]}
            async with client.post(url + "/v1/chat/completions", json=body) as reply:
                assert reply.status == 200
            await asyncio.sleep(0.1)
        records = [json.loads(line) for line in sink.read_text().splitlines()]
    (attempts,) = [record["attempts"] for record in records if record.get("attempts")]

    assert [attempt["prices"] for attempt in attempts] == [prices]
    assert attempts[0]["cost_usd"] > "0"
