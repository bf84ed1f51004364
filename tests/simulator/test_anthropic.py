"""Anthropic messages, read by the official SDK."""

import anthropic
import pytest
from pydantic import BaseModel

TOOL = {
    "name": "get_weather",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}


def said(text):
    return [{"role": "user", "content": text}]


@pytest.fixture
async def client(start):
    sim = await start(name="provider-b", models=["claude-x"])
    async with anthropic.AsyncAnthropic(
        base_url=sim.url,
        api_key="sk-ant",
        max_retries=0,
        http_client=anthropic.DefaultAsyncHttpxClient(verify=False),
    ) as made:
        made.sim = sim
        yield made


def create(client, **more):
    return client.messages.create(**{"model": "claude", "max_tokens": 500, "messages": said("hi"), **more})


async def test_whole(client):
    reply = await create(client, system="Be kind.")

    assert reply.content[0].text == "Hello, I am provider-b. You said: hi"
    assert reply.stop_reason == "end_turn"
    assert reply.usage.output_tokens == 9
    assert reply._request_id.startswith("req_sim")
    assert client.sim.calls[0].header("anthropic-version")


async def test_the_order_of_events(client):
    stream = await create(client, stream=True)
    events = [e async for e in stream]
    kinds = [e.type for e in events]
    deltas = kinds.count("content_block_delta")

    assert kinds == [
        "message_start",
        "content_block_start",
        *["content_block_delta"] * deltas,
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    assert "".join(e.delta.text for e in events[2 : 2 + deltas]) == "Hello, I am provider-b. You said: hi"
    assert events[0].message.usage.output_tokens == 1
    assert events[-2].usage.output_tokens == 9


async def test_a_ping_is_on_the_wire(start, ask):
    raw = await ask(await start(), "messages", stream=True, wait=1)

    assert raw.body.count(b"event: ping\n") == 1
    assert raw.body.index(b"event: content_block_start") < raw.body.index(b"event: ping")


async def test_thinking_is_signed(client):
    asked = {"thinking": {"type": "enabled", "budget_tokens": 1024}, "max_tokens": 2000}
    whole = await create(client, **asked)
    async with client.messages.stream(model="claude", messages=said("hi"), **asked) as stream:
        final = await stream.get_final_message()
    sealed = await create(client, **asked, extra_headers={"x-simulate": "thinking=redacted"})

    assert [b.type for b in whole.content] == ["thinking", "text"]
    assert whole.content[0].signature
    assert final.content[0] == whole.content[0]
    assert sealed.content[0].type == "redacted_thinking"
    assert whole.usage.output_tokens > 9


CALLS = [
    ({"type": "auto"}, 'x [[call get_weather {"city": "Rome"}]]', {"city": "Rome"}),
    ({"type": "auto"}, "[[call get_weather]]", {"city": "text"}),
    ({"type": "any"}, "no marks", {"city": "text"}),
    ({"type": "tool", "name": "get_weather"}, "no marks", {"city": "text"}),
    ({"type": "none"}, "[[call get_weather]]", None),
]


@pytest.mark.parametrize(("choice", "prompt", "expected"), CALLS)
async def test_tools(client, choice, prompt, expected):
    asked = {
        "model": "c",
        "max_tokens": 500,
        "messages": said(prompt),
        "tools": [TOOL],
        "tool_choice": choice,
    }
    whole = await client.messages.create(**asked)
    async with client.messages.stream(**asked) as stream:
        final = await stream.get_final_message()
    for reply in (whole, final):
        found = [b for b in reply.content if b.type == "tool_use"]

        assert expected == (found[0].input if found else None)
        assert reply.stop_reason == ("tool_use" if found else "end_turn")
        assert not found or found[0].id.startswith("toolu_")


async def test_tool_results_come_back(client):
    result = {
        "type": "tool_result",
        "tool_use_id": "toolu_1",
        "content": [{"type": "text", "text": "12 degrees"}],
    }
    use = {"type": "tool_use", "id": "toolu_1", "name": "get_weather", "input": {}}
    messages = [*said("[[call get_weather]]"), {"role": "assistant", "content": [use]}, *said([result])]
    reply = await create(client, messages=messages, tools=[TOOL])

    assert reply.content[0].text == "Hello, I am provider-b. The tool said: 12 degrees"


async def test_bounds_stops_and_cache(client):
    short = await create(client, max_tokens=2)
    stopped = await create(client, stop_sequences=["You"])
    cached = await create(client, extra_headers={"x-simulate": "usage=100:5, cached=60, cache_write=10"})

    assert (short.content[0].text, short.stop_reason) == ("Hello, I", "max_tokens")
    assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", "You")
    assert (cached.usage.input_tokens, cached.usage.cache_read_input_tokens) == (30, 60)
    assert cached.usage.cache_creation_input_tokens == 10


async def test_citations(client):
    asked = {"extra_headers": {"x-simulate": "citations=1"}}
    whole = await create(client, **asked)
    async with client.messages.stream(model="c", max_tokens=500, messages=said("hi"), **asked) as stream:
        final = await stream.get_final_message()

    assert whole.content[0].citations[0].cited_text == "hi"
    assert final.content[0].citations == whole.content[0].citations


class City(BaseModel):
    name: str


async def test_structured_output(client):
    reply = await client.messages.parse(model="c", max_tokens=100, messages=said("hi"), output_format=City)

    assert reply.parsed_output == City(name="text")


async def test_count_tokens_models_and_beta(client):
    counted = await client.messages.count_tokens(model="c", messages=said("hi"), system="four")
    reply = await create(client)
    beta = await client.beta.messages.create(
        model="c", max_tokens=50, messages=said("hi"), betas=["x-2025-01-01"], extra_query={"beta": "true"}
    )
    models = await client.models.list()

    assert counted.input_tokens == reply.usage.input_tokens + 1
    assert beta.content[0].text.endswith("hi")
    assert client.sim.calls[2].query == "beta=true"
    assert client.sim.calls[2].header("anthropic-beta") == "x-2025-01-01"
    assert [m.id for m in models.data] == ["claude-x"]


ERRORS = [
    (400, anthropic.BadRequestError),
    (401, anthropic.AuthenticationError),
    (403, anthropic.PermissionDeniedError),
    (404, anthropic.NotFoundError),
    (413, anthropic.APIStatusError),
    (429, anthropic.RateLimitError),
    (500, anthropic.InternalServerError),
    (529, anthropic.APIStatusError),
]


@pytest.mark.parametrize(("status", "kind"), ERRORS)
async def test_error_classes(client, status, kind):
    with pytest.raises(kind) as caught:
        await create(client, model=f"sim-{status}")

    assert caught.value.status_code == status
    assert caught.value.body["type"] == "error"


async def test_an_error_event_raises(client):
    with pytest.raises(anthropic.APIStatusError, match="in the middle"):
        async for _ in await create(client, model="c@fault=error_in_200", stream=True):
            pass


@pytest.mark.parametrize("body", [{"messages": []}, {"max_tokens": 0}])
async def test_bad_requests(client, body):
    with pytest.raises(anthropic.BadRequestError):
        await create(client, **body)


def test_the_synchronous_sdk(thread):
    with anthropic.Anthropic(base_url=thread.url, api_key="k", max_retries=0) as client:
        asked = {"model": "c", "max_tokens": 99, "messages": said("hi")}
        whole = client.messages.create(**asked)
        with client.messages.stream(**asked) as stream:
            text = "".join(stream.text_stream)

    assert text == whole.content[0].text
