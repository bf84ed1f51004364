"""Requests in OpenAI's responses API, into and out of neutral shapes.

Shapes after https://platform.openai.com/docs/api-reference/responses (openai-python 3.51).
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
    Speaker,
    TextPart,
    Thinking,
    Tool,
    ToolCallPart,
    ToolChoice,
    ToolResultPart,
)
from llmshield.translators._json import (
    items,
    media_from_url,
    note,
    number,
    object_of,
    shown,
    text,
    truth,
    unread,
    whole,
)

FAMILY = "openai"
_READ = frozenset(
    {
        "model", "input", "instructions", "tools", "tool_choice", "parallel_tool_calls", "text", "reasoning",
        "max_output_tokens", "temperature", "top_p", "top_logprobs", "user", "safety_identifier", "stream",
        "stream_options", "include",
    }
)  # fmt: skip
_HELD = frozenset({"previous_response_id", "conversation", "prompt", "background", "comparison_response_id"})
"""What refers to something that only the provider holds, or lets it answer elsewhere."""
_SAME_ANYWAY = {"truncation": "disabled", "service_tier": "auto"}
_WHOSE = "the responses API"
_ITEMS: dict[str, frozenset[str]] = {
    "message": frozenset({"role", "content"}),
    "function_call_output": frozenset({"call_id", "output"}),
    "custom_tool_call_output": frozenset({"call_id", "output"}),
    "function_call": frozenset({"call_id", "name", "arguments"}),
    "custom_tool_call": frozenset({"call_id", "name", "input"}),
    "reasoning": frozenset({"summary", "content", "encrypted_content"}),
}
_OF_ALL = frozenset({"type", "id", "status"})
"""Fields of items that its own answers gave them."""
_PARTS: dict[str, frozenset[str]] = {
    "input_text": frozenset({"text"}), "output_text": frozenset({"text"}), "text": frozenset({"text"}),
    "refusal": frozenset({"refusal"}), "input_image": frozenset({"image_url", "file_id", "detail"}),
    "input_file": frozenset({"file_data", "file_url", "file_id", "filename"}), "input_audio": frozenset({"input_audio"}),
}  # fmt: skip
_TOOL = frozenset({"type", "name", "description", "parameters", "strict"})
_FORM = frozenset({"type", "name", "description", "schema", "strict"})
_REASONING = frozenset({"effort", "summary", "generate_summary"})
_SPEAKERS: dict[str, Speaker] = {"system": "system", "developer": "developer", "assistant": "assistant"}
_LOGPROBS = "message.output_text.logprobs"
_SEALED = "reasoning.encrypted_content"


def read_conversation(call: Call) -> Conversation:
    body = call.body
    out = Conversation(model=call.model, messages=[], stream=call.stream)
    if instructions := text(body.get("instructions")):
        out.messages.append(Message("system", [TextPart(instructions)]))
    given = body.get("input")
    if type(given) is str:
        out.messages.append(Message("user", [TextPart(given)]))
    for index, item in enumerate(items(given)):
        _read_item(out, object_of(item), f"input/{index}")
    _read_tools(out, body)
    _read_wishes(out, body)
    return out


def _read_item(out: Conversation, item: Tree, place: str) -> None:
    kind = text(item.get("type", "message")) or ""
    known = _ITEMS.get(kind)
    if known is not None:
        direct = object_of(item.get("caller")).get("type") == "direct"
        unread(out.lost, item, known | _OF_ALL | {"caller"} if direct else known | _OF_ALL, place, _WHOSE)
    if kind == "message":
        speaker = _SPEAKERS.get(str(item.get("role")), "user")
        said = _read_content(out, item.get("content"), f"{place}/content")
        if speaker == "assistant":
            _assistant(out, said)
        else:
            out.messages.append(Message(speaker, said))
        return
    if kind in {"function_call_output", "custom_tool_call_output"}:
        parts = _read_content(out, item.get("output"), f"{place}/output")
        result = [part for part in parts if isinstance(part, TextPart | MediaPart)]
        out.messages.append(Message("tool", [ToolResultPart(text(item.get("call_id")) or "", result)]))
        return
    part = read_own_item(item)
    if part is None:
        note(out.missing, f"{place}: an item that only the responses API has")
        return
    _assistant(out, [part])


def _assistant(out: Conversation, parts: list[Part]) -> None:
    """What the model did: one turn of it is several items."""
    last = out.messages[-1] if out.messages else None
    if last is not None and last.speaker == "assistant":
        last.parts += parts
    else:
        out.messages.append(Message("assistant", parts))


def read_own_item(item: Tree) -> Part | None:
    """What the model did besides speaking: a call or a thought."""
    kind = item.get("type")
    if kind == "function_call" or kind == "custom_tool_call":
        custom = kind == "custom_tool_call"
        said = text(item.get("input" if custom else "arguments")) or ""
        return ToolCallPart(text(item.get("call_id")) or "", text(item.get("name")) or "", said, custom)
    if kind == "reasoning":
        shown = [*items(item.get("summary")), *items(item.get("content"))]
        words = "\n".join([line for each in shown if (line := text(object_of(each).get("text")))])
        sealed = text(item.get("encrypted_content"))
        return ReasoningPart(words, sealed=sealed, family=FAMILY, id=text(item.get("id")))
    return None


def _read_content(out: Conversation, content: Any, place: str) -> list[Part]:
    if type(content) is str:
        return [TextPart(content)] if content else []
    parts: list[Part] = []
    for index, entry in enumerate(items(content)):
        tree = object_of(entry)
        part = read_part(tree)
        if part is None:
            note(out.missing, f"{place}/{index}: a part of an unknown kind")
        else:
            parts.append(part)
            unread(out.lost, tree, _PARTS[tree["type"]] | {"type"}, f"{place}/{index}", _WHOSE)
    return parts


def read_part(entry: Tree) -> Part | None:
    """A part of a message or of a tool's result."""
    kind = text(entry.get("type"))
    if kind in {"input_text", "output_text", "text"} and type(entry.get("text")) is str:
        return TextPart(entry["text"])
    if kind == "refusal" and type(entry.get("refusal")) is str:
        return TextPart(entry["refusal"], refusal=True)
    if kind == "input_image":
        detail = text(entry.get("detail"))
        if url := text(entry.get("image_url")):
            return media_from_url("image", url, detail=detail)
        file_id = text(entry.get("file_id"))
        return MediaPart("image", file_id=file_id, detail=detail) if file_id is not None else None
    if kind == "input_file":
        name = text(entry.get("filename"))
        if data := text(entry.get("file_data")):
            return media_from_url("document", data, name=name)
        url, file_id = text(entry.get("file_url")), text(entry.get("file_id"))
        return MediaPart("document", url=url, file_id=file_id, name=name) if url or file_id else None
    if kind == "input_audio":
        audio = object_of(entry.get("input_audio"))
        form, data = text(audio.get("format")), text(audio.get("data"))
        if form is None or data is None:
            return None
        return MediaPart("audio", data=data, media_type={"mp3": "audio/mpeg"}.get(form, f"audio/{form}"))
    return None


