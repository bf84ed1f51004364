"""Chat completions: what is a text, whose it is, what is bounded, and what happens to every kind of reply."""

from __future__ import annotations

import json
import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmshield.call import Call, Channel, Usage
from llmshield.dialects import WireRequest
from llmshield.dialects._tree import dump, parse_body
from llmshield.dialects.openai_chat import OpenAIChat
from llmshield.errors import CallError, WireError

CHAT = OpenAIChat()
MANY = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def read(**body) -> Call:
    tree = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}], **body}
    raw = dump(tree)
    return CHAT.read_call(
        "c1", "generate", WireRequest("POST", "/v1/chat/completions", body=raw), parse_body(raw)
    )


def chunk(*choices, **more) -> bytes:
    tree = {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "m",
        "choices": list(choices),
    }
    return b"data: " + dump({**tree, **more}) + b"\n\n"


def delta(index: int = 0, finish: str | None = None, **delta) -> dict:
    return {"index": index, "delta": delta, "finish_reason": finish}


DONE = b"data: [DONE]\n\n"


def texts(call: Call) -> list[tuple]:
    return [(text.role, text.place, text.value) for text in call.texts if not text.is_name]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"messages": [{"role": "system", "content": "a"}]}, [("system", "/messages/0/content", "a")]),
        ({"messages": [{"role": "developer", "content": "a"}]}, [("system", "/messages/0/content", "a")]),
        (
            {"messages": [{"role": "tool", "tool_call_id": "c", "content": "a"}]},
            [("tool", "/messages/0/content", "a")],
        ),
        (
            {"messages": [{"role": "tool", "content": '{"mail": "\\nal\\u0040x.example", "id": 7}'}]},
            [("tool", "/messages/0/content/mail", "\nal@x.example")],
        ),
        (
            {"messages": [{"role": "tool", "content": [{"type": "text", "text": '["\\u0041", 123456]'}]}]},
            [
                ("tool", "/messages/0/content/0/text/0", "A"),
                ("tool", "/messages/0/content/0/text/1", "123456"),
            ],
        ),
        (
            {
                "messages": [
                    {"role": "tool", "content": '{"mail": "al@x.example"}'},
                    {"role": "tool", "content": "{\\ no"},
                ]
            },
            [
                ("tool", "/messages/0/content", '{"mail": "al@x.example"}'),
                ("tool", "/messages/1/content", "{\\ no"),
            ],
        ),
        (
            {"messages": [{"role": "user", "name": "Al", "content": [{"type": "text", "text": "a"}]}]},
            [("user", "/messages/0/name", "Al"), ("user", "/messages/0/content/0/text", "a")],
        ),
        (
            {
                "messages": [
                    {"role": "assistant", "content": None, "refusal": "no", "reasoning_content": "hm"}
                ]
            },
            [
                ("assistant", "/messages/0/refusal", "no"),
                ("assistant", "/messages/0/reasoning_content", "hm"),
            ],
        ),
        (
            {
                "messages": [
                    {
                        "role": "assistant",
                        "tool_calls": [
                            {
                                "id": "c",
                                "type": "function",
                                "function": {"name": "f", "arguments": '{"a":[1,"x"]}'},
                            },
                            {"id": "d", "type": "custom", "custom": {"name": "g", "input": "free {text"}},
                        ],
                    }
                ]
            },
            [
                ("tool", "/messages/0/tool_calls/0/function/name", "f"),
                ("tool", "/messages/0/tool_calls/0/function/arguments/a/0", "1"),
                ("tool", "/messages/0/tool_calls/0/function/arguments/a/1", "x"),
                ("tool", "/messages/0/tool_calls/1/custom/name", "g"),
                ("tool", "/messages/0/tool_calls/1/custom/input", "free {text"),
            ],
        ),
        (
            {"messages": [{"role": "pirate king", "content": "a"}]},
            [("user", "/messages/0/role", "pirate king"), ("user", "/messages/0/content", "a")],
        ),
        (
            {"messages": [], "tools": [{"type": "function", "function": {"name": "f", "description": "d"}}]},
            [("tool", "/tools/0/function/name", "f"), ("tool", "/tools/0/function/description", "d")],
        ),
        (
            {"messages": [], "prediction": {"type": "content", "content": "guess"}, "stop": ["END NOW"]},
            [("user", "/prediction/content", "guess"), ("user", "/stop/0", "END NOW")],
        ),
        ({"messages": [], "strange": {"deep": ["x y"]}}, [("user", "/strange/deep/0", "x y")]),
        ({"messages": [], "logit_bias": {"50256": -100}, "seed": 7}, []),
    ],
)
def test_every_text_has_its_role_and_place(body, expected):
    assert texts(read(**body)) == expected


