"""Bodies in OpenAI's chat completions, from neutral shapes (read by `_openai_chat_request`)."""

from __future__ import annotations

import re
from typing import Any

from llmshield.call import Tree
from llmshield.conversation import (
    Conversation,
    MediaPart,
    Message,
    OutputForm,
    Part,
    ReasoningPart,
    TextPart,
    ToolCallPart,
    ToolResultPart,
)
from llmshield.translators import _openai_models
from llmshield.translators._json import (
    note,
    url_of,
    without_none,
)
from llmshield.translators._names import call_id, check_tools

_FORMATS = {"audio/wav": "wav", "audio/mpeg": "mp3", "audio/mp3": "mp3", "audio/x-wav": "wav"}
_TOOL_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")


def write_conversation(conversation: Conversation) -> Tree:
    c = conversation
    body: Tree = {"model": c.model, "messages": []}
    check_tools(c, _TOOL_NAME, "OpenAI")
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
    body[_openai_models.bound_field(c.model)] = c.max_tokens
    body["n"] = c.choices if c.choices != 1 else None
    if c.stop:
        if len(c.stop) > 4:
            note(c.missing, "stop: chat completions take four stop sequences")
        body["stop"] = c.stop
    if c.top_k is not None:
        note(c.lost, "top_k: chat completions have no such setting")
    for name in ("temperature", "top_p", "frequency_penalty", "presence_penalty", "seed"):
        body[name] = getattr(c, name)
    body["safety_identifier"] = c.user
    if c.logprobs is not None:
        note(c.lost, "logprobs: a translated answer has none")
    if c.messages and c.messages[-1].speaker == "assistant":
        note(c.lost, "messages: OpenAI does not go on from the assistant's last words")
    if c.stream:
        body["stream"] = True
        body["stream_options"] = {"include_usage": True}
    body = without_none(body)
    _openai_models.fit(c, body)
    return body


def _write_message(c: Conversation, message: Message, place: str) -> list[Tree]:
    """Messages of the wire; a tool's results are one each."""
    out: list[Tree] = []
    said: list[Part] = []
    for part in message.parts:
        if isinstance(part, ToolResultPart):
            content = [TextPart("Error:"), *part.parts] if part.failed else part.parts
            if any(isinstance(each, MediaPart) for each in content):
                note(c.missing, f"{place}: chat completions take no media from a tool")
            words = "\n".join([each.text for each in content if isinstance(each, TextPart)])
            out.append({"role": "tool", "tool_call_id": call_id(part.call_id), "content": words})
        else:
            said.append(part)
    if not said and out:
        return out
    if message.speaker == "assistant":
        written = _write_assistant(c, said, place)
        named = {"name": message.name} if message.name is not None else {}
        return [*out, {**written, **named}] if len(written) > 1 else out
    speaker = "user" if message.speaker == "tool" else message.speaker
    content = _write_content(c, said, place)
    return [*out, without_none({"role": speaker, "content": content, "name": message.name})]


def _write_assistant(c: Conversation, said: list[Part], place: str) -> Tree:
    """What the assistant has said; its role alone where that was nothing."""
    out: Tree = {"role": "assistant"}
    words = [part for part in said if isinstance(part, TextPart | MediaPart)]
    if words:
        out["content"] = _write_content(c, [*words], place)
    calls = [{**write_call(part), "id": call_id(part.id)} for part in said if isinstance(part, ToolCallPart)]
    if calls:
        out.setdefault("content", None)
        out["tool_calls"] = calls
    if any(isinstance(part, ReasoningPart) for part in said):
        note(c.lost, f"{place}: chat completions take no earlier thoughts back")
    if any(isinstance(part, ToolCallPart) and part.signature for part in said):
        note(c.lost, f"{place}: a thought's signature is for its own provider")
    spoken = [isinstance(part, TextPart | MediaPart) for part in said if not isinstance(part, ReasoningPart)]
    if spoken != sorted(spoken, reverse=True):
        note(c.lost, f"{place}: words behind a call are told before it")
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
    if not parts:
        return ""
    if len(parts) == 1 and type(parts[0]) is TextPart and not parts[0].refusal:
        return parts[0].text
    return [written for part in parts if (written := _write_part(c, part, place)) is not None]


def _write_part(c: Conversation, part: Part, place: str) -> Tree | None:
    if isinstance(part, TextPart):
        return (
            {"type": "refusal", "refusal": part.text} if part.refusal else {"type": "text", "text": part.text}
        )
    if not isinstance(part, MediaPart):
        if isinstance(part, ReasoningPart):
            note(c.lost, f"{place}: chat completions take no earlier thoughts back")
        else:
            note(c.missing, f"{place}: a call that the assistant has not made")
        return None
    url = url_of(part)
    if part.kind != "document" and part.name is not None:
        note(c.lost, f"{place}: OpenAI knows names of documents only")
    if part.kind == "image" and url is not None:
        return {"type": "image_url", "image_url": without_none({"url": url, "detail": part.detail})}
    if part.kind == "audio" and part.data is not None and part.media_type is not None:
        form = _FORMATS.get(part.media_type, part.media_type.rpartition("/")[2])
        return {"type": "input_audio", "input_audio": {"data": part.data, "format": form}}
    if part.kind == "document" and part.data is not None:
        return {"type": "file", "file": without_none({"file_data": url, "filename": part.name or "document"})}
    note(c.missing, f"{place}: chat completions can't be shown this {part.kind}")
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
        note(c.lost, "thinking: chat completions keep their thoughts to themselves")
    if thinking.off:
        return "none"
    if thinking.effort is None and thinking.budget is not None:
        note(c.lost, "thinking: chat completions have efforts by word, no budget of tokens")
        # Anthropic's documentation calls 1,024 the least; Gemini's compatibility layer maps 1,024, 8,192 and 24,576
        return "low" if thinking.budget <= 1024 else "medium" if thinking.budget <= 8192 else "high"
    if thinking.effort == "max":
        note(c.lost, "thinking: OpenAI's largest effort is 'xhigh'")
        return "xhigh"
    if thinking.effort is not None and thinking.budget is not None:
        note(c.lost, "thinking: chat completions have efforts by word, no budget of tokens")
    return thinking.effort
