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
from llmshield.translators import Reader, Translator, Writer, _anthropic_request
from llmshield.translators._anthropic_request import FAMILY
from llmshield.translators._anthropic_stream import STOPS, MessagesReader, MessagesWriter, usage_tree
from llmshield.translators._json import arguments_text, arguments_tree, items, object_of, text, wrapped


class AnthropicMessages(Translator):
    """See Translator."""

    targets = "anthropic"
    headers: ClassVar[Mapping[str, str]] = {"anthropic-version": "2023-06-01"}

    def read_conversation(self, call: Call) -> Conversation:
        return _anthropic_request.read_conversation(call)

    def write_conversation(self, conversation: Conversation) -> Tree:
        return _anthropic_request.write_conversation(conversation)

    def route(self, conversation: Conversation) -> tuple[str, str]:
        return "/v1/messages", ""

    def read_answer(self, tree: Tree) -> Answered:
        parts = [
            part for block in items(tree.get("content")) if (part := _part(object_of(block))) is not None
        ]
        choice = Choice(parts, finish_kind(tree.get("stop_reason")), text(tree.get("stop_sequence")))
        usage = UsageMeter().feed(tree.get("usage"))
        return Answered(text(tree.get("model")) or "", [choice], usage, text(tree.get("id")) or "")

    def write_answer(self, answered: Answered, call: Call) -> Tree:
        choice = answered.choices[0] if answered.choices else Choice([])
        if len(answered.choices) > 1:
            answered.lost.append("choices: Anthropic gives one answer")
        stop = "stop_sequence" if choice.stop_sequence is not None else STOPS[choice.finish or "stop"]
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
        return {"type": "text", "text": part.text} if part.text else None
    if isinstance(part, ToolCallPart):
        arguments = None if part.custom else arguments_tree(part.arguments)
        if arguments is None:
            answered.lost.append(
                "content: a call whose arguments are no JSON object is shown as an input of its own"
            )
            arguments = {"input": part.arguments}
        return {"type": "tool_use", "id": part.id, "name": part.name, "input": arguments}
    if isinstance(part, ReasoningPart):
        if part.sealed is not None and part.family == FAMILY:
            return {"type": "redacted_thinking", "data": part.sealed}
        if part.family != FAMILY:  # without Anthropic's signature it would break the next turn
            answered.lost.append("content: Anthropic shows its own thoughts only")
            return None
        mine = part.signature
        return {"type": "thinking", "thinking": part.text, "signature": mine or ""} if part.text else None
    if isinstance(part, MediaPart):
        answered.lost.append("content: Anthropic has no place for media in an answer")
    return None
