"""Every string leaf of the Google SDK's types is scanned, or on the dialect's written list, in both spellings.

The types are those of the installed SDK: an upgrade that adds a leaf that no model reads fails here until the list
says so; one that adds a text is covered already.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import orjson
import pytest
from google.genai import types

from llmshield.call import Call
from llmshield.dialects import WireRequest
from llmshield.dialects._gemini_pieces import NOT_TEXT as REPLY_NOT_TEXT
from llmshield.dialects._gemini_texts import NOT_TEXT, OPAQUE, snake
from llmshield.dialects.gemini import Gemini
from llmshield.errors import WireError

Leaves = Callable[[Any, str], Iterator[tuple[tuple[str, ...], Any]]]

DIALECT = Gemini()
TOKEN = "canaryx7f"
WORDS = "canary with blanks"

FIELDS: dict[str, Any] = {
    "contents": list[types.Content],
    "systemInstruction": types.Content,
    "tools": list[types.Tool],
    "toolConfig": types.ToolConfig,
    "safetySettings": list[types.SafetySetting],
    "generationConfig": types.GenerationConfig | types.GenerateContentConfig,
    "cachedContent": str,
    "labels": dict[str, str],
    "serviceTier": types.ServiceTier,
}
"""The fields of a GenerateContentRequest (https://ai.google.dev/api/generate-content); the SDK has no type for it."""

EMBEDDING: dict[str, Any] = {"content": types.Content, "taskType": str, "title": str}

FREE = frozenset(
    ("args", "response", "labels", "customConfigs", "headers", "partMetadata", "properties", "defs")
)
"""Objects whose names belong to the user: they have one spelling only."""


def read(body: dict[str, Any], method: str = "generateContent") -> Call:
    operation = "embed" if "mbed" in method else "count_tokens" if "count" in method else "generate"
    request = WireRequest("POST", f"/v1beta/models/gemini-x:{method}")
    return DIALECT.read_call("id", operation, request, body)


def snaked(tree: Any) -> Any:
    """The same request as the .proto spells it."""
    if isinstance(tree, dict):
        return {snake(k): v if k in FREE else snaked(v) for k, v in tree.items()}
    return [snaked(value) for value in tree] if isinstance(tree, list) else tree


def is_bytes(path: tuple[str, ...]) -> bool:
    """Bytes in base64: pictures and sound, which mark the call unseen."""
    return path[-2:] == ("inlineData", "data")


def cases(sdk_leaves: Leaves, sentinel: str) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    for field, kind in FIELDS.items():
        for path, value in sdk_leaves(kind, sentinel):
            yield (field, *path), {field: value}


@pytest.mark.parametrize("spelling", ["camelCase", "snake_case"])
def test_every_leaf_of_a_request(spelling: str, sdk_leaves: Leaves) -> None:
    names = {*NOT_TEXT, *OPAQUE}
    missed, count = set(), 0
    for path, body in cases(sdk_leaves, TOKEN):
        count += 1
        call = read(body if spelling == "camelCase" else snaked(body))
        if any(TOKEN in text.value for text in call.texts) or is_bytes(path):
            continue
        if not any(step in names for step in path[-2:]):
            missed.add(".".join(path))

    assert missed == set()
    assert count > 300


@pytest.mark.parametrize("spelling", ["camelCase", "snake_case"])
def test_a_text_in_any_leaf_is_scanned_list_or_not(spelling: str, sdk_leaves: Leaves) -> None:
    missed = set()
    for path, body in cases(sdk_leaves, WORDS):
        try:
            call = read(body if spelling == "camelCase" else snaked(body))
        except WireError:  # a number's place that holds words
            continue
        if not any(WORDS in text.value for text in call.texts):
            missed.add(".".join(path))

    assert missed == set()


def test_requests_inside_requests(sdk_leaves: Leaves) -> None:
    missed = set()
    for path, body in cases(sdk_leaves, WORDS):
        call = read({"generateContentRequest": body}, "countTokens")
        if not any(WORDS in text.value for text in call.texts):
            missed.add(".".join(path))
    for field, kind in EMBEDDING.items():
        for path, value in sdk_leaves(kind, WORDS):
            call = read({"requests": [{"model": "models/gemini-x", field: value}]}, "batchEmbedContents")
            single = read({field: value}, "embedContent")
            for one in (call, single):
                if not any(WORDS in text.value for text in one.texts):
                    missed.add(".".join((field, *path)))

    assert missed == set()


SDK_ONLY = ("sdkHttpResponse", "automaticFunctionCallingHistory", "parsed")
"""Fields that the SDK adds itself; they are never on the wire."""


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "chunk"])
def test_every_leaf_of_a_reply(streamed: bool, sdk_leaves: Leaves) -> None:
    names = {*REPLY_NOT_TEXT}
    call = read({})
    missed, count = set(), 0
    for path, tree in sdk_leaves(types.GenerateContentResponse, TOKEN):
        if path[0] in SDK_ONLY:
            continue
        count += 1
        body = {"candidates": [], **tree}
        if streamed:
            call.query = "alt=sse"
            pieces = DIALECT.open_stream(call).feed(b"data: %b\n\n" % orjson.dumps(body))[0].pieces
        else:
            pieces = DIALECT.read_reply(call, body).pieces
        if any(piece.holder[piece.key] == TOKEN for piece in pieces) or path[-1] == "*name":
            continue
        if not any(step in names for step in path):
            missed.add(".".join(path))

    assert missed == set()
    assert count > 100
