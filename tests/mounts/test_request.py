"""A request and its answer on one connection without sockets: targets, framing of answers, bodies, and any bytes at all."""

import asyncio
import itertools
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmshield import clock
from llmshield.errors import CallError
from llmshield.mounts._protocol import Connection
from llmshield.mounts._request import HttpRequest


class Wire:
    """A transport that keeps what it is told."""

    def __init__(self) -> None:
        self.out = b""
        self.closing = False
        self.paused = False
        self.unsent = 0

    def write(self, data: bytes) -> None:
        assert not self.closing, "a closed connection is written to"
        self.out += data

    def close(self) -> None:
        self.closing = True

    abort = write_eof = close

    def is_closing(self) -> bool:
        return self.closing

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def get_extra_info(self, name: str) -> Any:
        return ("127.0.0.1", 1) if name == "peername" else NoSocket


class NoSocket:
    @staticmethod
    def fileno() -> int:
        raise OSError("there is none")


DATE = re.compile(rb"date: [^\r\n]+ GMT\r\n")


async def settle() -> None:
    for _ in range(4):
        await asyncio.sleep(0)


async def served(pieces: list[bytes], handler: Any, *, leaves: bool = True) -> Wire:
    """What these bytes are answered with."""
    loop = asyncio.get_running_loop()
    unseen: list[Any] = []
    loop.set_exception_handler(lambda loop, context: unseen.append(context))
    wire = Wire()
    connection = Connection(handler, set(), 10, 10)
    connection.connection_made(wire)
    for piece in pieces:
        if wire.closing:
            break
        connection.data_received(piece)
        await settle()
    for _ in range(200):
        if connection._current is None and not connection._waiting:
            break
        await settle()
    if leaves:
        connection.connection_lost(None)
        await settle()
        assert connection._timer is connection._stall is None
    assert unseen == []
    assert len(asyncio.all_tasks()) == 1 or not leaves
    return wire


def answering(status: int = 200, headers: dict[str, str] | None = None, *parts: bytes) -> Any:
    async def handler(request: HttpRequest) -> None:
        await request.start(status, headers or {})
        for part in parts:
            await request.send(part)
        await request.end()

    return handler


GET = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
OLD = b"GET / HTTP/1.0\r\n\r\n"
OLD_KEPT = b"GET / HTTP/1.0\r\nconnection: keep-alive\r\n\r\n"
HEAD = b"HEAD / HTTP/1.1\r\nhost: x\r\n\r\n"
LENGTH = {"content-length": "2"}
OK = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    ("asked", "handler", "expected", "closed"),
    [
        (GET, answering(200, LENGTH, b"hi"), OK + b"content-length: 2\r\n\r\nhi", False),
        (GET, answering(200, LENGTH, b"h", b"", b"i"), OK + b"content-length: 2\r\n\r\nhi", False),
        (GET, answering(200, {}, b"h", b"", b"i"), OK + b"transfer-encoding: chunked\r\n\r\n1\r\nh\r\n1\r\ni\r\n0\r\n\r\n", False),
        (GET, answering(204), b"HTTP/1.1 204 No Content\r\n\r\n", False),
        (GET, answering(304), b"HTTP/1.1 304 Not Modified\r\n\r\n", False),
        (GET, answering(599, LENGTH, b"hi"), b"HTTP/1.1 599 \r\ncontent-length: 2\r\n\r\nhi", False),
        (GET, answering(200, {**LENGTH, "connection": "close"}, b"hi"), OK + b"content-length: 2\r\nconnection: close\r\n\r\nhi", True),
        (GET.replace(b"host", b"connection: close\r\nhost"), answering(200, LENGTH, b"hi"),
         OK + b"content-length: 2\r\nconnection: close\r\n\r\nhi", True),
        (HEAD, answering(200, LENGTH, b"hi"), OK + b"content-length: 2\r\n\r\n", False),
        (HEAD, answering(200, {}, b"hi"), OK + b"\r\n", False),
        (OLD, answering(200, LENGTH, b"hi"), OK + b"content-length: 2\r\nconnection: close\r\n\r\nhi", True),
        (OLD, answering(200, {}, b"hi"), OK + b"connection: close\r\n\r\nhi", True),
        (OLD_KEPT, answering(200, LENGTH, b"hi"), OK + b"content-length: 2\r\nconnection: keep-alive\r\n\r\nhi", False),
        (OLD_KEPT, answering(200, {}, b"hi"), OK + b"connection: close\r\n\r\nhi", True),
        (GET, answering(200, {**LENGTH, "x": "a\r\ny: b"}, b"hi"), OK + b"content-length: 2\r\n\r\nhi", False),
        (GET, answering(200, {**LENGTH, "x": "a\n\nb"}, b"hi"), OK + b"content-length: 2\r\n\r\nhi", False),
        (GET, answering(200, {**LENGTH, "x\r\n\r\n": "a"}, b"hi"), OK + b"content-length: 2\r\n\r\nhi", False),
        (GET, answering(200, {**LENGTH, "x": "caf\xe9\u20ac"}, b"hi"), OK + b"content-length: 2\r\nx: caf\xe9?\r\n\r\nhi", False),
    ],
)  # fmt: skip
async def test_the_framing_of_an_answer(asked: bytes, handler: Any, expected: bytes, closed: bool) -> None:
    wire = await served([asked], handler, leaves=False)
    out, dates = DATE.subn(b"", wire.out)

    assert (expected, closed) == (out, wire.closing)
    assert dates == 1, "RFC 9110, 6.6.1"


