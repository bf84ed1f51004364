"""Every field of the official SDKs' requests is carried to every other dialect, or named in `lost` or `missing`.

Each leaf of the types is set (in a body that is the least one otherwise), and taken away or changed: the body for the
other dialect has to differ, or what is named. What asks for nothing elsewhere stands on a written list with its reason.
"""

from __future__ import annotations

import collections.abc
import copy
import enum
import types
import typing
from collections.abc import Iterator
from typing import Annotated, Any, Literal, NotRequired, Required, get_args, get_origin

import orjson
import pytest
from anthropic.types import message_create_params
from google.genai import types as genai
from openai.types.chat import completion_create_params as chat_params
from openai.types.responses import response_create_params
from pydantic import BaseModel
from typing_extensions import ReadOnly, is_typeddict

from llmshield.errors import WireError
from llmshield.registry import find, names
from llmshield.testing import read
from llmshield.translators import Translator

TRANSLATORS: dict[str, Translator] = {name: find("translator", name)() for name in names("translator")}
MODELS = {
    "openai_chat": "m-1",
    "openai_responses": "m-1",
    "anthropic_messages": "claude-sonnet-4-5",
    "gemini": "gemini-2.5-flash",
}
FAMILY = {name: find("dialect", name)().family for name in names("translator")}
GONE = object()
"""Stands for a field that is taken away."""

LEAST: dict[Any, Any] = {
    genai.Part: {"text": "x"},
    genai.FunctionCall: {"name": "f", "args": {}},
    genai.FunctionResponse: {"name": "f", "response": {}},
    genai.Blob: {"mimeType": "image/png", "data": "aGkgaQ=="},
    genai.FileData: {"mimeType": "image/png", "fileUri": "gs://x"},
    genai.FunctionDeclaration: {"name": "f"},
    genai.Content: {"role": "user", "parts": [{"text": "x"}]},
    genai.Tool: {"functionDeclarations": [{"name": "f"}]},
}
"""What makes an object of the Google SDK's a thing at all: its types require nothing."""

ONE_OF = {
    "inlineData",
    "fileData",
    "functionCall",
    "functionResponse",
    "executableCode",
    "codeExecutionResult",
    "toolCall",
    "toolResponse",
    "audioTranscription",
}

NOTHING: dict[str, dict[str, str]] = {
    "openai_chat": {
        "model": "the target's own stands there",
        "stream": "false is the default; streams have their own tests",
        "stream_options/include_usage": "told in the stream's answer",
        "modalities": "text is what all answer in; audio is named",
        "service_tier": "auto is the default; others are named",
        "top_logprobs": "without logprobs it asks for nothing",
        "parallel_tool_calls": "true is what all do; false is told or named",
        "messages/content/image_url/detail": "auto is the default; others are named",
    },
    "openai_responses": {
        "model": "the target's own stands there",
        "stream": "false is the default; streams have their own tests",
        "service_tier": "auto is the default; others are named",
        "include": "sealed thoughts are for OpenAI alone, which would keep them itself; others are named",
        "truncation": "disabled is the default; auto is named",
        "parallel_tool_calls": "true is what all do; false is told or named",
        "*/status": "of items that its own answers had",
        "*/id": "of items that its own answers had; what refers to them is named",
    },
    "anthropic_messages": {
        "model": "the target's own stands there",
        "stream": "false is the default; streams have their own tests",
        "service_tier": "auto is the default; others are named",
        "tools/type": "custom is the default; others are named",
        "speed": "standard is the default; fast is named",
        "*/cache_control/ttl": "the usual time is about the price alone; one hour is named",
        "cache_control/ttl": "the usual time is about the price alone; one hour is named",
        "thinking/display": "summarized is what others do anyway; omitted is told or named",
    },
    "gemini": {
        "*/role": "user where it is not model",
        "*/nullable": "beside a type; without one it says nothing",
        "*/propertyOrdering": "the order of the properties that stand beside it",
        "tools/functionDeclarations/parameters/type": "of a function's parameters it is always an object",
        "generationConfig/responseModalities": "text is what all answer in; others are named",
        "generationConfig/logprobs": "without responseLogprobs it asks for nothing",
        "generationConfig/thinkingConfig/thinkingLevel": "unspecified is the default; others are told or named",
        "contents/parts/fileData/mimeType": "told where the target asks for it",
        "toolConfig/functionCallingConfig/mode": "unspecified is the default; others are told or named",
    },
}
"""Paths (a `*` at the beginning: any) that ask another provider for nothing, and why."""


