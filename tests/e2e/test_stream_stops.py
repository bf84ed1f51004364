"""What a client has when a guard ends a stream: all that passed, in events that fit together, and the stop signal."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import aiohttp
import pytest

from llmshield.testing import gateway

BLOCK = "  - use: pii\n    presidio: false\n    scan: [output]\n    entities: {CREDIT_CARD: {action: block}, EMAIL_ADDRESS: replace}\n"


@contextlib.asynccontextmanager
async def provider(chunks: Sequence[bytes], media: str = "text/event-stream") -> AsyncIterator[str]:
    """A provider that writes these bytes, one piece after the other, each in a packet of its own."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(f"HTTP/1.1 200 OK\r\ncontent-type: {media}\r\nconnection: close\r\n\r\n".encode())
            for chunk in chunks:
                writer.write(chunk)
                await writer.drain()
                await asyncio.sleep(0.05)
            writer.close()

    writers: list[asyncio.StreamWriter] = []
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for writer in writers:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()


def sse(*trees: Any) -> bytes:
    out = b""
    for tree in trees:
        name = f"event: {tree['type']}\n" if "type" in tree else ""
        out += f"{name}data: {json.dumps(tree)}\n\n".encode()
    return out


def chat(text: str, finish: str | None = None) -> Any:
    delta = {"content": text} if text else {}
    return {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m",
            "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}  # fmt: skip


def legacy(text: str, finish: str | None = None) -> Any:
    choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": finish}
    return {"id": "c", "object": "text_completion", "created": 1, "model": "m", "choices": [choice]}


def block(index: int, *texts: str) -> list[Any]:
    delta = [
        {"type": "content_block_delta", "index": index, "delta": {"type": "text_delta", "text": t}}
        for t in texts
    ]
    return [
        {"type": "content_block_start", "index": index, "content_block": {"type": "text", "text": ""}},
        *delta,
    ]


def response(kind: str, number: int, **more: Any) -> Any:
    return {"type": f"response.{kind}", "sequence_number": number, **more}


def part(text: str) -> Any:
    return {
        "candidates": [{"content": {"parts": [{"text": text}], "role": "model"}, "index": 0}],
        "modelVersion": "m",
    }


START = {"type": "message_start", "message": {"id": "m1", "type": "message", "role": "assistant", "model": "m", "content": [],
         "stop_reason": None, "stop_sequence": None, "usage": {"input_tokens": 1, "output_tokens": 1}}}  # fmt: skip
AT = {"item_id": "i", "output_index": 0, "content_index": 0}
CREATED = {
    "id": "r",
    "object": "response",
    "created_at": 1,
    "status": "in_progress",
    "model": "m",
    "output": [],
}

FIRST, MORE, CARD = "Hello there, ", "and more words here, ", "then 4111 1111 1111 1111 and so on, "
STREAMS = {
    "chat": [sse(chat(FIRST)), sse(chat(MORE), chat(CARD), chat("", "stop")) + b"data: [DONE]\n\n"],
    "completions": [sse(legacy(FIRST)), sse(legacy(MORE), legacy(CARD), legacy("", "stop")) + b"data: [DONE]\n\n"],
    "messages": [
        sse(START, *block(0, FIRST)),
        sse({"type": "content_block_stop", "index": 0}, *block(1, MORE, CARD), {"type": "content_block_stop", "index": 1},
            {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 9}},
            {"type": "message_stop"}),
    ],
    "responses": [
        sse(response("created", 0, response=CREATED), response("output_text.delta", 1, **AT, delta=FIRST)),
        sse(response("output_text.delta", 2, **AT, delta=MORE), response("output_text.delta", 3, **AT, delta=CARD)),
    ],
    "gemini": [sse(part(FIRST)), sse(part(MORE), part(CARD))],
    "gemini_array": [
        b"[" + json.dumps(part(FIRST)).encode(),
        b",\n" + json.dumps(part(MORE)).encode() + b",\n" + json.dumps(part(CARD)).encode() + b"]",
    ],
}  # fmt: skip


async def ask(wire: Any, chunks: Sequence[bytes], plugins: str) -> Any:
    media = "application/json" if wire.name == "gemini_array" else "text/event-stream"
    async with (
        provider(chunks, media) as at,
        gateway(f"providers: {{a: {wire.policy(at)}}}\nplugins:\n{plugins}") as (url, _),
        aiohttp.ClientSession() as http,
    ):
        return await wire.ask(http, url, stream=True)


