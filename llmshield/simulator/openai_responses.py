"""OpenAI responses: POST /v1/responses, whole and with the complete list of events."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from llmshield.simulator.answer import Answer, Choice, ToolCall
from llmshield.simulator.ask import PER_MESSAGE, Ask, BadRequest, Tool, bound, count_tree, need, text_of
from llmshield.simulator.openai_chat import logprob
from llmshield.simulator.plan import Event, Kind

_RESULTS = ("function_call_output", "custom_tool_call_output")


def read(body: dict[str, Any], model: str) -> Ask:
    """The request as an Ask. Raises: BadRequest for a body that the API would refuse."""
    given = need(body, "input", str, list)
    items: list[Any] = [{"role": "user", "content": given}] if isinstance(given, str) else given
    if not items or not all(isinstance(i, dict) for i in items):
        raise BadRequest("Invalid 'input': expected a text or a list of at least one item.", "input")
    last = items[-1]
    user: dict[str, Any] = next((i for i in reversed(items) if i.get("role") == "user"), {})
    form = (body.get("text") or {}).get("format") or {}
    include = body.get("include") or []
    asked = "message.output_text.logprobs" in include
    reasoning = body.get("reasoning") or {}
    return Ask(
        api="responses",
        model=model,
        body=body,
        stream=bool(body.get("stream")),
        user=text_of(user.get("content")),
        tool_result=text_of(last.get("output")) if last.get("type") in _RESULTS else None,
        tokens_in=count_tree([items, body.get("instructions"), body.get("tools")]) + PER_MESSAGE * len(items),
        max_tokens=bound(body, "max_output_tokens"),
        tools=_tools(body),
        force=_force(body.get("tool_choice")),
        json_mode=form.get("type") == "json_object",
        schema=form.get("schema", {}) if form.get("type") == "json_schema" else None,
        thinking=bool(reasoning.get("effort") or reasoning.get("summary")),
        top_logprobs=int(body.get("top_logprobs") or 0) if asked or body.get("top_logprobs") else None,
        include_usage=True,
    )


def _tools(body: dict[str, Any]) -> tuple[Tool, ...]:
    return tuple(
        Tool(str(t.get("name")), t.get("parameters"), custom=t["type"] == "custom")
        for t in body.get("tools") or ()
        if isinstance(t, dict) and t.get("type") in ("function", "custom")
    )


def _force(choice: Any) -> str | None:
    if isinstance(choice, str):
        return {"required": "any", "none": "none"}.get(choice)
    if not isinstance(choice, dict):
        return None
    if choice.get("type") == "allowed_tools":
        return "any" if choice.get("mode") == "required" else None
    return choice.get("name")


def usage(answer: Answer) -> dict[str, Any]:
    """Token counts as the responses API writes them."""
    u = answer.usage
    return {
        "input_tokens": u.input,
        "input_tokens_details": {"cached_tokens": u.cached, "cache_write_tokens": u.cache_write},
        "output_tokens": u.output,
        "output_tokens_details": {"reasoning_tokens": u.reasoning},
        "total_tokens": u.input + u.output,
    }


def _state(choice: Choice) -> tuple[str, dict[str, str] | None]:
    """The final status and why it is incomplete."""
    reason = {"length": "max_output_tokens", "filter": "content_filter"}.get(choice.finish)
    return ("incomplete", {"reason": reason}) if reason else ("completed", None)


def _response(ask: Ask, answer: Answer, status: str, output: list[Any]) -> dict[str, Any]:
    body = ask.body
    done = status in ("completed", "incomplete")
    return {
        "id": answer.id("resp_"),
        "object": "response",
        "created_at": answer.created,
        "completed_at": answer.created if status == "completed" else None,
        "status": status,
        "background": False,
        "error": None,
        "incomplete_details": _state(answer.choices[0])[1] if done else None,
        "instructions": body.get("instructions"),
        "max_output_tokens": body.get("max_output_tokens"),
        "metadata": body.get("metadata") or {},
        "model": answer.model,
        "output": output,
        "parallel_tool_calls": body.get("parallel_tool_calls", True),
        "previous_response_id": body.get("previous_response_id"),
        "reasoning": {"effort": None, "summary": None, **(body.get("reasoning") or {})},
        "service_tier": "default",
        "store": body.get("store", True),
        "temperature": body.get("temperature", 1.0),
        "text": body.get("text") or {"format": {"type": "text"}},
        "tool_choice": body.get("tool_choice", "auto"),
        "tools": body.get("tools") or [],
        "top_logprobs": body.get("top_logprobs", 0),
        "top_p": body.get("top_p", 1.0),
        "truncation": body.get("truncation", "disabled"),
        "usage": usage(answer) if done else None,
        "user": body.get("user"),
    }


def _annotations(answer: Answer) -> list[dict[str, Any]]:
    cited = answer.citation
    if cited is None:
        return []
    place = {"start_index": cited.start, "end_index": cited.end, "title": cited.title, "url": cited.url}
    return [{"type": "url_citation", **place}]


def _text_part(ask: Ask, answer: Answer, choice: Choice) -> dict[str, Any]:
    if choice.refusal:
        return {"type": "refusal", "refusal": "".join(choice.refusal)}
    logs = [] if ask.top_logprobs is None else [logprob(t, ask.top_logprobs) for t in choice.text]
    return {
        "type": "output_text",
        "text": "".join(choice.text),
        "annotations": _annotations(answer),
        "logprobs": logs,
    }


def _message(answer: Answer, status: str, content: list[Any]) -> dict[str, Any]:
    return {
        "id": answer.id("msg_"),
        "type": "message",
        "status": status,
        "role": "assistant",
        "content": content,
    }


def _tool(answer: Answer, tool: ToolCall, status: str, arguments: str) -> dict[str, Any]:
    mark = tool.id.removeprefix("call_")
    common = {
        "call_id": tool.id if tool.id.startswith("call_") else answer.id("call_", mark),
        "name": tool.name,
    }
    if tool.custom:
        return {"id": answer.id("ctc_", mark), "type": "custom_tool_call", "input": arguments, **common}
    head = {"id": answer.id("fc_", mark), "type": "function_call", "status": status}
    return {**head, "arguments": arguments, **common}


def _thought(ask: Ask, answer: Answer, summary: list[Any]) -> dict[str, Any]:
    item: dict[str, Any] = {"id": answer.id("rs_"), "type": "reasoning", "summary": summary}
    if "reasoning.encrypted_content" in (ask.body.get("include") or []):
        item["encrypted_content"] = "gAAAAAsimulated-sealed-reasoning"
    return item


def _summary(ask: Ask, choice: Choice) -> list[str]:
    """Reasoning is shown only to who asked for a summary, or by script."""
    reasoning = ask.body.get("reasoning") or {}
    return choice.reasoning if reasoning.get("summary") or not ask.thinking else []


def whole(ask: Ask, answer: Answer) -> dict[str, Any]:
    """The reply as one response object."""
    choice = answer.choices[0]
    return _response(ask, answer, _state(choice)[0], _output(ask, answer, choice))


def _output(ask: Ask, answer: Answer, choice: Choice) -> list[Any]:
    status = _state(choice)[0]
    output: list[Any] = []
    if choice.reasoning:
        shown = "".join(_summary(ask, choice))
        output.append(_thought(ask, answer, [{"type": "summary_text", "text": shown}] if shown else []))
    if choice.text or choice.refusal or not choice.tools:
        output.append(_message(answer, status, [_text_part(ask, answer, choice)]))
    output.extend(_tool(answer, tool, "completed", tool.arguments) for tool in choice.tools)
    return output


class _Numbered:
    """Events with their type and running sequence number."""

    def __init__(self) -> None:
        self.next = 0

    def __call__(self, kind: Kind, name: str, /, **fields: Any) -> Event:
        number, self.next = self.next, self.next + 1
        return Event({"type": name, "sequence_number": number, **fields}, kind, name)


def events(ask: Ask, answer: Answer) -> Iterator[Event]:
    """The reply as named events, from response.created to response.completed."""
    event = _Numbered()
    choice = answer.choices[0]
    yield event("start", "response.created", response=_response(ask, answer, "in_progress", []))
    yield event("start", "response.in_progress", response=_response(ask, answer, "in_progress", []))
    output = _output(ask, answer, choice)
    tools = iter(choice.tools)
    for index, item in enumerate(output):
        if item["type"] == "reasoning":
            yield from _reasoning_events(event, ask, answer, choice, index, item)
        elif item["type"] == "message":
            yield from _message_events(event, ask, answer, choice, index, item)
        else:
            yield from _tool_events(event, answer, next(tools), index, item)
    status = _state(choice)[0]
    final = _response(ask, answer, status, output)
    yield event("done", f"response.{status}", response=final)


def _reasoning_events(
    event: _Numbered, ask: Ask, answer: Answer, choice: Choice, index: int, item: dict[str, Any]
) -> Iterator[Event]:
    opened = _thought(ask, answer, [])
    yield event("start", "response.output_item.added", output_index=index, item=opened)
    deltas = _summary(ask, choice)
    if deltas:
        at: dict[str, Any] = {"item_id": item["id"], "output_index": index, "summary_index": 0}
        full = "".join(deltas)
        name = "response.reasoning_summary"
        yield event("other", f"{name}_part.added", **at, part={"type": "summary_text", "text": ""})
        for delta in deltas:
            yield event("delta", f"{name}_text.delta", **at, delta=delta)
        yield event("other", f"{name}_text.done", **at, text=full)
        yield event("other", f"{name}_part.done", **at, part={"type": "summary_text", "text": full})
    yield event("other", "response.output_item.done", output_index=index, item=item)


def _message_events(
    event: _Numbered, ask: Ask, answer: Answer, choice: Choice, index: int, item: dict[str, Any]
) -> Iterator[Event]:
    opened = _message(answer, "in_progress", [])
    yield event("start", "response.output_item.added", output_index=index, item=opened)
    at: dict[str, Any] = {"item_id": item["id"], "output_index": index, "content_index": 0}
    part = _text_part(ask, answer, choice)
    if choice.refusal:
        yield event("start", "response.content_part.added", **at, part={"type": "refusal", "refusal": ""})
        for delta in choice.refusal:
            yield event("delta", "response.refusal.delta", **at, delta=delta)
        yield event("other", "response.refusal.done", **at, refusal=part["refusal"])
    else:
        empty: dict[str, Any] = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        yield event("start", "response.content_part.added", **at, part=empty)
        for delta in choice.text:
            logs = [] if ask.top_logprobs is None else [logprob(delta, ask.top_logprobs)]
            yield event("delta", "response.output_text.delta", **at, delta=delta, logprobs=logs)
        for number, annotation in enumerate(part["annotations"]):
            name = "response.output_text.annotation.added"
            yield event("other", name, **at, annotation_index=number, annotation=annotation)
        yield event("other", "response.output_text.done", **at, text=part["text"], logprobs=part["logprobs"])
    yield event("other", "response.content_part.done", **at, part=part)
    yield event("other", "response.output_item.done", output_index=index, item=item)


def _tool_events(
    event: _Numbered, answer: Answer, tool: ToolCall, index: int, item: dict[str, Any]
) -> Iterator[Event]:
    opened = _tool(answer, tool, "in_progress", "")
    yield event("start", "response.output_item.added", output_index=index, item=opened)
    at: dict[str, Any] = {"item_id": item["id"], "output_index": index}
    name = "response.custom_tool_call_input" if tool.custom else "response.function_call_arguments"
    for piece in tool.pieces:
        yield event("delta", f"{name}.delta", **at, delta=piece)
    key = "input" if tool.custom else "arguments"
    named = {} if tool.custom else {"name": tool.name}
    yield event("other", f"{name}.done", **at, **{key: tool.arguments}, **named)
    yield event("other", "response.output_item.done", output_index=index, item=item)
