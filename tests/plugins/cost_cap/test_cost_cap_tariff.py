"""A dearer way that is set at the provider: the policy says so, and it is reserved for; the reply decides what is charged."""

from typing import Any

import aiohttp
import pytest
from aiohttp import web

from llmshield.testing import gateway

POLICY = """
providers:
  openai: {{dialect: openai, base_url: "URL/v1", {openai}}}
  anthropic: {{dialect: anthropic, base_url: "URL", {anthropic}}}
tenants: {{anonymous: {{tier: free}}}}
tiers: {{free: {{budget: 0.012 USD/day}}}}
plugins: [{{use: cost_cap}}]
"""
PRIORITY = "served: {service_tier: priority}"
CHAT = {"model": "gpt-4o", "max_tokens": 1000, "messages": [{"role": "user", "content": "hi"}]}
MESSAGES = {**CHAT, "model": "claude-opus-4-8", "max_tokens": 420}
USAGE = {"prompt_tokens": 100, "completion_tokens": 100}
PLAIN, DEAR = "0.001250000000", "0.002125000000"  # 100 at 2.50 and 10; at 4.25 and 17

# what the policy says, what the body asks, what the reply says: whether the answer was made shorter, and the charge
SERVED: list[tuple[str, dict[str, Any], str | None, bool, str]] = [
    ("", {}, None, False, PLAIN),
    ("", {}, "priority", False, DEAR),
    (PRIORITY, {}, "priority", True, DEAR),
    (PRIORITY, {}, None, True, DEAR),
    (PRIORITY, {}, "default", True, PLAIN),
    (PRIORITY, {"service_tier": "auto"}, "priority", True, DEAR),
    (PRIORITY, {"service_tier": "default"}, "default", False, PLAIN),
    ("parameters: {service_tier: priority}", {}, "priority", True, DEAR),
    ("parameters: {service_tier: default}", {}, "default", False, PLAIN),
    ("served: {surcharge: 70%}", {}, None, True, DEAR),
    (f"{PRIORITY}, prices: {{input: 2.5, output: 10}}", {}, None, False, PLAIN),
]


@pytest.mark.parametrize(("says", "asks", "served", "shorter", "spent"), SERVED)
async def test_the_dearer_way_is_reserved(
    says: str, asks: dict[str, Any], served: str | None, shorter: bool, spent: str
) -> None:
    choice = {"index": 0, "message": {"role": "assistant", "content": "x"}, "finish_reason": "stop"}
    reply = {"id": "c", "object": "chat.completion", "model": "gpt-4o", "choices": [choice], "usage": USAGE}
    if served is not None:
        reply["service_tier"] = served
    sent, usage = await asked({**CHAT, **asks}, reply, "/v1/chat/completions", openai=says)

    assert shorter == (sent["max_tokens"] < 1000)
    assert (spent, "0.000000000000") == (usage["spent_usd"], usage["held_usd"])


@pytest.mark.parametrize(("says", "shorter"), [("", False), ("served: {inference_geo: us}", True)])
async def test_a_workspaces_region_is_reserved(says: str, shorter: bool) -> None:
    """100 tokens at 5 USD and 100 at 25, times 1.1."""
    usage = {"input_tokens": 100, "output_tokens": 100, "inference_geo": "us"}
    reply = {
        "id": "m", "type": "message", "role": "assistant", "model": "claude-opus-4-8", "stop_reason": "end_turn",
        "stop_sequence": None, "content": [{"type": "text", "text": "x"}], "usage": usage,
    }  # fmt: skip
    sent, book = await asked(MESSAGES, reply, "/v1/messages", anthropic=says)

    assert shorter == (sent["max_tokens"] < 420)
    assert "0.003300000000" == book["spent_usd"]


async def asked(
    body: dict[str, Any], reply: dict[str, Any], path: str, openai: str = "", anthropic: str = ""
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the provider got, and the tenant's book behind its reply."""
    got: list[dict[str, Any]] = []

    async def answer(request: web.Request) -> web.Response:
        got.append(await request.json())
        return web.json_response(reply)

    app = web.Application()
    app.router.add_post(path, answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    given = POLICY.format(openai=openai, anthropic=anthropic).replace("URL", f"http://{host}:{port}")
    try:
        async with gateway(given) as (url, admin), aiohttp.ClientSession() as http:
            async with http.post(url + path, json=body) as made:
                assert 200 == made.status, await made.text()
            async with http.get(f"{admin}/usage") as told:
                usage = (await told.json())["tenants"]["anonymous"]
    finally:
        await runner.cleanup()
    (sent,) = got
    return sent, usage
