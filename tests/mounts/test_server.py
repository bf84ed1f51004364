"""A port of ours on real sockets, in both kinds of loops: hostile framing, order, hang-ups, stalls, the end."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from llmshield.errors import CallError, ShieldError
from llmshield.mounts import _protocol
from llmshield.mounts._request import HttpRequest
from llmshield.mounts._server import Server, bind
from llmshield.policy.units import HostPort

Run = Callable[[Any], None]
GET = b"GET /%d HTTP/1.1\r\nhost: x\r\n\r\n"
LAST = b"GET /%d HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nhost: x\r\n"


class Handler:
    """Echoes bodies and names paths; notes how each request began and ended."""

    def __init__(self) -> None:
        self.begun: list[bytes] = []
        self.ended: list[str] = []
        self.pause = 0.0

    async def __call__(self, request: HttpRequest) -> None:
        self.begun.append(request.raw_path)
        end = "cancelled"
        try:
            if self.pause:
                await asyncio.sleep(self.pause)
            if request.raw_path == b"/raises":
                raise KeyError("a bug")
            try:
                body = await request.read_body(100_000) if request.method == "POST" else request.raw_path
            except CallError as error:
                body = error.kind.encode()
            if request.raw_path == b"/stream":
                await request.start(200, {})
                for _ in range(3000):
                    await request.send(b"a" * 10_000)
                    await asyncio.sleep(0)
            elif request.raw_path == b"/cut":
                await request.start(200, {})
                await request.send(b"half")
                request.cut()
                return
            else:
                await request.start(200, {"content-length": str(len(body))})
                await request.send(body)
            await request.end()
            end = "ended"
        finally:
            self.ended.append(end)


@contextlib.asynccontextmanager
async def port(
    handler: Any,
    host: str = "127.0.0.1",
    head_s: float = 5.0,
    receive_s: float = 5.0,
    most: int | None = None,
) -> AsyncIterator[tuple[Server, int]]:
    sock = bind(HostPort(host, 0), "data")
    server = Server(handler, sock, head_s=head_s, receive_s=receive_s, most=most)
    number = sock.getsockname()[1]
    await server.start()
    try:
        yield server, number
    finally:
        await server.stop(0.2)
        assert not server._connections


async def talk(
    number: int, *pieces: bytes, host: str = "127.0.0.1", pause: float = 0.02, quiet: float = 5.0
) -> bytes:
    """All that is said in reply to these pieces, until the other end closes or is quiet for so many seconds."""
    reader, writer = await asyncio.open_connection(host, number)
    out = b""
    try:
        for piece in pieces:
            writer.write(piece)
            await asyncio.sleep(pause)
        while True:
            async with asyncio.timeout(quiet):
                data = await reader.read(65536)
            if not data:
                return out + b"<closed>"
            out += data
    except (ConnectionError, RuntimeError):  # uvloop's word for a write that comes too late
        return out + b"<reset>"
    except TimeoutError:
        return out
    finally:
        writer.transport.abort()


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(3):
        while not true():
            await asyncio.sleep(0.005)


def test_many_requests_at_once_are_answered_in_their_order(run: Run) -> None:
    async def scenario() -> None:
        handler = Handler()
        async with port(handler) as (_, number):
            out = await talk(
                number,
                b"".join(GET % at for at in range(500)) + LAST % 500,
            )
        assert [b"/%d" % at for at in range(501)] == handler.begun
        assert out.endswith(b"connection: close\r\n\r\n/500<closed>")
        assert b"".join(b"/%d" % at for at in range(501)) == b"".join(
            part.partition(b"\r\n\r\n")[2] for part in out.removesuffix(b"<closed>").split(b"HTTP/1.1 200 OK")
        )

    run(scenario())


@pytest.mark.parametrize("pause", [0.0, 0.05], ids=["quick", "slow"])
def test_a_refusal_waits_for_its_turn(run: Run, pause: float) -> None:
    async def scenario() -> None:
        handler = Handler()
        handler.pause = pause
        async with port(handler) as (_, number):
            outs = [
                (await talk(number, GET % 1 + GET % 2 + b"\0" + GET % 3), [b"/1", b"/2"]),
                (await talk(number, GET % 4, b"\0" + GET % 5), [b"/4"]),
                (await talk(number, GET % 6 + POST + b"transfer-encoding: chunked\r\n\r\nzz\r\n"), [b"/6"]),
            ]
        for out, paths in outs:
            assert [b"200"] * len(paths) + [b"400"] == [part[1:4] for part in out.split(b"HTTP/1.1")[1:]]
            assert all(b"\r\n\r\n" + path in out for path in paths)
            assert out.endswith(b"<closed>")
        assert [b"/1", b"/2", b"/4", b"/6"] == handler.begun

    run(scenario())


def test_a_refusal_reaches_a_client_that_is_still_sending(run: Run) -> None:
    """A reset would take it away again."""

    async def scenario() -> None:
        async with port(Handler(), receive_s=0.2) as (_, number):
            for _ in range(5):
                outs = [
                    await talk(number, b"GET / HTTP/1.1\r\na: " + b"b" * 3_000_000, pause=0.05),
                    await talk(number, b"\0" * 3_000_000, b"\0" * 3_000_000),
                ]
                assert [b"431", b"400"] == [out[9:12] for out in outs]

    run(scenario())


def test_a_body_that_breaks_ends_its_call(run: Run) -> None:
    async def scenario() -> None:
        handler = Handler()
        async with port(handler) as (_, number):
            out = await talk(number, POST + b"transfer-encoding: chunked\r\n\r\n2\r\nhi\r\n", b"zz\r\n")
        assert out.startswith(b"HTTP/1.1 400")
        assert out.count(b"HTTP/1.1") == 1
        assert ["cancelled"] == handler.ended

    run(scenario())


def test_thousands_of_upgrades_at_once_are_requests_like_others(run: Run) -> None:
    async def scenario() -> None:
        handler = Handler()
        async with port(handler) as (_, number):
            data = b"".join(
                (GET % at).replace(b"host", b"connection: upgrade\r\nupgrade: h2c\r\nhost")
                for at in range(3000)
            )
            out = await talk(number, data + LAST % 0)
            closing = await talk(
                number, b"GET /a HTTP/1.1\r\nhost: x\r\nupgrade: h2c\r\nconnection: upgrade, close\r\n\r\n"
            )
        assert 3001 == out.count(b"HTTP/1.1 200 OK")
        assert closing.endswith(b"connection: close\r\n\r\n/a<closed>")

    run(scenario())


def test_a_request_behind_a_long_body_is_no_long_head(run: Run) -> None:
    async def scenario() -> None:
        handler = Handler()
        body = b"a" * 99_000
        async with port(handler) as (_, number):
            data = POST + b"content-length: %d\r\n\r\n%b" % (len(body), body)
            out = await talk(number, data * 4 + LAST % 9)
            assert 5 == out.count(b"HTTP/1.1 200 OK")
            long = b"GET /1 HTTP/1.1\r\nhost: x\r\na: " + b"a" * 70_000 + b"\r\n\r\n"
            out = await talk(number, GET % 0 + long)
            assert [b"200", b"431"] == [part[1:4] for part in out.split(b"HTTP/1.1")[1:]]

    run(scenario())


@pytest.mark.parametrize("moment", [0.0, 0.01, 0.05])
@pytest.mark.parametrize("path", [b"/1", b"/stream", b"/half"])
def test_a_client_that_hangs_up_ends_its_call(run: Run, path: bytes, moment: float) -> None:
    async def scenario() -> None:
        handler = Handler()
        handler.pause = 0.0 if path == b"/stream" else 0.03
        async with port(handler) as (server, number):
            _, writer = await asyncio.open_connection("127.0.0.1", number)
            if path == b"/half":
                writer.write(POST + b"content-length: 9\r\n\r\nhi")
            else:
                writer.write(b"GET " + path + b" HTTP/1.1\r\nhost: x\r\n\r\n")
            await asyncio.sleep(moment)
            writer.transport.abort()
            await until(lambda: not server._connections and len(handler.begun) == len(handler.ended))
            await asyncio.sleep(0.05)
            assert "ended" not in handler.ended or path == b"/1"

    run(scenario())


def test_deadlines_of_heads_and_bodies(run: Run) -> None:
    async def scenario() -> None:
        handler = Handler()
        async with port(handler, head_s=0.2, receive_s=0.25) as (_, number):
            data = POST + b"content-length: 9\r\n\r\nhi"
            asked = [
                [],
                [b"GET / HT"],
                [b"\r\n"] * 30,
                [b"GET / HTTP/1.1\r\nhost: x\r\n", *[b"a: b\r\n"] * 30],
                [data],
                [data.replace(b"9", b"90"), *[b"a"] * 30],
                [data.replace(b"POST", b"GET")],
            ]
            outs = await asyncio.gather(*[talk(number, *pieces) for pieces in asked])
        ends = [out.replace(b"<reset>", b"<closed>") for out in outs]
        assert all(out.endswith(b"<closed>") for out in ends)
        assert b"<closed>" == ends[0]
        assert b"408" == outs[1][9:12]
        assert b"client_timeout" in outs[4]
        assert outs[6].startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"content-length: 1\r\n\r\n/" in outs[6]

    run(scenario())


def test_clients_above_the_limit_are_asked_to_come_again(run: Run) -> None:
    async def scenario() -> None:
        async with port(Handler(), most=2) as (server, number):
            held = [await asyncio.open_connection("127.0.0.1", number) for _ in range(2)]
            await until(lambda: len(server._connections) == 2)
            over = [await asyncio.open_connection("127.0.0.1", number) for _ in range(3)]
            for reader, writer in over:
                writer.write(GET % 1)
                head, _, body = (await reader.read()).partition(b"\r\n\r\n")
                assert head.startswith(b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\n")
                assert (body, b"connection: close" in head) == (b"", True)
                writer.close()
            for _, writer in held:
                writer.close()
            await until(lambda: not server._connections)
            assert (await talk(number, LAST % 7)).endswith(b"/7<closed>")

    run(scenario())


def test_a_crowd_above_the_limit_is_not_even_told(run: Run) -> None:
    async def scenario() -> None:
        async with port(Handler(), most=2) as (server, number):
            crowd = [await asyncio.open_connection("127.0.0.1", number) for _ in range(100)]
            said = await asyncio.gather(*[reader.read() for reader, _ in crowd[2:]], return_exceptions=True)
            told = [out for out in said if isinstance(out, bytes) and b" 503 " in out]
            assert 1 <= len(told) <= 60, "places come free as the told ones go"
            assert len(server._connections) <= 2 + _protocol._TOLD
            for _, writer in crowd:
                writer.close()

    run(scenario())


def test_an_idle_connection_is_closed(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_protocol.Connection, "keep_s", 0.1)

    async def scenario() -> None:
        async with port(Handler()) as (_, number):
            assert (await talk(number, GET % 1)).endswith(b"/1<closed>")

    run(scenario())


@pytest.mark.parametrize("steady", [True, False])
def test_a_slow_client_is_not_a_stalled_one(run: Run, monkeypatch: pytest.MonkeyPatch, steady: bool) -> None:
    """Its buffer is as full at each look as at the one before, but bytes went in between."""
    monkeypatch.setattr(_protocol.Connection, "stall_s", 0.4 if steady else 0.15)

    async def scenario() -> None:
        handler = Handler()
        async with port(handler) as (server, number):
            reader, writer = await asyncio.open_connection("127.0.0.1", number, limit=65536)
            writer.write(b"GET /stream HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            if not steady:
                await until(lambda: handler.ended == ["cancelled"])
            else:
                taken = 0
                while data := await reader.read(400_000):
                    taken += len(data)
                    await asyncio.sleep(0.015)
                assert taken > 30_000_000
                assert handler.ended == ["ended"]
            writer.transport.abort()
            await until(lambda: not server._connections)

    run(scenario())


def test_bytes_nobody_takes_keep_no_closed_connection(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_protocol.Connection, "stall_s", 0.15)

    async def handler(request: HttpRequest) -> None:
        await request.start(200, {"content-length": "9000000", "connection": "close"})
        request.connection.transport.set_write_buffer_limits(high=20_000_000)  # `clogged` is never said
        await request.send(b"a" * 9_000_000)
        await request.end()

    async def scenario() -> None:
        async with port(handler) as (server, number):
            _, writer = await asyncio.open_connection("127.0.0.1", number, limit=1024)
            writer.write(GET % 1)
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            await asyncio.sleep(0.05)
            assert server._connections
            await until(lambda: not server._connections)
            writer.transport.abort()

    run(scenario())


def test_what_was_cut_is_not_taken_for_whole(run: Run) -> None:
    async def scenario() -> None:
        async with port(Handler()) as (_, number):
            new = await talk(number, b"GET /cut HTTP/1.1\r\nhost: x\r\n\r\n" + GET % 1)
            old = await talk(number, b"GET /cut HTTP/1.0\r\n\r\n")
            bug = await talk(number, b"GET /raises HTTP/1.1\r\nhost: x\r\n\r\n" + GET % 1)
        assert new.endswith(b"4\r\nhalf\r\n<closed>")
        assert old.endswith(b"<reset>")
        assert bug == b"<closed>"

    run(scenario())


def test_the_end_of_a_port(run: Run) -> None:
    """Idle connections close at once; what is under way is answered, and told that it was the last."""

    async def scenario() -> None:
        handler = Handler()
        handler.pause = 0.5
        async with port(handler) as (server, number):
            idle = asyncio.create_task(talk(number))
            busy = asyncio.create_task(talk(number, GET % 1 + GET % 2, GET % 3))
            await asyncio.sleep(0.08)
            server.refuse()
            assert b"<closed>" == await idle
            assert not busy.done()
            assert (await busy).endswith(b"connection: close\r\n\r\n/1<closed>")
            with pytest.raises(ConnectionError):
                await asyncio.open_connection("127.0.0.1", number)

    run(scenario())


def test_an_early_answer_leaves_the_connection_usable(run: Run) -> None:
    """The body that nobody wanted is read and dropped, then comes the next request."""

    async def early(request: HttpRequest) -> None:
        await request.start(200, {"content-length": "2"})
        await request.send(b"no")
        await request.end()

    async def scenario() -> None:
        async with port(early) as (_, number):
            out = await talk(number, POST + b"content-length: 3000000\r\n\r\n", b"a" * 3_000_000 + LAST % 1)
            assert 2 == out.count(b"200 OK")
            assert out.endswith(b"no<closed>")

    run(scenario())


def test_ipv6_and_ports_that_are_taken(run: Run) -> None:
    async def scenario() -> None:
        try:
            async with port(Handler(), "::1") as (server, number):
                assert server.url == f"http://[::1]:{number}"
                assert (await talk(number, LAST % 1, host="::1")).endswith(b"/1<closed>")
                with pytest.raises(ShieldError, match="--listen"):
                    bind(HostPort("::1", number), "data")
        except OSError:
            pytest.skip("no IPv6 here")

    run(scenario())
