"""Google's Gemini dialect: usage, whole replies, errors of ours and of the provider."""

from __future__ import annotations

import json
from typing import Any, get_args

import orjson
import pytest

from llmshield.call import Call, Usage
from llmshield.dialects import WireRequest
from llmshield.dialects._gemini import ERRORS, UsageMeter
from llmshield.dialects.gemini import Gemini
from llmshield.errors import CallError, ErrorKind

DIALECT = Gemini()
ID = "01J00000000000000000000000"
PATH = "/v1beta/models/gemini-x:generateContent"


def read(body: dict[str, Any], path: str = PATH) -> Call:
    operation = DIALECT.claims("POST", path, {})
    assert operation is not None
    return DIALECT.read_call(ID, operation, WireRequest("POST", path), body)


def minimal(**fields: Any) -> dict[str, Any]:
    return {"contents": [{"role": "user", "parts": [{"text": "hi"}]}], **fields}


@pytest.mark.parametrize(
    ("trees", "usage"),
    [
        ([None], None),
        ([{}], None),
        ([{"promptTokenCount": 10, "candidatesTokenCount": 5, "totalTokenCount": 15}], Usage(input=10, output=5)),
        ([{"promptTokenCount": 0, "candidatesTokenCount": 0}], Usage(input=0, output=0)),
        ([{"promptTokenCount": 10, "candidatesTokenCount": 5, "thoughtsTokenCount": 20}], Usage(input=10, output=25, reasoning=20)),
        ([{"promptTokenCount": 10, "totalTokenCount": 35}], Usage(input=10, output=25)),
        ([{"promptTokenCount": 10, "candidatesTokenCount": 5, "totalTokenCount": 35}], Usage(input=10, output=25)),
        ([{"promptTokenCount": 10, "totalTokenCount": 10}], Usage(input=10, output=0)),
        ([{"promptTokenCount": 10}], Usage(input=10)),
        ([{"promptTokenCount": 10, "cachedContentTokenCount": 4, "candidatesTokenCount": 1}], Usage(input=10, output=1, cache_read=4)),
        ([{"promptTokenCount": 10, "cachedContentTokenCount": 40, "candidatesTokenCount": 1}], Usage(input=10, output=1, cache_read=10)),
        ([{"promptTokenCount": 10, "toolUsePromptTokenCount": 90, "candidatesTokenCount": 1}], Usage(input=100, output=1)),
        ([{"promptTokenCount": 10}, {"promptTokenCount": 10, "candidatesTokenCount": 3}, {"candidatesTokenCount": 2}], Usage(input=10, output=3)),
        ([{"promptTokenCount": 10, "responseTokenCount": 3}], Usage(input=10, output=3)),
        ([{"promptTokenCount": 10, "candidatesTokenCount": 3,
           "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 1}, {"modality": "AUDIO", "tokenCount": 7}, {"modality": "IMAGE", "tokenCount": 2}],
           "candidatesTokensDetails": [{"modality": "AUDIO", "tokenCount": 3}]}],
         Usage(input=10, output=3, input_audio=7, input_image=2, output_audio=3, output_image=0)),
        ([{"promptTokenCount": 10, "candidatesTokenCount": 3, "cachedContentTokenCount": 8, "serviceTier": "SERVICE_TIER_FLEX",
           "promptTokensDetails": [{"modality": "VIDEO", "tokenCount": 4}], "cacheTokensDetails": [{"modality": "AUDIO", "tokenCount": 6}],
           "candidatesTokensDetails": [{"modality": "IMAGE", "tokenCount": 2}]}],
         Usage(input=10, output=3, cache_read=8, cache_audio=6, input_video=4, output_image=2, served=(("service_tier", "flex"),))),
        ([{"promptTokenCount": 12.0}], Usage(input=12)),
        ([{"promptTokenCount": -1, "candidatesTokenCount": 5}], Usage(output=5, malformed=True)),
        ([{"promptTokenCount": "10", "candidatesTokenCount": 5}], Usage(output=5, malformed=True)),
        ([{"promptTokenCount": 2**64, "candidatesTokenCount": 5}], Usage(output=5, malformed=True)),
        ([{"promptTokenCount": float("nan"), "candidatesTokenCount": 5}], Usage(output=5, malformed=True)),
        ([{"promptTokenCount": True, "candidatesTokenCount": 5}], Usage(output=5, malformed=True)),
        ([{"promptTokenCount": [1], "candidatesTokenCount": 5}], Usage(output=5, malformed=True)),
        ([{"promptTokenCount": None, "candidatesTokenCount": 5}], Usage(output=5)),
        (["many"], Usage(malformed=True)),
        ([{"promptTokenCount": 1, "promptTokensDetails": "x"}], Usage(input=1, malformed=True)),
        ([{"promptTokenCount": 1, "promptTokensDetails": [7]}], Usage(input=1, malformed=True)),
    ],
)  # fmt: skip
def test_usage(trees: list[Any], usage: Usage | None) -> None:
    meter = UsageMeter()
    for tree in trees:
        meter.feed(tree)

    assert meter.usage() == usage


