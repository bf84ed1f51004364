"""Requests in OpenAI's chat completions, into and out of neutral shapes.

Shapes after https://platform.openai.com/docs/api-reference/chat (openai-python 3.51) and what compatible servers add
to them (`reasoning_content` of vLLM and DeepSeek).
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
    text,
    truth,
    unread,
    whole,
)

_SPEAKERS: dict[str, Speaker] = {
    "system": "system", "developer": "developer", "user": "user", "assistant": "assistant", "tool": "tool",
    "function": "tool",
}  # fmt: skip
_READ = frozenset(
    {
        "messages", "model", "tools", "functions", "tool_choice", "function_call", "parallel_tool_calls",
        "response_format", "reasoning_effort", "max_tokens", "max_completion_tokens", "n", "stop", "temperature",
        "top_p", "frequency_penalty", "presence_penalty", "seed", "logprobs", "top_logprobs", "user",
        "safety_identifier", "stream", "stream_options",
    }
)  # fmt: skip
_SAME_ANYWAY = {"modalities": ["text"], "service_tier": "auto"}
"""Fields at a value that asks for nothing."""
_WHOSE = "chat completions"
_MESSAGE = frozenset(
    {
        "role", "content", "name", "tool_call_id", "reasoning_content", "reasoning", "refusal", "tool_calls",
        "function_call", "audio",
    }
)  # fmt: skip
_PARTS: dict[str, frozenset[str]] = {
    "text": frozenset(), "refusal": frozenset(), "image_url": frozenset({"url", "detail"}),
    "input_audio": frozenset({"data", "format"}), "file": frozenset({"file_data", "file_id", "filename"}),
}  # fmt: skip
"""Fields of each kind of part, one level down."""
_CALL = frozenset({"id", "type", "function", "custom", "index"})
_FUNCTION = frozenset({"name", "description", "parameters", "strict"})


def read_conversation(call: Call) -> Conversation:
    body = call.body
    out = Conversation(model=call.model, messages=[], stream=call.stream, wants_usage=call.wants_usage)
    called: dict[str, str] = {}
    for index, message in enumerate(items(body.get("messages"))):
        _read_message(out, object_of(message), f"messages/{index}", called)
    _read_tools(out, body)
    _read_wishes(out, body)
    return out


def _read_message(out: Conversation, message: Tree, place: str, called: dict[str, str]) -> None:
    """One message. `called` knows the ids that were given to calls of functions, as they were before there were
    tools: their results are told apart by the function's name."""
    unread(out.lost, message, _MESSAGE, place, _WHOSE)
    said = message.get("role")
    speaker = _SPEAKERS.get(said, "user") if type(said) is str else "user"
    parts = _read_content(out, message.get("content"), f"{place}/content")
    if speaker == "tool":
        name = text(message.get("name"))
        answers = text(message.get("tool_call_id")) or called.get(name or "", name or "")
        result = [part for part in parts if isinstance(part, TextPart | MediaPart)]
        parts[:] = [ToolResultPart(answers, result, name=name)]
    if speaker == "assistant":
        thought = text(message.get("reasoning_content")) or text(message.get("reasoning"))
        if thought:
            parts.insert(0, ReasoningPart(thought, family="openai"))
        if refusal := text(message.get("refusal")):
            parts.append(TextPart(refusal, refusal=True))
        parts += read_calls(message)
        for at, entry in enumerate(items(message.get("tool_calls"))):
            unread(out.lost, object_of(entry), _CALL, f"{place}/tool_calls/{at}", _WHOSE)
        old = object_of(message.get("function_call"))
        if old:
            last = parts[-1]
            assert isinstance(last, ToolCallPart)
            last.id = called[last.name] = f"call_{place.rpartition('/')[2]}"
        if message.get("audio") is not None:
            out.missing.append(f"{place}/audio: an earlier spoken answer that only its provider holds")
    out.messages.append(Message(speaker, parts, text(message.get("name")) if speaker != "tool" else None))


def _read_content(out: Conversation, content: Any, place: str) -> list[Part]:
    if type(content) is str:
        return [TextPart(content)] if content else []
    parts: list[Part] = []
    for index, entry in enumerate(items(content)):
        part = (
            _read_part(object_of(entry))
            if type(entry) is dict
            else TextPart(entry)
            if type(entry) is str
            else None
        )
        if part is None:
            out.missing.append(f"{place}/{index}: a part of an unknown kind")
        else:
            parts.append(part)
            if type(entry) is dict:
                kind = str(entry.get("type"))
                unread(out.lost, entry, frozenset({"type", kind}), f"{place}/{index}", _WHOSE)
                unread(out.lost, object_of(entry.get(kind)), _PARTS[kind], f"{place}/{index}/{kind}", _WHOSE)
    return parts


