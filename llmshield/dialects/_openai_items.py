"""Output items of the responses API: where their texts are."""

from __future__ import annotations

from typing import Any

from llmshield.call import Call, Channel, ChannelKind, FinishKind, Path, Tree, Usage
from llmshield.dialects import Piece, WholeReply
from llmshield.dialects._openai import malformed, read_served, read_usage, upstream_error
from llmshield.dialects._openai_codec import CUSTOM, offsets, other_pieces, spelled
from llmshield.dialects._tree import is_token

Place = tuple[str, int, int]
"""Which text: (what the events of this text begin with, output index, content or summary index)."""

TEXT = "response.output_text"
REFUSAL = "response.refusal"
ARGUMENTS = "response.function_call_arguments"
MCP = "response.mcp_call_arguments"
INPUT = "response.custom_tool_call_input"
CODE = "response.code_interpreter_call_code"
THOUGHT = "response.reasoning_text"
SUMMARY = "response.reasoning_summary_text"
SPOKEN = "response.audio.transcript"
COMMAND = "response.shell_call_command"
PRINTED = "response.shell_call_output_content"

_KINDS: dict[str, tuple[ChannelKind, Path]] = {
    TEXT: ("content", ()),
    REFUSAL: ("refusal", ()),
    ARGUMENTS: ("tool_arguments", ()),
    MCP: ("tool_arguments", ()),
    INPUT: ("tool_arguments", CUSTOM),
    CODE: ("tool_arguments", CUSTOM),
    COMMAND: ("tool_arguments", CUSTOM),
    THOUGHT: ("reasoning", ()),
    SUMMARY: ("reasoning", ()),
    SPOKEN: ("content", ()),
}

ECHO = frozenset(
    (
        "id", "object", "model", "status", "tool_choice", "text", "conversation", "previous_response_id", "reasoning", "service_tier", "truncation", "usage", "prompt_cache_retention", "moderation", "prompt_cache_options",
        "prompt_cache_diagnostics", "access_programs", "image", "input_transformations", "tool_usage", "billing",
        "error", "incomplete_details",
    )
)  # fmt: skip
"""Fields of a response that are ids, enums and settings: no model wrote them."""

_SENT = ("tool_choice", "text")
"""Those of them that hold texts where the caller sent some (the schema of the answer)."""

LABELS: dict[str, str] = {
    **dict.fromkeys(
        (
            "id", "call_id", "item_id", "container_id", "file_id", "response_id", "approval_request_id", "event_id",
        ),
        "id",
    ),
    **dict.fromkeys(
        (
            "type", "status", "role", "phase", "object", "output_format", "quality", "size", "background", "execution",
        ),
        "enum",
    ),
}  # fmt: skip
"""Leaves of items and events, by name, that hold no text while they look like a token, with the reason."""

OPAQUE: dict[str, str] = {
    "encrypted_content": "sealed by the provider; an edit would break the next turn",
    "partial_image_b64": "a picture",
    "result": "a picture, of image_generation_call alone",
    "obfuscation": "random padding of the provider",
}
"""Leaves of items and events that pass whatever they hold."""


_LOOKS = ("open_page", "find_in_page")
"""What a search call may also be: "Search actions incur a tool call cost", these do not
(https://platform.openai.com/docs/guides/tools-web-search)."""
_CLIENTS_CALLS = frozenset(
    ("function_call", "custom_tool_call", "computer_call", "local_shell_call", "apply_patch_call")
)


def is_label(key: Any, value: Any) -> bool:
    """True for a leaf that holds no text: ids, enums, sealed and binary content."""
    return (key in LABELS and type(value) is str and is_token(value)) or (key in OPAQUE and key != "result")


