"""One request in the simulator's neutral words, and the few walks over JSON that all dialects share."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from typing import Any, Literal

Api = Literal[
    "chat", "completions", "responses", "embeddings", "messages", "count_tokens", "gemini", "gemini_count",
    "gemini_embed", "models",
]  # fmt: skip

CHARS_PER_TOKEN = 4
"""The tokenizer: every four code points are a token. Crude, but the same on every path, and close to English."""

PER_MESSAGE = 3
PER_IMAGE = 85

# Strings under these keys are pictures, files and ids: providers do not bill them by their letters.
_NOT_TEXT = frozenset(
    [
        "data",
        "url",
        "image_url",
        "file_data",
        "fileUri",
        "id",
        "call_id",
        "tool_call_id",
        "tool_use_id",
        "type",
        "role",
        "cache_control",
        "signature",
        "thoughtSignature",
        "encrypted_content",
        "mimeType",
        "media_type",
    ]
)
_IMAGES = frozenset(("image_url", "image", "input_image", "inlineData", "inline_data"))


class BadRequest(ValueError):
    """The body is not what the dialect asks for; `param` names the place."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


@dataclasses.dataclass(frozen=True, slots=True)
class Tool:
    """A tool that the request defines. `custom`: its input is free text, not JSON."""

    name: str
    schema: Any
    custom: bool = False


@dataclasses.dataclass(slots=True)
class Ask:
    """What the answer depends on, whichever dialect it came in.

    `user` is the last message of the user, `tool_result` the text of a tool result if that comes last;
    `force` is a tool's name, `any`, `none` or None; `top_logprobs` is None unless log-probabilities are asked.
    """

    api: Api
    model: str
    body: dict[str, Any]
    stream: bool = False
    user: str = ""
    tool_result: str | None = None
    tokens_in: int = 0
    max_tokens: int | None = None
    stops: tuple[str, ...] = ()
    n: int = 1
    tools: tuple[Tool, ...] = ()
    force: str | None = None
    json_mode: bool = False
    schema: Any = None
    thinking: bool = False
    top_logprobs: int | None = None
    include_usage: bool = False
    array: bool = False
    """Gemini's streams without `alt=sse` are one JSON array."""


def count(text: str) -> int:
    """Tokens of a text."""
    return -(-len(text) // CHARS_PER_TOKEN)


def pieces(text: str, size: int = CHARS_PER_TOKEN) -> list[str]:
    """A text in deltas of `size` characters, in order; by default its tokens."""
    return [text[i : i + size] for i in range(0, len(text), size)]


def count_tree(tree: Any) -> int:
    """Tokens of all strings in a tree, pictures at a flat price."""
    letters = images = 0
    stack = [tree]
    while stack:
        node = stack.pop()
        if isinstance(node, str):
            letters += len(node)
        elif isinstance(node, list):
            stack.extend(node)
        elif isinstance(node, dict):
            images += any(key in _IMAGES for key in node)
            stack.extend(value for key, value in node.items() if key not in _NOT_TEXT)
    return -(-letters // CHARS_PER_TOKEN) + PER_IMAGE * images


def need(body: dict[str, Any], key: str, *kinds: type) -> Any:
    """A required field. Raises: BadRequest when it is missing or of another type."""
    value = body.get(key)
    if value is None:
        raise BadRequest(f"Missing required parameter: '{key}'.", key)
    if not isinstance(value, kinds):
        raise BadRequest(f"Invalid type for '{key}'.", key)
    return value


def bound(body: dict[str, Any], *keys: str) -> int | None:
    """The output bound under the first key present. Raises: BadRequest unless it is a whole number above 0."""
    for key in keys:
        value = body.get(key)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise BadRequest(f"Invalid '{key}': expected an integer of 1 or more.", key)
        return value
    return None


def choices(body: dict[str, Any], key: str, most: int = 128) -> int:
    """How many answers are asked for. Raises: BadRequest outside of 1 to `most`."""
    value = body.get(key)
    if value is None:
        return 1
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise BadRequest(f"Invalid '{key}': expected an integer from 1 to {most}.", key)
    return value


def stop_list(value: Any) -> tuple[str, ...]:
    """Stop sequences given as a string or as a list."""
    if isinstance(value, str):
        return (value,)
    if isinstance(value, list):
        return tuple(v for v in value if isinstance(v, str) and v)
    return ()


def text_of(content: Any) -> str:
    """The text of a message's content: a string, or a list of parts of which those with text count."""
    if isinstance(content, str):
        return content
    if isinstance(content, dict):
        content = [content]
    if not isinstance(content, list):
        return ""
    found: list[str] = []
    for part in content:
        if isinstance(part, str):
            found.append(part)
        elif isinstance(part, dict):
            for key in ("text", "content", "output", "refusal"):
                if key in part:
                    found.append(text_of(part[key]))
                    break
    return "\n".join(t for t in found if t)


def as_json(value: Any) -> str:
    """A value as JSON text, as models write it: with a space behind commas and colons."""
    return json.dumps(value, ensure_ascii=False)


def triggers(text: str) -> Iterator[tuple[str, str | None, int, int]]:
    """Tool calls that a prompt asks for, as (name, JSON arguments or None, start, end).

    `[[call get_weather {"city": "Rome"}]]` gives the arguments; `[[call get_weather]]` leaves them to the schema.
    """
    decoder = json.JSONDecoder()
    at = 0
    while (start := text.find("[[call ", at)) >= 0:
        at = start + 7
        end = at
        while end < len(text) and text[end] not in " ]\n":
            end += 1
        name = text[at:end]
        while end < len(text) and text[end] == " ":
            end += 1
        arguments: str | None = None
        if not text.startswith("]]", end):
            try:
                _, stop = decoder.raw_decode(text, end)
            except ValueError:
                stop = text.find("]]", end)
                if stop < 0:
                    return
            arguments, end = text[end:stop].strip(), stop
            while end < len(text) and text[end] in " \n":
                end += 1
        if name and text.startswith("]]", end):
            yield name, arguments, start, end + 2
            at = end + 2
