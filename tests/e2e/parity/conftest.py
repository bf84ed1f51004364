"""Every SDK, aimed straight at a provider and through a policy of all plugins, and what is compared of its objects."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from functools import cached_property
from typing import Any

import anthropic
import openai
import pytest
import pytest_asyncio
from google import genai
from google.genai import types as gt
from langchain_openai import ChatOpenAI
from pydantic import BaseModel

from llmshield.mounts.asgi import ShieldMiddleware
from llmshield.simulator import Received, Simulator, SimulatorApp
from llmshield.testing import gateway, policy

PLUGINS = """
version: 1
defaults: {timeout: 10s}
server: {store: "memory://"}
tenants: {anonymous: {tier: pro}}
tiers: {pro: {rate: [100000/minute], concurrent: 100, budget: 1000 USD/day}}
plugins:
  - {use: rate_limit}
  - {use: cost_cap}
  - {use: injection, scan: [system, user, assistant, tool]}
  - {use: pii, entities: {"*": {action: replace}}, restore: true, scan: [user, tool]}
  - {use: failover}
"""
SIDECAR = (
    PLUGINS
    + """
providers:
  openai: {dialect: openai, base_url: "URL/v1", prices: {input: 1, output: 4}, circuit: {}}
  anthropic: {dialect: anthropic, base_url: "URL", prices: {input: 1, output: 4}}
  gemini: {dialect: gemini, base_url: "URL", prices: {input: 1, output: 4}}
  down: {dialect: openai, base_url: "http://127.0.0.1:9/v1", prices: {input: 1, output: 4}}
routes:
  - {match: {model: "claude-*"}, to: [anthropic]}
  - {match: {model: "gemini-*"}, to: [gemini]}
  - {match: {any: true}, to: [openai, down]}
"""
)
OUTPUT = SIDECAR.replace("assistant, tool]", "assistant, tool, output]").replace(
    "[user, tool]", "[user, tool, output]"
)
MIDDLEWARE = PLUGINS + "providers: {app: {prices: {input: 1, output: 4}}}"
VOLATILE = frozenset({
    "sdk_http_response",  # google-genai keeps the HTTP head in the object
    "timestamp", "run_id", "conversation_id", "parsed_at",  # made by pydantic-ai itself
    "provider_url",  # the address that was asked
})  # fmt: skip

DELTAS = frozenset(
    {
        "content",
        "text",
        "delta",
        "partial_json",
        "thinking",
        "arguments",
        "input",
        "refusal",
        "reasoning_content",
    }
)
UNFOLDED = frozenset(
    {"logprobs", "logprobs_result", "snapshot", "parsed", "sequence_number", "tool_call_chunks"}
)
TAGS = ("type", "index", "output_index", "content_index", "thought", "event_kind")


def plain(value: Any) -> Any:
    """An SDK's object as JSON values; everything it holds, in order."""
    if isinstance(value, BaseModel):
        return plain(value.model_dump(mode="json", warnings=False))
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items() if key not in VOLATILE}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, bytes):
        return value.hex()
    return value if value is None or isinstance(value, str | int | float | bool) else repr(value)


def folded(value: Any) -> dict[str, Any]:
    """Events as what they add up to: the text of each channel, and of every other leaf its values in order."""
    out: dict[str, Any] = {}

    def walk(node: Any, path: str) -> None:
        if isinstance(node, dict):
            here = path + "".join(f"|{tag}={node[tag]}" for tag in TAGS if node.get(tag) is not None)
            for key, item in node.items():
                if key not in UNFOLDED:
                    walk(item, f"{here}/{key}")
        elif isinstance(node, list):
            for item in node:
                walk(item, path)
        elif isinstance(node, str) and path.rsplit("/", 1)[-1] in DELTAS:
            out[path] = out.get(path, "") + node
        elif node is not None and (seen := out.setdefault(path, []))[-1:] != [node]:
            seen.append(node)

    walk(value, "")
    return {path: seen for path, seen in out.items() if seen}


