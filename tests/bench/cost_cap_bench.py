"""What cost_cap adds to one small call, in CPU time: the whole engine with a provider that answers at once.

    python tests/bench/cost_cap_bench.py [rounds]

Prints microseconds of a call without a plugin, with one that does nothing, and with cost_cap under a budget, on the
memory store; the least of several rounds, since other programs only ever add. The goal is 25 us in all, of which the
hooks themselves (the plugin that does nothing) take 8.
"""

import asyncio
import gc
import json
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmshield.dialects import WireRequest
from llmshield.exchange import Incoming
from llmshield.runtime import Runtime
from llmshield.testing import policy
from llmshield.transport import Timeouts

POLICY = """
providers: {openai: {dialect: openai, base_url: "http://127.0.0.1:1/v1"}}
routes: [{match: {any: true}, to: [openai]}]
tenants: {anonymous: {tier: free}}
tiers: {free: {budget: 1000000 USD/day}}
plugins: [%s]
"""
NOTHING = """
from llmshield.hookspecs import Plugin
class Nothing(Plugin):
    def pre_request(self, call): call.guard_attempt(self.guard)
    def guard(self, attempt): attempt.at_end(self.end)
    def end(self, attempt): attempt.cost_picousd = 123456
"""
MESSAGE = {"role": "assistant", "content": "Fine, thanks. " * 20}
REPLY = json.dumps(
    {"id": "x", "object": "chat.completion", "created": 1, "model": "gpt-4o-mini",
     "choices": [{"index": 0, "message": MESSAGE, "finish_reason": "stop"}],
     "usage": {"prompt_tokens": 200, "completion_tokens": 60, "total_tokens": 260}}
).encode()  # fmt: skip
BODY = json.dumps(
    {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "How are you? " * 50}], "max_tokens": 200}
).encode()  # fmt: skip
HEADERS = [(b"authorization", b"Bearer k"), (b"content-type", b"application/json"), (b"host", b"x")]
CALLS = 50


class Answer:
    """The head and the body of the reply."""

    def __init__(self) -> None:
        self.status = 200
        self.headers = {"content-type": "application/json"}
        self._parts = [REPLY]

    async def chunk(self, take: object = None) -> bytes:
        return self._parts.pop() if self._parts else b""

    def rest(self) -> None:
        return None

    def idle_after(self, seconds: float) -> None:
        """Nothing here is ever silent."""

    def close(self) -> None:
        """Nothing to close."""


class AtOnce:
    """A provider that has answered already."""

    async def ask(self, request: WireRequest, timeouts: Timeouts) -> Any:
        return Answer()

    async def close(self) -> None:
        """Nothing to close."""


class Silent:
    """A client that takes everything."""

    started = False
    lingers = False
    status = 0

    async def start(self, status: int, headers: Mapping[str, str]) -> None:
        self.started, self.status = True, status

    async def send(self, data: bytes) -> None:
        """Taken."""

    async def end(self) -> None:
        """Taken."""

    def cut(self) -> None:
        """Never."""


async def body(limit: int) -> bytes:
    return BODY


async def call(runtime: Runtime) -> None:
    client = Silent()
    incoming = Incoming("POST", b"/v1/chat/completions", b"", list(HEADERS), "127.0.0.1", body)
    await runtime.engine.handle(incoming, client)
    assert client.status == 200


async def main(rounds: int, folder: Path) -> None:
    (folder / "nothing.py").write_text(NOTHING)
    houses: dict[str, Runtime] = {}
    for name, plugins in (("no plugin", ""), ("a plugin that does nothing", "{use: ./nothing.py}"), ("cost_cap", "{use: cost_cap}")):  # fmt: skip
        runtime = houses[name] = Runtime(policy(POLICY % plugins, folder), mount="gateway")
        await runtime.start()
        for provider in list(runtime.transports):
            await runtime.transports[provider].close()
            runtime.transports[provider] = AtOnce()
        for _ in range(300):
            await call(runtime)
    gc.collect()
    gc.freeze()
    gc.set_threshold(5_000, 20, 20)  # as `serve` does
    best = dict.fromkeys(houses, 1e9)
    for _ in range(rounds):
        for name, runtime in houses.items():
            began = time.process_time()
            for _ in range(CALLS):
                await call(runtime)
            best[name] = min(best[name], (time.process_time() - began) / CALLS * 1e6)
    for name, us in best.items():
        print(f"{name:28} {us:6.1f} us")
    print(f"cost_cap adds {best['cost_cap'] - best['no plugin']:.1f} us")
    for runtime in houses.values():
        await runtime.close()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 250, Path(made)))