def test_what_no_model_reads_is_metadata():
    call = read(messages=[], user="u", metadata={"k": "v"}, safety_identifier="s", prompt_cache_key="p")

    assert {(text.kind, text.value) for text in call.texts} == {
        ("metadata", v) for v in ("u", "k", "v", "s", "p")
    }
    assert list(call.prompts()) == []


@pytest.mark.parametrize(
    ("part", "unseen", "seen"),
    [
        (
            {"type": "image_url", "image_url": {"url": "https://x.example/a?u=al@x.example"}},
            "image_url",
            "al@x.example",
        ),
        ({"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}, "image_data", ""),
        ({"type": "image_url", "image_url": "data:image/png;base64,iVBORw0KGgo="}, "image_data", ""),
        ({"type": "input_audio", "input_audio": {"data": "UklGRiQ=", "format": "wav"}}, "audio_data", ""),
        ({"type": "file", "file": {"file_id": "file-1"}}, "file_id", ""),
        (
            {"type": "file", "file": {"file_data": "data:application/pdf;base64,JVBERi0x/w=="}},
            "file_data",
            "",
        ),
        (
            {"type": "file", "file": {"filename": "my plan.txt", "file_data": "aGkgdGhlcmU="}},
            None,
            "hi there",
        ),
    ],
)
def test_what_can_not_be_read_is_marked(part, unseen, seen):
    call = read(messages=[{"role": "user", "content": [part]}])

    assert call.unseen == ([unseen] if unseen else [])
    assert seen in " ".join(text.value for text in call.texts)
    assert all(text.kind == "metadata" for text in call.texts if unseen == "image_url")


@pytest.mark.parametrize(
    ("body", "unseen"),
    [
        ({"web_search_options": {}}, ["server_tool:web_search"]),
        ({"messages": [{"role": "assistant", "audio": {"id": "audio_1"}}]}, ["audio_id"]),
        ({"tools": [{"type": "function"}, {"type": "custom"}]}, []),
        ({"tools": [{"type": "web_search_preview"}]}, ["server_tool:web_search_preview"]),
    ],
)
def test_what_the_provider_holds_or_runs_is_marked(body, unseen):
    assert read(**body).unseen == unseen


@pytest.mark.parametrize(
    ("body", "bound", "choices"),
    [
        ({}, None, 1),
        ({"max_tokens": 5}, 5, 1),
        ({"max_completion_tokens": 7, "n": 3}, 7, 3),
        ({"max_tokens": 9, "max_completion_tokens": 7}, 9, 1),
        ({"max_tokens": 5, "max_completion_tokens": 100_000}, 100_000, 1),
        ({"max_tokens": None, "n": None}, None, 1),
    ],
)
def test_bounds(body, bound, choices):
    call = read(**body)

    assert (call.output_bound, call.choices) == (bound, choices)
    assert CHAT.bound(CHAT.write_call(call, "m")) == bound


@pytest.mark.parametrize(
    ("body", "model", "clamped"),
    [
        ({}, "gpt-4o", {"max_completion_tokens": 5}),
        ({}, "ft:gpt-4o:acme", {"max_completion_tokens": 5}),
        ({}, "openai/o3-mini", {"max_completion_tokens": 5}),
        ({}, "llama3.1", {"max_tokens": 5}),
        ({}, "gpt-oss-20b", {"max_tokens": 5}),
        ({"max_tokens": 3}, "gpt-4o", {"max_tokens": 3}),
        ({"max_tokens": 9, "max_completion_tokens": 4}, "m", {"max_tokens": 5, "max_completion_tokens": 4}),
    ],
)
def test_a_clamp_lowers_what_is_there_or_sets_what_the_model_knows(body, model, clamped):
    out = CHAT.write_call(read(**body), model)
    CHAT.clamp(out, 5)

    assert {key: value for key, value in out.items() if key.startswith("max_")} == clamped


@pytest.mark.parametrize(
    ("body", "place"),
    [
        ({"model": None}, "/model"),
        ({"model": 5}, "/model"),
        ({"model": ""}, "/model"),
        ({"messages": "hi"}, "/messages"),
        ({"messages": None}, "/messages"),
        ({"messages": ["hi"]}, "/messages/0"),
        ({"messages": [{"content": "hi"}]}, "/messages/0/role"),
        ({"stream": "yes"}, "/stream"),
        ({"stream": 1}, "/stream"),
        ({"stream_options": []}, "/stream_options"),
        ({"stream": True, "stream_options": {"include_usage": "x"}}, "/stream_options/include_usage"),
        ({"max_tokens": "5"}, "/max_tokens"),
        ({"max_tokens": -1}, "/max_tokens"),
        ({"max_tokens": 0}, "/max_tokens"),
        ({"max_tokens": 1.5}, "/max_tokens"),
        ({"max_tokens": True}, "/max_tokens"),
        ({"n": 0}, "/n"),
        ({"n": 1000}, "/n"),
        ({"n": "2"}, "/n"),
        ({"Max_Tokens": 10**9}, ""),
        ({"MESSAGES": []}, ""),
        ({"me\u017f\u017fages": []}, ""),
        ({"\u212anown": 1, "to\u212a": 1, "max_to\u212aens": 9}, ""),
    ],
)
def test_what_we_rely_on_must_have_its_type(body, place):
    with pytest.raises(WireError) as caught:
        read(**body)
    assert caught.value.place == place


def test_usage_is_asked_for_upstream_and_the_clients_own_body_is_left_alone():
    call = read(stream=True, stream_options={"include_obfuscation": False})

    assert CHAT.write_call(call, "x")["stream_options"] == {
        "include_obfuscation": False,
        "include_usage": True,
    }
    assert call.body["stream_options"] == {"include_obfuscation": False}
    assert not call.wants_usage
    assert "stream_options" not in CHAT.write_call(read(), "x")
    assert read(stream=True, stream_options={"include_usage": True}).wants_usage


def test_paths_keys_and_queries():
    call = read()
    call.query = "api-version=1&key=sk-secret&%61pi_key=x"

    assert CHAT.target(call, "m") == ("/chat/completions", "api-version=1")
    assert CHAT.credentials("sk-1") == {"authorization": "Bearer sk-1"}
    assert CHAT.claims("GET", "/v1/models/gpt-4o", {}) == "models"
    assert CHAT.claims("GET", "/v1/models/ft:gpt-4o-mini:org::1", {}) == "models"
    assert CHAT.claims("GET", "/models/llama3:8b", {}) == "models"
    assert CHAT.claims("GET", "/v1/models/MyContent", {}) == "models"
    assert CHAT.claims("GET", "/v1/models/a:generateContent", {}) is None
    assert CHAT.claims("GET", "/v1/modelsx", {}) is None
    models = CHAT.read_call("1", "models", WireRequest("GET", "/v1/models/ft:x"), {})
    assert CHAT.target(models, "") == ("/models/ft:x", "")
    assert CHAT.read_reply(models, {"data": [{"id": "m"}]}).error is None


# Replies


def whole(message: dict, **choice) -> dict:
    return {
        "id": "1", "object": "chat.completion", "created": 1, "model": "m-2024",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop", **choice}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ({"content": "a secret"}, {"content": "a X"}),
        ({"content": None, "refusal": "secret"}, {"content": None, "refusal": "X"}),
        (
            {"reasoning_content": "secret", "reasoning": "secret"},
            {"reasoning_content": "X", "reasoning": "X"},
        ),
        (
            {
                "tool_calls": [
                    {
                        "id": "c",
                        "function": {"name": "secret", "arguments": '{"s\\u0065cret": "\\u0073ecret"}'},
                    }
                ]
            },
            {"tool_calls": [{"id": "c", "function": {"name": "X", "arguments": '{"X": "X"}'}}]},
        ),
        (
            {"tool_calls": [{"id": "c", "type": "custom", "custom": {"name": "f", "input": "{secret"}}]},
            {"tool_calls": [{"id": "c", "type": "custom", "custom": {"name": "f", "input": "{X"}}]},
        ),
        (
            {
                "tool_calls": [
                    {"function": {"name": "f", "arguments": {"a": ["secret", 5], "b": {"c": "secret"}}}}
                ]
            },
            {"tool_calls": [{"function": {"name": "f", "arguments": {"a": ["X", 5], "b": {"c": "X"}}}}]},
        ),
        (
            {"function_call": {"name": "f", "arguments": '"secret"'}},
            {"function_call": {"name": "f", "arguments": '"X"'}},
        ),
        ({"content": [{"type": "text", "text": "secret"}]}, {"content": [{"type": "text", "text": "X"}]}),
        (
            {"audio": {"id": "a", "data": "UklG", "transcript": "secret"}},
            {"audio": {"id": "a", "data": None, "transcript": "X"}},
        ),
        (
            {
                "annotations": [
                    {
                        "type": "url_citation",
                        "url_citation": {"title": "secret", "url": "u", "start_index": 3},
                    }
                ]
            },
            {
                "annotations": [
                    {"type": "url_citation", "url_citation": {"title": "X", "url": "u", "start_index": 3}}
                ]
            },
        ),
        (
            {
                "content": "secret",
                "annotations": [{"url_citation": {"url": "secret", "start_index": 3, "end_index": 4}}],
            },
            {
                "content": "X",
                "annotations": [{"url_citation": {"url": "X", "start_index": None, "end_index": None}}],
            },
        ),
        ({"provider_specific": {"thoughts": ["secret"]}}, {"provider_specific": {"thoughts": ["X"]}}),
    ],
)
def test_every_text_of_a_whole_reply_is_filtered(message, expected, filtered, replacing):
    reply = CHAT.read_reply(read(), whole(message))

    assert filtered(reply, replacing("secret", "X"))["choices"][0]["message"] == expected
    assert (reply.finish, reply.model, reply.usage) == ("stop", "m-2024", Usage(3, 4))


def test_log_probabilities_go_when_their_text_changes_and_stay_when_it_does_not(filtered, replacing):
    logprobs = {"content": [{"token": "sec"}, {"token": "ret"}], "refusal": None}
    for old, kept in (("secret", None), ("other", logprobs["content"])):
        reply = CHAT.read_reply(
            read(), whole({"content": "secret"}, logprobs=json.loads(json.dumps(logprobs)))
        )
        assert filtered(reply, replacing(old, "X"))["choices"][0]["logprobs"]["content"] == kept


@pytest.mark.parametrize(
    "logprobs",
    [
        {"content": [{"token": "other"}]},
        {"content": [{"token": 5}]},
        {"content": "secret"},
        [],
        "secret",
        {"content": [1]},
    ],
)
def test_log_probabilities_that_spell_another_text_do_not_pass(logprobs):
    reply = CHAT.read_reply(read(), whole({"content": "hello"}, logprobs=logprobs))

    assert "other" not in json.dumps(reply.tree)
    assert "secret" not in json.dumps(reply.tree)


def test_half_characters_are_spelled_by_bytes():
    entries = [{"token": "\\xf0\\x9f", "bytes": [240, 159]}, {"token": "\\x98\\x80", "bytes": [152, 128]}]
    reply = CHAT.read_reply(read(), whole({"content": "😀"}, logprobs={"content": entries}))

    assert reply.tree["choices"][0]["logprobs"]["content"] == entries


@pytest.mark.parametrize(
    "tree",
    [
        None,
        [],
        "x",
        {},
        {"choices": []},
        {"choices": None},
        {"choices": "x"},
        {"choices": [1]},
        {"error": {"message": "x"}},
    ],
)
def test_what_is_no_completion_is_an_error(tree):
    assert CHAT.read_reply(read(), tree).error is not None


USAGES = [
    (None, None),
    ({}, None),
    ({"prompt_tokens": 1, "completion_tokens": 2}, Usage(1, 2)),
    ({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}, Usage(0, 0)),
    ({"prompt_tokens": 1, "total_tokens": 1}, Usage(1, 0)),
    ({"prompt_tokens": 1.0, "completion_tokens": 2.0}, Usage(1, 2)),
    (
        {
            "prompt_tokens": 10, "completion_tokens": 20, "total_tokens": 30,
            "prompt_tokens_details": {"cached_tokens": 4, "audio_tokens": 1, "cache_write_tokens": 2},
            "completion_tokens_details": {"reasoning_tokens": 5, "audio_tokens": 2},
        },
        Usage(10, 20, cache_read=4, cache_write=2, reasoning=5, input_audio=1, output_audio=2),
    ),
    (
        {"prompt_tokens": 10, "completion_tokens": 20, "total_tokens": 35, "completion_tokens_details": {"reasoning_tokens": 5}},
        Usage(10, 25, reasoning=5),
    ),
    ({"prompt_tokens": None, "completion_tokens": 2}, Usage(None, 2)),
    *(
        (bad, Usage(malformed=True))
        for bad in (
            [], "x", 5, True,
            {"prompt_tokens": -1, "completion_tokens": 2},
            {"prompt_tokens": "1", "completion_tokens": 2},
            {"prompt_tokens": 1, "completion_tokens": 2.5},
            {"prompt_tokens": 1, "completion_tokens": 2**64},
            {"prompt_tokens": 1, "completion_tokens": float("nan")},
            {"prompt_tokens": 1, "completion_tokens": float("inf")},
            {"prompt_tokens": 1, "completion_tokens": {"tokens": 2}},
            {"prompt_tokens": True, "completion_tokens": 2},
            {"prompt_tokens": 1, "completion_tokens": 2, "prompt_tokens_details": 7},
            {"prompt_tokens": 1, "completion_tokens": 2, "completion_tokens_details": {"reasoning_tokens": -7}},
        )
    ),
]  # fmt: skip


@pytest.mark.parametrize("pieces", [("the fo", "x r", "uns"), ("the f", "o", "x"), ("f",)])
def test_what_says_what_an_object_is_stays_with_each_delta(relay, replacing, pieces):
    """`reasoning_details` as OpenRouter streams them: their words wait for a guard, `type`, `format`, `index` do not."""
    kind = {"type": "reasoning.text", "format": "anthropic-claude-v1", "index": 0}
    raw = b"".join(chunk(delta(reasoning_details=[{**kind, "text": text}])) for text in pieces)
    got = relay(
        CHAT.open_stream(read(stream=True)),
        raw + chunk(delta(finish="stop")) + DONE,
        replacing("fox", "cat"),
    )
    deltas = [
        one
        for line in got.raw.splitlines()
        if line.startswith(b"data: {")
        for one in json.loads(line[6:])["choices"][0]["delta"].get("reasoning_details", ())
    ]

    assert "".join(one["text"] for one in deltas) == "".join(pieces).replace("fox", "cat")
    assert [{**kind, "text": one["text"]} for one in deltas] == deltas


@pytest.mark.parametrize(("value", "usage"), USAGES)
def test_usage_in_any_shape(value, usage):
    reply = CHAT.read_reply(read(), {**whole({"content": "x"}), "usage": value})
    codec = CHAT.open_stream(read(stream=True))
    raw = json.dumps({"choices": [], "usage": value}).encode()
    codec.feed(b"data: " + raw + b"\n\n")

    assert reply.usage == usage
    assert codec.usage == usage


def test_a_search_of_the_web_is_counted():
    call = read(stream=True, web_search_options={})
    codec = CHAT.open_stream(call)
    codec.feed(chunk(usage={"prompt_tokens": 1, "completion_tokens": 2}))

    assert CHAT.read_reply(call, whole({"content": "x"})).usage == Usage(3, 4, tool_requests=1)
    assert codec.usage == Usage(1, 2, tool_requests=1)


def test_a_later_usage_never_lowers_an_earlier_one():
    codec = CHAT.open_stream(read(stream=True))
    for value in (
        {"prompt_tokens": 5, "completion_tokens": 9},
        {"prompt_tokens": 6, "completion_tokens": 3},
        "x",
        None,
    ):
        codec.feed(chunk(usage=value))
    codec.feed(DONE + chunk(usage={"prompt_tokens": 6, "completion_tokens": 12}))

    assert codec.usage == Usage(6, 12)


# Streams


STREAM = (
    chunk(delta(role="assistant", content=""))
    + b": keep-alive\n\n"
    + chunk(delta(content="my se"))
    + chunk(delta(1, content="se"), usage=None)
    + chunk(delta(content="cret is sec"), system_fingerprint="fp")
    + chunk(delta(1, content="cret"))
    + chunk(delta(1, finish="stop"))
    + chunk(delta(finish="stop"))
    + chunk(usage={"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7})
    + DONE
)


@MANY
@given(cuts=st.lists(st.integers(0, 2000), max_size=12))
def test_a_stream_says_what_a_whole_reply_would_and_keeps_its_events(cuts, relay, replacing):
    call = read(stream=True, n=2, stream_options={"include_usage": True})
    codec = CHAT.open_stream(call)
    got = relay(codec, STREAM, replacing("secret", "X"), cuts)
    said = {0: "", 1: ""}
    for tree in got.trees:
        for choice in tree["choices"]:
            said[choice["index"]] += choice["delta"].get("content") or ""

    assert said == {0: "my X is sec", 1: "X"}
    assert b"secret" not in got.raw
    assert len(got.events) == STREAM.count(b"\n\n")
    assert all(tree["id"] == "chatcmpl-1" for tree in got.trees)
    assert (codec.finish, codec.finished, codec.ended, codec.model) == ("stop", True, True, "m")
    assert codec.usage == Usage(3, 4)


def test_a_client_that_did_not_ask_for_usage_does_not_see_it(relay):
    got = relay(CHAT.open_stream(read(stream=True, n=2)), STREAM + b"")

    assert b"usage" not in got.raw
    assert len(got.events) == STREAM.count(b"\n\n") - 1
    late = chunk(delta(finish="stop"), usage={"prompt_tokens": 1}) + DONE
    assert b"usage" not in relay(CHAT.open_stream(read(stream=True)), late).raw


def test_an_empty_chunk_that_is_no_usage_passes(relay):
    raw = chunk(
        prompt_filter_results=[{"prompt_index": 0, "content_filter_results": {"hate": {"severity": "safe"}}}]
    )

    assert relay(CHAT.open_stream(read(stream=True)), raw + DONE).raw == raw + DONE


@MANY
@given(cuts=st.lists(st.integers(0, 3000), max_size=12), seed=st.integers(0, 2**32))
def test_tool_arguments_in_pieces(cuts, seed, relay, replacing):
    """Arguments cut anywhere, also inside escapes; two calls at once; the SDK's way of adding them up."""
    arguments = ['{"to": "s\\u0065cret", "n": 12}', '[{"secret": "\\ud83d\\ude00 secre"}]']
    dice = random.Random(seed)
    raw = chunk(delta(role="assistant", content=None))
    position = [0, 0]
    for index in (0, 1):
        call = {
            "index": index,
            "id": f"call_{index}",
            "type": "function",
            "function": {"name": "f", "arguments": ""},
        }
        raw += chunk(delta(tool_calls=[call]))
    while any(position[i] < len(arguments[i]) for i in (0, 1)):
        index = dice.randrange(2)
        size = dice.randrange(1, 8)
        piece = arguments[index][position[index] : position[index] + size]
        position[index] += size
        if piece:
            raw += chunk(delta(tool_calls=[{"index": index, "function": {"arguments": piece}}]))
    raw += chunk(delta(finish="tool_calls")) + DONE
    codec = CHAT.open_stream(read(stream=True))
    got = relay(codec, raw, replacing("secret", 'S"'), cuts)
    built = ["", ""]
    for tree in got.trees:
        for call in tree["choices"][0]["delta"].get("tool_calls", ()):
            built[call["index"]] += call["function"].get("arguments", "")

    assert json.loads(built[0]) == {"to": 'S"', "n": 12}
    assert json.loads(built[1]) == [{'S"': "😀 secre"}]
    assert len(got.events) == raw.count(b"\n\n")
    assert codec.finish == "tool_calls"
    assert {channel.tool for channel in got.channels} == {"f"}


def test_calls_that_share_an_index_are_told_apart_by_their_ids(relay, replacing):
    """Gemini's OpenAI-compatible endpoint gives every call the index 0."""
    raw = b"".join(
        chunk(delta(tool_calls=[{"index": 0, "id": id, "function": {"name": "f", "arguments": text}}]))
        for id, text in (("a", '{"x":"sec'), ("b", '{"x":"ret"}'))
    )
    got = relay(
        CHAT.open_stream(read(stream=True)),
        raw + chunk(delta(finish="tool_calls")) + DONE,
        replacing("secret", "X"),
    )

    pieces = [
        call["function"]["arguments"]
        for tree in got.trees
        for call in tree["choices"][0]["delta"].get("tool_calls", ())
    ]
    assert pieces == ['{"x":"', "sec", '{"x":"ret"}']


@pytest.mark.parametrize(
    ("parts", "name"),
    [
        (["get_", "weather"], "get_weather"),
        (["a_secret"], "a_X"),
        (["a_sec", "ret_call"], "a_seca_X_call"),  # half is out: what follows is no name of a tool
        (["a_secret_", "call"], "a_X_call"),
        (["f_secret", "f_secret"], "f_Xf_X"),  # a few servers say it with each delta
        (["cret", "cret", "se", "cret"], "cretcretsecretcretX"),
    ],
)
@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("legacy", [True, False])
def test_a_tools_name_in_several_deltas_is_judged_as_one(
    parts, name, at_once, legacy, relay, replacing, filtered
):
    raw = [
        chunk(delta(function_call={"name": part}))
        if legacy
        else chunk(delta(tool_calls=[{"index": 0, "id": "" if number else "c", "function": {"name": part}}]))
        for number, part in enumerate(parts)
    ]
    whole_stream = b"".join(raw) + chunk(delta(finish="tool_calls")) + DONE
    cuts = () if at_once else [sum(map(len, raw[:number])) for number in range(1, len(raw))]
    got = relay(CHAT.open_stream(read(stream=True)), whole_stream, replacing("secret", "X"), cuts)
    deltas = [tree["choices"][0]["delta"] for tree in got.trees]
    calls = [
        d.get("function_call") or d["tool_calls"][0]["function"]
        for d in deltas
        if "function_call" in d or "tool_calls" in d
    ]

    assert "".join(call.get("name", "") for call in calls) == name


def test_a_tools_name_in_very_many_deltas_breaks_the_stream(relay):
    raw = b"".join(
        chunk(delta(tool_calls=[{"index": 0, "function": {"name": f"n{number}"}}])) for number in range(100)
    )
    got = relay(CHAT.open_stream(read(stream=True)), raw)

    assert got.error is not None
    assert got.error.reason == "malformed"


@pytest.mark.parametrize("arguments", [{"secret": {"a secret": ["secret"]}, "n": 1}])
def test_names_in_arguments_that_came_as_an_object_are_filtered(arguments, filtered, relay, replacing):
    call = {"function_call": {"name": "f", "arguments": json.loads(json.dumps(arguments))}}
    got = relay(
        CHAT.open_stream(read(stream=True)),
        chunk(delta(**json.loads(json.dumps(call)))),
        replacing("secret", "X"),
    )
    reply = filtered(CHAT.read_reply(read(), whole(call)), replacing("secret", "X"))

    expected = {"X": {"a X": ["X"]}, "n": 1}
    assert reply["choices"][0]["message"]["function_call"]["arguments"] == expected
    assert got.trees[0]["choices"][0]["delta"]["function_call"]["arguments"] == expected


@pytest.mark.parametrize(
    ("parts", "field", "said"),
    [
        ([{"refusal": "no sec"}, {"refusal": "ret"}], "refusal", "no X"),
        ([{"reasoning_content": "sec"}, {"reasoning_content": "ret!"}], "reasoning_content", "X!"),
        ([{"reasoning": "secre"}], "reasoning", "secre"),
        ([{"odd": "sec"}, {"odd": "ret secr"}], "odd", "X secr"),
        (
            [{"function_call": {"name": "f", "arguments": '"se'}}, {"function_call": {"arguments": 'cret"'}}],
            None,
            '"X"',
        ),
    ],
)
def test_every_field_of_a_delta_is_a_channel(parts, field, said, relay, replacing):
    raw = b"".join(chunk(delta(**part)) for part in parts) + chunk(delta(finish="stop")) + DONE
    got = relay(CHAT.open_stream(read(stream=True)), raw, replacing("secret", "X"))
    deltas = [tree["choices"][0]["delta"] for tree in got.trees]
    found = [d.get(field, "") if field else d.get("function_call", {}).get("arguments", "") for d in deltas]

    assert "".join(found) == said
    assert len(got.events) == raw.count(b"\n\n")


def test_text_that_is_left_when_a_stream_ends_without_finish_comes_out_before_the_end(relay, replacing):
    got = relay(
        CHAT.open_stream(read(stream=True)), chunk(delta(content="a secre")), replacing("secret", "X")
    )

    assert [tree["choices"][0]["delta"] for tree in got.trees] == [{"content": "a "}, {"content": "secre"}]
    assert got.raw.endswith(DONE)


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"data: {\n\n", "malformed"),
        (b"data: []\n\n", "malformed"),
        (b"data: \xff\n\n", "malformed"),
        (chunk(1), "malformed"),
        (b'data: {"error":{"message":"x","code":"server_error"}}\n\n', "error_in_stream"),
        (
            b'event: error\ndata: {"error":{"message":"x","code":"context_length_exceeded"}}\n\n',
            "context_length",
        ),
        (b'data: {"error":{"message":"x","code":"content_filter"}}\n\n', "content_policy"),
        (b"data: " + b"x" * (11 * 2**20), "malformed"),
    ],
)
def test_what_breaks_a_stream(raw, reason, relay):
    got = relay(
        CHAT.open_stream(read(stream=True)), chunk(delta(content="a")) + raw + chunk(delta(content="b"))
    )

    assert got.error is not None
    assert got.error.reason == reason
    assert len(got.trees) == 1


