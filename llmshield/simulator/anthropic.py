"""Anthropic messages: POST /v1/messages (whole and streamed), /v1/messages/count_tokens, GET /v1/models."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

from llmshield.simulator.answer import Answer, Choice, Finish
from llmshield.simulator.ask import (
    PER_MESSAGE,
    Ask,
    BadRequest,
    Tool,
    bound,
    count_tree,
    need,
    stop_list,
    text_of,
)
from llmshield.simulator.plan import Event

FINISH: dict[Finish, str] = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool": "tool_use",
    "filter": "refusal",
    "refusal": "refusal",
}
SIGNATURE = base64.b64encode(b"simulated signature of a thinking block, not to be edited").decode()
SEALED = base64.b64encode(b"simulated reasoning that only the provider can read").decode()


def read(body: dict[str, Any], model: str) -> Ask:
    """The request as an Ask. Raises: BadRequest for a body that the API would refuse."""
    ask = read_count(body, model)
    ask.api = "messages"
    ask.stream = bool(body.get("stream"))
    need(body, "max_tokens", int)
    ask.max_tokens = bound(body, "max_tokens")
    ask.stops = stop_list(body.get("stop_sequences"))
    ask.tools = tuple(
        Tool(str(t.get("name")), t["input_schema"])
        for t in body.get("tools") or ()
        if isinstance(t, dict) and isinstance(t.get("input_schema"), dict)
    )
    choice = body.get("tool_choice") or {}
    if isinstance(choice, dict):
        ask.force = {"any": "any", "none": "none"}.get(str(choice.get("type")))
        if choice.get("type") == "tool":
            ask.force = str(choice.get("name"))
    thinking = body.get("thinking") or {}
    ask.thinking = isinstance(thinking, dict) and thinking.get("type") in ("enabled", "adaptive")
    form = body.get("output_format") or (body.get("output_config") or {}).get("format") or {}
    if isinstance(form, dict) and form.get("type") == "json_schema":
        ask.schema = form.get("schema", {})
    return ask


def read_count(body: dict[str, Any], model: str) -> Ask:
    """A count_tokens request as an Ask. Raises: BadRequest when messages are missing or wrong."""
    messages = need(body, "messages", list)
    if not messages or not all(isinstance(m, dict) for m in messages):
        raise BadRequest("messages: at least one message is required", "messages")
    last = messages[-1]
    result = None
    if last.get("role") == "user" and isinstance(last.get("content"), list):
        results = [
            p
            for p in last["content"]
            if isinstance(p, dict) and str(p.get("type", "")).endswith("tool_result")
        ]
        result = text_of(results) if results else None
    return Ask(
        api="count_tokens",
        model=model,
        body=body,
        user=_user(messages),
        tool_result=result,
        tokens_in=count_tree([messages, body.get("system"), body.get("tools")]) + PER_MESSAGE * len(messages),
    )


def _user(messages: list[dict[str, Any]]) -> str:
    for message in reversed(messages):
        if message.get("role") != "user":
            continue
        content = message.get("content")
        if isinstance(content, list):
            content = [p for p in content if isinstance(p, dict) and p.get("type") == "text"]
        text = text_of(content)
        if text:
            return text
    return ""


def usage(answer: Answer, output: int | None = None) -> dict[str, Any]:
    """Token counts; `input_tokens` leaves out what was read from or written to the cache."""
    u = answer.usage
    return {
        "input_tokens": u.input - u.cached - u.cache_write,
        "cache_creation_input_tokens": u.cache_write,
        "cache_read_input_tokens": u.cached,
        "cache_creation": {"ephemeral_5m_input_tokens": u.cache_write, "ephemeral_1h_input_tokens": 0},
        "output_tokens": u.output if output is None else output,
        "service_tier": "standard",
    }


def _blocks(ask: Ask, answer: Answer, choice: Choice) -> list[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Content blocks, each as it opens, with its deltas."""
    found: list[tuple[dict[str, Any], list[dict[str, Any]]]] = []
    if choice.reasoning and answer.sealed:
        found.append(({"type": "redacted_thinking", "data": SEALED}, []))
    elif choice.reasoning:
        deltas = [{"type": "thinking_delta", "thinking": p} for p in choice.reasoning]
        deltas.append({"type": "signature_delta", "signature": SIGNATURE})
        found.append(({"type": "thinking", "thinking": "", "signature": ""}, deltas))
    texts = choice.text or choice.refusal
    if texts:
        said: list[dict[str, Any]] = [{"type": "text_delta", "text": p} for p in texts]
        said += [{"type": "citations_delta", "citation": c} for c in _citations(answer)]
        found.append(({"type": "text", "text": ""}, said))
    for tool in choice.tools:
        name = tool.id if tool.id.startswith("toolu_") else answer.id("toolu_", tool.id)
        block = {"type": "tool_use", "id": name, "name": tool.name, "input": {}}
        deltas = [{"type": "input_json_delta", "partial_json": p} for p in ["", *tool.pieces]]
        found.append((block, deltas))
    return found


