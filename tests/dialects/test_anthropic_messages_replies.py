"""Anthropic's Messages dialect: usage, whole replies, errors of ours and of the provider."""

from __future__ import annotations

import json
from typing import Any, get_args

import pytest

from llmshield.call import Call, Usage
from llmshield.dialects import WireRequest
from llmshield.dialects._anthropic import ERRORS, UsageMeter
from llmshield.dialects.anthropic_messages import AnthropicMessages
from llmshield.errors import CallError, ErrorKind

DIALECT = AnthropicMessages()
ID = "01J00000000000000000000000"


def read(body: dict[str, Any], operation: str = "generate") -> Call:
    path = "/v1/messages" if operation == "generate" else "/v1/messages/count_tokens"
    return DIALECT.read_call(ID, operation, WireRequest("POST", path, "beta=true"), body)  # type: ignore[arg-type]


def minimal(**fields: Any) -> dict[str, Any]:
    return {"model": "claude-x", "max_tokens": 100, "messages": [{"role": "user", "content": "hi"}], **fields}


@pytest.mark.parametrize(
    ("trees", "usage"),
    [
        ([None], None),
        ([{}], None),
        ([{"input_tokens": 10, "output_tokens": 5}], Usage(input=10, output=5)),
        ([{"input_tokens": 0, "output_tokens": 0}], Usage(input=0, output=0)),
        (
            [{"input_tokens": 10, "cache_read_input_tokens": 3, "cache_creation_input_tokens": 4, "output_tokens": 1}],
            Usage(input=17, output=1, cache_read=3, cache_write=4),
        ),
        (
            [{"input_tokens": 1, "cache_creation_input_tokens": 9, "output_tokens": 2, "service_tier": "standard", "speed": "fast",
              "cache_creation": {"ephemeral_5m_input_tokens": 5, "ephemeral_1h_input_tokens": 4}}],
            Usage(input=10, output=2, cache_write=9, cache_write_1h=4, served=(("service_tier", "standard"), ("speed", "fast"))),
        ),
        ([{"output_tokens": 1, "cache_creation": {"ephemeral_1h_input_tokens": -4}}], Usage(output=1, malformed=True)),
        (
            [{"input_tokens": 10, "cache_read_input_tokens": 5, "output_tokens": 1}, {"output_tokens": 9}],
            Usage(input=15, output=9, cache_read=5),
        ),
        ([{"input_tokens": 10, "output_tokens": 9}, {"output_tokens": 3}], Usage(input=10, output=9)),
        ([{"input_tokens": 10}, {"input_tokens": 25, "output_tokens": 3}], Usage(input=25, output=3)),
        (
            [{"output_tokens": 9, "output_tokens_details": {"thinking_tokens": 4},
              "server_tool_use": {"web_search_requests": 2, "web_fetch_requests": 1}}],
            Usage(output=9, reasoning=4, tool_requests=2, tools={"web_fetch": 1}),
        ),
        (
            [{"input_tokens": 1, "output_tokens": 2, "iterations": [
                {"type": "message", "input_tokens": 1, "output_tokens": 2},
                {"type": "compaction", "input_tokens": 100, "output_tokens": 20}]}],
            Usage(input=101, output=22),
        ),
        ([{"input_tokens": 12.0, "output_tokens": 1}], Usage(input=12, output=1)),
        ([{"input_tokens": -1, "output_tokens": 5}], Usage(output=5, malformed=True)),
        ([{"input_tokens": "10", "output_tokens": 5}], Usage(output=5, malformed=True)),
        ([{"input_tokens": 1.5, "output_tokens": 5}], Usage(output=5, malformed=True)),
        ([{"input_tokens": 2**64, "output_tokens": 5}], Usage(output=5, malformed=True)),
        ([{"input_tokens": float("nan"), "output_tokens": 5}], Usage(output=5, malformed=True)),
        ([{"input_tokens": float("inf"), "output_tokens": 5}], Usage(output=5, malformed=True)),
        ([{"input_tokens": True, "output_tokens": 5}], Usage(output=5, malformed=True)),
        ([{"input_tokens": {"a": 1}, "output_tokens": 5}], Usage(output=5, malformed=True)),
        ([{"input_tokens": None, "output_tokens": 5}], Usage(output=5)),
        (["many"], Usage(malformed=True)),
        ([{"output_tokens": 5, "server_tool_use": "x", "iterations": "y"}], Usage(output=5, malformed=True)),
    ],
)  # fmt: skip
def test_usage(trees: list[Any], usage: Usage | None) -> None:
    meter = UsageMeter()
    for tree in trees:
        meter.feed(tree)

    assert meter.usage() == usage


