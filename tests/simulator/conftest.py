"""Simulators and raw sockets for the tests of the simulator."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from llmshield.simulator import Simulator, SimulatorThread

PATHS: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": (
        "/v1/chat/completions",
        {"model": "m", "messages": [{"role": "user", "content": "hello there"}]},
    ),
    "completions": ("/v1/completions", {"model": "m", "prompt": "hello there"}),
    "responses": ("/v1/responses", {"model": "m", "input": "hello there"}),
    "messages": (
        "/v1/messages",
        {"model": "m", "max_tokens": 500, "messages": [{"role": "user", "content": "hello there"}]},
    ),
    "gemini": ("/v1beta/models/m:generateContent", {"contents": [{"parts": [{"text": "hello there"}]}]}),
}


@dataclasses.dataclass
class Raw:
    """What came over the wire: `end` is fin, rst, or open when nothing more came in time."""

    wire: bytes
    end: str

    @property
    def head(self) -> bytes:
        return self.wire.partition(b"\r\n\r\n")[0]

    @property
    def status(self) -> int:
        return int(self.wire.split(b" ", 2)[1])

    @property
    def headers(self) -> dict[str, str]:
        lines = self.head.decode("latin-1").split("\r\n")[1:]
        return {k.lower(): v for k, _, v in (line.partition(": ") for line in lines)}

    @property
    def body(self) -> bytes:
        """The body without its chunks; what a broken framing leaves over is cut."""
        data = self.wire.partition(b"\r\n\r\n")[2]
        if "transfer-encoding" not in self.headers:
            return data
        found = b""
        while data:
            size, _, data = data.partition(b"\r\n")
            try:
                length = int(size, 16)
            except ValueError:
                break
            if not length:
                break
            found, data = found + data[:length], data[length + 2 :]
        return found

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def events(self) -> list[Any]:
        """The data of all server-sent events, parsed where they are JSON."""
        text = self.body.decode("utf-8-sig", "replace").replace("\r\n", "\n").replace("\r", "\n")
        found: list[Any] = []
        for block in text.split("\n\n"):
            lines = [line[5:].removeprefix(" ") for line in block.split("\n") if line.startswith("data:")]
            if lines:
                joined = "\n".join(lines)
                try:
                    found.append(json.loads(joined))
                except ValueError:
                    found.append(joined)
        return found


Start = Callable[..., Awaitable[Simulator]]
Ask = Callable[..., Awaitable[Raw]]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Start simulators that end with the test."""
    async with contextlib.AsyncExitStack() as stack:

        async def starting(**settings: Any) -> Simulator:
            return await stack.enter_async_context(Simulator(**settings))

        yield starting


@pytest.fixture
def paths() -> dict[str, tuple[str, dict[str, Any]]]:
    """A path and a small body for each API that streams."""
    return PATHS


@pytest.fixture
def thread() -> Any:
    """A simulator in a thread, for synchronous clients."""
    with SimulatorThread(name="threaded") as simulator:
        yield simulator


@pytest.fixture
def ask() -> Ask:
    """Send one request over a socket of one's own and read until the end, or for `wait` seconds."""

    async def asking(
        sim: Simulator,
        api: str = "chat",
        simulate: str = "",
        *,
        stream: bool = False,
        wait: float = 0.15,
        headers: str = "",
        method: str = "POST",
        path: str | None = None,
        body: Any = None,
        **fields: Any,
    ) -> Raw:
        target, tree = PATHS[api]
        if path is not None:
            target, tree = path, body
        tree = {**tree, **fields} if isinstance(tree, dict) else tree
        if stream and api == "gemini":
            target = target.replace(":generateContent", ":streamGenerateContent?alt=sse")
        elif stream:
            tree["stream"] = True
        data = b"" if tree is None else tree if isinstance(tree, bytes) else json.dumps(tree).encode()
        head = f"{method} {target} HTTP/1.1\r\nhost: test\r\ncontent-length: {len(data)}\r\n{headers}"
        if simulate:
            head += f"x-simulate: {simulate}\r\n"
        if "connection:" not in headers:
            # The end of the reply is the end of the connection, unless a fault has it otherwise.
            head += "connection: close\r\n"
        reader, writer = await asyncio.open_connection("127.0.0.1", sim.port, limit=1 << 24)
        found, end = bytearray(), "open"
        try:
            writer.write(head.encode() + b"\r\n" + data)
            async with asyncio.timeout(wait if wait < 0.2 else 5):
                while piece := await reader.read(1 << 20):
                    found += piece
                    if len(found) > 30_000_000:
                        return Raw(bytes(found), "open")
                end = "fin"
        except TimeoutError:
            pass
        except ConnectionResetError:
            end = "rst"
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
        return Raw(bytes(found), end)

    return asking


@contextlib.asynccontextmanager
async def _openai_of(sim: Simulator) -> AsyncIterator[Any]:
    import openai  # most tests of the simulator need no SDK

    async with openai.AsyncOpenAI(
        base_url=f"{sim.url}/v1",
        api_key="sk-test",
        max_retries=0,
        # Reading the system's certificates takes longer than all the rest, and nothing here speaks TLS.
        http_client=openai.DefaultAsyncHttpxClient(verify=False),
    ) as made:
        made.sim = sim  # type: ignore[attr-defined]
        yield made


@pytest.fixture(scope="session")
def openai_of() -> Callable[[Simulator], contextlib.AbstractAsyncContextManager[Any]]:
    """`async with openai_of(sim) as client`: openai-python aimed at a simulator, which is its `sim`."""
    return _openai_of
