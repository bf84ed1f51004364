"""The upstream client against peers that misbehave on real sockets, in both kinds of loops; nothing may leak or hang."""

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from llmshield import clock
from llmshield.dialects import WireRequest
from llmshield.errors import UpstreamError
from llmshield.transport import HttpTransport, Timeouts

SOON = Timeouts(connect=0.3, first_token=0.4, idle=0.3, total=2.0)
GET = WireRequest("GET", "/models")
POST = WireRequest("POST", "/chat", "", {}, b"{}")
LARGE = WireRequest("POST", "/chat", "", {}, b"a" * 16_000_000)
HI = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi"

Run = Callable[[Any], None]
Listening = Callable[..., contextlib.AbstractAsyncContextManager[int]]


async def read(answer: Any) -> bytes:
    out = b""
    while data := await answer.chunk():
        out += data
    return out


async def head_of(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = [line for line in head.split(b"\r\n") if line.startswith(b"content-length")]
    if length:
        await reader.readexactly(int(length[0].split(b":")[1]))
    return head


@contextlib.asynccontextmanager
async def pool(port: int, **options: Any) -> AsyncIterator[HttpTransport]:
    transport = HttpTransport(f"http://127.0.0.1:{port}", **options)
    try:
        yield transport
    finally:
        await transport.close()
        assert not transport._open
        assert transport._sweeper is None


async def reason(transport: HttpTransport, request: WireRequest = POST, timeouts: Timeouts = SOON) -> str:
    """Why asking fails."""
    with pytest.raises(UpstreamError) as caught:
        await read(await transport.ask(request, timeouts))
    return caught.value.reason


def test_what_a_crowd_left_behind_is_closed_soon(
    run: Run, listening: Listening, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def answers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await head_of(reader)
            await asyncio.sleep(0.05)
            writer.write(HI)

    async def scenario() -> None:
        async with listening(answers) as port, pool(port) as transport:

            async def one() -> None:
                assert await read(await transport.ask(GET, SOON)) == b"hi"

            await asyncio.gather(*[one() for _ in range(20)])
            now = clock.monotonic()
            left = []
            for later in (4.9, 5.1, 29.0, 31.0):
                with monkeypatch.context() as at:
                    at.setattr(clock, "monotonic", lambda later=later: now + later)
                    transport._sweep()
                    left.append(len(transport._idle))
            assert left == [20, 4, 4, 0]

    run(scenario())


@pytest.mark.parametrize(
    ("how", "expected"), [("stalls", "first_token"), ("resets", "reset"), ("closes", "reset")]
)
def test_a_provider_that_takes_half_of_a_large_question(
    run: Run, listening: Listening, how: str, expected: str
) -> None:
    async def half(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(100_000)
        if how == "stalls":
            await asyncio.sleep(5)
        elif how == "closes":
            writer.close()
            await asyncio.sleep(5)

    async def scenario() -> None:
        async with listening(half) as port, pool(port) as transport:
            assert expected == await reason(transport, LARGE)

    run(scenario())


def test_an_answer_before_the_question_is_out(run: Run, listening: Listening) -> None:
    """It is read, and the connection is not used again: half a question is still on it."""
    connections = 0

    async def early(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await reader.readexactly(1000)
        writer.write(HI.replace(b"200 OK", b"413 Large"))
        await asyncio.sleep(5)

    async def scenario() -> None:
        async with listening(early) as port, pool(port) as transport:
            for _ in range(2):
                answer = await transport.ask(LARGE, SOON)

                assert (413, b"hi") == (answer.status, await read(answer))
            assert 2 == connections

    run(scenario())


@pytest.mark.parametrize("moment", [0.0, 0.001, 0.02, 0.1])
@pytest.mark.parametrize("request_", [POST, LARGE], ids=["small", "large"])
def test_a_call_that_is_cancelled_leaves_nothing(
    run: Run, listening: Listening, moment: float, request_: WireRequest
) -> None:
    ended = []

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.05)
        with contextlib.suppress(ConnectionError):
            while await reader.read(65536):
                pass
        ended.append(True)

    async def scenario() -> None:
        async with listening(silent) as port, pool(port) as transport:
            asking = asyncio.create_task(transport.ask(request_, Timeouts(5, 5, 5, 5)))
            await asyncio.sleep(moment)
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
            for _ in range(200):
                if not transport._open and (ended or moment < 0.02):
                    break
                await asyncio.sleep(0.01)
            assert not transport._open
            assert ended or moment < 0.02

    run(scenario())


@pytest.mark.parametrize("what", ["head", "body", "connect"])
def test_a_pool_that_is_closed_ends_whoever_waits(run: Run, listening: Listening, what: str) -> None:
    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await head_of(reader)
        if what == "body":
            writer.write(HI[:-1])
        await asyncio.sleep(5)

    async def scenario() -> None:
        async with listening(slow) as port:
            transport = HttpTransport(f"http://127.0.0.1:{port}")
            if what == "connect":
                await transport._looking_up.acquire()
            asking = asyncio.create_task(reason(transport, POST, Timeouts(5, 5, 5, 5)))
            await asyncio.sleep(0.05)
            await transport.close()
            if what == "connect":
                transport._looking_up.release()
            async with asyncio.timeout(2):
                assert ("connect" if what == "connect" else "reset") == await asking
            assert not transport._open

    run(scenario())


@pytest.mark.parametrize(
    ("request_", "expected"), [(GET, b"hi"), (POST, b"reset"), (WireRequest("HEAD", "/"), b"")], ids=["get", "post", "head"]
)  # fmt: skip
def test_a_stale_connection(run: Run, listening: Listening, request_: WireRequest, expected: bytes) -> None:
    """The provider closes just as it is asked: a GET is asked again, a call is not."""
    asked = 0

    async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        await head_of(reader)
        writer.write(HI)
        await head_of(reader)
        asked += 1

    async def scenario() -> None:
        async with listening(once) as port, pool(port) as transport:
            await read(await transport.ask(GET, SOON))
            if expected == b"reset":
                assert "reset" == await reason(transport, request_)
            else:
                assert expected == await read(await transport.ask(request_, SOON))
            assert 1 == asked

    run(scenario())


@pytest.mark.parametrize("what", ["closes", "answers"])
def test_an_idle_connection_that_says_something_is_not_used(
    run: Run, listening: Listening, what: str
) -> None:
    connections = 0

    async def odd(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await head_of(reader)
        writer.write(HI)
        await asyncio.sleep(0.02)
        if what == "closes":
            return
        writer.write(HI.replace(b"hi", b"no"))
        await asyncio.sleep(5)

    async def scenario() -> None:
        async with listening(odd) as port, pool(port) as transport:
            for turn in (1, 2):
                assert b"hi" == await read(await transport.ask(POST, SOON))
                assert turn == connections
                async with asyncio.timeout(3):
                    while transport._open:
                        await asyncio.sleep(0.01)

    run(scenario())


def test_a_head_that_drips_has_the_deadline_of_the_first_byte(run: Run, listening: Listening) -> None:
    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await head_of(reader)
        for byte in HI * 100:
            writer.write(bytes([byte]))
            await asyncio.sleep(0.02)

    async def scenario() -> None:
        async with listening(drip) as port, pool(port) as transport:
            begun = time.monotonic()
            assert "first_token" == await reason(transport)
            assert 0.35 < time.monotonic() - begun < 1.5

    run(scenario())


def test_a_body_that_drips_has_the_deadline_of_the_whole(run: Run, listening: Listening) -> None:
    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await head_of(reader)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n")
        while True:
            writer.write(b"a")
            await asyncio.sleep(0.02)

    async def scenario() -> None:
        async with listening(drip) as port, pool(port) as transport:
            answer = await transport.ask(POST, Timeouts(1, 1, 0.3, 0.6))
            answer.idle_after(0.3)
            with pytest.raises(UpstreamError) as caught:
                await read(answer)
            assert "total" == caught.value.reason

    run(scenario())


def test_a_client_that_reads_slowly_holds_the_provider_back(run: Run, listening: Listening) -> None:
    sent = 0

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await head_of(reader)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 64000000\r\n\r\n")
        for _ in range(640):
            writer.write(b"a" * 100_000)
            await writer.drain()
            sent += 100_000
        await asyncio.sleep(5)

    async def scenario() -> None:
        async with listening(flood) as port, pool(port) as transport:
            answer = await transport.ask(POST, Timeouts(1, 5, 5, 9))
            await asyncio.sleep(0.3)
            assert sent < 32_000_000
            taken = 0
            while data := await answer.chunk():
                taken += len(data)
            assert 64_000_000 == taken

    run(scenario())


def test_two_addresses_of_which_the_first_is_dead(run: Run, listening: Listening) -> None:
    """A listener whose queue is full answers no SYN: as dead as a host that is switched off."""

    async def well(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await head_of(reader)
        writer.write(HI)
        await asyncio.sleep(1)

    async def scenario() -> None:
        dead = socket.create_server(("127.0.0.1", 0), backlog=0)
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(dead.getsockname())
        try:
            async with listening(well) as port, pool(port) as transport:
                kind = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
                transport._addresses = (
                    time.monotonic() + 60,
                    [(*kind, dead.getsockname()), (*kind, ("127.0.0.1", port))],
                )
                assert b"hi" == await read(await transport.ask(POST, Timeouts(2, 2, 2, 2)))
        finally:
            for sock in (dead, *fillers):
                sock.close()

    run(scenario())


def test_a_listener_that_does_not_answer_is_a_connect(run: Run) -> None:
    async def scenario() -> None:
        dead = socket.create_server(("127.0.0.1", 0), backlog=0)
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(dead.getsockname())
        try:
            async with pool(dead.getsockname()[1]) as transport:
                begun = time.monotonic()
                assert "connect" == await reason(transport)
                assert time.monotonic() - begun < 1.5
        finally:
            for sock in (dead, *fillers):
                sock.close()

    run(scenario())


def test_a_name_that_nobody_knows_is_a_connect_and_asked_for_once_at_a_time(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once = most = 0

    async def nobody(*args: Any, **kwargs: Any) -> Any:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await asyncio.sleep(0.005)
        at_once -= 1
        raise socket.gaierror(-2, "Name or service not known")

    class Loop:
        getaddrinfo = staticmethod(nobody)

    async def scenario() -> None:
        transport = HttpTransport("http://nobody.invalid")
        resolve = transport._resolve
        monkeypatch.setattr(transport, "_resolve", lambda loop: resolve(Loop()))  # type: ignore[arg-type]
        failures = await asyncio.gather(
            *[transport.ask(GET, SOON) for _ in range(20)], return_exceptions=True
        )
        await transport.close()

        assert {"No connection to the provider: unknown host."} == {str(failure) for failure in failures}
        assert 1 == most

    run(scenario())


def test_ipv6(run: Run, listening: Listening) -> None:
    heads = []

    async def well(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await head_of(reader))
        writer.write(HI)
        await asyncio.sleep(1)

    async def scenario() -> None:
        try:
            async with listening(well, host="::1") as port:
                transport = HttpTransport(f"http://[::1]:{port}/v1")
                assert b"hi" == await read(await transport.ask(GET, SOON))
                await transport.close()
                assert b"GET /v1/models HTTP/1.1\r\nhost: [::1]:%d\r\n\r\n" % port == heads[0]
        except OSError:
            pytest.skip("no IPv6 here")

    run(scenario())


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("http://bücher.example/v1", "xn--bcher-kva.example"),
        ("http://API.example.:80", "api.example"),
        ("https://api.example:443", "api.example"),
        ("https://api.example:80", "api.example:80"),
        ("http://[2001:db8::1]", "[2001:db8::1]"),
    ],
)
async def test_the_host_header(url: str, host: str) -> None:
    head = HttpTransport(url)._head(GET).decode()

    assert f"\r\nhost: {host}\r\n" in head


@pytest.mark.parametrize(
    "request_",
    [
        WireRequest("GET", "/a b"),
        WireRequest("GET", "/a\r\nx: y"),
        WireRequest("GET", "/a", "b\n"),
        WireRequest("GET", "/a\0"),
        WireRequest("GET", "/\xe9"),
        WireRequest("GET", "/", "", {"x": "a\r\ny: b"}),
        WireRequest("GET", "/", "", {"x": "a\n"}),
        WireRequest("GET", "/", "", {"x\r": "a"}),
        WireRequest("GET", "/", "", {"x": "caf\xe9"}),
        WireRequest("GET /x HTTP/1.1\r\nGET", "/"),
    ],
)
async def test_a_question_that_would_break_its_framing_is_not_asked(request_: WireRequest) -> None:
    with pytest.raises(UpstreamError):
        HttpTransport("http://127.0.0.1:1")._head(request_)