async def test_an_answer_says_when_it_was_made(monkeypatch: pytest.MonkeyPatch) -> None:
    for now, expected in (
        (784111777.9, b"Sun, 06 Nov 1994 08:49:37 GMT"),
        (784111778.0, b"Sun, 06 Nov 1994 08:49:38 GMT"),
    ):
        monkeypatch.setattr(clock, "now", lambda now=now: now)
        wire = await served([GET], answering(200, LENGTH, b"hi"))

        assert b"\r\ndate: " + expected + b"\r\n" in wire.out


@pytest.mark.parametrize("parts", [[b"h"], [b"him"], []], ids=["short", "long", "none"])
async def test_an_answer_of_another_length_than_it_says_closes(parts: list[bytes]) -> None:
    wire = await served([GET + GET], answering(200, LENGTH, *parts))

    assert wire.closing
    assert wire.out.count(b"HTTP/1.1") <= 1


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        (b"/", b"/", b""),
        (b"/a/b?c=d?e", b"/a/b", b"c=d?e"),
        (b"//host/a", b"//host/a", b""),
        (b"/a%2Fb", b"/a%2Fb", b""),
        (b"http://x/a?b", b"/a", b"b"),
        (b"http://x", b"/", b""),
        (b"/a#b", b"/a", b""),
        (b"*", b"*", b""),
        (b"/" + b"a" * 60_000, b"/" + b"a" * 60_000, b""),
    ],
)
async def test_targets(target: bytes, path: bytes, query: bytes) -> None:
    seen = []

    async def handler(request: HttpRequest) -> None:
        seen.append((request.raw_path, request.raw_query))
        await request.start(200, LENGTH)
        await request.send(b"hi")
        await request.end()

    await served([b"OPTIONS " + target + b" HTTP/1.1\r\nhost: x\r\n\r\n"], handler)

    assert seen == [(path, query)]


async def echo(request: HttpRequest) -> None:
    """Answers with the body that came."""
    try:
        body = await request.read_body(10_000)
    except CallError as error:
        body = error.kind.encode()
    await request.start(200, {"content-length": str(len(body))})
    await request.send(body)
    await request.end()


def chunked(*parts: bytes, more: bytes = b"") -> bytes:
    return (
        b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n" + more + b"\r\n"
        + b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
    )  # fmt: skip


def whole(body: bytes, more: bytes = b"") -> bytes:
    return b"POST / HTTP/1.1\r\nhost: x\r\n%bcontent-length: %d\r\n\r\n%b" % (more, len(body), body)


