"""Which path is which API, and the functions of each: read, whole, events."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

from llmshield.simulator import anthropic, gemini, openai_chat, openai_other, openai_responses
from llmshield.simulator.answer import Answer
from llmshield.simulator.ask import Ask
from llmshield.simulator.errors import Family
from llmshield.simulator.plan import Event
from llmshield.simulator.record import Received


def _no_whole(ask: Ask, answer: Answer) -> dict[str, Any]:
    raise AssertionError("this API has no model behind it")


def _no_events(ask: Ask, answer: Answer) -> Iterator[Event]:
    raise AssertionError("this API has no streams")


@dataclasses.dataclass(frozen=True, slots=True)
class Api:
    """One API. `scripted`: it generates text, so scripts are for it."""

    name: str
    family: Family
    read: Callable[[dict[str, Any], str, Endpoint], Ask] | None = None
    whole: Callable[[Ask, Answer], dict[str, Any]] = _no_whole
    events: Callable[[Ask, Answer], Iterator[Event]] = _no_events
    model_in_body: bool = True
    scripted: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a request goes: the API, and what its path and query say."""

    family: Family
    api: Api
    model: str = ""
    stream: bool = False
    array: bool = False
    batch: bool = False


_POST: dict[str, Api] = {
    "/chat/completions": Api(
        "chat",
        "openai",
        lambda body, model, at: openai_chat.read(body, model),
        openai_chat.whole,
        openai_chat.events,
        scripted=True,
    ),
    "/responses": Api(
        "responses",
        "openai",
        lambda body, model, at: openai_responses.read(body, model),
        openai_responses.whole,
        openai_responses.events,
        scripted=True,
    ),
    "/completions": Api(
        "completions",
        "openai",
        lambda body, model, at: openai_other.read_completion(body, model),
        openai_other.whole_completion,
        openai_other.events_completion,
        scripted=True,
    ),
    "/embeddings": Api(
        "embeddings",
        "openai",
        lambda body, model, at: openai_other.read_embedding(body, model),
        openai_other.whole_embedding,
    ),
    "/messages": Api(
        "messages",
        "anthropic",
        lambda body, model, at: anthropic.read(body, model),
        anthropic.whole,
        anthropic.events,
        scripted=True,
    ),
    "/messages/count_tokens": Api(
        "count_tokens",
        "anthropic",
        lambda body, model, at: anthropic.read_count(body, model),
        lambda ask, answer: {"input_tokens": answer.usage.input},
    ),
}
_GENERATE = Api(
    "gemini",
    "gemini",
    lambda body, model, at: gemini.read(body, model, stream=at.stream, array=at.array),
    gemini.whole,
    gemini.events,
    model_in_body=False,
    scripted=True,
)
_COUNT = Api(
    "gemini_count",
    "gemini",
    lambda body, model, at: gemini.read_count(body, model),
    gemini.whole_count,
    model_in_body=False,
)
_EMBED = Api(
    "gemini_embed",
    "gemini",
    lambda body, model, at: gemini.read_embedding(body, model, batch=at.batch),
    gemini.whole_embedding,
    model_in_body=False,
)
_MODELS = {family: Api("models", family, model_in_body=False) for family in ("openai", "anthropic", "gemini")}
_ROOT = Api("root", "anthropic", model_in_body=False)


def _bare(path: str) -> str:
    """A path without its version prefix."""
    for prefix in ("/v1beta", "/v1alpha", "/v1"):
        if path.startswith(prefix + "/"):
            return path[len(prefix) :]
    return path


def family_of(call: Received) -> Family:
    """Whose words an answer to this request should use, judged by headers, then by path."""
    if call.header("anthropic-version") is not None or "/messages" in call.path:
        return "anthropic"
    if call.header("x-goog-api-key") is not None or call.path.startswith(("/v1beta", "/v1alpha")):
        return "gemini"
    if call.method == "POST" and "/models/" in call.path and ":" in call.path:
        return "gemini"
    return "openai"


def endpoint(call: Received) -> Endpoint | None:
    """The endpoint of a request, or None for a path or method that no provider here has."""
    path = _bare(call.path)
    if call.method in ("HEAD", "GET") and path == "/":
        return Endpoint("anthropic", _ROOT)
    if call.method == "POST":
        api = _POST.get(path.rstrip("/"))
        if api is not None:
            return Endpoint(api.family, api)
        return _gemini(call, path)
    if call.method in ("GET", "HEAD") and (path == "/models" or path.startswith("/models/")):
        family = family_of(call)
        return Endpoint(family, _MODELS[family], model=path[8:])
    return None


def _gemini(call: Received, path: str) -> Endpoint | None:
    """`/models/NAME:VERB`; the name may itself have colons (fine-tuned models)."""
    if not path.startswith("/models/"):
        return None
    name, colon, verb = path[8:].rpartition(":")
    if not colon or not name:
        return None
    match verb:
        case "generateContent":
            return Endpoint("gemini", _GENERATE, name)
        case "streamGenerateContent":
            array = call.params.get("alt") != "sse"
            return Endpoint("gemini", _GENERATE, name, stream=True, array=array)
        case "countTokens":
            return Endpoint("gemini", _COUNT, name)
        case "embedContent":
            return Endpoint("gemini", _EMBED, name)
        case "batchEmbedContents":
            return Endpoint("gemini", _EMBED, name, batch=True)
        case _:
            return None


def listing(api: Api, at: Endpoint, model: str, names: tuple[str, ...]) -> dict[str, Any]:
    """The list of models, or one of them, in the family's words; nothing for the root path."""
    if api.name == "root":
        return {}
    room = {"openai": openai_other, "anthropic": anthropic, "gemini": gemini}[at.family]
    found: dict[str, Any] = room.model_object(model) if model else room.model_list(names)
    return found
