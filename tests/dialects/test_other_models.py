"""Another model than the one that is asked for: what a policy says of models holds for those as well."""

from typing import Any

import aiohttp
import pytest

from llmshield.dialects._other_models import other_models
from llmshield.simulator import Simulator
from llmshield.testing import gateway

POLICY = """
providers:
  openai: {{dialect: openai, base_url: "{url}/v1", models: {{deny: ["*-secret"]}}}}
  anthropic: {{dialect: anthropic, base_url: "{url}", models: {{deny: ["*-secret"]}}}}
routes:
  - {{match: {{model: "claude-*"}}, to: [anthropic]}}
  - {{match: {{model: "gpt-*"}}, to: [openai]}}
  - {{match: {{any: true}}, deny: {{message: "Model {{model}} is not on the list."}}}}
tenants: {{anonymous: {{tier: free}}}}
tiers: {{free: {{models: ["*haiku*", "*-mini", "*-secret"]{more}}}}}
plugins: [{{use: cost_cap}}, {{use: failover}}]
"""
ASKED = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 5}
HAIKU, MINI = {**ASKED, "model": "claude-haiku-4-5"}, {**ASKED, "model": "gpt-4o-mini"}
ADVISOR = {"type": "advisor_20260301", "name": "advisor", "model": "claude-opus-4-8"}

# path, body, status
ASKS: list[tuple[str, dict[str, Any], int]] = [
    ("/v1/messages", {**HAIKU, "fallbacks": [{"model": "claude-haiku-4"}]}, 200),
    (
        "/v1/messages",
        {**HAIKU, "fallbacks": [{"model": "claude-haiku-4"}, {"model": "claude-opus-4-8"}]},
        404,
    ),
    ("/v1/messages", {**HAIKU, "fallbacks": [{"model": "claude-secret"}]}, 404),  # the provider's own list
    ("/v1/messages", {**HAIKU, "fallbacks": [{"model": "o3-mini"}]}, 404),  # no route
    ("/v1/messages", {**HAIKU, "fallbacks": "default"}, 404),
    ("/v1/messages", {**HAIKU, "fallbacks": {"model": "claude-opus-4-8"}}, 404),
    ("/v1/messages", {**HAIKU, "tools": [ADVISOR]}, 404),
    ("/v1/chat/completions", {**MINI, "models": ["gpt-5-mini"]}, 200),
    ("/v1/chat/completions", {**MINI, "models": ["gpt-5-mini", "gpt-5-pro"]}, 404),
    ("/v1/chat/completions", {**MINI, "fallbacks": [], "models": None}, 200),
]


@pytest.mark.parametrize(("path", "body", "status"), ASKS)
async def test_lists_of_models_hold_for_those_that_a_body_names(
    path: str, body: dict[str, Any], status: int, primary: Simulator
) -> None:
    said, asked = await ask(POLICY.format(url=primary.url, more=""), path, body, primary)

    assert status == said
    assert (status == 200) == asked


@pytest.mark.parametrize(("path", "body", "status"), [ask for ask in ASKS if ask[2] == 200])
async def test_under_a_budget_nobody_chooses_another_price(
    path: str, body: dict[str, Any], status: int, primary: Simulator
) -> None:
    """One model's price was reserved and charged, whichever answered, with an output bound of its own."""
    said, asked = await ask(POLICY.format(url=primary.url, more=", budget: 1 USD/day"), path, body, primary)
    names = bool(body.get("fallbacks") or body.get("models"))

    assert (400 if names else 200) == said
    assert names != asked


async def ask(given: str, path: str, body: dict[str, Any], sim: Simulator) -> tuple[int, bool]:
    before = len(sim.calls)
    async with gateway(given) as (url, _), aiohttp.ClientSession() as http:
        async with http.post(url + path, json=body) as reply:
            await reply.read()
            return reply.status, len(sim.calls) > before


def test_what_a_body_names() -> None:
    body = {
        "fallbacks": [{"model": "a"}, 5],
        "models": "b",
        "tools": [{"model": "c"}, {"type": "image_generation", "model": "d"}, 1],
    }

    assert (("fallbacks", "a"), ("fallbacks", "*"), ("models", "b"), ("tools", "c")) == other_models(body)
    assert () == other_models({"model": "x", "tools": "none"})
