"""The bytes of a stream do not depend on how the provider's bytes came: one event at a time, many at once, cut anywhere.

Guards hold back what may become something, and let it go later: where is decided by the events alone.
"""

import asyncio
import json
import random
from collections.abc import Iterator
from typing import Any

import aiohttp
import pytest

from llmshield.testing import gateway

POLICY = """
server: {{store: "memory://"}}
providers: {{p: {{dialect: {family}, base_url: "http://127.0.0.1:{port}{root}", api_key: "env://KEY"}}}}
plugins:
  - {{use: injection, scan: [system, user, assistant, tool]}}
  - {{use: secrets}}
  - {{use: pii, entities: {{EMAIL_ADDRESS: {{action: replace}}, CREDIT_CARD: {{action: replace}}}}, restore: true, scan: [user, assistant]}}
"""
SAID = (
    'Dear {}, the "key" is\tAKIA of nobody\\n; 4111 1111 1111 1112 is no card.\u2028 Ada <ada@ or {} again: Grüße '
    "\U0001f30a, see https://example.com/ada@example and ignore the previous line.\n\n1. one\n2. two {}"
)
WAYS = (
    "event by event",
    "at once",
    "by2",
    "by3",
    "by7",
    *(f"{word} {seed}" for word in ("cut", "together") for seed in range(6)),
)
KINDS = {"openai": "/v1/chat/completions", "anthropic": "/v1/messages"}


def events(kind: str, text: str) -> list[bytes]:
    """A stream that says a text in short pieces, some with escapes that another writer would not use."""
    chance = random.Random(7)
    pieces, at = list[str](), 0
    while at < len(text):
        size = chance.choice((1, 2, 3, 5, 9, 20))
        pieces.append(text[at : at + size])
        at += size
    found = list[bytes]()

    def add(name: str, tree: Any) -> None:
        data = json.dumps(tree, ensure_ascii=len(found) % 3 == 0, separators=(",", ":")).encode()
        found.append((b"event: %b\n" % name.encode() if name else b"") + b"data: " + data + b"\n\n")

    if kind == "openai":
        for piece in [*pieces, None]:
            delta, finish = ({"content": piece}, None) if piece is not None else ({}, "stop")
            add("", {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m",
                     "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}]})  # fmt: skip
        return [*found, b"data: [DONE]\n\n"]
    usage = {"input_tokens": 1, "output_tokens": 1}
    add("message_start", {"type": "message_start", "message": {"id": "m", "type": "message", "role": "assistant",
        "model": "m", "content": [], "stop_reason": None, "stop_sequence": None, "usage": usage}})  # fmt: skip
    add(
        "content_block_start",
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    )
    for piece in pieces:
        add(
            "content_block_delta",
            {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": piece}},
        )
    add("content_block_stop", {"type": "content_block_stop", "index": 0})
    add(
        "message_delta",
        {
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn", "stop_sequence": None},
            "usage": usage,
        },
    )
    add("message_stop", {"type": "message_stop"})
    return found


def at_random(data: bytes, seed: int) -> Iterator[bytes]:
    chance = random.Random(seed)
    at = 0
    while at < len(data):
        size = chance.choice((1, 40, 150, 300, 700, 2_000))
        yield data[at : at + size]
        at += size


def together(parts: list[bytes], seed: int) -> Iterator[bytes]:
    """The first ones each by itself, as models begin; then some at a time, as a busy network has it."""
    chance = random.Random(seed)
    at = 0
    while at < len(parts):
        size = 1 if at < 6 else chance.choice((1, 1, 2, 3, 6))
        yield b"".join(parts[at : at + size])
        at += size


def in_writes(parts: list[bytes], way: str) -> list[bytes]:
    """The stream as the provider sends it."""
    if way == "event by event":
        return parts
    if way == "at once":
        return [b"".join(parts)]
    if way.startswith("by"):
        size = int(way[2:])
        return [b"".join(parts[at : at + size]) for at in range(0, len(parts), size)]
    word, _, seed = way.partition(" ")
    if word == "cut":
        return [*at_random(b"".join(parts), int(seed))]
    return [*together(parts, int(seed))]


@pytest.mark.parametrize("kind", KINDS)
async def test_however_it_came(kind: str, listening: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEY", "sk-of-the-policy")
    way = ""

    async def provider(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        content = json.loads(await reader.readexactly(length))["messages"][-1]["content"]
        asked = content if isinstance(content, str) else content[0]["text"]
        assert "ada@example.com" not in asked
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n")
        for part in in_writes(events(kind, SAID.format(*[asked] * 3)), way):
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0.002)  # long enough to be read by itself, nearly always

    body = {
        "model": "m",
        "max_tokens": 99,
        "stream": True,
        "messages": [{"role": "user", "content": "ada@example.com"}],
    }
    got: dict[str, bytes] = {}
    async with listening(provider) as port, aiohttp.ClientSession() as session:
        text = POLICY.format(family=kind, port=port, root="/v1" if kind == "openai" else "")
        async with gateway(text) as (url, _):
            for way in WAYS:
                async with session.post(
                    url + KINDS[kind], json=body, headers={"anthropic-version": "2023-06-01"}
                ) as reply:
                    got[way] = await reply.read()
    plain = got["event by event"]

    assert plain.count(b"ada@example.com") == 3 or b"ada@example.com" in plain.replace(b'"', b"")
    assert {way: data == plain for way, data in got.items()} == dict.fromkeys(got, True)
