"""A gateway with a budget, and before it an upstream that says exactly what a test wants."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import aiohttp
import orjson
import pytest

from llmshield.testing import FakeProvider, gateway

POLICY = """
server: {{store: "{store}"}}
providers:
  openai: {{dialect: openai, base_url: "{url}/v1"}}
  claude: {{dialect: anthropic, base_url: "{url}"}}
  google: {{dialect: gemini, base_url: "{url}"}}
routes:
  - match: {{model: ["claude-*"]}}
    to: [claude]
  - match: {{model: ["gemini-*", "tunedModels/*"]}}
    to: [google]
  - match: {{any: true}}
    to: [openai]
tenants: {{anonymous: {{tier: free}}}}
tiers: {{free: {{budget: {budget}}}}}
plugins:
  - use: cost_cap
    {settings}
"""


@dataclass
class Canned:
    """An upstream on a real socket that answers every request with the same bytes, and counts what it gets."""

    body: bytes = b"{}"
    kind: str = "application/json"
    pieces: tuple[bytes, ...] = ()
    """A stream: what is written one after the other; the connection is then closed."""
    requests: list[Any] = field(default_factory=list)
    received: int = 0
    """Bytes that came in."""
    connections: int = 0
    url: str = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:] if b": " in line)
            data = await reader.readexactly(int(fields.get(b"content-length", b"0")))
            self.received += len(head) + len(data)
            self.requests.append(orjson.loads(data) if data else None)
            length = "" if self.pieces else f"Content-Length: {len(self.body)}\r\n"
            writer.write(
                f"HTTP/1.1 200 OK\r\nContent-Type: {self.kind}\r\n{length}Connection: close\r\n\r\n".encode()
            )
            for piece in self.pieces or (self.body,):
                writer.write(piece)
                await writer.drain()
                if self.pieces:
                    await asyncio.sleep(0)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


class Spending:
    """What the admin port of a running gateway says of money."""

    admin: str
    client: aiohttp.ClientSession

    async def usage(self) -> dict[str, Any]:
        """The tenant's figures, once nothing is held any more."""
        for _ in range(200):
            async with self.client.get(self.admin + "/usage") as reply:
                found: dict[str, Any] = (await reply.json())["tenants"]["anonymous"]
            if Decimal(found["held_usd"]) == 0:
                return found
            await asyncio.sleep(0.01)
        raise AssertionError(f"still held: {found['held_usd']}")

    async def spent(self) -> Decimal:
        return Decimal((await self.usage())["spent_usd"])


@dataclass
class House(Spending):
    """A running gateway, the upstream behind it, and a client before it."""

    upstream: Canned
    url: str
    admin: str
    client: aiohttp.ClientSession

    async def post(self, path: str, body: Any) -> tuple[int, bytes]:
        async with self.client.post(self.url + path, data=orjson.dumps(body)) as reply:
            return reply.status, await reply.read()


@contextlib.asynccontextmanager
async def _canned(
    settings: str = "", budget: str = "1000 USD/day", store: str = "memory://", text: str = POLICY
) -> AsyncIterator[House]:
    upstream = Canned()
    server = await asyncio.start_server(upstream.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    upstream.url = f"http://127.0.0.1:{port}"
    made = text.format(url=upstream.url, settings=settings, budget=budget, store=store)
    head = {"authorization": "Bearer k", "content-type": "application/json"}
    try:
        async with gateway(made) as (url, admin), aiohttp.ClientSession(headers=head) as client:
            yield House(upstream, url, admin, client)
    finally:
        server.close()
        await server.wait_closed()


@pytest.fixture
def policy_text() -> str:
    """The policy of `canned`, to be changed and given to it as `text`."""
    return POLICY


@pytest.fixture
def canned() -> Callable[..., AbstractAsyncContextManager[House]]:
    return _canned


# -- the same before the simulated provider

SIMULATED = """
server: {{store: "{store}"}}
providers:
  openai: {{dialect: openai, base_url: "{sim}/v1"{more}}}
  claude: {{dialect: anthropic, base_url: "{sim}"}}
  google: {{dialect: gemini, base_url: "{sim}"}}
routes:
  - match: {{model: ["claude-*"]}}
    to: [claude]
  - match: {{model: ["gemini-*"]}}
    to: [google]
  - match: {{any: true}}
    to: [openai]
tenants: {{anonymous: {{tier: free}}}}
tiers: {{free: {{budget: {budget}}}}}
plugins:
  - use: cost_cap
    {settings}
"""


@dataclass
class Simulated(Spending):
    """A running gateway, the provider behind it, and a client before it."""

    sim: Any
    url: str
    admin: str
    client: aiohttp.ClientSession

    async def post(self, body: dict[str, Any], path: str = "/v1/chat/completions") -> tuple[int, Any, Any]:
        async with self.client.post(self.url + path, json=body) as reply:
            text = await reply.text()
            data = None
            with contextlib.suppress(ValueError):
                data = await reply.json(content_type=None)
            return reply.status, data if data is not None else text, reply.headers


@contextlib.asynccontextmanager
async def _opened(
    settings: str = "",
    budget: str = "1 USD/day",
    more: str = "",
    store: str = "memory://",
    text: str = SIMULATED,
) -> AsyncIterator[Simulated]:
    async with FakeProvider() as sim:
        made = text.format(sim=sim.url, settings=settings, budget=budget, more=more, store=store)
        async with (
            gateway(made) as (url, admin),
            aiohttp.ClientSession(headers={"authorization": "Bearer k"}) as client,
        ):
            yield Simulated(sim, url, admin, client)


@pytest.fixture
def opened() -> Callable[..., AbstractAsyncContextManager[Simulated]]:
    return _opened


@pytest.fixture
def simulated() -> type[Simulated]:
    return Simulated


@pytest.fixture
def simulated_text() -> str:
    """The policy of `opened`, to be changed and given to it as `text`."""
    return SIMULATED
