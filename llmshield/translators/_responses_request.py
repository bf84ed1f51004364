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
    number,
    object_of,
    text,
    truth,
    url_of,
    whole,
    without_none,
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
_SAME_ANYWAY = {"store": False, "truncation": "disabled", "service_tier": "auto", "metadata": {}}
_SPEAKERS: dict[str, Speaker] = {"system": "system", "developer": "developer", "assistant": "assistant"}
_LOGPROBS = "message.output_text.logprobs"
_SEALED = "reasoning.encrypted_content"


# -- reading -------------------------------------------------------------------------------------------------------


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
    kind = item.get("type", "message")
    if kind == "message":
        speaker = _SPEAKERS.get(str(item.get("role")), "user")
        out.messages.append(Message(speaker, _read_content(out, item.get("content"), f"{place}/content")))
        return
    if kind in {"function_call_output", "custom_tool_call_output"}:
        parts = _read_content(out, item.get("output"), f"{place}/output")
        result = [part for part in parts if isinstance(part, TextPart | MediaPart)]
        out.messages.append(Message("tool", [ToolResultPart(text(item.get("call_id")) or "", result)]))
        return
    part = read_own_item(item)
    if part is None:
        out.missing.append(f"{place}: an item that only the responses API has")
        return
    last = out.messages[-1] if out.messages else None
    if last is not None and last.speaker == "assistant":  # one turn of the model is several items
        last.parts.append(part)
    else:
        out.messages.append(Message("assistant", [part]))


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
        part = read_part(object_of(entry))
        if part is None:
            out.missing.append(f"{place}/{index}: a part of an unknown kind")
        else:
            parts.append(part)
    return parts


def read_part(entry: Tree) -> Part | None:
    """A part of a message or of a tool's result."""
    kind = entry.get("type")
    if kind in {"input_text", "output_text", "text"} and type(entry.get("text")) is str:
        return TextPart(entry["text"])
    if kind == "refusal" and type(entry.get("refusal")) is str:
        return TextPart(entry["refusal"], refusal=True)
    if kind == "input_image":
        detail = text(entry.get("detail"))
        if url := text(entry.get("image_url")):
            return media_from_url("image", url, detail=detail)
        return MediaPart("image", file_id=text(entry.get("file_id")), detail=detail)
    if kind == "input_file":
        name = text(entry.get("filename"))
        if data := text(entry.get("file_data")):
            return media_from_url("document", data, name=name)
        return MediaPart(
            "document", url=text(entry.get("file_url")), file_id=text(entry.get("file_id")), name=name
        )
    if kind == "input_audio":
        audio = object_of(entry.get("input_audio"))
        form = text(audio.get("format"))
        return MediaPart(
            "audio",
            data=text(audio.get("data")),
            media_type={"mp3": "audio/mpeg"}.get(form or "", f"audio/{form}"),
        )
    return None


def _read_tools(out: Conversation, body: Tree) -> None:
    for index, entry in enumerate(items(body.get("tools"))):
        tool = object_of(entry)
        if tool.get("type") != "function":
            out.missing.append(f"tools/{index}: a tool that is no function")
            continue
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
    if kind == "json_object":
        out.output = OutputForm("json")
    elif kind == "json_schema":
        out.output = OutputForm(
            "schema", object_of(form.get("schema")), text(form.get("name")), text(form.get("description")),
            truth(form.get("strict")),
        )  # fmt: skip
    elif kind not in (None, "text"):
        out.missing.append("text/format: a form of an unknown kind")
    if said.get("verbosity") is not None:
        out.lost.append("text/verbosity: only OpenAI has it")
    reasoning = object_of(body.get("reasoning"))
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
    for name in include:
        if name not in {_LOGPROBS, _SEALED}:
            out.lost.append(f"include/{str(name)[:60]}: only OpenAI has it")
    for name, value in body.items():
        if value in (None, False) or name in _READ or value == _SAME_ANYWAY.get(name):
            continue
        if name in _HELD:
            out.missing.append(f"{name}: text that only its provider holds")
        elif name != "store":
            out.lost.append(f"{name[:60]}: only the responses API has it")


# -- writing -------------------------------------------------------------------------------------------------------


