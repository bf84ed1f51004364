"""OpenAI chat completions: POST /v1/chat/completions, whole and as chunks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from llmshield.simulator.answer import Answer, Choice, Finish, ToolCall
from llmshield.simulator.ask import (
    PER_MESSAGE,
    Ask,
    BadRequest,
    Tool,
    bound,
    choices,
    count_tree,
    need,
    stop_list,
    text_of,
)
from llmshield.simulator.plan import Event

FINISH: dict[Finish, str] = {
    "stop": "stop",
    "length": "length",
    "tool": "tool_calls",
    "filter": "content_filter",
    "refusal": "stop",
}
FINGERPRINT = "fp_simulator"


def read(body: dict[str, Any], model: str) -> Ask:
    """The request as an Ask. Raises: BadRequest for a body that the API would refuse."""
    messages = need(body, "messages", list)
    if not messages or not all(isinstance(m, dict) for m in messages):
        raise BadRequest("Invalid 'messages': expected a list of at least one message.", "messages")
    last = messages[-1]
    user: dict[str, Any] = next((m for m in reversed(messages) if m.get("role") == "user"), {})
    form = body.get("response_format") or {}
    kind = form.get("type") if isinstance(form, dict) else None
    options = body.get("stream_options") or {}
    return Ask(
        api="chat",
        model=model,
        body=body,
        stream=bool(body.get("stream")),
        user=text_of(user.get("content")),
        tool_result=text_of(last.get("content")) if last.get("role") in ("tool", "function") else None,
        tokens_in=count_tree([messages, body.get("tools"), body.get("functions")])
        + PER_MESSAGE * len(messages),
        max_tokens=bound(body, "max_completion_tokens", "max_tokens"),
        stops=stop_list(body.get("stop")),
        n=choices(body, "n"),
        tools=_tools(body),
        force=_force(body),
        json_mode=kind == "json_object",
        schema=(form.get("json_schema") or {}).get("schema", {}) if kind == "json_schema" else None,
        top_logprobs=int(body.get("top_logprobs") or 0) if body.get("logprobs") else None,
        include_usage=bool(options.get("include_usage")) if isinstance(options, dict) else False,
    )


def _tools(body: dict[str, Any]) -> tuple[Tool, ...]:
    found: list[Tool] = []
    for tool in body.get("tools") or ():
        if isinstance(tool, dict) and isinstance(tool.get("function"), dict):
            found.append(Tool(str(tool["function"].get("name")), tool["function"].get("parameters")))
        elif isinstance(tool, dict) and isinstance(tool.get("custom"), dict):
            found.append(Tool(str(tool["custom"].get("name")), None, custom=True))
    for function in body.get("functions") or ():
        if isinstance(function, dict):
            found.append(Tool(str(function.get("name")), function.get("parameters")))
    return tuple(found)


def _force(body: dict[str, Any]) -> str | None:
    choice = body.get("tool_choice", body.get("function_call"))
    if isinstance(choice, str):
        return {"required": "any", "none": "none"}.get(choice)
    if not isinstance(choice, dict):
        return None
    if choice.get("type") == "allowed_tools":
        return "any" if (choice.get("allowed_tools") or {}).get("mode") == "required" else None
    named = choice.get("function") or choice.get("custom") or choice
    return named.get("name") if isinstance(named, dict) else None


def usage(answer: Answer) -> dict[str, Any]:
    """Token counts as chat and legacy completions write them."""
    u = answer.usage
    return {
        "prompt_tokens": u.input,
        "completion_tokens": u.output,
        "total_tokens": u.input + u.output,
        "prompt_tokens_details": {"cached_tokens": u.cached, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": u.reasoning,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def logprob(token: str, top: int) -> dict[str, Any]:
    """One token's log-probability; the alternatives are the token in other cases."""
    entry = {"token": token, "logprob": -0.25, "bytes": list(token.encode("utf-8", "surrogatepass"))}
    others = [token, token.upper(), token.lower(), token.title(), token + " "][:top]
    return {
        **entry,
        "top_logprobs": [
            {"token": t, "logprob": -0.25 - i, "bytes": list(t.encode("utf-8", "surrogatepass"))}
            for i, t in enumerate(others)
        ],
    }


def _id(answer: Answer, tool: ToolCall) -> str:
    return tool.id if tool.id.startswith("call_") else answer.id("call_", tool.id)


def _reason(ask: Ask, answer: Answer, choice: Choice) -> str:
    if answer.finish is not None:
        return answer.finish
    if choice.finish == "tool":
        return "function_call" if _legacy(ask) else "tool_calls"
    return FINISH[choice.finish]


def _legacy(ask: Ask) -> bool:
    return bool(ask.body.get("functions")) and not ask.body.get("tools")


