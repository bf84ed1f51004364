"""OpenAI responses: POST /v1/responses.

Reading or deleting a stored response (GET, DELETE /v1/responses/ID) is not claimed: what is in it was made by
another call, perhaps another tenant's. `input_tokens` and `compact` below it are not claimed either.
"""

from __future__ import annotations

from typing import Any, ClassVar

from llmshield.call import Call, Operation, Path, Role, Tree
from llmshield.dialects import StreamCodec, WholeReply, WireRequest
from llmshield.dialects._openai import OpenAIDialect, base_call, created, whole_number
from llmshield.dialects._openai_items import ECHO, read_response
from llmshield.dialects._openai_responses_stream import ResponsesCodec
from llmshield.dialects._openai_texts import (
    FILE,
    TOKEN,
    Fields,
    definition,
    mark,
    marked,
    metadata,
    picture,
    plain,
    read_body,
    read_fields,
    read_image,
    read_input_audio,
    read_tools,
    tokens,
)
from llmshield.dialects._sse import write_event
from llmshield.dialects._tree import (
    add_name,
    add_text,
    add_token,
    refuse,
    seal_json,
    walk_unknown,
    walk_value,
)
from llmshield.verdicts import Answer

NOT_TEXT: dict[str, str] = {
    "/model": "names the model; routing reads it",
    "/input/*/type": "enum",
    "/input/*/id": "id",
    "/input/*/call_id": "id that links a result to its call",
    "/input/*/role": "enum",
    "/input/*/status": "enum",
    "/input/*/phase": "enum",
    "/input/*/encrypted_content": "sealed by the provider, verbatim or not at all; marked unseen",
    "/input/*/result": "a picture in base64; marked unseen",
    "/input/*/container_id": "id",
    "/input/*/approval_request_id": "id",
    "/input/*/content/*/type": "enum",
    "/input/*/content/*/detail": "enum",
    "/input/*/content/*/file_id": "id of an uploaded file; marked unseen",
    "/input/*/content/*/file_data": "base64; scanned when it holds text, else marked unseen",
    "/input/*/content/*/input_audio/data": "sound in base64; marked unseen",
    "/input/*/content/*/input_audio/format": "enum",
    "/input/*/summary/*/type": "enum",
    "/input/*/output/type": "enum",
    "/input/*/output/file_id": "id of an uploaded picture; marked unseen",
    "/input/*/output/*/type": "enum",
    "/input/*/output/*/detail": "enum",
    "/input/*/output/*/file_id": "id of an uploaded file; marked unseen",
    "/prompt/variables/*/type": "enum",
    "/prompt/variables/*/detail": "enum",
    "/prompt/variables/*/file_id": "id of an uploaded file; marked unseen",
    "/previous_response_id": "id of what the provider holds; marked unseen",
    "/conversation": "id of what the provider holds; marked unseen",
    "/conversation/id": "as above",
    "/prompt/id": "id of a prompt that the provider holds; marked unseen",
    "/prompt/version": "id",
    "/include/*": "enum",
    "/reasoning/*": "enums",
    "/service_tier": "enum",
    "/truncation": "enum",
    "/prompt_cache_retention": "enum",
    "/text/verbosity": "enum",
    "/stream_options/*": "settings",
}
"""String leaves that no model reads, with the reason. They pass unscanned only while they look like what they
are (`_tree.is_token`): a sentence in one of them is a Text like any other."""

NOT_TEXT_REPLY: dict[str, str] = {
    "/delta": "sound, in response.audio.delta alone",
    **{f"/{name}": "repeats the request, or is an id or enum" for name in sorted(ECHO)},
}
"""The same for replies and stream events; in items and events also `_openai_items.LABELS` and `OPAQUE`."""

_ROLES: dict[Any, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
}
_ITEM_ROLES: dict[Any, Role] = {"message": "user", "reasoning": "assistant", None: "user"}
"""Whose words an item without a role is; every other kind of item is a tool's."""