def message(*content: Any, **fields: Any) -> dict[str, Any]:
    return {
        "id": "msg_1", "type": "message", "role": "assistant", "model": "claude-z", "content": list(content),
        "stop_reason": "end_turn", "stop_sequence": None, "usage": {"input_tokens": 3, "output_tokens": 4}, **fields,
    }  # fmt: skip


def test_pieces_of_a_whole_reply() -> None:
    reply = DIALECT.read_reply(
        read(minimal()),
        message(
            {"type": "thinking", "thinking": "t", "signature": "c2ln"},
            {"type": "text", "text": "x", "citations": [{"type": "char_location", "cited_text": "c", "document_title": "d", "document_index": 0}]},
            {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {"a": ["b", 5], "c": True}},
            {"type": "redacted_thinking", "data": "c2VhbA=="},
            {"type": "web_search_tool_result", "tool_use_id": "s", "content": [{"type": "web_search_result", "title": "wt", "url": "wu", "encrypted_content": "e"}]},
            stop_sequence="END",
        ),
    )  # fmt: skip

    assert [(str(p.channel), p.holder[p.key]) for p in reply.pieces] == [
        ("reasoning[0.0]", "t"),
        ("content[0.1]", "x"),
        ("other[0.1]", "c"),
        ("other[0.1]", "d"),
        ("tool_name[0.2]", "f"),
        ("tool_arguments[0.2]/a/0", "b"),
        ("tool_arguments[0.2]/a/1", 5),
        ("tool_arguments[0.2]/c", True),
        ("tool_arguments[0.2]/*", "a"),
        ("tool_arguments[0.2]/*", "c"),
        ("other[0.4]", "wt"),
        ("other[0.4]", "wu"),
        ("other[0.0]", "END"),
    ]
    assert all(piece.whole for piece in reply.pieces)
    assert (reply.model, reply.finish, reply.usage) == ("claude-z", "stop", Usage(input=3, output=4))
    assert reply.pieces[0].shadows == ((reply.tree["content"][0], "signature"),)


@pytest.mark.parametrize(
    ("reason", "finish"),
    [
        ("end_turn", "stop"), ("stop_sequence", "stop"), ("max_tokens", "length"), ("tool_use", "tool_calls"),
        ("refusal", "content_filter"), ("pause_turn", "other"), ("model_context_window_exceeded", "length"),
        (None, None), ("new", "other"),
    ],
)  # fmt: skip
def test_finish(reason: str | None, finish: str | None) -> None:
    assert DIALECT.read_reply(read(minimal()), message(stop_reason=reason)).finish == finish


@pytest.mark.parametrize(
    ("tree", "reason"),
    [
        ({"type": "error", "error": {"type": "overloaded_error", "message": "busy"}}, "error_in_stream"),
        ({"type": "error", "error": {"type": "invalid_request_error", "message": "prompt is too long: 9 > 8"}}, "context_length"),
        ({"error": "no"}, "error_in_stream"),
        ([], "malformed"),
        ("text", "malformed"),
        (None, "malformed"),
        ({}, "malformed"),
        ({"content": "text"}, "malformed"),
        ({"content": ["text"]}, "malformed"),
    ],
)  # fmt: skip
def test_unusable_replies(tree: Any, reason: str) -> None:
    error = DIALECT.read_reply(read(minimal()), tree).error

    assert error is not None
    assert error.reason == reason