def bodies(out: bytes) -> list[bytes]:
    """The bodies of these answers, which all have a length; raises where anything else is among them."""
    found = []
    while out:
        head, _, out = out.partition(b"\r\n\r\n")
        if head.startswith(b"HTTP/1.1 100"):
            continue
        assert head.startswith(b"HTTP/1.1 ")
        assert head.count(b"HTTP/1.1 ") == 1
        length = int(head.split(b"content-length: ")[1].split(b"\r\n")[0])
        assert len(out) >= length
        found.append(out[:length] if b"200" in head[:12] else b"!" + head[9:12])
        out = out[length:]
    return found


POST = b"POST / HTTP/1.1\r\nhost: x\r\n"
REFUSED = {
    "both-framings": POST + b"content-length: 2\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "both-framings-turned": POST + b"transfer-encoding: chunked\r\ncontent-length: 2\r\n\r\n0\r\n\r\n",
    "two-lengths": POST + b"content-length: 2\r\ncontent-length: 2\r\n\r\nhi",
    "length-list": POST + b"content-length: 2, 2\r\n\r\nhi",
    "length-plus": POST + b"content-length: +2\r\n\r\nhi",
    "length-minus": POST + b"content-length: -2\r\n\r\nhi",
    "length-hex": POST + b"content-length: 0x2\r\n\r\nhi",
    "length-huge": POST + b"content-length: 99999999999999999999\r\n\r\nhi",
    "chunked-not-last": POST + b"transfer-encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
    "chunked-hidden": POST + b"transfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
    "chunked-behind-vt": POST + b"transfer-encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
    "chunk-huge": POST + b"transfer-encoding: chunked\r\n\r\nfffffffffffffffff\r\n",
    "chunk-0x": POST + b"transfer-encoding: chunked\r\n\r\n0x2\r\nhi\r\n0\r\n\r\n",
    "chunk-lf": POST + b"transfer-encoding: chunked\r\n\r\n2\nhi\n0\n\n",
    "chunk-too-long": POST + b"transfer-encoding: chunked\r\n\r\n2\r\nhim\r\n0\r\n\r\n",
    "blank-before-colon": POST + b"content-length : 2\r\n\r\nhi",
    "no-colon": POST + b"content-length\r\n\r\n",
    "bare-lf": b"POST / HTTP/1.1\nhost: x\ncontent-length: 2\n\nhi",
    "bare-cr": POST + b"a: b\rcontent-length: 2\r\n\r\nhi",
    "nul": POST + b"a: \0\r\n\r\n",
    "no-host": b"GET / HTTP/1.1\r\n\r\n",
    "another-host": b"GET / HTTP/1.1\r\nx-host: x\r\nhosts: x\r\n\r\n",
    "blank-first": b"GET / HTTP/1.1\r\n host: x\r\n\r\n",
    "http10-chunked": b"POST / HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "http20": b"GET / HTTP/2.0\r\nhost: x\r\n\r\n",
    "http09": b"GET /\r\n",
    "no-version": b"GET / HTTP/1\r\n\r\n",
    "method": b"get / HTTP/1.1\r\nhost: x\r\n\r\n",
    "method-unknown": b"BREW / HTTP/1.1\r\nhost: x\r\n\r\n",
    "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "blank-in-target": b"GET /a b HTTP/1.1\r\nhost: x\r\n\r\n",
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("bytewise", [False, True])
async def test_what_two_servers_could_read_differently_is_refused(name: str, bytewise: bool) -> None:
    ended = []

    async def handler(request: HttpRequest) -> None:
        await request.read_body(1000)
        ended.append(request.raw_path)

    data = REFUSED[name]
    behind = b"GET /behind HTTP/1.1\r\nhost: x\r\n\r\n"
    pieces = [data[at : at + 1] for at in range(len(data))] if bytewise else []
    wire = await served([*pieces, behind] if bytewise else [data + behind], handler)

    assert wire.out.startswith(b"HTTP/1.1 400")
    assert 1 == wire.out.count(b"HTTP/1.1")
    assert wire.closing
    assert ended == []


EXPECT = b"expect: 100-continue\r\n"


async def test_only_a_stream_to_a_client_that_reads_is_sent_at_once() -> None:
    said: list[bool] = []

    async def handler(request: HttpRequest) -> None:
        said.append(request.at_once is not None)  # no head yet
        await request.start(200, {} if request.raw_path == b"/stream" else {"content-length": "6"})
        send = request.at_once
        said.append(send is not None)
        if send is None:
            await request.send(b"abcdef")
        else:
            send(b"abc")
            send(b"")  # would end the stream
            request.connection.pause_writing()
            said.append(request.at_once is not None)
            request.connection.resume_writing()
            said.append(request.at_once is not None)
            send(b"def")
        await request.end()

    wire = await served([b"GET /stream HTTP/1.1\r\nhost: x\r\n\r\n"], handler)
    assert wire.out.endswith(b"\r\n\r\n3\r\nabc\r\n3\r\ndef\r\n0\r\n\r\n")
    assert [False, True, False, True] == said
    said.clear()
    assert (await served([b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"], handler)).out.endswith(b"abcdef")
    assert [False, False] == said


@pytest.mark.parametrize(
    ("pieces", "hundreds"),
    [
        ([whole(b"hi", EXPECT)], 0),
        ([whole(b"hi", EXPECT)[:-2], b"hi"], 1),
        ([whole(b"hi", EXPECT.replace(b"100-c", b"100-C"))[:-2], b"hi"], 1),
        ([whole(b"hi", EXPECT).replace(b"1.1", b"1.0")[:-2], b"hi"], 0),
        ([whole(b"hi")[:-2], b"hi"], 0),
    ],
    ids=["here", "waits", "case", "http10", "unasked"],
)
async def test_whoever_waits_to_send_is_told_to(pieces: list[bytes], hundreds: int) -> None:
    wire = await served(pieces, echo)

    assert hundreds == wire.out.count(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert [b"hi"] == bodies(wire.out.replace(b"HTTP/1.1 100 Continue\r\n\r\n", b""))


@st.composite
def requests(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """A valid request, and its body."""
    parts = draw(st.lists(st.binary(min_size=1, max_size=30), max_size=4))
    more = draw(
        st.sampled_from(
            [b"", EXPECT, b"x: caf\xe9\r\n", b"connection: upgrade\r\nupgrade: h2c\r\n", b"a:\r\n"]
        )
    )
    body = b"".join(parts)
    return (chunked(*parts, more=more) if draw(st.booleans()) else whole(body, more)), body


def cut(data: bytes, marks: list[int]) -> list[bytes]:
    places = sorted({mark % (len(data) + 1) for mark in marks} | {0, len(data)})
    return [data[a:b] for a, b in itertools.pairwise(places)]


@given(st.lists(requests(), max_size=12), st.lists(st.integers(min_value=0), max_size=12))
async def test_requests_cut_anywhere_are_answered_in_their_order(
    asked: list[tuple[bytes, bytes]], marks: list[int]
) -> None:
    wire = await served(cut(b"".join(data for data, _ in asked), marks), echo)

    assert [body for _, body in asked] == bodies(wire.out)


@given(
    st.lists(requests(), max_size=4),
    st.one_of(
        st.binary(min_size=1, max_size=40),
        st.sampled_from([*REFUSED.values(), chunked(b"hi")[:-5] + b"zz"]),
    ),
    st.lists(st.integers(min_value=0), max_size=8),
)  # fmt: skip
@settings(max_examples=150)
async def test_any_bytes_behind_requests_are_at_most_refused_and_in_their_turn(
    asked: list[tuple[bytes, bytes]], garbage: bytes, marks: list[int]
) -> None:
    data = b"".join(data for data, _ in asked) + garbage
    found = bodies((await served(cut(data, marks), echo)).out)

    assert [body for _, body in asked] == found[: len(asked)]
    assert len(found) <= len(asked) + 1 + garbage.count(b"\r\n\r\n")
    assert found == bodies((await served([data], echo)).out), "cuts change nothing"