def bare(kind: Any) -> Any:
    while get_origin(kind) in (Required, NotRequired, ReadOnly, Annotated):
        kind = get_args(kind)[0]
    if isinstance(kind, getattr(typing, "TypeAliasType", ())):
        return bare(kind.__value__)
    return kind


def fields(kind: Any) -> dict[str, Any]:
    if is_typeddict(kind):
        return typing.get_type_hints(kind, include_extras=True)
    return {field.alias or name: field.annotation for name, field in kind.model_fields.items()}


def required_of(kind: Any) -> set[str]:
    """Fields that a typed dictionary must have, and its type tags. (`__required_keys__` does not see through
    annotations that are strings.)"""
    return {
        name
        for name, hint in fields(kind).items()
        if get_origin(hint) is Required or (name in {"type", "role"} and len(get_args(bare(hint))) == 1)
    }


def least(kind: Any) -> Any:
    """The least value of a type."""
    kind = bare(kind)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return least(next(each for each in arguments if each is not type(None)))
    if origin is Literal:
        return arguments[0]
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return next(iter(kind)).value
    if is_typeddict(kind):
        hints = fields(kind)
        return {name: least(hints[name]) for name in sorted(required_of(kind))}
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return copy.deepcopy(LEAST.get(kind, {}))
    if origin in (list, collections.abc.Iterable, collections.abc.Sequence):
        return [least(arguments[0])]
    if origin in (dict, collections.abc.Mapping):
        return {"k": least(arguments[1])}
    return {str: "word", int: 7, float: 0.5, bool: True, bytes: "aGkgaQ=="}.get(kind, {"k": "v"})


def leaves(kind: Any, seen: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any, Any]]:
    """(path, a value with this leaf, the same with another or (GONE) none) for each leaf below a type."""
    kind = bare(kind)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (typing.Union, types.UnionType):
        for each in arguments:
            if each is not type(None):
                yield from leaves(each, seen)
    elif origin is Literal:
        for each in arguments:
            yield (), each, GONE
    elif isinstance(kind, type) and issubclass(kind, enum.Enum):
        for each in kind:
            yield (), each.value, GONE
    elif is_typeddict(kind) or (isinstance(kind, type) and issubclass(kind, BaseModel)):
        if seen.count(kind) > 1:
            return
        base = least(kind)
        required = required_of(kind) if is_typeddict(kind) else LEAST.get(kind, {}).keys()
        for name, hint in fields(kind).items():
            if kind is genai.Part:  # it holds one thing
                base = {} if name in ONE_OF else least(kind)
            for path, value, other in leaves(hint, (*seen, kind)):
                if other is not GONE:
                    yield (name, *path), {**base, name: value}, {**base, name: other}
                elif name not in required:
                    yield (
                        (name, *path),
                        {**base, name: value},
                        {key: base[key] for key in base if key != name},
                    )
    elif origin in (list, collections.abc.Iterable, collections.abc.Sequence) or "Sequence" in str(
        origin or kind
    ):
        for path, value, other in leaves(arguments[0] if arguments else str, seen):
            yield path, [value], GONE if other is GONE else [other]
    elif origin in (dict, collections.abc.Mapping):
        for path, value, other in leaves(arguments[1], seen):
            yield ("*", *path), {"k": value}, {} if other is GONE else {"k": other}
    elif kind is bool:
        yield (), True, GONE
    elif kind in (str, int, float, bytes):
        yield (
            (),
            *{str: ("word", "other"), int: (7, 8), float: (1.0, 0.0), bytes: ("aGkgaQ==", "aGkgYg==")}[kind],
        )
        yield (), least(kind), GONE
    else:
        yield (), {"k": "word"}, {"k": "other"}


GEMINI: dict[str, Any] = {
    "contents": list[genai.Content],
    "systemInstruction": genai.Content,
    "tools": list[genai.Tool],
    "toolConfig": genai.ToolConfig,
    "safetySettings": list[genai.SafetySetting],
    "generationConfig": genai.GenerationConfig,
    "cachedContent": str,
    "labels": dict[str, str],
    "serviceTier": genai.ServiceTier,
}