def candidate(*parts: Any, **fields: Any) -> dict[str, Any]:
    return {"content": {"role": "model", "parts": list(parts)}, "finishReason": "STOP", "index": 0, **fields}


def reply(*candidates: Any, **fields: Any) -> dict[str, Any]:
    usage = {"promptTokenCount": 3, "candidatesTokenCount": 4, "totalTokenCount": 7}
    return {
        "candidates": list(candidates),
        "usageMetadata": usage,
        "modelVersion": "gemini-z",
        "responseId": "r",
        **fields,
    }


def test_pieces_of_a_whole_reply() -> None:
    tree = reply(
        candidate(
            {"text": "th", "thought": True},
            {"text": "x"},
            {
                "functionCall": {"id": "c1", "name": "f", "args": {"a": ["b", 5], "c": True}},
                "thoughtSignature": "c2ln",
            },
            {"codeExecutionResult": {"outcome": "OUTCOME_OK", "output": "out"}},
            {"functionCall": {"name": "g", "args": {}}},
            citationMetadata={"citations": [{"uri": "http://c", "startIndex": 1}]},
            groundingMetadata={"webSearchQueries": ["q1", "q2"]},
        ),
        candidate({"text": "second"}, index=1, finishReason="MAX_TOKENS"),
    )
    result = DIALECT.read_reply(read(minimal()), tree)

    assert sorted((str(p.channel), p.holder[p.key]) for p in result.pieces) == [
        ("content[0.0]", "x"),
        ("content[1.0]", "second"),
        ("other[0.0]", "http://c"),
        ("other[0.0]", "out"),
        ("other[0.0]", "q1"),
        ("other[0.0]", "q2"),
        ("reasoning[0.0]", "th"),
        ("tool_arguments[0.0]/*", "a"),
        ("tool_arguments[0.0]/*", "c"),
        ("tool_arguments[0.0]/a/0", "b"),
        ("tool_arguments[0.0]/a/1", 5),
        ("tool_arguments[0.0]/c", True),
        ("tool_name[0.0]", "f"),
        ("tool_name[0.1]", "g"),
    ]
    assert all(piece.whole for piece in result.pieces)
    assert (result.model, result.finish) == ("gemini-z", "tool_calls")
    assert result.usage == Usage(input=3, output=4, tool_requests=2)


def test_a_value_cut_into_two_parts_is_seen_whole() -> None:
    tree = reply(candidate({"text": "4111 1111 "}, {"text": "1111 1111", "thoughtSignature": "c2ln"}))
    (piece,) = DIALECT.read_reply(read(minimal()), tree).pieces
    assert piece.holder[piece.key] == "4111 1111 1111 1111"

    piece.holder[piece.key] = "<CARD>"

    assert tree["candidates"][0]["content"]["parts"] == [
        {"text": "<CARD>"},
        {"text": "", "thoughtSignature": "c2ln"},
    ]


