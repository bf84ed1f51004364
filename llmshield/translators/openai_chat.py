"""OpenAI chat completions, into and out of neutral shapes (requests: `_openai_chat_request`; streams:
`_openai_chat_stream`)."""

from __future__ import annotations

from llmshield.call import Call, FinishKind, Tree, Usage
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
from llmshield.dialects._openai import FINISH as FINISHES
from llmshield.dialects._openai import created, merge_usage, read_usage
from llmshield.translators import Reader, Translator, Writer, _openai_chat_body, _openai_chat_request
from llmshield.translators._json import (
    SIGNATURE,
    STOP_SEQUENCE,
    items,
    note,
    object_of,
    text,
    whole,
    wrapped,
)
from llmshield.translators._openai_chat_body import write_call
from llmshield.translators._openai_chat_request import read_calls
from llmshield.translators._openai_chat_stream import ChatReader, ChatWriter, usage_tree

FINISH: dict[FinishKind, str] = {
    "stop": "stop", "length": "length", "tool_calls": "tool_calls", "content_filter": "content_filter",
    "error": "stop", "other": "stop",
}  # fmt: skip


class OpenAIChat(Translator):
    """See Translator."""

    targets = "openai"

    def read_conversation(self, call: Call) -> Conversation:
        return _openai_chat_request.read_conversation(call)

    def write_conversation(self, conversation: Conversation) -> Tree:
        return _openai_chat_body.write_conversation(conversation)

    def route(self, conversation: Conversation) -> tuple[str, str]:
        return "/v1/chat/completions", ""

    def read_answer(self, tree: Tree) -> Answered:
        choices, lost = [], []
        for entry in map(object_of, items(tree.get("choices"))):
            message = object_of(entry.get("message"))
            finish = text(entry.get("finish_reason"))
            choices.append(
                Choice(_answer_parts(message), None if finish is None else FINISHES.get(finish, "other"))
            )
            if entry.get("logprobs") is not None:
                lost.append("content: a translated answer has no log-probabilities")
            if message.get("audio") is not None or items(message.get("annotations")):
                lost.append("content: sounds and annotations have no place in other dialects")
        return Answered(
            model=text(tree.get("model")) or "",
            choices=choices,
            usage=merge_usage(None, read_usage(tree.get("usage"))),
            id=text(tree.get("id")) or "",
            created=whole(tree.get("created")) or 0,
            lost=lost,
        )

    def write_answer(self, answered: Answered, call: Call) -> Tree:
        return {
            "id": f"chatcmpl-{call.id}",
            "object": "chat.completion",
            "created": answered.created or created(),
            "model": answered.model or call.model,
            "choices": [
                {
                    "index": number,
                    "message": _answer_message(answered, choice),
                    "logprobs": None,
                    "finish_reason": FINISH[choice.finish or "stop"],
                }
                for number, choice in enumerate(answered.choices)
            ],
            "usage": usage_tree(answered.usage or Usage(input=0, output=0)),
        }

    def around_system(self, body: Tree, prefix: str, suffix: str) -> None:
        messages = list(items(body.get("messages")))
        for index, message in enumerate(messages):
            if object_of(message).get("role") in {"system", "developer"}:
                messages[index] = {
                    **message,
                    "content": wrapped(message.get("content"), prefix, suffix, "text"),
                }
                break
        else:
            messages.insert(0, {"role": "system", "content": prefix + suffix})
        body["messages"] = messages

    def reader(self) -> Reader:
        return ChatReader()

    def writer(self, call: Call) -> Writer:
        return ChatWriter(call)


def _answer_parts(message: Tree) -> list[Part]:
    parts: list[Part] = []
    if thought := text(message.get("reasoning_content")) or text(message.get("reasoning")):
        parts.append(ReasoningPart(thought, family="openai"))
    if content := text(message.get("content")):
        parts.append(TextPart(content))
    if refusal := text(message.get("refusal")):
        parts.append(TextPart(refusal, refusal=True))
    return parts + read_calls(message)


def _answer_message(answered: Answered, choice: Choice) -> Tree:
    words = [part.text for part in choice.parts if isinstance(part, TextPart) and not part.refusal]
    refusals = [part.text for part in choice.parts if isinstance(part, TextPart) and part.refusal]
    thoughts = [part.text for part in choice.parts if isinstance(part, ReasoningPart) and part.text]
    calls = [write_call(part) for part in choice.parts if isinstance(part, ToolCallPart)]
    message: Tree = {
        "role": "assistant",
        "content": "".join(words) if words else None,
        "refusal": "".join(refusals) if refusals else None,
    }
    if calls:
        message["tool_calls"] = calls
    if thoughts:
        message["reasoning_content"] = "".join(thoughts)
    if any(isinstance(part, MediaPart) for part in choice.parts):
        note(answered.lost, "content: chat completions have no place for media in an answer")
    if any(getattr(part, "signature", None) or getattr(part, "sealed", None) for part in choice.parts):
        note(answered.lost, SIGNATURE)
    if choice.stop_sequence is not None:
        note(answered.lost, STOP_SEQUENCE)
    return message
