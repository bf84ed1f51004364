"""What fails, fails closed and in the client's words."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import ssl
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.mark.parametrize("how", ["raise", "hang", "garbage"])
@pytest.mark.parametrize(
    ("host", "path"), [("api.openai.com", "/v1/chat/completions"), ("api.anthropic.com", "/v1/messages")]
)
async def test_a_plugin_that_fails(
    http: Any, provider: Any, how: str, host: str, path: str, chat: Any
) -> None:
    model = "claude-small" if "anthropic" in host else "gpt-small"
    async with http(host, path, chat(how, model)) as reply:
        body = await reply.json()

    assert reply.status >= 500
    assert isinstance(body["error"]["message"], str)
    assert provider.bytes == 0
    assert provider.sim.calls == []


async def test_a_gateway_that_is_killed(mount: Any, provider: Any, chat: Any, client: Any) -> None:
    """503 in the provider's words, at once; nothing goes upstream; then it is back, on its own."""
    async with aiohttp.ClientSession() as session:
        post = client(session, mount)
        async with post("api.openai.com", "/v1/chat/completions", chat("hi")) as reply:
            assert reply.status == 200
        provider.forget()
        os.kill(mount.children()["gateway"], signal.SIGSTOP)  # nobody answers, but the port is open
        os.kill(mount.children()["gateway"], signal.SIGKILL)
        asked, found = time.monotonic(), []
        while 200 not in found:
            assert time.monotonic() - asked < 60, found
            async with post("api.openai.com", "/v1/chat/completions", chat("hi")) as reply:
                found.append(reply.status)
                body = await reply.json()
                if reply.status != 200:
                    assert body["error"]["code"] == "gateway_unavailable"
                    assert reply.headers["retry-after"]
                    assert provider.bytes == 0
            async with post("api.anthropic.com", "/v1/messages", chat("hi", "claude-small")) as reply:
                body = await reply.json()
                if reply.status != 200:
                    assert body["type"] == "error"
                    assert provider.bytes == 0
        await asyncio.to_thread(mount.wait_healthy)

    assert found[0] == 503
    assert found[-1] == 200


WORDS = {
    "api.openai.com": (
        "/v1/chat/completions",
        "gpt-small",
        lambda error: error["code"] == "gateway_unavailable",
    ),
    "api.anthropic.com": ("/v1/messages", "claude-small", lambda error: error["type"] == "api_error"),
}


@contextlib.asynccontextmanager
async def going_on(mount: Any) -> AsyncIterator[None]:
    """A run that a test stops goes on in the end."""
    try:
        yield
    finally:
        mount.process.send_signal(signal.SIGCONT)


@pytest.mark.parametrize("when", ["before it is asked", "while it answers"])
async def test_a_gateway_that_dies_under_a_rewritten_request(
    mount: Any, provider: Any, chat: Any, over_http2: Any, when: str
) -> None:
    """Here mitmproxy itself reads the HTTP, and would say it in HTML. The run can't tell the proxy yet: it is stopped,
    and its listening socket takes the connection, which is cut when the run goes on. Both ways, for both providers."""
    provider.sim.set(ttft="30s")
    asked: list[tuple[str, str]] = []

    async def ask(way: str, host: str) -> dict[str, Any]:
        path, model, _ = WORDS[host]
        body = chat("hi", model)
        if way == "HTTP/2":
            (got,) = await over_http2(mount, host, path, body, meanwhile=lambda: asked.append((way, host)))
            return dict(got)
        asked.append((way, host))
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"http://{host}{path}", json=body, proxy=mount.proxy) as reply,
        ):
            return {"status": str(reply.status), "type": reply.headers["content-type"], "body": await reply.text(),
                    "retry": reply.headers.get("retry-after"), "reset": False}  # fmt: skip

    async def die() -> None:
        while len(asked) < len(calls):
            await asyncio.sleep(0.02)
        if when == "before it is asked":
            await asyncio.sleep(1.0)
            mount.process.send_signal(signal.SIGCONT)
            return
        while len(provider.sim.calls) < len(calls):
            await asyncio.sleep(0.02)
        os.kill(gateway, signal.SIGKILL)

    gateway = mount.children()["gateway"]
    calls = [(way, host) for way in ("HTTP/2", "plain HTTP") for host in WORDS]
    async with going_on(mount):
        if when == "before it is asked":
            mount.process.send_signal(signal.SIGSTOP)
            os.kill(gateway, signal.SIGKILL)
        *found, _ = await asyncio.gather(*[ask(*call) for call in calls], die())
    await asyncio.to_thread(mount.wait_healthy)

    for (_, host), got in zip(calls, found, strict=True):
        assert (got["status"], got["type"], got["retry"], got["reset"]) == (
            "503",
            "application/json",
            "2",
            False,
        )
        assert WORDS[host][2](json.loads(got["body"])["error"])
    assert len(provider.sim.calls) == (0 if when == "before it is asked" else len(calls))


