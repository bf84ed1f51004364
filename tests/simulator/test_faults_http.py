"""Every fault of the connection, the head and the body, at the level of bytes."""

import asyncio
import gzip
import json
import zlib
from email.utils import parsedate_to_datetime

import brotli
import pytest
import zstandard

from llmshield.simulator.faults_http import bomb
from llmshield.simulator.table import FAULTS

# fault, what the connection ends with, what must be on the wire (whole reply)
WHOLE = [
    ("drop", "fin", lambda r: r.wire == b""),
    ("reset", "rst", lambda r: r.wire == b""),
    ("refuse", "rst", lambda r: r.wire == b""),
    ("silence", "open", lambda r: r.wire == b""),
    ("not_http", "fin", lambda r: not r.wire.startswith(b"HTTP/")),
    ("no_content", "fin", lambda r: r.status == 204 and r.body == b'{"surprise":true}'),
    ("slow_head, pause=10", "open", lambda r: r.wire == b""),
    ("slow_head, pause=0.01", "fin", lambda r: r.status == 200),
    ("storm_1xx", "fin", lambda r: r.wire.count(b"HTTP/1.1 103") == 100 and b"HTTP/1.1 200 OK" in r.wire),
    ("short_length", "fin", lambda r: int(r.headers["content-length"]) == len(r.body) // 2),
    ("long_length", "fin", lambda r: int(r.headers["content-length"]) == len(r.body) + 64),
    ("two_lengths", "fin", lambda r: r.head.count(b"content-length") == 2),
    ("bad_chunk", "fin", lambda r: b"ZZ\r\n" in r.wire),
    ("http10", "fin", lambda r: r.wire.startswith(b"HTTP/1.0 200") and b"content-length" not in r.head),
    ("trailers", "fin", lambda r: b"0\r\nauthorization: Bearer trailer\r\n" in r.wire and r.json["id"]),
    ("big_head, size=100000", "fin", lambda r: len(r.head) > 100_000 and r.json["id"]),
    ("wrong_type", "fin", lambda r: r.headers["content-type"].startswith("text/plain") and r.json["id"]),
    ("html", "fin", lambda r: r.status == 200 and r.body.startswith(b"<!DOCTYPE html>")),
    ("503+html", "fin", lambda r: r.status == 503 and r.body.startswith(b"<!DOCTYPE html>")),
    ("empty", "fin", lambda r: r.status == 200 and r.body == b""),
    ("gzip_garbage", "fin", lambda r: r.headers["content-encoding"] == "gzip" and b"\xde\xad" in r.body),
    ("gzip_plain", "fin", lambda r: r.headers["content-encoding"] == "gzip" and r.json["id"]),
    ("bom", "fin", lambda r: r.body.startswith(b"\xef\xbb\xbf{")),
    ("slow_first, pause=10", "open", lambda r: r.status == 200 and r.body == b""),
]


@pytest.mark.parametrize(("simulate", "end", "holds"), WHOLE, ids=[case[0] for case in WHOLE])
async def test_whole(start, ask, simulate, end, holds):
    sim = await start()
    raw = await ask(sim, "chat", simulate, wait=0.15 if end == "open" else 1)

    assert end == raw.end
    assert holds(raw)


@pytest.mark.parametrize("fault", ["truncated_json", "malformed"])
async def test_a_cut_body_is_no_json_but_has_the_right_length(start, ask, fault):
    raw = await ask(await start(), "chat", fault, wait=1)

    assert len(raw.body) == int(raw.headers["content-length"])
    with pytest.raises(json.JSONDecodeError):
        json.loads(raw.body)


@pytest.mark.parametrize(
    ("fault", "end"),
    [("cut", "rst"), ("cut_mid_event", "rst"), ("fin", "fin"), ("half_close", "fin"), ("stall", "open")],
)
async def test_half_of_a_whole_reply(start, ask, fault, end):
    raw = await ask(await start(), "chat", fault, wait=0.15 if end == "open" else 1)

    assert end == raw.end
    assert len(raw.body) == int(raw.headers["content-length"]) // 2


async def test_drip_sends_single_bytes(start, ask):
    sim = await start()
    whole = await ask(sim, "chat", "drip, pause=0, stable=1", wait=2)

    assert sim.calls[0].pieces == len(whole.body) == int(whole.headers["content-length"])
    assert whole.json["id"]
    slow = await ask(sim, "chat", "drip, pause=0.04", wait=0.15)
    assert 1 <= len(slow.body) <= 6


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


UNPACK = {
    "gzip": gzip.decompress,
    "deflate": zlib.decompress,
    "br": brotli.decompress,
    "zstd": lambda data: zstandard.ZstdDecompressor().decompressobj().decompress(data),
}


@pytest.mark.parametrize("encoding", UNPACK)
@pytest.mark.parametrize("stream", [False, True])
async def test_encodings(start, ask, encoding, stream):
    sim = await start()
    plain = await ask(sim, "chat", "stable=1", stream=stream, wait=1)
    packed = await ask(sim, "chat", f"stable=1, encoding={encoding}", stream=stream, wait=1)

    assert encoding == packed.headers["content-encoding"]
    assert plain.body == UNPACK[encoding](packed.body)


async def test_encoding_as_the_client_likes(start, ask):
    sim = await start(encoding="auto")
    packed = await ask(sim, "chat", headers="accept-encoding: gzip, zstd\r\n", wait=1)
    plain = await ask(sim, "chat", wait=1)

    assert packed.headers["content-encoding"] == "zstd"
    assert "content-encoding" not in plain.headers


@pytest.mark.parametrize("encoding", ["gzip", "br", "zstd"])
async def test_a_bomb_is_small_and_lawful(start, ask, encoding):
    size = 8 << 20
    raw = await ask(await start(), "chat", f"bomb, size={size}, encoding={encoding}", wait=1)

    assert raw.headers["content-encoding"] == encoding
    assert len(raw.body) < size // 500
    assert len(json.loads(UNPACK[encoding](raw.body))["id"]) == size
    assert bomb(size, encoding) is bomb(size, encoding)


async def test_style_faults_leave_whole_replies_alone(start, ask):
    sim = await start()
    plain = await ask(sim, "chat", "stable=1", wait=1)
    for fault in ("crlf", "cr", "no_space", "multiline", "comments"):
        raw = await ask(sim, "chat", f"{fault}, stable=1", wait=1)

        assert plain.json["choices"] == raw.json["choices"]


async def test_silence_ends_when_the_client_leaves(start, ask):
    sim = await start()
    await ask(sim, "chat", "silence", wait=0.05)
    await asyncio.sleep(0.05)

    assert sim.calls[0].disconnected
    assert sim.open_connections == 0
