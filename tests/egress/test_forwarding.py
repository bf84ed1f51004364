"""From a room to the proxy: what the proxy is asked, both directions, ends and refusals; on sockets of this machine."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import pytest

from llmshield.egress.forwarding import Forwarder
from llmshield.egress.naming import Names


class Proxy:
    """Answers CONNECT with `status`, then sends back what it gets, in capitals, and its end when the client ends."""

    def __init__(self, status: bytes = b"200 fine") -> None:
        self.status = status
        self.asked = list[bytes]()
        self.over = asyncio.Event()

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            self.asked.append((await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")[0])
            writer.write(b"HTTP/1.1 " + self.status + b"\r\nVia: x\r\n\r\n")
            while data := await reader.read(65536):
                writer.write(data.upper())
                await writer.drain()
        self.over.set()
        writer.close()


@contextlib.asynccontextmanager
async def forwarding(proxy: Proxy, direct: bool = False) -> AsyncIterator[int]:
    """A forwarder for one port, whose number comes out."""
    server = await asyncio.start_server(proxy.take, "127.0.0.1", 0)
    there = server.sockets[0].getsockname()
    listening = socket.create_server(("127.0.0.1", 0))
    port = listening.getsockname()[1]
    asking = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    asking.bind(("127.0.0.1", 0))
    forwarder = Forwarder(there if not direct else ("127.0.0.1", 1), {port: there} if direct else {})
    task = asyncio.create_task(forwarder.serve([listening, asking]))
    try:
        yield port
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        server.close()
        await server.wait_closed()


async def test_bytes_go_both_ways_and_an_end_is_passed_on() -> None:
    proxy = Proxy()
    async with forwarding(proxy) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        sent = b"abc" * 200_000
        writer.write(sent)
        writer.write_eof()
        received = await reader.read(-1)
        writer.close()

    assert received == sent.upper()
    assert proxy.asked == [b"CONNECT 127.0.0.1:%d HTTP/1.1" % port]


@pytest.mark.parametrize("status", [b"403 no", b"502 no", b"nonsense"])
async def test_what_the_proxy_refuses_ends(status: bytes) -> None:
    async with forwarding(Proxy(status)) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"hello")
        try:
            assert await reader.read(-1) == b""
        except ConnectionResetError:
            pass  # an end as well
        writer.close()


async def test_a_client_that_is_gone_ends_what_it_had_at_the_proxy() -> None:
    proxy = Proxy()
    async with forwarding(proxy) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"x")
        assert await reader.readexactly(1) == b"X"
        writer.transport.abort()
        await asyncio.wait_for(proxy.over.wait(), 10)


async def test_a_direct_port_goes_past_the_proxy() -> None:
    proxy = Proxy()
    async with forwarding(proxy, direct=True) as port:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"SELECT 1\r\n\r\n")
        writer.write_eof()
        await asyncio.wait_for(proxy.over.wait(), 10)
        writer.close()

    assert proxy.asked == [b"SELECT 1"]


def test_whom_an_address_means() -> None:
    forwarder = Forwarder(("127.0.0.1", 1))
    address = forwarder.names.address("api.openai.com")

    assert forwarder.destination(address, 443) == ("api.openai.com", 443)
    assert forwarder.destination(f"::ffff:{address}", 443) == ("api.openai.com", 443)
    assert forwarder.destination("203.0.113.9", 80) == ("203.0.113.9", 80)
    assert forwarder.destination("fe80::1%lo", 80) == ("fe80::1", 80)
    assert forwarder.destination("198.18.200.1", 443) is None, "an address of ours that nobody was given"
    assert isinstance(forwarder.names, Names)
