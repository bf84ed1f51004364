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
    arguments_tree,
    items,
    number,
    object_of,
    text,
    truth,
    whole,
    without_none,
)

FAMILY = "anthropic"
_READ = frozenset(
    {
        "model", "messages", "system", "max_tokens", "tools", "tool_choice", "thinking", "output_config",
        "output_format", "stop_sequences", "temperature", "top_p", "top_k", "metadata", "stream",
    }
)  # fmt: skip
_SAME_ANYWAY = {"service_tier": "auto", "speed": "standard", "cache_control": {"type": "ephemeral"}}
"""Fields at a value that asks for nothing another provider would do differently."""

DEFAULT_MAX_TOKENS = 8192
"""Anthropic wants a bound where the client gave none: what all models since Claude 3.5 can write."""
_OLD_MAX_TOKENS = 4096
_OLD_MODELS = ("claude-3-opus", "claude-3-sonnet", "claude-3-haiku", "claude-2")
_BUDGETS = {"minimal": 1024, "low": 1024, "medium": 8192, "high": 16384, "xhigh": 24576, "max": 32768}
"""Tokens to think in for an effort given by word: the steps that Gemini's OpenAI layer takes, and beyond."""
_LEAST_BUDGET = 1024


# -- reading -------------------------------------------------------------------------------------------------------


def read_conversation(call: Call) -> Conversation:
    body = call.body
    out = Conversation(model=call.model, messages=[], stream=call.stream)
    system = _texts(out, body.get("system"), "system")
    if system:
        out.messages.append(Message("system", system))
    for index, entry in enumerate(items(body.get("messages"))):
        message = object_of(entry)
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
    return [part for part in _parts(out, content, place) if isinstance(part, TextPart)]


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
    return parts


def _part(out: Conversation, block: Tree, place: str) -> Part | None:
    kind = block.get("type")
    if kind == "text":
        return TextPart(text(block.get("text")) or "")
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
        return ToolResultPart(
            text(block.get("tool_use_id")) or "", result, failed=block.get("is_error") is True
        )
    if kind == "thinking":
        thought, signature = text(block.get("thinking")) or "", text(block.get("signature"))
        return ReasoningPart(thought, signature=signature or None, family=FAMILY)
    if kind == "redacted_thinking":
        return ReasoningPart("", sealed=text(block.get("data")), family=FAMILY)
    if kind == "image" or kind == "document":
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
        if tool.get("type", "custom") not in {"custom", None}:
            out.missing.append(f"tools/{index}: a tool of Anthropic's own")
            continue
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
    alone = truth(choice.get("disable_parallel_tool_use"))
    out.parallel_tools = None if alone is None else not alone


def _read_wishes(out: Conversation, body: Tree) -> None:
    config = object_of(body.get("output_config"))
    form = object_of(config.get("format") or body.get("output_format"))
    if form.get("type") == "json_schema":
        out.output = OutputForm("schema", object_of(form.get("schema")))
    elif form:
        out.missing.append("output_config/format: a form of an unknown kind")
    effort = text(config.get("effort"))
    thinking = object_of(body.get("thinking"))
    kind, display = thinking.get("type"), thinking.get("display")
    if kind == "disabled":
        out.thinking = Thinking(effort=effort, off=True)
    elif kind == "enabled" or kind == "adaptive":
        out.thinking = Thinking(effort, whole(thinking.get("budget_tokens")), shown=display != "omitted")
    elif effort is not None:
        out.thinking = Thinking(effort)
    out.max_tokens = whole(body.get("max_tokens"))
    out.stop = [word for word in items(body.get("stop_sequences")) if type(word) is str]
    out.temperature, out.top_p = number(body.get("temperature")), number(body.get("top_p"))
    out.top_k = whole(body.get("top_k"))
    out.user = text(object_of(body.get("metadata")).get("user_id"))
    for name, value in body.items():
        if name not in _READ and value is not None and value != _SAME_ANYWAY.get(name):
            what = (
                out.missing
                if name in {"container", "mcp_servers", "context_management", "prefill"}
                else out.lost
            )
            what.append(f"{name[:60]}: only Anthropic has it")


# -- writing -------------------------------------------------------------------------------------------------------


def write_conversation(c: Conversation) -> Tree:
    old = c.model.startswith(_OLD_MODELS)
    bound = c.max_tokens if c.max_tokens is not None else _OLD_MAX_TOKENS if old else DEFAULT_MAX_TOKENS
    body: Tree = {"model": c.model, "max_tokens": bound, "messages": _write_messages(c)}
    system = [part.text for message in _leading(c) for part in message.parts if isinstance(part, TextPart)]
    if system:
        body["system"] = (
            system[0] if len(system) == 1 else [{"type": "text", "text": said} for said in system]
        )
    if c.tools:
        body["tools"] = [
            without_none(
                {
                    "name": tool.name,
                    "description": tool.description,
                    "input_schema": tool.schema or {"type": "object", "properties": {}},
                    "strict": tool.strict or None,
                }
            )
            for tool in c.tools
        ]
    body["tool_choice"] = _tool_choice(c)
    _write_thinking(c, body)
    if c.output is not None:
        if c.output.kind == "schema":
            body.setdefault("output_config", {})["format"] = {
                "type": "json_schema",
                "schema": c.output.schema or {},
            }
        else:
            c.missing.append("output: Anthropic answers in JSON of a schema only, not in any JSON")
    body["stop_sequences"] = c.stop or None
    if c.temperature is not None:
        body["temperature"] = min(c.temperature, 1.0)
        if c.temperature > 1:
            c.lost.append("temperature: Anthropic's scale ends at 1")
    body["top_p"], body["top_k"] = c.top_p, c.top_k
    body["metadata"] = {"user_id": c.user} if c.user is not None else None
    if c.choices != 1:
        c.missing.append("choices: Anthropic gives one answer")
    for name in ("frequency_penalty", "presence_penalty", "seed", "logprobs"):
        if getattr(c, name) not in (None, 0.0) or (name == "seed" and c.seed is not None):
            c.lost.append(f"{name}: Anthropic has no such setting")
    if c.stream:
        body["stream"] = True
    return without_none(body)


