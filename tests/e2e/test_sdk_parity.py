"""The official SDKs get the same objects through a policy of all plugins as straight from the provider.

Each case is one thing that a program does with an SDK; it runs against the simulator, through the sidecar and
through the middleware around the simulator as an app. Input is clean, ids and dates are stable: objects and events
are equal, field by field, in order. What may differ is the HTTP head, and one thing in the body: a call without an
output bound gets one from the budget, which the responses API echoes.

Where a guard reads the output of a stream it holds text back: deltas are then cut elsewhere, and log-probabilities,
which spell every delta again, are left out. Everything else is the same (`folded`).
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import anthropic
import openai
import pytest
import pytest_asyncio
from google import genai
from google.genai import types as gt
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from pydantic import BaseModel
from pydantic_ai import Agent
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.google import GoogleModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.google import GoogleProvider
from pydantic_ai.providers.openai import OpenAIProvider

from llmshield.mounts.asgi import ShieldMiddleware
from llmshield.simulator import Received, Simulator, SimulatorApp
from llmshield.testing import gateway, policy

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    # google-genai inherits from aiohttp.ClientSession, which aiohttp deprecates.
    pytest.mark.filterwarnings("ignore:Inheritance class .* from ClientSession:DeprecationWarning"),
]

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

Case = Callable[["Clients"], Awaitable[Any]]
CASES: dict[str, Case] = {}


class Weather(BaseModel):
    city: str
    celsius: int
    notes: list[str]


class Clients:
    """Every SDK, aimed at one address. `upstream`: what the provider behind it has received."""

    upstream: list[Received]

    def __init__(self, url: str) -> None:
        self.url = url
        self.openai = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="sk-any")
        self.anthropic = anthropic.AsyncAnthropic(base_url=url, api_key="sk-ant-any")
        self.gemini = genai.Client(api_key="any", http_options=gt.HttpOptions(base_url=url))
        self.beta = genai.Client(
            api_key="any", http_options=gt.HttpOptions(base_url=url, api_version="v1beta")
        )

    def langchain(self, **options: Any) -> ChatOpenAI:
        shared: Any = {"root_async_client": self.openai, "async_client": self.openai.chat.completions}
        return ChatOpenAI(model="gpt-4o", base_url=f"{self.url}/v1", api_key="sk-any", client=object(), **shared, **options)  # fmt: skip

    async def aclose(self) -> None:
        await self.openai.close()
        await self.anthropic.close()
        await self.gemini.aio.aclose()
        await self.beta.aio.aclose()


def case(name: str) -> Callable[[Case], Case]:
    def keep(run: Case) -> Case:
        assert name not in CASES
        CASES[name] = run
        return run

    return keep


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["sidecar", "output", "middleware"])
async def both(
    request: pytest.FixtureRequest, serving_app: Any
) -> AsyncIterator[tuple[Clients, Clients, str]]:
    """Clients straight at the provider, and clients with the policy between."""
    async with AsyncExitStack() as stack:
        sim = await stack.enter_async_context(Simulator(stable=True))
        if request.param != "middleware":
            given = OUTPUT if request.param == "output" else SIDECAR
            url, _ = await stack.enter_async_context(gateway(given.replace("URL", sim.url)))
        else:
            provider = SimulatorApp(stable=True)
            app = ShieldMiddleware(provider, policy=policy(MIDDLEWARE))
            url = await stack.enter_async_context(serving_app(app))
        straight, guarded = Clients(sim.url), Clients(url)
        straight.upstream = sim.calls
        guarded.upstream = sim.calls if request.param != "middleware" else provider.provider.calls
        stack.push_async_callback(straight.aclose)
        stack.push_async_callback(guarded.aclose)
        yield straight, guarded, request.param


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


VOLATILE = frozenset({
    "sdk_http_response",  # google-genai keeps the HTTP head in the object
    "timestamp", "run_id", "conversation_id", "parsed_at",  # made by pydantic-ai itself
    "provider_url",  # the address that was asked
})  # fmt: skip


async def listed(stream: Any) -> list[Any]:
    return [plain(event) async for event in stream]


TOOLS = [
    {"type": "function", "function": {"name": name, "description": f"Look up the {name}.", "strict": True, "parameters": {
        "type": "object", "properties": {"city": {"type": "string", "description": "A town"}, "days": {"type": "integer"}},
        "required": ["city", "days"], "additionalProperties": False}}}
    for name in ("weather", "tides")
]  # fmt: skip
FLAT = [{"type": "function", **tool["function"]} for tool in TOOLS]  # type: ignore[dict-item]
CLAUDE_TOOLS = [
    {"name": tool["function"]["name"], "description": tool["function"]["description"],  # type: ignore[index]
     "input_schema": tool["function"]["parameters"]} for tool in TOOLS  # type: ignore[index]
]  # fmt: skip
ASK = "What is the tide like today? \N{WATER WAVE} Grüße, ça va\u2028?"
CALLS = 'Look both up. [[call weather {"city": "Brest", "days": 2}]] [[call tides {"city": "Brest \\u00e9", "days": 1}]]'
SCHEMA = {"type": "json_schema", "name": "weather", "strict": True, "schema": {**Weather.model_json_schema(), "additionalProperties": False}}  # fmt: skip


# -- openai: chat completions --------------------------------------------------------------------------------------

CHAT: dict[str, dict[str, Any]] = {
    "plain": {},
    "bound": {"max_completion_tokens": 5},
    "old-bound": {"max_tokens": 400, "temperature": 0, "seed": 7, "user": "someone"},
    "stop": {"stop": ["tide", "xyz"]},
    "n": {"n": 3},
    "logprobs": {"logprobs": True, "top_logprobs": 2},
    "n-logprobs": {"n": 2, "logprobs": True, "top_logprobs": 1, "max_tokens": 6},
    "tools": {"tools": TOOLS, "messages": [{"role": "user", "content": CALLS}]},
    "tools-n": {"tools": TOOLS, "n": 2, "messages": [{"role": "user", "content": CALLS}]},
    "tool-forced": {"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "tides"}}},
    "tool-custom": {"tools": [{"type": "custom", "custom": {"name": "shell"}}], "tool_choice": "required"},
    "json": {"response_format": {"type": "json_object"}},
    "schema": {"response_format": {"type": "json_schema", "json_schema": {k: v for k, v in SCHEMA.items() if k != "type"}}},
    "reasoning": {"reasoning_effort": "low", "model": "o4-mini", "extra_headers": {"x-simulate": "thinking=1"}},
    "refusal": {"extra_headers": {"x-simulate": "fault=refusal"}},
    "filtered": {"extra_headers": {"x-simulate": "fault=filter_finish"}},
    "citations": {"extra_headers": {"x-simulate": "citations=1"}},
    "cached": {"extra_headers": {"x-simulate": "cached=3,reasoning=2"}},
    "escapes": {"extra_headers": {"x-simulate": "ascii=1"}},
    "metadata": {"metadata": {"team": "blue", "purpose": "test"}, "store": True, "service_tier": "auto"},
    "history": {"messages": [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "name": "ada", "content": [
            {"type": "text", "text": "Look:"},
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo=", "detail": "low"}}]},
        {"role": "assistant", "content": None, "tool_calls": [
            {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Brest","days":1}'}}]},
        {"role": "tool", "tool_call_id": "call_1", "content": "Rain and \u00e9 wind"},
    ], "tools": TOOLS},
    "filler": {"extra_headers": {"x-simulate": "tokens=300"}},
}  # fmt: skip


def chat(options: dict[str, Any]) -> dict[str, Any]:
    return {"model": "gpt-4o", "messages": [{"role": "user", "content": ASK}], **options}


for _name, _options in CHAT.items():

    @case(f"openai-chat-{_name}")
    async def _(c: Clients, options: Any = _options) -> Any:
        return await c.openai.chat.completions.create(**chat(options))

    @case(f"openai-chat-{_name}-stream")
    async def _(c: Clients, options: Any = _options) -> Any:
        return await listed(await c.openai.chat.completions.create(**chat(options), stream=True))

    @case(f"openai-chat-{_name}-stream-usage")
    async def _(c: Clients, options: Any = _options) -> Any:
        more: Any = {"stream": True, "stream_options": {"include_usage": True}}
        return await listed(await c.openai.chat.completions.create(**chat(options), **more))


@case("openai-chat-parse")
async def _(c: Clients) -> Any:
    return await c.openai.chat.completions.parse(**chat({"response_format": Weather}))


@case("openai-chat-stream-helper")
async def _(c: Clients) -> Any:
    async with c.openai.chat.completions.stream(
        **chat({"response_format": Weather, "tools": TOOLS})
    ) as stream:
        return [await listed(stream), plain(await stream.get_final_completion())]


# -- openai: responses, completions, embeddings, models -------------------------------------------------------------

RESPONSES: dict[str, dict[str, Any]] = {
    "plain": {},
    "short": {"max_output_tokens": 16, "extra_headers": {"x-simulate": "tokens=300"}},
    "tools": {"tools": FLAT, "input": CALLS, "parallel_tool_calls": True},
    "tool-custom": {"tools": [{"type": "custom", "name": "shell"}], "tool_choice": "required"},
    "schema": {"text": {"format": SCHEMA}},
    "reasoning": {"model": "o4-mini", "reasoning": {"effort": "low", "summary": "auto"}, "include": ["reasoning.encrypted_content"]},
    "logprobs": {"top_logprobs": 2, "include": ["message.output_text.logprobs"]},
    "citations": {"extra_headers": {"x-simulate": "citations=1"}},
    "refusal": {"extra_headers": {"x-simulate": "fault=refusal"}},
    "history": {"instructions": "Be brief.", "input": [
        {"role": "user", "content": [{"type": "input_text", "text": ASK}]},
        {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": '{"city": "Brest", "days": 1}'},
        {"type": "function_call_output", "call_id": "c1", "output": "Rain"}], "tools": FLAT, "metadata": {"team": "blue"}},
}  # fmt: skip


def response(options: dict[str, Any]) -> dict[str, Any]:
    return {"model": "gpt-4o", "input": ASK, "max_output_tokens": 500, **options}


for _name, _options in RESPONSES.items():

    @case(f"openai-responses-{_name}")
    async def _(c: Clients, options: Any = _options) -> Any:
        return await c.openai.responses.create(**response(options))

    @case(f"openai-responses-{_name}-stream")
    async def _(c: Clients, options: Any = _options) -> Any:
        return await listed(await c.openai.responses.create(**response(options), stream=True))


@case("openai-responses-parse")
async def _(c: Clients) -> Any:
    return await c.openai.responses.parse(
        model="gpt-4o", input=ASK, max_output_tokens=500, text_format=Weather
    )


@case("openai-responses-stream-helper")
async def _(c: Clients) -> Any:
    async with c.openai.responses.stream(model="gpt-4o", input=ASK, max_output_tokens=500) as stream:
        return [await listed(stream), plain(await stream.get_final_response())]


for _name, _options in {
    "plain": {},
    "n": {"n": 2, "echo": True, "max_tokens": 30},
    "logprobs": {"logprobs": 2, "suffix": " end.", "max_tokens": 9},
    "batch": {"prompt": ["one", "two"]},
}.items():

    @case(f"openai-completions-{_name}")
    async def _(c: Clients, options: Any = _options) -> Any:
        return await c.openai.completions.create(
            **{"model": "gpt-3.5-turbo-instruct", "prompt": ASK, **options}
        )

    @case(f"openai-completions-{_name}-stream")
    async def _(c: Clients, options: Any = _options) -> Any:
        asked: Any = {"model": "gpt-3.5-turbo-instruct", "prompt": ASK, **options}
        return await listed(await c.openai.completions.create(**asked, stream=True))


@case("openai-completions-stream-usage")
async def _(c: Clients) -> Any:
    return await listed(await c.openai.completions.create(
        model="gpt-3.5-turbo-instruct", prompt=ASK, stream=True, stream_options={"include_usage": True}))  # fmt: skip


for _name, _options in {
    "text": {"input": ASK},
    "many": {"input": ["one", "two", "three"], "dimensions": 8},
    "floats": {"input": ASK, "encoding_format": "float", "dimensions": 8},
    "tokens": {"input": [[1, 2, 3], [4, 5]], "encoding_format": "float", "dimensions": 4},
}.items():

    @case(f"openai-embeddings-{_name}")
    async def _(c: Clients, options: Any = _options) -> Any:
        return await c.openai.embeddings.create(model="text-embedding-3-small", **options)


@case("openai-models")
async def _(c: Clients) -> Any:
    return [await listed(c.openai.models.list()), plain(await c.openai.models.retrieve("gpt-4o")),
            plain(await c.openai.models.retrieve("ft:gpt-4o:org::1"))]  # fmt: skip


# -- anthropic ----------------------------------------------------------------------------------------------------

MESSAGES: dict[str, dict[str, Any]] = {
    "plain": {},
    "short": {"max_tokens": 4},
    "stop": {"stop_sequences": ["tide"]},
    "system": {"system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
               "metadata": {"user_id": "u-1"}, "extra_headers": {"x-simulate": "cached=5,cache_write=2"}},
    "tools": {"tools": CLAUDE_TOOLS, "messages": [{"role": "user", "content": CALLS}]},
    "tool-forced": {"tools": CLAUDE_TOOLS, "tool_choice": {"type": "tool", "name": "tides"}},
    "thinking": {"thinking": {"type": "enabled", "budget_tokens": 1024}, "max_tokens": 2000},
    "thinking-tools": {"thinking": {"type": "enabled", "budget_tokens": 1024}, "max_tokens": 2000, "tools": CLAUDE_TOOLS,
                       "messages": [{"role": "user", "content": CALLS}]},
    "redacted": {"extra_headers": {"x-simulate": "thinking=redacted"}},
    "citations": {"extra_headers": {"x-simulate": "citations=1"}},
    "refusal": {"extra_headers": {"x-simulate": "fault=refusal"}},
    "escapes": {"extra_headers": {"x-simulate": "ascii=1"}},
    "history": {"messages": [
        {"role": "user", "content": [
            {"type": "document", "title": "Tides", "context": "A leaflet", "citations": {"enabled": True},
             "source": {"type": "text", "media_type": "text/plain", "data": "High at noon."}},
            {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}},
            {"type": "text", "text": "Read it."}]},
        {"role": "assistant", "content": [
            {"type": "thinking", "thinking": "Look it up.", "signature": "c2lnbmF0dXJl"},
            {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Brest", "days": 1}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": [{"type": "text", "text": "Rain"}]}]},
    ], "tools": CLAUDE_TOOLS},
}  # fmt: skip


def message(options: dict[str, Any]) -> dict[str, Any]:
    return {
        "model": "claude-haiku-4-5",
        "max_tokens": 300,
        "messages": [{"role": "user", "content": ASK}],
        **options,
    }


for _name, _options in MESSAGES.items():

    @case(f"anthropic-{_name}")
    async def _(c: Clients, options: Any = _options) -> Any:
        return await c.anthropic.messages.create(**message(options))

    @case(f"anthropic-{_name}-stream")
    async def _(c: Clients, options: Any = _options) -> Any:
        return await listed(await c.anthropic.messages.create(**message(options), stream=True))

    @case(f"anthropic-{_name}-stream-helper")
    async def _(c: Clients, options: Any = _options) -> Any:
        async with c.anthropic.messages.stream(**message(options)) as stream:
            return [await listed(stream), plain(await stream.get_final_message())]


@case("anthropic-count-tokens")
async def _(c: Clients) -> Any:
    asked = message(MESSAGES["history"])
    del asked["max_tokens"]
    return await c.anthropic.messages.count_tokens(**asked)


@case("anthropic-beta")
async def _(c: Clients) -> Any:
    return await c.anthropic.beta.messages.create(**message({"betas": ["context-1m-2025-08-07"]}))


@case("anthropic-models")
async def _(c: Clients) -> Any:
    return [
        await listed(c.anthropic.models.list()),
        plain(await c.anthropic.models.retrieve("claude-haiku-4-5")),
    ]


# -- google-genai --------------------------------------------------------------------------------------------------

FUNCTIONS = [{"function_declarations": [
    {"name": tool["function"]["name"], "description": tool["function"]["description"],  # type: ignore[index]
     "parameters_json_schema": tool["function"]["parameters"]} for tool in TOOLS]}]  # type: ignore[index]  # fmt: skip
GEMINI: dict[str, dict[str, Any]] = {
    "plain": {},
    "short": {"config": {"max_output_tokens": 4, "temperature": 0.1, "stop_sequences": ["xyz"]}},
    "system": {"config": {"system_instruction": "Be brief.", "safety_settings": [
        {"category": "HARM_CATEGORY_HARASSMENT", "threshold": "BLOCK_ONLY_HIGH"}]}},
    "candidates": {"config": {"candidate_count": 2}},
    "tools": {"contents": CALLS, "config": {"tools": FUNCTIONS}},
    "tool-forced": {"config": {"tools": FUNCTIONS, "tool_config": {"function_calling_config": {"mode": "ANY"}}}},
    "thinking": {"config": {"thinking_config": {"include_thoughts": True, "thinking_budget": 100}}},
    "logprobs": {"config": {"response_logprobs": True, "logprobs": 2}},
    "schema": {"config": {"response_mime_type": "application/json", "response_schema": Weather}},
    "citations": {"config": {"http_options": {"headers": {"x-simulate": "citations=1"}}}},
    "history": {"contents": [
        {"role": "user", "parts": [{"text": "Look:"}, {"inline_data": {"mime_type": "image/png", "data": b"\x89PNG"}}]},
        {"role": "model", "parts": [{"function_call": {"name": "weather", "args": {"city": "Brest", "days": 1}}}]},
        {"role": "user", "parts": [{"function_response": {"name": "weather", "response": {"result": "Rain"}}}]},
    ], "config": {"tools": FUNCTIONS}},
}  # fmt: skip


def content(options: dict[str, Any]) -> dict[str, Any]:
    return {"model": "gemini-2.5-flash", "contents": ASK, **options}


for _name, _options in GEMINI.items():

    @case(f"gemini-{_name}")
    async def _(c: Clients, options: Any = _options) -> Any:
        return await c.gemini.aio.models.generate_content(**content(options))

    @case(f"gemini-{_name}-stream")
    async def _(c: Clients, options: Any = _options) -> Any:
        return await listed(await c.gemini.aio.models.generate_content_stream(**content(options)))

    @case(f"gemini-{_name}-v1beta")
    async def _(c: Clients, options: Any = _options) -> Any:
        return await listed(await c.beta.aio.models.generate_content_stream(**content(options)))


@case("gemini-count-tokens")
async def _(c: Clients) -> Any:
    return await c.gemini.aio.models.count_tokens(model="gemini-2.5-flash", contents=ASK)


@case("gemini-embed")
async def _(c: Clients) -> Any:
    return await c.gemini.aio.models.embed_content(model="gemini-embedding-001", contents=[ASK, "two"])


@case("gemini-models")
async def _(c: Clients) -> Any:
    listing = [plain(model) async for model in await c.gemini.aio.models.list(config={"query_base": True})]
    return [listing, plain(await c.beta.aio.models.get(model="gemini-2.5-flash"))]


# -- langchain -----------------------------------------------------------------------------------------------------

HISTORY = [
    SystemMessage("Be brief."),
    HumanMessage("Look it up."),
    AIMessage("", tool_calls=[{"name": "weather", "args": {"city": "Brest", "days": 1}, "id": "call_1"}]),
    ToolMessage("Rain", tool_call_id="call_1"),
]
for _name, _options in {
    "chat": {},
    "usage": {"stream_usage": True},
    "logprobs": {"logprobs": True},
    "responses": {"use_responses_api": True, "max_tokens": 300},
}.items():

    @case(f"langchain-{_name}")
    async def _(c: Clients, options: Any = _options) -> Any:
        return mute(await c.langchain(**options).ainvoke(HISTORY))

    @case(f"langchain-{_name}-stream")
    async def _(c: Clients, options: Any = _options) -> Any:
        return [mute(chunk) async for chunk in c.langchain(**options).astream(HISTORY)]


def mute(reply: Any) -> Any:
    """Without the ids that langchain makes up for a run."""
    found = plain(reply)
    if found["id"].startswith(("run-", "lc_run-")):
        del found["id"]
    return found


@case("langchain-tools")
async def _(c: Clients) -> Any:
    return mute(await c.langchain().bind_tools(TOOLS).ainvoke(CALLS))


@case("langchain-structured")
async def _(c: Clients) -> Any:
    return await c.langchain().with_structured_output(Weather, method="json_schema").ainvoke(ASK)


@case("langchain-embeddings")
async def _(c: Clients) -> Any:
    made = OpenAIEmbeddings(model="text-embedding-3-small", dimensions=8, check_embedding_ctx_length=False,
                            client=object(), async_client=c.openai.embeddings, api_key="sk-any")  # fmt: skip
    return await made.aembed_documents(["one", "two"])


# -- pydantic-ai ---------------------------------------------------------------------------------------------------


def agents(c: Clients) -> dict[str, Any]:
    spoken = OpenAIProvider(openai_client=c.openai)
    return {
        "openai-chat": OpenAIChatModel("gpt-4o", provider=spoken),
        "openai": OpenAIResponsesModel("gpt-4o", provider=spoken, settings={"max_tokens": 500}),
        "anthropic": AnthropicModel(
            "claude-haiku-4-5", provider=AnthropicProvider(anthropic_client=c.anthropic)
        ),
        "google": GoogleModel("gemini-2.5-flash", provider=GoogleProvider(client=c.gemini)),
    }


def weather(city: str, days: int) -> str:
    """Look up the weather."""
    return f"{days} days of rain in {city}"


for _name in ("openai-chat", "openai", "anthropic", "google"):

    @case(f"pydantic-ai-{_name}")
    async def _(c: Clients, name: str = _name) -> Any:
        done = await Agent(agents(c)[name], tools=[weather]).run(
            'Go. [[call weather {"city": "Brest", "days": 2}]]'
        )
        assert "2 days of rain in Brest" in done.output
        return [done.output, plain(json.loads(done.all_messages_json())), repr(done.usage)]

    @case(f"pydantic-ai-{_name}-structured")
    async def _(c: Clients, name: str = _name) -> Any:
        done = await Agent(agents(c)[name], output_type=Weather).run(ASK)
        return [plain(done.output), repr(done.usage)]

    @case(f"pydantic-ai-{_name}-stream")
    async def _(c: Clients, name: str = _name) -> Any:
        async with Agent(agents(c)[name]).run_stream(ASK) as run:
            text = "".join([piece async for piece in run.stream_text(delta=True)])
            assert "tide" in text
            return [text, plain(json.loads(run.all_messages_json())), repr(run.usage)]


# -- the tests -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
async def test_objects_are_the_same(both: tuple[Clients, Clients, str], name: str) -> None:
    straight, guarded, how = both
    expected = plain(await CASES[name](straight))
    got = plain(await CASES[name](guarded))
    assert expected
    if how == "output" and ("stream" in name or name.endswith("-v1beta")):
        expected, got = folded(expected), folded(got)

    assert expected == got


# -- synchronous clients, and the HTTP head ------------------------------------------------------------------------


async def test_synchronous_clients_get_the_same(both: tuple[Clients, Clients, str]) -> None:
    """The other half of each SDK: its own transport, in a thread."""

    def run(url: str) -> list[Any]:
        said: Any = [{"role": "user", "content": ASK}]
        with (
            openai.OpenAI(base_url=f"{url}/v1", api_key="sk-any") as spoken,
            anthropic.Anthropic(base_url=url, api_key="sk-ant-any") as claude,
            genai.Client(api_key="any", http_options=gt.HttpOptions(base_url=url)) as gemini,
        ):
            streams = (
                spoken.chat.completions.create(model="gpt-4o", messages=said, stream=True),
                claude.messages.create(model="claude-haiku-4-5", max_tokens=300, messages=said, stream=True),
                gemini.models.generate_content_stream(model="gemini-2.5-flash", contents=ASK),
            )
            return [
                plain(spoken.chat.completions.create(model="gpt-4o", messages=said)),
                plain(claude.messages.create(model="claude-haiku-4-5", max_tokens=300, messages=said)),
                plain(gemini.models.generate_content(model="gemini-2.5-flash", contents=ASK)),
                *(folded([plain(event) for event in stream]) for stream in streams),
            ]

    expected, got = await asyncio.gather(*(asyncio.to_thread(run, clients.url) for clients in both[:2]))

    assert expected == got


async def test_the_heads_differ_as_documented(both: tuple[Clients, Clients, str]) -> None:
    """Nothing is lost but accounts, cookies and hop-by-hop fields; ours come beside it."""
    heads = []
    for clients in both[:2]:
        chat = await clients.openai.chat.completions.with_raw_response.create(
            model="gpt-4o", messages=[{"role": "user", "content": ASK}]
        )
        message = await clients.anthropic.messages.with_raw_response.create(
            model="claude-haiku-4-5", max_tokens=300, messages=[{"role": "user", "content": ASK}]
        )
        heads.append(
            [{name.lower(): value for name, value in raw.headers.items()} for raw in (chat, message)]
        )
    for straight, guarded in zip(*heads, strict=True):
        lost = {n for n in straight if straight[n] != guarded.get(n) and "ratelimit" not in n}

        assert lost <= {
            "openai-organization",
            "anthropic-organization-id",
            "content-length",
            "date",
            "server",
            "connection",
        }
        assert {n for n in straight if "ratelimit" in n} <= set(guarded)
        assert guarded["x-llmshield-action"] == "allow"
        assert guarded["x-llmshield-attempts"] == "1"


async def test_what_goes_upstream_is_what_was_sent(both: tuple[Clients, Clients, str]) -> None:
    """Bodies and heads arrive as the SDK wrote them, but for what the policy adds: usage in streams, a bound."""
    said: Any = [{"role": "user", "content": ASK}]
    seen = []
    for clients in both[:2]:
        await listed(await clients.openai.chat.completions.create(model="gpt-4o", messages=said, stream=True))
        chat = clients.upstream[-1]
        await clients.anthropic.beta.messages.create(
            model="claude-haiku-4-5", max_tokens=300, messages=said, extra_query={"beta": "true"},
            betas=["context-1m-2025-08-07", "future-2030-01-01"],
        )  # fmt: skip
        beta = clients.upstream[-1]
        await clients.gemini.aio.models.generate_content(model="gemini-2.5-flash", contents=ASK)
        seen.append((chat, beta, clients.upstream[-1]))
    for straight, guarded in zip(*seen, strict=True):
        lost = {name for name, value in straight.headers if guarded.header(name) != value}
        added = {key: value for key, value in guarded.json.items() if straight.json.get(key) != value}

        assert lost <= {"host", "content-length", "accept-encoding", "connection", "accept"}
        assert (straight.path, straight.params, straight.key) == (guarded.path, guarded.params, guarded.key)
        assert set(straight.json) <= set(guarded.json)
        if guarded is seen[1][0]:
            assert set(added) == {"stream_options", "max_completion_tokens"}
            assert guarded.json["stream_options"] == {"include_usage": True}
        elif guarded is seen[1][1]:
            assert added == {}
            assert guarded.header("anthropic-beta") == "context-1m-2025-08-07,future-2030-01-01"
        else:
            assert set(added) == {"generationConfig"}
