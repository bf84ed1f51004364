"""The sidecar on real sockets: slow and large heads, shutdown, CORS, limits, unknown traffic."""

import asyncio
import gzip
import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest

from llmshield.errors import ShieldError
from llmshield.mounts._server import bind
from llmshield.mounts.gateway import stop_signals
from llmshield.policy.units import HostPort
from llmshield.simulator import Simulator, SimulatorThread
from llmshield.testing import gateway

POLICY = """
server:
  limits: {{head: 500ms, receive: 700ms, body: 100KiB, depth: 20}}
  cors: {{origins: ["https://app.example.com"]}}
  paths:
    - {{match: "/v1/audio/*", action: pass}}
    - {{match: "/v1/*", action: deny}}
providers:
  a: {{dialect: openai, base_url: {url}/v1}}
"""
CHAT = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hello"}]}


async def raw(url: str, data: bytes, *, wait: float = 3.0) -> bytes:
    """What a server answers to these bytes until it closes or the time is over."""
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(data)
    out = b""
    try:
        async with asyncio.timeout(wait):
            while chunk := await reader.read(65536):
                out += chunk
    except TimeoutError:
        out += b"<open>"
    writer.close()
    return out


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", b""),
        (b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n", b"408"),
        (b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nx: " + b"a" * 70_000, b"431"),
        (b"POST /" + b"a" * 70_000, b"431"),
        (b"nonsense\r\n\r\n", b"400"),
        (b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", b"400"),
        (b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 50\r\n\r\n{", b"408"),
    ],
)  # fmt: skip
async def test_slow_large_and_broken_heads(primary: Simulator, data: bytes, expected: bytes) -> None:
    async with gateway(POLICY.format(url=primary.url)) as (url, _):
        answer = await raw(url, data)

    assert answer.startswith(b"HTTP/1.1 " + expected if expected else b"")
    assert not answer.endswith(b"<open>")
    assert [] == primary.calls


async def post(url: str, path: str, data: bytes, **headers: str) -> tuple[int, Any, Any]:
    head = {"content-type": "application/json", **{k.replace("_", "-"): v for k, v in headers.items()}}
    async with aiohttp.ClientSession() as http, http.post(url + path, data=data, headers=head) as reply:
        body = await reply.read()
        return reply.status, reply.headers, json.loads(body) if body else None


@pytest.mark.parametrize(
    ("data", "headers", "status"),
    [
        (b'{"model": "x"', {}, 400),
        (b"[]", {}, 400),
        (b"", {}, 400),
        (b"\xff\xfe", {}, 400),
        (b'{"model": "gpt-4o", "messages": "no"}', {}, 400),
        (b'{"model": 5, "messages": []}', {}, 400),
        (b'{"model": "gpt-4o", "n": NaN, "messages": []}', {}, 400),
        (b'{"a": ' + b"[" * 30 + b"]" * 30 + b"}", {}, 400),
        (b'{"model": "gpt-4o", "messages": [{"role": "user", "content": "' + b"a" * 120_000 + b'"}]}', {}, 400),
        (orjson.dumps(CHAT), {"content_type": "text/plain"}, 415),
        (orjson.dumps(CHAT), {"content_type": "multipart/form-data; boundary=x"}, 415),
        (orjson.dumps(CHAT), {"content_type": "application/json; charset=utf-16"}, 415),
        (gzip.compress(orjson.dumps(CHAT), mtime=0), {"content_encoding": "gzip"}, 200),
        (gzip.compress(b"\0" * 3_000_000, mtime=0), {"content_encoding": "gzip"}, 400),
        (b"garbage", {"content_encoding": "gzip"}, 415),
        (b"garbage", {"content_encoding": "gzip, gzip"}, 415),
        (orjson.dumps(CHAT), {"x_api_key": "a", "authorization": "Bearer b"}, 400),
    ],
)  # fmt: skip
async def test_refusals_of_the_data_port(
    primary: Simulator, data: bytes, headers: dict[str, str], status: int
) -> None:
    async with gateway(POLICY.format(url=primary.url)) as (url, _):
        got, head, body = await post(url, "/v1/chat/completions", data, **headers)

    assert status == got
    assert "x-llmshield-request-id" in head
    if status != 200:
        assert body["error"]["message"]
        assert [] == primary.calls


async def test_unknown_paths_are_refused_and_named_ones_pass(primary: Simulator) -> None:
    async with gateway(POLICY.format(url=primary.url)) as (url, _):
        for path in ("/v1/files", "/v1/messages/batches", "/nothing"):
            status, _, body = await post(url, path, b"{}")

            assert status in {404, 501}
            assert "error" in body
        assert [] == primary.calls
        await post(url, "/v1/audio/speech", b'{"input": "x"}')

        assert ["/v1/audio/speech"] == [call.path for call in primary.calls]
        async with aiohttp.ClientSession() as http:
            async with http.get(f"{url}/v1/chat/completions") as reply:
                assert 405 == reply.status
            async with http.head(url) as reply:
                assert 200 == reply.status


async def test_cors(primary: Simulator) -> None:
    async with gateway(POLICY.format(url=primary.url)) as (url, _), aiohttp.ClientSession() as http:
        ask = {"access-control-request-method": "POST", "origin": "https://app.example.com"}
        async with http.options(f"{url}/v1/chat/completions", headers=ask) as reply:
            assert (204, ask["origin"]) == (reply.status, reply.headers["access-control-allow-origin"])
        async with http.options(
            f"{url}/v1/chat/completions", headers={**ask, "origin": "https://evil"}
        ) as reply:
            assert 403 == reply.status
            assert "access-control-allow-origin" not in reply.headers
        async with http.post(
            f"{url}/v1/chat/completions", json=CHAT, headers={"origin": "https://evil"}
        ) as reply:
            assert "access-control-allow-origin" not in reply.headers
        async with http.post(f"{url}/v1/chat/completions", json=CHAT) as reply:
            assert "origin" == reply.headers["vary"]  # of every answer: a cache may keep this one
        for body in (CHAT, {"model": "gpt-4o"}):
            async with http.post(
                f"{url}/v1/chat/completions", json=body, headers={"origin": ask["origin"]}
            ) as reply:
                assert (ask["origin"], "origin") == (
                    reply.headers["access-control-allow-origin"], reply.headers["vary"],
                )  # fmt: skip
                shown = reply.headers["access-control-expose-headers"].split(", ")
                ours = [name.lower() for name in reply.headers if name.lower().startswith("x-llmshield")]
                assert [name for name in (*ours, "x-request-id", "x-should-retry") if name not in shown] == []


async def test_another_method_is_told_which_ones_there_are(primary: Simulator) -> None:
    async with gateway(POLICY.format(url=primary.url)) as (url, _), aiohttp.ClientSession() as http:
        for path, methods in (("/v1/chat/completions", "POST"), ("/v1/models", "GET, HEAD")):
            async with http.delete(url + path) as reply:
                assert (405, methods) == (reply.status, reply.headers["allow"])  # RFC 9110, 15.5.6


async def test_a_client_that_leaves_cancels_the_provider_at_once(primary: Simulator) -> None:
    primary.set(delay=0.05, tokens=500)
    async with gateway(POLICY.format(url=primary.url)) as (url, _), aiohttp.ClientSession() as http:
        reply = await http.post(f"{url}/v1/chat/completions", json={**CHAT, "stream": True})
        await reply.content.readany()
        reply.close()
        left = time.monotonic()
        while not primary.calls[0].disconnected and time.monotonic() < left + 3:
            await asyncio.sleep(0.01)

        assert primary.calls[0].disconnected
        assert time.monotonic() - left < 1


async def test_answers_do_not_wait_for_acknowledgements(primary: Simulator) -> None:
    """Head and body are two writes: with Nagle's algorithm the second would wait 40 ms, each time."""
    took = []
    async with gateway(POLICY.format(url=primary.url)) as (url, _), aiohttp.ClientSession() as http:
        for _ in range(8):
            started = time.monotonic()
            async with http.post(f"{url}/v1/chat/completions", json={**CHAT, "model": 1}) as reply:
                await reply.read()
            took.append(time.monotonic() - started)

    assert min(took[1:]) < 0.03


async def test_a_taken_port_is_told_with_a_remedy() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ShieldError, match="--listen HOST:PORT"):
            bind(HostPort("127.0.0.1", taken.getsockname()[1]), "data")


@pytest.mark.parametrize("numbers", [(signal.SIGTERM, signal.SIGTERM, signal.SIGINT), (signal.SIGHUP,)])
def test_signals_drain_a_stream_and_exit_clean(tmp_path: Path, numbers: tuple[signal.Signals, ...]) -> None:
    """The process as users run it: the stream under way ends whole, the exit status is 0; asking twice changes nothing."""
    with SimulatorThread(delay=0.05, tokens=30) as sim:
        (tmp_path / "p.yaml").write_text(
            f"version: 1\nproviders: {{a: {{dialect: openai, base_url: {sim.url}/v1}}}}\n"
        )
        command = [
            sys.executable,
            "-m",
            "llmshield",
            "serve",
            "-p",
            "p.yaml",
            "--listen",
            "127.0.0.1:0",
            "--admin",
            "127.0.0.1:0",
        ]
        process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
        assert process.stderr is not None
        line = ""
        while not line.startswith("llmshield serves"):
            line = process.stderr.readline()
            assert line, "the sidecar did not start"
        url = line.split()[2].rstrip(",")

        async def stream() -> str:
            async with aiohttp.ClientSession() as http:
                async with http.post(f"{url}/v1/chat/completions", json={**CHAT, "stream": True}) as reply:
                    await reply.content.readany()
                    for number in numbers:
                        process.send_signal(number)
                        await asyncio.sleep(0.05)
                    return (await reply.read()).decode()

        data = asyncio.run(stream())
        rest = process.stderr.read()
        process.stderr.close()

        assert data.endswith("data: [DONE]\n\n")
        assert 0 == process.wait(10), rest


def test_under_nohup_a_closed_terminal_stops_nothing() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert signal.SIGHUP not in stop_signals()
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        assert signal.SIGHUP in stop_signals()
    finally:
        signal.signal(signal.SIGHUP, before)