def whole(ask: Ask, answer: Answer) -> dict[str, Any]:
    """The reply as one object."""
    found: list[dict[str, Any]] = []
    for index, choice in enumerate(answer.choices):
        message: dict[str, Any] = {
            "role": "assistant",
            "content": "".join(choice.text) if choice.text or not (choice.tools or choice.refusal) else None,
            "refusal": "".join(choice.refusal) or None,
            "annotations": _annotations(answer) if index == 0 else [],
        }
        if choice.reasoning:
            message["reasoning_content"] = "".join(choice.reasoning)
        if choice.tools and _legacy(ask):
            message["function_call"] = {
                "name": choice.tools[0].name,
                "arguments": choice.tools[0].arguments,
            }
        elif choice.tools:
            message["tool_calls"] = [_tool(answer, t) for t in choice.tools]
        logs = None
        if ask.top_logprobs is not None:
            logs = {"content": [logprob(t, ask.top_logprobs) for t in choice.text], "refusal": None}
        found.append(
            {
                "index": index,
                "message": message,
                "logprobs": logs,
                "finish_reason": _reason(ask, answer, choice),
            }
        )
    return {
        "id": answer.id("chatcmpl-"),
        "object": "chat.completion",
        "created": answer.created,
        "model": answer.model,
        "choices": found,
        "usage": usage(answer),
        "service_tier": "default",
        "system_fingerprint": FINGERPRINT,
    }


def _annotations(answer: Answer) -> list[dict[str, Any]]:
    cited = answer.citation
    if cited is None:
        return []
    place = {"start_index": cited.start, "end_index": cited.end, "title": cited.title, "url": cited.url}
    return [{"type": "url_citation", "url_citation": place}]


def _tool(answer: Answer, tool: ToolCall) -> dict[str, Any]:
    if tool.custom:
        return {
            "id": _id(answer, tool),
            "type": "custom",
            "custom": {"name": tool.name, "input": tool.arguments},
        }
    return {
        "id": _id(answer, tool),
        "type": "function",
        "function": {"name": tool.name, "arguments": tool.arguments},
    }


def events(ask: Ask, answer: Answer) -> Iterator[Event]:
    """The reply as chunks: roles, deltas of all choices in turn, finish reasons, usage if asked, `[DONE]`."""
    base = {
        "id": answer.id("chatcmpl-"),
        "object": "chat.completion.chunk",
        "created": answer.created,
        "model": answer.model,
        "service_tier": "default",
        "system_fingerprint": FINGERPRINT,
    }
    if ask.include_usage:
        base["usage"] = None

    def chunk(
        index: int, delta: dict[str, Any], kind: Any, logs: Any = None, finish: str | None = None
    ) -> Event:
        part = {"index": index, "delta": delta, "logprobs": logs, "finish_reason": finish}
        return Event({**base, "choices": [part]}, kind)

    for index, choice in enumerate(answer.choices):
        content = "" if choice.text or not choice.tools else None
        yield chunk(index, {"role": "assistant", "content": content, "refusal": None}, "start")
    streams = [_deltas(ask, answer, choice) for choice in answer.choices]
    live = dict(enumerate(streams))
    while live:
        # Choices take turns, as they do when a provider samples them side by side.
        for index, stream in list(live.items()):
            step = next(stream, None)
            if step is None:
                del live[index]
                continue
            kind, delta, logs = step
            yield chunk(index, delta, kind, logs)
    if answer.citation is not None:
        yield chunk(0, {"annotations": _annotations(answer)}, "other")
    for index, choice in enumerate(answer.choices):
        yield chunk(index, {}, "finish", finish=_reason(ask, answer, choice))
    if ask.include_usage:
        yield Event({**base, "choices": [], "usage": usage(answer)}, "usage")
    yield Event(b"[DONE]", "done")


def _deltas(ask: Ask, answer: Answer, choice: Choice) -> Iterator[tuple[str, dict[str, Any], Any]]:
    for piece in choice.reasoning:
        yield "delta", {"reasoning_content": piece}, None
    for piece in choice.text:
        logs = None
        if ask.top_logprobs is not None:
            logs = {"content": [logprob(piece, ask.top_logprobs)], "refusal": None}
        yield "delta", {"content": piece}, logs
    for piece in choice.refusal:
        yield "delta", {"refusal": piece}, None
    for index, tool in enumerate(choice.tools):
        if _legacy(ask):
            yield "start", {"function_call": {"name": tool.name, "arguments": ""}}, None
            for piece in tool.pieces:
                yield "delta", {"function_call": {"arguments": piece}}, None
            return
        key, field = ("custom", "input") if tool.custom else ("function", "arguments")
        opening = {"index": index, "id": _id(answer, tool), "type": key, key: {"name": tool.name, field: ""}}
        yield "start", {"tool_calls": [opening]}, None
        for piece in tool.pieces:
            yield "delta", {"tool_calls": [{"index": index, key: {field: piece}}]}, None