class OpenAIResponses(OpenAIDialect):
    """Responses."""

    name: ClassVar[str] = "openai_responses"
    endpoint: ClassVar[str] = "/responses"

    def read_call(self, id: str, operation: Operation, request: WireRequest, tree: Tree) -> Call:
        call = base_call(self, id, operation, request, tree)
        call.output_bound = whole_number(tree, "max_output_tokens", least=1)
        read_body(call, tree, _TOP)
        return call

    def write_call(self, call: Call, model: str) -> Tree:
        body = dict(call.body)
        body["model"] = model
        return body

    def bound(self, body: Tree) -> int | None:
        bound = body.get("max_output_tokens")
        return bound if type(bound) is int else None

    def clamp(self, body: Tree, tokens: int) -> None:
        bound = body.get("max_output_tokens")
        body["max_output_tokens"] = min(bound, tokens) if type(bound) is int else tokens

    def limit_rounds(self, body: Tree, rounds: int) -> None:
        if type(body.get("max_tool_calls")) is not int:
            body["max_tool_calls"] = rounds

    def read_reply(self, call: Call, tree: Any) -> WholeReply:
        return read_response(call, tree)

    def open_stream(self, call: Call) -> StreamCodec:
        return ResponsesCodec(call)

    def answer(self, call: Call, answer: Answer) -> Tree:
        return {**_response(call, answer, "completed"), "output": [_message(call, answer, "completed")]}

    def answer_stream(self, call: Call, answer: Answer) -> bytes:
        out: list[bytes] = []
        item = {"item_id": f"msg_{call.id}", "output_index": 0}
        place = {**item, "content_index": 0}
        part = _part(answer.text)
        done = _message(call, answer, "completed")
        begun = {**done, "status": "in_progress", "content": []}
        opened = _response(call, answer, "in_progress")
        for kind, fields in (
            ("created", {"response": opened}),
            ("in_progress", {"response": opened}),
            ("output_item.added", {"output_index": 0, "item": begun}),
            ("content_part.added", {**place, "part": _part("")}),
            ("output_text.delta", {**place, "delta": answer.text, "logprobs": []}),
            ("output_text.done", {**place, "text": answer.text, "logprobs": []}),
            ("content_part.done", {**place, "part": part}),
            ("output_item.done", {"output_index": 0, "item": done}),
            ("completed", {"response": self.answer(call, answer)}),
        ):
            name = f"response.{kind}"
            out.append(write_event({"type": name, "sequence_number": len(out), **fields}, name))
        return b"".join(out)


def _response(call: Call, answer: Answer, status: str) -> Tree:
    now = created()
    tree: Tree = {
        "id": f"resp_{call.id}",
        "object": "response",
        "created_at": now,
        "status": status,
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "max_output_tokens": None,
        "model": answer.model or call.model,
        "output": [],
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "temperature": None,
        "tool_choice": "auto",
        "tools": [],
        "top_p": None,
        "metadata": {},
        "usage": None,
    }
    if status == "completed":
        tree["usage"] = {
            "input_tokens": 0,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": 0,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": 0,
        }
    return tree


def _message(call: Call, answer: Answer, status: str) -> Tree:
    return {
        "id": f"msg_{call.id}",
        "type": "message",
        "status": status,
        "role": "assistant",
        "content": [_part(answer.text)],
    }


def _part(text: str) -> Tree:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _input(call: Call, role: Role, holder: Any, key: Any, path: Path) -> None:
    value = holder[key]
    if type(value) is str:
        if value:
            add_text(call, "user", holder, key, path)
        return
    if value is None:
        return
    if type(value) is not list:
        refuse("/input", "must be a string or a list of items")
    for index, item in enumerate(value):
        if type(item) is not dict:
            walk_value(call, "user", value, index, ("input", index), numbers=True)
            continue
        kind = item.get("type")
        said = item.get("role")
        if type(said) is str:
            speaker = _ROLES.get(said, "user")
        else:
            speaker = _ITEM_ROLES.get(kind, "tool") if type(kind) is str or kind is None else "tool"
        if _is_held(item, kind):
            mark(call, "item_reference")
        read_fields(call, speaker, item, ("input", index), _ITEM)


def _is_held(item: Tree, kind: Any) -> bool:
    """Whether an item is an id of what the provider keeps: an item (`type` may be left out), a picture, thoughts."""
    if kind == "reasoning":
        return "id" in item and not item.get("encrypted_content")
    if kind is None:
        return "id" in item and "role" not in item and "content" not in item
    return kind == "item_reference" or (kind == "image_generation_call" and not item.get("result"))


def _content(call: Call, role: Role, holder: Any, key: Any, path: Path) -> None:
    """Parts of a message, of a tool's output or of reasoning; or plain text."""
    value = holder[key]
    if type(value) is not list:
        plain(call, role, holder, key, path)
        return
    for index, part in enumerate(value):
        if type(part) is dict:
            read_fields(call, role, part, (*path, index), _PART)
        else:
            plain(call, role, value, index, (*path, index))


