"""Bodies in Anthropic's Messages API, from neutral shapes (read by `_anthropic_request`)."""

from __future__ import annotations

import re
from typing import Any

from llmshield.call import Tree
from llmshield.conversation import (
    Conversation,
    MediaPart,
    Message,
    Part,
    TextPart,
    Tool,
    ToolCallPart,
    ToolResultPart,
)
from llmshield.translators import _anthropic_models
from llmshield.translators._anthropic_request import FAMILY
from llmshield.translators._anthropic_schema import narrowed
from llmshield.translators._json import arguments_tree, note, without_none
from llmshield.translators._names import call_id, check_tools

_TOOL_NAME = re.compile(r"[A-Za-z0-9_-]{1,128}\Z")


def write_conversation(c: Conversation) -> Tree:
    check_tools(c, _TOOL_NAME, "Anthropic")
    _anthropic_models.check(c)
    messages = _write_messages(c)
    if not messages:
        note(c.missing, "messages: Anthropic answers a user, and nobody has said anything")
    body: Tree = {"model": c.model, "max_tokens": _anthropic_models.bound(c), "messages": messages}
    system = [part.text for message in _leading(c) for part in message.parts if isinstance(part, TextPart)]
    if system:
        body["system"] = (
            system[0] if len(system) == 1 else [{"type": "text", "text": said} for said in system]
        )
    if c.tools:
        body["tools"] = [_tool(c, tool, f"tools/{index}") for index, tool in enumerate(c.tools)]
    body["tool_choice"] = _tool_choice(c)
    _anthropic_models.think(c, body)
    if c.output is not None:
        if c.output.kind == "schema":
            schema = narrowed(c, c.output.schema or {}, "output")
            body.setdefault("output_config", {})["format"] = {"type": "json_schema", "schema": schema}
            if c.output.name or c.output.description:
                note(c.lost, "output: Anthropic's schemas have no names and descriptions of their own")
        else:
            note(c.missing, "output: Anthropic answers in JSON of a schema only, not in any JSON")
    body["stop_sequences"] = c.stop or None
    _anthropic_models.sample(c, body)
    body["metadata"] = {"user_id": c.user} if c.user is not None else None
    if c.choices != 1:
        note(c.missing, "choices: Anthropic gives one answer")
    for name in ("frequency_penalty", "presence_penalty", "seed", "logprobs"):
        value = getattr(c, name)
        if value is not None and (value or name in {"seed", "logprobs"}):
            note(c.lost, f"{name}: Anthropic has no such setting")
    if c.stream:
        body["stream"] = True
    return without_none(body)


def _leading(c: Conversation) -> list[Message]:
    """What the system says, wherever it says it: here it has one place, at the beginning."""
    return [message for message in c.messages if message.speaker in {"system", "developer"}]


def _tool(c: Conversation, tool: Tool, place: str) -> Tree:
    schema: Tree = tool.schema if tool.schema is not None else {"properties": {}}
    if "type" not in schema:
        schema = {"type": "object", **schema}
    if tool.strict:
        schema = narrowed(c, schema, place)
    return without_none(
        {
            "name": tool.name,
            "description": tool.description,
            "input_schema": schema,
            "strict": tool.strict or None,
        }
    )


def _write_messages(c: Conversation) -> list[Tree]:
    """Turns of user and assistant in alternation; neighbours of one role are one turn, tool results first in it."""
    turns: list[Tree] = []
    begun = False
    for index, message in enumerate(c.messages):
        if message.speaker in {"system", "developer"}:
            if begun:
                note(c.lost, f"messages/{index}: Anthropic hears the system at the beginning only")
            if any(not isinstance(part, TextPart) for part in message.parts):
                note(c.missing, f"messages/{index}: Anthropic's system speaks in words only")
            continue
        begun = True
        role = "assistant" if message.speaker == "assistant" else "user"
        if message.name is not None:
            note(c.lost, f"messages/{index}/name: Anthropic's speakers have no names")
        blocks = [
            block for part in message.parts if (block := _block(c, part, f"messages/{index}")) is not None
        ]
        if not blocks:  # an empty turn says nothing, and Anthropic takes none
            continue
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"] += blocks
        else:
            turns.append({"role": role, "content": blocks})
    for turn in turns:
        blocks = turn["content"]
        results = [block for block in blocks if block["type"] == "tool_result"]
        if results:
            turn["content"] = results + [block for block in blocks if block["type"] != "tool_result"]
        elif len(blocks) == 1 and blocks[0]["type"] == "text":
            turn["content"] = blocks[0]["text"]
    return turns


