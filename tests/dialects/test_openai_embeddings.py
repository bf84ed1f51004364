"""Embeddings: texts in, numbers out."""

from __future__ import annotations

import pytest

from llmshield.call import Usage
from llmshield.dialects import WireRequest
from llmshield.dialects._tree import dump, parse_body
from llmshield.dialects.openai_embeddings import OpenAIEmbeddings
from llmshield.errors import CallError, WireError
from llmshield.verdicts import Answer

API = OpenAIEmbeddings()


def read(**body):
    raw = dump({"model": "text-embedding-3-small", "input": "hi", **body})
    return API.read_call("c1", "embed", WireRequest("POST", "/v1/embeddings", body=raw), parse_body(raw))


@pytest.mark.parametrize(
    ("body", "texts", "unseen"),
    [
        ({}, ["hi"], []),
        ({"input": ["a b", "c"]}, ["a b", "c"], []),
        ({"input": [1, 2, 3]}, [], ["token_ids"]),
        ({"input": [[1, 2], [3]]}, [], ["token_ids"]),
        ({"input": ["a", [1, 2]]}, ["a"], ["token_ids"]),
        ({"input": [{"text": "a b"}]}, ["a b"], []),
        ({"input": [["a", 5]]}, ["a", "5"], []),
        ({"user": "u", "encoding_format": "base64", "dimensions": 8}, ["hi", "u"], []),
    ],
)
def test_what_is_read_and_what_is_unseen(body, texts, unseen):
    call = read(**body)

    assert sorted(text.value for text in call.texts if not text.is_name) == sorted(texts)
    assert call.unseen == unseen
    assert (call.operation, call.output_bound, call.stream) == ("embed", 0, False)


@pytest.mark.parametrize("value", [None, 5, {"a": "b"}, [1, "x"]])
def test_an_input_of_another_type_is_refused(value):
    with pytest.raises(WireError) as caught:
        read(input=value)
    assert caught.value.place == "/input"


def test_there_is_nothing_to_bound_and_nothing_to_stream():
    call = read(stream=True)
    body = API.write_call(call, "m")
    API.clamp(body, 5)

    assert body == {"model": "m", "input": "hi"}
    assert API.bound(body) == 0
    assert API.target(call, "m") == ("/embeddings", "")
    (event,) = API.open_stream(call).feed(b'data: {"data":[]}\n\n')
    assert event.error is not None


def test_a_reply_is_numbers():
    tree = {
        "object": "list",
        "data": [
            {"object": "embedding", "index": 0, "embedding": [0.5]},
            {"index": 1, "embedding": "AAAA", "note": "x"},
        ],
        "model": "m",
        "usage": {"prompt_tokens": 5, "total_tokens": 5},
    }
    reply = API.read_reply(read(), tree)

    assert [piece.holder[piece.key] for piece in reply.pieces] == ["x"]
    assert (reply.usage, reply.model, reply.finish) == (Usage(5, 0), "m", "stop")


@pytest.mark.parametrize(
    "tree", [None, [], {}, {"data": 5}, {"data": [1]}, {"error": {"message": "x"}, "data": []}]
)
def test_what_is_no_embedding_is_an_error(tree):
    assert API.read_reply(read(), tree).error is not None


def test_a_text_is_no_embedding():
    for ask in (API.answer, API.answer_stream):
        with pytest.raises(CallError) as caught:
            ask(read(), Answer("sorry"))
        assert caught.value.kind == "no_provider"
