"""Hostile bytes and slow clients on the data port: framing, trailers, upgrades, stalls, and what the others notice."""

import asyncio
import hashlib
import io
import logging
import socket
import threading
import time
from typing import Any

import aiohttp
import orjson
import pytest

from llmshield.dialects._json import parse_body
from llmshield.mounts import _protocol
from llmshield.simulator import Simulator
from llmshield.testing import gateway

CHAT = orjson.dumps({"model": "gpt-4o", "messages": [{"role": "user", "content": "hello"}]})
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
CHUNKED = HEAD + b"transfer-encoding: chunked\r\n\r\n"
"""A head whose body comes in chunks."""


def policy(sim: Simulator, more: str = "") -> str:
    return (
        "server:\n  limits: {head: 2s, receive: 5s, body: 1MiB}\n"
        f"providers:\n  a: {{dialect: openai, base_url: {sim.url}/v1}}\n{more}"
    )


def whole(data: bytes, *headers: bytes) -> bytes:
    return HEAD + b"".join(h + b"\r\n" for h in headers) + b"content-length: %d\r\n\r\n" % len(data) + data


def chunked(data: bytes, *, extension: bytes = b"", trailers: bytes = b"") -> bytes:
    return CHUNKED + b"%x%b\r\n%b\r\n0\r\n%b\r\n" % (len(data), extension, data, trailers)


async def talk(url: str, data: bytes, *, wait: float = 5.0) -> bytes:
    """The first answer to these bytes: its head and as much of its body as came with it; b"" for a bare close."""
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    out = b""
    try:
        async with asyncio.timeout(wait):
            for at in range(0, len(data), 262_144):
                writer.write(data[at : at + 262_144])
                await writer.drain()
            while b"\r\n\r\n" not in out and (more := await reader.read(65536)):
                out += more
    except ConnectionError:
        pass
    finally:
        writer.transport.abort()
    return out


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (whole(CHAT), b"200"),
        (chunked(CHAT), b"200"),
        (chunked(CHAT).replace(b": chunked", b":\t Chunked "), b"200"),
        (chunked(CHAT).replace(b": chunked", b": gzip, chunked"), b"400"),
        (chunked(CHAT).replace(b": chunked", b": x, chunked"), b"400"),
        (chunked(CHAT, extension=b";name=value"), b"200"),
        (chunked(CHAT, extension=b";" + b"a" * 1_000_000), b"431"),
        (chunked(CHAT, trailers=b"x: 1\r\n" * 100_000), b"431"),
        (chunked(CHAT, trailers=b"x: " + b"a" * 5_000_000 + b"\r\n"), b"431"),
        (CHUNKED + b"".join(b"1\r\n%c\r\n" % byte for byte in CHAT.ljust(100_000)) + b"0\r\n\r\n", b"431"),
        (HEAD + b"x: 1\r\n" * 100_000 + b"\r\n", b"431"),
        (whole(CHAT, b"x: " + b"a" * 70_000), b"431"),
        (whole(CHAT, b"connection: Upgrade, HTTP2-Settings", b"upgrade: h2c", b"http2-settings: AAMAAABkAA"), b"200"),
        (whole(CHAT, b"connection: upgrade", b"upgrade: websocket", b"sec-websocket-version: 13"), b"200"),
        (b"CONNECT 127.0.0.1:80 HTTP/1.1\r\nhost: x\r\n\r\n", b"405"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"400"),
        (b"TRACE /v1/chat/completions HTTP/1.1\r\nhost: x\r\n\r\n", b"405"),
    ],
    ids=["whole", "chunked", "Chunked", "gzip-chunked", "x-chunked", "extension", "long-extension", "trailers", "long-trailer", "tiny-chunks", "headers",
         "long-header", "h2c", "websocket", "connect", "http2", "trace"],
)  # fmt: skip
async def test_framing(primary: Simulator, data: bytes, expected: bytes) -> None:
    async with gateway(policy(primary)) as (url, _):
        answer = await talk(url, data)

    assert b"HTTP/1.1 " + expected == answer[:12]
    assert (expected == b"200") == bool(primary.calls)


