"""A gateway or a proxy that is there and answers nobody: stopped, as a stuck event loop is. The kernel goes on taking
connections for it, so that nothing but its silence tells. No test here waits for a time: each waits for what is to come."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import ssl
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

pytestmark = pytest.mark.asyncio(loop_scope="module")

OPENAI = ("api.openai.com", "/v1/chat/completions", "gpt-small")
ANTHROPIC = ("api.anthropic.com", "/v1/messages", "claude-small")


@contextlib.asynccontextmanager
async def stopped(pid: int) -> AsyncIterator[None]:
    """A process that stands still, and goes on in the end."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


async def until(holds: Callable[[], Any], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not await asyncio.to_thread(holds):
        assert time.monotonic() < end
        await asyncio.sleep(0.1)


async def test_a_gateway_that_hangs(
    start: Any, provider: Any, chat: Any, client: Any, over_http2: Any
) -> None:
    """Who asks gets 503 in the provider's words while it still hangs: on a connection of before, on new ones, and by
    HTTP/2. Health says why. When it goes on, so do the calls, with the same process."""
    async with start() as mount, aiohttp.ClientSession() as old, aiohttp.ClientSession() as new:
        async with client(old, mount)(*OPENAI[:2], chat("hi")) as reply:
            assert reply.status == 200
        provider.forget()
        gateway = mount.children()["gateway"]
        async with stopped(gateway):

            async def ask(session: Any, host: str, path: str, model: str) -> tuple[int, Any, Any]:
                async with client(session, mount)(host, path, chat("hi", model)) as reply:
                    return reply.status, reply.headers.get("retry-after"), await reply.json()

            one = chat("hi", "claude-small")
            waiting = [ask(old, *OPENAI), ask(new, *OPENAI), ask(new, *ANTHROPIC)]
            *found, (rewritten,) = await asyncio.gather(*waiting, over_http2(mount, *ANTHROPIC[:2], one))
            after = await ask(new, *OPENAI)
            health = await asyncio.to_thread(mount.health)
            still = Path(f"/proc/{gateway}/stat").read_text().rpartition(")")[2].split()[0]
        await asyncio.to_thread(mount.wait_healthy)
        assert provider.sim.calls == [], "nor is it asked afterwards what its client was told was refused"
        back = [await ask(new, *OPENAI), await ask(old, *ANTHROPIC)]
        same = mount.children()["gateway"]

    assert still == "T"
    assert [(status, retry) for status, retry, _ in (*found, after)] == [(503, "2")] * 4
    assert {body["error"]["code"] for _, _, body in (found[0], found[1], after)} == {"gateway_unavailable"}
    assert found[2][2]["type"] == "error"
    assert (rewritten["status"], rewritten["retry"], rewritten["reset"]) == ("503", "2", False)
    assert health[0] == 503
    assert "the gateway does not answer" in health[1]
    assert [status for status, _, _ in back] == [200, 200]
    assert same == gateway


async def passes_while_it_hangs(start: Any, provider: Any, chat: Any) -> tuple[int, int]:
    """`on_crash: bypass`: undecrypted, so the client sees the provider's own certificate; guarded again afterwards."""
    theirs = ssl.create_default_context(cafile=str(provider.roots))
    async with start(extra="  on_crash: bypass\n") as mount:

        async def ask(trusts: ssl.SSLContext) -> int:
            url = f"https://api.openai.com:{provider.port}/v1/chat/completions"
            async with aiohttp.ClientSession() as session:
                async with session.post(url, json=chat("hi"), proxy=mount.proxy, ssl=trusts) as reply:
                    return reply.status

        async with stopped(mount.children()["gateway"]):
            await until(lambda: mount.health()[0] == 503)
            passed = await ask(theirs)
        await asyncio.to_thread(mount.wait_healthy)
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            await ask(theirs)
        guarded = await ask(mount.roots)

    return passed, guarded


async def is_told_by_health(start: Any) -> None:
    """A proxy's clients wait, as nothing else has their connections; whoever looks at health can lead them elsewhere."""
    async with start() as mount:
        async with stopped(mount.children()["proxy"]):
            await until(lambda: "the proxy does not answer" in mount.health()[1])
        await asyncio.to_thread(mount.wait_healthy)


async def test_bypass_and_a_proxy_that_hangs(start: Any, provider: Any, chat: Any) -> None:
    """Two runs, at the same time."""
    found, _ = await asyncio.gather(passes_while_it_hangs(start, provider, chat), is_told_by_health(start))

    assert found == (200, 200)


@pytest.mark.nightly
async def test_one_that_stays_hung_is_started_again(start: Any, chat: Any, client: Any) -> None:
    """With the real bounds; tests/egress/test_pulse.py has short ones. A call that it had in hand is answered, too."""
    async with start() as mount, aiohttp.ClientSession() as session:
        gateway = mount.children()["gateway"]
        async with stopped(gateway):
            await until(lambda: mount.children().get("gateway", gateway) != gateway, 120)
        await asyncio.to_thread(mount.wait_healthy)
        async with client(session, mount)(*OPENAI[:2], chat("hi")) as reply:
            assert reply.status == 200
