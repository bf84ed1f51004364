"""OpenAI legacy completions: POST /v1/completions.

Each prompt of a list is answered `n` times; `call.choices` is `n`. That a list multiplies the bill, and `best_of`
as well, is for whoever reserves money to see in the body. Prompts as token ids are marked unseen (`token_ids`).
"""

from __future__ import annotations

from typing import Any, ClassVar

from llmshield.call import Call, Channel, FinishKind, Operation, Path, Role, Tree
from llmshield.dialects import Event, Piece, StreamCodec, WholeReply, WireRequest
from llmshield.dialects._openai import (
    FINISH,
    OpenAIDialect,
    base_call,
    created,
    malformed,
    read_usage,
    upstream_error,
    whole_number,
)
from llmshield.dialects._openai_choices import CHUNK_KEYS, ChoicesCodec, asking_usage, usage_tree, wants_usage
from llmshield.dialects._openai_codec import DONE, other_pieces
from llmshield.dialects._openai_texts import TOKEN, Fields, mark, metadata, plain, read_body, token_map
from llmshield.dialects._sse import write_event
from llmshield.dialects._tree import add_text, refuse, walk_value
from llmshield.verdicts import Answer

NOT_TEXT: dict[str, str] = {
    "/model": "names the model; routing reads it",
    "/logit_bias/*": "token ids",
}
"""String leaves that no model reads, with the reason; only while they look like a token (`_tree.is_token`)."""

NOT_TEXT_REPLY: dict[str, str] = {
    "/id": "id",
    "/object": "constant",
    "/model": "name of the model",
    "/system_fingerprint": "id of the provider's build",
    "/choices/*/finish_reason": "enum",
    "/choices/*/logprobs/tokens/*": "spells the text again; goes when the text changes",
    "/choices/*/logprobs/top_logprobs/*": "as above; names are tokens",
}
"""The same for replies and stream events."""

_MOST_CHOICES = 128
_USUAL_BOUND = 16
"""What a call without `max_tokens` gets (https://platform.openai.com/docs/api-reference/completions/create): a
bound that is put in may lower it, never raise it."""
_CHOICE_KEYS = frozenset(("index", "text", "logprobs", "finish_reason"))


class OpenAICompletions(OpenAIDialect):
    """Legacy completions."""

    name: ClassVar[str] = "openai_completions"
    endpoint: ClassVar[str] = "/completions"

    def read_call(self, id: str, operation: Operation, request: WireRequest, tree: Tree) -> Call:
        call = base_call(self, id, operation, request, tree)
        call.output_bound = whole_number(tree, "max_tokens", least=0)
        _prompts(tree.get("prompt"))
        whole_number(tree, "best_of", least=1, most=_MOST_CHOICES)
        call.choices = whole_number(tree, "n", least=1, most=_MOST_CHOICES) or 1
        call.wants_usage = wants_usage(tree, streamed=call.stream)
        read_body(call, tree, _TOP)
        return call

    def write_call(self, call: Call, model: str) -> Tree:
        return asking_usage(call, model)

    def bound(self, body: Tree) -> int | None:
        bound = body.get("max_tokens")
        return bound if type(bound) is int else None

    def clamp(self, body: Tree, tokens: int) -> None:
        bound = body.get("max_tokens")
        body["max_tokens"] = min(bound if type(bound) is int else _USUAL_BOUND, tokens)

    def read_reply(self, call: Call, tree: Any) -> WholeReply:
        if type(tree) is not dict:
            return WholeReply(tree, [], None, None, "", malformed("is no JSON object"))
        usage = read_usage(tree.get("usage"))
        model = tree.get("model")
        model = model if type(model) is str else ""
        if tree.get("error"):
            return WholeReply(tree, [], usage, None, model, upstream_error(tree))
        choices = tree.get("choices")
        if type(choices) is not list or not choices or not all(type(choice) is dict for choice in choices):
            return WholeReply(tree, [], usage, None, model, malformed("has no choices"))
        pieces: list[Piece] = []
        finish: FinishKind | None = None
        for number, choice in enumerate(choices):
            _choice(pieces, choice, Channel("content", number), whole=True)
            reason = choice.get("finish_reason")
            if type(reason) is str and reason:
                finish = FINISH.get(reason, "other")
        for key in tree.keys() - CHUNK_KEYS:
            other_pieces(pieces, tree, key, 0, (key,))
        return WholeReply(tree, pieces, usage, finish, model)

    def open_stream(self, call: Call) -> StreamCodec:
        return CompletionsCodec(call)

    def answer(self, call: Call, answer: Answer) -> Tree:
        choices = [
            {"text": answer.text, "index": number, "logprobs": None, "finish_reason": "stop"}
            for number in range(_answers(call))
        ]
        return {**_head(call, answer), "choices": choices, "usage": usage_tree(None)}

    def answer_stream(self, call: Call, answer: Answer) -> bytes:
        head = _head(call, answer)
        out = b""
        for number in range(_answers(call)):
            for text, finish in ((answer.text, None), ("", "stop")):
                choice = {"text": text, "index": number, "logprobs": None, "finish_reason": finish}
                out += write_event({**head, "choices": [choice]})
        if call.wants_usage:
            out += write_event({**head, "choices": [], "usage": usage_tree(None)})
        return out + DONE