class Clients:
    """Every SDK, aimed at one address. `upstream`: what the provider behind it has received; `made`: what cases have
    made of its answers."""

    upstream: list[Received]

    def __init__(self, url: str) -> None:
        self.url = url
        self.made: dict[str, Any] = {}

    @cached_property
    def openai(self) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(base_url=f"{self.url}/v1", api_key="sk-any")

    @cached_property
    def anthropic(self) -> anthropic.AsyncAnthropic:
        return anthropic.AsyncAnthropic(base_url=self.url, api_key="sk-ant-any")

    @cached_property
    def gemini(self) -> genai.Client:
        return genai.Client(api_key="any", http_options=gt.HttpOptions(base_url=self.url))

    @cached_property
    def beta(self) -> genai.Client:
        options = gt.HttpOptions(base_url=self.url, api_version="v1beta")
        return genai.Client(api_key="any", http_options=options)

    def langchain(self, **options: Any) -> ChatOpenAI:
        shared: Any = {"root_async_client": self.openai, "async_client": self.openai.chat.completions}
        return ChatOpenAI(model="gpt-4o", base_url=f"{self.url}/v1", api_key="sk-any", client=object(), **shared, **options)  # fmt: skip

    async def aclose(self) -> None:
        """Those that were used."""
        for name in ("openai", "anthropic", "gemini", "beta"):
            if name in self.__dict__:
                client = getattr(self, name)
                await (client.aio.aclose() if isinstance(client, genai.Client) else client.close())

    @staticmethod
    def plain(value: Any) -> Any:
        """An SDK's object as JSON values; everything it holds, in order."""
        return plain(value)

    @staticmethod
    async def listed(stream: Any) -> list[Any]:
        return [plain(event) async for event in stream]

    @staticmethod
    def folded(value: Any) -> dict[str, Any]:
        """Events as what they add up to: the text of each channel, and of every other leaf its values in order."""
        return folded(value)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def straight() -> AsyncIterator[Clients]:
    """Clients straight at a provider."""
    async with Simulator(stable=True) as sim:
        made = Clients(sim.url)
        made.upstream = sim.calls
        yield made
        await made.aclose()


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["sidecar", "output", "middleware"])
async def both(
    request: pytest.FixtureRequest, straight: Clients, serving_app: Any
) -> AsyncIterator[tuple[Clients, Clients]]:
    """Clients straight at a provider, and clients with the policy between."""
    async with AsyncExitStack() as stack:
        if request.param == "middleware":
            app = SimulatorApp(stable=True)
            shield = ShieldMiddleware(app, policy=policy(MIDDLEWARE))
            guarded = Clients(await stack.enter_async_context(serving_app(shield)))
            guarded.upstream = app.provider.calls
        else:
            sim = await stack.enter_async_context(Simulator(stable=True))
            given = OUTPUT if request.param == "output" else SIDECAR
            url, _ = await stack.enter_async_context(gateway(given.replace("URL", sim.url)))
            guarded = Clients(url)
            guarded.upstream = sim.calls
        stack.push_async_callback(guarded.aclose)
        yield straight, guarded


Case = Callable[[Clients], Awaitable[Any]]


@pytest.fixture
def same(
    request: pytest.FixtureRequest, both: tuple[Clients, Clients]
) -> Callable[[str, Case], Awaitable[None]]:
    """`await same(name, case)`: what the case makes is something, and the same on both ways."""

    async def run(name: str, case: Case) -> None:
        straight, guarded = both
        if name not in straight.made:  # the provider is stable: once is enough for all three ways
            straight.made[name] = plain(await case(straight))
        expected = straight.made[name]
        got = plain(await case(guarded))
        assert expected
        held = request.node.callspec.params["both"] == "output"
        if held and ("stream" in name or name.endswith("-v1beta")):
            expected, got = folded(expected), folded(got)

        assert expected == got

    return run