async def test_what_passed_before_a_stop_is_not_lost(wires: Any) -> None:
    for wire in wires:
        got = await ask(wire, STREAMS[wire.name], BLOCK)

        assert "".join(v for k, v in got.said.items() if k.startswith("content")) == FIRST + MORE + "then ", (
            wire
        )
        assert wire.name == "responses" or not got.error, wire
        if wire.name == "messages":
            opened = [one["index"] for one in got.trees if one["type"] == "content_block_start"]
            closed = [one["index"] for one in got.trees if one["type"] == "content_block_stop"]
            assert opened == closed == [0, 1]
        if wire.name == "responses":
            assert [0, 1, 2, 3, 4] == [one["sequence_number"] for one in got.trees][:5]


@pytest.mark.parametrize("cut", [b"", b"data: {", b"\n"])
async def test_a_stream_that_is_cut_while_text_waits(wires: Any, cut: bytes) -> None:
    """What passed is there, what waited is not, and the end is an error."""
    for wire in wires:
        first, rest = STREAMS[wire.name]
        events = rest.replace(CARD.encode(), b"then 4111 1111 ").removesuffix(b"]").split(b"\n\n")
        if wire.name != "gemini_array":
            events = [*events[: 4 if wire.name == "messages" else 2], cut]
        got = await ask(wire, [first, b"\n\n".join(events)], BLOCK)
        said = "".join(v for k, v in got.said.items() if k.startswith("content"))

        assert got.error, wire
        assert FIRST + MORE + "then " == said, wire
        assert b"4111" not in got.raw


async def test_an_array_that_ends_before_its_answer_ends_in_an_error(wires: Any) -> None:
    first, rest = STREAMS["gemini_array"]
    got = await ask(wires[-1], [first, rest], BLOCK.replace("{action: block}", "replace"))

    assert got.error
    assert FIRST + MORE + "then <CREDIT_CARD_1> and so on, " == got.said["content 0"]
    assert b"4111" not in got.raw


async def test_one_event_of_a_megabyte_leaves_the_loop_to_others(wires: Any) -> None:
    """5 to 17 s before such events left the loop; the bound is loose because machines are shared."""
    worst, last = 0.0, time.perf_counter()

    async def watch() -> None:
        nonlocal worst, last
        while True:
            await asyncio.sleep(0.002)
            now = time.perf_counter()
            worst, last = max(worst, now - last), now

    wire = wires[0]
    watching = asyncio.create_task(watch())
    event = sse(chat("john@example.com " * 60_000), chat("", "stop")) + b"data: [DONE]\n\n"
    got = await ask(wire, [event], "  - use: pii\n    presidio: false\n    scan: [output]\n")
    watching.cancel()

    assert "john@" not in got.said["content 0"]
    assert got.said["content 0"].count("<EMAIL_ADDRESS_1>") == 60_000
    assert worst < 1.0


async def test_a_value_that_goes_on_behind_the_end_of_its_text_does_not_pass(wires: Any) -> None:
    head, tail = "card 4111 1111 ", "1111 1111 ok"
    done = b"data: [DONE]\n\n"
    streams = {
        "chat": sse(chat(head), chat("", "stop"), chat(tail), chat("", "stop")) + done,
        "completions": sse(legacy(head, "stop"), legacy(tail), legacy("", "stop")) + done,
        "responses": sse(
            response("created", 0, response=CREATED), response("output_text.delta", 1, **AT, delta=head),
            response("output_text.done", 2, **AT, text=head), response("output_text.delta", 3, **AT, delta=tail),
        ),
    }  # fmt: skip
    for wire in wires:
        if wire.name in streams:
            got = await ask(wire, [streams[wire.name]], BLOCK)

            assert got.error, wire
            assert b"ok" not in got.raw


async def test_what_waits_goes_out_before_the_done_of_a_provider_that_names_no_finish(wires: Any) -> None:
    """Behind `[DONE]` no SDK reads on: the end of the answer was lost there."""
    plugins = "  - use: pii\n    presidio: false\n    scan: [user, output]\n    restore: true\n"
    done = b"data: [DONE]\n\n"
    other = chat("")
    other["choices"] = [{"index": 1, "delta": {"content": "of the other"}, "finish_reason": None}]
    both = sse(chat("the last words"), other, chat("", "stop"))
    streams = {
        "chat": [both + done, sse(chat("the last words")) + done],
        "completions": [sse(legacy("the last words")) + done],
    }  # fmt: skip
    for wire in wires:
        for stream in streams.get(wire.name, []):
            got = await ask(wire, [stream], plugins)

            assert not got.error, wire
            assert got.said["content 0"] == "the last words"
            assert got.said.get("content 1") == ("of the other" if stream == both + done else None)
            assert got.raw.endswith(done)
            assert got.raw.count(done) == 1


async def test_the_done_of_another_api_is_no_end_of_a_response(wires: Any) -> None:
    (wire,) = [wire for wire in wires if wire.name == "responses"]
    got = await ask(wire, [STREAMS["responses"][0] + b"data: [DONE]\n\n"], BLOCK)

    assert got.error
