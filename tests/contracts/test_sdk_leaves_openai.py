"""Every string leaf of the openai SDK's request and reply types is scanned, or on a written list.

A sentinel goes into each leaf, one at a time: into free names as well, and into enums, where it breaks the type.
An SDK that brings a new leaf fails here.
"""

from __future__ import annotations

import collections.abc
import json
import types
import typing
from collections.abc import Iterator
from typing import Any, NotRequired, Required

import pytest
from openai.types import (
    Completion,
    CreateEmbeddingResponse,
    completion_create_params,
    embedding_create_params,
)
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.chat import completion_create_params as chat_params
from openai.types.responses import Response, ResponseStreamEvent, response_create_params
from pydantic import BaseModel
from typing_extensions import is_typeddict

from llmshield.dialects import Dialect, WireRequest
from llmshield.dialects._openai_items import ECHO, LABELS, OPAQUE
from llmshield.dialects._sse import write_event
from llmshield.dialects._tree import dump, parse_body
from llmshield.dialects.openai_chat import NOT_TEXT as CHAT
from llmshield.dialects.openai_chat import NOT_TEXT_REPLY as CHAT_REPLY
from llmshield.dialects.openai_chat import OpenAIChat
from llmshield.dialects.openai_completions import NOT_TEXT as COMPLETIONS
from llmshield.dialects.openai_completions import NOT_TEXT_REPLY as COMPLETIONS_REPLY
from llmshield.dialects.openai_completions import OpenAICompletions
from llmshield.dialects.openai_embeddings import NOT_TEXT as EMBEDDINGS
from llmshield.dialects.openai_embeddings import NOT_TEXT_REPLY as EMBEDDINGS_REPLY
from llmshield.dialects.openai_embeddings import OpenAIEmbeddings
from llmshield.dialects.openai_responses import NOT_TEXT as RESPONSES
from llmshield.dialects.openai_responses import OpenAIResponses

WORD = "zqxSENTINELxqz"
"""Looks like an id or enum member: may pass where the written list says so."""
SENTENCE = "zqx SENTINEL: ignore this, xqz!"
"""Looks like nothing but text: must be seen wherever it stands."""

WRAPPERS = (Required, NotRequired, typing.Annotated)

Leaf = tuple[tuple[str, ...], Any]
"""(steps of the path, `*` for indices and free names; a tree that holds the sentinel there)."""


def leaves(kind: Any, mark: str, inside: tuple[Any, ...] = ()) -> Iterator[Leaf]:
    """A minimal value of this type for each string leaf in it."""
    origin = typing.get_origin(kind)
    arguments = typing.get_args(kind)
    if origin in WRAPPERS:
        yield from leaves(arguments[0], mark, inside)
    elif origin in (typing.Union, types.UnionType):
        for argument in arguments:
            yield from leaves(argument, mark, inside)
    elif isinstance(kind, typing.TypeAliasType if hasattr(typing, "TypeAliasType") else ()):
        yield from leaves(kind.__value__, mark, inside)
    elif kind is str or (origin is typing.Literal and any(type(a) is str for a in arguments)):
        yield (), mark
    elif kind in (object, Any):
        yield (), mark
        yield ("*",), {mark: 1}
    elif origin in (list, collections.abc.Iterable, collections.abc.Sequence, typing.Iterable):
        for path, value in leaves(arguments[0], mark, inside):
            yield ("*", *path), [value]
    elif origin in (dict, collections.abc.Mapping):
        yield ("*",), {mark: "x"}
        for path, value in leaves(arguments[1], mark, inside):
            yield ("*", *path), {"name": value}
    elif is_typeddict(kind) or (isinstance(kind, type) and issubclass(kind, BaseModel)):
        if inside.count(kind) >= 2:
            return
        if is_typeddict(kind):
            fields = typing.get_type_hints(kind, include_extras=True)
        else:
            fields = {field.alias or name: field.annotation for name, field in kind.model_fields.items()}
        tags = {name: tag for name, hint in fields.items() if (tag := _tag(hint)) is not None}
        for name, hint in fields.items():
            for path, value in leaves(hint, mark, (*inside, kind)):
                yield (name, *path), {**tags, name: value}


def _tag(hint: Any) -> str | None:
    """The one word that a type tag may be."""
    while typing.get_origin(hint) in WRAPPERS:
        hint = typing.get_args(hint)[0]
    words = typing.get_args(hint) if typing.get_origin(hint) is typing.Literal else ()
    return words[0] if words and type(words[0]) is str else None


def listed(path: tuple[str, ...], *lists: collections.abc.Iterable[str]) -> bool:
    """Whether a pattern of the written lists covers this path."""
    for pattern in (pattern for one in lists for pattern in one):
        steps = pattern[1:].split("/")
        if len(steps) == len(path) and all(a == b or a == "*" for a, b in zip(steps, path, strict=True)):
            return True
    return False


REQUESTS = [
    pytest.param(
        OpenAIChat(),
        (chat_params.CompletionCreateParamsNonStreaming, chat_params.CompletionCreateParamsStreaming),
        {"messages": [{"role": "user", "content": "hi"}]},
        CHAT,
        id="chat",
    ),
    pytest.param(
        OpenAIResponses(),
        (response_create_params.ResponseCreateParamsNonStreaming,),
        {"input": "hi"},
        RESPONSES,
        id="responses",
    ),
    pytest.param(
        OpenAIEmbeddings(),
        (embedding_create_params.EmbeddingCreateParams,),
        {"input": "hi"},
        EMBEDDINGS,
        id="embeddings",
    ),
    pytest.param(
        OpenAICompletions(),
        (completion_create_params.CompletionCreateParamsNonStreaming,),
        {"prompt": "hi"},
        COMPLETIONS,
        id="completions",
    ),
]


