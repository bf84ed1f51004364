"""A call that is over is freed at once: what leads back to itself would wait for the collector, at every caller's cost."""

from __future__ import annotations

import gc
from typing import Any

import aiohttp
import pytest

from llmshield import vault
from llmshield.call import Call
from llmshield.exchange import Exchange
from llmshield.mounts._request import HttpRequest
from llmshield.simulator import Simulator
from llmshield.testing import gateway

POLICY = """
providers:
  openai: {{dialect: openai, base_url: "{url}/v1", prices: {{input: 1, output: 4}}}}
routes:
  - {{match: {{any: true}}, to: [openai]}}
tenants: {{anonymous: {{tier: free}}}}
tiers: {{free: {{budget: 100 USD/day, rate: [1000/hour]}}}}
plugins:
  - {{use: rate_limit}}
  - {{use: cost_cap}}
  - {{use: injection}}
  - {{use: transcripts, store: "memory://"}}
  - {{use: pii, scan: [user, output], entities: {{EMAIL_ADDRESS: {{action: replace}}}}}}
  - {{use: failover}}
"""


@pytest.mark.parametrize("stream", [False, True])
async def test_nothing_of_a_call_waits_for_the_collector(
    primary: Simulator, stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(vault.VARIABLE, vault.new_key())
    body: dict[str, Any] = {"model": "gpt-4o", "max_tokens": 50, "stream": stream, "user": "alice"}
    body["messages"] = [{"role": "user", "content": "Write to ann@example.com"}]
    async with (
        gateway(POLICY.format(url=primary.url)) as (url, _),
        aiohttp.ClientSession(headers={"x-llmshield-consent": "transcripts"}) as http,
    ):

        async def ask() -> None:
            async with http.post(url + "/v1/chat/completions", json=body) as reply:
                assert reply.status == 200
                await reply.read()

        await ask()
        gc.collect()
        gc.disable()
        gc.set_debug(gc.DEBUG_SAVEALL)
        try:
            for _ in range(5):
                await ask()
            gc.collect()
            left = [type(it).__name__ for it in gc.garbage if isinstance(it, Call | Exchange | HttpRequest)]
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
            gc.enable()

    assert left == []
