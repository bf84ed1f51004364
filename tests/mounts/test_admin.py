"""The admin port: who may look, what is there, and that the data port leads nowhere near it."""

import aiohttp
import pytest

from llmshield.simulator import Simulator
from llmshield.testing import gateway

POLICY = "providers: {{a: {{dialect: openai, base_url: {url}/v1, circuit: {{failures: 2}}}}}}"
CHAT = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hello"}]}


async def get(url: str, **headers: str) -> int:
    async with aiohttp.ClientSession() as http, http.get(url, headers=headers) as reply:
        await reply.read()
        return reply.status


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/healthz", {}, 200),
        ("/readyz", {}, 200),
        ("/metrics", {}, 200),
        ("/status", {}, 200),
        ("/usage", {}, 200),
        ("/nothing", {}, 404),
        ("/status", {"host": "evil.example.com"}, 421),
        ("/status", {"host": "localhost:1"}, 200),
    ],
)
async def test_without_a_token_loopback_may_look(
    primary: Simulator, path: str, headers: dict[str, str], status: int
) -> None:
    async with gateway(POLICY.format(url=primary.url)) as (_, admin):
        assert status == await get(admin + path, **headers)


@pytest.mark.parametrize(
    ("path", "token", "status"),
    [
        ("/status", "", 401),
        ("/status", "wrong", 401),
        ("/status", "right", 200),
        ("/metrics", "", 401),
        ("/healthz", "", 200),
    ],
)
async def test_with_a_token_it_is_asked_for(
    primary: Simulator, monkeypatch: pytest.MonkeyPatch, path: str, token: str, status: int
) -> None:
    monkeypatch.setenv("LLMSHIELD_ADMIN_TOKEN", "right")
    async with gateway(POLICY.format(url=primary.url)) as (_, admin):
        assert status == await get(admin + path, **({"authorization": f"Bearer {token}"} if token else {}))


@pytest.mark.parametrize("path", ["/status", "/metrics", "/usage", "/healthz", "/readyz"])
async def test_the_data_port_has_no_admin_route(primary: Simulator, path: str) -> None:
    async with gateway(POLICY.format(url=primary.url)) as (url, _):
        assert 404 == await get(url + path)


async def test_status_tells_how_providers_do(primary: Simulator) -> None:
    async with gateway(POLICY.format(url=primary.url)) as (url, admin), aiohttp.ClientSession() as http:
        async with http.post(f"{url}/v1/chat/completions", json=CHAT) as reply:
            await reply.read()
        async with http.get(f"{admin}/status") as reply:
            status = await reply.json()
        async with http.get(f"{admin}/metrics") as reply:
            metrics = await reply.text()

    provider = status["providers"]["a"]
    assert (True, "closed", "gpt-4o", 1, 1.0) == (
        provider["active"], provider["circuit"], provider["model"], provider["today"]["requests"], provider["success_rate"],
    )  # fmt: skip
    assert provider["last_ok"] is not None
    assert status["ready"]
    assert (
        'llmshield_requests_total{mount="gateway",dialect="openai_chat",status="200",action="allow"} 1'
        in metrics
    )
