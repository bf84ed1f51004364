"""The admin port: who may look, what is there, and that the data port leads nowhere near it."""

import asyncio
import contextlib
from typing import Any

import aiohttp
import pytest

from llmshield.admin.table import routes
from llmshield.mounts.admin import Admin
from llmshield.runtime import Runtime
from llmshield.simulator import Simulator
from llmshield.testing import gateway, policy

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


LOOKS = [
    # the token that is set, what is sent, who asks, the path, and the answer
    ("", None, "127.0.0.1", "/usage", 200),
    ("", None, "::1", "/usage", 200),
    ("", None, "::ffff:127.0.0.1", "/usage", 200),
    ("", None, "10.0.0.7", "/usage", 403),
    ("", "Bearer anything", "10.0.0.7", "/usage", 403),
    ("", None, "2001:db8::1", "/metrics", 403),
    ("", None, None, "/usage", 403),
    ("", None, "10.0.0.7", "/healthz", 200),
    ("right", "Bearer right", "10.0.0.7", "/usage", 200),
    ("right", "bearer right", "10.0.0.7", "/usage", 200),
    ("right", "Bearer right ", "10.0.0.7", "/usage", 200),
    ("right", None, "127.0.0.1", "/usage", 401),
    ("right", "right", "127.0.0.1", "/usage", 401),
    ("right", "Bearer", "127.0.0.1", "/usage", 401),
    ("right", "Basic right", "127.0.0.1", "/usage", 401),
    ("right", "Bearer righ", "127.0.0.1", "/usage", 401),
    ("right", "Bearer right2", "127.0.0.1", "/usage", 401),
    ("right", "Bearer Right", "127.0.0.1", "/usage", 401),
    ("schlüssel€", "Bearer schlüssel€", "10.0.0.7", "/usage", 200),
    ("schlüssel€", "Bearer schlussel", "10.0.0.7", "/usage", 401),
]


@pytest.mark.parametrize(("token", "sent", "peer", "path", "status"), LOOKS)
async def test_who_may_look(
    monkeypatch: pytest.MonkeyPatch, token: str, sent: str | None, peer: str | None, path: str, status: int
) -> None:
    monkeypatch.setenv("LLMSHIELD_ADMIN_TOKEN", token)
    runtime = Runtime(policy("plugins: []"), mount="gateway")
    await runtime.start()
    said: list[Any] = []

    async def send(message: Any) -> None:
        said.append(message)

    headers = [(b"host", b"127.0.0.1:9787")]
    if sent is not None:
        headers.append((b"authorization", sent.encode()))
    scope: Any = {
        "type": "http", "method": "GET", "path": path, "headers": headers,
        "client": (peer, 5000) if peer is not None else None,
    }  # fmt: skip
    await Admin(runtime)(scope, None, send)  # type: ignore[arg-type]
    await runtime.close()

    assert said[0]["status"] == status
    if status != 200:
        assert b"tenants" not in said[1]["body"]
        assert token.encode() not in said[1]["body"] or not token