class ItemReader:
    """Finds the texts in output items. `repeats`: the item repeats what streamed before it."""

    def __init__(self) -> None:
        self._channels: dict[Place, Channel] = {}
        self._counts: dict[ChannelKind, int] = {}

    def channel(self, base: str, output: int, part: int, tool: str | None = None) -> Channel:
        """The channel of one text; texts of one kind are counted over the whole response, as they appear."""
        place = (base, output, part)
        channel = self._channels.get(place)
        if channel is None:
            kind, path = _KINDS.get(base, ("other", (base,)))
            count = self._counts.get(kind, 0)
            self._counts[kind] = count + 1
            channel = self._channels[place] = Channel(kind, 0, count, path, tool)
        return channel

    def item(self, pieces: list[Piece], item: Any, output: int, *, repeats: bool) -> None:
        """Every text of one output item."""
        if type(item) is not dict:
            return
        kind = item.get("type")
        name = item.get("name")
        tool = name if type(name) is str else None
        base = MCP if kind == "mcp_call" else INPUT if kind == "custom_tool_call" else ARGUMENTS
        for key, value in item.items():
            if not value or is_label(key, value) or (key == "result" and kind == "image_generation_call"):
                continue
            if (key == "content" or key == "summary") and type(value) is list:
                of = SUMMARY if key == "summary" else THOUGHT if kind == "reasoning" else None
                for index in range(len(value)):
                    self.part(pieces, value, index, output, index, repeats=repeats, base=of)
            elif key == "name" and tool:
                channel = self.channel(base, output, 0, tool)
                pieces.append(
                    Piece(Channel("tool_name", 0, channel.index, (), tool), item, key, True, repeats)
                )
            elif (key == "arguments" or key == "input") and type(value) is str:
                pieces.append(Piece(self.channel(base, output, 0, tool), item, key, True, repeats))
            elif key == "code" and type(value) is str:
                pieces.append(Piece(self.channel(CODE, output, 0), item, key, True, repeats))
            else:
                self.rest(pieces, item, key, output, repeats=repeats)

    def part(
        self, pieces: list[Piece], holder: Any, key: Any, output: int, index: int, *, repeats: bool, base: str | None
    ) -> None:  # fmt: skip
        """One content or summary part, `holder[key]`; `base` where it is no part of a message."""
        part = holder[key]
        if type(part) is not dict:
            self.rest(pieces, holder, key, output, repeats=repeats)
            return
        for field, value in part.items():
            if not value or is_label(field, value):
                continue
            if field == "text" and type(value) is str:
                shadows = offsets(part.get("annotations")) + check_logprobs(part, value)
                of = base or (THOUGHT if part.get("type") == "reasoning_text" else TEXT)
                pieces.append(Piece(self.channel(of, output, index), part, field, True, repeats, shadows))
            elif field == "refusal" and type(value) is str:
                pieces.append(Piece(self.channel(REFUSAL, output, index), part, field, True, repeats))
            elif field == "transcript" and type(value) is str:
                said = ((part, "data"),) if part.get("data") else ()
                pieces.append(Piece(self.channel(SPOKEN, output, index), part, field, True, repeats, said))
            elif field == "logprobs":
                if type(part.get("text")) is not str:
                    part[field] = []
            elif field != "data" or part.get("type") != "output_audio":
                self.rest(pieces, part, field, output, repeats=repeats)

    def rest(self, pieces: list[Piece], holder: Any, key: Any, output: int, *, repeats: bool) -> None:
        """Strings in a field that has no channel of its own, ids and enums left out."""
        start = len(pieces)
        other_pieces(pieces, holder, key, 0, (key,), index=output)
        kept = [piece for piece in pieces[start:] if not is_label(piece.key, piece.holder[piece.key])]
        for piece in kept:
            piece.repeats = repeats
        pieces[start:] = kept