def cases(name: str) -> Iterator[tuple[tuple[str, ...], Any, Any]]:
    """(path, body, body without this leaf or with another)."""
    if name == "gemini":
        base: Any = {
            "contents": [{"role": "user", "parts": [{"text": "x"}]}],
            "tools": [{"functionDeclarations": [{"name": "f"}]}],
        }
        for field, kind in GEMINI.items():
            for path, value, other in leaves(kind):
                without = (
                    {key: base[key] for key in base if key != field}
                    if other is GONE
                    else {**base, field: other}
                )
                yield (field, *path), {**base, field: value}, without
        return
    kind = {
        "openai_chat": chat_params.CompletionCreateParamsNonStreaming,
        "openai_responses": response_create_params.ResponseCreateParamsNonStreaming,
        "anthropic_messages": message_create_params.MessageCreateParamsNonStreaming,
    }[name]
    base = {
        "openai_chat": {
            "model": "m-1",
            "messages": [{"role": "user", "content": "x"}],
            "tools": [{"type": "function", "function": {"name": "f"}}],
        },
        "openai_responses": {"model": "m-1", "input": "x", "tools": [{"type": "function", "name": "f"}]},
        "anthropic_messages": {
            "model": "m-1",
            "max_tokens": 9000,
            "messages": [{"role": "user", "content": "x"}],
            "tools": [{"name": "f", "input_schema": {"type": "object"}}],
        },
    }[name]
    for path, value, other in leaves(kind):
        yield path, {**base, **value}, {**base, **other}


def said(name: str, body: Any, target: str) -> tuple[bytes, tuple[str, ...]] | None:
    """What a provider of `target` is told, and what is named; None for a broken body."""
    paths = {
        "openai_chat": "/v1/chat/completions",
        "openai_responses": "/v1/responses",
        "anthropic_messages": "/v1/messages",
    }
    path = paths.get(name, "/v1beta/models/m-1:generateContent")
    try:
        call = read(orjson.loads(orjson.dumps(body)), path=path)
    except WireError:
        return None
    c = TRANSLATORS[name].read_conversation(call)
    c.model = MODELS[target]
    written = orjson.dumps(TRANSLATORS[target].write_conversation(c))
    return written, (*c.lost, *c.missing)


WORDS = {
    "user": {"safety_identifier", "user", "metadata"},
    "parallel_tools": {"parallel_tool_calls", "disable_parallel_tool_use"},
    "output": {"response_format", "text", "output_config", "output_format", "generationConfig"},
    "thinking": {"reasoning_effort", "reasoning", "thinking", "output_config", "thinkingConfig"},
    "choices": {"n", "candidateCount"},
    "frequency_penalty": {"frequencyPenalty"},
    "presence_penalty": {"presencePenalty"},
    "top_k": {"topK"},
    "logprobs": {"logprobs", "top_logprobs", "responseLogprobs", "include"},
    "messages": {"messages", "input", "contents", "system", "systemInstruction", "instructions"},
    "tools": {"tools", "functions", "toolConfig"},
}
"""Neutral words in what is named, and the fields that they mean."""


def named(path: tuple[str, ...], what: tuple[str, ...]) -> bool:
    """Whether one of these losses is about this field of the body."""
    for each in what:
        step = each.partition(":")[0].partition("/")[0]
        if step in path or WORDS.get(step, set()) & {*path}:
            return True
    return False


def excused(name: str, path: tuple[str, ...]) -> str | None:
    """The entry of the list that covers this path."""
    full = "/".join(path)
    return next(
        (one for one in NOTHING[name] if full == one or (one[0] == "*" and full.endswith(one[1:]))), None
    )


@pytest.mark.parametrize("name", TRANSLATORS)
def test_every_field_is_carried_or_named(name):
    silent: set[str] = set()
    excuses: set[str] = set()
    count = 0
    for path, body, without in cases(name):
        for target in TRANSLATORS:
            if FAMILY[target] == FAMILY[name] or not TRANSLATORS[target].targets:
                continue
            told, other = said(name, body, target), said(name, without, target)
            if told is None or other is None:
                continue
            count += 1
            if told[0] == other[0] and not named(path, told[1]):
                excuse = excused(name, path)
                (silent if excuse is None else excuses).add(excuse or f"{target}: {'/'.join(path)}")
    print(f"{name}: {count} cases")

    assert not silent, "\n".join(sorted(silent))
    assert excuses == set(NOTHING[name]), "an excuse that nothing needs would hide a later loss"
    assert count > 200