async def test_the_data_port_has_no_admin_route(primary: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the whole table, with the right credential in hand."""
    monkeypatch.setenv("LLMSHIELD_ADMIN_TOKEN", "right-and-long-enough")
    head = {"authorization": "Bearer right-and-long-enough"}
    async with (
        gateway(POLICY.format(url=primary.url)) as (url, _),
        aiohttp.ClientSession(headers=head) as http,
    ):
        for route in routes():
            path = route.path.replace("{", "").replace("}", "")
            async with http.request(route.method, url + path, json={} if route.body else None) as reply:
                assert reply.status in {404, 405, 501}, path
                assert "problem" not in reply.headers["content-type"]

    assert [] == primary.calls


RAW = [
    # the bytes of a request, and how the answer begins
    (b"GET /status HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n", b"200"),
    (b"GET /status HTTP/1.1\r\n\r\n", b"400"),
    (b"GET /status HTTP/1.0\r\n\r\n", b"421"),
    (b"GET /status HTTP/1.1\r\nhost: 127.0.0.1\r\nhost: evil.example.com\r\n\r\n", b"400"),
    (b"GET /status HTTP/1.1\r\nhost: evil.example.com\r\nx-forwarded-host: 127.0.0.1\r\n\r\n", b"421"),
    (b"GET /healthz HTTP/1.1\r\nhost: evil.example.com\r\n\r\n", b"421"),
    (b"GET http://evil.example.com/status HTTP/1.1\r\nhost: evil.example.com\r\n\r\n", b"421"),
    (b"GET /healthz HTTP/1.1\r\nhost: 127.0.0.1\r\nx-original-url: /status\r\n\r\n", b"200"),
    (b"GET /status%00 HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n", b"400"),
    (b"GET //status HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n", b"400"),
    (b"GET /v1/../status HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n", b"400"),
    (b"OPTIONS * HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n", b"400"),
    (b"OPTIONS /v1/blocks HTTP/1.1\r\nhost: 127.0.0.1\r\norigin: https://evil.example.com\r\n"
     b"access-control-request-method: POST\r\n\r\n", b"403"),
    (b"POST /v1/blocks HTTP/1.1\r\nhost: 127.0.0.1\r\norigin: https://evil.example.com\r\n"
     b"content-type: application/json\r\ncontent-length: 2\r\n\r\n{}", b"403"),
    (b"POST /v1/blocks HTTP/1.1\r\nhost: 127.0.0.1\r\nsec-fetch-site: cross-site\r\nsec-fetch-mode: no-cors\r\n"
     b"content-type: text/plain\r\ncontent-length: 2\r\n\r\n{}", b"403"),
    (b"POST /v1/blocks HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/x-www-form-urlencoded\r\n"
     b"cookie: session=x\r\ncontent-length: 18\r\n\r\ntarget=192.0.2.7&x", b"403"),
    (b"GET /status?key=right HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n", b"422"),
    (b"CONNECT 127.0.0.1:22 HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n", b"405"),
    (b"GET /status HTTP/1.1\r\nhost: 127.0.0.1\r\nrange: bytes=0-0,1-1\r\n\r\n", b"200"),
    (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"400"),
]  # fmt: skip


@pytest.mark.parametrize(("data", "status"), RAW)
async def test_what_a_page_or_a_scanner_sends(primary: Simulator, data: bytes, status: bytes) -> None:
    """Without a token set, as a browser on this machine could: whatever changes something is refused."""
    async with gateway(POLICY.format(url=primary.url)) as (_, admin):
        answer = await raw(admin, data)

    assert answer.startswith(b"HTTP/1.1 " + status), answer[:300]
    assert b"access-control-allow" not in answer
    if status != b"200":
        assert b"uptime_s" not in answer


async def raw(url: str, data: bytes) -> bytes:
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(data)
    out = b""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(10):
            while b"\r\n\r\n" not in out and (chunk := await reader.read(65536)):
                out += chunk
    writer.close()
    return out


BIG = [
    (b"content-length: 100000\r\n\r\n" + b"x" * 100_000, b"413"),
    (b"transfer-encoding: chunked\r\n\r\n" + b"2000\r\n" + b"x" * 0x2000 + b"\r\n", b"408"),
    (b"content-length: 10\r\n\r\n{", b"408"),
]


@pytest.mark.parametrize(("rest", "status"), BIG)
async def test_bodies_that_are_too_large_or_do_not_come(
    primary: Simulator, monkeypatch: pytest.MonkeyPatch, rest: bytes, status: bytes
) -> None:
    monkeypatch.setenv("LLMSHIELD_ADMIN_TOKEN", "right-and-long-enough")
    head = (
        b"POST /v1/blocks HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer right-and-long-enough\r\n"
        b"content-type: application/json\r\n"
    )
    text = "server: {limits: {receive: 300ms}}\n" + POLICY.format(url=primary.url)
    async with gateway(text) as (_, admin):
        answer = await raw(admin, head + rest)

    assert answer.startswith(b"HTTP/1.1 " + status), answer[:300]


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
