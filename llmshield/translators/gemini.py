"""Gemini's generateContent, into and out of neutral shapes (requests: `_gemini_request`; streams: `_gemini_stream`)."""

from __future__ import annotations

import uuid
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
from llmshield.translators import Reader, Translator, Writer, _gemini_body, _gemini_request
from llmshield.translators._gemini_request import FAMILY, get, medium_of, standard_base64
from llmshield.translators._gemini_stream import (
    BESIDES,
    CITATIONS,
    REFUSAL,
    GeminiReader,
    GeminiWriter,
    call_part,
    finish_reason,
    unknown_part,
    usage_tree,
)
from llmshield.translators._json import SIGNATURE, STOP_SEQUENCE, arguments_text, items, note, object_of, text
from llmshield.translators._names import made_id


class Gemini(Translator):
    """See Translator."""

    targets = "gemini"

    def read_conversation(self, call: Call) -> Conversation:
        return _gemini_request.read_conversation(call)

    def write_conversation(self, conversation: Conversation) -> Tree:
        return _gemini_body.write_conversation(conversation)

    def route(self, conversation: Conversation) -> tuple[str, str]:
        method = "streamGenerateContent" if conversation.stream else "generateContent"
        return f"/v1beta/models/{conversation.model}:{method}", "alt=sse" if conversation.stream else ""

    def read_answer(self, tree: Tree) -> Answered:
        meter = UsageMeter()
        meter.feed(tree.get("usageMetadata"))
        choices: list[Choice] = []
        lost: list[str] = []
        answer = text(tree.get("responseId")) or ""
        made = answer or uuid.uuid4().hex
        for entry in items(tree.get("candidates")):
            candidate = object_of(entry)
            parts: list[Part] = []
            for each in items(object_of(candidate.get("content")).get("parts")):
                calls = sum(isinstance(part, ToolCallPart) for part in parts)
                parts += _parts(object_of(each), made_id(made, len(choices), calls), lost)
            if any(candidate.get(name) is not None for name in BESIDES):
                note(lost, CITATIONS)
            called = any(isinstance(part, ToolCallPart) for part in parts)
            choices.append(Choice(parts, finish_kind(candidate.get("finishReason"), called=called)))
        if not choices and object_of(get(tree, "promptFeedback")).get("blockReason") is not None:
            choices.append(Choice([], "content_filter"))
        model = text(tree.get("modelVersion")) or ""
        return Answered(model, choices, meter.usage(), answer, lost=lost)

    def write_answer(self, answered: Answered, call: Call) -> Tree:
        return {
            "candidates": [
                _candidate(answered, choice, index) for index, choice in enumerate(answered.choices)
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
        inside = {key: value for key, value in parameters.items() if key not in _BESIDE}
        body[name] = {**inside, **object_of(body.get(name))}
        for key in parameters.keys() & _BESIDE:
            body.setdefault(key, parameters[key])

    def reader(self) -> Reader:
        return GeminiReader()

    def writer(self, call: Call) -> Writer:
        return GeminiWriter(call, array=form_of(call.query) != "sse")


_BESIDE = frozenset({"safetySettings", "labels"})
"""Parameters that stand beside the `generationConfig`, in which all others do."""


def _candidate(answered: Answered, choice: Choice, index: int) -> Tree:
    parts, malformed = _written(answered, choice)
    finish = finish_reason(choice.finish or "stop", malformed=malformed)
    if choice.stop_sequence is not None:
        note(answered.lost, STOP_SEQUENCE)
    return {"content": {"role": "model", "parts": parts}, "finishReason": finish, "index": index}


def _parts(part: Tree, given_id: str, lost: list[str]) -> list[Part]:
    signature = text(get(part, "thoughtSignature"))
    if call := object_of(get(part, "functionCall")):
        arguments = arguments_text(object_of(call.get("args")))
        return [
            ToolCallPart(
                text(call.get("id")) or given_id, text(call.get("name")) or "", arguments, signature=signature
            )
        ]
    out: list[Part] = []
    said = text(part.get("text"))
    if said:
        out.append(ReasoningPart(said, family=FAMILY) if part.get("thought") else TextPart(said))
    elif inline := object_of(get(part, "inlineData")):
        media_type = text(get(inline, "mimeType"))
        out.append(
            MediaPart(
                medium_of(media_type),
                data=standard_base64(text(inline.get("data")) or ""),
                media_type=media_type,
            )
        )
    elif said is None:
        note(lost, unknown_part(part))
    if signature is not None:
        out.append(ReasoningPart("", sealed=signature, family=FAMILY))
    return out


def _written(answered: Answered, choice: Choice) -> tuple[list[Tree], bool]:
    """The parts of an answer, and whether one of its calls is left out."""
    parts: list[Tree] = []
    malformed = False
    for part in choice.parts:
        if isinstance(part, TextPart) and part.refusal:
            note(answered.lost, REFUSAL)
        if isinstance(part, TextPart) and part.text:
            parts.append({"text": part.text})
        elif isinstance(part, ReasoningPart):
            if part.text:
                parts.append({"text": part.text, "thought": True})
            if part.sealed is not None and part.family == FAMILY:
                parts.append({"text": "", "thoughtSignature": part.sealed})
            elif part.signature is not None or part.sealed is not None:
                note(answered.lost, SIGNATURE)
        elif isinstance(part, ToolCallPart):
            told = call_part(part, answered.lost)
            malformed |= told is None
            parts += [told] if told is not None else []
        elif isinstance(part, MediaPart) and part.data is not None:
            parts.append({"inlineData": {"mimeType": part.media_type, "data": part.data}})
        elif isinstance(part, MediaPart):
            note(answered.lost, "content: a medium that only its provider holds")
    return parts, malformed
