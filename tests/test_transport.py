"""The upstream client on real sockets: phases, addresses, compressed answers, what is never followed or sent."""

import asyncio
import time

import pytest

from llmshield.dialects import WireRequest
from llmshield.errors import UpstreamError
from llmshield.simulator import Simulator
from llmshield.transport import HttpTransport, Timeouts, Upstream

QUICK = Timeouts(connect=0.5, first_token=0.5, idle=0.4, total=2.0)
BODY = (
    b'{"model": "gpt-4o", "stream": %s, "messages": [{"role": "user", "content": "hello there, my friend"}]}'
)


def request(streamed: bool = False, **headers: str) -> WireRequest:
    head = {"content-type": "application/json", **{k.replace("_", "-"): v for k, v in headers.items()}}
    return WireRequest("POST", "/chat/completions", "", head, BODY % (b"true" if streamed else b"false"))


async def read(upstream: Upstream) -> bytes:
    out = b""
    while data := await upstream.chunk():
        out += data
    return out


async def ask(
    sim: Simulator, *, streamed: bool = False, timeouts: Timeouts = QUICK, **directives: object
) -> bytes:
    sim.set(**directives)
    transport = HttpTransport(f"{sim.url}/v1")
    try:
        upstream = await transport.ask(request(streamed), timeouts)
        if streamed:
            await upstream.chunk()
            upstream.idle_after(timeouts.idle)
        return await read(upstream)
    finally:
        await transport.close()


@pytest.mark.parametrize(
    ("directives", "streamed", "reason"),
    [
        ({"fault": "silence", "pause": 3}, False, "first_token"),
        ({"fault": "slow_first", "pause": 3}, True, "first_token"),
        ({"fault": "stall", "pause": 3}, True, "idle"),
        ({"fault": "drop"}, False, "reset"),
        ({"fault": "reset"}, False, "reset"),
        ({"fault": "cut"}, True, "reset"),
        ({"fault": "not_http"}, False, "reset"),
        ({"fault": "gzip_garbage"}, False, "malformed"),
        ({"encoding": "gzip", "fault": "bomb", "size": 100_000_000}, False, "malformed"),
        ({"delay": "50ms", "tokens": 500}, True, "total"),
    ],
)
async def test_every_failure_has_its_reason(
    primary: Simulator, directives: dict[str, object], streamed: bool, reason: str
) -> None:
    started = time.monotonic()
    with pytest.raises(UpstreamError) as caught:
        await ask(primary, streamed=streamed, **directives)

    assert reason == caught.value.reason
    assert time.monotonic() - started < 3


async def test_no_connection_is_told_apart(primary: Simulator) -> None:
    await primary.refuse()
    with pytest.raises(UpstreamError) as caught:
        await ask(primary)

    assert "connect" == caught.value.reason


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd"])
@pytest.mark.parametrize("streamed", [False, True])
async def test_compressed_answers_are_read(primary: Simulator, encoding: str, streamed: bool) -> None:
    assert (
        b"my friend" in (await ask(primary, streamed=streamed, encoding=encoding)).replace(b'"', b"")
        or streamed
    )


async def test_redirects_are_not_followed(primary: Simulator, backup: Simulator) -> None:
    primary.set(fault="redirect", location=f"{backup.url}/v1/chat/completions")
    transport = HttpTransport(f"{primary.url}/v1")
    upstream = await transport.ask(request(authorization="Bearer secret"), QUICK)
    upstream.close()
    await transport.close()

    assert 300 <= upstream.status < 400
    assert [] == backup.calls


async def test_connect_replaces_the_address_and_keeps_the_name(primary: Simulator) -> None:
    transport = HttpTransport("http://api.example.com/v1", connect=("127.0.0.1", primary.port))
    upstream = await transport.ask(request(), QUICK)
    await read(upstream)
    await transport.close()

    assert 200 == upstream.status
    assert "api.example.com" == primary.calls[0].header("host")


async def test_connections_are_reused_and_the_environments_proxy_is_not_used(
    primary: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    transport = HttpTransport(f"{primary.url}/v1")
    for _ in range(5):
        await read(await transport.ask(request(), QUICK))
    await transport.close()

    assert 1 == primary.connections


async def test_a_cancelled_call_closes_its_connection(primary: Simulator) -> None:
    primary.set(delay=0.05, tokens=200)
    transport = HttpTransport(f"{primary.url}/v1")
    upstream = await transport.ask(request(streamed=True), QUICK)
    await upstream.chunk()
    upstream.close()
    for _ in range(100):
        if primary.calls[0].disconnected:
            break
        await asyncio.sleep(0.01)
    await transport.close()

    assert primary.calls[0].disconnected


async def test_a_large_body_goes_out_whole(primary: Simulator) -> None:
    text = "a" * 3_000_000
    body = b'{"model": "gpt-4o", "messages": [{"role": "user", "content": "%s"}]}' % text.encode()
    transport = HttpTransport(f"{primary.url}/v1")
    upstream = await transport.ask(
        WireRequest("POST", "/chat/completions", "", {"content-type": "application/json"}, body), QUICK
    )
    await read(upstream)
    await transport.close()

    assert body == primary.calls[0].body
    assert str(len(body)) == primary.calls[0].header("content-length")


async def test_a_slow_client_is_no_silence_of_the_provider() -> None:
    """Between two reads nobody waits for the provider: its bytes are here, it is the client that takes its time."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\na")
        await asyncio.sleep(0.3)
        writer.write(b"b")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    transport = HttpTransport(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    upstream = await transport.ask(WireRequest("GET", "/"), Timeouts(1, 1, 0.2, 5))
    assert b"a" == await upstream.chunk()
    upstream.idle_after(0.2)
    await asyncio.sleep(1.0)

    assert b"b" == await upstream.chunk()
    assert b"" == await upstream.chunk()
    await transport.close()
    server.close()
    await server.wait_closed()
