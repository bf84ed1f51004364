"""Google's Gemini dialect: what the official SDK makes of it, over a real socket."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from google import genai
from google.genai import errors as genai_errors
from google.genai import types

from llmshield.call import Call
from llmshield.dialects import WireRequest
from llmshield.dialects._gemini import ERRORS
from llmshield.dialects.gemini import Gemini
from llmshield.errors import CallError
from llmshield.verdicts import Answer

DIALECT = Gemini()
ID = "01J00000000000000000000000"


def read(body: dict[str, Any], path: str, query: str) -> Call:
    operation = DIALECT.claims("POST", path, {})
    assert operation is not None
    return DIALECT.read_call(ID, operation, WireRequest("POST", path, query), body)


pytestmark = pytest.mark.filterwarnings("ignore:Inheritance class AiohttpClientSession:DeprecationWarning")
"""The SDK makes a subclass that aiohttp warns about."""

CHUNKS: list[Any] = orjson.loads(Path(__file__).with_name("wire").joinpath("gemini_chunks.json").read_bytes())
SSE = b"".join(b"data: %b\r\n\r\n" % orjson.dumps(one) for one in CHUNKS)


@contextlib.asynccontextmanager
async def serving(scripted: Any, script: Any) -> AsyncIterator[tuple[genai.Client, list[str]]]:
    """An SDK client pointed at a server that answers as the script says; and the paths that were called."""
    async with scripted(script) as (url, calls):
        client = genai.Client(api_key="test", http_options=types.HttpOptions(base_url=url))
        try:
            yield client, calls
        finally:
            await client.aio.aclose()
            client.close()


@pytest.mark.parametrize("kind", ERRORS)
async def test_the_sdk_raises_the_right_class(kind: Any, scripted: Any) -> None:
    def script(path: str, query: str, body: dict[str, Any]) -> tuple[int, dict[str, str], bytes]:
        result = DIALECT.write_error(CallError(kind, "words"), ID)
        return result.status, result.headers, result.body

    async with serving(scripted, script) as (client, calls):
        with pytest.raises(genai_errors.APIError) as caught:
            await client.aio.models.generate_content(model="gemini-x", contents="hi")

    status, code, _ = ERRORS[kind]
    assert type(caught.value) is (genai_errors.ServerError if status >= 500 else genai_errors.ClientError)
    assert (caught.value.code, caught.value.status, caught.value.message, len(calls)) == (
        status,
        code,
        "words",
        1,
    )


async def test_the_sdk_reads_an_answer_of_ours(scripted: Any) -> None:
    def script(path: str, query: str, body: dict[str, Any]) -> tuple[int, dict[str, str], bytes]:
        call = read(body, path, query)
        answer = Answer("Grüße\u2028!")
        if call.stream:
            return 200, {"content-type": "text/event-stream"}, DIALECT.answer_stream(call, answer)
        return 200, {"content-type": "application/json"}, orjson.dumps(DIALECT.answer(call, answer))

    async with serving(scripted, script) as (client, _):
        whole = await client.aio.models.generate_content(model="gemini-x", contents="hi")
        streamed = [
            one
            async for one in await client.aio.models.generate_content_stream(model="gemini-x", contents="hi")
        ]

    assert whole.text == "".join(one.text or "" for one in streamed) == "Grüße\u2028!"
    assert (whole.model_version, streamed[0].model_version) == ("gemini-x", "gemini-x")


async def test_the_sdk_reads_the_same_objects_through_the_codec(scripted: Any, drive: Any) -> None:
    def script(path: str, query: str, body: dict[str, Any]) -> tuple[int, dict[str, str], bytes]:
        call = read(body, path, query)
        raw = SSE.replace("\u2028".encode(), b"\\u2028")  # the SDK would end a line there
        data = raw if call.model == "raw" else drive(DIALECT.open_stream(call), [SSE])
        return 200, {"content-type": "text/event-stream"}, data

    async with serving(scripted, script) as (client, _):
        results = []
        for model in ("raw", "codec"):
            stream = await client.aio.models.generate_content_stream(model=model, contents="hi")
            results.append([one.model_dump(exclude={"sdk_http_response"}) async for one in stream])

    assert results[0] == results[1]
    assert len(results[0]) == len(CHUNKS)


async def test_the_sdk_takes_a_stop_for_a_finish_and_an_abort_for_an_error(scripted: Any) -> None:
    def script(path: str, query: str, body: dict[str, Any]) -> tuple[int, dict[str, str], bytes]:
        call = read(body, path, query)
        codec = DIALECT.open_stream(call)
        out = b"".join(codec.write(event) for event in codec.feed(SSE[: SSE.index(b"zweite")]))
        error = CallError("blocked", "no") if call.model == "stop" else CallError("upstream_error", "broke")
        out += codec.stop(error) if call.model == "stop" else codec.abort(error, ID)
        return 200, {"content-type": "text/event-stream"}, out

    async with serving(scripted, script) as (client, _):
        chunks = [
            one async for one in await client.aio.models.generate_content_stream(model="stop", contents="hi")
        ]
        with pytest.raises(genai_errors.APIError) as caught:
            async for _ in await client.aio.models.generate_content_stream(model="abort", contents="hi"):
                pass

    assert chunks[-1].text is None
    last = (chunks[-1].candidates or [])[0]
    assert last.finish_reason == types.FinishReason.PROHIBITED_CONTENT
    assert (caught.value.code, caught.value.message) == (502, "broke")
