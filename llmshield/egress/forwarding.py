"""From a closed room to the proxy: who is connected inside to some address is connected by CONNECT to that host.

The proxy decides about every host as it does about any other client's; what it refuses is closed. `direct` ports go to
one named place instead, past the proxy, because the user said so.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Mapping, Sequence

from llmshield.egress.naming import Names
from llmshield.egress.room import answer_from

_HEAD = 65536
_CONNECT_S = 30.0
_CHUNK = 65536


class Forwarder:
    """Serves a room's sockets until it is cancelled.

    `proxy` is where the proxy listens. `direct` are ports that lead to a place of their own.
    """

    def __init__(self, proxy: tuple[str, int], direct: Mapping[int, tuple[str, int]] | None = None) -> None:
        self.proxy = proxy
        self.direct = dict(direct or {})
        self.names = Names()

    async def serve(self, sockets: Sequence[socket.socket]) -> None:
        """Take connections and questions from these sockets (`room.furnish`)."""
        loop = asyncio.get_running_loop()
        servers = list[asyncio.Server]()
        try:
            for each in sockets:
                each.setblocking(False)
                if each.type == socket.SOCK_STREAM:
                    servers.append(await asyncio.start_server(self._take, sock=each, limit=_HEAD))
                else:
                    loop.add_reader(each, self._ask, each)
            await asyncio.Event().wait()
        finally:
            for server in servers:
                server.close()
            for each in sockets:
                if each.type == socket.SOCK_DGRAM:
                    loop.remove_reader(each)
                    each.close()

    def destination(self, address: str, port: int) -> tuple[str, int] | None:
        """Whom a client means that was connected to an address; None for an address that has no name any more."""
        address = address.partition("%")[0].removeprefix("::ffff:")
        name = self.names.name(address)
        if name is None and self.names.is_ours(address):
            return None
        return name or address, port

    def _ask(self, asked: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError, InterruptedError, ConnectionError, PermissionError):
            data, extra, _, client = asked.recvmsg(4096, 256)
            answer = self.names.answer(data)
            if answer is not None:
                asked.sendmsg([answer], answer_from(extra, asked.family), 0, client)

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        outside: asyncio.StreamWriter | None = None
        try:
            address, port = writer.get_extra_info("sockname")[:2]
            if place := self.direct.get(port):
                there, outside = await asyncio.open_connection(*place)
            else:
                wanted = self.destination(address, port)
                if wanted is None:
                    return
                there, outside = await self._through_proxy(*wanted)
            await _both_ways(reader, writer, there, outside)
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            return  # refused: the client sees its connection end
        finally:
            for each in (writer, outside):
                if each is not None:
                    each.close()

    async def _through_proxy(self, host: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        async with asyncio.timeout(_CONNECT_S):
            reader, writer = await asyncio.open_connection(*self.proxy, limit=_HEAD)
            try:
                target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
                writer.write(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode("ascii"))
                head = await reader.readuntil(b"\r\n\r\n")
                if head.split(b" ", 2)[1:2] != [b"200"]:
                    raise ConnectionRefusedError(f"the proxy refused {target}")
            except BaseException:
                writer.close()
                raise
        return reader, writer


async def _both_ways(
    one: asyncio.StreamReader,
    to_one: asyncio.StreamWriter,
    other: asyncio.StreamReader,
    to_other: asyncio.StreamWriter,
) -> None:
    """Until both directions have ended; an end in one is passed on, a break ends both."""
    async with asyncio.TaskGroup() as both:
        both.create_task(_copy(one, to_other))
        both.create_task(_copy(other, to_one))


async def _copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    try:
        while data := await source.read(_CHUNK):
            sink.write(data)
            await sink.drain()
        if sink.can_write_eof():
            sink.write_eof()
    except OSError:
        sink.transport.abort()
