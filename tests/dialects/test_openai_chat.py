"""Chat completions: what of a call is a text, whose it is, what is bounded, and where it goes."""

from __future__ import annotations

import pytest

from llmshield.call import Call
from llmshield.dialects import WireRequest
from llmshield.dialects._tree import dump, parse_body
from llmshield.dialects.openai_chat import OpenAIChat
from llmshield.errors import WireError

CHAT = OpenAIChat()


def read(**body) -> Call:
    tree = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}], **body}
    raw = dump(tree)
    return CHAT.read_call(
        "c1", "generate", WireRequest("POST", "/v1/chat/completions", body=raw), parse_body(raw)
    )


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
