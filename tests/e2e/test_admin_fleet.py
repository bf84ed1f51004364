"""What is changed on one gateway's admin port holds on the data port of another one of the same store."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import pytest

from llmshield.simulator import Simulator
from llmshield.testing import gateway

TOKEN = "a-token-of-some-length"
POLICY = """
server: {{store: "{store}", state_dir: "{state}"}}
audit: {{sink: none}}
admin: {{configure: [api_key, timeout, models]}}
providers: {{a: {{dialect: openai, base_url: "{url}/v1", api_key: "env://KEY_OF_A", circuit: {{failures: 3}}}}}}
tenants: {{acme: {{tier: pro}}}}
tiers: {{pro: {{budget: 0.000001 USD/day}}, free: {{budget: 5 USD/day}}}}
plugins: [{{use: cost_cap}}, {{use: failover}}]
"""
CHAT = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 16}


class Fleet(NamedTuple):
    http: aiohttp.ClientSession
    admin: str
    """Of the first gateway."""
    data: str
    """Of the second one."""
    upstream: Simulator

    async def change(self, path: str, body: Any = None, method: str = "POST") -> Any:
        head = {"authorization": f"Bearer {TOKEN}"}
        async with self.http.request(method, self.admin + path, json=body or {}, headers=head) as reply:
            said = await reply.json()
            assert reply.status in {200, 201}, said
            return said

    async def call(self, key: str) -> int:
        head = {"authorization": f"Bearer {key}"}
        async with self.http.post(f"{self.data}/v1/chat/completions", json=CHAT, headers=head) as reply:
            await reply.read()
            return reply.status


async def until(ask: Callable[[], Awaitable[Any]], wanted: Any) -> None:
    """Promised within a second; a busy machine gets ten."""
    began = time.monotonic()
    while (said := await ask()) != wanted:
        assert time.monotonic() - began < 10, said
        await asyncio.sleep(0.05)


@pytest.fixture
async def fleet(
    shared_url: str, tmp_path: Path, primary: Simulator, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Fleet]:
    monkeypatch.setenv("LLMSHIELD_ADMIN_TOKEN", TOKEN)
    monkeypatch.setenv("LLMSHIELD_SECRET_KEY", secrets.token_urlsafe(32) + "=")
    monkeypatch.setenv("KEY_OF_A", "sk-of-the-policy-0123456789")
    text = POLICY.format(store=shared_url, state=tmp_path / "state", url=primary.url)
    async with gateway(text) as (_, admin), gateway(text) as (data, _), aiohttp.ClientSession() as http:
        yield Fleet(http, admin, data, primary)


async def test_keys_blocks_circuits_and_providers(fleet: Fleet) -> None:
    made = await fleet.change("/v1/keys", {"tenant": "rich", "tier": "free"})
    key = made["key"]

    async def call() -> int:
        return await fleet.call(key)

    def sent() -> str:
        return dict(fleet.upstream.calls[-1].headers)["authorization"]

    await until(call, 200)
    assert "Bearer sk-of-the-policy-0123456789" == sent()

    await fleet.change("/v1/blocks", {"target": "tenant:rich"})
    await until(call, 403)
    await fleet.change("/v1/blocks?target=tenant:rich", method="DELETE")
    await until(call, 200)

    await fleet.change("/v1/circuits/open", {"provider": "a"})
    await until(call, 503)
    await fleet.change("/v1/circuits/reset")
    await until(call, 200)

    await fleet.change("/v1/providers/a/configure", {"models": {"allow": ["o1"]}})
    await until(call, 404)
    await fleet.change("/v1/providers/a/unset", {"names": ["models"]})
    await until(call, 200)

    await fleet.change("/v1/providers/a/configure", {"api_key": "sk-set-while-it-runs-0123456789"})

    async def key_used() -> str:
        assert 200 == await call()
        return sent()

    await until(key_used, "Bearer sk-set-while-it-runs-0123456789")
    await fleet.change("/v1/providers/a/revoke", {"reason": "seen in a log"})
    await until(call, 503)
    await fleet.change("/v1/providers/a/lift")
    await until(call, 200)

    await fleet.change(f"/v1/keys/{made['id']}", method="DELETE")
    await until(call, 401)


async def test_budgets(fleet: Fleet) -> None:
    key = (await fleet.change("/v1/keys", {"tenant": "acme"}))["key"]

    async def call() -> int:
        return await fleet.call(key)

    await until(call, 429)
    await fleet.change("/v1/budgets/acme/raise", {"usd": "1"})
    await until(call, 200)
