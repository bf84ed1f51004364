"""Bodies in OpenAI's responses API, from neutral shapes (read by `_responses_request`)."""

from __future__ import annotations

from llmshield.call import Tree
from llmshield.conversation import (
    Conversation,
    MediaPart,
    Message,
    TextPart,
    Thinking,
    ToolCallPart,
    ToolResultPart,
)
from llmshield.translators._json import (
    note,
    url_of,
    without_none,
)
from llmshield.translators._responses_request import FAMILY


def write_conversation(c: Conversation) -> Tree:
    body: Tree = {"model": c.model, "input": [], "store": False}
    custom = {
        part.id
        for message in c.messages
        for part in message.parts
        if isinstance(part, ToolCallPart) and part.custom
    }
    for index, message in enumerate(c.messages):
        body["input"] += _write_message(c, message, f"messages/{index}", custom)
    if c.tools:
        body["tools"] = [
            {**without_none({"type": "function", "name": tool.name, "description": tool.description}),
             "parameters": tool.schema, "strict": tool.strict}
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
        body["reasoning"] = _reasoning(c, c.thinking) or None
    body["max_output_tokens"], body["temperature"], body["top_p"] = c.max_tokens, c.temperature, c.top_p
    body["safety_identifier"] = c.user
    if c.choices != 1:
        note(c.missing, "choices: the responses API gives one answer")
    if c.stop:
        note(c.missing, "stop: the responses API has no stop sequences")
    if c.logprobs is not None:
        note(c.lost, "logprobs: a translated answer has none")
    if c.messages and c.messages[-1].speaker == "assistant":
        note(c.lost, "messages: OpenAI does not go on from the assistant's last words")
    for name in ("top_k", "frequency_penalty", "presence_penalty", "seed"):
        if getattr(c, name) is not None:
            note(c.lost, f"{name}: the responses API has no such setting")
    if c.stream:
        body["stream"] = True
    return without_none(body)


def _reasoning(c: Conversation, thinking: Thinking) -> Tree:
    if thinking.effort == "max":
        note(c.lost, "thinking: OpenAI's largest effort is 'xhigh'")
    if thinking.budget is not None:
        note(c.lost, "thinking: the responses API has efforts by word, no budget of tokens")
    effort = "none" if thinking.off else {"max": "xhigh"}.get(thinking.effort or "", thinking.effort)
    if effort is None and thinking.budget is not None:
        effort = "low" if thinking.budget <= 1024 else "medium" if thinking.budget <= 8192 else "high"
    return without_none({"effort": effort, "summary": "auto" if thinking.shown else None})


def _write_message(c: Conversation, message: Message, place: str, custom: set[str]) -> list[Tree]:
    """Items of the wire; `custom` are the ids of calls whose tools take free text."""
    out: list[Tree] = []
    said: list[Tree] = []
    mine = message.speaker == "assistant"
    if message.name is not None:
        note(c.lost, f"{place}/name: the responses API's speakers have no names")

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
                note(c.lost, f"{place}: a thought's signature is for its own provider")
        elif isinstance(part, ToolResultPart):
            words = [TextPart("Error:"), *part.parts] if part.failed else part.parts
            content = [w for each in words if (w := _write_part(c, each, place, mine=False)) is not None]
            plain = (
                content[0]["text"] if len(content) == 1 and content[0]["type"] == "input_text" else content
            )
            kind = "custom_tool_call_output" if part.call_id in custom else "function_call_output"
            out.append({"type": kind, "call_id": part.call_id, "output": plain})
        elif part.family == FAMILY and part.id is not None:
            summary = [{"type": "summary_text", "text": part.text}] if part.text else []
            item = {"type": "reasoning", "id": part.id, "summary": summary, "encrypted_content": part.sealed}
            out.append(without_none(item))
        else:
            note(c.lost, f"{place}: OpenAI takes back its own thoughts only")
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
    if part.kind != "document" and part.name is not None:
        note(c.lost, f"{place}: OpenAI knows names of documents only")
    if part.kind == "image" and url is not None:
        return {"type": "input_image", "image_url": url, "detail": part.detail or "auto"}
    if part.kind == "document" and part.data is not None:
        return {"type": "input_file", "file_data": url, "filename": part.name or "document"}
    if part.kind == "document" and part.url is not None:
        return without_none({"type": "input_file", "file_url": part.url, "filename": part.name})
    note(c.missing, f"{place}: the responses API can't be shown this {part.kind}")
    return None
