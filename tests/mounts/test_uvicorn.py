"""Trailers of a chunked request are nobody's headers, whichever server of uvicorn runs the app."""

from __future__ import annotations

import asyncio
import hashlib
import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from llmshield.mounts._uvicorn import keep_trailers_out
from llmshield.mounts.asgi import ShieldMiddleware
from llmshield.testing import policy

KEY = "acme-key-0123456789"
POLICY = f"""
tenants:
  acme: {{keys: ['sha256:{hashlib.sha256(KEY.encode()).hexdigest()}']}}
"""
BODY = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hello"}]}).encode()
PLACES = ["the same packet", "the next packet", "the second request of a packet"]


def made(seen: list[Any]) -> Starlette:
    """An app that keeps the headers it was given."""

    async def chat(request: Request) -> Response:
        await request.body()
        seen.append(dict(request.headers))
        message = {"role": "assistant", "content": "hi"}
        return JSONResponse({"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]})

    app = Starlette(
        routes=[
            Route("/v1/chat/completions", chat, methods=["POST"]),
            Route("/other", chat, methods=["POST"]),
        ]
    )
    app.add_middleware(ShieldMiddleware, policy=policy(POLICY))
    return app


async def serve(app: Any, http: Any, *packets: bytes) -> list[int]:
    """The statuses of all answers on one connection."""
    server = uvicorn.Server(
        uvicorn.Config(app, port=0, log_config=None, http=http, ws="none", lifespan="off")
    )
    running = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.005)
    where = urlsplit(f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}")
    reader, writer = await asyncio.open_connection(where.hostname, where.port)
    for packet in packets:
        writer.write(packet)
        await writer.drain()
        await asyncio.sleep(0.05)
    async with asyncio.timeout(5):
        raw = await reader.read()
    writer.close()
    server.should_exit = True
    await running
    return [int(part[:3]) for part in raw.split(b"HTTP/1.1 ")[1:]]


def request(path: str, *, head: str = "", trailers: str = "", close: bool = True) -> tuple[bytes, bytes]:
    """A chunked request: all up to the last chunk, and the rest."""
    lines = f"POST {path} HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n{head}"
    lines += "connection: close\r\n" if close else ""
    return f"{lines}\r\n{len(BODY):x}\r\n".encode() + BODY + b"\r\n", f"0\r\n{trailers}\r\n".encode()


@pytest.mark.parametrize("http", ["httptools", "h11", "auto"])
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/other"])
async def test_trailers_are_nobodys_credentials(http: str, place: str, path: str) -> None:
    """Guarded or not: the app behind the middleware does not see them as headers either."""
    seen: list[Any] = []
    first, last = request(path, trailers=f"authorization: Bearer {KEY}\r\nx-forwarded-for: 192.0.2.1\r\n")
    before = b"".join(request("/other", close=False))
    packets = {"the same packet": [first + last], "the next packet": [first, last]}.get(
        place, [before + first + last]
    )
    statuses = await serve(made(seen), http, *packets)

    assert statuses[-1] == (401 if path != "/other" else 200)
    for headers in seen:
        assert "authorization" not in headers
        assert "x-forwarded-for" not in headers


@pytest.mark.parametrize("http", ["httptools", "h11"])
async def test_headers_behind_the_transfer_encoding_are_headers(http: str) -> None:
    seen: list[Any] = []
    packet = b"".join(
        request("/v1/chat/completions", head=f"authorization: Bearer {KEY}\r\n", trailers="x: y\r\n")
    )

    assert await serve(made(seen), http, packet) == [200]
    assert "x" not in seen[0]


def test_a_server_of_somebody_elses_own_keeps_working() -> None:
    """What stands behind the head is kept from the scope alone: an upgrade is still seen."""
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

    keep_trailers_out()
    keep_trailers_out()
    wrapped = HttpToolsProtocol.on_headers_complete

    assert wrapped.__wrapped__.__module__ == "uvicorn.protocols.http.httptools_impl"
    assert not hasattr(wrapped.__wrapped__, "__wrapped__")  # once


@pytest.mark.parametrize(
    "begins",
    [
        ["-m", "uvicorn", "served:app", "--port", "0", "--lifespan", "off", "--http", "httptools"],
        ["-c", "import served, uvicorn; uvicorn.run(served.app, port=0, lifespan='off', http='httptools')"],
    ],
    ids=["uvicorn imports the app", "the app is imported first"],
)
def test_the_first_request_of_a_fresh_process(tmp_path: Path, begins: list[str]) -> None:
    """As users run it: `uvicorn app:app` or a script of their own, and no lifespan runs."""
    (tmp_path / "policy.yaml").write_text(f"version: 1{POLICY}")
    (tmp_path / "served.py").write_text(
        textwrap.dedent(
            """
            from llmshield.mounts.asgi import ShieldMiddleware

            async def inner(scope, receive, send):
                names = sorted(name for name, _ in scope["headers"])
                await send({"type": "http.response.start", "status": 200, "headers": [(b"x-saw", b" ".join(names))]})
                await send({"type": "http.response.body", "body": b""})

            made = None

            async def app(scope, receive, send):  # made at the first request, as frameworks do
                global made
                made = made or ShieldMiddleware(inner, policy="policy.yaml")
                await made(scope, receive, send)
            """
        )
    )
    command = [sys.executable, *begins]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if "running on" in line:
            port = int(line.split("127.0.0.1:")[1].split()[0])
            break

    async def talk() -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"".join(request("/other", trailers="authorization: Bearer x\r\n")))
        answer = await reader.read()
        writer.close()
        return answer

    try:
        answer = asyncio.run(talk())
    finally:
        process.terminate()
        process.communicate(timeout=10)

    assert b"x-saw: connection content-type host transfer-encoding\r\n" in answer
