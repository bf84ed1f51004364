"""Gemini's generateContent, into and out of neutral shapes (requests: `_gemini_request`; streams: `_gemini_stream`)."""

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
from llmshield.dialects._gemini import UsageMeter, finish_kind
from llmshield.dialects.gemini import form_of
from llmshield.translators import Reader, Translator, Writer, _gemini_request
from llmshield.translators._gemini_request import FAMILY, get
from llmshield.translators._gemini_stream import STOPS, GeminiReader, GeminiWriter, call_part, usage_tree
from llmshield.translators._json import arguments_text, items, object_of, text


class Gemini(Translator):
    """See Translator."""

    targets = "gemini"

    def read_conversation(self, call: Call) -> Conversation:
        return _gemini_request.read_conversation(call)

    def write_conversation(self, conversation: Conversation) -> Tree:
        return _gemini_request.write_conversation(conversation)

    def route(self, conversation: Conversation) -> tuple[str, str]:
        method = "streamGenerateContent" if conversation.stream else "generateContent"
        return f"/v1beta/models/{conversation.model}:{method}", "alt=sse" if conversation.stream else ""

    def read_answer(self, tree: Tree) -> Answered:
        meter = UsageMeter()
        meter.feed(tree.get("usageMetadata"))
        choices: list[Choice] = []
        for entry in items(tree.get("candidates")):
            candidate = object_of(entry)
            parts: list[Part] = []
            for index, each in enumerate(items(object_of(candidate.get("content")).get("parts"))):
                parts += _parts(object_of(each), f"call_{len(choices)}_{index}")
            called = any(isinstance(part, ToolCallPart) for part in parts)
            choices.append(Choice(parts, finish_kind(candidate.get("finishReason"), called=called)))
        if not choices and object_of(get(tree, "promptFeedback")).get("blockReason") is not None:
            choices.append(Choice([], "content_filter"))
        model = text(tree.get("modelVersion")) or ""
        return Answered(model, choices, meter.usage(), text(tree.get("responseId")) or "")

    def write_answer(self, answered: Answered, call: Call) -> Tree:
        return {
            "candidates": [
                {
                    "content": {"role": "model", "parts": _written(answered, choice)},
                    "finishReason": STOPS[choice.finish or "stop"],
                    "index": index,
                }
                for index, choice in enumerate(answered.choices)
            ],
            "usageMetadata": usage_tree(answered.usage),
            "modelVersion": answered.model or call.model,
            "responseId": call.id,
        }

    def around_system(self, body: Tree, prefix: str, suffix: str) -> None:
        name = next(
            (name for name in ("systemInstruction", "system_instruction") if name in body),
            "systemInstruction",
        )
        given = body.get(name)
        content = {"parts": [{"text": given}]} if type(given) is str else object_of(given)
        before = [{"text": prefix}] if prefix else []
        behind = [{"text": suffix}] if suffix else []
        body[name] = {**content, "parts": [*before, *items(content.get("parts")), *behind]}

    def set_defaults(self, body: Tree, parameters: Mapping[str, Any]) -> None:
        name = "generation_config" if "generation_config" in body else "generationConfig"
        body[name] = {**parameters, **object_of(body.get(name))}

    def reader(self) -> Reader:
        return GeminiReader()

    def writer(self, call: Call) -> Writer:
        return GeminiWriter(call, array=form_of(call.query) != "sse")


def _parts(part: Tree, made_id: str) -> list[Part]:
    signature = text(get(part, "thoughtSignature"))
    if call := object_of(get(part, "functionCall")):
        arguments = arguments_text(object_of(call.get("args")))
        return [
            ToolCallPart(
                text(call.get("id")) or made_id, text(call.get("name")) or "", arguments, signature=signature
            )
        ]
    out: list[Part] = []
    said = text(part.get("text"))
    if said:
        out.append(ReasoningPart(said, family=FAMILY) if part.get("thought") else TextPart(said))
    elif inline := object_of(get(part, "inlineData")):
        out.append(
            MediaPart("image", data=text(inline.get("data")), media_type=text(get(inline, "mimeType")))
        )
    if signature is not None:
        out.append(ReasoningPart("", sealed=signature, family=FAMILY))
    return out


def _written(answered: Answered, choice: Choice) -> list[Tree]:
    parts: list[Tree] = []
    for part in choice.parts:
        if isinstance(part, TextPart) and part.text:
            parts.append({"text": part.text})
        elif isinstance(part, ReasoningPart) and part.text:
            parts.append({"text": part.text, "thought": True})
        elif isinstance(part, ToolCallPart):
            parts.append(call_part(part.id, part.name, part.arguments, custom=part.custom))
        elif isinstance(part, MediaPart) and part.data is not None:
            parts.append({"inlineData": {"mimeType": part.media_type, "data": part.data}})
        elif isinstance(part, MediaPart):
            answered.lost.append("content: a medium that only its provider holds")
    return parts
