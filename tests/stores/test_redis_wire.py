"""The wire to Redis: answers in order at any cut of the bytes, none for another's question, nothing waited for in vain."""

import asyncio
import random
from collections.abc import Awaitable, Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmshield.errors import StoreUnavailable
from llmshield.stores._redis_resp import RedisError, read
from llmshield.stores._redis_wire import Wire

SCRIPTS = {"echo": "return ARGV[1]", "other": "return 1"}
Answer = Callable[[list[bytes], asyncio.StreamWriter], Awaitable[None]]

values = st.recursive(
    st.none() | st.integers(-(2**63), 2**63 - 1) | st.binary(max_size=50),
    lambda inner: st.lists(inner, max_size=4),
    max_leaves=12,
)


def resp(value: object) -> bytes:
    if value is None:
        return b"$-1\r\n"
    if isinstance(value, int):
        return b":%d\r\n" % value
    if isinstance(value, bytes):
        return b"$%d\r\n%b\r\n" % (len(value), value)
    assert isinstance(value, list)
    return b"*%d\r\n" % len(value) + b"".join([resp(item) for item in value])


@given(values)
def test_every_answer_is_read_whole_or_not_at_all(value: object) -> None:
    data = resp(value)

    assert read(data + b":7\r\n", 0) == (value, len(data))
    for cut in range(len(data)):
        with pytest.raises(IndexError):
            read(data[:cut], 0)


def test_errors_and_statuses() -> None:
    assert read(b"+OK\r\n", 0) == (b"OK", 5)
    error, at = read(b"-NOSCRIPT no such\r\n", 0)
    assert isinstance(error, RedisError)
    assert (str(error), at) == ("NOSCRIPT no such", 19)
    with pytest.raises(ValueError, match="no RESP"):
        read(b"HTTP/1.1 400 Bad Request\r\n", 0)


async def commands(reader: asyncio.StreamReader) -> list[bytes]:
    count = int((await reader.readline())[1:])
    parts = []
    for _ in range(count):
        size = int((await reader.readline())[1:])
        parts.append((await reader.readexactly(size + 2))[:-2])
    return parts


class Server:
    """A Redis that answers as a test wants it to."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.seen: list[list[bytes]] = []
        self.connections = 0

    async def __aenter__(self) -> "Server":
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self.server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self.server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                parts = await commands(reader)
                self.seen.append(parts)
                await self.answer(parts, writer)
        except (asyncio.IncompleteReadError, ConnectionError, ValueError):
            writer.close()


def opened(server: Server, rest: str = "") -> Wire:
    return Wire(f"redis://{rest}127.0.0.1:{server.port}/0", SCRIPTS)


async def test_answers_keep_their_order_at_any_cut() -> None:
    rng = random.Random(5)

    async def answer(parts: list[bytes], writer: asyncio.StreamWriter) -> None:
        data = resp(parts[-1]) if parts[0] == b"EVALSHA" else b"+OK\r\n"
        while data:
            size = rng.randrange(1, 9)
            writer.write(data[:size])
            data = data[size:]
            if rng.random() < 0.3:
                await asyncio.sleep(0)

    async with Server(answer) as server:
        wire = opened(server)
        await wire.open(2.0)
        said = await asyncio.gather(*[wire.ask("echo", b"k", (f"{index}", index)) for index in range(500)])
        await wire.close()

    assert said == [b"%d" % index for index in range(500)]


async def test_a_connection_that_dies_is_replaced_once() -> None:
    async def answer(parts: list[bytes], writer: asyncio.StreamWriter) -> None:
        if parts[0] == b"EVALSHA" and server.connections == 1:
            writer.transport.abort()
        else:
            writer.write(b":1\r\n")

    async with Server(answer) as server:
        wire = opened(server)
        await wire.open(2.0)
        assert await wire.ask("echo", b"k", ("a",)) == 1
        assert server.connections == 2
        await wire.close()


async def test_a_connection_that_always_dies_fails_in_time() -> None:
    async def answer(parts: list[bytes], writer: asyncio.StreamWriter) -> None:
        if parts[0] == b"EVALSHA":
            writer.transport.abort()
        else:
            writer.write(b":1\r\n")

    async with Server(answer) as server:
        wire = opened(server)
        await wire.open(2.0)
        for index in range(5):
            with pytest.raises(StoreUnavailable):
                await wire.ask("echo", b"k", (f"{index}",))
        assert server.connections < 12
        await wire.close()


async def test_a_script_that_is_unknown_is_loaded_among_others() -> None:
    known: set[bytes] = set()

    async def answer(parts: list[bytes], writer: asyncio.StreamWriter) -> None:
        if parts[0] == b"SCRIPT":
            known.add(parts[2])
            writer.write(b"$1\r\nx\r\n")
        elif parts[0] == b"EVALSHA" and not known:
            writer.write(b"-NOSCRIPT No matching script.\r\n")
        else:
            writer.write(resp(parts[-1]))

    async with Server(answer) as server:
        wire = opened(server)
        await wire.open(2.0)
        known.clear()
        said = await asyncio.gather(*[wire.ask("echo", b"k", (f"{index}",)) for index in range(70)])
        await wire.close()

    assert said == [b"%d" % index for index in range(70)]


async def test_a_late_answer_meets_nobody_else() -> None:
    hold = asyncio.Event()

    async def answer(parts: list[bytes], writer: asyncio.StreamWriter) -> None:
        if parts[-1] == b"slow":
            await hold.wait()
        writer.write(resp(parts[-1]) if parts[0] == b"EVALSHA" else b"+OK\r\n")

    async with Server(answer) as server:
        wire = opened(server)
        await wire.open(2.0)
        with pytest.raises(StoreUnavailable, match="no answer within"):
            await wire.ask("echo", b"k", ("slow",))
        with pytest.raises(StoreUnavailable):
            await wire.ask("echo", b"k", ("while it hangs",))
        hold.set()
        await asyncio.sleep(0.05)
        assert await wire.ask("echo", b"k", ("after",)) == b"after"
        assert server.connections == 1
        await wire.close()


async def test_who_and_which_database_are_said_first() -> None:
    async def answer(parts: list[bytes], writer: asyncio.StreamWriter) -> None:
        writer.write(b"+OK\r\n")

    async with Server(answer) as server:
        wire = Wire(f"redis://us%40er:pa%3Ass@127.0.0.1:{server.port}/3", SCRIPTS)
        await wire.open(2.0)
        await wire.close()

    assert server.seen[:2] == [[b"AUTH", b"us@er", b"pa:ss"], [b"SELECT", b"3"]]


async def test_a_caller_that_left_before_its_turn_asks_nothing() -> None:
    async def answer(parts: list[bytes], writer: asyncio.StreamWriter) -> None:
        writer.write(b":1\r\n")

    async with Server(answer) as server:
        wire = opened(server)
        await wire.open(2.0)
        server.seen.clear()
        wire.ask("echo", b"k", ("left",)).cancel()
        assert await wire.ask("echo", b"k", ("stays",)) == 1
        await wire.close()

    assert [parts[-1] for parts in server.seen] == [b"stays"]
