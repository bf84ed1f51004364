"""WebSocket and gRPC: passed or blocked, as the policy says."""

from __future__ import annotations

from typing import Any

import aiohttp
import aiohttp.web
import pytest

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.mark.parametrize("passes", [False, True])
async def test_websockets(start: Any, provider: Any, passes: bool) -> None:
    async def echo(request: aiohttp.web.Request) -> aiohttp.web.WebSocketResponse:
        answer = aiohttp.web.WebSocketResponse()
        await answer.prepare(request)
        async for message in answer:
            await answer.send_bytes(message.data)
        return answer

    runner, port = await provider.web([aiohttp.web.get("/v1/realtime", echo)])
    saved, provider.port = provider.port, port
    try:
        async with (
            start(extra="  websocket: pass\n" if passes else "") as mount,
            aiohttp.ClientSession() as session,
        ):
            asking = session.ws_connect(
                "wss://api.openai.com/v1/realtime", proxy=mount.proxy, ssl=mount.roots
            )
            if not passes:
                with pytest.raises(aiohttp.WSServerHandshakeError) as raised:
                    await asking
                assert raised.value.status in (400, 404, 501)
                return
            async with asking as socket:
                for size in (1, 100_000):
                    await socket.send_bytes(b"x" * size)
                    assert (await socket.receive_bytes()) == b"x" * size
    finally:
        provider.port = saved
        await runner.cleanup()
