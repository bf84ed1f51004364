"""A gateway without sockets: real policy, engine, dialects and filters, bytes in and bytes out, at any cut.

What the transport of an attempt would read from the network comes from the simulator's plan of the same answer, cut as
networks cut; what the mount would write is read as a client reads it. The tests of `transport` and `mounts` prove the
rest, and a share of these streams runs over sockets.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

import pytest

from llmshield.answer import Take
from llmshield.dialects import WireRequest
from llmshield.exchange import Incoming
from llmshield.runtime import Runtime
from llmshield.simulator.provider import Provider
from llmshield.testing import policy
from llmshield.transport import Timeouts

Cut = Callable[[list[bytes]], list[bytes]]
"""What a provider writes -> how it arrives."""


class _Answer:
    """The head of a planned answer, and its body in pieces."""

    def __init__(self, provider: Provider, request: WireRequest, prefix: str, cut: Cut) -> None:
        query = f"?{request.query}" if request.query else ""
        got = provider.record(
            request.method, f"{prefix}{request.path}{query}", list(request.headers.items()), request.body, 0.0
        )
        plan = provider.answer(got)
        self.status = plan.status
        self.headers: Mapping[str, str] = dict(plan.headers)
        self._pieces = iter(cut([step for step in plan.steps() if isinstance(step, bytes)]))

    async def chunk(self, take: Take | None = None) -> bytes:
        while True:
            piece = next(self._pieces, b"")
            if len(piece) % 16 == 1:
                await asyncio.sleep(0)  # others have their turn now and then
            if not piece or take is None or not take(piece):
                return piece

    def rest(self) -> None:
        return None

    def idle_after(self, seconds: float) -> None:
        """Nobody is silent here."""

    def close(self) -> None:
        """There is nothing to let go."""


class _Straight:
    """A transport of one provider that leads to the simulator's plans without a socket."""

    def __init__(self, of: Inside, prefix: str) -> None:
        self._of = of
        self._prefix = prefix

    async def ask(self, request: WireRequest, timeouts: Timeouts) -> _Answer:
        return _Answer(self._of.provider, request, self._prefix, self._of.cut)

    async def close(self) -> None:
        """There is nothing to close."""


class _Taker:
    """A client that takes whatever it is sent."""

    lingers = False

    def __init__(self) -> None:
        self.started = self.ended = False
        self.status = 0
        self.headers: dict[str, str] = {}
        self.raw = bytearray()

    async def start(self, status: int, headers: Mapping[str, str]) -> None:
        self.started, self.status, self.headers = True, status, dict(headers)

    async def send(self, data: bytes) -> None:
        self.raw += data

    def at_once(self, data: bytes) -> None:
        self.raw += data

    async def end(self) -> None:
        self.ended = True

    def cut(self) -> None:
        raise AssertionError("the connection was cut")


class Inside:
    """A policy at work between a client and the simulator's provider without a socket, bytes in and bytes out: some
    milliseconds for a stream. What is left out is the server and the upstream's connection."""

    def __init__(self, wires: tuple[Any, ...], provider: Provider, plugins: str) -> None:
        """With a single wire, its provider is asked whatever the client speaks."""
        made = sorted({wire.policy("http://127.0.0.1:9") for wire in wires})
        providers = "".join(f"  p{number}: {text}\n" for number, text in enumerate(made))
        route = "routes: [{match: {any: true}, to: [{provider: p0, model: m}]}]\n" if len(wires) == 1 else ""
        self.provider = provider
        self.cut: Cut = list
        self._runtime = Runtime(policy(f"providers:\n{providers}{route}plugins:\n{plugins}"), mount="gateway")

    async def __aenter__(self) -> Inside:
        await self._runtime.start()
        for name, one in self._runtime.policy.providers.items():
            self._runtime.transports[name] = _Straight(self, urlsplit(one.base_url or "").path)
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._runtime.close()

    async def ask(
        self, wire: Any, prompt: str = "hi", *, stream: bool, n: int = 1, logprobs: bool = False, more: Any = (),
    ) -> Any:  # fmt: skip
        """Ask, `more` put into the body, and read to the end."""
        path, data, headers = _request(wire, prompt, stream, n, logprobs, more)
        path, _, query = path.partition("?")

        async def read_body(limit: int) -> bytes:
            return data

        taker = _Taker()
        raw = [(name.encode(), value.encode()) for name, value in headers.items()]
        await self._runtime.engine.handle(
            Incoming("POST", path.encode(), query.encode(), raw, "127.0.0.1", read_body), taker
        )
        assert taker.ended
        streamed = stream and taker.status == 200
        return wire.read(taker.status, bytes(taker.raw), taker.headers, stream=streamed)

    def unguarded(
        self, wire: Any, prompt: str = "hi", *, stream: bool, n: int = 1, logprobs: bool = False, more: Any = (),
    ) -> Any:  # fmt: skip
        """The same asked of the provider itself."""
        path, data, headers = _request(wire, prompt, stream, n, logprobs, more)
        plan = self.provider.answer(self.provider.record("POST", path, list(headers.items()), data, 0.0))
        raw = b"".join(step for step in plan.steps() if isinstance(step, bytes))
        return wire.read(plan.status, raw, dict(plan.headers), stream=stream and plan.status == 200)


def _request(
    wire: Any, prompt: str, stream: bool, n: int, logprobs: bool, more: Any
) -> tuple[str, bytes, dict[str, str]]:
    """Path, body and headers."""
    path, body = wire.request(prompt, stream, n, logprobs)
    headers = {"content-type": "application/json", **wire.headers()}
    return path, json.dumps({**body, **dict(more)}).encode(), headers


def arriving(rng: random.Random) -> Cut:
    """Bytes cut as networks cut them: by event, in runs of events, anywhere, all at once, in crumbs."""

    def cut(steps: list[bytes]) -> list[bytes]:
        chance = rng.random()
        if chance < 0.3:
            return steps
        whole = b"".join(steps)
        if chance < 0.4:
            return [whole]
        if chance < 0.95 or len(whole) > 8_000:
            at = sorted(rng.sample(range(len(whole) + 1), min(len(whole), rng.randint(1, 60))))
            return [piece for a, b in zip([0, *at], [*at, len(whole)], strict=True) if (piece := whole[a:b])]
        size = rng.choice((1, 2, 3, 7))
        return [whole[i : i + size] for i in range(0, len(whole), size)]

    return cut


@pytest.fixture(scope="session")
def inside(wires: tuple[Any, ...]) -> Callable[..., Inside]:
    """`async with inside(provider, plugins) as gate: await gate.ask(wire, stream=True)`; `only`: the provider's wire."""
    return lambda provider, plugins, only=None: Inside(wires if only is None else (only,), provider, plugins)


@pytest.fixture(scope="session")
def cuts() -> Callable[[random.Random], Cut]:
    """`gate.cut = cuts(rng)`: how answers arrive from now on."""
    return arriving