def test_what_spells_the_text_again_is_a_shadow_of_it() -> None:
    tree = reply(
        candidate(
            {"text": "abc"},
            logprobsResult={"chosenCandidates": [{"token": "abc"}]},
            groundingMetadata={"groundingSupports": [{"segment": {"text": "ab"}}], "webSearchQueries": ["q"]},
        )
    )
    piece = DIALECT.read_reply(read(minimal()), tree).pieces[0]
    for holder, key in piece.shadows:
        holder[key] = None

    assert tree["candidates"][0]["logprobsResult"] is None
    assert tree["candidates"][0]["groundingMetadata"] == {
        "groundingSupports": None,
        "webSearchQueries": ["q"],
    }


@pytest.mark.parametrize(
    ("reason", "finish"),
    [
        ("STOP", "stop"), ("MAX_TOKENS", "length"), ("SAFETY", "content_filter"), ("SPII", "content_filter"),
        ("PROHIBITED_CONTENT", "content_filter"), ("MALFORMED_FUNCTION_CALL", "error"), ("OTHER", "other"),
        ("NEW", "other"), (None, None), ("", None), ("FINISH_REASON_UNSPECIFIED", None), (1, "other"), (0, None),
        ([], None),
    ],
)  # fmt: skip
def test_finish(reason: Any, finish: str | None) -> None:
    assert DIALECT.read_reply(read(minimal()), reply(candidate(finishReason=reason))).finish == finish


def test_a_blocked_prompt_is_a_reply() -> None:
    tree = {
        "promptFeedback": {"blockReason": "SAFETY"},
        "usageMetadata": {"promptTokenCount": 3, "totalTokenCount": 3},
    }
    result = DIALECT.read_reply(read(minimal()), tree)

    assert (result.error, result.finish, result.usage) == (None, "content_filter", Usage(input=3, output=0))


@pytest.mark.parametrize(
    ("tree", "reason"),
    [
        ({"error": {"code": 503, "status": "UNAVAILABLE", "message": "busy"}}, "error_in_stream"),
        ([{"error": {"code": 503}}], "error_in_stream"),
        ({"error": {"code": 400, "status": "INVALID_ARGUMENT", "message": "The input token count (9) exceeds the maximum number of tokens allowed (8)."}}, "context_length"),
        ({"error": "no"}, "error_in_stream"),
        ([], "malformed"), ("text", "malformed"), (None, "malformed"), ({}, "malformed"),
        ({"candidates": {}}, "malformed"), ({"candidates": [7]}, "malformed"), ({"candidates": 7, "promptFeedback": {}}, "malformed"),
    ],
)  # fmt: skip
def test_unusable_replies(tree: Any, reason: str) -> None:
    error = DIALECT.read_reply(read(minimal()), tree).error

    assert error is not None
    assert error.reason == reason


def test_replies_without_text() -> None:
    count = DIALECT.read_reply(read(minimal(), "/v1beta/models/g:countTokens"), {"totalTokens": 31})
    embed = DIALECT.read_reply(
        read({"content": {}}, "/v1beta/models/g:embedContent"), {"embedding": {"values": [0.1]}}
    )

    assert (count.usage, count.pieces, count.error) == (Usage(input=0, output=0), [], None)
    assert (embed.usage, embed.pieces, embed.error) == (None, [], None)