def _read_part(entry: Tree) -> Part | None:
    kind = entry.get("type")
    if kind == "text" and type(entry.get("text")) is str:
        return TextPart(entry["text"])
    if kind == "refusal" and type(entry.get("refusal")) is str:
        return TextPart(entry["refusal"], refusal=True)
    if kind == "image_url":
        image = entry.get("image_url")
        url = text(image) or text(object_of(image).get("url"))
        return (
            None if url is None else media_from_url("image", url, detail=text(object_of(image).get("detail")))
        )
    if kind == "input_audio":
        audio = object_of(entry.get("input_audio"))
        form, data = text(audio.get("format")), text(audio.get("data"))
        if data is None or form is None:
            return None
        return MediaPart("audio", data=data, media_type={"mp3": "audio/mpeg"}.get(form, f"audio/{form}"))
    if kind == "file":
        file = object_of(entry.get("file"))
        name = text(file.get("filename"))
        if data := text(file.get("file_data")):
            return media_from_url("document", data, name=name)
        if file_id := text(file.get("file_id")):
            return MediaPart("document", file_id=file_id, name=name)
    return None


def read_calls(message: Tree) -> list[Part]:
    parts: list[Part] = []
    for entry in items(message.get("tool_calls")):
        call = object_of(entry)
        custom = call.get("type") == "custom"
        function = object_of(call.get("custom" if custom else "function"))
        said = text(function.get("input" if custom else "arguments")) or ""
        parts.append(ToolCallPart(text(call.get("id")) or "", text(function.get("name")) or "", said, custom))
    old = message.get("function_call")
    if type(old) is dict:  # before tools there were functions, whose results were told apart by their name
        name = text(old.get("name")) or ""
        parts.append(ToolCallPart(name, name, text(old.get("arguments")) or ""))
    return parts


def _read_tools(out: Conversation, body: Tree) -> None:
    definitions = [
        (f"functions/{i}", object_of(entry)) for i, entry in enumerate(items(body.get("functions")))
    ]
    for index, entry in enumerate(items(body.get("tools"))):
        if object_of(entry).get("type") == "function":
            definitions.append((f"tools/{index}", object_of(entry.get("function"))))
            unread(out.lost, entry, frozenset({"type", "function"}), f"tools/{index}", _WHOSE)
        else:
            out.missing.append(f"tools/{index}: a tool that is no function")
    for place, function in definitions:
        unread(out.lost, function, _FUNCTION, place, _WHOSE)
        schema = function.get("parameters")
        out.tools.append(
            Tool(
                text(function.get("name")) or "",
                text(function.get("description")),
                schema if type(schema) is dict else None,
                truth(function.get("strict")),
            )
        )
    choice = body.get("tool_choice", body.get("function_call"))
    if choice == "auto" or choice == "none" or choice == "required":
        out.tool_choice = ToolChoice(choice)
    elif type(choice) is dict:
        function = object_of(choice.get("function")) if "function" in choice else choice
        if type(name := function.get("name")) is str and choice.get("type", "function") == "function":
            out.tool_choice = ToolChoice("named", name)
        else:
            out.missing.append("tool_choice: a choice of an unknown kind")
    out.parallel_tools = truth(body.get("parallel_tool_calls"))


def _read_wishes(out: Conversation, body: Tree) -> None:
    form = object_of(body.get("response_format"))
    kind = form.get("type")
    if kind == "json_object":
        out.output = OutputForm("json")
    elif kind == "json_schema":
        schema = object_of(form.get("json_schema"))
        unread(
            out.lost,
            schema,
            frozenset({"name", "description", "schema", "strict"}),
            "response_format",
            _WHOSE,
        )
        out.output = OutputForm(
            "schema", object_of(schema.get("schema")), text(schema.get("name")), text(schema.get("description")),
            truth(schema.get("strict")),
        )  # fmt: skip
    elif kind is not None and kind != "text":
        out.missing.append("response_format: a form of an unknown kind")
    if effort := text(body.get("reasoning_effort")):
        out.thinking = Thinking(off=True) if effort == "none" else Thinking(effort=effort)
    bounds = [
        bound
        for name in ("max_tokens", "max_completion_tokens")
        if (bound := whole(body.get(name))) is not None
    ]
    out.max_tokens = min(bounds) if bounds else None
    out.choices = whole(body.get("n")) or 1
    stop = body.get("stop")
    out.stop = [stop] if type(stop) is str else [word for word in items(stop) if type(word) is str]
    for name in ("temperature", "top_p", "frequency_penalty", "presence_penalty"):
        setattr(out, name, number(body.get(name)))
    out.seed = whole(body.get("seed"))
    if body.get("logprobs") is True:
        out.logprobs = whole(body.get("top_logprobs")) or 0
    out.user = text(body.get("safety_identifier")) or text(body.get("user"))
    if text(body.get("safety_identifier")) and text(body.get("user")):
        note(out.lost, "user: there is one name for the end user, the safety identifier")
    options = object_of(body.get("stream_options"))
    unread(out.lost, options, frozenset({"include_usage"}), "stream_options", _WHOSE)
    rest = {name: value for name, value in body.items() if value != _SAME_ANYWAY.get(name)}
    unread(out.lost, rest, _READ, "", _WHOSE)
