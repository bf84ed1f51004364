"""Google's Gemini dialect: streams that break, and lines of them that a client must not see."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from llmshield.dialects import StreamCodec, WireRequest
from llmshield.dialects.gemini import Gemini

DIALECT = Gemini()
ID = "01J00000000000000000000000"
STREAM = "/v1beta/models/gemini-x:streamGenerateContent"
CHUNKS: list[Any] = orjson.loads(Path(__file__).with_name("wire").joinpath("gemini_chunks.json").read_bytes())
SSE = b"".join(b"data: %b\r\n\r\n" % orjson.dumps(one) for one in CHUNKS)


def opened(query: str = "alt=sse") -> StreamCodec:
    body = {"contents": [{"role": "user", "parts": [{"text": "hi"}]}]}
    return DIALECT.open_stream(DIALECT.read_call(ID, "generate", WireRequest("POST", STREAM, query), body))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"data: {\n\n", "malformed"), (b"data: 7\n\n", "malformed"), (b'data: {"candidates": 7}\n\n', "malformed"),
        (b'data: {"candidates": [7]}\n\n', "malformed"), (b'data: {"error": {"code": 429}}\n\n', "error_in_stream"),
        (b'data: {"error": 7}\n\n', "error_in_stream"), (b"event: \xff\ndata: {}\n\n", "malformed"),
    ],
)  # fmt: skip
def test_broken_streams_end_with_one_error(data: bytes, reason: str) -> None:
    codec = opened()
    *_, last = codec.feed(data)

    assert last.error is not None
    assert last.error.reason == reason
    assert codec.feed(SSE) == []


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"x", "malformed"), (b"[7]", "malformed"), (b'[{"a":1} {"b":2}]', "malformed"), (b"[,", "malformed"),
        (b'[{"a":1}]x', "malformed"), (b'[{"a":}]', "malformed"), (b'[{"error": {"code": 503}}]', "error_in_stream"),
        (b'{"error": {"code": 503}}', "error_in_stream"), (b'[{"a":1},]', "malformed"), (b"[[{}]]", "malformed"),
    ],
)  # fmt: skip
def test_broken_arrays_end_with_one_error(data: bytes, reason: str) -> None:
    for parts in ([data], [data[i : i + 1] for i in range(len(data))]):
        codec = opened("")
        events = [event for part in parts for event in codec.feed(part)]
        failed = [event.error.reason for event in events if event.error is not None]
        if data == b'[{"a":1}]x':  # the array is over before the rest comes
            assert failed in ([], [reason])
        else:
            assert failed == [reason]
        assert not codec.ended


def test_comments_do_not_reach_the_client() -> None:
    """google-genai takes a line that does not begin with `data: ` for the beginning of an error."""
    codec = opened()

    assert b"".join(codec.write(event) for event in codec.feed(b": keep-alive\n\n")) == b""
