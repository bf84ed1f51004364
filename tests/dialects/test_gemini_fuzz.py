"""Google's Gemini dialect: calls, replies and streams that are broken at random places raise nothing else."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import orjson
import pytest

from llmshield.call import Call
from llmshield.dialects import WireRequest
from llmshield.dialects._gemini_texts import snake
from llmshield.dialects.gemini import Gemini
from llmshield.errors import CallError, WireError

DIALECT = Gemini()
ID = "01J00000000000000000000000"
PATH = "/v1beta/models/gemini-x:generateContent"
STREAM = "/v1beta/models/gemini-x:streamGenerateContent"


def read(body: dict[str, Any], path: str = PATH, query: str = "") -> Call:
    operation = DIALECT.claims("POST", path, {})
    assert operation is not None
    return DIALECT.read_call(ID, operation, WireRequest("POST", path, query), body)


CHUNKS: list[Any] = orjson.loads(Path(__file__).with_name("wire").joinpath("gemini_chunks.json").read_bytes())
JUNK: list[Any] = [
    None, True, -1, 7, 2**63, 1.5, 1e300, "", "x y", "\x00", "💥", [], [[]], {}, {"role": []}, {"": {"": [None]}}, ["a", 1, None],
    "aGVsbG8=", {"role": 7, "parts": {}}, {"functionCall": 7}, [{"text": {}}], {"parts": [{"text": 7}]}, "data:,x",
]  # fmt: skip

NAMES = [
    "role",
    "parts",
    "text",
    "x",
    "functionCall",
    "inline_data",
    "index",
    "finishReason",
    "generation_config",
    "args",
]


def names(key: str) -> list[str]:
    return [*NAMES, key.upper(), snake(key)]


def fuzz_bodies(mutated: Any, gemini_calls: Any, seeds: range) -> None:
    camel, snaked = gemini_calls().values()
    for seed in seeds:
        rng = random.Random(seed)
        body = mutated(
            rng.choice(
                [
                    camel,
                    snaked,
                    {"requests": [{"content": camel["contents"][0]}]},
                    {"generateContentRequest": camel},
                ]
            ),
            rng,
            JUNK,
            names,
        )
        path = rng.choice(
            [PATH, PATH, STREAM, "/v1beta/models/g:countTokens", "/v1beta/models/g:batchEmbedContents"]
        )
        try:
            call = read(orjson.loads(orjson.dumps(body)), path)
        except WireError:
            continue
        for text in call.texts:
            assert isinstance(text.value, str), seed
            assert text.place.startswith("/"), seed
        for sealed in call.sealed:
            sealed.dirty = True
            sealed.reseal()
        sent = DIALECT.write_call(call, "m")
        if call.operation == "generate":
            DIALECT.clamp(sent, 5)
            assert (DIALECT.bound(sent) or 99) <= 5, seed
            DIALECT.open_stream(call)


def fuzz_replies(mutated: Any, seeds: range) -> None:
    whole = {
        "candidates": [
            {
                "content": {"role": "model", "parts": [
                    {"text": "x"}, {"text": "y", "thought": True}, {"functionCall": {"name": "f", "args": {"a": ["b", 5]}}},
                ]},
                "finishReason": "STOP", "index": 0,
                "groundingMetadata": {"webSearchQueries": ["q"], "groundingSupports": [{"segment": {"text": "x"}}]},
                "logprobsResult": {"chosenCandidates": [{"token": "x"}]},
            }
        ],
        "usageMetadata": {"promptTokenCount": 3, "candidatesTokenCount": 4, "totalTokenCount": 7},
        "modelVersion": "gemini-z", "responseId": "r", "promptFeedback": {"blockReason": "SAFETY"},
    }  # fmt: skip
    piece = {"jsonPath": "$.a", "stringValue": "x", "willContinue": True}
    begun = {"functionCall": {"name": "f", "willContinue": True, "partialArgs": [piece]}}
    partial = {
        "candidates": [{"content": {"parts": [begun], "role": "model"}, "index": 0}],
        "modelVersion": "gemini-z",
    }
    asked = {"contents": [], "generationConfig": {"responseLogprobs": True}}
    call = read(asked, STREAM, "alt=sse")
    for seed in seeds:
        rng = random.Random(seed)
        for one in DIALECT.read_reply(call, mutated(whole, rng, JUNK, names)).pieces:
            assert isinstance(one.holder[one.key], str | int | float | None), seed
        codec = DIALECT.open_stream(call)
        for event in codec.feed(
            b"".join(
                b"data: %b\n\n" % orjson.dumps(one)
                for one in mutated([*CHUNKS, partial, whole], rng, JUNK, names)
            )
        ):
            if event.error is None:
                for channel in event.ends:
                    codec.late(event, channel, "rest")
                codec.write(event)
        assert codec.usage is None or codec.usage.input is None or codec.usage.input >= 0, seed
        codec.finalise()
        codec.stop(CallError("blocked", "no"))


def test_mutated_bodies_raise_only_wire_errors(mutated: Any, gemini_calls: Any) -> None:
    fuzz_bodies(mutated, gemini_calls, range(2000))


def test_mutated_replies_and_streams_never_raise(mutated: Any) -> None:
    fuzz_replies(mutated, range(1000))


@pytest.mark.nightly
def test_many_mutations(mutated: Any, gemini_calls: Any) -> None:
    fuzz_bodies(mutated, gemini_calls, range(2000, 50_000))
    fuzz_replies(mutated, range(1000, 25_000))
