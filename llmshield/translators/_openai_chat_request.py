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
    number,
    object_of,
    text,
    truth,
    url_of,
    whole,
    without_none,
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
_SAME_ANYWAY = {
    "store": False,
    "modalities": ["text"],
    "service_tier": "auto",
    "logit_bias": {},
    "metadata": {},
}
"""Fields at a value that asks for nothing."""
_FORMATS = {"audio/wav": "wav", "audio/mpeg": "mp3", "audio/mp3": "mp3", "audio/x-wav": "wav"}
_OWN_MODELS = ("gpt-5", "o1", "o3", "o4")
"""Models that refuse `max_tokens` and want `max_completion_tokens`."""


# -- reading what is asked -----------------------------------------------------------------------------------------


def read_conversation(call: Call) -> Conversation:
    body = call.body
    out = Conversation(model=call.model, messages=[], stream=call.stream, wants_usage=call.wants_usage)
    for index, message in enumerate(items(body.get("messages"))):
        _read_message(out, object_of(message), f"messages/{index}")
    _read_tools(out, body)
    _read_wishes(out, body)
    return out


def _read_message(out: Conversation, message: Tree, place: str) -> None:
    said = message.get("role")
    speaker = _SPEAKERS.get(said, "user") if type(said) is str else "user"
    parts = _read_content(out, message.get("content"), f"{place}/content")
    if speaker == "tool":
        call_id = text(message.get("tool_call_id")) or text(message.get("name")) or ""
        result = [part for part in parts if isinstance(part, TextPart | MediaPart)]
        parts = [ToolResultPart(call_id, result, name=text(message.get("name")))]
    if speaker == "assistant":
        thought = text(message.get("reasoning_content")) or text(message.get("reasoning"))
        if thought:
            parts.insert(0, ReasoningPart(thought, family="openai"))
        if refusal := text(message.get("refusal")):
            parts.append(TextPart(refusal, refusal=True))
        parts += read_calls(message)
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
            definitions.append((f"tools/{index}", object_of(entry["function"])))
        else:
            out.missing.append(f"tools/{index}: a tool that is no function")
    for _, function in definitions:
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
    for name in body:
        if name not in _READ and body[name] is not None and body[name] != _SAME_ANYWAY.get(name):
            out.lost.append(f"{name[:60]}: only chat completions have it")


# -- writing it ----------------------------------------------------------------------------------------------------


def write_conversation(conversation: Conversation) -> Tree:
    c = conversation
    body: Tree = {"model": c.model, "messages": []}
    for index, message in enumerate(c.messages):
        body["messages"] += _write_message(c, message, f"messages/{index}")
    if c.tools:
        body["tools"] = [
            {"type": "function", "function": without_none(
                {"name": tool.name, "description": tool.description, "parameters": tool.schema, "strict": tool.strict}
            )}
            for tool in c.tools
        ]  # fmt: skip
    if c.tool_choice is not None:
        choice = c.tool_choice
        body["tool_choice"] = (
            {"type": "function", "function": {"name": choice.name}} if choice.kind == "named" else choice.kind
        )
    body["parallel_tool_calls"] = c.parallel_tools if c.tools else None
    if c.output is not None:
        body["response_format"] = _form(c.output)
    if c.thinking is not None:
        body["reasoning_effort"] = _effort(c)
    bound = "max_completion_tokens" if c.model.rpartition("/")[2].startswith(_OWN_MODELS) else "max_tokens"
    body[bound] = c.max_tokens
    body["n"] = c.choices if c.choices != 1 else None
    if c.stop:
        if len(c.stop) > 4:
            c.missing.append("stop: chat completions take four stop sequences")
        body["stop"] = c.stop
    if c.top_k is not None:
        c.lost.append("top_k: chat completions have no such setting")
    for name in ("temperature", "top_p", "frequency_penalty", "presence_penalty", "seed"):
        body[name] = getattr(c, name)
    body["safety_identifier"] = c.user
    if c.logprobs is not None:
        body["logprobs"] = True
        body["top_logprobs"] = c.logprobs or None
    if c.stream:
        body["stream"] = True
        body["stream_options"] = {"include_usage": True}
    return without_none(body)


