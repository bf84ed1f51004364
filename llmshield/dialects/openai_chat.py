"""OpenAI chat completions: POST /v1/chat/completions, and the model list that the whole family shares.

The output bound is the higher of `max_tokens` and `max_completion_tokens` (servers of this dialect differ in which of
them counts); a clamp lowers those that the client gave. If it gave none, `max_completion_tokens` is set for OpenAI's
own models (the newer ones refuse the other) and `max_tokens` for every other model (local servers know it for longer).

Usage in streams is always asked for upstream; a client that did not ask does not see it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from llmshield.call import Call, Operation, Path, Role, Tree
from llmshield.dialects import StreamCodec, WholeReply, WireRequest
from llmshield.dialects._openai import (
    MODEL_PATHS,
    OpenAIDialect,
    base_call,
    created,
    whole_number,
)
from llmshield.dialects._openai_chat_stream import ChatCodec
from llmshield.dialects._openai_choices import asking_usage, usage_tree, wants_usage
from llmshield.dialects._openai_codec import DONE
from llmshield.dialects._openai_messages import read_chat
from llmshield.dialects._openai_texts import (
    TOKEN,
    Fields,
    definition,
    mark,
    metadata,
    plain,
    read_body,
    read_fields,
    read_image,
    read_input_audio,
    read_input_file,
    read_tools,
    token_map,
    tokens,
)
from llmshield.dialects._sse import write_event
from llmshield.dialects._tree import add_text, expect, seal_json, walk_unknown, walk_value
from llmshield.verdicts import Answer

NOT_TEXT: dict[str, str] = {
    "/model": "names the model; routing reads it",
    "/messages/*/role": "enum",
    "/messages/*/tool_call_id": "id that links a result to its call",
    "/messages/*/tool_calls/*/id": "id",
    "/messages/*/tool_calls/*/type": "enum",
    "/messages/*/audio/id": "id of an earlier spoken answer; marked unseen",
    "/messages/*/content/*/type": "enum",
    "/messages/*/content/*/image_url/detail": "enum",
    "/messages/*/content/*/input_audio/data": "sound in base64; marked unseen",
    "/messages/*/content/*/input_audio/format": "enum",
    "/messages/*/content/*/file/file_data": "base64; scanned when it holds text, else marked unseen",
    "/messages/*/content/*/file/file_id": "id of an uploaded file; marked unseen",
    "/audio/format": "enum",
    "/audio/voice": "enum",
    "/modalities/*": "enum",
    "/prompt_cache_retention": "enum",
    "/reasoning_effort": "enum",
    "/service_tier": "enum",
    "/verbosity": "enum",
    "/logit_bias/*": "token ids",
}
"""String leaves that no model reads, with the reason. They pass unscanned only while they look like what they
are (`_tree.is_token`): a sentence in one of them is a Text like any other."""

_OTHERS_METHODS = ("Content", "Contents", "Tokens")
"""How Gemini's methods end (`models/x:generateContent`): any other colon is part of a name (`ft:gpt-4o:org::1`)."""

NOT_TEXT_REPLY: dict[str, str] = {
    "/id": "id",
    "/object": "constant",
    "/model": "name of the model",
    "/system_fingerprint": "id of the provider's build",
    "/service_tier": "enum",
    "/obfuscation": "random padding of the provider",
    "/choices/*/finish_reason": "enum",
    "/choices/*/message/role": "enum",
    "/choices/*/delta/role": "enum",
    "/choices/*/message/audio/id": "id",
    "/choices/*/message/audio/data": "sound; goes when the transcript changes",
    "/choices/*/delta/audio/id": "id",
    "/choices/*/delta/audio/data": "sound; not filtered in a stream",
    "/choices/*/delta/tool_calls/*/id": "id",
    "/choices/*/delta/tool_calls/*/type": "enum",
    "/choices/*/message/tool_calls/*/id": "id",
    "/choices/*/message/tool_calls/*/type": "enum",
    "/choices/*/logprobs/content/*/token": "spells the text again; goes when the text changes",
    "/choices/*/logprobs/content/*/top_logprobs/*/token": "as above",
    "/choices/*/logprobs/refusal/*/token": "as above",
    "/choices/*/logprobs/refusal/*/top_logprobs/*/token": "as above",
}
"""The same for replies and stream events."""

_ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "function": "tool",
}
_MOST_CHOICES = 128
_OWN_MODELS = ("gpt-3", "gpt-4", "gpt-5", "chatgpt-", "codex-", "o1", "o3", "o4", "ft:gpt-", "ft:o")


class OpenAIChat(OpenAIDialect):
    """Chat completions."""

    name: ClassVar[str] = "openai_chat"
    endpoint: ClassVar[str] = "/chat/completions"

    def claims(self, method: str, path: str, headers: Mapping[str, str]) -> Operation | None:
        if method == "POST":
            return "generate" if path == "/v1/chat/completions" or path == "/chat/completions" else None
        if (method == "GET" or method == "HEAD") and path.startswith(("/v1/models", "/models")):
            if "anthropic-version" in headers or "x-goog-api-key" in headers:
                return None
            base = MODEL_PATHS[0] if path.startswith("/v1/") else MODEL_PATHS[1]
            rest = path[len(base) :]
            name, _, method_of = rest.rpartition(":")
            others = bool(name) and method_of.endswith(_OTHERS_METHODS)
            return "models" if not rest or (rest[0] == "/" and not others) else None
        return None

    def read_call(self, id: str, operation: Operation, request: WireRequest, tree: Tree) -> Call:
        call = base_call(self, id, operation, request, tree)
        if operation == "models":
            return call
        bounds = [
            bound
            for name in ("max_tokens", "max_completion_tokens")
            if (bound := whole_number(tree, name, least=1)) is not None
        ]
        call.output_bound = max(bounds, default=None)
        call.choices = whole_number(tree, "n", least=1, most=_MOST_CHOICES) or 1
        call.wants_usage = wants_usage(tree, streamed=call.stream)
        expect(tree.get("messages"), list, "/messages", "a list of messages")
        read_body(call, tree, _TOP)
        return call

    def write_call(self, call: Call, model: str) -> Tree:
        return asking_usage(call, model)

    def bound(self, body: Tree) -> int | None:
        bounds = [
            body[name] for name in ("max_tokens", "max_completion_tokens") if type(body.get(name)) is int
        ]
        return max(bounds, default=None)

    def clamp(self, body: Tree, tokens: int) -> None:
        given = [name for name in ("max_tokens", "max_completion_tokens") if type(body.get(name)) is int]
        for name in given:
            body[name] = min(body[name], tokens)
        if not given:
            model = str(body.get("model", "")).rpartition("/")[2]
            body["max_completion_tokens" if model.startswith(_OWN_MODELS) else "max_tokens"] = tokens

    def read_reply(self, call: Call, tree: Any) -> WholeReply:
        if call.operation == "models":
            return WholeReply(tree, [], None, None, "")
        return read_chat(call, tree)

    def open_stream(self, call: Call) -> StreamCodec:
        return ChatCodec(call)

    def answer(self, call: Call, answer: Answer) -> Tree:
        return {
            "id": f"chatcmpl-{call.id}",
            "object": "chat.completion",
            "created": created(),
            "model": answer.model or call.model,
            "choices": [
                {
                    "index": number,
                    "message": {"role": "assistant", "content": answer.text, "refusal": None},
                    "logprobs": None,
                    "finish_reason": "stop",
                }
                for number in range(call.choices)
            ],
            "usage": usage_tree(None),
        }

    def answer_stream(self, call: Call, answer: Answer) -> bytes:
        head: Tree = {
            "id": f"chatcmpl-{call.id}",
            "object": "chat.completion.chunk",
            "created": created(),
            "model": answer.model or call.model,
        }
        out = b""
        for number in range(call.choices):
            for delta, finish in (
                ({"role": "assistant", "content": ""}, None),
                ({"content": answer.text}, None),
                ({}, "stop"),
            ):
                choice = {"index": number, "delta": delta, "logprobs": None, "finish_reason": finish}
                out += write_event({**head, "choices": [choice]})
        if call.wants_usage:
            out += write_event({**head, "choices": [], "usage": usage_tree(None)})
        return out + DONE


