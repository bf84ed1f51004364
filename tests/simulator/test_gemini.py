"""Gemini, read by the official SDK."""

import json

import pytest
from google import genai
from google.genai import errors, types
from pydantic import BaseModel

# google-genai subclasses aiohttp's session, which aiohttp asks not to do.
pytestmark = pytest.mark.filterwarnings("ignore:Inheritance class:DeprecationWarning")


def weather(city: str) -> str:
    """Weather of a city."""
    return f"sunny in {city}"


DECLARED = types.Tool(
    function_declarations=[
        types.FunctionDeclaration(
            name="get_weather",
            parameters=types.Schema(
                type="OBJECT", properties={"city": types.Schema(type="STRING")}, required=["city"]
            ),
        )
    ]
)


def made(url):
    return genai.Client(
        api_key="g-key",
        http_options=types.HttpOptions(
            base_url=url, client_args={"verify": False}, async_client_args={"verify": False}
        ),
    )


@pytest.fixture
async def client(start):
    sim = await start(name="provider-b", models=["gem-x"])
    client = made(sim.url)
    client.aio.sim = sim
    yield client.aio
    await client.aio.aclose()
    client.close()


async def test_whole_and_streamed(client):
    whole = await client.models.generate_content(model="gemini-2.5-flash", contents="hi")
    chunks = [
        c async for c in await client.models.generate_content_stream(model="gemini-2.5-flash", contents="hi")
    ]

    assert whole.text == "Hello, I am provider-b. You said: hi"
    assert "".join(c.text or "" for c in chunks) == whole.text
    assert len(chunks) == 10
    assert chunks[-1].candidates[0].finish_reason == types.FinishReason.STOP
    assert chunks[-1].usage_metadata == whole.usage_metadata
    assert whole.usage_metadata.candidates_token_count == 9
    assert whole.model_version == "gemini-2.5-flash"
    assert client.sim.calls[0].key == "g-key"
    assert client.sim.calls[1].query == "alt=sse"


async def test_the_array_form_and_the_prefixes(start, ask):
    sim = await start()
    body = {"contents": [{"role": "user", "parts": [{"text": "hi"}]}]}
    for prefix in ("/v1beta", "/v1", "/v1alpha", ""):
        raw = await ask(sim, path=f"{prefix}/models/m:streamGenerateContent", body=body, wait=1)

        assert raw.headers["content-type"] == "application/json"
        assert len(raw.json) == len(raw.body.split(b",\r\n")) == sim.calls[-1].pieces - 1


async def test_tools(client):
    config = types.GenerateContentConfig(tools=[DECLARED])
    asked = await client.models.generate_content(
        model="m", contents='[[call get_weather {"city": "Rome"}]]', config=config
    )
    stream = await client.models.generate_content_stream(
        model="m",
        contents="no marks",
        config=types.GenerateContentConfig(
            tools=[DECLARED],
            tool_config=types.ToolConfig(function_calling_config=types.FunctionCallingConfig(mode="ANY")),
        ),
    )
    calls = [call async for chunk in stream for call in chunk.function_calls or ()]

    assert [(c.name, c.args) for c in asked.function_calls] == [("get_weather", {"city": "Rome"})]
    assert asked.candidates[0].content.parts[0].thought_signature
    assert [(c.name, c.args) for c in calls] == [("get_weather", {"city": "text"})]


async def test_the_sdks_own_function_loop(client):
    config = types.GenerateContentConfig(tools=[weather])
    reply = await client.models.generate_content(
        model="m", contents='[[call weather {"city": "Rome"}]]', config=config
    )

    assert reply.text == "Hello, I am provider-b. The tool said: sunny in Rome"
    assert len(client.sim.calls) == 2


async def test_citations(client):
    whole = await client.models.generate_content(model="m@citations=1", contents="hi")
    stream = await client.models.generate_content_stream(model="m@citations=1", contents="hi")
    last = [c async for c in stream][-1].candidates[0]
    source = whole.candidates[0].citation_metadata.citations[0]

    assert whole.text[source.start_index : source.end_index] == "hi"
    assert whole.candidates[0].grounding_metadata.grounding_supports[0].segment.text == "hi"
    assert last.citation_metadata == whole.candidates[0].citation_metadata
    assert last.grounding_metadata == whole.candidates[0].grounding_metadata


class City(BaseModel):
    name: str
    people: int