def _block(c: Conversation, part: Part, place: str) -> Tree | None:
    if isinstance(part, TextPart):
        if part.refusal:
            note(c.lost, f"{place}: a refusal is told as words")
        return {"type": "text", "text": part.text} if part.text else None
    if isinstance(part, MediaPart):
        return _media_block(c, part, place)
    if isinstance(part, ToolCallPart):
        arguments = None if part.custom else arguments_tree(part.arguments)
        if arguments is None:
            note(c.missing, f"{place}: a call whose arguments are no JSON object")
            arguments = {}
        if part.signature:
            note(c.lost, f"{place}: a thought's signature is for its own provider")
        return {"type": "tool_use", "id": call_id(part.id), "name": part.name, "input": arguments}
    if isinstance(part, ToolResultPart):
        content = [block for said in part.parts if (block := _block(c, said, place)) is not None]
        words: Any = content[0]["text"] if len(content) == 1 and content[0]["type"] == "text" else content
        out: Tree = {"type": "tool_result", "tool_use_id": call_id(part.call_id), "content": words}
        return {**out, "is_error": True} if part.failed else out
    if part.family == FAMILY and part.signature is not None:
        return {"type": "thinking", "thinking": part.text, "signature": part.signature}
    if part.family == FAMILY and part.sealed is not None:
        return {"type": "redacted_thinking", "data": part.sealed}
    note(c.lost, f"{place}: Anthropic takes back its own thoughts only")
    return None


_IMAGES = frozenset({"image/jpeg", "image/png", "image/gif", "image/webp"})


def _media_block(c: Conversation, part: MediaPart, place: str) -> Tree | None:
    source: Tree | None = None
    if part.data is not None:
        source = {"type": "base64", "media_type": part.media_type, "data": part.data}
    elif part.url is not None:
        source = {"type": "url", "url": part.url}
    if source is None or part.kind not in {"image", "document"}:
        note(c.missing, f"{place}: Anthropic can't be shown this {part.kind}")
        return None
    if part.data is not None:
        if part.kind == "document" and part.media_type not in {"application/pdf", None}:
            note(c.missing, f"{place}: of documents Anthropic takes PDF")
            return None
        if part.kind == "image" and part.media_type not in _IMAGES:
            note(c.missing, f"{place}: of images Anthropic takes JPEG, PNG, GIF and WebP")
            return None
        source["media_type"] = part.media_type or "application/pdf"
    if part.detail not in (None, "auto"):
        note(c.lost, f"{place}: Anthropic looks at images in one way")
    if part.kind == "image" and part.name is not None:
        note(c.lost, f"{place}: Anthropic's images have no names")
    title = part.name if part.kind == "document" else None
    return without_none({"type": part.kind, "source": source, "title": title})


def _tool_choice(c: Conversation) -> Tree | None:
    choice = c.tool_choice
    if (choice is None and c.parallel_tools is None) or not c.tools:
        return None
    kind = "auto" if choice is None else {"required": "any", "named": "tool"}.get(choice.kind, choice.kind)
    out: Tree = {"type": kind}
    if choice is not None and choice.kind == "named":
        out["name"] = choice.name
    if c.parallel_tools is not None and kind != "none":
        out["disable_parallel_tool_use"] = not c.parallel_tools
    return out
