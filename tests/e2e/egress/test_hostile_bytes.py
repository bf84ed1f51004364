"""Hostile bytes: whatever the sidecar makes of them, so does this mount."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from llmshield.testing import gateway

pytestmark = pytest.mark.asyncio(loop_scope="module")

BODY = b'{"model": "gpt-small", "max_tokens": 300, "messages": [{"role": "user", "content": "tide"}]}'
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nhost: api.openai.com\r\ncontent-type: application/json\r\n"
SIZED = HEAD + b"content-length: %d\r\n" % len(BODY)
RAW: dict[str, bytes] = {
    "plain": SIZED + b"\r\n" + BODY,
    "chunks": HEAD + b"transfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY),
    "trailers": HEAD
    + b"trailer: authorization\r\ntransfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\nauthorization: Bearer x\r\n\r\n"
    % (len(BODY), BODY),
    "two at once": (SIZED + b"\r\n" + BODY) * 2,
    "two lengths": SIZED + b"content-length: 3\r\n\r\n" + BODY,
    "length and chunks": SIZED + b"transfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY),
    "a negative length": HEAD + b"content-length: -5\r\n\r\n" + BODY,
    "a bad chunk": HEAD + b"transfer-encoding: chunked\r\n\r\nzz\r\n" + BODY,
    "an unknown coding": HEAD + b"transfer-encoding: cow\r\n\r\n" + BODY,
    "a blank in a name": HEAD + b"x : y\r\ncontent-length: %d\r\n\r\n" % len(BODY) + BODY,
    "a folded header": HEAD + b"x: a\r\n b\r\ncontent-length: %d\r\n\r\n" % len(BODY) + BODY,
    "a bare line feed": SIZED.replace(b"\r\n", b"\n") + b"\n" + BODY,
    "no version": b"POST /v1/chat/completions\r\n\r\n",
    "another version": SIZED.replace(b"HTTP/1.1", b"HTTP/3.0") + b"\r\n" + BODY,
    "a long head": HEAD + b"x: " + b"y" * 100_000 + b"\r\n\r\n",
    "two hosts": HEAD + b"host: evil.example\r\ncontent-length: %d\r\n\r\n" % len(BODY) + BODY,
    "an absolute target": SIZED.replace(b"/v1", b"https://evil.example/v1", 1) + b"\r\n" + BODY,
    "CONNECT": b"CONNECT api.openai.com:443 HTTP/1.1\r\nhost: api.openai.com\r\n\r\n",
    "an upgrade to h2c": SIZED + b"connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABk\r\n\r\n" + BODY,
    "the preface of HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "a forged origin": b"LLMSHIELD/1 {}\r\n" + SIZED + b"\r\n" + BODY,
    "not HTTP": b"\x00\x01\x02\xff" * 20 + b"\r\n\r\n",
}  # fmt: skip


LAST = b"GET /nothing HTTP/1.1\r\nhost: api.openai.com\r\nconnection: close\r\n\r\n"
"""Comes behind all of them: whoever took the bytes before it as whole requests answers it with 404 and closes, so that
nobody has to wait for silence; whoever left something of them over takes it for that thing's rest."""

TAKEN = {"plain", "chunks", "trailers", "a bare line feed", "an upgrade to h2c"}


async def answers_of(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, sent: bytes) -> list[bytes]:
    """The status lines that come back until the other end closes, or is silent."""
    got = b""
    with contextlib.suppress(ConnectionError, TimeoutError, ssl.SSLError):
        writer.write(sent + LAST)
        async with asyncio.timeout(2.5):
            while data := await reader.read(65536):
                got += data
    writer.transport.abort()
    return [
        line
        for line in got.replace(b"}HTTP/1.1", b"}\r\nHTTP/1.1").split(b"\r\n")
        if line.startswith(b"HTTP/1.1 ")
    ]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sidecar(standing: Any) -> AsyncIterator[int]:
    """The same policy's sidecar; its providers are asked without TLS."""
    text = f'providers: {{openai: {{dialect: openai, base_url: "{standing[0].sim.url}/v1"}}}}\nserver: {{store: "memory://"}}'
    async with gateway(text) as (url, _):
        yield int(url.rpartition(":")[2])


@pytest.mark.parametrize("name", RAW)
async def test_hostile_bytes(mount: Any, sidecar: int, provider: Any, name: str) -> None:
    direct = await answers_of(*await asyncio.open_connection("127.0.0.1", sidecar), RAW[name])
    asked, provider.sim.calls[:] = [call.body for call in provider.sim.calls], []
    reader, writer = await asyncio.open_connection("127.0.0.1", int(mount.proxy.rpartition(":")[2]))
    writer.write(b"CONNECT api.openai.com:443 HTTP/1.1\r\nhost: api.openai.com:443\r\n\r\n")
    await reader.readuntil(b"\r\n\r\n")
    await writer.start_tls(mount.roots, server_hostname="api.openai.com")
    through = await answers_of(reader, writer, RAW[name])

    assert direct == through
    assert asked == [call.body for call in provider.sim.calls]


@pytest.mark.parametrize("name", [name for name, sent in RAW.items() if sent.startswith(b"POST /")])
async def test_hostile_bytes_over_plain_http(mount: Any, provider: Any, name: str) -> None:
    """Here mitmproxy's own parser comes first, and what it makes of the bytes is what goes on: one request for each that it
    takes (it mends a bare line feed). Never a hang, never HTML."""
    sent = (RAW[name] + LAST).replace(b"T /", b"T http://api.openai.com/")
    reader, writer = await asyncio.open_connection("127.0.0.1", int(mount.proxy.rpartition(":")[2]))
    got = b""
    closed = False
    with contextlib.suppress(TimeoutError):
        writer.write(sent)
        async with asyncio.timeout(2.5):
            while data := await reader.read(65536):
                got += data
            closed = True
    writer.transport.abort()
    answers = got.count(b"HTTP/1.1 200 ")

    assert b"<html" not in got.lower()
    assert got.startswith(b"HTTP/1.1 ") or closed
    assert len(provider.sim.calls) == answers
    assert answers == (2 if name == "two at once" else name in TAKEN)
    assert not any(b"Bearer x" in value.encode() for call in provider.sim.calls for _, value in call.headers)