async def test_structured_output(client):
    config = types.GenerateContentConfig(response_mime_type="application/json", response_schema=City)
    reply = await client.models.generate_content(model="m", contents="hi", config=config)
    loose = await client.models.generate_content(
        model="m", contents="hi", config=types.GenerateContentConfig(response_mime_type="application/json")
    )

    assert reply.parsed == City(name="text", people=1)
    assert json.loads(loose.text)["echo"] == "hi"


async def test_thoughts(client):
    config = types.GenerateContentConfig(thinking_config=types.ThinkingConfig(include_thoughts=True))
    whole = await client.models.generate_content(model="m", contents="hi", config=config)
    stream = await client.models.generate_content_stream(model="m", contents="hi", config=config)
    thoughts = [p.text async for c in stream for p in c.candidates[0].content.parts if p.thought]

    assert whole.candidates[0].content.parts[0].thought
    assert "".join(thoughts) == whole.candidates[0].content.parts[0].text
    assert whole.usage_metadata.thoughts_token_count > 0
    usage = whole.usage_metadata
    assert usage.total_token_count == (
        usage.prompt_token_count + usage.candidates_token_count + usage.thoughts_token_count
    )


async def test_bounds_stops_candidates_and_logprobs(client):
    short = await client.models.generate_content(
        model="m", contents="hi", config=types.GenerateContentConfig(max_output_tokens=2)
    )
    more = await client.models.generate_content(
        model="m",
        contents="hi",
        config=types.GenerateContentConfig(
            candidate_count=2, stop_sequences=["You"], response_logprobs=True, logprobs=1
        ),
    )

    assert short.text == "Hello, I"
    assert short.candidates[0].finish_reason == types.FinishReason.MAX_TOKENS
    assert len(more.candidates) == 2
    assert more.candidates[0].content.parts[0].text == "Hello, I am provider-b. "
    assert more.candidates[0].logprobs_result.chosen_candidates[0].token == "Hell"


async def test_counting_embedding_and_models(client):
    counted = await client.models.count_tokens(model="m", contents="hi")
    embedded = await client.models.embed_content(
        model="e", contents=["a", "b"], config=types.EmbedContentConfig(output_dimensionality=4)
    )
    models = [m.name async for m in await client.models.list()]
    one = await client.models.get(model="gem-x")

    assert counted.total_tokens == 4
    assert [len(e.values) for e in embedded.embeddings] == [4, 4]
    assert models == ["models/gem-x"]
    assert one.name == "models/gem-x"


async def test_a_single_embedding(start, ask):
    body = {"content": {"parts": [{"text": "a"}]}}
    raw = await ask(await start(), path="/v1beta/models/e:embedContent", body=body, wait=1)

    assert len(raw.json["embedding"]["values"]) == 768


@pytest.mark.parametrize(
    ("status", "kind"), [(400, errors.ClientError), (429, errors.ClientError), (503, errors.ServerError)]
)
async def test_errors(client, status, kind):
    with pytest.raises(kind) as caught:
        await client.models.generate_content(model=f"gemini@fault={status};message=no", contents="hi")

    assert caught.value.code == status
    assert caught.value.message == "no"


async def test_directives_in_the_path(client):
    stream = await client.models.generate_content_stream(
        model="gem@fault=filter_finish;after=2", contents="hi"
    )
    chunks = [c async for c in stream]

    assert chunks[-1].candidates[0].finish_reason == types.FinishReason.SAFETY
    assert client.sim.calls[0].model == "gem"


async def test_line_separators_survive(client):
    stream = await client.models.generate_content_stream(model="sim-u2028", contents="hi")
    text = "".join([c.text or "" async for c in stream])

    assert "\u2028\u2029\u0085" in text


@pytest.mark.parametrize(
    "body", [{}, {"contents": []}, {"contents": [{"parts": []}], "generationConfig": {"maxOutputTokens": -1}}]
)
async def test_bad_requests(start, ask, body):
    raw = await ask(await start(), path="/v1beta/models/m:generateContent", body=body, wait=1)

    assert raw.status == 400
    assert raw.json["error"]["status"] == "INVALID_ARGUMENT"


def test_the_synchronous_sdk(thread):
    client = made(thread.url)
    whole = client.models.generate_content(model="m", contents="hi")
    text = "".join(c.text or "" for c in client.models.generate_content_stream(model="m", contents="hi"))
    client.close()

    assert text == whole.text
