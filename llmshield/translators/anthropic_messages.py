"""Anthropic's Messages API, into and out of neutral shapes (requests: `_anthropic_request`; streams: `_anthropic_stream`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

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
from llmshield.dialects._anthropic import UsageMeter, finish_kind
from llmshield.translators import Reader, Translator, Writer, _anthropic_body, _anthropic_request
from llmshield.translators._anthropic_request import FAMILY
from llmshield.translators._anthropic_stream import (
    CITATIONS,
    INPUT,
    OWN,
    REFUSAL,
    THOUGHTS,
    MessagesReader,
    MessagesWriter,
    stop_reason,
    usage_tree,
)
from llmshield.translators._json import (
    SIGNATURE,
    arguments_text,
    arguments_tree,
    items,
    note,
    object_of,
    text,
    wrapped,
)


class AnthropicMessages(Translator):
    """See Translator."""

    targets = "anthropic"
    headers: ClassVar[Mapping[str, str]] = {"anthropic-version": "2023-06-01"}

    def read_conversation(self, call: Call) -> Conversation:
        return _anthropic_request.read_conversation(call)

    def write_conversation(self, conversation: Conversation) -> Tree:
        return _anthropic_body.write_conversation(conversation)

    def route(self, conversation: Conversation) -> tuple[str, str]:
        return "/v1/messages", ""

    def read_answer(self, tree: Tree) -> Answered:
        blocks = [object_of(block) for block in items(tree.get("content"))]
        parts = [part for block in blocks if (part := _part(block)) is not None]
        choice = Choice(parts, finish_kind(tree.get("stop_reason")), text(tree.get("stop_sequence")))
        usage = UsageMeter().feed(tree.get("usage"))
        answered = Answered(text(tree.get("model")) or "", [choice], usage, text(tree.get("id")) or "")
        if len(parts) < len(blocks):
            note(answered.lost, OWN)
        if any(items(block.get("citations")) for block in blocks):
            note(answered.lost, CITATIONS)
        return answered

    def write_answer(self, answered: Answered, call: Call) -> Tree:
        choice = answered.choices[0] if answered.choices else Choice([])
        if len(answered.choices) > 1:
            note(answered.lost, "choices: Anthropic gives one answer")
        refused = any(isinstance(part, TextPart) and part.refusal for part in choice.parts)
        stop = stop_reason(choice.finish or "stop", refused)
        if choice.stop_sequence is not None:
            stop = "stop_sequence"
        return {
            "id": f"msg_{call.id}",
            "type": "message",
            "role": "assistant",
            "model": answered.model or call.model,
            "content": [block for part in choice.parts if (block := _block(answered, part)) is not None],
            "stop_reason": stop,
            "stop_sequence": choice.stop_sequence,
            "usage": usage_tree(answered.usage),
        }

    def around_system(self, body: Tree, prefix: str, suffix: str) -> None:
        body["system"] = wrapped(body.get("system"), prefix, suffix, "text")

    def reader(self) -> Reader:
        return MessagesReader()

    def writer(self, call: Call) -> Writer:
        return MessagesWriter(call)


def _part(block: Tree) -> Part | None:
    kind = block.get("type")
    if kind == "text":
        return TextPart(text(block.get("text")) or "")
    if kind == "tool_use":
        arguments = arguments_text(block.get("input") if block.get("input") is not None else {})
        return ToolCallPart(text(block.get("id")) or "", text(block.get("name")) or "", arguments)
    if kind == "thinking":
        signature = text(block.get("signature"))
        return ReasoningPart(text(block.get("thinking")) or "", signature=signature or None, family=FAMILY)
    if kind == "redacted_thinking":
        return ReasoningPart("", sealed=text(block.get("data")), family=FAMILY)
    return None  # what its own server did with its own tools


def _block(answered: Answered, part: Part) -> Tree | None:
    if isinstance(part, TextPart):
        if part.refusal:
            note(answered.lost, REFUSAL)
        return {"type": "text", "text": part.text} if part.text else None
    if isinstance(part, ToolCallPart):
        arguments = None if part.custom else arguments_tree(part.arguments)
        if arguments is None:
            note(answered.lost, INPUT)
            arguments = {"input": part.arguments}
        if part.signature:
            note(answered.lost, SIGNATURE)
        return {"type": "tool_use", "id": part.id, "name": part.name, "input": arguments}
    if isinstance(part, ReasoningPart):
        if part.sealed is not None and part.family == FAMILY:
            return {"type": "redacted_thinking", "data": part.sealed}
        if part.family != FAMILY:  # without Anthropic's signature it would break the next turn
            note(answered.lost, THOUGHTS)
            return None
        return {"type": "thinking", "thinking": part.text, "signature": part.signature or ""}
    if isinstance(part, MediaPart):
        note(answered.lost, "content: Anthropic has no place for media in an answer")
    return None