def _output(call: Call, role: Role, holder: Any, key: Any, path: Path) -> None:
    """A tool's output: text, parts, or (computer use) one picture."""
    if type(holder[key]) is dict:
        read_fields(call, role, holder[key], path, _PART)
    else:
        _content(call, role, holder, key, path)


def _arguments(call: Call, role: Role, holder: Any, key: Any, path: Path) -> None:
    if type(holder[key]) is str and holder[key]:
        seal_json(call, role, holder, key, path)
    else:
        walk_value(call, role, holder, key, path, numbers=True)


def _deep(call: Call, role: Role, holder: Any, key: Any, path: Path) -> None:
    walk_value(call, role, holder, key, path, numbers=True)


def _sealed(call: Call, role: Role, holder: Any, key: Any, path: Path) -> None:
    """Reasoning that the provider has encrypted for itself: verbatim."""
    if holder[key]:
        mark(call, "encrypted_content")
        if type(holder[key]) is not str or " " in holder[key]:
            walk_value(call, role, holder, key, path)


def _prompt(call: Call, role: Role, holder: Any, key: Any, path: Path) -> None:
    value = holder[key]
    if value is None:
        return
    mark(call, "prompt_id")
    if type(value) is not dict:
        walk_value(call, role, holder, key, path)
        return
    read_fields(call, role, value, path, {"id": TOKEN, "version": TOKEN, "variables": _variables})


def _variables(call: Call, role: Role, holder: Any, key: Any, path: Path) -> None:
    """Values that the provider puts into its prompt: strings, or parts like those of a message."""
    value = holder[key]
    if type(value) is not dict:
        walk_value(call, role, holder, key, path)
        return
    for name, part in value.items():
        below = (*path, name)
        if type(part) is dict and part.get("type") in ("input_text", "input_image", "input_file"):
            add_name(call, role, value, name, below)
            read_fields(call, role, part, below, _PART)
        else:
            walk_unknown(call, role, value, name, below)


def _conversation(call: Call, role: Role, holder: Any, key: Any, path: Path) -> None:
    if holder[key] is None:
        return
    mark(call, "conversation")
    if type(holder[key]) is dict:
        read_fields(call, role, holder[key], path, {"id": TOKEN})
    else:
        add_token(call, role, holder, key, path)


def _text(call: Call, role: Role, holder: Any, key: Any, path: Path) -> None:
    if type(holder[key]) is dict:
        read_fields(call, role, holder[key], path, {"format": definition, "verbosity": TOKEN})
    else:
        walk_value(call, role, holder, key, path)


def _settings(call: Call, role: Role, holder: Any, key: Any, path: Path) -> None:
    """An object of enums and flags."""
    value = holder[key]
    if type(value) is dict:
        for name in value:
            (TOKEN if name in _SETTINGS else walk_unknown)(call, role, value, name, (*path, name))
    else:
        walk_value(call, role, holder, key, path)


_SETTINGS = frozenset(
    ("effort", "summary", "generate_summary", "include_obfuscation", "context", "mode", "ttl")
)

_PART: Fields = {
    "type": TOKEN,
    "text": plain,
    "refusal": plain,
    "image_url": read_image,
    "input_audio": read_input_audio,
    **FILE,
}
_ITEM: Fields = {
    **dict.fromkeys(
        ("type", "id", "call_id", "role", "status", "phase", "container_id", "approval_request_id"), TOKEN
    ),
    "content": _content,
    "summary": _content,
    "output": _output,
    "arguments": _arguments,
    "input": _deep,
    "name": plain,
    "encrypted_content": _sealed,
    "result": picture,
    "action": _deep,
    "operation": _deep,
}
_TOP: Fields = {
    "input": _input,
    "instructions": plain,
    "tools": read_tools,
    "tool_choice": definition,
    "text": _text,
    "prompt": _prompt,
    "previous_response_id": marked("previous_response_id"),
    "conversation": _conversation,
    "background": marked("background"),
    "context_management": marked("compaction"),  # another inference, beyond max_output_tokens
    "user": metadata,
    "safety_identifier": metadata,
    "prompt_cache_key": metadata,
    "metadata": metadata,
    "client_metadata": metadata,
    "include": tokens,
    "reasoning": _settings,
    "stream_options": _settings,
    **dict.fromkeys(
        (
            "max_output_tokens", "max_tool_calls", "model", "parallel_tool_calls", "prompt_cache_retention",
            "service_tier", "store", "stream", "temperature", "top_logprobs", "top_p", "truncation",
        ),
        TOKEN,
    ),
}  # fmt: skip
