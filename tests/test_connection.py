"""The client's side of one connection without sockets: what an answer is, however its bytes are cut, and what is none."""

import asyncio
import gc
import gzip
import itertools
import weakref
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from llmshield.answer import Answer
from llmshield.connection import HEAD_LIMIT, ONE_WRITE, READ_LIMIT, Connection
from llmshield.errors import UpstreamError


class Wire:
    """A transport that keeps what it is told."""

    def __init__(self) -> None:
        self.sent = b""
        self.unsent = 0
        self.aborted = False
        self.paused = False

    def write(self, data: bytes) -> None:
        self.sent += data

    def abort(self) -> None:
        self.aborted = True

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def get_extra_info(self, name: str) -> None:
        return None


class Pool:
    """Counts what comes back."""

    def __init__(self) -> None:
        self.kept: list[Connection] = []
        self.gone: list[Connection] = []

    def keep(self, connection: Connection) -> None:
        self.kept.append(connection)

    def lost(self, connection: Connection) -> None:
        self.gone.append(connection)


def made() -> tuple[Connection, Wire, Pool]:
    pool, wire = Pool(), Wire()
    connection = Connection(asyncio.get_running_loop(), pool)
    connection.connection_made(wire)
    return connection, wire, pool


def ask(
    connection: Connection, body: bytes = b"", seconds: float = 60.0, *, is_head: bool = False
) -> asyncio.Task[Answer]:
    return asyncio.create_task(
        connection.ask(b"Q", body, asyncio.get_running_loop().time(), seconds, seconds * 2, is_head=is_head)
    )


async def outcome(pieces: list[bytes], end: str = "eof", *, is_head: bool = False) -> tuple[str, bytes, bool]:
    """What these bytes and this end come to: the status or the reason, the body, and whether the connection is kept."""
    connection, wire, pool = made()
    asking = ask(connection, is_head=is_head)
    await asyncio.sleep(0)
    for piece in pieces:
        if connection.alive:
            connection.data_received(piece)
    kept = bool(pool.kept) and connection.alive
    if end == "eof" and connection.alive:
        connection.eof_received()
    if end != "open" or wire.aborted:
        connection.connection_lost(ConnectionResetError() if end == "reset" else None)
        assert pool.gone == [connection]
        assert connection._timer is None
    body = b""
    try:
        async with asyncio.timeout(5):
            answer = await asking
            said = str(answer.status)
            while data := await answer.chunk():
                body += data
    except UpstreamError as error:
        said = error.reason
    connection.abort()
    return said, body, kept


