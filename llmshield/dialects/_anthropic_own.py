"""Messages and events of our own making, in the words of the Messages API."""

from __future__ import annotations

from typing import Any

from llmshield.dialects._sse import write_event


def own_message(call_id: str, model: str, content: list[Any], reason: str | None) -> dict[str, Any]:
    """A message object of our own, with zero usage."""
    return {
        "id": f"msg_{call_id}",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": content,
        "stop_reason": reason,
        "stop_sequence": None,
        "usage": {"input_tokens": 0, "output_tokens": 0},
    }


def own_stream(message: dict[str, Any]) -> bytes:
    """The same as a complete stream."""
    start = {**message, "content": [], "stop_reason": None}
    out = write_event({"type": "message_start", "message": start}, "message_start")
    for index, block in enumerate(message["content"]):
        empty = {"type": "content_block_start", "index": index, "content_block": {"type": "text", "text": ""}}
        out += write_event(empty, "content_block_start")
        out += delta_event(index, {"type": "text_delta", "text": block["text"]})
        out += write_event({"type": "content_block_stop", "index": index}, "content_block_stop")
    delta = {"stop_reason": message["stop_reason"], "stop_sequence": None}
    end = {"type": "message_delta", "delta": delta, "usage": {"output_tokens": 0}}
    return out + write_event(end, "message_delta") + write_event({"type": "message_stop"}, "message_stop")


def delta_event(index: int, delta: dict[str, Any]) -> bytes:
    """A `content_block_delta`."""
    return write_event({"type": "content_block_delta", "index": index, "delta": delta}, "content_block_delta")
