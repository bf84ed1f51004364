"""Errors in the dialect's own shape."""

from email.utils import parsedate_to_datetime

import pytest

from llmshield.simulator.table import FAULTS

SHAPES = {
    "chat": lambda tree: {"message", "type", "param", "code"} == set(tree["error"]),
    "responses": lambda tree: {"message", "type", "param", "code"} == set(tree["error"]),
    "messages": lambda tree: tree["type"] == "error" and {"type", "message"} == set(tree["error"]),
    "gemini": lambda tree: {"code", "message", "status"} == set(tree["error"]),
}


@pytest.mark.parametrize("api", SHAPES)
async def test_every_status_in_the_dialects_shape(start, ask, api):
    sim = await start()
    for status in (n for n in FAULTS if n.isdigit()):
        raw = await ask(sim, api, status, wait=1)

        assert int(status) == raw.status
        assert SHAPES[api](raw.json)
        assert "retry-after" not in raw.headers


NAMED = [
    ("chat", "quota", 429, lambda e: e["code"] == e["type"] == "insufficient_quota"),
    ("messages", "quota", 402, lambda e: e["type"] == "billing_error"),
    ("gemini", "quota", 429, lambda e: e["status"] == "RESOURCE_EXHAUSTED"),
    ("chat", "context_length", 400, lambda e: e["code"] == "context_length_exceeded"),
    ("messages", "context_length", 400, lambda e: e["message"].startswith("prompt is too long")),
    ("gemini", "context_length", 400, lambda e: "exceeds the maximum number of tokens" in e["message"]),
    ("chat", "content_filter", 400, lambda e: e["code"] == "content_filter"),
    ("messages", "content_filter", 400, lambda e: e["type"] == "invalid_request_error"),
    ("messages", "529", 529, lambda e: e["type"] == "overloaded_error"),
    ("chat", "418x", 400, lambda e: "unknown fault '418x'" in e["message"]),
    (
        "chat",
        "429, code=c, type=t, message=m",
        429,
        lambda e: (e["code"], e["type"], e["message"]) == ("c", "t", "m"),
    ),
]


@pytest.mark.parametrize(("api", "simulate", "status", "holds"), NAMED)
async def test_named_errors(start, ask, api, simulate, status, holds):
    raw = await ask(await start(), api, simulate, wait=1)

    assert status == raw.status
    assert holds(raw.json["error"])


async def test_gemini_blocks_a_prompt_inside_a_200(start, ask):
    sim = await start()
    whole = await ask(sim, "gemini", "content_filter", wait=1)
    streamed = await ask(sim, "gemini", "content_filter", stream=True, wait=1)

    assert whole.json["promptFeedback"] == {"blockReason": "PROHIBITED_CONTENT"}
    assert streamed.events() == [whole.json]


async def test_the_key_comes_back_in_the_error(start, ask):
    raw = await ask(await start(), "chat", "echo_key", headers="authorization: Bearer sk-canary\r\n", wait=1)

    assert raw.status == 401
    assert "sk-canary" in raw.json["error"]["message"]


RETRY = [
    ("429, retry_after=2", {"retry-after": "2"}),
    ("429, retry_after=0.25", {"retry-after": "0.25"}),
    ("429, retry_after=garbage", {"retry-after": "garbage"}),
    ("429, retry_after=-1", {"retry-after": "-1"}),
    ("429, retry_after_ms=1500", {"retry-after-ms": "1500"}),
    ("503, retry_after=1, should_retry=false", {"retry-after": "1", "x-should-retry": "false"}),
]


@pytest.mark.parametrize(("simulate", "expected"), RETRY)
async def test_retry_headers(start, ask, simulate, expected):
    raw = await ask(await start(), "chat", simulate, wait=1)

    assert expected == {k: v for k, v in raw.headers.items() if "retry" in k}


async def test_retry_after_as_a_date(start, ask):
    sim = await start()
    ahead = await ask(sim, "chat", "429, retry_after=date+3600", wait=1)
    past = await ask(sim, "chat", "429, retry_after=past", wait=1)
    moments = [parsedate_to_datetime(r.headers["retry-after"]) for r in (past, ahead)]

    assert 7190 < (moments[1] - moments[0]).total_seconds() < 7210


async def test_gemini_says_when_to_retry_in_the_body(start, ask):
    raw = await ask(await start(), "gemini", "429, retry_after=7", wait=1)

    assert raw.json["error"]["details"][0]["retryDelay"] == "7s"


@pytest.mark.parametrize(
    ("shape", "holds"),
    [
        ("html", lambda b: b.startswith(b"<!DOCTYPE")),
        ("text", lambda b: b.startswith(b"upstream")),
        ("empty", lambda b: b == b""),
        ("truncated", lambda b: b.startswith(b'{"error"') and not b.endswith(b"}")),
    ],
)
async def test_error_bodies(start, ask, shape, holds):
    raw = await ask(await start(), "chat", f"502, body={shape}", wait=1)

    assert raw.status == 502
    assert holds(raw.body)


async def test_redirect_elsewhere(start, ask):
    raw = await ask(await start(), "chat", "redirect, location=http://evil.example/v1", wait=1)

    assert raw.status == 307
    assert raw.headers["location"] == "http://evil.example/v1"