async def test_an_upgrade_that_is_ignored_leaves_the_body_whole_however_it_is_cut(primary: Simulator) -> None:
    data = whole(CHAT, b"connection: Upgrade", b"upgrade: h2c") + whole(CHAT)
    async with gateway(policy(primary)) as (url, _):
        host, port = url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        for at in range(0, len(data), 7):
            writer.write(data[at : at + 7])
            await asyncio.sleep(0)
        for _ in range(2):
            head = await reader.readuntil(b"\r\n\r\n")

            assert head.startswith(b"HTTP/1.1 200")
            await reader.readexactly(int(head.split(b"content-length: ")[1].split(b"\r\n")[0]))
        writer.close()

    assert ["hello", "hello"] == [call.json["messages"][0]["content"] for call in primary.calls]
    assert all(all(name != "upgrade" for name, _ in call.headers) for call in primary.calls)


@pytest.mark.parametrize(
    ("protocol", "stays"), [(b"websocket", False), (b"WebSocket", False), (b"h2c", True)]
)
async def test_a_refused_websocket_ends_its_connection(
    primary: Simulator, protocol: bytes, stays: bool
) -> None:
    """Its client may wait for that without an end: it has nothing else to say on it."""
    head = b"GET /v1/realtime HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: %b\r\n\r\n" % protocol
    async with gateway(policy(primary)) as (url, _):
        host, port = url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(head)
        answer = await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(int(answer.split(b"content-length: ")[1].split(b"\r\n")[0]))

        assert stays != (b"\r\nconnection: close\r\n" in answer)
        if not stays:
            assert await reader.read() == b""
        writer.close()


async def test_trailers_are_nobodys_credentials(primary: Simulator) -> None:
    """They come in one packet with the head: before the app's first line runs."""
    made = policy(
        primary,
        f"tenants:\n  acme: {{keys: ['sha256:{hashlib.sha256(b'acme-key-0123456789').hexdigest()}']}}\n",
    )
    key = b"authorization: Bearer acme-key-0123456789\r\n"
    async with gateway(made) as (url, _):
        inside = await talk(url, chunked(CHAT, trailers=key))
        before = await talk(url, chunked(CHAT).replace(b"\r\nhost", b"\r\n" + key + b"host"))

    assert (b"401", b"200") == (inside[9:12], before[9:12])
    assert 1 == len(primary.calls)


async def test_a_body_over_the_limit_is_refused_in_words_not_by_a_reset(primary: Simulator) -> None:
    async with gateway(policy(primary)) as (url, _), aiohttp.ClientSession() as http:
        async with http.post(
            f"{url}/v1/chat/completions",
            data=io.BytesIO(b"a" * 20_000_000),
            headers={"content-type": "application/json"},
        ) as reply:
            assert (400, "context_length_exceeded") == (reply.status, (await reply.json())["error"]["code"])
        async with http.post(f"{url}/v1/nothing", data=io.BytesIO(b"a" * 5_000_000)) as reply:
            assert 404 == reply.status