async def test_a_gateway_that_dies_in_a_stream(mount: Any, provider: Any, chat: Any, client: Any) -> None:
    """What was begun is cut, never ended as if it were whole."""
    provider.sim.set(delay="50ms", tokens=400)
    async with aiohttp.ClientSession() as session:
        post = client(session, mount)
        async with post("api.openai.com", "/v1/chat/completions", chat("hi", stream=True)) as reply:
            await reply.content.readany()
            os.kill(mount.children()["gateway"], signal.SIGKILL)
            with pytest.raises(aiohttp.ClientPayloadError):
                await reply.read()
    await asyncio.to_thread(mount.wait_healthy)


async def test_without_a_gateway_hosts_pass_where_the_policy_says_so(
    start: Any, provider: Any, chat: Any
) -> None:
    """`on_crash: bypass`: undecrypted, so the client sees the provider's own certificate."""
    theirs = ssl.create_default_context(cafile=str(provider.roots))
    async with start(extra="  on_crash: bypass\n") as mount, aiohttp.ClientSession() as session:
        (Path(mount.log.parent) / "policy.yaml").unlink()  # it can't come back
        os.kill(mount.children()["gateway"], signal.SIGKILL)
        while mount.health()[0] != 503:
            await asyncio.sleep(0.02)
        await asyncio.sleep(0.2)
        async with session.post(
            f"https://api.openai.com:{provider.port}/v1/chat/completions", json=chat("hi"), proxy=mount.proxy, ssl=theirs,
        ) as reply:  # fmt: skip
            assert reply.status == 200
        (Path(mount.log.parent) / "policy.yaml").write_text("version: 1\n")


async def test_a_proxy_that_is_killed_ends_the_run(start: Any) -> None:
    async with start() as mount:
        gateway = mount.children()["gateway"]
        os.kill(mount.children()["proxy"], signal.SIGKILL)
        status = await asyncio.to_thread(mount.process.wait, 40)

        assert status == 1
        assert "The proxy has ended" in mount.log.read_text()
        assert not Path(f"/proc/{gateway}").exists()
        assert mount.health()[0] == 0


async def test_a_run_that_is_killed_leaves_nobody_and_no_key(
    start: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    async with start() as mount:
        children = mount.children()
        mount.process.kill()
        until = time.monotonic() + 40
        while any(Path(f"/proc/{pid}").exists() for pid in children.values()):
            assert time.monotonic() < until
            await asyncio.sleep(0.1)

    assert set(children) == {"gateway", "proxy"}
    assert [*tmp_path.iterdir()] == []


async def test_sigterm_lets_a_stream_end(start: Any, provider: Any, chat: Any, client: Any) -> None:
    """No new connections meanwhile; a client that was connected already, and asks first when everything ends, is told at
    once: its gateway takes nobody any more."""
    provider.sim.set(delay="100ms", tokens=60)
    async with start() as mount, aiohttp.ClientSession() as session:
        post = client(session, mount)
        reader, writer = await asyncio.open_connection("127.0.0.1", int(mount.proxy.rpartition(":")[2]))
        async with post("api.openai.com", "/v1/chat/completions", chat("hi", stream=True)) as reply:
            await reply.content.readany()
            mount.process.terminate()
            await asyncio.sleep(0.5)
            with pytest.raises(aiohttp.ClientError):
                await post("api.openai.com", "/v1/chat/completions", chat("more"))
            writer.write(b"CONNECT api.openai.com:443 HTTP/1.1\r\nhost: api.openai.com:443\r\n\r\n")
            async with asyncio.timeout(8):
                await reader.readuntil(b"\r\n\r\n")
                await writer.start_tls(mount.roots, server_hostname="api.openai.com")
                writer.write(b"GET /v1/models HTTP/1.1\r\nhost: api.openai.com\r\n\r\n")
                head = await reader.readuntil(b"\r\n\r\n")
            assert b"[DONE]" in await reply.read()
        writer.transport.abort()
        assert await asyncio.to_thread(mount.process.wait, 40) == 0

    assert head.startswith(b"HTTP/1.1 503 ")
    assert b"content-type: application/json" in head
