"""Every refusal of ours and every failure of a provider: one word for it in header, metric and record.

The table is the one in docs/errors.md (column `action`), seen from outside.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import aiohttp
import pytest

from llmshield import blocks
from llmshield.simulator import Simulator
from llmshield.stores import open_store
from llmshield.testing import gateway, policy

KEYS = {name: f"sk-{name}-0123456789abcdef" for name in ("rich", "poor", "slow")}
POLICY = """
server: {store: "STORE", limits: {body: 20KiB, receive: 300ms}}
identify: [virtual_key]
providers:
  openai: {dialect: openai, base_url: "URL/v1", prices: {input: 1, output: 4}}
  anthropic: {dialect: anthropic, base_url: "URL", prices: {input: 1, output: 4}}
  down: {dialect: openai, base_url: "http://127.0.0.1:9/v1", prices: {input: 1, output: 4}}
  late: {dialect: openai, base_url: "URL/v1", prices: {input: 1, output: 4}, timeout: {first_token: 100ms}}
routes:
  - {match: {model: "gpt-down"}, to: [down]}
  - {match: {model: "gpt-late"}, to: [late], retry: {attempts: 1}}
  - {match: {model: "gpt-*"}, to: [openai]}
  - {match: {model: "claude-*"}, to: [anthropic]}
tenants:
  rich: {tier: rich, keys: ["sha256:RICH"]}
  poor: {tier: poor, keys: ["sha256:POOR"]}
  slow: {tier: slow, keys: ["sha256:SLOW"]}
tiers:
  rich: {rate: [100000/minute], budget: 1000 USD/day}
  poor: {budget: 0.000001 USD/day}
  slow: {rate: [1/hour]}
plugins:
  - {use: rate_limit}
  - {use: cost_cap}
  - {use: ./broken.py}
  - {use: injection, deny: ["open sesame"], scan: [user]}
  - {use: failover}