def read(dialect: Dialect, tree: Any):
    body = parse_body(dump(tree))
    request = WireRequest("POST", f"/v1{dialect.endpoint}", body=b"")
    return dialect.read_call("1", dialect.operation, request, body)


@pytest.mark.parametrize("mark", [WORD, SENTENCE])
@pytest.mark.parametrize(("dialect", "params", "base", "not_text"), REQUESTS)
def test_every_request_leaf_is_a_text_or_on_the_list(dialect, params, base, not_text, mark):
    missed: set[str] = set()
    count = 0
    for kind in params:
        for path, value in leaves(kind, mark):
            count += 1
            tree = {"model": "gpt-4o", **base, **value}
            if tree.get("stream") not in (None, True, False):
                continue
            call = read(dialect, tree)
            texts = [text for text in call.texts if mark in text.value]
            if not texts:
                if mark is WORD and listed(path, not_text):
                    continue
                missed.add("/" + "/".join(path))
                continue
            for text in texts:
                text._write(text.value.replace(mark, "changed"))
            for sealed in call.sealed:
                sealed.reseal()
            if mark in dump(call.body).decode():
                missed.add("/" + "/".join(path) + " (changed, and yet it is sent)")
    print(f"{dialect.name}: {count} leaves")

    assert not missed, "\n".join(sorted(missed))
    assert count > 5


def unfiltered(pieces, tree) -> str:
    """What is left of a reply when every text is taken out."""
    for piece in pieces:
        value = piece.holder[piece.key]
        piece.holder[piece.key] = "" if type(value) is str else 0
        for holder, key in piece.shadows:
            holder[key] = None
    return json.dumps(tree)


def labelled(path: tuple[str, ...]) -> bool:
    return path[-1] in LABELS or any(step in OPAQUE for step in path)


REPLIES = [
    pytest.param(OpenAIChat(), ChatCompletion, CHAT_REPLY, id="chat"),
    pytest.param(OpenAIResponses(), Response, {}, id="responses"),
    pytest.param(OpenAIEmbeddings(), CreateEmbeddingResponse, EMBEDDINGS_REPLY, id="embeddings"),
    pytest.param(OpenAICompletions(), Completion, COMPLETIONS_REPLY, id="completions"),
]


@pytest.mark.parametrize("mark", [WORD, SENTENCE])
@pytest.mark.parametrize(("dialect", "model", "not_text"), REPLIES)
def test_every_reply_leaf_is_a_piece_or_on_the_list(dialect, model, not_text, mark):
    base = {"input": "x", "prompt": "x", "messages": [{"role": "user", "content": "hi"}]}
    call = read(dialect, {"model": "gpt-4o", **base})
    missed: set[str] = set()
    for path, value in leaves(model, mark):
        tree = json.loads(json.dumps(value))
        tree.setdefault(
            {"responses": "output", "embeddings": "data"}.get(dialect.endpoint[1:], "choices"), [{}]
        )
        reply = dialect.read_reply(call, tree)
        if reply.error is not None and path[0] == "error":
            continue
        if mark in unfiltered(reply.pieces, reply.tree) and not allowed(dialect, path, not_text, mark):
            missed.add("/" + "/".join(path))

    assert not missed, "\n".join(sorted(missed))


def allowed(dialect: Dialect, path: tuple[str, ...], not_text, mark: str) -> bool:
    if dialect.name == "openai_responses":
        if path[0] == "response":
            path = path[1:]
        if path[0] in ECHO or path == ("delta",):
            return True
        return labelled(path) and (mark is WORD or any(step in OPAQUE for step in path))
    return listed(path, not_text)


STREAMS = [
    pytest.param(OpenAIChat(), ChatCompletionChunk, CHAT_REPLY, id="chat"),
    pytest.param(OpenAICompletions(), Completion, COMPLETIONS_REPLY, id="completions"),
    pytest.param(OpenAIResponses(), ResponseStreamEvent, {}, id="responses"),
]


@pytest.mark.parametrize("mark", [WORD, SENTENCE])
@pytest.mark.parametrize(("dialect", "kind", "not_text"), STREAMS)
def test_every_leaf_of_a_stream_event_is_a_piece_or_on_the_list(dialect, kind, not_text, mark):
    base = {"input": "x", "prompt": "x", "messages": [{"role": "user", "content": "hi"}], "stream": True}
    call = read(dialect, {"model": "gpt-4o", **base})
    missed: set[str] = set()
    count = 0
    for path, value in leaves(kind, mark):
        count += 1
        codec = dialect.open_stream(call)
        events = codec.feed(write_event(json.loads(json.dumps(value))))
        if len(events) == 1 and events[0].error is not None:
            continue
        (event,) = events
        if mark in unfiltered(event.pieces, event.tree) and not allowed(dialect, path, not_text, mark):
            missed.add(f"{value.get('type', '')} /" + "/".join(path))

    assert not missed, "\n".join(sorted(missed))
    assert count > 5
