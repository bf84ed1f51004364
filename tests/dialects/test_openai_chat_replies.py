"""Chat completions: whole replies, usage, errors of ours and of the provider."""

from __future__ import annotations

import json

import pytest

from llmshield.call import Call, Usage
from llmshield.dialects import WireRequest
from llmshield.dialects._tree import dump, parse_body
from llmshield.dialects.openai_chat import OpenAIChat
from llmshield.errors import CallError

CHAT = OpenAIChat()


def read(**body) -> Call:
    tree = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}], **body}
    raw = dump(tree)
    return CHAT.read_call(
        "c1", "generate", WireRequest("POST", "/v1/chat/completions", body=raw), parse_body(raw)
    )


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
    codec.feed(b'data: {"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2}}\n\n')

    assert CHAT.read_reply(call, whole({"content": "x"})).usage == Usage(3, 4, tool_requests=1)
    assert codec.usage == Usage(1, 2, tool_requests=1)


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