OK = b"HTTP/1.1 200 OK\r\n"
HI = OK + b"content-length: 2\r\n\r\nhi"
TABLE = {
    "length": (HI, "200", b"hi", True),
    "empty": (OK + b"content-length: 0\r\n\r\n", "200", b"", True),
    "chunked": (OK + b"transfer-encoding: chunked\r\n\r\n1\r\nh\r\n1\r\ni\r\n0\r\n\r\n", "200", b"hi", True),
    "extensions": (OK + b"transfer-encoding: chunked\r\n\r\n2;a=b\r\nhi\r\n0;c\r\n\r\n", "200", b"hi", True),
    "trailers": (OK + b"transfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nx-sum: 9\r\n\r\n", "200", b"hi", True),
    "eof": (OK + b"\r\nhi", "200", b"hi", False),
    "eof-empty": (OK + b"\r\n", "200", b"", False),
    "gzip-then-eof": (OK + b"transfer-encoding: gzip\r\n\r\nhi", "200", b"hi", False),
    "http10": (b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nhi", "200", b"hi", False),
    "http10-kept": (b"HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 2\r\n\r\nhi", "200", b"hi", True),
    "close": (OK + b"connection: close\r\ncontent-length: 2\r\n\r\nhi", "200", b"hi", False),
    "no-reason": (b"HTTP/1.1 200\r\ncontent-length: 2\r\n\r\nhi", "200", b"hi", True),
    "continue": (b"HTTP/1.1 100 Continue\r\n\r\n" + HI, "200", b"hi", True),
    "hints": (b"HTTP/1.1 103 Early Hints\r\nlink: a\r\n\r\n" * 3 + HI, "200", b"hi", True),
    "unknown-1xx": (b"HTTP/1.1 199 Odd\r\n\r\n" + HI, "200", b"hi", True),
    "204": (b"HTTP/1.1 204 No Content\r\n\r\n", "204", b"", True),
    "304": (b"HTTP/1.1 304 Not Modified\r\ncontent-length: 9\r\n\r\n", "304", b"", True),
    "upgrade-offered": (OK + b"connection: upgrade\r\nupgrade: h2c\r\ncontent-length: 2\r\n\r\nhi", "200", b"hi", True),
    "two-answers": (HI + HI, "200", b"hi", False),
    "garbage-behind": (HI + b"\0\1", "200", b"hi", False),
    "length-too-short": (HI + b"there", "200", b"hi", False),
    "length-too-long": (OK + b"content-length: 9\r\n\r\nhi", "reset", b"hi", False),
    "chunks-cut": (OK + b"transfer-encoding: chunked\r\n\r\n2\r\nhi\r\n", "reset", b"hi", False),
    "chunks-cut-in-trailers": (OK + b"transfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n", "reset", b"hi", False),
    "length-in-trailers": (OK + b"transfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\ncontent-length: 9\r\n\r\n", "reset", b"hi", False),
    "both": (OK + b"transfer-encoding: chunked\r\ncontent-length: 2\r\n\r\n2\r\nhi\r\n0\r\n\r\n", "reset", b"", False),
    "both-turned": (OK + b"content-length: 2\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n", "reset", b"", False),
    "two-lengths": (OK + b"content-length: 2\r\ncontent-length: 3\r\n\r\nhi", "reset", b"", False),
    "length-list": (OK + b"content-length: 2, 2\r\n\r\nhi", "reset", b"", False),
    "length-minus": (OK + b"content-length: -2\r\n\r\nhi", "reset", b"", False),
    "length-huge": (OK + b"content-length: 99999999999999999999\r\n\r\nhi", "reset", b"", False),
    "chunk-huge": (OK + b"transfer-encoding: chunked\r\n\r\nfffffffffffffffff\r\nhi", "reset", b"", False),
    "chunk-minus": (OK + b"transfer-encoding: chunked\r\n\r\n-2\r\nhi", "reset", b"", False),
    "chunk-0x": (OK + b"transfer-encoding: chunked\r\n\r\n0x2\r\nhi\r\n0\r\n\r\n", "reset", b"", False),
    "chunk-too-long": (OK + b"transfer-encoding: chunked\r\n\r\n2\r\nhim\r\n0\r\n\r\n", "reset", b"hi", False),
    "bare-lf": (b"HTTP/1.1 200 OK\ncontent-length: 2\n\nhi", "reset", b"", False),
    "bare-cr": (OK + b"a: b\rcontent-length: 2\r\n\r\nhi", "reset", b"", False),
    "nul": (OK + b"a: \0\r\ncontent-length: 2\r\n\r\nhi", "reset", b"", False),
    "blank-before-colon": (OK + b"content-length : 2\r\n\r\nhi", "reset", b"", False),
    "no-name": (OK + b": 2\r\ncontent-length: 2\r\n\r\nhi", "reset", b"", False),
    "switched": (b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: a\r\n\r\nhi", "reset", b"", False),
    "informational-body": (b"HTTP/1.1 150 Odd\r\ncontent-length: 2\r\n\r\nhi" + HI, "reset", b"", False),
    "status-0": (b"HTTP/1.1 000 Odd\r\n\r\nhi", "reset", b"", False),
    "status-99": (b"HTTP/1.1 099 Odd\r\ncontent-length: 2\r\n\r\nhi", "reset", b"", False),
    "status-2000": (b"HTTP/1.1 2000 Odd\r\ncontent-length: 2\r\n\r\nhi", "reset", b"", False),
    "no-http": (b"SSH-2.0-OpenSSH_9.6\r\n", "reset", b"", False),
    "tls-alert": (b"\x15\x03\x01\x00\x02\x02\x46", "reset", b"", False),
    "nothing": (b"", "reset", b"", False),
    "half-a-head": (OK + b"content-le", "reset", b"", False),
    "only-100": (b"HTTP/1.1 100 Continue\r\n\r\n", "reset", b"", False),
}  # fmt: skip


@pytest.mark.parametrize("name", TABLE)
async def test_what_an_answer_is_however_it_is_cut(name: str) -> None:
    data, said, body, kept = TABLE[name]
    cuts = [[data], [data[at : at + 1] for at in range(len(data))]]
    cuts += [[data[:at], data[at:]] for at in range(1, len(data))]
    got = {await outcome(pieces) for pieces in cuts}

    assert got == {(said, body, kept)}


async def test_an_obsolete_fold_is_no_way_to_hide_a_header() -> None:
    """llhttp joins the lines or refuses them; a length that is folded away must not frame the body."""
    said, body, _ = await outcome([OK + b"a: b\r\n content-length: 1\r\ncontent-length: 2\r\n\r\nhi"])

    assert (said, body) in {("200", b"hi"), ("reset", b"")}


async def test_the_answer_to_head_has_no_body_and_a_reset_is_no_end() -> None:
    assert ("200", b"", False) == await outcome([OK + b"content-length: 200\r\n\r\n"], is_head=True)
    assert ("reset", b"hi", False) == await outcome([OK + b"\r\nhi"], "reset")


@pytest.mark.parametrize(
    "piece",
    [b"a: %b\r\n" % (b"b" * 5000), b"a: b\r\n", b"a" * 5000],
    ids=["lines", "short-lines", "one-name"],
)
@pytest.mark.parametrize(
    "start",
    [
        OK,
        b"HTTP/1.1 103 Early Hints\r\n",
        OK + b"transfer-encoding: chunked\r\n\r\n0\r\n",
        OK + b"transfer-encoding: chunked\r\n\r\n2;",
    ],
    ids=["head", "informational", "trailers", "extension"],
)
async def test_heads_and_framing_have_a_limit(start: bytes, piece: bytes) -> None:
    piece *= max(1, 5000 // len(piece))
    rounds = 3 * HEAD_LIMIT // len(piece)

    assert "reset" == (await outcome([start, *[piece] * rounds], "open"))[0]


async def test_informational_answers_without_end_have_a_limit() -> None:
    assert "reset" == (await outcome([b"HTTP/1.1 100 Continue\r\n\r\n" * 1000] * 30, "open"))[0]


async def test_a_head_of_100_kb_and_bytes_of_latin_1_are_read() -> None:
    connection, _, _ = made()
    asking = ask(connection)
    await asyncio.sleep(0)
    connection.data_received(
        OK + b"X-Name: caf\xe9\r\nbig: " + b"a" * 100_000 + b"\r\ncontent-length: 0\r\n\r\n"
    )
    answer = await asking

    assert ("caf\xe9", 100_000) == (answer.headers["x-name"], len(answer.headers["big"]))


async def test_bytes_that_nobody_asked_for_close_an_idle_connection() -> None:
    connection, wire, pool = made()
    asking = ask(connection)
    await asyncio.sleep(0)
    connection.data_received(HI)
    await asking
    assert pool.kept == [connection]
    connection.data_received(HI)

    assert (True, False) == (wire.aborted, connection.alive)


async def test_an_idle_connection_that_was_closed_is_not_alive_at_once() -> None:
    connection, _, _ = made()
    connection.eof_received()

    assert not connection.alive


async def test_a_question_that_did_not_go_out_whole_spoils_its_connection() -> None:
    connection, wire, pool = made()
    asking = ask(connection, b"a" * 1000)
    await asyncio.sleep(0)
    wire.unsent = 10
    connection.data_received(HI)

    assert 200 == (await asking).status
    assert ([], True) == (pool.kept, wire.aborted)


async def test_a_connection_that_died_before_the_question_is_no_wait() -> None:
    connection, _, _ = made()
    connection.connection_lost(None)
    with pytest.raises(UpstreamError, match="before the question"):
        await ask(connection)


@pytest.mark.parametrize("end", ["lost", "aborted", "late", "answered"])
async def test_a_large_question_ends_with_its_connection(end: str) -> None:
    """Its sender waits for room, and must not wait for an answer after the failure has come."""
    connection, wire, _ = made()
    asking = ask(connection, b"a" * (4 * ONE_WRITE), 0.05 if end == "late" else 60)
    connection.pause_writing()
    await asyncio.sleep(0)
    assert len(wire.sent) < 2 * ONE_WRITE
    if end == "lost":
        connection.connection_lost(BrokenPipeError())
    elif end == "aborted":
        connection.abort()
    elif end == "answered":
        connection.data_received(b"HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\n\r\n")
    async with asyncio.timeout(2):
        if end == "answered":
            assert (413, True) == ((await asking).status, wire.aborted)
        else:
            with pytest.raises(UpstreamError) as caught:
                await asking
            assert ("first_token" if end == "late" else "reset") == caught.value.reason


@pytest.mark.parametrize("size", [10, 4 * ONE_WRITE])
async def test_whoever_stops_asking_closes_the_connection(size: int) -> None:
    connection, wire, _ = made()
    asking = ask(connection, b"a" * size)
    connection.pause_writing()
    await asyncio.sleep(0)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking

    assert (True, None) == (wire.aborted, connection._timer)


async def test_a_closed_connection_ends_the_wait_for_more() -> None:
    connection, _, _ = made()
    asking = ask(connection)
    await asyncio.sleep(0)
    connection.data_received(OK + b"content-length: 9\r\n\r\nhi")
    answer = await asking
    assert b"hi" == await answer.chunk()
    reading = asyncio.create_task(answer.chunk())
    await asyncio.sleep(0)
    answer.close()
    async with asyncio.timeout(1):
        with pytest.raises(UpstreamError):
            await reading


async def test_reading_stops_while_nobody_takes_the_answer() -> None:
    connection, wire, pool = made()
    asking = ask(connection)
    await asyncio.sleep(0)
    connection.data_received(OK + b"content-length: %d\r\n\r\n" % (3 * READ_LIMIT) + b"a" * (2 * READ_LIMIT))
    first = await asking
    assert wire.paused
    assert 2 * READ_LIMIT == len(await first.chunk())
    assert not wire.paused
    connection.data_received(b"a" * READ_LIMIT + b"")
    assert pool.kept == [connection]

    second = ask(connection)
    await asyncio.sleep(0)
    connection.data_received(OK + b"content-length: %d\r\n\r\n" % (3 * READ_LIMIT) + b"a" * (2 * READ_LIMIT))
    await second
    await first.chunk()
    assert wire.paused, "an answer that is over has no say in what its connection reads now"
    connection.abort()


async def test_a_connection_that_is_gone_is_no_garbage() -> None:
    """Connection and parser hold each other: hundreds a second would wait for the collector."""
    gc.collect()
    gc.disable()
    try:
        connection, _, pool = made()
        connection.connection_lost(None)
        pool.gone.clear()
        ref: weakref.ref[Any] = weakref.ref(connection._pool)
        del connection, pool
        assert ref() is None
    finally:
        gc.enable()


NAMES = st.text("abcdefghijklmnopqrstuvwxyz-", min_size=1, max_size=12).map(lambda name: f"x-{name}".encode())
VALUES = st.binary(max_size=20).map(lambda raw: bytes(byte for byte in raw if byte > 32 and byte != 127))


@st.composite
def answers(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """A valid answer and its body."""
    parts = draw(st.lists(st.binary(min_size=1, max_size=40), max_size=6))
    head = draw(st.sampled_from([b"", b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 H\r\na: b\r\n\r\n"]))
    head += OK + b"".join(
        b"%b: %b\r\n" % pair for pair in draw(st.lists(st.tuples(NAMES, VALUES), max_size=4))
    )
    body = b"".join(parts)
    framing = draw(st.sampled_from(["length", "chunked", "eof"]))
    if framing == "length":
        return head + b"content-length: %d\r\n\r\n" % len(body) + body, body
    if framing == "eof":
        return head + b"\r\n" + body, body
    chunks = b"".join(
        b"%x%b\r\n%b\r\n" % (len(part), draw(st.sampled_from([b"", b";a=b"])), part) for part in parts
    )
    end = draw(st.sampled_from([b"0\r\n\r\n", b"0\r\nx-sum: 1\r\n\r\n"]))
    return head + b"transfer-encoding: chunked\r\n\r\n" + chunks + end, body


def cut(data: bytes, marks: list[int]) -> list[bytes]:
    places = sorted({mark % (len(data) + 1) for mark in marks} | {0, len(data)})
    return [data[a:b] for a, b in itertools.pairwise(places)]


@given(answers(), st.lists(st.integers(min_value=0), max_size=12))
async def test_any_valid_answer_cut_anywhere_is_the_same_answer(
    answer: tuple[bytes, bytes], marks: list[int]
) -> None:
    said, body, _ = await outcome(cut(answer[0], marks))

    assert ("200", answer[1]) == (said, body)


@given(
    answers(),
    st.lists(st.integers(min_value=0), max_size=12),
    st.lists(st.booleans(), max_size=12),
    st.lists(st.booleans(), max_size=12),
)
async def test_what_is_taken_as_it_comes_and_what_is_not_are_the_answer(
    answer: tuple[bytes, bytes], marks: list[int], takes: list[bool], waits: list[bool]
) -> None:
    """Taken or returned, every byte once and in its order, whether its reader had a turn in between or not."""
    connection, _, _ = made()
    got = bytearray()
    choices, turns = iter(takes), iter(waits)

    def take(data: bytes) -> bool:
        if not next(choices, True):
            return False
        got.extend(data)
        return True

    async def read() -> None:
        said = await asking
        while data := await said.chunk(take):
            got.extend(data)

    asking = ask(connection)
    reading = asyncio.create_task(read())
    await asyncio.sleep(0)
    for piece in cut(answer[0], marks):
        connection.data_received(piece)
        if next(turns, True):
            for _ in range(3):
                await asyncio.sleep(0)
    if connection.alive:
        connection.eof_received()
    async with asyncio.timeout(5):
        await reading
    connection.abort()

    assert answer[1] == got


async def test_nothing_is_offered_that_nobody_waits_for_or_that_is_packed() -> None:
    offered: list[bytes] = []
    connection, _, _ = made()
    asking = ask(connection)
    await asyncio.sleep(0)
    body = gzip.compress(b"hi" * 99)
    connection.data_received(OK + b"content-encoding: gzip\r\ncontent-length: %d\r\n\r\n" % len(body))
    answer = await asking
    answer.unpack()
    reading = asyncio.create_task(answer.chunk(lambda data: bool(offered.append(data)) or True))
    await asyncio.sleep(0)
    connection.data_received(body[:-1])  # with its last byte the answer is complete, and nothing is offered
    connection.data_received(body[-1:])

    assert b"hi" * 99 == await reading
    assert not offered

    asking = ask(connection)
    await asyncio.sleep(0)
    connection.data_received(OK + b"content-length: 6\r\n\r\n")
    answer = await asking
    reading = asyncio.create_task(answer.chunk(lambda data: bool(offered.append(data)) or True))
    await asyncio.sleep(0)
    connection.data_received(b"ab")
    reading.cancel()
    await asyncio.wait({reading})
    connection.data_received(b"cd")

    assert [b"ab"] == offered
    assert b"cd" == await answer.chunk()
    connection.abort()


async def test_what_is_taken_is_no_silence() -> None:
    connection, _, _ = made()
    asking = ask(connection)
    await asyncio.sleep(0)
    connection.data_received(OK + b"transfer-encoding: chunked\r\n\r\n2\r\nhi\r\n")
    answer = await asking
    assert b"hi" == await answer.chunk()
    answer.idle_after(0.3)
    reading = asyncio.create_task(answer.chunk(lambda data: True))
    for _ in range(6):
        await asyncio.sleep(0.1)
        connection.data_received(b"2\r\nhi\r\n")

    assert not reading.done()
    with pytest.raises(UpstreamError) as raised:
        await reading
    assert "idle" == raised.value.reason


PIECES = st.one_of(
    st.binary(max_size=60),
    st.sampled_from([data for data, *_ in TABLE.values()]),
    st.sampled_from([b"\r\n", b"\n", b"0\r\n\r\n", b"HTTP/1.1 ", b"transfer-encoding: chunked\r\n", b"content-length: 3\r\n"]),
)  # fmt: skip


@given(
    st.lists(PIECES, max_size=6), st.lists(st.integers(min_value=0), max_size=8), st.sampled_from(["eof", "reset"])
)  # fmt: skip
@example([OK, b"a" * (HEAD_LIMIT + 1), b"a" * HEAD_LIMIT], [HEAD_LIMIT], "eof")
async def test_any_bytes_end_in_an_answer_or_an_error_and_cuts_change_nothing(
    pieces: list[bytes], marks: list[int], end: str
) -> None:
    data = b"".join(pieces)
    said, body, _ = await outcome([data], end)
    again, same, _ = await outcome(cut(data, marks), end)

    assert (said, body) == (again, same) or len(data) > HEAD_LIMIT
    assert said == "reset" or 200 <= int(said) < 1000


async def test_who_is_cancelled_when_all_of_it_has_come_takes_nothing_from_the_next() -> None:
    """The connection is back in the pool, and somebody else asks, before the cancelled one has its turn."""
    connection, wire, pool = made()
    first = ask(connection)
    await asyncio.sleep(0)
    connection.data_received(HI)
    assert pool.kept == [connection]
    next_one = ask(connection)
    first.cancel()
    await asyncio.wait({first})
    await asyncio.sleep(0)
    connection.data_received(HI)

    assert first.cancelled()
    assert (await next_one).status == 200
    assert not wire.aborted
    connection.abort()


async def test_who_is_cancelled_before_closes_the_connection() -> None:
    connection, wire, pool = made()
    asking = ask(connection)
    await asyncio.sleep(0)
    asking.cancel()
    await asyncio.wait({asking})

    assert wire.aborted
    assert not pool.kept