def _citations(answer: Answer) -> list[dict[str, Any]]:
    cited = answer.citation
    if cited is None:
        return []
    place = {"start_char_index": 0, "end_char_index": len(cited.text), "document_index": 0, "file_id": None}
    return [{"type": "char_location", "cited_text": cited.text, "document_title": cited.title, **place}]


def _reason(answer: Answer, choice: Choice) -> tuple[str, str | None]:
    if answer.finish is not None:
        return answer.finish, None
    if choice.stop_sequence is not None:
        return "stop_sequence", choice.stop_sequence
    return FINISH[choice.finish], None


def _message(answer: Answer) -> dict[str, Any]:
    return {
        "id": answer.id("msg_"),
        "type": "message",
        "role": "assistant",
        "model": answer.model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
    }


def whole(ask: Ask, answer: Answer) -> dict[str, Any]:
    """The reply as one message."""
    choice = answer.choices[0]
    content: list[dict[str, Any]] = []
    tools = iter(choice.tools)
    for block, deltas in _blocks(ask, answer, choice):
        if block["type"] == "tool_use":
            block["input"] = next(tools).parsed
        elif block["type"] == "thinking":
            block["thinking"], block["signature"] = "".join(choice.reasoning), SIGNATURE
        elif block["type"] == "text":
            block["text"] = "".join(d["text"] for d in deltas if d["type"] == "text_delta")
            if answer.citation is not None:
                block["citations"] = _citations(answer)
        content.append(block)
    reason, sequence = _reason(answer, choice)
    return {
        **_message(answer),
        "content": content,
        "stop_reason": reason,
        "stop_sequence": sequence,
        "usage": usage(answer),
    }


def events(ask: Ask, answer: Answer) -> Iterator[Event]:
    """The reply as named events, with a ping behind the first block's start."""

    def event(kind: Any, name: str, /, **fields: Any) -> Event:
        return Event({"type": name, **fields}, kind, name)

    choice = answer.choices[0]
    # The real API reports a handful of output tokens here already: a reader that adds up is caught.
    opening = {**_message(answer), "usage": usage(answer, min(1, answer.usage.output))}
    yield event("start", "message_start", message=opening)
    for index, (block, deltas) in enumerate(_blocks(ask, answer, choice)):
        yield event("start", "content_block_start", index=index, content_block=block)
        if index == 0:
            yield event("other", "ping")
        for delta in deltas:
            yield event("delta", "content_block_delta", index=index, delta=delta)
        yield event("other", "content_block_stop", index=index)
    reason, sequence = _reason(answer, choice)
    final = {k: v for k, v in usage(answer).items() if k not in ("cache_creation", "service_tier")}
    yield event(
        "finish", "message_delta", delta={"stop_reason": reason, "stop_sequence": sequence}, usage=final
    )
    yield event("done", "message_stop")


def model_object(name: str) -> dict[str, Any]:
    """One model in Anthropic's words."""
    return {
        "type": "model",
        "id": name,
        "display_name": name,
        "created_at": "2025-06-15T15:06:40Z",
        "lifecycle": "active",
    }


def model_list(names: tuple[str, ...]) -> dict[str, Any]:
    """The list of models in Anthropic's words."""
    found = [model_object(name) for name in names]
    ends = {"first_id": names[0] if names else None, "last_id": names[-1] if names else None}
    return {"data": found, "has_more": False, **ends}
