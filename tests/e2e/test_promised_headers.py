"""The headers that docs/mounts/gateway.md promises are those that answers carry, and no others."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import aiohttp

from llmshield.simulator import Simulator
from llmshield.testing import gateway

PAGE = Path(__file__).parents[2] / "docs" / "mounts" / "gateway.md"
POLICY = """
server: {{debug_headers: {debug}}}
providers:
  openai: {{dialect: openai, base_url: "{url}/v1", prices: {{input: 1, output: 4}}}}
  anthropic: {{dialect: anthropic, base_url: "{url}", prices: {{input: 1, output: 4}}}}
  down: {{dialect: openai, base_url: "http://127.0.0.1:9/v1", prices: {{input: 1, output: 4}}}}
routes:
  - {{match: {{model: "gpt-down"}}, to: [down], degraded: {{message: "Later."}}}}
  - {{match: {{model: "gpt-*"}}, to: [openai]}}
  - {{match: {{model: "claude-*"}}, to: [anthropic]}}
tenants: {{anonymous: {{tier: free}}}}
tiers: {{free: {{budget: 100 USD/day}}}}
plugins: [{{use: cost_cap}}, {{use: injection, deny: ["open sesame"], scan: [user]}}, {{use: failover}}]
"""
EVERY = {"request-id", "action", "policy"}
ASKED = EVERY | {"provider", "attempts", "model"}
CHAT, MESSAGES = "/v1/chat/completions", "/v1/messages"

# name: (path, model, prompt, stream, the headers besides EVERY, what names the request for SDKs)
TABLE: dict[str, tuple[str, str, str, bool, set[str], set[str]]] = {
    "whole": (CHAT, "gpt-4o", "hello", False, ASKED | {"cost", "budget-remaining", "overhead-ms"}, set()),
    "streamed": (CHAT, "gpt-4o", "hello", True, ASKED | {"budget-remaining"}, set()),
    "refused, openai": (CHAT, "gpt-4o", "open sesame", False, EVERY | {"overhead-ms"}, {"x-request-id"}),
    "refused, anthropic": (
        MESSAGES,
        "claude-x",
        "open sesame",
        False,
        EVERY | {"overhead-ms"},
        {"request-id"},
    ),
    "degraded": (
        CHAT,
        "gpt-down",
        "hello",
        False,
        ASKED | {"cost", "budget-remaining", "overhead-ms", "degraded"},
        set(),
    ),
}
VALUES = {
    "request-id": r"[0-9A-HJKMNP-TV-Z]{26}",
    "action": "allow|redact|block|would-block|would-redact",
    "policy": "sha256:[0-9a-f]{12}",
    "attempts": "[1-9][0-9]*",
    "cost": r"0\.\d{12} USD",
    "budget-remaining": r"\d+\.\d{12} USD; reset=\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ",
    "overhead-ms": r"\d+\.\d",
    "degraded": "true",
    "plugins": r"[\w;=.,/ -]+ms",
}


def promised() -> set[str]:
    """The names in the page's table."""
    section = PAGE.read_text().split("## Headers")[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| `")]
    return {name for row in rows for name in re.findall(r"`x-llmshield-([a-z-]+)`", row.split("|")[1])}


async def test_answers_carry_what_is_promised(primary: Simulator) -> None:
    seen: dict[str, dict[str, str]] = {}
    for debug in ("true", "false"):
        async with (
            gateway(POLICY.format(url=primary.url, debug=debug)) as (url, _),
            aiohttp.ClientSession() as http,
        ):
            for name, (path, model, said, stream, _, _) in TABLE.items():
                body: dict[str, Any] = {"model": model, "max_tokens": 50, "stream": stream}
                body["messages"] = [{"role": "user", "content": said}]
                async with http.post(url + path, json=body) as reply:
                    await reply.read()
                    seen[f"{name} {debug}"] = {key.lower(): value for key, value in reply.headers.items()}

    met: set[str] = set()
    for name, (_, _, _, _, expected, ids) in TABLE.items():
        for debug in ("true", "false"):
            headers = seen[f"{name} {debug}"]
            ours = {
                key.removeprefix("x-llmshield-"): headers[key]
                for key in headers
                if key.startswith("x-llmshield-")
            }
            met |= ours.keys()

            assert ours.keys() == expected | ({"plugins"} if debug == "true" else set()), name
            for key, value in ours.items():
                assert re.fullmatch(VALUES.get(key, ".+"), value), (name, key, value)
            for key in ids:
                assert headers[key] == headers["x-llmshield-request-id"], name
    assert promised() == met


def test_what_is_not_sent_is_said() -> None:
    assert "no `x-llmshield-cache`" in " ".join(PAGE.read_text().split())
