"""The gateway behind a proxy: who knows the token is believed about origins, and nobody else gets a byte.

The proxy is played by the test: the contract is one line and HTTP/1.1.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmshield.mounts import egress, gateway
from llmshield.mounts._server import bind
from llmshield.origins import LONGEST, MAGIC, write
from llmshield.policy.units import HostPort
from llmshield.simulator import Simulator
from llmshield.testing import policy

TOKEN = "secret-token-of-this-test"
POLICY = """
server: {{store: "memory://"}}
providers:
  openai: {{dialect: openai, base_url: "{url}/v1"}}
  other: {{dialect: openai, base_url: "{url}/v1", api_key: "env://EGRESS_TEST_KEY"}}
  claude: {{dialect: anthropic, base_url: "{url}"}}
routes:
  - {{match: {{model: "m*"}}, to: [other, openai], retry: {{attempts: 1}}}}
  - {{match: {{model: "secret"}}, deny: {{message: "no"}}}}
plugins: [{{use: failover}}]
egress:
  hosts: {{api.openai.com: openai, "*.azure.test": other, api.anthropic.com: claude}}
"""


class Served:
    """A gateway, spoken to as its proxy does."""

    def __init__(self, port: int, sim: Simulator) -> None:
        self.port, self.sim = port, sim

    async def raw(self, *parts: bytes, end: bool = False) -> bytes:
        """What comes back for these bytes, until the gateway closes or is silent."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        got = b""
        try:
            for part in parts:
                writer.write(part)
                await writer.drain()
                await asyncio.sleep(0.005)
            if end:
                writer.write_eof()
            async with asyncio.timeout(5):
                while data := await reader.read(65536):
                    got += data
        except (ConnectionError, TimeoutError):
            pass
        finally:
            writer.transport.abort()
        return got

    async def call(
        self, line: bytes, host: str = "api.openai.com", path: str = "/v1/chat/completions", model: str = "m",
        head: str = "",
    ) -> tuple[int, Any]:  # fmt: skip
        """Status and JSON of one call behind this line."""
        body = json.dumps({"model": model, "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]})
        said = f"POST {path} HTTP/1.1\r\nhost: {host}\r\n{head}content-type: application/json\r\nconnection: close\r\n"
        got = await self.raw(line, f"{said}content-length: {len(body)}\r\n\r\n{body}".encode())
        first, _, rest = got.partition(b"\r\n\r\n")
        return (int(first.split()[1]) if first else 0), (json.loads(rest) if rest else None)


@pytest.fixture
async def served(primary: Simulator, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Served]:
    monkeypatch.setenv("EGRESS_TEST_KEY", "sk-of-the-policy")
    loaded = policy(POLICY.format(url=primary.url))
    sock = bind(HostPort("127.0.0.1", 0), "data")
    port = sock.getsockname()[1]
    stop, ready = asyncio.Event(), asyncio.Event()
    running = asyncio.create_task(
        gateway.serve(
            loaded, sock, None, port=egress.port(loaded, TOKEN), mount="egress", stop=stop, signals=False,
            on_ready=lambda data, admin: ready.set(),
        )
    )  # fmt: skip
    await ready.wait()
    yield Served(port, primary)
    stop.set()
    await running


def line(sni: str | None = "api.openai.com", to: str = "api.openai.com", token: str = TOKEN) -> bytes:
    return write(token, ("10.1.2.3", 5), sni, (to, 443))


async def test_the_destination_is_asked_first(served: Served) -> None:
    """The route says `other` before `openai`; the call was going to `openai`, and its own key is for it alone."""
    status, _ = await served.call(line(), head="authorization: Bearer sk-own\r\n")

    assert status == 200
    assert [c.header("authorization") for c in served.sim.calls] == ["Bearer sk-own"]


async def test_others_follow_as_the_policy_says(served: Served) -> None:
    served.sim.set(fault="503")
    status, _ = await served.call(line(), head="authorization: Bearer sk-own\r\n")

    assert status == 503
    assert [c.header("authorization") for c in served.sim.calls] == [
        "Bearer sk-own",
        "Bearer sk-of-the-policy",
    ]


@pytest.mark.parametrize(
    ("sni", "to", "host", "path", "model", "status"),
    [
        ("api.openai.com", "10.9.9.9", "api.openai.com", "/v1/chat/completions", "m", 200),
        ("eu.azure.test", "10.9.9.9", "eu.azure.test", "/v1/chat/completions", "m", 200),
        (None, "api.openai.com", "api.openai.com", "/v1/chat/completions", "m", 200),
        ("api.anthropic.com", "10.9.9.9", "api.anthropic.com", "/v1/messages", "m", 200),
        ("api.openai.com", "10.9.9.9", "api.anthropic.com", "/v1/messages", "m", 421),
        ("api.openai.com", "10.9.9.9", "evil.example", "/v1/chat/completions", "m", 421),
        ("evil.example", "api.openai.com", "evil.example", "/v1/chat/completions", "m", 421),
        (None, "10.9.9.9", "api.openai.com", "/v1/chat/completions", "m", 421),
        ("api.openai.com", "10.9.9.9", "api.openai.com", "/v1/chat/completions", "secret", 404),
        ("api.openai.com", "10.9.9.9", "api.openai.com", "/v1/unknown", "m", 404),
    ],
)
async def test_hosts(
    served: Served, sni: str | None, to: str, host: str, path: str, model: str, status: int
) -> None:
    got, body = await served.call(
        line(sni, to), host, path, model, "anthropic-version: 2023-06-01\r\n" if "mess" in path else ""
    )

    assert status == got, body
    assert bool(served.sim.calls) is (status == 200)
    assert status == 200 or "error" in body


@pytest.mark.parametrize(
    "said",
    [
        line(token="wrong"),
        line(token=""),
        MAGIC + b"\r\n",
        MAGIC + b"{}\r\n",
        MAGIC + b"x" * LONGEST,
        MAGIC + b"x" * 100_000,
        MAGIC + b'{"t": "' + TOKEN.encode() + b'"}\r\n',
        line()[:-2] + b"\n",  # a bare line feed ends no line
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"LLMSHIELD/2 {}\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\nhost: api.openai.com\r\nx-llmshield-origin: {}\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: api.openai.com\r\ncontent-length: 2\r\n\r\n{}",
    ],
    ids=lambda said: repr(said[:40]),
)
async def test_strangers_get_nothing(served: Served, said: bytes) -> None:
    got = await served.raw(said, end=True)

    assert b"200" not in got[:16]
    assert b"{" not in got
    assert served.sim.calls == []


async def test_a_line_in_pieces(served: Served) -> None:
    body = b'{"model":"m","messages":[{"role":"user","content":"hi"}]}'
    whole = (
        line()
        + (
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: api.openai.com\r\ncontent-type: application/json\r\n"
            b"connection: close\r\ncontent-length: %d\r\n\r\n" % len(body)
        )
        + body
    )
    for cut in (1, 5, 12, 40, len(line()) - 1, len(line()), len(line()) + 1):
        assert (await served.raw(whole[:cut], whole[cut:])).startswith(b"HTTP/1.1 200 "), cut


@given(st.binary(max_size=200))
def test_any_bytes_behind_the_magic(said: bytes) -> None:
    from llmshield.origins import read

    assert read((MAGIC + said).partition(b"\r\n")[0], TOKEN) is None


def told(sni: str | None, token: str = TOKEN) -> str:
    return f"x-llmshield-origin: {write(token, ('10.1.2.3', 5), sni, ('api.openai.com', 443))[len(MAGIC) : -2].decode()}\r\n"


@pytest.mark.parametrize(
    ("before", "head", "status"),
    [
        (b"", told("api.openai.com"), 200),
        (b"", told(None), 200),
        (b"", told("api.openai.com", "wrong"), 0),
        (b"", told("api.openai.com") * 2, 0),
        (b"", "", 0),
        (line(), told("api.anthropic.com"), 200),  # on a spliced connection the header is the client's own
        (line("api.anthropic.com"), told("api.openai.com"), 421),
    ],
)
async def test_an_origin_in_a_header(served: Served, before: bytes, head: str, status: int) -> None:
    got, _ = await served.call(before, head=head)

    assert status == got
    assert all(call.header("x-llmshield-origin") is None for call in served.sim.calls)


async def test_grpc_is_refused_in_its_own_words(served: Served) -> None:
    got = await served.raw(
        line(),
        b"POST /google.ai.Model/Ask HTTP/1.1\r\nhost: api.openai.com\r\ncontent-type: application/grpc+proto\r\n"
        b"connection: close\r\ncontent-length: 0\r\n\r\n",
    )

    assert b"grpc-status: 7\r\n" in got
    assert served.sim.calls == []


async def test_an_upgrade_is_refused(served: Served) -> None:
    got = await served.raw(
        line(),
        b"GET /v1/realtime HTTP/1.1\r\nhost: api.openai.com\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
        b"sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    )

    assert b" 101 " not in got[:20]
    assert b'"error"' in got
    assert served.sim.calls == []
