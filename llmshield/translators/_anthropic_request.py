"""Requests in Anthropic's Messages API, into and out of neutral shapes.

Shapes after https://platform.claude.com/docs/en/api/messages (anthropic-python 2.10).
"""

from __future__ import annotations

from typing import Any

from llmshield.call import Call, Tree
from llmshield.conversation import (
    Conversation,
    MediaPart,
    Message,
    OutputForm,
    Part,
    ReasoningPart,
    TextPart,
    Thinking,
    Tool,
    ToolCallPart,
    ToolChoice,
    ToolResultPart,
)
from llmshield.translators._json import (
    arguments_text,
    items,
    note,
    number,
    object_of,
    text,
    truth,
    unread,
    whole,
)

FAMILY = "anthropic"
FAMILY_NAME = "Anthropic"
_READ = frozenset(
    {
        "model", "messages", "system", "max_tokens", "tools", "tool_choice", "thinking", "output_config",
        "output_format", "stop_sequences", "temperature", "top_p", "top_k", "metadata", "stream",
    }
)  # fmt: skip
_SAME_ANYWAY = {"service_tier": "auto", "speed": "standard"}
"""Fields at a value that asks for nothing another provider would do differently."""
_HELD = frozenset({"container", "mcp_servers", "prefill"})
"""Fields that hold a part of what the model reads. (`context_management` takes from it: another model reads more.)"""
_BLOCKS: dict[str, frozenset[str]] = {
    "text": frozenset({"type", "text"}),
    "tool_use": frozenset({"type", "id", "name", "input"}),
    "tool_result": frozenset({"type", "tool_use_id", "content", "is_error"}),
    "thinking": frozenset({"type", "thinking", "signature"}),
    "redacted_thinking": frozenset({"type", "data"}),
    "image": frozenset({"type", "source"}),
    "document": frozenset({"type", "source", "title", "context"}),
}
_SOURCE = frozenset({"type", "media_type", "data", "url", "file_id"})
_TOOL = frozenset({"type", "name", "description", "input_schema", "strict"})
_CHOICE = frozenset({"type", "name", "disable_parallel_tool_use"})
_THINKING = frozenset({"type", "budget_tokens", "display"})


def read_conversation(call: Call) -> Conversation:
    body = call.body
    out = Conversation(model=call.model, messages=[], stream=call.stream)
    system = _texts(out, body.get("system"), "system")
    if system:
        out.messages.append(Message("system", system))
    for index, entry in enumerate(items(body.get("messages"))):
        message = object_of(entry)
        unread(out.lost, message, frozenset({"role", "content"}), f"messages/{index}", FAMILY_NAME)
        speaker = "assistant" if message.get("role") == "assistant" else "user"
        if message.get("role") == "system":
            speaker = "system"
        _read_message(out, speaker, message.get("content"), f"messages/{index}/content")
    _read_tools(out, body)
    _read_wishes(out, body)
    return out


def _texts(out: Conversation, content: Any, place: str) -> list[Part]:
    if type(content) is str:
        return [TextPart(content)] if content else []
    return _parts(out, content, place)


def _read_message(out: Conversation, speaker: Any, content: Any, place: str) -> None:
    """One message, or two: tool results, which here stand in a user's message, and what the user says beside them."""
    parts = [TextPart(content)] if type(content) is str and content else _parts(out, content, place)
    results = [part for part in parts if isinstance(part, ToolResultPart)]
    said: list[Part] = [part for part in parts if not isinstance(part, ToolResultPart)]
    if results:
        out.messages.append(Message("tool", [*results]))
    if said or not results:
        out.messages.append(Message(speaker, said))


def _parts(out: Conversation, content: Any, place: str) -> list[Part]:
    parts: list[Part] = []
    for index, entry in enumerate(items(content)):
        part = _part(out, object_of(entry), f"{place}/{index}")
        if part is None:
            out.missing.append(f"{place}/{index}: a block that only Anthropic has")
        else:
            parts.append(part)
            block = object_of(entry)
            caller = object_of(block.get("caller")).get("type") in (None, "direct")
            known = _BLOCKS[str(block.get("type"))]
            unread(out.lost, block, known | {"caller"} if caller else known, f"{place}/{index}", FAMILY_NAME)
            unread(out.lost, object_of(block.get("source")), _SOURCE, f"{place}/{index}/source", FAMILY_NAME)
    return parts


