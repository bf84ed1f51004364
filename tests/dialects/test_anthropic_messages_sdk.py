"""Anthropic's Messages dialect: what the official SDK makes of it, over a real socket."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anthropic
import orjson
import pytest

from llmshield.call import Call
from llmshield.dialects import StreamCodec, WireRequest
from llmshield.dialects._anthropic import ERRORS
from llmshield.dialects.anthropic_messages import AnthropicMessages
from llmshield.errors import CallError
from llmshield.verdicts import Answer

DIALECT = AnthropicMessages()
ID = "01J00000000000000000000000"


def read(body: dict[str, Any]) -> Call:
    return DIALECT.read_call(ID, "generate", WireRequest("POST", "/v1/messages", "beta=true"), body)


ASK: dict[str, Any] = {"model": "claude-x", "max_tokens": 10, "messages": [{"role": "user", "content": "hi"}]}
RECORDED = Path(__file__).with_name("wire").joinpath("anthropic_stream.sse").read_bytes()


def opened() -> StreamCodec:
    return DIALECT.open_stream(read({**ASK, "stream": True}))


@contextlib.asynccontextmanager
async def serving(scripted: Any, script: Any) -> AsyncIterator[tuple[anthropic.AsyncAnthropic, list[str]]]:
    """An SDK client pointed at a server that answers as the script says; and the paths that were called."""
    async with (
        scripted(script) as (url, calls),
        anthropic.AsyncAnthropic(base_url=url, api_key="test") as client,
    ):
        yield client, calls


@pytest.mark.parametrize(
    ("kind", "raised", "retried"),
    [
        ("blocked", anthropic.BadRequestError, False),
        ("bad_request", anthropic.BadRequestError, False),
        ("unauthenticated", anthropic.AuthenticationError, False),
        ("forbidden", anthropic.PermissionDeniedError, False),
        ("model_denied", anthropic.NotFoundError, False),
        ("not_found", anthropic.NotFoundError, False),
        ("unsupported", anthropic.NotFoundError, False),
        ("method_not_allowed", anthropic.APIStatusError, False),
        ("unsupported_media", anthropic.APIStatusError, False),
        ("too_large", anthropic.RequestTooLargeError, False),
        ("budget_spent", anthropic.PaymentRequiredError, False),
        ("conflict", anthropic.ConflictError, True),
        ("rate_limited", anthropic.RateLimitError, True),
        ("policy_unavailable", anthropic.InternalServerError, True),
        ("store_unavailable", anthropic.ServiceUnavailableError, True),
        ("no_provider", anthropic.OverloadedError, True),
        ("upstream_error", anthropic.InternalServerError, True),
        ("upstream_timeout", anthropic.DeadlineExceededError, True),
        ("client_timeout", anthropic.RequestTimeoutError, True),
        ("shutting_down", anthropic.ServiceUnavailableError, True),
    ],
)
async def test_the_sdk_raises_the_right_class(
    kind: Any, raised: type[anthropic.APIStatusError], retried: bool, scripted: Any
) -> None:
    def script(path: str, query: str, body: dict[str, Any]) -> tuple[int, dict[str, str], bytes]:
        reply = DIALECT.write_error(CallError(kind, "words"), ID)
        # The SDK waits half a second and more before it repeats; this test need not.
        return reply.status, {**reply.headers, "retry-after-ms": "1"}, reply.body

    async with serving(scripted, script) as (client, calls):
        with pytest.raises(raised) as caught:
            await client.messages.create(**ASK)

    assert len(calls) == (3 if retried else 1)
    assert (caught.value.request_id, caught.value.type, caught.value.api_message) == (
        ID,
        ERRORS[kind][1],
        "words",
    )


async def test_the_sdk_reads_an_answer_of_ours(scripted: Any) -> None:
    def script(path: str, query: str, body: dict[str, Any]) -> tuple[int, dict[str, str], bytes]:
        call = read(body)
        if call.stream:
            return (
                200,
                {"content-type": "text/event-stream"},
                DIALECT.answer_stream(call, Answer("Grüße\u2028!")),
            )
        return (
            200,
            {"content-type": "application/json"},
            orjson.dumps(DIALECT.answer(call, Answer("Grüße\u2028!", "m2"))),
        )

    async with serving(scripted, script) as (client, _):
        whole = await client.messages.create(**ASK)
        async with client.messages.stream(**ASK) as stream:
            streamed = await stream.get_final_message()

    assert whole.content[0].text == streamed.content[0].text == "Grüße\u2028!"  # type: ignore[union-attr]
    assert (whole.model, streamed.model) == ("m2", "claude-x")
    assert (whole.stop_reason, whole.usage.input_tokens, whole.usage.output_tokens) == ("end_turn", 0, 0)
    assert (streamed.stop_reason, streamed.usage.output_tokens) == ("end_turn", 0)


async def test_the_sdk_reads_the_same_objects_through_the_codec(scripted: Any, drive: Any) -> None:
    def script(path: str, query: str, body: dict[str, Any]) -> tuple[int, dict[str, str], bytes]:
        data = RECORDED if body["model"] == "raw" else drive(opened(), [RECORDED])
        return 200, {"content-type": "text/event-stream"}, data

    async with serving(scripted, script) as (client, _):
        results = []
        for model in ("raw", "codec"):
            async with client.messages.stream(**{**ASK, "model": model}) as stream:
                results.append((await stream.get_final_message()).model_dump(warnings=False))

    assert results[0] == results[1]
    assert results[0]["content"][5]["input"] == {"to": "bé", "n": 1234}


async def test_the_sdk_takes_a_stop_for_a_refusal_and_an_abort_for_an_error(scripted: Any) -> None:
    def script(path: str, query: str, body: dict[str, Any]) -> tuple[int, dict[str, str], bytes]:
        codec = opened()
        out = b"".join(
            codec.write(event) for event in codec.feed(b"\n\n".join(RECORDED.split(b"\n\n")[:9]) + b"\n\n")
        )
        error = CallError("upstream_error", "broke")
        out += codec.stop(error) if body["model"] == "stop" else codec.abort(error, ID)
        return 200, {"content-type": "text/event-stream"}, out

    async with serving(scripted, script) as (client, calls):
        async with client.messages.stream(**{**ASK, "model": "stop"}) as stream:
            final = await stream.get_final_message()
        with pytest.raises(anthropic.APIStatusError) as caught:
            async with client.messages.stream(**{**ASK, "model": "abort"}) as stream:
                await stream.get_final_message()

    assert final.stop_reason == "refusal"
    assert (caught.value.type, caught.value.api_message, len(calls)) == ("api_error", "broke", 2)
