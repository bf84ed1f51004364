"""Legacy completions: prompts, suffixes, echoes, log-probabilities with offsets, streams."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmshield.call import Usage
from llmshield.dialects import WireRequest
from llmshield.dialects._tree import dump, parse_body
from llmshield.dialects.openai_completions import OpenAICompletions
from llmshield.errors import CallError, WireError
from llmshield.verdicts import Answer

API = OpenAICompletions()
DONE = b"data: [DONE]\n\n"


def read(**body):
    raw = dump({"model": "gpt-3.5-turbo-instruct", "prompt": "hi", **body})
    return API.read_call("c1", "generate", WireRequest("POST", "/v1/completions", body=raw), parse_body(raw))


@pytest.mark.parametrize(
    ("body", "texts", "unseen", "choices"),
    [
        ({}, ["hi"], [], 1),
        ({"prompt": None}, [], [], 1),
        ({"prompt": ["a b", "c"], "n": 2}, ["a b", "c"], [], 2),
        ({"prompt": [1, 2, 3], "best_of": 3}, [], ["token_ids"], 1),
        ({"prompt": [[1], [2]], "n": 2, "best_of": 5}, [], ["token_ids"], 2),
        (
            {"suffix": "end here", "stop": "\n\n", "user": "u", "echo": True},
            ["hi", "end here", "\n\n", "u"],
            [],
            1,
        ),
    ],
)
def test_what_is_read_what_is_unseen_and_how_often_it_is_answered(body, texts, unseen, choices):
    call = read(**body)

    assert [text.value for text in call.texts] == texts
    assert (call.unseen, call.choices) == (unseen, choices)


@pytest.mark.parametrize(
    ("body", "place"),
    [
        ({"prompt": 5}, "/prompt"),
        ({"prompt": {}}, "/prompt"),
        ({"max_tokens": -1}, "/max_tokens"),
        ({"best_of": 999}, "/best_of"),
    ],
)
def test_what_we_rely_on_must_have_its_type(body, place):
    with pytest.raises(WireError) as caught:
        read(**body)
    assert caught.value.place == place


def test_bounds():
    body = API.write_call(read(max_tokens=9, stream=True), "m")
    API.clamp(body, 5)

    assert (API.bound(body), body["stream_options"]) == (5, {"include_usage": True})
    assert API.bound(API.write_call(read(), "m")) is None


def choice(text, index=0, finish=None, logprobs=None):
    return {"text": text, "index": index, "logprobs": logprobs, "finish_reason": finish}


LOGPROBS = {
    "tokens": ["sec", "ret"],
    "token_logprobs": [-1, -2],
    "top_logprobs": [{"sec": -1}, {}],
    "text_offset": [0, 3],
}


@pytest.mark.parametrize(
    ("text", "logprobs", "said", "kept"),
    [
        ("a secret", None, "a X", None),
        ("secret", LOGPROBS, "X", None),
        ("hello", {**LOGPROBS, "tokens": ["hel", "lo"]}, "hello", True),
        ("hello", LOGPROBS, "hello", None),
        ("hello", {"tokens": "hello"}, "hello", None),
        ("hello", ["secret"], "hello", None),
    ],
)
def test_texts_of_a_whole_reply(text, logprobs, said, kept, filtered, replacing):
    tree = {
        "choices": [choice(text, 0, "length", json.loads(json.dumps(logprobs)))],
        "model": "m",
        "usage": {"prompt_tokens": 1, "completion_tokens": 2},
    }
    reply = API.read_reply(read(), tree)
    out = filtered(reply, replacing("secret", "X"))["choices"][0]

    assert out["text"] == said
    assert (out["logprobs"] is not None) == bool(kept)
    assert (reply.finish, reply.usage) == ("length", Usage(1, 2))


@pytest.mark.parametrize("tree", [None, {}, {"choices": []}, {"choices": [5]}, {"error": {"code": "x"}}])
def test_what_is_no_completion_is_an_error(tree):
    assert API.read_reply(read(), tree).error is not None


def chunk(*choices, **more):
    return (
        b"data: "
        + dump(
            {
                "id": "cmpl-1",
                "object": "text_completion",
                "created": 1,
                "model": "m",
                "choices": list(choices),
                **more,
            }
        )
        + b"\n\n"
    )


STREAM = (
    chunk(choice("a sec"))
    + chunk(choice("sec", 1), choice("ret b", logprobs={"tokens": ["ret", " b"]}))
    + chunk(choice("", 0, "stop"))
    + chunk(choice("r", 1, "stop"))
    + chunk(usage={"prompt_tokens": 1, "completion_tokens": 2})
    + DONE
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.integers(0, 1500), max_size=9))
def test_a_stream_says_what_a_whole_reply_would(cuts, relay, replacing):
    codec = API.open_stream(read(stream=True, n=2))
    got = relay(codec, STREAM, replacing("secret", "X"), cuts)
    said = ["", ""]
    for tree in got.trees:
        for one in tree["choices"]:
            said[one["index"]] += one["text"]

    assert said == ["a X b", "secr"]
    assert b"secret" not in got.raw
    assert len(got.events) == STREAM.count(b"\n\n") - 1, "the usage that nobody asked for is hidden"
    assert (codec.finish, codec.finished, codec.ended, codec.usage) == ("stop", True, True, Usage(1, 2))


def test_each_prompt_is_answered(relay):
    codec = API.open_stream(read(stream=True, prompt=["a", "b"]))
    relay(codec, chunk(choice("x", 0, "stop")))

    assert not codec.finished
    assert len(API.answer(read(prompt=["a", "b"], n=2), Answer("no"))["choices"]) == 4


def test_rest_of_a_stream_without_finish_and_a_stop(relay, replacing):
    codec = API.open_stream(read(stream=True))
    got = relay(codec, chunk(choice("a secre")), replacing("secret", "X"))

    assert [tree["choices"][0]["text"] for tree in got.trees] == ["a ", "secre"]
    assert got.raw.endswith(DONE)
    stop = codec.stop(CallError("blocked", "x"))
    assert json.loads(stop.split(b"\n\n")[0][6:])["choices"] == [choice("", 0, "content_filter")]
    assert stop.endswith(DONE)
