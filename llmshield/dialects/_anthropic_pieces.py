"""The texts of a Messages reply, whole or inside one event: every string leaf is a piece, unless it is listed here.

All pieces made here arrive whole; what streams (text, thinking, a tool's input as JSON text) is read by
`_anthropic_stream` itself, on the same channels, so that a whole reply and a stream get the same verdicts.
"""

from __future__ import annotations

from typing import Any

from llmshield.call import Channel
from llmshield.dialects import Piece
from llmshield.dialects._pieces import argument_pieces, other_pieces

NOT_TEXT: dict[str, str] = {
    "type": "tag of the API's own objects",
    "role": "enum",
    "id": "id made by the API",
    "tool_use_id": "id of a tool call",
    "tool_id": "id of a server tool call",
    "file_id": "id of a file",
    "skill_id": "id of a skill",
    "version": "version of a skill",
    "model": "name of a model",
    "recommended_model": "name of a model",
    "media_type": "enum",
    "file_type": "enum",
    "error_code": "enum",
    "category": "enum of a refusal",
    "stop_reason": "enum",
    "reason": "enum (input_transformations, fallback_credit)",
    "path": "place in the request (input_transformations)",
    "signature": "seal of the API over a block",
    "encrypted_content": "sealed by the API",
    "encrypted_index": "sealed by the API",
    "encrypted_stdout": "sealed by the API",
    "fallback_credit_token": "token of the API",
    "remove_to_redeem": "names of request fields",
    "expires_at": "time stamp",
    "retrieved_at": "time stamp",
    "ttl": "enum of cache_control",
    "allowed_callers": "enums",
    "response_inclusion": "enum",
    "service_tier": "enum",
    "speed": "enum",
    "inference_geo": "name of a region",
}
"""Leaves of the API's own making that show no text of model, user or web."""

SEALS = ("signature", "encrypted_content")
"""What seals a text; it goes when the text changes."""
_CALLS = ("tool_use", "server_tool_use", "mcp_tool_use")


def block_pieces(pieces: list[Piece], blocks: list[Any], first: int = 0) -> None:
    """The texts of content blocks; the first of them has the index `first`."""
    for index, block in enumerate(blocks, first):
        kind = block.get("type")
        if kind == "text":
            _stream(pieces, block, "text", Channel("content", 0, index))
            add_others(pieces, block, Channel("other", 0, index), ("text",))
        elif kind == "thinking":
            _stream(pieces, block, "thinking", Channel("reasoning", 0, index))
            add_others(pieces, block, Channel("other", 0, index), ("thinking",))
        elif kind in _CALLS:
            _call_pieces(pieces, block, index)
        elif kind == "redacted_thinking":
            add_others(pieces, block, Channel("other", 0, index), ("data",))
        elif "encrypted_content" in block and type(block.get("content")) is str:  # compaction
            _stream(pieces, block, "content", Channel("other", 0, index))
            add_others(pieces, block, Channel("other", 0, index), ("content",))
        else:
            add_others(pieces, block, Channel("other", 0, index))


def add_others(pieces: list[Piece], node: Any, channel: Channel, skip: tuple[str, ...] = ()) -> None:
    """Every string leaf below `node` that is not listed; `skip` names fields that have been read already."""
    other_pieces(pieces, node, channel, NOT_TEXT, skip)


def _call_pieces(pieces: list[Piece], block: dict[str, Any], index: int) -> None:
    name = block.get("name")
    tool = name if type(name) is str else None
    if tool:
        pieces.append(Piece(Channel("tool_name", 0, index, (), tool), block, "name", True))
    arguments = block.get("input")
    if type(arguments) is dict or type(arguments) is list:
        argument_pieces(pieces, arguments, Channel("tool_arguments", 0, index, (), tool))
    elif type(arguments) is str and arguments:
        pieces.append(Piece(Channel("tool_arguments", 0, index, ("",), tool), block, "input", True))
    add_others(pieces, block, Channel("other", 0, index), ("name", "input"))


def _stream(pieces: list[Piece], block: dict[str, Any], key: str, channel: Channel) -> None:
    """A text of the block's own channel; what seals it is taken away when it changes."""
    if type(block.get(key)) is str and block[key]:
        seals = tuple((block, seal) for seal in SEALS if block.get(seal))
        pieces.append(Piece(channel, block, key, True, shadows=seals))
