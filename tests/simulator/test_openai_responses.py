"""The responses API, read by the official SDK."""

import json

import openai
import pytest
from pydantic import BaseModel

TOOL = {
    "type": "function",
    "name": "get_weather",
    "strict": True,
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
        "additionalProperties": False,
    },
}


@pytest.fixture
async def client(start, openai_of):
    async with openai_of(await start(name="provider-b")) as made:
        yield made


async def collected(client, **asked):
    stream = await client.responses.create(stream=True, model="m", **asked)
    return [event async for event in stream]


async def test_whole(client):
    reply = await client.responses.create(
        model="gpt-5", instructions="Be brief.", input="hi", metadata={"a": "b"}, max_output_tokens=100
    )

    assert reply.output_text == "Hello, I am provider-b. You said: hi"
    assert reply.status == "completed"
    assert reply.instructions == "Be brief."
    assert reply.metadata == {"a": "b"}
    assert reply.usage.output_tokens == 9
    assert reply.usage.total_tokens == reply.usage.input_tokens + 9


async def test_the_complete_list_of_events(client):
    events = await collected(
        client, input=[{"role": "user", "content": [{"type": "input_text", "text": "hi"}]}]
    )
    kinds = [e.type for e in events]
    deltas = kinds.count("response.output_text.delta")

    assert kinds == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        *["response.output_text.delta"] * deltas,
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert [e.sequence_number for e in events] == list(range(len(events)))
    text = "".join(e.delta for e in events if e.type == "response.output_text.delta")
    assert text == events[-4].text == events[-3].part.text == events[-1].response.output_text
    assert events[-1].response.usage.output_tokens == 9
    assert events[0].response.usage is None


async def test_the_sdks_own_accumulator_agrees(client):
    async with client.responses.stream(model="m", input="hi", tools=[TOOL]) as stream:
        final = await stream.get_final_response()

    assert final.output_text == "Hello, I am provider-b. You said: hi"


@pytest.mark.parametrize("choice", ["required", {"type": "function", "name": "get_weather"}])
async def test_function_calls(client, choice):
    asked = {"input": 'x [[call get_weather {"city": "Rome"}]]', "tools": [TOOL], "tool_choice": choice}
    whole = await client.responses.create(model="m", **asked)
    events = await collected(client, **asked)
    call = whole.output[0]
    pieces = [e.delta for e in events if e.type == "response.function_call_arguments.delta"]

    assert (call.type, call.name, json.loads(call.arguments)) == (
        "function_call",
        "get_weather",
        {"city": "Rome"},
    )
    assert call.call_id.startswith("call_")
    assert "".join(pieces) == call.arguments == events[-1].response.output[0].arguments
    assert "response.function_call_arguments.done" in [e.type for e in events]


async def test_a_function_result_and_a_custom_tool(client):
    answered = await client.responses.create(
        model="m",
        input=[
            {"role": "user", "content": "go"},
            {"type": "function_call", "call_id": "call_1", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "call_1", "output": "12 degrees"},
        ],
    )
    asked = {"input": "[[call shell ls]]", "tools": [{"type": "custom", "name": "shell"}]}
    whole = await client.responses.create(model="m", **asked)
    events = await collected(client, **asked)

    assert answered.output_text.endswith("The tool said: 12 degrees")
    assert whole.output[0].input == "ls"
    assert [e.delta for e in events if e.type == "response.custom_tool_call_input.delta"] == ["ls"]


async def test_reasoning_with_a_summary(client):
    asked = {"input": "hi", "reasoning": {"effort": "low", "summary": "auto"}}
    asked["include"] = ["reasoning.encrypted_content"]
    whole = await client.responses.create(model="m", **asked)
    kinds = [e.type for e in await collected(client, **asked)]
    silent = await client.responses.create(model="m", input="hi", reasoning={"effort": "low"})

    assert [item.type for item in whole.output] == ["reasoning", "message"]
    assert whole.output[0].summary[0].text.startswith("The user")
    assert whole.output[0].encrypted_content
    assert (
        whole.usage.output_tokens_details.reasoning_tokens
        == silent.usage.output_tokens_details.reasoning_tokens
        > 0
    )
    assert silent.output[0].summary == []
    for part in ("part.added", "text.delta", "text.done", "part.done"):
        assert f"response.reasoning_summary_{part}" in kinds


async def test_bound_and_filter_end_incomplete(client):
    short = await client.responses.create(model="m", input="hi", max_output_tokens=2)
    events = await collected(client, input="hi", max_output_tokens=2)
    filtered = await client.responses.create(model="m@fault=filter_finish", input="hi")

    assert (short.status, short.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert short.output_text == "Hello, I"
    assert events[-1].type == "response.incomplete"
    assert filtered.incomplete_details.reason == "content_filter"


async def test_refusals(client):
    whole = await client.responses.create(model="sim-refusal", input="hi")
    kinds = [e.type for e in await collected(client, input="[[simulate fault=refusal]]hi")]

    assert whole.output[0].content[0].refusal == "I can't help with that."
    assert "response.refusal.delta" in kinds
    assert "response.refusal.done" in kinds


async def test_citations(client):
    asked = {"input": "bob@example.com", "extra_headers": {"x-simulate": "citations=1"}}
    whole = await client.responses.create(model="m", **asked)
    events = await collected(client, **asked)
    cited = whole.output[0].content[0].annotations[0]
    added = [e for e in events if e.type == "response.output_text.annotation.added"]

    assert whole.output_text[cited.start_index : cited.end_index] == "bob@example.com"
    assert [e.annotation.title for e in added] == [cited.title]
    assert [e.sequence_number for e in events] == list(range(len(events)))


class City(BaseModel):
    name: str
    people: int


async def test_structured_output_and_logprobs(client):
    parsed = await client.responses.parse(model="m", input="hi", text_format=City)
    logs = await client.responses.create(
        model="m", input="hi", include=["message.output_text.logprobs"], top_logprobs=1
    )

    assert parsed.output_parsed == City(name="text", people=1)
    assert "".join(p.token for p in logs.output[0].content[0].logprobs) == logs.output_text


@pytest.mark.parametrize("body", [{"input": []}, {"input": 5}, {"input": "x", "max_output_tokens": -1}])
async def test_bad_requests(client, body):
    with pytest.raises(openai.BadRequestError):
        await client.responses.create(model="m", **body)


async def test_an_error_event(client):
    events = await collected(client, input="[[simulate fault=error_in_200]] hi")

    assert events[-1].type == "error"
    assert events[-1].message