def _write_message(c: Conversation, message: Message, place: str) -> list[Tree]:
    """Messages of the wire; a tool's results are one each."""
    out: list[Tree] = []
    said: list[Part] = []
    for part in message.parts:
        if isinstance(part, ToolResultPart):
            content = [TextPart("Error:"), *part.parts] if part.failed else part.parts
            if any(isinstance(each, MediaPart) for each in content):
                c.missing.append(f"{place}: chat completions take no media from a tool")
            words = "\n".join([each.text for each in content if isinstance(each, TextPart)])
            out.append({"role": "tool", "tool_call_id": part.call_id, "content": words})
        else:
            said.append(part)
    if not said and out:
        return out
    if message.speaker == "assistant":
        out.append(_write_assistant(c, said, place))
    else:
        speaker = "user" if message.speaker == "tool" else message.speaker
        written = without_none(
            {"role": speaker, "content": _write_content(c, said, place), "name": message.name}
        )
        out.append(written)
    return out


def _write_assistant(c: Conversation, said: list[Part], place: str) -> Tree:
    out: Tree = {"role": "assistant", "content": None}
    words = [part for part in said if isinstance(part, TextPart | MediaPart)]
    if words:
        out["content"] = _write_content(c, [*words], place)
    calls = [write_call(part) for part in said if isinstance(part, ToolCallPart)]
    if calls:
        out["tool_calls"] = calls
    if any(isinstance(part, ReasoningPart) for part in said):
        c.lost.append(f"{place}: chat completions take no earlier thoughts back")
    if any(isinstance(part, ToolCallPart) and part.signature for part in said):
        c.lost.append(f"{place}: a thought's signature is for its own provider")
    return out


def write_call(part: ToolCallPart) -> Tree:
    if part.custom:
        return {"id": part.id, "type": "custom", "custom": {"name": part.name, "input": part.arguments}}
    return {
        "id": part.id,
        "type": "function",
        "function": {"name": part.name, "arguments": part.arguments or "{}"},
    }


def _write_content(c: Conversation, parts: list[Part], place: str) -> Any:
    if len(parts) == 1 and type(parts[0]) is TextPart and not parts[0].refusal:
        return parts[0].text
    return [written for part in parts if (written := _write_part(c, part, place)) is not None]


def _write_part(c: Conversation, part: Part, place: str) -> Tree | None:
    if isinstance(part, TextPart):
        return (
            {"type": "refusal", "refusal": part.text} if part.refusal else {"type": "text", "text": part.text}
        )
    if not isinstance(part, MediaPart):
        return None
    url = url_of(part)
    if part.kind == "image" and url is not None:
        return {"type": "image_url", "image_url": without_none({"url": url, "detail": part.detail})}
    if part.kind == "audio" and part.data is not None and part.media_type is not None:
        form = _FORMATS.get(part.media_type, part.media_type.rpartition("/")[2])
        return {"type": "input_audio", "input_audio": {"data": part.data, "format": form}}
    if part.kind == "document" and part.data is not None:
        return {"type": "file", "file": without_none({"file_data": url, "filename": part.name or "document"})}
    c.missing.append(f"{place}: chat completions can't be shown this {part.kind}")
    return None


def _form(form: OutputForm) -> Tree:
    if form.kind == "json":
        return {"type": "json_object"}
    schema = {
        "name": form.name or "answer",
        "description": form.description,
        "schema": form.schema,
        "strict": form.strict,
    }
    return {"type": "json_schema", "json_schema": without_none(schema)}


def _effort(c: Conversation) -> str | None:
    thinking = c.thinking
    assert thinking is not None
    if thinking.shown:
        c.lost.append("thinking: chat completions keep their thoughts to themselves")
    if thinking.off:
        return "none"
    if thinking.effort is None and thinking.budget is not None:
        # Anthropic's documentation calls 1,024 the least; Gemini's compatibility layer maps 1,024, 8,192 and 24,576
        return "low" if thinking.budget <= 1024 else "medium" if thinking.budget <= 8192 else "high"
    return {"max": "xhigh"}.get(thinking.effort or "", thinking.effort)
