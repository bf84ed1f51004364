"""HTTP/1.1 on real sockets: keep-alive, pipelining, odd requests, clients that leave."""

import asyncio
import json

import pytest

BODY = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}]}).encode()


def post(extra=b"", body=BODY, path=b"/v1/chat/completions"):
    return b"POST %b HTTP/1.1\r\nhost: x\r\n%bcontent-length: %d\r\n\r\n%b" % (path, extra, len(body), body)


async def talk(sim, data, *, replies=1, wait=1.0):
    """Send bytes, read so many JSON replies or until the end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", sim.port)
    writer.write(data)
    found = b""
    try:
        async with asyncio.timeout(wait):
            while found.count(b"HTTP/1.1 ") < replies or not found.endswith(b"}"):
                piece = await reader.read(1 << 16)
                if not piece:
                    break
                found += piece
    except TimeoutError:
        pass
    writer.close()
    return found


async def test_one_connection_serves_many_requests_in_order(start):
    sim = await start()
    requests = b"".join(post(b"x-number: %d\r\n" % i) for i in range(50))
    found = await talk(sim, requests, replies=50)

    assert found.count(b"HTTP/1.1 200 OK") == 50
    assert [c.header("x-number") for c in sim.calls] == [str(i) for i in range(50)]
    assert sim.connections == 1


async def test_pipelined_streams_come_one_after_the_other(start):
    sim = await start(delay=0.001, text="abcdefgh")
    body = json.dumps(
        {"model": "m", "stream": True, "messages": [{"role": "user", "content": "hi"}]}
    ).encode()
    found = await talk(sim, post(body=body) * 3 + post(), replies=4)

    assert found.count(b"data: [DONE]") == 3
    assert found.rindex(b"[DONE]") < found.rindex(b"HTTP/1.1")


@pytest.mark.parametrize("size", [1, 7, 100])
async def test_requests_in_small_pieces(start, size):
    sim = await start()
    reader, writer = await asyncio.open_connection("127.0.0.1", sim.port)
    data = post()
    for at in range(0, len(data), size):
        writer.write(data[at : at + size])
        await asyncio.sleep(0)
    head = await reader.readuntil(b"\r\n\r\n")
    writer.close()

    assert head.startswith(b"HTTP/1.1 200")
    assert sim.calls[0].json == json.loads(BODY)


async def test_chunked_requests_and_expectations(start):
    sim = await start()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ntransfer-encoding: chunked\r\n\r\n"
    found = await talk(sim, head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY), replies=2)

    assert found.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK")
    assert sim.calls[0].body == BODY


async def test_no_http(start):
    sim = await start()
    found = await talk(sim, b"\x16\x03\x01 hello\r\n\r\n")

    assert found.startswith(b"HTTP/1.1 400")
    assert sim.calls == []


async def test_an_absolute_target_and_a_percent_sign(start):
    sim = await start()
    body = json.dumps({"contents": [{"parts": [{"text": "x"}]}]}).encode()
    found = await talk(sim, post(path=b"http://host/v1beta/models/a%20b:generateContent?x=1", body=body))

    assert found.startswith(b"HTTP/1.1 200")
    assert (sim.calls[0].path, sim.calls[0].query) == ("/v1beta/models/a%20b:generateContent", "x=1")
    assert sim.calls[0].model == "a b"


async def test_an_upgrade_is_not_taken_up(start):
    sim = await start()
    found = await talk(
        sim, b"GET /v1/models HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n"
    )

    assert found.startswith(b"HTTP/1.1 200")
    assert b"connection: close" in found


async def test_http10_closes(start):
    sim = await start()
    found = await talk(sim, post().replace(b"HTTP/1.1", b"HTTP/1.0"))

    assert b"connection: close" in found


@pytest.mark.parametrize("how", ["close", "abort"])
async def test_a_client_that_leaves_is_noticed_at_once(start, how):
    sim = await start(delay=0.01, tokens=10_000)
    body = json.dumps(
        {"model": "m", "stream": True, "messages": [{"role": "user", "content": "hi"}]}
    ).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", sim.port)
    writer.write(post(body=body))
    await reader.readuntil(b"alph")
    if how == "close":
        writer.close()
    else:
        writer.transport.abort()
    await asyncio.sleep(0.05)
    sent = sim.calls[0].pieces
    await asyncio.sleep(0.05)

    assert sim.calls[0].disconnected
    assert not sim.calls[0].finished
    assert sent == sim.calls[0].pieces
    assert sim.open_connections == 0


async def test_a_client_that_stays_is_not_taken_for_gone(start):
    sim = await start()
    await talk(sim, post())

    assert sim.calls[0].finished
    assert not sim.calls[0].disconnected
    assert sim.calls[0].sent > 100


async def test_the_wire_can_be_kept(start):
    sim = await start(wire=True)
    data = post(b"X-Case: Kept\r\n")
    await talk(sim, data)

    assert [bytes(w) for w in sim.wires] == [data]


async def test_uvloop_sends_resets_too(monkeypatch):
    """The socket of a uvloop transport is not a socket; the reset has to work on it all the same."""
    uvloop = pytest.importorskip("uvloop")

    def elsewhere():
        from llmshield.simulator import Simulator

        async def main():
            async with Simulator(fault="reset") as sim:
                reader, writer = await asyncio.open_connection("127.0.0.1", sim.port)
                writer.write(post())
                try:
                    return await reader.read()
                except ConnectionResetError:
                    return "reset"
                finally:
                    writer.close()

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(main())

    assert await asyncio.to_thread(elsewhere) == "reset"
