"""The official SDKs get the same objects through a policy of all plugins as straight from the provider.

Each case is one thing that a program does with an SDK; it runs against the simulator, through the sidecar and
through the middleware around the simulator as an app. Input is clean, ids and dates are stable: objects and events
are equal, field by field, in order. What may differ is the HTTP head, and one thing in the body: a call without an
output bound gets one from the budget, which the responses API echoes.

Where a guard reads the output of a stream it holds text back: deltas are then cut elsewhere, and log-probabilities,
which spell every delta again, are left out. Everything else is the same (`folded`).
"""

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    # google-genai inherits from aiohttp.ClientSession, which aiohttp deprecates.
    pytest.mark.filterwarnings("ignore:Inheritance class .* from ClientSession:DeprecationWarning"),
]

ASK = "What is the tide like today? \N{WATER WAVE} Grüße, ça va\u2028?"
CALLS = 'Look both up. [[call weather {"city": "Brest", "days": 2}]] [[call tides {"city": "Brest \\u00e9", "days": 1}]]'
CASES: dict[str, Callable[[Any], Awaitable[Any]]] = {}
TOOLS = json.loads(Path(__file__).with_name("tools.json").read_bytes())
FLAT = [{"type": "function", **tool["function"]} for tool in TOOLS]  # type: ignore[dict-item]
CLAUDE_TOOLS = [
    {"name": tool["function"]["name"], "description": tool["function"]["description"],  # type: ignore[index]
     "input_schema": tool["function"]["parameters"]} for tool in TOOLS  # type: ignore[index]
]  # fmt: skip


class Weather(BaseModel):
    city: str
    celsius: int
    notes: list[str]


SCHEMA = {"type": "json_schema", "name": "weather", "strict": True, "schema": {**Weather.model_json_schema(), "additionalProperties": False}}  # fmt: skip


def case(name: str) -> Callable[[Any], Any]:
    def keep(run: Any) -> Any:
        assert name not in CASES
        CASES[name] = run
        return run

    return keep


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
    async def _(c: Any, options: Any = _options) -> Any:
        return await c.openai.chat.completions.create(**chat(options))

    @case(f"openai-chat-{_name}-stream")
    async def _(c: Any, options: Any = _options) -> Any:
        return await c.listed(await c.openai.chat.completions.create(**chat(options), stream=True))

    @case(f"openai-chat-{_name}-stream-usage")
    async def _(c: Any, options: Any = _options) -> Any:
        more: Any = {"stream": True, "stream_options": {"include_usage": True}}
        return await c.listed(await c.openai.chat.completions.create(**chat(options), **more))


@case("openai-chat-parse")
async def _(c: Any) -> Any:
    return await c.openai.chat.completions.parse(**chat({"response_format": Weather}))


@case("openai-chat-stream-helper")
async def _(c: Any) -> Any:
    async with c.openai.chat.completions.stream(
        **chat({"response_format": Weather, "tools": TOOLS})
    ) as stream:
        return [await c.listed(stream), c.plain(await stream.get_final_completion())]


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
    async def _(c: Any, options: Any = _options) -> Any:
        return await c.openai.responses.create(**response(options))

    @case(f"openai-responses-{_name}-stream")
    async def _(c: Any, options: Any = _options) -> Any:
        return await c.listed(await c.openai.responses.create(**response(options), stream=True))


@case("openai-responses-parse")
async def _(c: Any) -> Any:
    return await c.openai.responses.parse(
        model="gpt-4o", input=ASK, max_output_tokens=500, text_format=Weather
    )


@case("openai-responses-stream-helper")
async def _(c: Any) -> Any:
    async with c.openai.responses.stream(model="gpt-4o", input=ASK, max_output_tokens=500) as stream:
        return [await c.listed(stream), c.plain(await stream.get_final_response())]


