"""Legacy completions, embeddings and models, read by the official SDK."""

import openai
import pytest


@pytest.fixture
async def client(start, openai_of):
    async with openai_of(await start(name="provider-b", models=["one", "two"])) as made:
        yield made


async def test_completions(client):
    asked = {"model": "m", "prompt": ["a", "hi"], "max_tokens": 50, "n": 2, "logprobs": 1, "echo": True}
    whole = await client.completions.create(**asked)
    found = [""] * 4
    async for chunk in await client.completions.create(**asked, stream=True):
        for choice in chunk.choices:
            found[choice.index] += choice.text

    assert len(whole.choices) == 4
    assert whole.choices[0].text == "hiHello, I am provider-b. You said: hi"
    assert "".join(whole.choices[0].logprobs.tokens) == "Hello, I am provider-b. You said: hi"
    assert found == [c.text for c in whole.choices]


async def test_completions_have_a_small_bound_of_their_own(client):
    reply = await client.completions.create(model="m", prompt="h" * 200)

    assert reply.usage.completion_tokens == 16
    assert reply.choices[0].finish_reason == "length"


async def test_completion_stream_usage(client):
    stream = await client.completions.create(
        model="m", prompt="hi", stream=True, stream_options={"include_usage": True}
    )
    chunks = [c async for c in stream]

    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == 9


@pytest.mark.parametrize("form", ["float", "base64"])
async def test_embeddings(client, form):
    reply = await client.embeddings.create(
        model="e", input=["one", "two"], dimensions=8, encoding_format=form
    )
    again = await client.embeddings.create(model="e", input="one", dimensions=8)

    assert [d.index for d in reply.data] == [0, 1]
    first = reply.data[0].embedding if form == "float" else again.data[0].embedding
    assert len(first) == 8
    assert sum(v * v for v in first) == pytest.approx(1.0, abs=1e-5)
    assert first == pytest.approx(again.data[0].embedding, abs=1e-6)
    assert reply.data[0].embedding != reply.data[1].embedding
    assert reply.usage.prompt_tokens == reply.usage.total_tokens == 2


async def test_embeddings_of_tokens(client):
    reply = await client.embeddings.create(model="e", input=[[1, 2, 3], [4]])

    assert len(reply.data) == 2
    assert len(reply.data[0].embedding) == 1536
    assert reply.usage.prompt_tokens == 4


@pytest.mark.parametrize("given", [[], [1, "a"], {"a": 1}])
async def test_bad_embedding_inputs(client, given):
    with pytest.raises(openai.BadRequestError):
        await client.embeddings.create(model="e", input=given)


async def test_models(client):
    listed = await client.models.list()
    one = await client.models.retrieve("one")

    assert [m.id for m in listed.data] == ["one", "two"]
    assert one.id == "one"