def _leading(c: Conversation) -> list[Message]:
    """What the system says, wherever it says it: here it has one place, at the beginning."""
    return [message for message in c.messages if message.speaker in {"system", "developer"}]


def _write_messages(c: Conversation) -> list[Tree]:
    """Turns of user and assistant in alternation; neighbours of one role are one turn, tool results first in it."""
    turns: list[Tree] = []
    begun = False
    for index, message in enumerate(c.messages):
        if message.speaker in {"system", "developer"}:
            if begun:
                c.lost.append(f"messages/{index}: Anthropic hears the system at the beginning only")
            if any(not isinstance(part, TextPart) for part in message.parts):
                c.missing.append(f"messages/{index}: Anthropic's system speaks in words only")
            continue
        begun = True
        role = "assistant" if message.speaker == "assistant" else "user"
        if message.name is not None:
            c.lost.append(f"messages/{index}/name: Anthropic's speakers have no names")
        blocks = [
            block for part in message.parts if (block := _block(c, part, f"messages/{index}")) is not None
        ]
        if not blocks:
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
        return {"type": "text", "text": part.text} if part.text else None
    if isinstance(part, MediaPart):
        return _media_block(c, part, place)
    if isinstance(part, ToolCallPart):
        arguments = None if part.custom else arguments_tree(part.arguments)
        if arguments is None:
            c.missing.append(f"{place}: a call whose arguments are no JSON object")
            arguments = {}
        if part.signature:
            c.lost.append(f"{place}: a thought's signature is for its own provider")
        return {"type": "tool_use", "id": part.id, "name": part.name, "input": arguments}
    if isinstance(part, ToolResultPart):
        content = [block for said in part.parts if (block := _block(c, said, place)) is not None]
        words: Any = content[0]["text"] if len(content) == 1 and content[0]["type"] == "text" else content
        out: Tree = {"type": "tool_result", "tool_use_id": part.call_id, "content": words}
        return {**out, "is_error": True} if part.failed else out
    if part.family == FAMILY and part.signature is not None:
        return {"type": "thinking", "thinking": part.text, "signature": part.signature}
    if part.family == FAMILY and part.sealed is not None:
        return {"type": "redacted_thinking", "data": part.sealed}
    c.lost.append(f"{place}: Anthropic takes back its own thoughts only")
    return None


def _media_block(c: Conversation, part: MediaPart, place: str) -> Tree | None:
    source: Tree | None = None
    if part.data is not None:
        source = {"type": "base64", "media_type": part.media_type, "data": part.data}
    elif part.url is not None:
        source = {"type": "url", "url": part.url}
    if source is None or part.kind not in {"image", "document"}:
        c.missing.append(f"{place}: Anthropic can't be shown this {part.kind}")
        return None
    if part.kind == "document" and part.data is not None and part.media_type not in {"application/pdf", None}:
        c.missing.append(f"{place}: of documents Anthropic takes PDF")
        return None
    title = part.name if part.kind == "document" else None
    return without_none({"type": part.kind, "source": without_none(source), "title": title})


def _tool_choice(c: Conversation) -> Tree | None:
    choice = c.tool_choice
    if choice is None and c.parallel_tools is None:
        return None
    if not c.tools:
        return None
    kind = "auto" if choice is None else {"required": "any", "named": "tool"}.get(choice.kind, choice.kind)
    out: Tree = {"type": kind}
    if choice is not None and choice.kind == "named":
        out["name"] = choice.name
    if c.parallel_tools is not None and kind != "none":
        out["disable_parallel_tool_use"] = not c.parallel_tools
    return out


def _write_thinking(c: Conversation, body: Tree) -> None:
    """Thinking has its tokens inside `max_tokens`, goes with no other temperature than 1, and can't be forced to
    end in a tool call (docs: extended thinking, "feature compatibility")."""
    thinking = c.thinking
    if thinking is None:
        return
    if thinking.off:
        body["thinking"] = {"type": "disabled"}
        return
    budget = thinking.budget
    if budget is None and thinking.effort is None:
        body["thinking"] = without_none(
            {"type": "adaptive", "display": None if thinking.shown else "omitted"}
        )
        return
    if budget is None:
        budget = _BUDGETS.get(thinking.effort or "", _BUDGETS["medium"])
    forced = c.tool_choice is not None and c.tool_choice.kind in {"required", "named"}
    budget = min(budget, body["max_tokens"] - 1)
    if budget < _LEAST_BUDGET or forced or any(each.speaker == "assistant" for each in c.messages[-1:]):
        c.lost.append("thinking: Anthropic can't think within this call's bounds")
        return
    body["thinking"] = {"type": "enabled", "budget_tokens": budget}
    if c.temperature is not None and c.temperature != 1:
        c.lost.append("temperature: Anthropic takes none beside thinking")
        c.temperature = None