def _read_tools(out: Conversation, body: Tree) -> None:
    for index, entry in enumerate(items(body.get("tools"))):
        tool = object_of(entry)
        if tool.get("type") != "function":
            out.missing.append(f"tools/{index}: a tool that is no function")
            continue
        unread(out.lost, tool, _TOOL, f"tools/{index}", _WHOSE)
        schema = tool.get("parameters")
        out.tools.append(
            Tool(
                text(tool.get("name")) or "", text(tool.get("description")),
                schema if type(schema) is dict else None, truth(tool.get("strict")),
            )
        )  # fmt: skip
    choice = body.get("tool_choice")
    if choice == "auto" or choice == "none" or choice == "required":
        out.tool_choice = ToolChoice(choice)
    elif type(choice) is dict:
        if choice.get("type") == "function" and type(choice.get("name")) is str:
            out.tool_choice = ToolChoice("named", choice["name"])
        else:
            out.missing.append("tool_choice: a choice of an unknown kind")
    out.parallel_tools = truth(body.get("parallel_tool_calls"))


def _read_wishes(out: Conversation, body: Tree) -> None:
    said = object_of(body.get("text"))
    form = object_of(said.get("format"))
    kind = form.get("type")
    unread(out.lost, form, _FORM, "text/format", _WHOSE)
    unread(out.lost, said, frozenset({"format"}), "text", _WHOSE)
    if kind == "json_object":
        out.output = OutputForm("json")
    elif kind == "json_schema":
        out.output = OutputForm(
            "schema", object_of(form.get("schema")), text(form.get("name")), text(form.get("description")),
            truth(form.get("strict")),
        )  # fmt: skip
    elif kind not in (None, "text"):
        out.missing.append("text/format: a form of an unknown kind")
    reasoning = object_of(body.get("reasoning"))
    unread(out.lost, reasoning, _REASONING, "reasoning", _WHOSE)
    effort, summary = (
        text(reasoning.get("effort")),
        reasoning.get("summary", reasoning.get("generate_summary")),
    )
    if effort is not None or summary is not None:
        out.thinking = Thinking(
            None if effort == "none" else effort, off=effort == "none", shown=True if summary else None
        )
    out.max_tokens = whole(body.get("max_output_tokens"))
    out.temperature, out.top_p = number(body.get("temperature")), number(body.get("top_p"))
    include = items(body.get("include"))
    if _LOGPROBS in include or whole(body.get("top_logprobs")):
        out.logprobs = whole(body.get("top_logprobs")) or 0
    out.user = text(body.get("safety_identifier")) or text(body.get("user"))
    if text(body.get("safety_identifier")) and text(body.get("user")):
        note(out.lost, "user: there is one name for the end user, the safety identifier")
    unread(out.lost, object_of(body.get("stream_options")), frozenset(), "stream_options", _WHOSE)
    for name in include:
        if name not in (_LOGPROBS, _SEALED):
            note(out.lost, f"include/{shown(name)}: known to OpenAI only")
    rest = {name: value for name, value in body.items() if value != _SAME_ANYWAY.get(name)}
    for name in _HELD & rest.keys():
        if rest[name] not in (None, False):
            note(out.missing, f"{name}: text that only its provider holds")
    unread(out.lost, rest, _READ | _HELD, "", _WHOSE)
