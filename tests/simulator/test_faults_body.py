"""Faults of the body's bytes: cut, packed, dripped."""

import gzip
import json
import zlib

import brotli
import pytest
import zstandard

from llmshield.simulator.faults_body import bomb


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
