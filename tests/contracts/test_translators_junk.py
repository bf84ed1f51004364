"""No body, reply or stream brings a translator down: what is read has passed its dialect's reading, and no more than that."""

from __future__ import annotations

import copy
import os
import random
from collections.abc import Iterator
from typing import Any

import orjson
import pytest

from llmshield.conversation import (
    Answered,
    Begun,
    Choice,
    Conversation,
    Finished,
    Message,
    Metered,
    Over,
    PartBegun,
    TextPart,
    Usage,
)
from llmshield.errors import WireError
from llmshield.registry import find, names
from llmshield.testing import read
from llmshield.translators import Translator

TRANSLATORS: dict[str, Translator] = {name: find("translator", name)() for name in names("translator")}
EACH = pytest.mark.parametrize("name", TRANSLATORS)
JUNK: list[Any] = [
    None,
    True,
    False,
    0,
    -1,
    0.5,
    2**60,
    "",
    "word",
    "data:x",
    [],
    {},
    [None],
    [1],
    ["word"],
    [[]],
    [{}],
    {"type": "word"},
    {"text": 1},
]
ROUNDS = int(os.environ.get("LLMSHIELD_FUZZ", "300"))
PATHS = {
    "openai_chat": "/v1/chat/completions",
    "openai_responses": "/v1/responses",
    "anthropic_messages": "/v1/messages",
    "gemini": "/v1beta/models/m:generateContent",
}

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"a": {"type": "array", "items": {"anyOf": [{"type": "string", "pattern": "x"}]}}},
    "$defs": {"b": {"const": 1}},
    "required": ["a"],
    "additionalProperties": False,
}
BODIES: dict[str, Any] = {
    "openai_chat": {
        "model": "m",
        "messages": [
            {"role": "system", "content": "a"},
            {"role": "user", "name": "n", "content": [
                {"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk=", "detail": "low"}},
                {"type": "input_audio", "input_audio": {"data": "aGk=", "format": "mp3"}}, {"type": "file", "file": {"file_data": "data:a/b;base64,aGk=", "filename": "f"}}]},
            {"role": "assistant", "content": "a", "refusal": "b", "reasoning_content": "c", "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}, {"id": "c2", "type": "custom", "custom": {"name": "g", "input": "x"}}]},
            {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "r"}]},
            {"role": "assistant", "function_call": {"name": "f", "arguments": "{}"}},
            {"role": "function", "name": "f", "content": "r"},
        ],
        "tools": [{"type": "function", "function": {"name": "f", "description": "d", "parameters": SCHEMA, "strict": True}}],
        "functions": [{"name": "g", "parameters": SCHEMA}],
        "tool_choice": {"type": "function", "function": {"name": "f"}},
        "parallel_tool_calls": False,
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA, "strict": True}},
        "reasoning_effort": "low", "max_tokens": 9, "max_completion_tokens": 8, "n": 2, "stop": ["a"], "temperature": 0.5, "top_p": 0.5,
        "frequency_penalty": 0.5, "presence_penalty": 0.5, "seed": 1, "logprobs": True, "top_logprobs": 2, "user": "u", "stream": True,
        "stream_options": {"include_usage": True},
    },
    "openai_responses": {
        "model": "m", "instructions": "a",
        "input": [
            {"role": "user", "content": [{"type": "input_text", "text": "a"}, {"type": "input_image", "image_url": "https://x", "detail": "auto"},
             {"type": "input_file", "file_url": "https://x"}, {"type": "input_audio", "input_audio": {"data": "aGk=", "format": "wav"}}]},
            {"type": "reasoning", "id": "r", "summary": [{"type": "summary_text", "text": "t"}], "content": [], "encrypted_content": "x"},
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "a", "annotations": []}, {"type": "refusal", "refusal": "b"}]},
            {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}, {"type": "custom_tool_call", "call_id": "d", "name": "f", "input": "x"},
            {"type": "function_call_output", "call_id": "c", "output": [{"type": "input_text", "text": "r"}]},
        ],
        "tools": [{"type": "function", "name": "f", "parameters": SCHEMA, "strict": True}], "tool_choice": {"type": "function", "name": "f"},
        "text": {"format": {"type": "json_schema", "name": "n", "schema": SCHEMA}, "verbosity": "low"}, "reasoning": {"effort": "low", "summary": "auto"},
        "max_output_tokens": 9, "top_logprobs": 1, "include": ["message.output_text.logprobs"], "safety_identifier": "u", "stream": True, "store": True,
    },
    "anthropic_messages": {
        "model": "m", "max_tokens": 4000, "system": [{"type": "text", "text": "a", "cache_control": {"type": "ephemeral", "ttl": "1h"}}],
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}},
             {"type": "document", "source": {"type": "text", "data": "x"}, "title": "t", "context": "c"}]},
            {"role": "assistant", "content": [{"type": "thinking", "thinking": "h", "signature": "s"}, {"type": "redacted_thinking", "data": "x"},
             {"type": "tool_use", "id": "t", "name": "f", "input": {"a": 1}, "caller": {"type": "direct"}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": [{"type": "text", "text": "r"}], "is_error": True}]},
        ],
        "tools": [{"name": "f", "description": "d", "input_schema": SCHEMA, "strict": True}], "tool_choice": {"type": "tool", "name": "f", "disable_parallel_tool_use": True},
        "thinking": {"type": "enabled", "budget_tokens": 2000, "display": "omitted"}, "output_config": {"effort": "low", "format": {"type": "json_schema", "schema": SCHEMA}},
        "stop_sequences": ["a"], "temperature": 0.5, "top_p": 0.5, "top_k": 5, "metadata": {"user_id": "u"}, "stream": True,
    },
    "gemini": {
        "systemInstruction": {"parts": [{"text": "a"}]},
        "contents": [
            {"role": "user", "parts": [{"text": "a"}, {"inlineData": {"mimeType": "image/png", "data": "aGk=", "displayName": "n"}}, {"fileData": {"fileUri": "https://x", "mimeType": "a/b"}}]},
            {"role": "model", "parts": [{"text": "t", "thought": True}, {"text": "a", "thoughtSignature": "s"}, {"functionCall": {"id": "c", "name": "f", "args": {"a": 1}}, "thoughtSignature": "s"}]},
            {"role": "user", "parts": [{"functionResponse": {"id": "c", "name": "f", "response": {"output": "r"}, "parts": []}}]},
        ],
        "tools": [{"functionDeclarations": [{"name": "f", "description": "d", "parameters": {"type": "OBJECT", "properties": {"a": {"type": "STRING", "nullable": True}}, "propertyOrdering": ["a"]}},
                                            {"name": "g", "parametersJsonSchema": SCHEMA}]}],
        "toolConfig": {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["f"]}},
        "generationConfig": {"temperature": 0.5, "topP": 0.5, "topK": 5, "candidateCount": 2, "maxOutputTokens": 9, "stopSequences": ["a"], "seed": 1, "responseMimeType": "application/json",
                             "responseSchema": {"type": "OBJECT"}, "thinkingConfig": {"thinkingBudget": 5, "thinkingLevel": "LOW", "includeThoughts": True}, "responseLogprobs": True, "logprobs": 1},
    },
}  # fmt: skip


