"""Gemini: generateContent, streamGenerateContent, countTokens, embedContent, batchEmbedContents, models."""

from __future__ import annotations

import base64
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
    stop_list,
    text_of,
)
from llmshield.simulator.openai_other import vector
from llmshield.simulator.plan import Event, Kind

FINISH: dict[Finish, str] = {
    "stop": "STOP",
    "length": "MAX_TOKENS",
    "tool": "STOP",
    "filter": "SAFETY",
    "refusal": "PROHIBITED_CONTENT",
}
SIGNATURE = base64.b64encode(b"simulated thought signature").decode()
VECTOR = 768


def _get(tree: dict[str, Any], key: str) -> Any:
    """A field in camelCase or in the snake_case that the API takes as well."""
    if key in tree:
        return tree[key]
    return tree.get("".join("_" + c.lower() if c.isupper() else c for c in key))


def read(body: dict[str, Any], model: str, *, stream: bool, array: bool) -> Ask:
    """The request as an Ask. Raises: BadRequest for a body that the API would refuse."""
    ask = read_count(body, model)
    config = _get(body, "generationConfig") or {}
    if not isinstance(config, dict):
        raise BadRequest("Invalid value at 'generation_config'.", "generation_config")
    ask.api, ask.stream, ask.array = "gemini", stream, array
    ask.max_tokens = bound({"maxOutputTokens": _get(config, "maxOutputTokens")}, "maxOutputTokens")
    ask.stops = stop_list(_get(config, "stopSequences"))
    ask.n = choices({"candidateCount": _get(config, "candidateCount")}, "candidateCount", 8)
    ask.tools = tuple(
        Tool(str(f.get("name")), f.get("parameters") or _get(f, "parametersJsonSchema"))
        for tool in body.get("tools") or ()
        if isinstance(tool, dict)
        for f in _get(tool, "functionDeclarations") or ()
        if isinstance(f, dict)
    )
    calling = _get(_get(body, "toolConfig") or {}, "functionCallingConfig") or {}
    allowed = _get(calling, "allowedFunctionNames") or ()
    force = {"ANY": "any", "NONE": "none"}.get(str(calling.get("mode", "")).upper())
    ask.force = allowed[0] if force == "any" and allowed else force
    schema = _get(config, "responseJsonSchema") or _get(config, "responseSchema")
    if schema is not None:
        ask.schema = schema
    elif _get(config, "responseMimeType") == "application/json":
        ask.json_mode = True
    thinking = _get(config, "thinkingConfig") or {}
    ask.thinking = bool(_get(thinking, "includeThoughts") or _get(thinking, "thinkingBudget"))
    if _get(config, "responseLogprobs"):
        ask.top_logprobs = int(config.get("logprobs") or 0)
    return ask


def read_count(body: dict[str, Any], model: str) -> Ask:
    """A countTokens request as an Ask. Raises: BadRequest when contents are missing or wrong."""
    inner = _get(body, "generateContentRequest")
    body = inner if isinstance(inner, dict) else body
    contents = body.get("contents")
    if isinstance(contents, dict):
        contents = [contents]
    if not isinstance(contents, list) or not contents or not all(isinstance(c, dict) for c in contents):
        raise BadRequest("* GenerateContentRequest.contents: contents is not specified", "contents")
    system = _get(body, "systemInstruction")
    user: dict[str, Any] = next(
        (c for c in reversed(contents) if c.get("role", "user") == "user" and _text(c)), {}
    )
    return Ask(
        api="gemini_count",
        model=model,
        body=body,
        user=_text(user),
        tool_result=_result(contents[-1]),
        tokens_in=count_tree([contents, system, body.get("tools")]) + PER_MESSAGE * len(contents),
    )


def _text(content: dict[str, Any]) -> str:
    parts = content.get("parts") or []
    return text_of([p for p in ([parts] if isinstance(parts, dict) else parts) if isinstance(p, dict)])


