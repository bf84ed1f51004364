"""Faults of the connection, the head and the framing, and a table of all faults of whole replies."""

import asyncio

import pytest

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


async def test_silence_ends_when_the_client_leaves(start, ask):
    sim = await start()
    await ask(sim, "chat", "silence", wait=0.05)
    await asyncio.sleep(0.05)

    assert sim.calls[0].disconnected
    assert sim.open_connections == 0