trusted_proxies: [127.0.0.1/32]
audit: {sink: "file://SINK"}
"""
BROKEN = '''
"""Fails where a prompt says so."""
from llmshield.hookspecs import Plugin


class Broken(Plugin):
    def pre_request(self, call):
        if any("break it" in text.value for text in call.texts):
            raise RuntimeError("broken on purpose")
'''
CHAT, MESSAGES = "/v1/chat/completions", "/v1/messages"


class Case(NamedTuple):
    status: int
    action: str
    error: str | None
    path: str = CHAT
    method: str = "POST"
    key: str = "rich"
    model: str = "gpt-small"
    said: str = "Tell me about rivers."
    headers: Mapping[str, str] = MappingProxyType({})
    late: bool = False
    """Half of the body never comes."""


TABLE = {
    "served": Case(200, "allow", None),
    "blocked": Case(400, "block", "blocked", said="open sesame"),
    "no JSON": Case(400, "block", "bad_request", said="\0"),
    "key": Case(401, "block", "unauthenticated", key="wrong"),
    "money, openai": Case(429, "block", "budget_spent", key="poor"),
    "money, anthropic": Case(402, "block", "budget_spent", MESSAGES, key="poor", model="claude-small"),
    "address": Case(403, "block", "forbidden", headers={"x-forwarded-for": "192.0.2.7"}),
    "model": Case(404, "block", "model_denied", model="another"),
    "path": Case(404, "block", "not_found", "/v1/nothing", "GET"),
    "traffic": Case(404, "block", "unsupported", "/v1/audio/speech"),
    "method": Case(405, "block", "method_not_allowed", method="PUT"),
    "body that does not come": Case(408, "block", "client_timeout", late=True),
    "body that does not come, anthropic": Case(408, "block", "client_timeout", MESSAGES, late=True),
    "large, openai": Case(400, "block", "too_large", said="river " * 5000),
    "large, anthropic": Case(413, "block", "too_large", MESSAGES, model="claude-small", said="river " * 5000),
    "content type": Case(415, "block", "unsupported_media", headers={"content-type": "text/plain"}),
    "rate": Case(429, "block", "rate_limited", key="slow"),
    "plugin": Case(500, "block", "policy_unavailable", said="Now break it."),
    "down": Case(503, "allow", "no_provider", model="gpt-down"),
    "late": Case(504, "allow", "upstream_timeout", model="gpt-late", said="[[simulate fault=silence]] hm"),
}


async def answer(url: str, case: Case) -> tuple[int, dict[str, str]]:
    """Status and headers of one request, on a connection of its own, written by hand."""
    body: dict[str, Any] = {"model": case.model, "max_tokens": 5}
    body["messages"] = [{"role": "user", "content": case.said}]
    data = b"{" if case.said == "\0" else json.dumps(body).encode()
    head = {
        "host": "gateway", "content-type": "application/json", "content-length": str(len(data)),
        "authorization": f"Bearer {KEYS.get(case.key, 'sk-wrong-0123456789abcdef')}", **case.headers,
    }  # fmt: skip
    where = urlsplit(url)
    reader, writer = await asyncio.open_connection(where.hostname, where.port)
    lines = [f"{case.method} {case.path} HTTP/1.1", *(f"{name}: {value}" for name, value in head.items())]
    writer.write("\r\n".join([*lines, "", ""]).encode() + (data[: len(data) // 2] if case.late else data))
    async with asyncio.timeout(10):
        raw = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    writer.close()
    await writer.wait_closed()
    headers = dict(line.lower().split(": ", 1) for line in raw[1:] if line)
    return int(raw[0].split()[1]), headers


async def counted(admin: str) -> dict[tuple[str, str], int]:
    """Calls by (status, action)."""
    async with aiohttp.ClientSession() as http, http.get(f"{admin}/metrics") as reply:
        lines = re.findall(r"llmshield_requests_total\{(.*?)\} (\d+)", await reply.text())
    found: dict[tuple[str, str], int] = {}
    for labels, number in lines:
        named = dict(re.findall(r'(\w+)="(.*?)"', labels))
        at = (named["status"], named["action"])
        found[at] = found.get(at, 0) + int(number)
    return found


async def test_a_refusal_has_one_word_in_header_metric_and_record(tmp_path: Path, primary: Simulator) -> None:
    (tmp_path / "broken.py").write_text(BROKEN)
    store = f"sqlite:///{tmp_path}/store.db"
    text = POLICY.replace("URL", primary.url).replace("STORE", store)
    text = text.replace("SINK", str(tmp_path / "audit.jsonl"))
    for name, key in KEYS.items():
        text = text.replace(name.upper(), hashlib.sha256(key.encode()).hexdigest())
    shared = open_store(store)
    await shared.open()
    await blocks.add(shared, "192.0.2.7")
    await shared.close()
    seen: dict[str, tuple[Any, ...]] = {}
    ids: dict[str, str] = {}
    async with gateway(policy(text, base=tmp_path)) as (url, admin):
        await answer(url, Case(200, "allow", None, key="slow"))  # its one call of the hour
        for name, case in TABLE.items():
            status, headers = await answer(url, case)
            ids[headers["x-llmshield-request-id"].upper()] = name
            seen[name] = (status, headers["x-llmshield-action"])
        expected = Counter((str(case.status), case.action) for case in TABLE.values())
        expected["200", "allow"] += 1
        counts: dict[tuple[str, str], int] = {}
        for _ in range(300):  # an exchange is over a moment after its answer; a page lives for a second
            counts = await counted(admin)
            if sum(counts.values()) >= expected.total():
                break
            await asyncio.sleep(0.01)
    lines = [json.loads(line) for line in (tmp_path / "audit.jsonl").read_text().splitlines()]
    records = {ids[line["request_id"]]: line for line in lines if line.get("request_id") in ids}

    assert dict(expected) == counts
    for name, case in TABLE.items():
        assert (case.status, case.action) == seen[name], name
        record = records[name]
        assert (case.status, case.action, case.error) == (
            record["status"],
            record["action"],
            record["error"],
        ), name


async def test_calls_that_a_shutdown_ends(
    tmp_path: Path, primary: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The call is under way when the gateway drains; its time is over at once."""
    monkeypatch.setattr("llmshield.mounts.gateway.DRAIN_S", 0.1)
    text = POLICY.split("identify")[0].replace("STORE", "memory://")
    text += f"providers:\n  a: {{dialect: openai, base_url: {primary.url}/v1}}\naudit: {{sink: 'file://{tmp_path}/audit.jsonl'}}\n"
    async with gateway(policy(text, base=tmp_path)) as (url, _):
        case = Case(503, "block", "shutting_down", said="[[simulate fault=silence]] hm")
        asked = asyncio.create_task(answer(url, case))
        while not primary.calls:
            await asyncio.sleep(0.01)
    status, headers = await asked
    lines = [json.loads(line) for line in (tmp_path / "audit.jsonl").read_text().splitlines()]
    (record,) = [line for line in lines if line["kind"] == "call"]

    assert (503, "block") == (status, headers["x-llmshield-action"])
    assert (503, "block", "shutting_down") == (record["status"], record["action"], record["error"])


@pytest.mark.parametrize("shape", ["html", "text", "empty", "truncated"])
@pytest.mark.parametrize("status", [404, 413, 429])
async def test_a_providers_refusal_that_no_sdk_reads_is_told_in_the_clients_words(
    primary: Simulator, shape: str, status: int
) -> None:
    """The page of a proxy in front of a provider: its status and its advice are passed on, the page is not."""
    fault = {"x-simulate": f"fault={status}, body={shape}, retry_after=2"}
    chat = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}]}
    calls = {
        "/v1/chat/completions": (chat, lambda tree: tree["error"]["type"]),
        "/v1/messages": (
            {**chat, "model": "claude-sonnet-4-5", "max_tokens": 9},
            lambda tree: tree["error"]["type"],
        ),
        "/v1beta/models/gemini-2.5-flash:generateContent": (
            {"contents": [{"parts": [{"text": "hi"}]}]},
            lambda tree: tree["error"]["status"],
        ),
    }
    rules = f"""
providers:
  o: {{dialect: openai, base_url: "{primary.url}/v1"}}
  a: {{dialect: anthropic, base_url: "{primary.url}"}}
  g: {{dialect: gemini, base_url: "{primary.url}"}}
routes:
  - {{match: {{model: "gpt*"}}, to: [o]}}
  - {{match: {{model: "claude*"}}, to: [a]}}
  - {{match: {{any: true}}, to: [g]}}
"""
    async with gateway(rules) as (url, _), aiohttp.ClientSession() as http:
        for path, (body, word) in calls.items():
            async with http.post(url + path, json=body, headers=fault) as reply:
                said = await reply.json()

            assert (status, "application/json") == (reply.status, reply.content_type)
            assert word(said)
            assert "<" not in str(said)
            if status == 429:
                assert "2" == reply.headers["retry-after"]