def _result(content: dict[str, Any]) -> str | None:
    """The text of function responses in the last content, or None."""
    found: list[str] = []
    stack: list[Any] = []
    for part in content.get("parts") or ():
        response = _get(part, "functionResponse") if isinstance(part, dict) else None
        if isinstance(response, dict):
            stack.append(response.get("response"))
    if not stack:
        return None
    while stack:
        node = stack.pop(0)
        if isinstance(node, str):
            found.append(node)
        elif isinstance(node, dict):
            stack.extend(node.values())
        elif isinstance(node, list):
            stack.extend(node)
    return "\n".join(found)


def read_embedding(body: dict[str, Any], model: str, *, batch: bool) -> Ask:
    """An embedding request as an Ask. Raises: BadRequest when there is nothing to embed."""
    requests = body.get("requests") if batch else [body]
    if not isinstance(requests, list) or not requests or not all(isinstance(r, dict) for r in requests):
        raise BadRequest("* BatchEmbedContentsRequest.requests: is not specified", "requests")
    if any(not isinstance(r.get("content"), dict) for r in requests):
        raise BadRequest("* EmbedContentRequest.content: content is not specified", "content")
    return Ask(
        "gemini_embed", model, body, tokens_in=count_tree([r["content"] for r in requests]), array=batch
    )


def whole_embedding(ask: Ask, answer: Answer) -> dict[str, Any]:
    """One embedding, or the list of a batch."""
    found = [
        {"values": vector(_text(r["content"]), int(_get(r, "outputDimensionality") or VECTOR))}
        for r in (ask.body["requests"] if ask.array else [ask.body])
    ]
    return {"embeddings": found} if ask.array else {"embedding": found[0]}


def whole_count(ask: Ask, answer: Answer) -> dict[str, Any]:
    """The reply of countTokens."""
    tokens = answer.usage.input
    return {"totalTokens": tokens, "promptTokensDetails": [{"modality": "TEXT", "tokenCount": tokens}]}


def usage(answer: Answer, output: int | None = None) -> dict[str, Any]:
    """Token counts; thoughts are no candidates here, so the two add up to the output."""
    u = answer.usage
    said = (u.output if output is None else output) - u.reasoning
    found: dict[str, Any] = {
        "promptTokenCount": u.input,
        "candidatesTokenCount": max(said, 0),
        "totalTokenCount": u.input + max(said, 0) + u.reasoning,
        "promptTokensDetails": [{"modality": "TEXT", "tokenCount": u.input}],
    }
    if u.reasoning:
        found["thoughtsTokenCount"] = u.reasoning
    if u.cached:
        found["cachedContentTokenCount"] = u.cached
    return found


def _call(answer: Answer, tool: ToolCall) -> dict[str, Any]:
    args = tool.parsed
    name = tool.id if tool.id.startswith("call_") else answer.id("call_", tool.id)
    call = {"name": tool.name, "args": args if isinstance(args, dict) else {"value": args}, "id": name}
    return {"functionCall": call, "thoughtSignature": SIGNATURE}


def _thoughts(ask: Ask, choice: Choice) -> list[dict[str, Any]]:
    config = _get(_get(ask.body, "generationConfig") or {}, "thinkingConfig") or {}
    if ask.thinking and not _get(config, "includeThoughts"):
        return []
    return [{"text": piece, "thought": True} for piece in choice.reasoning]


def _parts(ask: Ask, answer: Answer, choice: Choice) -> Iterator[tuple[Kind, dict[str, Any]]]:
    for part in _thoughts(ask, choice):
        yield "delta", part
    for piece in choice.text or choice.refusal:
        yield "delta", {"text": piece}
    for tool in choice.tools:
        yield "delta", _call(answer, tool)


def _ratings() -> list[dict[str, str]]:
    return [{"category": "HARM_CATEGORY_HARASSMENT", "probability": "NEGLIGIBLE"}]