def test_an_emoji_in_two_events_is_one_character_for_the_filters(relay, replacing):
    """Servers written in JavaScript cut it between its UTF-16 halves."""
    raw = b"".join(
        b'data: {"choices":[{"index":0,"delta":{"content":"%b"}}]}\n\n' % part
        for part in (b"a\\ud83d", b"\\ude00b", b"\\ude00")
    )
    got = relay(
        CHAT.open_stream(read(stream=True)), raw + chunk(delta(finish="stop")) + DONE, replacing("😀", "X")
    )

    assert "".join(tree["choices"][0]["delta"].get("content", "") for tree in got.trees) == "aXb\ufffd"


def test_output_begins_with_text_or_a_call_and_not_with_a_role():
    codec = CHAT.open_stream(read(stream=True))
    raw = (
        chunk(delta(role="assistant", content=""))
        + chunk(delta(content="a"))
        + chunk(delta(tool_calls=[{"index": 0, "id": "c"}]))
    )

    assert [event.output for event in codec.feed(raw)] == [False, True, True]


def test_a_stop_finishes_the_choices_that_are_open_and_reports_usage_if_asked(relay):
    call = read(stream=True, n=2, stream_options={"include_usage": True})
    codec = CHAT.open_stream(call)
    relay(
        codec,
        chunk(delta(content="a"), delta(1, content="b"))
        + chunk(delta(1, finish="stop"), usage={"prompt_tokens": 3}),
    )
    blocks = codec.stop(CallError("blocked", "x", plugin="pii")).split(b"\n\n")
    first, usage = json.loads(blocks[0][6:]), json.loads(blocks[1][6:])

    assert first["choices"] == [{"index": 0, "delta": {}, "finish_reason": "content_filter"}]
    assert (first["id"], first["model"], usage["choices"]) == ("chatcmpl-1", "m", [])
    assert usage["usage"]["prompt_tokens"] == 3
    assert blocks[2:] == [b"data: [DONE]", b""]