def _messages(call: Call, role: Role, holder: Any, key: Any, path: Path) -> None:
    for index, message in enumerate(holder[key]):
        place = ("messages", index)
        expect(message, dict, f"/messages/{index}", "an object")
        said = message.get("role")
        if type(said) is not str:
            expect(said, str, f"/messages/{index}/role", "a string")
        speaker = _ROLES.get(said, "user")
        for field in message:
            if field == "content" and type(message[field]) is str and speaker != "tool":
                add_text(call, speaker, message, field, (*place, field))
            elif field != "role" or said not in _ROLES:
                reader = _MESSAGE.get(field)
                if reader is None:
                    walk_unknown(call, speaker, message, field, (*place, field))
                else:
                    reader(call, speaker, message, field, (*place, field))


def _content(call: Call, role: Role, holder: Any, key: Any, path: Path) -> None:
    value = holder[key]
    if type(value) is not list:
        plain(call, role, holder, key, path)
        return
    for index, part in enumerate(value):
        if type(part) is dict:
            read_fields(call, role, part, (*path, index), _PART)
        else:
            plain(call, role, value, index, (*path, index))


def _calls(call: Call, role: Role, holder: Any, key: Any, path: Path) -> None:
    value = holder[key]
    if type(value) is not list:
        walk_value(call, "tool", holder, key, path, numbers=True)
        return
    for index, entry in enumerate(value):
        if type(entry) is dict:
            read_fields(call, "tool", entry, (*path, index), _CALL)
        else:
            walk_value(call, "tool", value, index, (*path, index), numbers=True)


def _function(call: Call, role: Role, holder: Any, key: Any, path: Path) -> None:
    """A called function: name and arguments; the arguments are JSON in a string."""
    body = holder[key]
    if type(body) is not dict:
        walk_value(call, "tool", holder, key, path, numbers=True)
        return
    for field in body:
        below = (*path, field)
        if field == "arguments" and type(body[field]) is str and body[field]:
            seal_json(call, "tool", body, field, below)
        elif field in ("name", "arguments", "input"):
            walk_value(call, "tool", body, field, below, numbers=True)
        else:
            walk_unknown(call, "tool", body, field, below)


def _spoken(call: Call, role: Role, holder: Any, key: Any, path: Path) -> None:
    """An earlier spoken answer, by its id."""
    if holder[key]:
        mark(call, "audio_id")
    if type(holder[key]) is dict:
        read_fields(call, role, holder[key], path, {"id": TOKEN})
    else:
        walk_value(call, role, holder, key, path)


def _voice(call: Call, role: Role, holder: Any, key: Any, path: Path) -> None:
    if type(holder[key]) is dict:
        read_fields(call, role, holder[key], path, {"format": TOKEN, "voice": TOKEN})
    else:
        walk_value(call, role, holder, key, path)


def _web_search(call: Call, role: Role, holder: Any, key: Any, path: Path) -> None:
    if holder[key] is not None:
        mark(call, "server_tool:web_search")
        walk_value(call, role, holder, key, path)


_PART: Fields = {
    "type": TOKEN,
    "text": plain,
    "refusal": plain,
    "image_url": read_image,
    "input_audio": read_input_audio,
    "file": read_input_file,
}
_CALL: Fields = {"id": TOKEN, "type": TOKEN, "function": _function, "custom": _function}
_MESSAGE: Fields = {
    "role": TOKEN,
    "content": _content,
    "name": plain,
    "refusal": plain,
    "reasoning_content": plain,
    "reasoning": plain,
    "tool_calls": _calls,
    "tool_call_id": TOKEN,
    "function_call": _function,
    "audio": _spoken,
}
_TOP: Fields = {
    "messages": _messages,
    "tools": read_tools,
    "functions": definition,
    "tool_choice": definition,
    "function_call": definition,
    "response_format": definition,
    "prediction": plain,
    "stop": plain,
    "web_search_options": _web_search,
    "user": metadata,
    "safety_identifier": metadata,
    "prompt_cache_key": metadata,
    "metadata": metadata,
    "logit_bias": token_map,
    "modalities": tokens,
    "audio": _voice,
    **dict.fromkeys(
        (
            "frequency_penalty", "logprobs", "max_completion_tokens", "max_tokens", "model", "n",
            "parallel_tool_calls", "presence_penalty", "prompt_cache_retention", "reasoning_effort", "seed",
            "service_tier", "store", "stream", "stream_options", "temperature", "top_logprobs", "top_p", "verbosity",
        ),
        TOKEN,
    ),
}  # fmt: skip