def _reason(answer: Answer, choice: Choice) -> str:
    return answer.finish or FINISH[choice.finish]


def _logprobs(ask: Ask, choice: Choice) -> dict[str, Any]:
    if ask.top_logprobs is None:
        return {}
    chosen = [{"token": t, "tokenId": len(t), "logProbability": -0.25} for t in choice.text]
    top = [{"candidates": [c] * min(1, ask.top_logprobs)} for c in chosen]
    return {"avgLogprobs": -0.25, "logprobsResult": {"chosenCandidates": chosen, "topCandidates": top}}


def _grounding(answer: Answer, index: int) -> dict[str, Any]:
    """Citations twice over, as the API has them: sources by offset, and supports that repeat the text."""
    cited = answer.citation
    if cited is None or index:
        return {}
    source = {"startIndex": cited.start, "endIndex": cited.end, "uri": cited.url, "title": cited.title}
    segment = {"startIndex": cited.start, "endIndex": cited.end, "text": cited.text}
    grounding = {
        "webSearchQueries": [cited.text],
        "groundingChunks": [{"web": {"uri": cited.url, "title": cited.title}}],
        "groundingSupports": [{"segment": segment, "groundingChunkIndices": [0]}],
    }
    return {"citationMetadata": {"citationSources": [source]}, "groundingMetadata": grounding}


def whole(ask: Ask, answer: Answer) -> dict[str, Any]:
    """The reply as one object."""
    candidates: list[dict[str, Any]] = []
    for index, choice in enumerate(answer.choices):
        parts: list[dict[str, Any]] = []
        thoughts = "".join(p["text"] for p in _thoughts(ask, choice))
        if thoughts:
            parts.append({"text": thoughts, "thought": True})
        text = "".join(choice.text or choice.refusal)
        if text:
            parts.append({"text": text})
        parts.extend(_call(answer, tool) for tool in choice.tools)
        candidate: dict[str, Any] = {
            "content": {"parts": parts, "role": "model"},
            "finishReason": _reason(answer, choice),
            "index": index,
            "safetyRatings": _ratings(),
            **_logprobs(ask, choice),
            **_grounding(answer, index),
        }
        candidates.append(candidate)
    return {
        "candidates": candidates,
        "usageMetadata": usage(answer),
        "modelVersion": answer.model,
        "responseId": answer.id("gen_"),
    }


def events(ask: Ask, answer: Answer) -> Iterator[Event]:
    """The reply as chunks, each with usage so far; the last one has the finish reason, and nothing follows it."""
    tail = {"modelVersion": answer.model, "responseId": answer.id("gen_")}
    said = 0
    for index, choice in enumerate(answer.choices):
        for kind, part in _parts(ask, answer, choice):
            said += 0 if part.get("thought") else 1
            candidate = {"content": {"parts": [part], "role": "model"}, "index": index}
            so_far = usage(answer, answer.usage.reasoning + said)
            yield Event({"candidates": [candidate], "usageMetadata": so_far, **tail}, kind)
        last = {
            "content": {"parts": [{"text": ""}], "role": "model"},
            "finishReason": _reason(answer, choice),
            "index": index,
            "safetyRatings": _ratings(),
            **_logprobs(ask, choice),
            **_grounding(answer, index),
        }
        final = index == len(answer.choices) - 1
        yield Event(
            {"candidates": [last], "usageMetadata": usage(answer), **tail}, "done" if final else "finish"
        )


def model_object(name: str) -> dict[str, Any]:
    """One model in Gemini's words."""
    return {
        "name": f"models/{name}",
        "version": "001",
        "displayName": name,
        "inputTokenLimit": 1_048_576,
        "outputTokenLimit": 65_536,
        "supportedGenerationMethods": ["generateContent", "countTokens", "embedContent"],
    }


def model_list(names: tuple[str, ...]) -> dict[str, Any]:
    """The list of models in Gemini's words."""
    return {"models": [model_object(name) for name in names]}
