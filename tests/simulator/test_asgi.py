"""The simulator as an ASGI app."""

import asyncio
import json

import pytest

from llmshield.simulator import SimulatorApp

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


async def call(app, body, *, method="POST", path="/v1/chat/completions", headers=(), leave=None, query=b""):
    """Run one request; the client leaves after `leave` messages."""
    sent, gone = [], asyncio.Event()
    data = json.dumps(body).encode()
    halves = iter([(data[:9], True), (data[9:], False)])

    async def receive():
        half = next(halves, None)
        if half is not None:
            return {"type": "http.request", "body": half[0], "more_body": half[1]}
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)
        if leave is not None and len(sent) >= leave:
            gone.set()

    raw = [(k.encode(), v.encode()) for k, v in headers]
    scope = {"type": "http", "method": method, "path": path, "query_string": query, "headers": raw}
    await asyncio.wait_for(app(scope, receive, send), 3)
    return sent


async def test_whole():
    app = SimulatorApp(name="p")
    sent = await call(app, CHAT)

    assert sent[0]["status"] == 200
    body = b"".join(m.get("body", b"") for m in sent[1:])
    assert json.loads(body)["choices"][0]["message"]["content"] == "Hello, I am p. You said: hi"
    assert (b"content-length", str(len(body)).encode()) in sent[0]["headers"]
    assert app.provider.calls[0].json == CHAT
    assert app.provider.calls[0].finished


async def test_streamed():
    app = SimulatorApp()
    sent = await call(app, {**CHAT, "stream": True})

    assert [m["body"] for m in sent[1:]][-2:] == [b"data: [DONE]\n\n", b""]
    assert sent[-1]["more_body"] is False
    assert len(sent) > 8


async def test_gemini_with_its_query():
    app = SimulatorApp()
    path = "/v1beta/models/m:streamGenerateContent"
    sent = await call(app, {"contents": [{"parts": [{"text": "x"}]}]}, path=path, query=b"alt=sse")

    assert (b"content-type", b"text/event-stream; charset=utf-8") in sent[0]["headers"]


async def test_faults_that_need_a_socket_are_approximated():
    app = SimulatorApp()
    with pytest.raises(ConnectionResetError):
        await call(app, {**CHAT, "model": "sim-reset"})
    cut = await call(app, {**CHAT, "stream": True}, headers=[("x-simulate", "fin, after=2")])
    limited = await call(app, CHAT, headers=[("X-Simulate".lower(), "429, retry_after=1")])

    assert len(cut) == 3
    assert cut[-1]["more_body"] is True
    assert limited[0]["status"] == 429
    assert (b"retry-after", b"1") in limited[0]["headers"]


@pytest.mark.parametrize("simulate", ["silence", "stall", "endless, delay=1ms"])
async def test_a_client_that_leaves(simulate):
    app = SimulatorApp()
    if simulate == "silence":
        task = asyncio.ensure_future(call(app, CHAT, headers=[("x-simulate", simulate)]))
        await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    else:
        await call(app, {**CHAT, "stream": True}, headers=[("x-simulate", simulate)], leave=3)

        assert app.provider.calls[0].disconnected
    assert not app.provider.calls[0].finished


async def test_lifespan_control_and_other_scopes():
    app = SimulatorApp()
    messages = iter(["lifespan.startup", "lifespan.shutdown"])
    sent = []

    async def receive():
        return {"type": next(messages)}

    async def send(message):
        sent.append(message["type"])

    await app({"type": "lifespan"}, receive, send)
    health = await call(app, None, method="GET", path="/__sim__/health")
    with pytest.raises(ValueError, match="websocket"):
        await app({"type": "websocket"}, receive, send)

    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert health[0]["status"] == 200