for _name, _options in {
    "plain": {},
    "n": {"n": 2, "echo": True, "max_tokens": 30},
    "logprobs": {"logprobs": 2, "suffix": " end.", "max_tokens": 9},
    "batch": {"prompt": ["one", "two"]},
}.items():

    @case(f"openai-completions-{_name}")
    async def _(c: Any, options: Any = _options) -> Any:
        return await c.openai.completions.create(
            **{"model": "gpt-3.5-turbo-instruct", "prompt": ASK, **options}
        )

    @case(f"openai-completions-{_name}-stream")
    async def _(c: Any, options: Any = _options) -> Any:
        asked: Any = {"model": "gpt-3.5-turbo-instruct", "prompt": ASK, **options}
        return await c.listed(await c.openai.completions.create(**asked, stream=True))


@case("openai-completions-stream-usage")
async def _(c: Any) -> Any:
    return await c.listed(await c.openai.completions.create(
        model="gpt-3.5-turbo-instruct", prompt=ASK, stream=True, stream_options={"include_usage": True}))  # fmt: skip


for _name, _options in {
    "text": {"input": ASK},
    "many": {"input": ["one", "two", "three"], "dimensions": 8},
    "floats": {"input": ASK, "encoding_format": "float", "dimensions": 8},
    "tokens": {"input": [[1, 2, 3], [4, 5]], "encoding_format": "float", "dimensions": 4},
}.items():

    @case(f"openai-embeddings-{_name}")
    async def _(c: Any, options: Any = _options) -> Any:
        return await c.openai.embeddings.create(model="text-embedding-3-small", **options)


@case("openai-models")
async def _(c: Any) -> Any:
    return [await c.listed(c.openai.models.list()), c.plain(await c.openai.models.retrieve("gpt-4o")),
            c.plain(await c.openai.models.retrieve("ft:gpt-4o:org::1"))]  # fmt: skip


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
    async def _(c: Any, options: Any = _options) -> Any:
        return await c.anthropic.messages.create(**message(options))

    @case(f"anthropic-{_name}-stream")
    async def _(c: Any, options: Any = _options) -> Any:
        return await c.listed(await c.anthropic.messages.create(**message(options), stream=True))

    @case(f"anthropic-{_name}-stream-helper")
    async def _(c: Any, options: Any = _options) -> Any:
        async with c.anthropic.messages.stream(**message(options)) as stream:
            return [await c.listed(stream), c.plain(await stream.get_final_message())]


@case("anthropic-count-tokens")
async def _(c: Any) -> Any:
    asked = message(MESSAGES["history"])
    del asked["max_tokens"]
    return await c.anthropic.messages.count_tokens(**asked)


@case("anthropic-beta")
async def _(c: Any) -> Any:
    return await c.anthropic.beta.messages.create(**message({"betas": ["context-1m-2025-08-07"]}))


@case("anthropic-models")
async def _(c: Any) -> Any:
    return [
        await c.listed(c.anthropic.models.list()),
        c.plain(await c.anthropic.models.retrieve("claude-haiku-4-5")),
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
    async def _(c: Any, options: Any = _options) -> Any:
        return await c.gemini.aio.models.generate_content(**content(options))

    @case(f"gemini-{_name}-stream")
    async def _(c: Any, options: Any = _options) -> Any:
        return await c.listed(await c.gemini.aio.models.generate_content_stream(**content(options)))

    @case(f"gemini-{_name}-v1beta")
    async def _(c: Any, options: Any = _options) -> Any:
        return await c.listed(await c.beta.aio.models.generate_content_stream(**content(options)))


@case("gemini-count-tokens")
async def _(c: Any) -> Any:
    return await c.gemini.aio.models.count_tokens(model="gemini-2.5-flash", contents=ASK)


@case("gemini-embed")
async def _(c: Any) -> Any:
    return await c.gemini.aio.models.embed_content(model="gemini-embedding-001", contents=[ASK, "two"])


@case("gemini-models")
async def _(c: Any) -> Any:
    listing = [c.plain(model) async for model in await c.gemini.aio.models.list(config={"query_base": True})]
    return [listing, c.plain(await c.beta.aio.models.get(model="gemini-2.5-flash"))]


@pytest.mark.parametrize("name", CASES)
async def test_objects_are_the_same(same: Any, name: str) -> None:
    await same(name, CASES[name])
