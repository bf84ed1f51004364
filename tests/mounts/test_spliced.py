"""What a spliced connection tells of its client: address, mount and origin; for how long it waits for its line."""

from __future__ import annotations

import asyncio
import contextlib
import json
import select
import socket
from functools import partial

import pytest

from llmshield.mounts._request import HttpRequest
from llmshield.mounts._server import Server, bind
from llmshield.mounts._spliced import Spliced, welcome
from llmshield.origins import ALIVE, MAGIC, write
from llmshield.policy.units import HostPort

TOKEN = "t"


class Spoken:
    """Answers every request with nothing, and keeps what it knew of it."""

    def __init__(self) -> None:
        self.seen: list[HttpRequest] = []

    async def __call__(self, request: HttpRequest) -> None:
        if await welcome(request):
            self.seen.append(request)
            await request.start(204, {})
            await request.end()


async def served(head_s: float = 5.0) -> tuple[Spoken, Server, int]:
    handler = Spoken()
    sock = bind(HostPort("127.0.0.1", 0), "data")
    kind = partial(Spliced, token=TOKEN, provider_of={"a.test": "a"}.get)
    server = Server(handler, sock, head_s=head_s, receive_s=5.0, kind=kind)
    await server.start()
    return handler, server, sock.getsockname()[1]


async def test_who_is_calling() -> None:
    handler, server, port = await served()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(write(TOKEN, ("203.0.113.7", 4711), "a.test", ("198.51.100.1", 443)))
    for _ in range(2):  # one line is for all requests of a connection
        writer.write(b"GET /x HTTP/1.1\r\nhost: a.test\r\nx-llmshield-origin: me\r\n\r\n")
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 204 ")
    writer.close()
    await server.stop(1.0)

    first, second = handler.seen
    assert ("203.0.113.7", "egress", "a") == (
        first.peer,
        first.mount,
        first.origin.provider if first.origin else "",
    )
    assert second.origin is first.origin
    assert [(b"host", b"a.test")] == first.headers


@pytest.mark.parametrize(("token", "said"), [(TOKEN, ALIVE), ("x", b"")])
async def test_a_sign_of_life(token: str, said: bytes) -> None:
    handler, server, port = await served()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(MAGIC + json.dumps({"t": token, "alive": True}).encode() + b"\r\n")
    got = b""
    with contextlib.suppress(ConnectionResetError):
        got = await reader.read()
    writer.close()
    await server.stop(1.0)

    assert got == said
    assert handler.seen == []


@pytest.mark.skipif(not hasattr(select, "POLLRDHUP"), reason="Linux tells")
@pytest.mark.parametrize("left", [True, False])
async def test_nobody_is_asked_for_a_client_that_left_while_this_process_stood_still(left: bool) -> None:
    """All of it lies in the kernel before a byte is read: the request and, behind it, the client's end."""
    handler, server, port = await served()
    with socket.create_connection(("127.0.0.1", port)) as sock:
        sock.sendall(write(TOKEN, ("203.0.113.7", 4711), "a.test", ("198.51.100.1", 443)))
        sock.sendall(b"GET /x HTTP/1.1\r\nhost: a.test\r\n\r\n")
        if left:
            sock.shutdown(socket.SHUT_WR)
        sock.setblocking(False)
        got = await asyncio.get_running_loop().sock_recv(sock, 100)
    await server.stop(1.0)

    assert len(handler.seen) == (not left)
    assert got.startswith(b"" if left else b"HTTP/1.1 204 ")
    assert bool(got) is not left


async def test_a_line_has_as_long_as_a_head() -> None:
    _, server, port = await served(head_s=0.2)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"LLMSHIELD/1 {")
    async with asyncio.timeout(5):
        assert await reader.read() == b""
    writer.close()
    await server.stop(1.0)
