"""A running gateway whose keys are in a Vault: changed there, lost, and found again; nothing is restarted. The Vault is a
server on a socket that answers as KV version 2 does."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from llmshield.simulator import Simulator
from llmshield.testing import gateway

FIRST, SECOND = "sk-CANARYfirst-000111", "sk-CANARYsecond-000222"
MESSAGES = [{"role": "user", "content": "hello"}]
CALLS: dict[str, tuple[str, dict[str, Any], int]] = {
    "openai": ("/v1/chat/completions", {"model": "gpt-4o", "messages": MESSAGES}, 503),
    "anthropic": ("/v1/messages", {"model": "claude-sonnet-4-5", "max_tokens": 9, "messages": MESSAGES}, 529),
    "gemini": (
        "/v1beta/models/gemini-2.5-flash:generateContent",
        {"contents": [{"parts": [{"text": "hello"}]}]},
        503,
    ),
}


class Vault:
    """One secret with a field for each provider."""

    def __init__(self) -> None:
        self.key = FIRST
        self.away = False

    async def answer(self, request: web.Request) -> web.Response:
        if self.away:
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        if request.headers.get("x-vault-token") != "hvs.CANARYtoken":
            return web.json_response({"errors": ["permission denied"]}, status=403)
        data = dict.fromkeys(CALLS, self.key)
        return web.json_response({"data": {"data": data, "metadata": {"version": 1}}})


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(30):
        while not await condition():
            await asyncio.sleep(0.02)


async def test_changed_lost_and_found_again(primary: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    there = Vault()
    app = web.Application()
    app.router.add_get("/v1/kv/data/llm", there.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    monkeypatch.setenv("VAULT_ADDR", f"http://127.0.0.1:{runner.addresses[0][1]}")
    monkeypatch.setenv("VAULT_TOKEN", "hvs.CANARYtoken")
    providers = "\n".join(
        f"  {name}: {{dialect: {name}, base_url: '{primary.url}{'/v1' if name == 'openai' else ''}', api_key: 'vault://kv/llm#{name}'}}"
        for name in CALLS
    )
    text = f"version: 1\nserver: {{keys: {{lifetime: 100ms, outage: 800ms}}}}\nproviders:\n{providers}\nplugins: [{{use: failover}}]\n"
    try:
        async with gateway(text) as (url, admin), aiohttp.ClientSession() as http:

            async def ask(name: str) -> tuple[int, str]:
                path, body, _ = CALLS[name]
                async with http.post(url + path, json=body) as reply:
                    return reply.status, await reply.text()

            async def states() -> set[str]:
                async with http.get(f"{admin}/status") as reply:
                    status = await reply.json()
                assert "CANARY" not in str(status)
                return {status["providers"][name]["key"]["state"] for name in CALLS}

            async def sent(key: str) -> bool:
                for name in CALLS:
                    assert 200 == (await ask(name))[0]
                return all(key in str(call.headers) for call in primary.calls[-3:])

            async def refused() -> bool:
                return {(await ask(name))[0] for name in CALLS}.isdisjoint({200})

            assert await sent(FIRST)
            there.key = SECOND
            await until(lambda: sent(SECOND))

            there.away = True
            await until(lambda: _is(states(), {"outage"}))
            assert await sent(SECOND)
            await until(lambda: _is(states(), {"lost"}))
            assert await refused()
            seen = len(primary.calls)
            for name, (_, _, status) in CALLS.items():
                got = await ask(name)
                assert status == got[0] or (name == "anthropic" and got[0] == 503)
                assert f"The key of provider '{name}' can't be read where it is kept" in got[1]
                assert "CANARY" not in got[1]
            assert seen == len(primary.calls)  # nobody was asked without a key

            there.away = False
            await until(lambda: _is(states(), {"good"}))
            assert await sent(SECOND)
    finally:
        await runner.cleanup()


async def _is(found: Awaitable[set[str]], expected: set[str]) -> bool:
    return await found == expected
