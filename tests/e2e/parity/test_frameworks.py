"""langchain-openai and pydantic-ai get the same objects through a policy as straight from the provider."""

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_openai import OpenAIEmbeddings
from pydantic import BaseModel
from pydantic_ai import Agent
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.google import GoogleModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.google import GoogleProvider
from pydantic_ai.providers.openai import OpenAIProvider

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    # google-genai inherits from aiohttp.ClientSession, which aiohttp deprecates.
    pytest.mark.filterwarnings("ignore:Inheritance class .* from ClientSession:DeprecationWarning"),
]

ASK = "What is the tide like today? \N{WATER WAVE} Grüße, ça va\u2028?"
CALLS = 'Look both up. [[call weather {"city": "Brest", "days": 2}]] [[call tides {"city": "Brest \\u00e9", "days": 1}]]'
CASES: dict[str, Callable[[Any], Awaitable[Any]]] = {}
TOOLS = json.loads(Path(__file__).with_name("tools.json").read_bytes())


class Weather(BaseModel):
    city: str
    celsius: int
    notes: list[str]


def case(name: str) -> Callable[[Any], Any]:
    def keep(run: Any) -> Any:
        assert name not in CASES
        CASES[name] = run
        return run

    return keep


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
    async def _(c: Any, options: Any = _options) -> Any:
        return mute(c, await c.langchain(**options).ainvoke(HISTORY))

    @case(f"langchain-{_name}-stream")
    async def _(c: Any, options: Any = _options) -> Any:
        return [mute(c, chunk) async for chunk in c.langchain(**options).astream(HISTORY)]


def mute(c: Any, reply: Any) -> Any:
    """Without the ids that langchain makes up for a run."""
    found = c.plain(reply)
    if found["id"].startswith(("run-", "lc_run-")):
        del found["id"]
    return found


@case("langchain-tools")
async def _(c: Any) -> Any:
    return mute(c, await c.langchain().bind_tools(TOOLS).ainvoke(CALLS))


@case("langchain-structured")
async def _(c: Any) -> Any:
    return await c.langchain().with_structured_output(Weather, method="json_schema").ainvoke(ASK)


@case("langchain-embeddings")
async def _(c: Any) -> Any:
    made = OpenAIEmbeddings(model="text-embedding-3-small", dimensions=8, check_embedding_ctx_length=False,
                            client=object(), async_client=c.openai.embeddings, api_key="sk-any")  # fmt: skip
    return await made.aembed_documents(["one", "two"])


# -- pydantic-ai ---------------------------------------------------------------------------------------------------


def agents(c: Any) -> dict[str, Any]:
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
    async def _(c: Any, name: str = _name) -> Any:
        done = await Agent(agents(c)[name], tools=[weather]).run(
            'Go. [[call weather {"city": "Brest", "days": 2}]]'
        )
        assert "2 days of rain in Brest" in done.output
        return [done.output, c.plain(json.loads(done.all_messages_json())), repr(done.usage)]

    @case(f"pydantic-ai-{_name}-structured")
    async def _(c: Any, name: str = _name) -> Any:
        done = await Agent(agents(c)[name], output_type=Weather).run(ASK)
        return [c.plain(done.output), repr(done.usage)]

    @case(f"pydantic-ai-{_name}-stream")
    async def _(c: Any, name: str = _name) -> Any:
        async with Agent(agents(c)[name]).run_stream(ASK) as run:
            text = "".join([piece async for piece in run.stream_text(delta=True)])
            assert "tide" in text
            return [text, c.plain(json.loads(run.all_messages_json())), repr(run.usage)]


@pytest.mark.parametrize("name", CASES)
async def test_objects_are_the_same(same: Any, name: str) -> None:
    await same(name, CASES[name])