def _part(out: Conversation, block: Tree, place: str) -> Part | None:
    kind = block.get("type")
    if kind == "text":
        words = text(block.get("text"))
        return TextPart(words) if words is not None else None
    if kind == "tool_use":
        arguments = block.get("input")
        return ToolCallPart(
            text(block.get("id")) or "",
            text(block.get("name")) or "",
            arguments_text(arguments if arguments is not None else {}),
        )
    if kind == "tool_result":
        content = block.get("content")
        said = (
            [TextPart(content)]
            if type(content) is str and content
            else _parts(out, content, f"{place}/content")
        )
        result = [part for part in said if isinstance(part, TextPart | MediaPart)]
        if len(result) < len(said):
            note(out.missing, f"{place}: a tool's result that is neither words nor a medium")
        return ToolResultPart(
            text(block.get("tool_use_id")) or "", result, failed=block.get("is_error") is True
        )
    if kind == "thinking":
        thought, signature = text(block.get("thinking")) or "", text(block.get("signature"))
        return ReasoningPart(thought, signature=signature or None, family=FAMILY)
    if kind == "redacted_thinking":
        return ReasoningPart("", sealed=text(block.get("data")), family=FAMILY)
    if kind == "image" or kind == "document":
        if block.get("context"):
            note(out.missing, f"{place}/context: what only Anthropic lets a document say of itself")
        return _medium(kind, block)
    return None


def _medium(kind: Any, block: Tree) -> MediaPart | TextPart | None:
    source = object_of(block.get("source"))
    way = source.get("type")
    name = text(block.get("title"))
    if way == "base64" and type(source.get("data")) is str:
        return MediaPart(kind, data=source["data"], media_type=text(source.get("media_type")), name=name)
    if way == "url" and type(source.get("url")) is str:
        return MediaPart(kind, url=source["url"], name=name)
    if way == "file" and type(source.get("file_id")) is str:
        return MediaPart(kind, file_id=source["file_id"], name=name)
    if way == "text" and type(source.get("data")) is str:
        return TextPart(f"{name}\n{source['data']}" if name else source["data"])
    return None


def _read_tools(out: Conversation, body: Tree) -> None:
    for index, entry in enumerate(items(body.get("tools"))):
        tool = object_of(entry)
        if tool.get("type", "custom") not in ("custom", None):
            out.missing.append(f"tools/{index}: a tool of Anthropic's own")
            continue
        unread(out.lost, tool, _TOOL, f"tools/{index}", FAMILY_NAME)
        schema = tool.get("input_schema")
        out.tools.append(
            Tool(
                text(tool.get("name")) or "", text(tool.get("description")),
                schema if type(schema) is dict else None, truth(tool.get("strict")),
            )
        )  # fmt: skip
    choice = object_of(body.get("tool_choice"))
    kind = choice.get("type")
    if kind == "auto" or kind == "none":
        out.tool_choice = ToolChoice("auto" if kind == "auto" else "none")
    elif kind == "any":
        out.tool_choice = ToolChoice("required")
    elif kind == "tool":
        out.tool_choice = ToolChoice("named", text(choice.get("name")) or "")
    elif kind is not None:
        out.missing.append("tool_choice: a choice of an unknown kind")
    unread(out.lost, choice, _CHOICE, "tool_choice", FAMILY_NAME)
    alone = truth(choice.get("disable_parallel_tool_use"))
    out.parallel_tools = None if alone is None else not alone


def _read_wishes(out: Conversation, body: Tree) -> None:
    config = object_of(body.get("output_config"))
    unread(out.lost, config, frozenset({"effort", "format"}), "output_config", FAMILY_NAME)
    form = object_of(config.get("format") or body.get("output_format"))
    if form.get("type") == "json_schema":
        out.output = OutputForm("schema", object_of(form.get("schema")))
    elif form:
        out.missing.append("output_config/format: a form of an unknown kind")
    effort = text(config.get("effort"))
    thinking = object_of(body.get("thinking"))
    kind, display = thinking.get("type"), thinking.get("display")
    unread(out.lost, thinking, _THINKING, "thinking", FAMILY_NAME)
    if kind == "disabled":
        out.thinking = Thinking(effort=effort, off=True)
    elif kind == "enabled" or kind == "adaptive":
        out.thinking = Thinking(effort, whole(thinking.get("budget_tokens")), shown=display != "omitted")
    elif effort is not None:
        out.thinking = Thinking(effort)
    if kind not in (None, "disabled", "enabled", "adaptive"):
        note(out.lost, "thinking: a way to think that only Anthropic has")
    out.max_tokens = whole(body.get("max_tokens"))
    if out.max_tokens == 0:
        note(out.missing, "max_tokens: only Anthropic can be asked for no answer")
    out.stop = [word for word in items(body.get("stop_sequences")) if type(word) is str]
    out.temperature, out.top_p = number(body.get("temperature")), number(body.get("top_p"))
    out.top_k = whole(body.get("top_k"))
    metadata = object_of(body.get("metadata"))
    unread(out.lost, metadata, frozenset({"user_id"}), "metadata", FAMILY_NAME)
    out.user = text(metadata.get("user_id"))
    rest = {name: value for name, value in body.items() if value != _SAME_ANYWAY.get(name)}
    unread(out.missing, {name: rest[name] for name in _HELD & rest.keys()}, frozenset(), "", FAMILY_NAME)
    unread(out.lost, rest, _READ | _HELD, "", FAMILY_NAME)
