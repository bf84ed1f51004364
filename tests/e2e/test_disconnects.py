"""Two hundred clients at once, most of which leave at random: no answer goes astray, nothing is left behind."""

import asyncio
import json
import random
import string
from pathlib import Path

import aiohttp
import pytest

from llmshield.simulator import Simulator
from llmshield.testing import gateway, policy

POLICY = """
server: {{store: "sqlite:///{folder}/s.db"}}
providers:
  a: {{dialect: openai, base_url: {url}/v1, prices: {{input: 1, output: 1}}}}
tenants: {{anonymous: {{tier: free}}}}
tiers: {{free: {{budget: 1000 USD/day, concurrent: 500}}}}
plugins:
  - {{use: rate_limit, timeout: 20s}}
  - {{use: cost_cap, timeout: 20s}}
  - use: pii
    timeout: 20s
    entities: {{EMAIL_ADDRESS: {{action: replace}}}}
    scan: [user, output]
  - {{use: failover, timeout: 20s}}
audit: {{sink: "file://{folder}/audit.jsonl"}}
"""


def said(data: str) -> str:
    if data.startswith("{"):
        return str(json.loads(data)["choices"][0]["message"]["content"])
    events = [json.loads(line[6:]) for line in data.splitlines() if line.startswith("data: {")]
    return "".join(e["choices"][0]["delta"].get("content") or "" for e in events if e.get("choices"))


async def one(http: aiohttp.ClientSession, url: str, chance: random.Random) -> bool:
    """Ask with a token of its own, perhaps leave on the way; True when the whole answer came, with that token."""
    token = "".join(chance.choices(string.ascii_lowercase, k=20))
    stream, leaves, patience = chance.random() < 0.7, chance.random() < 0.6, chance.random() * 0.8
    content = f"token {token} and {token}@example.com"
    body = {"model": "gpt-4o", "stream": stream, "messages": [{"role": "user", "content": content}]}
    try:
        async with asyncio.timeout(patience if leaves else 60):
            async with http.post(f"{url}/v1/chat/completions", json=body) as reply:
                data = (await reply.read()).decode()
    except TimeoutError:
        return False

    assert 200 == reply.status, data
    text = said(data)
    assert f"token {token} and {token}@example.com" in text
    return True


@pytest.mark.parametrize("rounds", [1, pytest.param(50, marks=pytest.mark.nightly)])
async def test_clients_that_leave_take_nothing_with_them(
    primary: Simulator, tmp_path: Path, rounds: int
) -> None:
    primary.set(delay=0.01, chars=6)
    chance = random.Random(7)
    made = policy(POLICY.format(url=primary.url, folder=tmp_path), base=tmp_path)
    async with gateway(made) as (url, admin):
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
            whole = 0
            for _ in range(rounds):
                whole += sum(await asyncio.gather(*(one(http, url, chance) for _ in range(200))))
        async with aiohttp.ClientSession() as http:
            for _ in range(50):  # settled within seconds of the end
                async with http.get(f"{admin}/usage") as reply:
                    usage = (await reply.json())["tenants"]["anonymous"]
                if not float(usage["held_usd"]):
                    break
                await asyncio.sleep(0.1)

        assert not float(usage["held_usd"])
        assert float(usage["spent_usd"]) > 0
        assert 0 < whole < 200 * rounds
    records = [json.loads(line) for line in (tmp_path / "audit.jsonl").read_text().splitlines()]
    calls = [record for record in records if record.get("kind") == "call"]

    assert len(calls) == len({record["request_id"] for record in calls})
    assert whole <= len(calls) <= 200 * rounds  # who left before the head was sent has no record
    assert {attempt["outcome"] for record in calls for attempt in record["attempts"]} <= {"ok", "cancelled"}
