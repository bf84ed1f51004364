"""Streams through the transparent mount: nothing is kept back, and ends are told in both directions."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import aiohttp
import aiohttp.web
import pytest

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_each_event_arrives_before_the_next_is_sent(
    start: Any, provider: Any, chat: Any, client: Any
) -> None:
    """The provider sends an event only after the client has told (beside the stream) that it has the one before."""
    got: asyncio.Queue[int] = asyncio.Queue()
    late: list[float] = []
    sent_at: list[float] = []

    async def stream(request: aiohttp.web.Request) -> aiohttp.web.StreamResponse:
        answer = aiohttp.web.StreamResponse(headers={"content-type": "text/event-stream"})
        await answer.prepare(request)
        for n in range(20):
            chunk = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [
                {"index": 0, "delta": {"content": f"w{n} "}, "finish_reason": None}]}  # fmt: skip
            sent_at.append(time.monotonic())
            await answer.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")
            async with asyncio.timeout(10):
                assert await got.get() == n
        chunk["choices"] = [{"index": 0, "delta": {}, "finish_reason": "stop"}]
        await answer.write(b"data: " + json.dumps(chunk).encode() + b"\n\ndata: [DONE]\n\n")
        return answer

    runner, port = await provider.web([aiohttp.web.post("/v1/chat/completions", stream)])
    saved, provider.port = provider.port, port
    try:
        async with start() as mount, aiohttp.ClientSession() as session:
            async with client(session, mount)(
                "api.openai.com", "/v1/chat/completions", chat("hi", stream=True)
            ) as reply:
                seen = b""
                async for part in reply.content.iter_any():
                    seen += part
                    while b'"w%d "' % len(late) in seen:
                        late.append(time.monotonic() - sent_at[len(late)])
                        got.put_nowait(len(late) - 1)
    finally:
        provider.port = saved
        await runner.cleanup()

    assert len(late) == 20
    assert b"[DONE]" in seen
    assert sorted(late)[len(late) // 2] < 0.05


async def test_a_client_that_leaves_is_told_to_the_provider(http: Any, provider: Any, chat: Any) -> None:
    provider.sim.set(delay="50ms", tokens=1000)
    async with http("api.openai.com", "/v1/chat/completions", chat("hi", stream=True)) as reply:
        await reply.content.readany()
        reply.close()
    left = time.monotonic()
    while not provider.sim.calls[0].disconnected:
        assert time.monotonic() - left < 5.0
        await asyncio.sleep(0.02)

    assert time.monotonic() - left < 1.0


async def test_a_stream_that_breaks_upstream_ends_with_an_error(http: Any, provider: Any, chat: Any) -> None:
    provider.sim.set(fault="cut", after=4)
    async with http("api.openai.com", "/v1/chat/completions", chat("hi", stream=True)) as reply:
        body = await reply.read()

    assert reply.status == 200
    assert b'"error"' in body
    assert b"[DONE]" not in body


async def test_streams_of_one_http2_connection_do_not_wait_for_each_other(
    mount: Any, provider: Any, chat: Any, over_http2: Any
) -> None:
    """A client that speaks HTTP/2 only: fifty streams on one connection, all of them begun before the first has ended
    (mitmproxy by itself lets five through)."""
    provider.sim.set(delay="100ms", tokens=60)
    found = await over_http2(
        mount, "api.openai.com", "/v1/chat/completions", chat("hi", stream=True), streams=50
    )

    assert ["200"] * 50 == [each["status"] for each in found]
    assert max(each["first"] for each in found) < min(each["end"] for each in found)
