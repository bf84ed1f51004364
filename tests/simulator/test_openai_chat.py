"""Chat completions, read by the official SDK."""

import json

import openai
import pytest
from pydantic import BaseModel

TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string"},
                "days": {"type": "integer", "minimum": 3},
                "unit": {"enum": ["C", "F"]},
                "note": {"type": "string"},
            },
            "required": ["city", "days", "unit"],
        },
    },
}
CUSTOM = {"type": "custom", "custom": {"name": "shell"}}


def said(text):
    return [{"role": "user", "content": text}]


@pytest.fixture
async def client(start, openai_of):
    async with openai_of(await start(name="provider-b")) as made:
        yield made


async def test_whole(client):
    reply = await client.chat.completions.create(model="gpt-4o", messages=said("Write to bob@example.com"))

    assert reply.choices[0].message.content == "Hello, I am provider-b. You said: Write to bob@example.com"
    assert reply.choices[0].finish_reason == "stop"
    assert reply.model == "gpt-4o"
    assert reply._request_id.startswith("req_sim")
    assert reply.usage.completion_tokens == -(-len(reply.choices[0].message.content) // 4)
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens
    assert client.sim.calls[0].usage == (reply.usage.prompt_tokens, reply.usage.completion_tokens)
    assert client.sim.calls[0].key == "sk-test"


async def test_a_stream_is_the_whole_in_pieces(client):
    messages = [
        {"role": "system", "content": "Be brief."},
        *said("first"),
        *said([{"type": "text", "text": "last"}]),
    ]
    whole = await client.chat.completions.create(model="m", messages=messages)
    stream = await client.chat.completions.create(
        model="m", messages=messages, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]

    assert chunks[0].choices[0].delta.role == "assistant"
    assert (
        "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
        == whole.choices[0].message.content
    )
    assert max(len(c.choices[0].delta.content or "") for c in chunks if c.choices) <= 4
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage
    assert all(c.usage is None for c in chunks[:-1])


async def test_no_usage_chunk_unless_asked(client):
    stream = await client.chat.completions.create(model="m", messages=said("hi"), stream=True)

    assert all([chunk.choices and chunk.usage is None async for chunk in stream])


async def test_n_choices(client):
    whole = await client.chat.completions.create(model="m", messages=said("hi"), n=3)
    texts = [c.message.content for c in whole.choices]
    stream = await client.chat.completions.create(model="m", messages=said("hi"), n=3, stream=True)
    found = ["", "", ""]
    async for chunk in stream:
        found[chunk.choices[0].index] += chunk.choices[0].delta.content or ""

    assert texts == found
    assert len(set(texts)) == 3
    assert whole.usage.completion_tokens == sum(-(-len(t) // 4) for t in texts)


async def test_logprobs(client):
    asked = {"model": "m", "messages": said("hi"), "logprobs": True, "top_logprobs": 2}
    whole = await client.chat.completions.create(**asked)
    tokens = whole.choices[0].logprobs.content
    stream = await client.chat.completions.create(**asked, stream=True)
    streamed = [c.choices[0].logprobs.content[0] async for c in stream if c.choices[0].logprobs]

    assert "".join(t.token for t in tokens) == whole.choices[0].message.content
    assert all(len(t.top_logprobs) == 2 and bytes(t.bytes).decode() == t.token for t in tokens)
    assert tokens == streamed


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
async def test_output_bound(client, field):
    reply = await client.chat.completions.create(model="m", messages=said("hi"), **{field: 3})

    assert reply.choices[0].message.content == "Hello, I am "
    assert reply.choices[0].finish_reason == "length"
    assert reply.usage.completion_tokens == 3


async def test_stop_sequences(client):
    reply = await client.chat.completions.create(model="m", messages=said("hi"), stop=["You", "am"])

    assert reply.choices[0].message.content == "Hello, I "
    assert reply.choices[0].finish_reason == "stop"


CALLS = [
    ("auto", 'please [[call get_weather {"city": "Rome ]]"}]]', [("get_weather", {"city": "Rome ]]"})]),
    ("auto", "[[call get_weather]]", [("get_weather", {"city": "text", "days": 3, "unit": "C"})]),
    ("auto", "[[call unknown]] [[call shell ls -l]]", [("shell", "ls -l")]),
    ("auto", "[[call get_weather {}]] and [[call shell]]", [("get_weather", {}), ("shell", "and")]),
    ("required", "no marks", [("get_weather", {"city": "text", "days": 3, "unit": "C"})]),
    ({"type": "custom", "custom": {"name": "shell"}}, "no marks", [("shell", "no marks")]),
    ("none", "[[call get_weather]]", []),
    ("auto", "no marks", []),
]


@pytest.mark.parametrize(("choice", "prompt", "expected"), CALLS)
@pytest.mark.parametrize("stream", [False, True])
async def test_tools(client, choice, prompt, expected, stream):
    asked = {"model": "m", "messages": said(prompt), "tools": [TOOL, CUSTOM], "tool_choice": choice}
    if stream:
        async with client.chat.completions.stream(**asked) as events:
            reply = await events.get_final_completion() if "shell" not in str(expected) else None
        if reply is None:
            return
    else:
        reply = await client.chat.completions.create(**asked)
    found = []
    for call in reply.choices[0].message.tool_calls or ():
        assert call.id.startswith("call_")
        found.append(
            (call.function.name, json.loads(call.function.arguments))
            if call.type == "function"
            else (call.custom.name, call.custom.input)
        )

    assert expected == found
    assert reply.choices[0].finish_reason == ("tool_calls" if expected else "stop")


async def test_tool_arguments_echo_and_results_come_back(client):
    headers = {"x-simulate": "args=echo"}
    asked = {"model": "m", "tools": [TOOL]}
    first = await client.chat.completions.create(
        **asked, messages=said("Ann [[call get_weather]]"), extra_headers=headers
    )
    message = first.choices[0].message
    history = [*said("Ann"), message.model_dump(exclude_none=True)]
    history.append({"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "12 degrees"})
    second = await client.chat.completions.create(**asked, messages=history)

    assert json.loads(message.tool_calls[0].function.arguments)["city"] == "Ann"
    assert second.choices[0].message.content == "Hello, I am provider-b. The tool said: 12 degrees"


async def test_legacy_functions(client):
    reply = await client.chat.completions.create(
        model="m", messages=said("[[call get_weather]]"), functions=[TOOL["function"]]
    )

    assert reply.choices[0].finish_reason == "function_call"
    assert reply.choices[0].message.function_call.name == "get_weather"


class Person(BaseModel):
    name: str
    age: int
    tags: list[str]
    boss: "Person | None"


async def test_structured_output(client):
    reply = await client.chat.completions.parse(
        model="m", messages=said("Who?"), response_format=Person, extra_headers={"x-simulate": "args=echo"}
    )
    loose = await client.chat.completions.create(
        model="m", messages=said("Who?"), response_format={"type": "json_object"}
    )

    assert reply.choices[0].message.parsed.name == "Who?"
    assert json.loads(loose.choices[0].message.content)["echo"] == "Who?"


async def test_exact_deltas_and_argument_pieces(client):
    client.sim.say(
        ["<EMA", "IL_", "1", ">"], {"tools": [{"name": "f", "arguments": ['{"a":"\\u00', 'e9"}']}]}
    )
    pieces = []
    for _ in range(2):
        stream = await client.chat.completions.create(model="m", messages=said("x"), stream=True)
        async for chunk in stream:
            delta = chunk.choices[0].delta
            pieces.extend(
                filter(None, [delta.content, *(c.function.arguments for c in delta.tool_calls or ())])
            )

    assert pieces == ["<EMA", "IL_", "1", ">", '{"a":"\\u00', 'e9"}']


async def test_usage_details_and_reasoning(client):
    headers = {"x-simulate": "cached=2, reasoning=50, usage=1000:200"}
    reply = await client.chat.completions.create(model="m", messages=said("hi"), extra_headers=headers)
    thought = await client.chat.completions.create(
        model="m", messages=said("hi"), extra_headers={"x-simulate": "thinking=1"}
    )

    assert reply.usage.prompt_tokens_details.cached_tokens == 2
    assert reply.usage.completion_tokens_details.reasoning_tokens == 50
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens) == (1000, 200)
    assert thought.choices[0].message.reasoning_content.startswith("The user")
    assert thought.usage.completion_tokens > thought.usage.completion_tokens_details.reasoning_tokens > 0


async def test_citations(client):
    asked = {
        "model": "m",
        "messages": said("bob@example.com"),
        "extra_headers": {"x-simulate": "citations=1"},
    }
    reply = await client.chat.completions.create(**asked)
    stream = await client.chat.completions.create(**asked, stream=True)
    streamed = [
        c.choices[0].delta.model_extra["annotations"] async for c in stream if c.choices[0].delta.model_extra
    ]
    cited = reply.choices[0].message.annotations[0].url_citation

    assert reply.choices[0].message.content[cited.start_index : cited.end_index] == "bob@example.com"
    assert "bob@example.com" in cited.title
    assert streamed == [[a.model_dump() for a in reply.choices[0].message.annotations]]


BAD = [
    {"messages": []},
    {"messages": "hi"},
    {"messages": said("x"), "max_tokens": 0},
    {"messages": said("x"), "max_tokens": "5"},
    {"messages": said("x"), "n": 1000},
    {"messages": said("x"), "model": ""},
]


@pytest.mark.parametrize("body", BAD)
async def test_bad_requests(client, body):
    with pytest.raises(openai.BadRequestError):
        await client.chat.completions.create(**{"model": "m", **body})


ERRORS = [
    (400, openai.BadRequestError),
    (401, openai.AuthenticationError),
    (403, openai.PermissionDeniedError),
    (404, openai.NotFoundError),
    (409, openai.ConflictError),
    (422, openai.UnprocessableEntityError),
    (429, openai.RateLimitError),
    (500, openai.InternalServerError),
    (503, openai.InternalServerError),
]


@pytest.mark.parametrize(("status", "kind"), ERRORS)
async def test_error_classes_and_the_sdks_retries(client, status, kind):
    patient = client.with_options(max_retries=1)
    with pytest.raises(kind):
        await patient.chat.completions.create(
            model=f"gpt-4o@fault={status}&retry_after_ms=1", messages=said("hi")
        )

    assert len(client.sim.calls) == (2 if status in (409, 429) or status >= 500 else 1)


async def test_an_error_in_the_stream_raises(client):
    with pytest.raises(openai.APIError, match="in the middle"):
        async for _ in await client.chat.completions.create(
            model="gpt-4o@fault=error_in_200", messages=said("hi"), stream=True
        ):
            pass


async def test_a_cut_stream_raises(client):
    stream = await client.chat.completions.create(model="sim-cut", messages=said("hi"), stream=True)
    with pytest.raises(Exception, match=r"peer|reset|closed|incomplete|Connection"):
        async for _ in stream:
            pass


def test_the_synchronous_sdk(thread):
    with openai.OpenAI(base_url=thread.url, api_key="k", max_retries=0) as client:
        whole = client.chat.completions.create(model="m", messages=said("hi"))
        streamed = client.chat.completions.create(model="m", messages=said("hi"), stream=True)
        text = "".join(c.choices[0].delta.content or "" for c in streamed)

    assert text == whole.choices[0].message.content == "Hello, I am threaded. You said: hi"
    assert [call.path for call in thread.calls] == ["/chat/completions"] * 2