async def test_a_client_that_leaves_in_its_body_is_no_error(
    primary: Simulator, caplog: pytest.LogCaptureFixture
) -> None:
    async with gateway(policy(primary)) as (url, _):
        host, port = url.removeprefix("http://").split(":")
        for cut in (1, 20):
            _, writer = await asyncio.open_connection(host, int(port))
            writer.write(whole(CHAT)[: -len(CHAT) + cut])
            await writer.drain()
            await asyncio.sleep(0.05)
            writer.transport.abort()
        await asyncio.sleep(0.1)

    assert [] == [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_a_client_that_takes_nothing_loses_its_connection(
    primary: Simulator, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    """Else it would keep a task, its holds and its buffers for ever, and the shutdown as well."""
    monkeypatch.setattr(_protocol.Connection, "stall_s", 0.3)
    primary.set(tokens=1_500_000, chars=4000)
    body = orjson.dumps(
        {"model": "gpt-4o", "stream": stream, "messages": [{"role": "user", "content": "hello"}]}
    )
    async with gateway(policy(primary)) as (url, _):
        host, port = url.removeprefix("http://").split(":")
        _, writer = await asyncio.open_connection(host, int(port), limit=1024)
        writer.write(whole(body))
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        before = len(asyncio.all_tasks())
        await asyncio.sleep(1.5)
        begun = time.monotonic()
    writer.transport.abort()

    assert time.monotonic() - begun < 3.0
    assert len(asyncio.all_tasks()) <= before


async def stalls(work: Any) -> float:
    """The longest time in seconds that the gateway's loop kept a neighbour waiting while this ran."""
    worst = 0.0
    done = asyncio.Event()

    async def tick() -> None:
        nonlocal worst
        while not done.is_set():
            begun = time.monotonic()
            await asyncio.sleep(0.002)
            worst = max(worst, time.monotonic() - begun)

    ticking = asyncio.create_task(tick())
    await work
    done.set()
    await ticking
    return worst


def chat(content: str) -> bytes:
    return orjson.dumps({"model": "gpt-4o", "messages": [{"role": "user", "content": content}]})


@pytest.mark.parametrize(
    "text",
    ["a", "4111 1111 1111 1112 ", "a@b.co ", "aWdub3JlIGFsbA== "],
    ids=["a", "digits", "mail", "base64"],
)
async def test_a_long_prompt_keeps_nobody_waiting(primary: Simulator, text: str) -> None:
    """The hooks of plugins that compute run beside the loop; a hundred thousand characters are seconds of work."""
    plugins = (
        "plugins:\n  - {use: injection}\n"
        "  - {use: pii, timeout: 10s, entities: {EMAIL_ADDRESS: {action: replace}, CREDIT_CARD: {action: mask}}}\n"
    )
    async with gateway(policy(primary, plugins)) as (url, _):
        await talk(url, whole(chat("warm")))
        worst = await stalls(talk(url, whole(chat(text * (30_000 // len(text)))), wait=30))

    assert 2 == len(primary.calls)
    assert worst < 0.25


LARGE: dict[str, Any] = {
    "one long text": (200, {"messages": [{"role": "user", "content": "4111 1111 1111 1112 " * 490_000}]}),
    "escapes": (200, {"messages": [{"role": "user", "content": '"' * 4_900_000}]}),
    "many messages": (200, {"messages": [{"role": "user", "content": "hello"}] * 45_000}),
    "many numbers": (400, {"messages": [{"role": "user", "content": "x"}], "more": [*range(900_000), 1e30]}),
}


@pytest.mark.nightly  # a figure of a machine that does nothing else
@pytest.mark.parametrize("name", LARGE)
async def test_a_large_body_is_read_beside_the_loop(primary: Simulator, name: str) -> None:
    """What a single call into C takes can't be shared: some 50 ms for ten megabytes; all of them together would be 0.1
    to 0.3 s."""
    status, body = LARGE[name]
    made = policy(primary).replace("1MiB", "10MiB")
    async with gateway(made) as (url, _):
        await talk(url, whole(chat("warm")))
        worst, statuses = [], []
        for _ in range(4):  # the machine may be busy with something else
            data = whole(orjson.dumps({"model": "gpt-4o", **body}))
            asked = asyncio.to_thread(in_a_thread, url, data)
            worst.append(await stalls(gathered(asked, statuses)))
            if worst[-1] < 0.2:
                break

    assert {status} == set(statuses)
    assert min(worst) < 0.2


async def test_small_bodies_are_read_at_once_and_large_ones_in_a_thread(
    primary: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[bool, bool]] = []

    def watched(data: bytes, *rest: Any) -> Any:
        seen.append((len(data) > 256 * 1024, threading.current_thread() is threading.main_thread()))
        return parse_body(data, *rest)

    monkeypatch.setattr("llmshield.engine.parse_body", watched)
    async with gateway(policy(primary)) as (url, _):
        for size in (10, 200_000, 300_000):
            assert b"200" in await talk(url, whole(chat("a" * size)))
        refused = await talk(url, whole(b'{"model": 5, "messages": "' + b"a" * 300_000 + b'"}'))

    assert seen == [(False, True), (False, True), (True, False), (True, False)]
    assert refused.startswith(b"HTTP/1.1 400")


def in_a_thread(url: str, data: bytes) -> int:
    """The status of an answer."""
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as client:
        client.sendall(data)
        return int(client.recv(12)[9:12])


async def gathered(asked: Any, statuses: list[int]) -> None:
    statuses.append(await asked)
