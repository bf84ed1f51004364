"""OpenAI's smaller APIs: legacy completions, embeddings, and the list of models."""

from __future__ import annotations

import base64
import hashlib
import struct
from collections.abc import Iterator
from typing import Any

from llmshield.simulator.answer import Answer, Choice
from llmshield.simulator.ask import Ask, BadRequest, bound, choices, count, count_tree, need, stop_list
from llmshield.simulator.openai_chat import FINGERPRINT, FINISH, usage
from llmshield.simulator.plan import Event

VECTOR = 1536
MOST_DIMENSIONS = 4096


def _prompts(body: dict[str, Any], key: str) -> list[str | list[int]]:
    """A text, texts, token ids or lists of them as a list of prompts."""
    value: Any = need(body, key, str, list)
    if isinstance(value, str):
        return [value]
    if value and all(isinstance(v, int) for v in value):
        return [value]
    if not value or not all(isinstance(v, (str, list)) for v in value):
        raise BadRequest(f"Invalid '{key}': expected texts or lists of tokens.", key)
    return list(value)


def _length(prompt: str | list[int]) -> int:
    return count(prompt) if isinstance(prompt, str) else len(prompt)


def read_completion(body: dict[str, Any], model: str) -> Ask:
    """A legacy completion as an Ask. Raises: BadRequest for a body that the API would refuse."""
    prompts = _prompts(body, "prompt")
    options = body.get("stream_options") or {}
    logs = body.get("logprobs")
    return Ask(
        api="completions",
        model=model,
        body=body,
        stream=bool(body.get("stream")),
        user=next((p for p in reversed(prompts) if isinstance(p, str)), ""),
        tokens_in=sum(map(_length, prompts)) + count_tree(body.get("suffix")),
        max_tokens=bound(body, "max_tokens") or 16,
        stops=stop_list(body.get("stop")),
        n=choices(body, "n") * len(prompts),
        top_logprobs=logs if isinstance(logs, int) and not isinstance(logs, bool) else None,
        include_usage=bool(options.get("include_usage")) if isinstance(options, dict) else False,
    )


def _logprobs(ask: Ask, tokens: list[str], offset: int = 0) -> dict[str, Any] | None:
    if ask.top_logprobs is None:
        return None
    offsets = []
    for token in tokens:
        offsets.append(offset)
        offset += len(token)
    return {
        "tokens": tokens,
        "token_logprobs": [-0.25] * len(tokens),
        "top_logprobs": [{token: -0.25} for token in tokens],
        "text_offset": offsets,
    }


def _echo(ask: Ask) -> str:
    return ask.user if ask.body.get("echo") else ""


def _base(answer: Answer) -> dict[str, Any]:
    return {
        "id": answer.id("cmpl-"),
        "object": "text_completion",
        "created": answer.created,
        "model": answer.model,
        "system_fingerprint": FINGERPRINT,
    }


def _finish(answer: Answer, choice: Choice) -> str:
    return answer.finish or FINISH[choice.finish]


def whole_completion(ask: Ask, answer: Answer) -> dict[str, Any]:
    """The legacy completion as one object."""
    found = [
        {
            "index": index,
            "text": _echo(ask) + "".join(choice.text),
            "logprobs": _logprobs(ask, choice.text),
            "finish_reason": _finish(answer, choice),
        }
        for index, choice in enumerate(answer.choices)
    ]
    return {**_base(answer), "choices": found, "usage": usage(answer)}


def events_completion(ask: Ask, answer: Answer) -> Iterator[Event]:
    """The legacy completion as chunks."""
    base = _base(answer)
    if ask.include_usage:
        base["usage"] = None
    for index, choice in enumerate(answer.choices):
        at = 0
        for piece in ([_echo(ask)] if _echo(ask) else []) + choice.text:
            part: dict[str, Any] = {"index": index, "text": piece, "finish_reason": None}
            part["logprobs"] = _logprobs(ask, [piece], at)
            at += len(piece)
            yield Event({**base, "choices": [part]}, "delta")
        part = {"index": index, "text": "", "logprobs": None, "finish_reason": _finish(answer, choice)}
        yield Event({**base, "choices": [part]}, "finish")
    if ask.include_usage:
        yield Event({**base, "choices": [], "usage": usage(answer)}, "usage")
    yield Event(b"[DONE]", "done")


def read_embedding(body: dict[str, Any], model: str) -> Ask:
    """An embeddings request as an Ask. Raises: BadRequest for a body that the API would refuse."""
    prompts = _prompts(body, "input")
    size = bound(body, "dimensions")
    if size is not None and size > MOST_DIMENSIONS:
        raise BadRequest(f"Invalid 'dimensions': expected at most {MOST_DIMENSIONS}.", "dimensions")
    return Ask("embeddings", model, body, tokens_in=sum(map(_length, prompts)))


def vector(text: str, size: int) -> list[float]:
    """A unit vector that depends on the text alone."""
    raw = hashlib.shake_128(text.encode("utf-8", "surrogatepass")).digest(2 * size)
    values = [(v - 32768) / 32768 for v in struct.unpack(f"<{size}H", raw)]
    norm = sum(v * v for v in values) ** 0.5 or 1.0
    return [v / norm for v in values]


def whole_embedding(ask: Ask, answer: Answer) -> dict[str, Any]:
    """The embeddings reply, as numbers or as base64 of little-endian 32-bit floats."""
    size = ask.body.get("dimensions") or VECTOR
    found = []
    for index, prompt in enumerate(_prompts(ask.body, "input")):
        values: Any = vector(str(prompt), size)
        if ask.body.get("encoding_format") == "base64":
            values = base64.b64encode(struct.pack(f"<{size}f", *values)).decode()
        found.append({"object": "embedding", "index": index, "embedding": values})
    tokens = answer.usage.input
    return {
        "object": "list",
        "data": found,
        "model": answer.model,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


def model_object(name: str) -> dict[str, Any]:
    """One model in OpenAI's words."""
    return {"id": name, "object": "model", "created": 1_750_000_000, "owned_by": "simulator"}


def model_list(names: tuple[str, ...]) -> dict[str, Any]:
    """The list of models in OpenAI's words."""
    return {"object": "list", "data": [model_object(name) for name in names]}