def places(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a tree."""
    if path:
        yield path
    if isinstance(tree, dict):
        for name, value in tree.items():
            yield from places(value, (*path, name))
    elif isinstance(tree, list):
        for index, value in enumerate(tree):
            yield from places(value, (*path, index))


def spoilt(tree: Any, dice: random.Random) -> Any:
    """The tree with junk at some places."""
    out = copy.deepcopy(tree)
    for _ in range(dice.choice((1, 1, 2, 4))):
        *path, last = dice.choice(list(places(out)) or [("x",)])
        holder = out
        for step in path:
            holder = holder[step]
        holder[last] = copy.deepcopy(dice.choice(JUNK))
    return out


@EACH
def test_any_body_that_its_dialect_reads(name):
    dice, read_well = random.Random(7), 0
    for round_ in range(ROUNDS):
        body = spoilt(BODIES[name], dice)
        try:
            call = read(body, path=PATHS[name])
        except WireError:
            continue
        read_well += 1
        for target, model in (
            ("openai_chat", "gpt-5"),
            ("openai_responses", "m"),
            ("anthropic_messages", "claude-sonnet-4-5"),
            ("gemini", "gemini-3-pro"),
        ):
            c = TRANSLATORS[name].read_conversation(call)
            c.model = model
            written = TRANSLATORS[target].write_conversation(c)

            assert orjson.dumps(written), f"round {round_}"
            assert all(type(one) is str and ": " in one for one in (*c.lost, *c.missing))
    assert read_well > ROUNDS / 3


def said(name: str) -> tuple[Any, list[Any]]:
    """A whole reply, and the events of a stream, in a dialect."""
    call = read({**BODIES[name]}, path=PATHS[name])
    call.query = "alt=sse"
    answered = Answered("m", [Choice([TextPart("a")], "stop")], Usage(input=1, output=1))
    source, answered.choices[0].parts = TRANSLATORS[name], [TextPart("a"), TextPart("b", refusal=True)]
    c = Conversation("m", [Message("user", [TextPart("x")])])
    assert c.lost == []
    writer = source.writer(call)
    happenings: list[Any] = [
        Begun("m"),
        PartBegun(0, 0, "text"),
        PartBegun(0, 1, "tool_call", "c", "f"),
        Metered(Usage(input=1, output=1)),
        Finished(0, "stop"),
        Over(),
    ]
    raw = b"".join(writer.write(one) for one in happenings)
    events = [orjson.loads(line[6:]) for line in raw.split(b"\n") if line.startswith(b"data: {")]
    return orjson.loads(orjson.dumps(source.write_answer(answered, call))), events


@EACH
def test_any_reply_and_any_event(name):
    dice = random.Random(7)
    reply, events = said(name)
    call = read({**BODIES[name]}, path=PATHS[name])
    for _ in range(ROUNDS):
        answered = TRANSLATORS[name].read_answer(spoilt(reply, dice))
        for other in TRANSLATORS.values():
            assert orjson.dumps(other.write_answer(copy.deepcopy(answered), call))
        reader, writers = TRANSLATORS[name].reader(), [other.writer(call) for other in TRANSLATORS.values()]
        for event in spoilt(events, dice):
            for happening in reader.feed(b"data: " + orjson.dumps(event) + b"\n\n"):
                for writer in writers:
                    assert type(writer.write(happening)) is bytes


@EACH
def test_a_name_that_may_be_a_text_is_not_told(name):
    """What is lost goes into records: never with a text of the client's."""
    secret = "my secret is 42"
    body = {**BODIES[name], secret: {"a": 1}}
    c = TRANSLATORS[name].read_conversation(read(body, path=PATHS[name]))

    assert not any(secret in one for one in (*c.lost, *c.missing))
    assert "(a name of the client's): known to" in " ".join(c.lost)
