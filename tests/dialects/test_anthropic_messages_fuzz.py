"""Anthropic's Messages dialect: calls, replies and streams that are broken at random places raise nothing else."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import orjson
import pytest

from llmshield.call import Call
from llmshield.dialects import StreamCodec, WireRequest
from llmshield.dialects.anthropic_messages import AnthropicMessages
from llmshield.errors import CallError, WireError

DIALECT = AnthropicMessages()
ID = "01J00000000000000000000000"


def read(body: dict[str, Any]) -> Call:
    return DIALECT.read_call(ID, "generate", WireRequest("POST", "/v1/messages", "beta=true"), body)


def minimal(**fields: Any) -> dict[str, Any]:
    return {"model": "claude-x", "max_tokens": 100, "messages": [{"role": "user", "content": "hi"}], **fields}


RECORDED = Path(__file__).with_name("wire").joinpath("anthropic_stream.sse").read_bytes()


def opened() -> StreamCodec:
    return DIALECT.open_stream(read(minimal(stream=True)))


RICH: dict[str, Any] = minimal(
    system=[{"type": "text", "text": "sys"}],
    stream=True,
    thinking={"type": "enabled", "budget_tokens": 2000},
    metadata={"user_id": "u"},
    container={"id": "c", "skills": [{"skill_id": "s", "type": "custom"}]},
    context_management={"edits": [{"type": "clear_tool_uses_20250919", "trigger": {"type": "input_tokens", "value": 9}}]},
    tools=[{"name": "f", "input_schema": {"type": "object", "properties": {"a": {"enum": ["x"]}}}}, {"type": "web_search_20250305"}],
    messages=[
        {"role": "user", "content": [
            {"type": "text", "text": "t", "citations": [{"type": "char_location", "cited_text": "c"}]},
            {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}},
            {"type": "document", "source": {"type": "content", "content": [{"type": "text", "text": "d"}]}},
        ]},
        {"role": "assistant", "content": [
            {"type": "thinking", "thinking": "hm", "signature": "c2ln"}, {"type": "redacted_thinking", "data": "x"}, {"type": "tool_use", "id": "i", "name": "f", "input": {"a": 1}},
            {"type": "compaction", "content": "s", "encrypted_content": "e"},
        ]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "i", "content": "r"}]},
    ],
)  # fmt: skip

JUNK: list[Any] = [
    None, True, -1, 7, 2**63, 1.5, 1e300, "", "x y", "\x00", "💥", [], [[]], {}, {"type": []}, {"": {"": [None]}}, ["a", 1, None],
    "aGVsbG8=", {"role": 7, "content": {}}, {"type": "thinking", "thinking": 7, "signature": []}, [{"type": {}}], "data:,x",
]  # fmt: skip


def names(key: str) -> list[str]:
    return ["type", "content", "source", "x", key.upper(), "signature", "input", "index", "delta"]


def fuzz_bodies(mutated: Any, seeds: range) -> None:
    for seed in seeds:
        body = mutated(RICH, random.Random(seed), JUNK, names)
        try:
            call = read(orjson.loads(orjson.dumps(body)))
        except WireError:
            continue
        for text in call.texts:
            assert isinstance(text.value, str), seed
            assert text.place.startswith("/"), seed
        for sealed in call.sealed:
            sealed.dirty = True
            sealed.reseal()
        sent = DIALECT.write_call(call, "m")
        DIALECT.clamp(sent, 5)
        assert sent["max_tokens"] <= 5, seed


def fuzz_replies(mutated: Any, seeds: range) -> None:
    whole = {
        "id": "msg_1", "type": "message", "role": "assistant", "model": "claude-z",
        "content": [
            {"type": "thinking", "thinking": "hm", "signature": "c2ln"}, {"type": "text", "text": "x", "citations": [{"cited_text": "c"}]},
            {"type": "tool_use", "id": "i", "name": "f", "input": {"a": ["b", 5]}},
            {"type": "web_search_tool_result", "content": [{"title": "t"}]}, {"type": "compaction", "content": "s", "encrypted_content": "e"},
        ],
        "stop_reason": "end_turn", "stop_sequence": None,
        "usage": {"input_tokens": 3, "output_tokens": 4, "server_tool_use": {"web_search_requests": 1}, "iterations": [{"type": "compaction"}]},
    }  # fmt: skip
    events = [json.loads(line[6:]) for line in RECORDED.decode().split("\n") if line.startswith("data: ")]
    call = read(minimal())
    for seed in seeds:
        rng = random.Random(seed)
        for piece in DIALECT.read_reply(call, mutated(whole, rng, JUNK, names)).pieces:
            assert isinstance(piece.holder[piece.key], str | int | float | None), seed
        codec = opened()
        for event in codec.feed(
            b"".join(b"data: %b\n\n" % orjson.dumps(event) for event in mutated(events, rng, JUNK, names))
        ):
            if event.error is None:
                codec.write(event)
        codec.finalise()
        codec.stop(CallError("blocked", "no"))


def test_mutated_bodies_raise_only_wire_errors(mutated: Any) -> None:
    fuzz_bodies(mutated, range(2000))


def test_mutated_replies_and_streams_never_raise(mutated: Any) -> None:
    fuzz_replies(mutated, range(1000))


@pytest.mark.nightly
def test_many_mutations(mutated: Any) -> None:
    fuzz_bodies(mutated, range(2000, 50_000))
    fuzz_replies(mutated, range(1000, 25_000))