def test_an_abort_is_an_error_object_that_sdks_raise():
    out = CHAT.open_stream(read(stream=True)).abort(CallError("upstream_error", "broke"), "r")

    assert json.loads(out[6:]) == {
        "error": {"message": "broke", "type": "server_error", "param": None, "code": "upstream_error"}
    }


def test_channels_of_one_stream_are_the_same_objects():
    codec = CHAT.open_stream(read(stream=True))
    events = codec.feed(chunk(delta(content="a")) + chunk(delta(content="b")))

    assert events[0].pieces[0].channel is events[1].pieces[0].channel
    assert events[0].pieces[0].channel == Channel("content")


# Errors


@pytest.mark.parametrize(
    ("error", "status", "body", "headers"),
    [
        (
            CallError("blocked", "US_SSN in messages[2].", plugin="pii", param="messages[2].content"),
            400,
            ("Blocked by policy 'pii': US_SSN in messages[2].", "invalid_request_error", "messages[2].content", "content_policy_violation"),
            {},
        ),
        (CallError("unauthenticated", "x"), 401, ("x", "invalid_request_error", None, "invalid_api_key"), {}),
        (CallError("model_denied", "x"), 404, ("x", "invalid_request_error", None, "model_not_found"), {}),
        (CallError("too_large", "x"), 400, ("x", "invalid_request_error", None, "context_length_exceeded"), {}),
        (
            CallError("rate_limited", "x", retry_after_s=7.2),
            429,
            ("x", "rate_limit_error", None, "rate_limit_exceeded"),
            {"retry-after": "8", "retry-after-ms": "7200"},
        ),
        (
            CallError("budget_spent", "x", retry_after_s=900),
            429,
            ("x", "insufficient_quota", None, "insufficient_quota"),
            {"x-should-retry": "false"},
        ),
        (CallError("budget_spent", "x", status=402), 402, ("x", "insufficient_quota", None, "insufficient_quota"), {"x-should-retry": "false"}),
        (CallError("policy_unavailable", "x"), 500, ("x", "server_error", None, "policy_unavailable"), {"x-should-retry": "true"}),
        (
            CallError("no_provider", "x", retry_after_s=1),
            503,
            ("x", "server_error", None, "no_provider_available"),
            {"retry-after": "1", "retry-after-ms": "1000"},
        ),
        (CallError("upstream_timeout", "x"), 504, ("x", "server_error", None, "timeout"), {}),
        (CallError("bad_request", "x", code="own"), 400, ("x", "invalid_request_error", None, "own"), {}),
        (CallError("blocked", "x", headers={"x-a": "b"}), 400, ("x", "invalid_request_error", None, "content_policy_violation"), {"x-a": "b"}),
    ],
)  # fmt: skip
def test_errors_of_ours(error, status, body, headers):
    reply = CHAT.write_error(error, "01REQ")
    own = {"content-type": "application/json", "x-request-id": "01REQ", "x-llmshield-request-id": "01REQ"}

    assert reply.status == status
    assert reply.headers == {**own, **headers}
    assert json.loads(reply.body) == {
        "error": dict(zip(("message", "type", "param", "code"), body, strict=True))
    }