def count_tool_requests(response: Tree, usage: Usage | None) -> None:
    """Put the provider's own tool calls into the usage: searches of the web, the others by kind; code runs are
    billed by the container."""
    output = response.get("output")
    if usage is None or type(output) is not list or usage.malformed:
        return
    used: dict[str, int] = {}
    containers: set[str] = set()
    for item in output:
        kind = item.get("type") if type(item) is dict else None
        if type(kind) is not str or not kind.endswith("_call") or kind in _CLIENTS_CALLS:
            continue
        if kind == "web_search_call":
            action = item.get("action")
            looks = type(action) is dict and action.get("type") in _LOOKS
            usage.tool_requests += not looks
            continue
        if kind == "code_interpreter_call" and type(box := item.get("container_id")) is str:
            if box in containers:
                continue
            containers.add(box)
        used[kind[:-5]] = used.get(kind[:-5], 0) + 1
    usage.tools = used or None


def check_logprobs(holder: Tree, text: str) -> tuple[tuple[Any, Any], ...]:
    """The shadow that log-probabilities beside a text are; those that spell another text are emptied."""
    logprobs = holder.get("logprobs")
    if not logprobs:
        return ()
    if spelled(logprobs) != text:
        holder["logprobs"] = []
    return ((holder, "logprobs"),)


def _echo(pieces: list[Piece], sent: Any, channel: Channel, *, start: int) -> None:
    """Say of the pieces from `start` on which repeat what the caller has sent.

    A guard never judges the caller's own instructions as if they were the answer, but what a restorer puts in place
    of it comes back there too. A text that was not sent (of a prompt that the provider holds) is one like any other.
    """
    known: set[str] = set()
    stack = [sent]
    while stack:
        node = stack.pop()
        if type(node) is str:
            known.add(node)
        elif type(node) is dict:
            known.update(node)
            stack += node.values()
        elif type(node) is list:
            stack += node
    for piece in pieces[start:]:
        if piece.holder[piece.key] in known:
            piece.channel, piece.repeats = channel, True


def read_items(
    response: Tree, reader: ItemReader, sent: Tree, *, repeats: bool
) -> tuple[list[Piece], FinishKind | None]:
    """All texts of a response object, and how it ended; `sent` is the call's body, which it repeats in part."""
    pieces: list[Piece] = []
    called = False
    output = response.get("output")
    for index, item in enumerate(output if type(output) is list else ()):
        reader.item(pieces, item, index, repeats=repeats)
        called = called or (type(item) is dict and item.get("type") in ("function_call", "custom_tool_call"))
    for key in response:
        if key != "output" and (key not in ECHO or (key in _SENT and sent.get(key))):
            start = len(pieces)
            reader.rest(pieces, response, key, 0, repeats=repeats)
            if len(pieces) > start and sent.get(key):
                _echo(pieces, sent[key], Channel("echo", 0, 0, (key,)), start=start)
    finish: FinishKind | None = None
    status = response.get("status")
    if status == "completed":
        finish = "tool_calls" if called else "stop"
    elif status == "incomplete":
        details = response.get("incomplete_details")
        reason = details.get("reason") if type(details) is dict else None
        finish = "content_filter" if reason == "content_filter" else "length"
    elif status == "failed" or status == "cancelled":
        finish = "error"
    return pieces, finish


def read_response(call: Call, tree: Any) -> WholeReply:
    """A whole response taken apart."""
    if type(tree) is not dict:
        return WholeReply(tree, [], None, None, "", malformed("is no JSON object"))
    usage = read_served(tree, read_usage(tree.get("usage")))
    count_tool_requests(tree, usage)
    model = tree.get("model")
    model = model if type(model) is str else ""
    if tree.get("error"):
        return WholeReply(tree, [], usage, None, model, upstream_error(tree))
    output = tree.get("output")
    if type(output) is not list or not all(type(item) is dict for item in output):
        return WholeReply(tree, [], usage, None, model, malformed("has no output"))
    pieces, finish = read_items(tree, ItemReader(), call.body, repeats=False)
    return WholeReply(tree, pieces, usage, finish, model)