SHAPES = {
    "blocked": (400, "FAILED_PRECONDITION", "LLMSHIELD_PII"), "bad_request": (400, "INVALID_ARGUMENT", ""),
    "unauthenticated": (401, "UNAUTHENTICATED", ""), "forbidden": (403, "PERMISSION_DENIED", ""),
    "model_denied": (404, "NOT_FOUND", "MODEL_DENIED"), "not_found": (404, "NOT_FOUND", ""),
    "method_not_allowed": (405, "INVALID_ARGUMENT", ""), "unsupported": (404, "NOT_FOUND", "UNSUPPORTED"),
    "unsupported_media": (415, "INVALID_ARGUMENT", ""), "too_large": (400, "INVALID_ARGUMENT", "TOO_LARGE"),
    "conflict": (409, "ABORTED", ""), "rate_limited": (429, "RESOURCE_EXHAUSTED", ""),
    "budget_spent": (400, "FAILED_PRECONDITION", "BUDGET_EXCEEDED"),
    "policy_unavailable": (500, "INTERNAL", "POLICY_UNAVAILABLE"),
    "store_unavailable": (503, "UNAVAILABLE", "STORE_UNAVAILABLE"),
    "no_provider": (503, "UNAVAILABLE", "NO_PROVIDER_AVAILABLE"), "upstream_error": (502, "INTERNAL", "UPSTREAM_ERROR"),
    "upstream_timeout": (504, "DEADLINE_EXCEEDED", ""), "client_timeout": (408, "DEADLINE_EXCEEDED", ""),
    "shutting_down": (503, "UNAVAILABLE", "SHUTTING_DOWN"),
}  # fmt: skip


def test_every_kind_of_error_has_a_shape() -> None:
    assert set(get_args(ErrorKind)) == set(SHAPES) == set(ERRORS)


@pytest.mark.parametrize("kind", SHAPES)
def test_error_shape(kind: Any) -> None:
    status, code, reason = SHAPES[kind]
    result = DIALECT.write_error(CallError(kind, "words", plugin="pii", headers={"x-a": "b"}), ID)
    error = json.loads(result.body)["error"]

    assert (result.status, error["code"], error["status"], error["message"]) == (
        status,
        status,
        code,
        "words",
    )
    assert result.headers["x-a"] == "b"
    assert [detail["reason"] for detail in error.get("details", ())] == ([reason] if reason else [])


def test_retry_advice() -> None:
    result = DIALECT.write_error(CallError("rate_limited", "slow", retry_after_s=7), ID)
    assert json.loads(result.body)["error"]["details"] == [
        {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "7s"}
    ]
    assert result.headers["retry-after"] == "7"

    result = DIALECT.write_error(CallError("budget_spent", "spent", retry_after_s=7), ID)
    assert [detail["reason"] for detail in json.loads(result.body)["error"]["details"]] == ["BUDGET_EXCEEDED"]
    assert "retry-after" not in result.headers


RETRY = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "7.5s"}
INFO = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID"}


@pytest.mark.parametrize(
    ("status", "error", "expected"),
    [
        (429, {"code": 429, "status": "RESOURCE_EXHAUSTED", "details": [RETRY]}, ("status", "RESOURCE_EXHAUSTED", 7.5)),
        (400, {"code": 400, "status": "INVALID_ARGUMENT", "details": [INFO]}, ("status", "API_KEY_INVALID", None)),
        (400, {"message": "The input token count (1196265) exceeds the maximum number of tokens allowed (1048575)."}, ("context_length", None, None)),
        (503, {"status": 7, "details": ["x", {"@type": 7}, {"@type": "RetryInfo", "retryDelay": "soon"}]}, ("status", None, None)),
        (500, "no", ("status", None, None)),
    ],
)  # fmt: skip
def test_read_error(status: int, error: Any, expected: tuple[Any, ...]) -> None:
    for body in ({"error": error}, [{"error": error}]):
        result = DIALECT.read_error(status, {}, orjson.dumps(body))

        assert (result.reason, result.code, result.retry_after_s) == expected
        assert result.status == status


@pytest.mark.parametrize("body", [b"", b"<html>", b"\xff", b"[]", b"null"])
def test_read_error_without_json(body: bytes) -> None:
    assert DIALECT.read_error(502, {"retry-after": "3"}, body).retry_after_s == 3