class CompletionsCodec(ChoicesCodec):
    """A streamed completion."""

    object: ClassVar[str] = "text_completion"
    prefix: ClassVar[str] = "cmpl-"

    def __init__(self, call: Call) -> None:
        super().__init__(call)
        self._expected = _answers(call)
        self._channels: dict[int, Channel] = {}

    def _texts(self, event: Event, choice: Tree, number: int) -> None:
        channel = self._channels.get(number)
        if channel is None:
            channel = self._channels[number] = Channel("content", number)
        _choice(event.pieces, choice, channel, whole=False)
        if event.pieces:
            event.output = True

    def _end(self, number: int) -> tuple[Channel, ...]:
        channel = self._channels.pop(number, None)
        return () if channel is None else (channel,)

    def _bare(self, number: int) -> Tree:
        return {"text": "", "index": number, "logprobs": None, "finish_reason": None}

    def _put(self, choice: Tree, channel: Channel, text: str) -> None:
        before = choice.get("text")
        choice["text"] = before + text if type(before) is str else text


def _choice(pieces: list[Piece], choice: Tree, channel: Channel, *, whole: bool) -> None:
    """The text of one choice; log-probabilities spell it again, with offsets into it."""
    text = choice.get("text")
    logprobs = choice.get("logprobs")
    if logprobs is not None and _spelled(logprobs) != (text or ""):
        choice["logprobs"] = logprobs = None
    if type(text) is str:
        if text:
            shadows = () if logprobs is None else ((choice, "logprobs"),)
            pieces.append(Piece(channel, choice, "text", whole, False, shadows))
    elif text is not None:
        other_pieces(pieces, choice, "text", channel.choice, ("text",))
    if not choice.keys() <= _CHOICE_KEYS:
        for key in choice.keys() - _CHOICE_KEYS:
            other_pieces(pieces, choice, key, channel.choice, (key,))


def _spelled(logprobs: Any) -> str | None:
    tokens = logprobs.get("tokens") if type(logprobs) is dict else None
    if type(tokens) is not list or not all(type(token) is str for token in tokens):
        return None
    return "".join(tokens)


def _head(call: Call, answer: Answer) -> Tree:
    return {
        "id": f"cmpl-{call.id}",
        "object": "text_completion",
        "created": created(),
        "model": answer.model or call.model,
    }


def _prompts(value: Any) -> int:
    """How many prompts a call holds. Raises: WireError when it is neither text, list nor null."""
    if value is None or type(value) is str:
        return 1
    if type(value) is not list:
        refuse("/prompt", "must be a string or a list")
    return max(sum(type(entry) is not int for entry in value), 1)


def _answers(call: Call) -> int:
    """How many choices the reply has."""
    return call.choices * _prompts(call.body.get("prompt"))


def _prompt(call: Call, role: Role, holder: Any, key: Any, path: Path) -> None:
    value = holder[key]
    if type(value) is not list:
        if value:
            add_text(call, role, holder, key, path)
        return
    for index, entry in enumerate(value):
        if type(entry) is str:
            add_text(call, role, value, index, (*path, index))
        elif type(entry) is int or (type(entry) is list and all(type(token) is int for token in entry)):
            mark(call, "token_ids")
        else:
            walk_value(call, role, value, index, (*path, index), numbers=True)


_TOP: Fields = {
    "prompt": _prompt,
    "suffix": plain,
    "stop": plain,
    "user": metadata,
    "metadata": metadata,
    "logit_bias": token_map,
    **dict.fromkeys(
        (
            "best_of", "echo", "frequency_penalty", "logprobs", "max_tokens", "model", "n", "presence_penalty", "seed",
            "stream", "stream_options", "temperature", "top_p",
        ),
        TOKEN,
    ),
}  # fmt: skip