@pytest.mark.parametrize(
    ("status", "error", "reason", "code"),
    [
        (
            400,
            {"code": "context_length_exceeded", "message": "x"},
            "context_length",
            "context_length_exceeded",
        ),
        (400, {"message": "This model's maximum context length is 8192 tokens"}, "context_length", None),
        (400, {"code": "content_policy_violation"}, "content_policy", "content_policy_violation"),
        (400, {"code": "x", "innererror": {"code": "ResponsibleAIPolicyViolation"}}, "content_policy", "x"),
        (400, {"code": "content_filter"}, "content_policy", "content_filter"),
        (429, {"code": "rate_limit_exceeded"}, "status", "rate_limit_exceeded"),
        (500, {"type": "server_error", "code": None}, "status", "server_error"),
        (404, {"code": 404, "message": "maximum context length"}, "status", "404"),
        (500, {"message": "maximum context length"}, "status", None),
    ],
)
def test_errors_of_a_provider_are_classified_and_never_quoted(status, error, reason, code):
    found = CHAT.read_error(
        status, {"x-request-id": "r", "set-cookie": "c"}, dump({"error": {**error, "param": "private words"}})
    )

    assert (found.status, found.reason, found.code) == (status, reason, code)
    assert "private words" not in str(found)
    assert found.headers == {"x-request-id": "r"}
    assert b"private words" in found.body


def test_a_key_in_a_providers_error_is_scrubbed():
    body = dump(
        {"error": {"message": "Incorrect API key provided: sk-proj-abcdefghijklmnopqrstuvwxyz0123456789"}}
    )

    assert b"abcdefghijklmnop" not in CHAT.read_error(401, {}, body).body
