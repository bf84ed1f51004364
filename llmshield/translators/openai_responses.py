"""OpenAI's responses API, into and out of neutral shapes (requests: `_responses_request`; streams:
`_responses_stream`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmshield.call import Call, Tree
from llmshield.conversation import (
    Answered,
    Choice,
    Conversation,
    MediaPart,
    Part,
    ReasoningPart,
    TextPart,
    ToolCallPart,
)
from llmshield.dialects._openai import created, read_usage
from llmshield.translators import Reader, Translator, Writer, _responses_body, _responses_request
from llmshield.translators._json import SIGNATURE, STOP_SEQUENCE, items, note, object_of, text, whole, wrapped
from llmshield.translators._responses_request import FAMILY, read_own_item, read_part
from llmshield.translators._responses_stream import (
    ANNOTATIONS,
    OWN,
    THOUGHTS,
    ResponsesReader,
    ResponsesWriter,
    finish_of,
    response_tree,
)

_RENAMED = {"max_tokens": "max_output_tokens", "max_completion_tokens": "max_output_tokens"}
_OF_CHAT = frozenset(
    {
        "seed",
        "stop",
        "frequency_penalty",
        "presence_penalty",
        "logit_bias",
        "logprobs",
        "response_format",
        "prediction",
    }
)
"""Settings of OpenAI's other API that this one refuses: a provider's `parameters` are for both."""


class OpenAIResponses(Translator):
    """See Translator."""

    def read_conversation(self, call: Call) -> Conversation:
        return _responses_request.read_conversation(call)

    def write_conversation(self, conversation: Conversation) -> Tree:
        return _responses_body.write_conversation(conversation)

    def route(self, conversation: Conversation) -> tuple[str, str]:
        return "/v1/responses", ""

    def read_answer(self, tree: Tree) -> Answered:
        parts: list[Part] = []
        lost: list[str] = []
        for entry in items(tree.get("output")):
            item = object_of(entry)
            if item.get("type") == "message":
                content = [object_of(each) for each in items(item.get("content"))]
                parts += [part for each in content if (part := read_part(each)) is not None]
                if any(items(each.get("annotations")) for each in content):
                    note(lost, ANNOTATIONS)
            elif (own := read_own_item(item)) is not None:
                parts.append(own)
            else:
                note(lost, OWN)
        return Answered(
            model=text(tree.get("model")) or "",
            choices=[Choice(parts, finish_of(tree))],
            usage=read_usage(tree.get("usage")),
            id=text(tree.get("id")) or "",
            created=whole(tree.get("created_at")) or 0,
            lost=lost,
        )

    def write_answer(self, answered: Answered, call: Call) -> Tree:
        choice = answered.choices[0] if answered.choices else Choice([])
        if len(answered.choices) > 1:
            note(answered.lost, "choices: the responses API gives one answer")
        if choice.stop_sequence is not None:
            note(answered.lost, STOP_SEQUENCE)
        finish = choice.finish or "stop"
        status = "incomplete" if finish in {"length", "content_filter"} else "completed"
        output = [
            item for index, part in enumerate(choice.parts) if (item := _item(answered, part, call.id, index))
        ]
        at = answered.created or created()
        return response_tree(call, answered.model or call.model, at, status, output, answered.usage, finish)

    def around_system(self, body: Tree, prefix: str, suffix: str) -> None:
        body["instructions"] = wrapped(body.get("instructions"), prefix, suffix, "input_text")

    def set_defaults(self, body: Tree, parameters: Mapping[str, Any]) -> None:
        for name, value in parameters.items():
            name = _RENAMED.get(name, name)
            if name == "reasoning_effort":
                body["reasoning"] = {"effort": value, **object_of(body.get("reasoning"))}
            elif name not in _OF_CHAT:
                body.setdefault(name, value)

    def reader(self) -> Reader:
        return ResponsesReader()

    def writer(self, call: Call) -> Writer:
        return ResponsesWriter(call)


def _item(answered: Answered, part: Part, call_id: str, index: int) -> Tree | None:
    if isinstance(part, TextPart):
        said = {"type": "output_text", "text": part.text, "annotations": [], "logprobs": []}
        content: Tree = {"type": "refusal", "refusal": part.text} if part.refusal else said
        head = {"id": f"msg_{call_id}{index}", "type": "message", "status": "completed", "role": "assistant"}
        return {**head, "content": [content]}
    if isinstance(part, ToolCallPart):
        named = {"call_id": part.id, "name": part.name}
        if part.signature:
            note(answered.lost, SIGNATURE)
        if part.custom:
            return {
                "id": f"ctc_{call_id}{index}",
                "type": "custom_tool_call",
                "input": part.arguments,
                **named,
            }
        head = {"id": f"fc_{call_id}{index}", "type": "function_call", "status": "completed"}
        return {**head, "arguments": part.arguments or "{}", **named}
    if isinstance(part, ReasoningPart):
        if part.family != FAMILY:  # OpenAI would not know it when it comes back
            note(answered.lost, THOUGHTS)
            return None
        summary = [{"type": "summary_text", "text": part.text}] if part.text else []
        thought: Tree = {"id": part.id or f"rs_{call_id}{index}", "type": "reasoning", "summary": summary}
        return thought if part.sealed is None else {**thought, "encrypted_content": part.sealed}
    if isinstance(part, MediaPart):
        note(answered.lost, "content: the responses API has no place for these media in an answer")
    return None