def write_conversation(c: Conversation) -> Tree:
    body: Tree = {"model": c.model, "input": [], "store": False}
    for index, message in enumerate(c.messages):
        body["input"] += _write_message(c, message, f"messages/{index}")
    if c.tools:
        body["tools"] = [
            {**without_none({"type": "function", "name": tool.name, "description": tool.description}),
             "parameters": tool.schema, "strict": bool(tool.strict)}
            for tool in c.tools
        ]  # fmt: skip
    if c.tool_choice is not None:
        choice = c.tool_choice
        body["tool_choice"] = (
            {"type": "function", "name": choice.name} if choice.kind == "named" else choice.kind
        )
    body["parallel_tool_calls"] = c.parallel_tools if c.tools else None
    if c.output is not None:
        form = c.output
        body["text"] = {"format": {"type": "json_object"}}
        if form.kind == "schema":
            schema = {"type": "json_schema", "name": form.name or "answer", "description": form.description,
                      "schema": form.schema, "strict": form.strict}  # fmt: skip
            body["text"] = {"format": without_none(schema)}
    if c.thinking is not None:
        body["reasoning"] = _reasoning(c.thinking) or None
    body["max_output_tokens"], body["temperature"], body["top_p"] = c.max_tokens, c.temperature, c.top_p
    body["safety_identifier"] = c.user
    if c.choices != 1:
        c.missing.append("choices: the responses API gives one answer")
    if c.stop:
        c.missing.append("stop: the responses API has no stop sequences")
    if c.logprobs is not None:
        body["include"] = [_LOGPROBS]
        body["top_logprobs"] = c.logprobs or None
    for name in ("top_k", "frequency_penalty", "presence_penalty", "seed"):
        if getattr(c, name) is not None:
            c.lost.append(f"{name}: the responses API has no such setting")
    if c.stream:
        body["stream"] = True
    return without_none(body)


def _reasoning(thinking: Thinking) -> Tree:
    effort = "none" if thinking.off else {"max": "xhigh"}.get(thinking.effort or "", thinking.effort)
    if effort is None and thinking.budget is not None:
        effort = "low" if thinking.budget <= 1024 else "medium" if thinking.budget <= 8192 else "high"
    return without_none({"effort": effort, "summary": "auto" if thinking.shown else None})


def _write_message(c: Conversation, message: Message, place: str) -> list[Tree]:
    out: list[Tree] = []
    said: list[Tree] = []
    mine = message.speaker == "assistant"
    if message.name is not None:
        c.lost.append(f"{place}/name: the responses API's speakers have no names")

    def say() -> None:
        if said:
            speaker = "user" if message.speaker == "tool" else message.speaker
            out.append({"type": "message", "role": speaker, "content": said[:]})
            said.clear()

    for part in message.parts:
        if isinstance(part, TextPart | MediaPart):
            if (written := _write_part(c, part, place, mine=mine)) is not None:
                said.append(written)
            continue
        say()
        if isinstance(part, ToolCallPart):
            out.append(_write_call(part))
            if part.signature:
                c.lost.append(f"{place}: a thought's signature is for its own provider")
        elif isinstance(part, ToolResultPart):
            words = [TextPart("Error:"), *part.parts] if part.failed else part.parts
            content = [w for each in words if (w := _write_part(c, each, place, mine=False)) is not None]
            plain = (
                content[0]["text"] if len(content) == 1 and content[0]["type"] == "input_text" else content
            )
            out.append({"type": "function_call_output", "call_id": part.call_id, "output": plain})
        elif part.family == FAMILY and part.id is not None:
            summary = [{"type": "summary_text", "text": part.text}] if part.text else []
            item = {"type": "reasoning", "id": part.id, "summary": summary, "encrypted_content": part.sealed}
            out.append(without_none(item))
        else:
            c.lost.append(f"{place}: OpenAI takes back its own thoughts only")
    say()
    return out


def _write_call(part: ToolCallPart) -> Tree:
    if part.custom:
        return {"type": "custom_tool_call", "call_id": part.id, "name": part.name, "input": part.arguments}
    return {
        "type": "function_call",
        "call_id": part.id,
        "name": part.name,
        "arguments": part.arguments or "{}",
    }


def _write_part(c: Conversation, part: TextPart | MediaPart, place: str, *, mine: bool) -> Tree | None:
    if isinstance(part, TextPart):
        if part.refusal:
            return {"type": "refusal", "refusal": part.text}
        return (
            {"type": "output_text", "text": part.text, "annotations": []}
            if mine
            else {"type": "input_text", "text": part.text}
        )
    url = url_of(part)
    if part.kind == "image" and url is not None:
        return {"type": "input_image", "image_url": url, "detail": part.detail or "auto"}
    if part.kind == "document" and part.data is not None:
        return {"type": "input_file", "file_data": url, "filename": part.name or "document"}
    if part.kind == "document" and part.url is not None:
        return without_none({"type": "input_file", "file_url": part.url, "filename": part.name})
    c.missing.append(f"{place}: the responses API can't be shown this {part.kind}")
    return None