def test_counting_tokens_costs_nothing() -> None:
    reply = DIALECT.read_reply(read(minimal(), "count_tokens"), {"input_tokens": 2095})

    assert (reply.usage, reply.pieces, reply.error) == (Usage(input=0, output=0), [], None)


SHAPES = {
    "blocked": (400, "invalid_request_error"), "bad_request": (400, "invalid_request_error"),
    "unauthenticated": (401, "authentication_error"), "forbidden": (403, "permission_error"),
    "model_denied": (404, "not_found_error"), "not_found": (404, "not_found_error"),
    "method_not_allowed": (405, "invalid_request_error"), "unsupported": (404, "not_found_error"),
    "unsupported_media": (415, "invalid_request_error"), "too_large": (413, "request_too_large"),
    "conflict": (409, "invalid_request_error"), "rate_limited": (429, "rate_limit_error"),
    "budget_spent": (402, "billing_error"), "policy_unavailable": (500, "api_error"),
    "store_unavailable": (503, "api_error"), "no_provider": (529, "overloaded_error"),
    "upstream_error": (502, "api_error"), "upstream_timeout": (504, "timeout_error"),
    "client_timeout": (408, "timeout_error"), "shutting_down": (503, "api_error"),
}  # fmt: skip


def test_every_kind_of_error_has_a_shape() -> None:
    assert set(get_args(ErrorKind)) == set(SHAPES) == set(ERRORS)


@pytest.mark.parametrize("kind", SHAPES)
def test_error_shape(kind: Any) -> None:
    status, name = SHAPES[kind]
    reply = DIALECT.write_error(CallError(kind, "words", headers={"x-a": "b"}), ID)

    assert reply.status == status
    assert json.loads(reply.body) == {
        "type": "error",
        "error": {"type": name, "message": "words"},
        "request_id": ID,
    }
    assert reply.headers["request-id"] == ID
    assert reply.headers["x-a"] == "b"
    assert reply.headers.get("x-should-retry") == {"budget_spent": "false", "policy_unavailable": "true"}.get(
        kind
    )


def test_retry_advice() -> None:
    reply = DIALECT.write_error(CallError("rate_limited", "slow down", retry_after_s=6.2), ID)
    assert reply.headers["retry-after"] == "7"

    reply = DIALECT.write_error(CallError("budget_spent", "spent", retry_after_s=6.2), ID)
    assert "retry-after" not in reply.headers


@pytest.mark.parametrize(
    ("status", "headers", "body", "expected"),
    [
        (529, {}, b'{"type":"error","error":{"type":"overloaded_error","message":"x"}}', ("status", "overloaded_error", None)),
        (429, {"retry-after": "7"}, b'{"type":"error","error":{"type":"rate_limit_error","message":"x"}}', ("status", "rate_limit_error", 7.0)),
        (400, {}, b'{"type":"error","error":{"type":"invalid_request_error","message":"prompt is too long: 210000 tokens > 200000 maximum"}}', ("context_length", "invalid_request_error", None)),
        (400, {}, b'{"type":"error","error":{"type":"invalid_request_error","message":"Output blocked by content filtering policy"}}', ("content_policy", "invalid_request_error", None)),
        (502, {}, b"<html>bad gateway</html>", ("status", None, None)),
        (500, {}, b"", ("status", None, None)),
        (500, {}, b'{"error": 7}', ("status", None, None)),
        (500, {}, b"\xff\xfe", ("status", None, None)),
    ],
)  # fmt: skip
def test_read_error(status: int, headers: dict[str, str], body: bytes, expected: tuple[Any, ...]) -> None:
    error = DIALECT.read_error(status, headers, body)

    assert (error.reason, error.code, error.retry_after_s) == expected
    assert error.status == status


def test_read_error_keeps_only_harmless_headers() -> None:
    error = DIALECT.read_error(
        500, {"set-cookie": "a", "anthropic-organization-id": "o", "request-id": "req_1"}, b""
    )

    assert error.headers == {"request-id": "req_1"}
