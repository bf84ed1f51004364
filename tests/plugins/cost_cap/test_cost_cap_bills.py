"""Bills by hand: what providers report, in the shapes of their documentation, and what it costs to the last unit.

Each row is a call as a client makes it, the reply as its provider documents it, and the bill as one adds it up on
paper: tokens at USD per million, uses at USD each. The sum is written beside it; both have to agree.
"""

from collections.abc import Callable
from decimal import Decimal
from typing import Any, NamedTuple

import orjson
import pytest

from llmshield.prices import Prices

# -- prices, USD per million tokens; fees in USD a use


class Rate(NamedTuple):
    family: str
    model: str
    options: tuple[tuple[str, str], ...] = ()


PRICES: dict[Rate, dict[str, str]] = {
    Rate("openai", "gpt-4o-mini"): {"input": "0.15", "output": "0.60", "cache_read": "0.075", "web_search": "0.01", "file_search": "0.0025"},
    Rate("openai", "gpt-4o"): {"input": "2.50", "output": "10", "cache_read": "1.25"},
    Rate("openai", "gpt-4o", (("service_tier", "priority"),)): {"input": "4.25", "output": "17", "cache_read": "2.125"},
    Rate("openai", "gpt-5"): {"input": "1.25", "output": "10", "cache_read": "0.125", "web_search": "0.01"},
    Rate("openai", "gpt-5", (("service_tier", "flex"),)): {"input": "0.625", "output": "5", "cache_read": "0.0625"},
    Rate("openai", "gpt-5", (("service_tier", "priority"),)): {"input": "2.50", "output": "20", "cache_read": "0.25"},
    Rate("openai", "gpt-5.4"): {"input": "2.50", "output": "15", "cache_read": "0.25", ">272000 input": "5", ">272000 output": "22.50", ">272000 cache_read": "0.50"},
    Rate("openai", "gpt-6-sol"): {"input": "2", "output": "10", "cache_read": "0.20", "cache_write": "2.50"},
    Rate("openai", "gpt-audio"): {"input": "2.50", "output": "10", "input_audio": "32", "output_audio": "64"},
    Rate("openai", "gpt-3.5-turbo-instruct"): {"input": "1.50", "output": "2"},
    Rate("openai", "text-embedding-3-small"): {"input": "0.02"},
    Rate("openai", "text-embedding-3-large"): {"input": "0.13"},
    Rate("anthropic", "claude-sonnet-4-5"): {"input": "3", "output": "15", "cache_read": "0.30", "cache_write": "3.75", "cache_write_1h": "6", "web_search": "0.01",
                                             ">200000 input": "6", ">200000 output": "22.50", ">200000 cache_read": "0.60", ">200000 cache_write": "7.50"},
    Rate("anthropic", "claude-haiku-4-5"): {"input": "1", "output": "5", "cache_read": "0.10", "cache_write": "1.25", "cache_write_1h": "2"},
    Rate("anthropic", "claude-opus-4-8"): {"input": "5", "output": "25", "cache_read": "0.50", "cache_write": "6.25"},
    Rate("anthropic", "claude-opus-4-8", (("speed", "fast"),)): {"input": "10", "output": "50", "cache_read": "1", "cache_write": "12.50"},
    Rate("gemini", "gemini-2.5-flash"): {"input": "0.30", "output": "2.50", "cache_read": "0.03", "input_audio": "1", "cache_audio": "0.10", "web_search": "0.035"},
    Rate("gemini", "gemini-2.5-pro"): {"input": "1.25", "output": "10", "cache_read": "0.125", ">200000 input": "2.50", ">200000 output": "15", ">200000 cache_read": "0.25"},
    Rate("gemini", "gemini-2.5-flash-image"): {"input": "0.30", "output": "2.50", "output_image": "30"},
    Rate("gemini", "gemini-3-flash-preview"): {"input": "0.50", "output": "3", "cache_read": "0.05", "web_search": "0.014"},
    Rate("gemini", "gemini-embedding-001"): {"input": "0.15"},
}  # fmt: skip


@pytest.mark.parametrize("rate", PRICES, ids=lambda rate: f"{rate.model} {dict(rate.options) or ''}")
def test_the_prices_of_this_table_are_those_of_the_list(rate: Rate) -> None:
    """When the list changes, this fails first: write the new price here and add the bills up again."""
    price = Prices({}).price("any", rate.family, rate.model, rate.options)
    assert price is not None
    for name, usd in PRICES[rate].items():
        amount = int(Decimal(usd) * 10**12)
        if name in ("web_search", "file_search"):
            assert price.tools[name] == amount
            continue
        above, _, kind = name.rpartition(" ")
        rates = price.rates_for(int(above[1:]) + 1) if above else price.rates
        assert getattr(rates, kind) == amount, name


# -- replies as the providers document them


def chat(usage: Any, **more: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": "Fine.", "refusal": None}
    choices = [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}]
    return {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "m", "choices": choices, "usage": usage, **more}  # fmt: skip


def chat_stream(*usages: Any, **more: Any) -> list[Any]:
    """Usage on a chunk of its own at the end, as `include_usage` gives it; several: on every chunk."""
    base = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m", **more}
    said = [{"index": 0, "delta": {"role": "assistant", "content": "Fine."}, "finish_reason": None}]
    done = [{"index": 0, "delta": {}, "finish_reason": "stop"}]
    early = {"usage": usages[0]} if len(usages) > 1 else {"usage": None}
    return [{**base, "choices": said, **early}, {**base, "choices": done, "usage": None}, {**base, "choices": [], "usage": usages[-1]}, "[DONE]"]  # fmt: skip


def completion(usage: Any, texts: int = 1) -> dict[str, Any]:
    choices = [{"text": "Fine.", "index": i, "logprobs": None, "finish_reason": "stop"} for i in range(texts)]
    return {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": "m", "choices": choices, "usage": usage}  # fmt: skip


def embedding(usage: Any) -> dict[str, Any]:
    return {"object": "list", "data": [{"object": "embedding", "index": 0, "embedding": [0.1]}], "model": "m", "usage": usage}  # fmt: skip


ANSWER = {"id": "msg_1", "type": "message", "status": "completed", "role": "assistant",
          "content": [{"type": "output_text", "text": "Fine.", "annotations": []}]}  # fmt: skip


def response(usage: Any, *items: Any, status: str = "completed", **more: Any) -> dict[str, Any]:
    return {"id": "resp_1", "object": "response", "created_at": 1, "status": status, "error": None, "incomplete_details": None,
            "model": "m", "output": [*items, ANSWER], "usage": usage, **more}  # fmt: skip


def response_stream(last: dict[str, Any], kind: str = "response.completed") -> list[Any]:
    begun = {**last, "status": "in_progress", "output": [], "usage": None}
    item = {**ANSWER, "content": [], "status": "in_progress"}
    part = {"type": "output_text", "text": "", "annotations": []}
    where = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    return [
        {"type": "response.created", "response": begun, "sequence_number": 0},
        {"type": "response.output_item.added", "output_index": 0, "item": item, "sequence_number": 1},
        {"type": "response.content_part.added", **where, "part": part, "sequence_number": 2},
        {"type": "response.output_text.delta", **where, "delta": "Fine.", "sequence_number": 3},
        {"type": "response.output_text.done", **where, "text": "Fine.", "sequence_number": 4},
        {
            "type": "response.content_part.done",
            **where,
            "part": {**part, "text": "Fine."},
            "sequence_number": 5,
        },
        {"type": "response.output_item.done", "output_index": 0, "item": ANSWER, "sequence_number": 6},
        {"type": kind, "response": last, "sequence_number": 7},
    ]


def message(usage: Any, **more: Any) -> dict[str, Any]:
    return {"id": "msg_1", "type": "message", "role": "assistant", "model": "m", "content": [{"type": "text", "text": "Fine."}],
            "stop_reason": "end_turn", "stop_sequence": None, "usage": usage, **more}  # fmt: skip


def message_stream(first: Any, last: Any) -> list[Any]:
    head = {**message(first), "content": [], "stop_reason": None}
    return [
        {"type": "message_start", "message": head},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "ping"},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Fine."}},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": None}, "usage": last},
        {"type": "message_stop"},
    ]


def content(usage: Any, text: str = "Fine.", reason: str | None = "STOP", **more: Any) -> dict[str, Any]:
    candidate = {
        "content": {"parts": [{"text": text}], "role": "model"},
        "finishReason": reason,
        "index": 0,
        **more,
    }
    if reason is None:
        del candidate["finishReason"]
    return {"candidates": [candidate], "usageMetadata": usage, "modelVersion": "m", "responseId": "r"}


def details(**counts: int) -> list[dict[str, Any]]:
    return [{"modality": name.upper(), "tokenCount": count} for name, count in counts.items()]


# -- calls


def ask(model: str, **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": "How are you?"}], "max_tokens": 900_000, **more}  # fmt: skip


def say(model: str, **more: Any) -> dict[str, Any]:
    return {"model": model, "input": "How are you?", "max_output_tokens": 900_000, **more}


PARTS = {"contents": [{"role": "user", "parts": [{"text": "How are you?"}]}], "generationConfig": {"maxOutputTokens": 900_000}}  # fmt: skip

CHAT, RESPONSES, COMPLETIONS, EMBEDDINGS, MESSAGES = (
    "/v1/chat/completions", "/v1/responses", "/v1/completions", "/v1/embeddings", "/v1/messages",
)  # fmt: skip


def gemini(model: str, method: str = "generateContent") -> str:
    return f"/v1beta/models/{model}:{method}"


WEB = {
    "type": "web_search_call",
    "id": "ws_1",
    "status": "completed",
    "action": {"type": "search", "query": "q"},
}
OPEN = {
    "type": "web_search_call",
    "id": "ws_2",
    "status": "completed",
    "action": {"type": "open_page", "url": "u"},
}
FILES = {"type": "file_search_call", "id": "fs_1", "status": "completed", "queries": ["q"], "results": None}


class Bill(NamedTuple):
    """A call, its reply (a list is a stream), the bill in parts, its sum in USD."""

    path: str
    body: dict[str, Any]
    reply: Any
    parts: tuple[tuple[int, str], ...]
    fees: tuple[str, ...]
    total: str


def bill(path: str, body: Any, reply: Any, total: str, *parts: tuple[int, str], fees: tuple[str, ...] = ()) -> Bill:  # fmt: skip
    return Bill(path, body, reply, parts, fees, total)


MINI, SONNET, HAIKU, OPUS = "gpt-4o-mini", "claude-sonnet-4-5", "claude-haiku-4-5", "claude-opus-4-8"
STREAM = {"stream": True}
BILLS: dict[str, Bill] = {
    # chat completions
    "chat": bill(CHAT, ask(MINI), chat({"prompt_tokens": 19, "completion_tokens": 10, "total_tokens": 29}),
        "0.00000885", (19, "0.15"), (10, "0.60")),
    "chat, one token": bill(CHAT, ask(MINI), chat({"prompt_tokens": 1, "completion_tokens": 0, "total_tokens": 1}),
        "0.00000015", (1, "0.15")),
    "chat, nothing": bill(CHAT, ask(MINI), chat({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}), "0"),
    "chat, cached": bill(CHAT, ask(MINI), chat({"prompt_tokens": 2006, "completion_tokens": 300, "total_tokens": 2306,
        "prompt_tokens_details": {"cached_tokens": 1920, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0, "accepted_prediction_tokens": 0, "rejected_prediction_tokens": 0}}),
        "0.0003369", (86, "0.15"), (1920, "0.075"), (300, "0.60")),
    "chat, all cached": bill(CHAT, ask(MINI), chat({"prompt_tokens": 1024, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 1024}}),
        "0.0000774", (1024, "0.075"), (1, "0.60")),
    "chat, reasoning": bill(CHAT, ask("gpt-5"), chat({"prompt_tokens": 75, "completion_tokens": 1186, "total_tokens": 1261,
        "completion_tokens_details": {"reasoning_tokens": 1024}}), "0.01195375", (75, "1.25"), (1186, "10")),
    "chat, reasoning beside the output": bill(CHAT, ask("gpt-5"), chat({"prompt_tokens": 75, "completion_tokens": 100, "total_tokens": 675,
        "completion_tokens_details": {"reasoning_tokens": 500}}), "0.00609375", (75, "1.25"), (600, "10")),
    "chat, eight choices": bill(CHAT, ask(MINI, n=8), chat({"prompt_tokens": 12, "completion_tokens": 800, "total_tokens": 812}),
        "0.0004818", (12, "0.15"), (800, "0.60")),
    "chat, rejected prediction": bill(CHAT, ask("gpt-4o", prediction={"type": "content", "content": "Fine. Thanks."}),
        chat({"prompt_tokens": 12, "completion_tokens": 9, "total_tokens": 21, "completion_tokens_details": {"rejected_prediction_tokens": 4}}),
        "0.00012", (12, "2.50"), (9, "10")),
    "chat, sound": bill(CHAT, ask("gpt-audio", modalities=["text", "audio"], audio={"voice": "alloy", "format": "wav"}),
        chat({"prompt_tokens": 1000, "completion_tokens": 600, "total_tokens": 1600, "prompt_tokens_details": {"audio_tokens": 700, "text_tokens": 300, "cached_tokens": 0},
              "completion_tokens_details": {"audio_tokens": 500, "text_tokens": 100}}),
        "0.05615", (300, "2.50"), (700, "32"), (100, "10"), (500, "64")),
    "chat, cache written": bill(CHAT, ask("gpt-6-sol"), chat({"prompt_tokens": 5000, "completion_tokens": 100,
        "prompt_tokens_details": {"cached_tokens": 1000, "cache_write_tokens": 3000}}),
        "0.0107", (1000, "2"), (1000, "0.20"), (3000, "2.50"), (100, "10")),
    "chat, long context": bill(CHAT, ask("gpt-5.4"), chat({"prompt_tokens": 272_001, "completion_tokens": 1000, "prompt_tokens_details": {"cached_tokens": 72_001}}),
        "1.0585005", (200_000, "5"), (72_001, "0.50"), (1000, "22.50")),
    "chat, not yet long": bill(CHAT, ask("gpt-5.4"), chat({"prompt_tokens": 272_000, "completion_tokens": 1000}), "0.695", (272_000, "2.50"), (1000, "15")),
    "chat, asked for priority": bill(CHAT, ask("gpt-4o", service_tier="priority"),
        chat({"prompt_tokens": 1000, "completion_tokens": 100}, service_tier="priority"), "0.00595", (1000, "4.25"), (100, "17")),
    "chat, asked for priority and got none": bill(CHAT, ask("gpt-4o", service_tier="priority"),
        chat({"prompt_tokens": 1000, "completion_tokens": 100}, service_tier="default"), "0.0035", (1000, "2.50"), (100, "10")),
    "chat, priority by the project": bill(CHAT, ask("gpt-4o"), chat({"prompt_tokens": 1000, "completion_tokens": 100}, service_tier="priority"),
        "0.00595", (1000, "4.25"), (100, "17")),
    "chat, flex": bill(CHAT, ask("gpt-5", service_tier="flex"), chat({"prompt_tokens": 1000, "completion_tokens": 100, "prompt_tokens_details": {"cached_tokens": 400}}, service_tier="flex"),
        "0.0009", (600, "0.625"), (400, "0.0625"), (100, "5")),
    "chat, stream": bill(CHAT, ask(MINI, **STREAM), chat_stream({"prompt_tokens": 19, "completion_tokens": 10, "total_tokens": 29}),
        "0.00000885", (19, "0.15"), (10, "0.60")),
    "chat, stream with details": bill(CHAT, ask(MINI, **STREAM), chat_stream({"prompt_tokens": 2006, "completion_tokens": 300, "prompt_tokens_details": {"cached_tokens": 1920}}),
        "0.0003369", (86, "0.15"), (1920, "0.075"), (300, "0.60")),
    "chat, usage on every chunk": bill(CHAT, ask(MINI, **STREAM), chat_stream({"prompt_tokens": 19, "completion_tokens": 1}, {"prompt_tokens": 19, "completion_tokens": 10}),
        "0.00000885", (19, "0.15"), (10, "0.60")),
    "chat, stream served in priority": bill(CHAT, ask("gpt-4o", **STREAM), chat_stream({"prompt_tokens": 1000, "completion_tokens": 100}, service_tier="priority"),
        "0.00595", (1000, "4.25"), (100, "17")),
    # legacy completions
    "completion": bill(COMPLETIONS, {"model": "gpt-3.5-turbo-instruct", "prompt": "Hello", "max_tokens": 100}, completion({"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12}),
        "0.0000215", (5, "1.50"), (7, "2")),
    "completion, three prompts": bill(COMPLETIONS, {"model": "gpt-3.5-turbo-instruct", "prompt": ["a", "b", "c"], "max_tokens": 100, "n": 2},
        completion({"prompt_tokens": 3, "completion_tokens": 42, "total_tokens": 45}, 6), "0.0000885", (3, "1.50"), (42, "2")),
    "completion, best of five": bill(COMPLETIONS, {"model": "gpt-3.5-turbo-instruct", "prompt": "a", "max_tokens": 100, "best_of": 5},
        completion({"prompt_tokens": 1, "completion_tokens": 250, "total_tokens": 251}), "0.0005015", (1, "1.50"), (250, "2")),
    # embeddings
    "embedding": bill(EMBEDDINGS, {"model": "text-embedding-3-small", "input": "Hello"}, embedding({"prompt_tokens": 8, "total_tokens": 8}), "0.00000016", (8, "0.02")),
    "embedding, many": bill(EMBEDDINGS, {"model": "text-embedding-3-large", "input": ["Hello", "you"]}, embedding({"prompt_tokens": 1_234, "total_tokens": 1_234}), "0.00016042", (1_234, "0.13")),
    # responses
    "response": bill(RESPONSES, say(MINI), response({"input_tokens": 36, "input_tokens_details": {"cached_tokens": 0}, "output_tokens": 87, "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": 123}),
        "0.0000576", (36, "0.15"), (87, "0.60")),
    "response, cached and reasoning": bill(RESPONSES, say("gpt-5"), response({"input_tokens": 328, "input_tokens_details": {"cached_tokens": 256}, "output_tokens": 1052, "output_tokens_details": {"reasoning_tokens": 832}, "total_tokens": 1380}),
        "0.010642", (72, "1.25"), (256, "0.125"), (1052, "10")),
    "response, a search": bill(RESPONSES, say("gpt-5", tools=[{"type": "web_search"}]), response({"input_tokens": 8000, "output_tokens": 500}, WEB), "0.025", (8000, "1.25"), (500, "10"), fees=("0.01",)),
    "response, searches and looks": bill(RESPONSES, say("gpt-5", tools=[{"type": "web_search"}]), response({"input_tokens": 8000, "output_tokens": 500}, WEB, OPEN, WEB), "0.035", (8000, "1.25"), (500, "10"), fees=("0.01", "0.01")),
    "response, preview of the search": bill(RESPONSES, say(MINI, tools=[{"type": "web_search_preview"}]), response({"input_tokens": 300, "output_tokens": 100}, WEB), "0.025105", (300, "0.15"), (100, "0.60"), fees=("0.025",)),
    "response, search in files": bill(RESPONSES, say(MINI, tools=[{"type": "file_search", "vector_store_ids": ["vs_1"]}]), response({"input_tokens": 2000, "output_tokens": 100}, FILES, FILES), "0.00536", (2000, "0.15"), (100, "0.60"), fees=("0.0025", "0.0025")),
    "response, two runs in one container": bill(RESPONSES, say(MINI, tools=[{"type": "code_interpreter", "container": {"type": "auto"}}]),
        response({"input_tokens": 1000, "output_tokens": 100}, *[{"type": "code_interpreter_call", "id": f"ci_{i}", "container_id": "cntr_1", "code": "1", "status": "completed", "outputs": None} for i in (1, 2)]),
        "0.03021", (1000, "0.15"), (100, "0.60"), fees=("0.03",)),
    "response, a container of 64 GB": bill(RESPONSES, say(MINI, tools=[{"type": "code_interpreter", "container": {"type": "auto", "memory_limit": "64g"}}]),
        response({"input_tokens": 1000, "output_tokens": 100}, {"type": "code_interpreter_call", "id": "ci_1", "container_id": "cntr_1", "code": "1", "status": "completed", "outputs": None}),
        "1.92021", (1000, "0.15"), (100, "0.60"), fees=("1.92",)),
    "response, a remote tool": bill(RESPONSES, say(MINI, tools=[{"type": "mcp", "server_label": "l", "server_url": "https://mcp.example.com"}]),
        response({"input_tokens": 1000, "output_tokens": 100}, {"type": "mcp_call", "id": "mcp_1", "name": "n", "server_label": "l", "arguments": "{}", "output": "x"}), "0.00021", (1000, "0.15"), (100, "0.60")),
    "response, stream": bill(RESPONSES, say(MINI, **STREAM), response_stream(response({"input_tokens": 36, "output_tokens": 87, "total_tokens": 123})), "0.0000576", (36, "0.15"), (87, "0.60")),
    "response, stream that is incomplete": bill(RESPONSES, say(MINI, **STREAM), response_stream(response({"input_tokens": 36, "output_tokens": 87}, status="incomplete", incomplete_details={"reason": "max_output_tokens"}), "response.incomplete"),
        "0.0000576", (36, "0.15"), (87, "0.60")),
    "response, stream that failed": bill(RESPONSES, say(MINI, **STREAM), response_stream(response({"input_tokens": 36, "output_tokens": 87}, status="failed", error={"code": "server_error", "message": "x"}), "response.failed"),
        "0.0000576", (36, "0.15"), (87, "0.60")),
    "response, stream in priority": bill(RESPONSES, say("gpt-5", **STREAM), response_stream(response({"input_tokens": 100, "output_tokens": 10}, service_tier="priority")), "0.00045", (100, "2.50"), (10, "20")),
    # messages
    "message": bill(MESSAGES, ask(SONNET), message({"input_tokens": 2095, "output_tokens": 503}), "0.01383", (2095, "3"), (503, "15")),
    "message, cache of five minutes": bill(MESSAGES, ask(SONNET), message({"input_tokens": 50, "cache_creation_input_tokens": 2000, "cache_read_input_tokens": 10_000, "output_tokens": 100,
        "cache_creation": {"ephemeral_5m_input_tokens": 2000, "ephemeral_1h_input_tokens": 0}}), "0.01215", (50, "3"), (2000, "3.75"), (10_000, "0.30"), (100, "15")),
    "message, caches of both kinds": bill(MESSAGES, ask(SONNET, system=[{"type": "text", "text": "x", "cache_control": {"type": "ephemeral", "ttl": "1h"}}]),
        message({"input_tokens": 2048, "cache_read_input_tokens": 1800, "cache_creation_input_tokens": 248, "output_tokens": 503, "cache_creation": {"ephemeral_5m_input_tokens": 148, "ephemeral_1h_input_tokens": 100}}),
        "0.015384", (2048, "3"), (1800, "0.30"), (148, "3.75"), (100, "6"), (503, "15")),
    "message, an hour's cache, not told apart": bill(MESSAGES, ask(HAIKU, system=[{"type": "text", "text": "x", "cache_control": {"type": "ephemeral", "ttl": "1h"}}]),
        message({"input_tokens": 10, "cache_read_input_tokens": 0, "cache_creation_input_tokens": 5000, "output_tokens": 20}), "0.01011", (10, "1"), (5000, "2"), (20, "5")),
    "message, long context": bill(MESSAGES, ask(SONNET), message({"input_tokens": 1, "cache_read_input_tokens": 150_000, "cache_creation_input_tokens": 50_000, "output_tokens": 1000,
        "cache_creation": {"ephemeral_5m_input_tokens": 50_000, "ephemeral_1h_input_tokens": 0}}), "0.487506", (1, "6"), (150_000, "0.60"), (50_000, "7.50"), (1000, "22.50")),
    "message, not yet long": bill(MESSAGES, ask(SONNET), message({"input_tokens": 200_000, "output_tokens": 1000}), "0.615", (200_000, "3"), (1000, "15")),
    "message, thinking": bill(MESSAGES, ask(HAIKU, thinking={"type": "enabled", "budget_tokens": 2000}), message({"input_tokens": 45, "output_tokens": 1800, "output_tokens_details": {"thinking_tokens": 1500}}),
        "0.009045", (45, "1"), (1800, "5")),
    "message, searches and fetches": bill(MESSAGES, ask(SONNET, tools=[{"type": "web_search_20250305", "name": "web_search", "max_uses": 5}, {"type": "web_fetch_20250910", "name": "web_fetch", "max_uses": 5}]),
        message({"input_tokens": 25_039, "output_tokens": 931, "server_tool_use": {"web_search_requests": 2, "web_fetch_requests": 4}}), "0.109082", (25_039, "3"), (931, "15"), fees=("0.01", "0.01")),
    "message, compaction": bill(MESSAGES, ask(HAIKU), message({"input_tokens": 1000, "output_tokens": 100, "iterations": [
        {"type": "compaction", "input_tokens": 9000, "output_tokens": 500}, {"type": "message", "input_tokens": 1000, "output_tokens": 100}]}),
        "0.013", (1000, "1"), (9000, "1"), (100, "5"), (500, "5")),
    "message, fast": bill(MESSAGES, ask(OPUS, speed="fast"), message({"input_tokens": 1000, "output_tokens": 100, "speed": "fast", "service_tier": "standard"}), "0.015", (1000, "10"), (100, "50")),
    "message, fast and cached": bill(MESSAGES, ask(OPUS, speed="fast"), message({"input_tokens": 0, "cache_read_input_tokens": 4000, "cache_creation_input_tokens": 400, "output_tokens": 10, "speed": "fast"}),
        "0.0095", (4000, "1"), (400, "12.50"), (10, "50")),
    "message, fast was not served": bill(MESSAGES, ask(OPUS, speed="fast"), message({"input_tokens": 1000, "output_tokens": 100, "speed": "standard"}), "0.0075", (1000, "5"), (100, "25")),
    "message, from the workspace's region": bill(MESSAGES, ask(OPUS), message({"input_tokens": 1000, "output_tokens": 100, "inference_geo": "us", "speed": "standard", "service_tier": "standard"}), "0.00825", (1000, "5.5"), (100, "27.5")),
    "message, a region asked for, cached": bill(MESSAGES, ask(OPUS, inference_geo="us"), message({"input_tokens": 0, "cache_read_input_tokens": 1000, "cache_creation_input_tokens": 100, "output_tokens": 100, "inference_geo": "us"}), "0.0039875", (1000, "0.55"), (100, "6.875"), (100, "27.5")),
    "message, fast in a region": bill(MESSAGES, ask(OPUS, speed="fast", inference_geo="us"), message({"input_tokens": 1000, "output_tokens": 100, "speed": "fast", "inference_geo": "us"}), "0.0165", (1000, "11"), (100, "55")),
    "message, a region was not served": bill(MESSAGES, ask(OPUS, inference_geo="us"), message({"input_tokens": 1000, "output_tokens": 100, "inference_geo": "global"}), "0.0075", (1000, "5"), (100, "25")),
    "message, without regions": bill(MESSAGES, ask(HAIKU), message({"input_tokens": 1000, "output_tokens": 100, "inference_geo": "not_available", "service_tier": "standard"}), "0.0015", (1000, "1"), (100, "5")),
    "message, on capacity bought beforehand": bill(MESSAGES, ask(HAIKU), message({"input_tokens": 1000, "output_tokens": 100, "service_tier": "priority"}), "0.0015", (1000, "1"), (100, "5")),
    "message, stream in a region": bill(MESSAGES, ask(OPUS, **STREAM), message_stream({"input_tokens": 1000, "output_tokens": 1, "inference_geo": "us"}, {"output_tokens": 100, "service_tier": "standard"}), "0.00825", (1000, "5.5"), (100, "27.5")),
    "message, stream": bill(MESSAGES, ask(SONNET, **STREAM), message_stream({"input_tokens": 25, "output_tokens": 1}, {"output_tokens": 15}), "0.0003", (25, "3"), (15, "15")),
    "message, stream with all figures at its end": bill(MESSAGES, ask(SONNET, **STREAM), message_stream(
        {"input_tokens": 25, "cache_creation_input_tokens": 100, "cache_read_input_tokens": 200, "cache_creation": {"ephemeral_5m_input_tokens": 100, "ephemeral_1h_input_tokens": 0}, "output_tokens": 1, "service_tier": "standard"},
        {"input_tokens": 25, "cache_creation_input_tokens": 100, "cache_read_input_tokens": 200, "output_tokens": 15}), "0.000735", (25, "3"), (100, "3.75"), (200, "0.30"), (15, "15")),
    "message, stream with a search": bill(MESSAGES, ask(SONNET, tools=[{"type": "web_search_20250305", "name": "web_search"}], **STREAM),
        message_stream({"input_tokens": 2679, "output_tokens": 3}, {"input_tokens": 10_682, "output_tokens": 510, "server_tool_use": {"web_search_requests": 1}}), "0.049696", (10_682, "3"), (510, "15"), fees=("0.01",)),
    # Gemini
    "content": bill(gemini("gemini-2.5-flash"), PARTS, content({"promptTokenCount": 4, "candidatesTokenCount": 715, "totalTokenCount": 719}), "0.0017887", (4, "0.30"), (715, "2.50")),
    "content, thoughts": bill(gemini("gemini-2.5-flash"), PARTS, content({"promptTokenCount": 10, "candidatesTokenCount": 100, "thoughtsTokenCount": 900, "totalTokenCount": 1010}), "0.002503", (10, "0.30"), (1000, "2.50")),
    "content, thoughts left out": bill(gemini("gemini-2.5-flash"), PARTS, content({"promptTokenCount": 10, "candidatesTokenCount": 100, "totalTokenCount": 1010}), "0.002503", (10, "0.30"), (1000, "2.50")),
    "content, cached": bill(gemini("gemini-2.5-flash"), PARTS, content({"promptTokenCount": 5000, "cachedContentTokenCount": 4000, "candidatesTokenCount": 10, "totalTokenCount": 5010,
        "promptTokensDetails": details(text=5000), "cacheTokensDetails": details(text=4000)}), "0.000445", (1000, "0.30"), (4000, "0.03"), (10, "2.50")),
    "content, tool use": bill(gemini("gemini-2.5-flash"), {**PARTS, "tools": [{"urlContext": {}}]}, content({"promptTokenCount": 27, "candidatesTokenCount": 45, "toolUsePromptTokenCount": 10_309, "thoughtsTokenCount": 31, "totalTokenCount": 10_412}),
        "0.0032908", (10_336, "0.30"), (76, "2.50")),
    "content, sound": bill(gemini("gemini-2.5-flash"), PARTS, content({"promptTokenCount": 1000, "candidatesTokenCount": 10, "totalTokenCount": 1010, "promptTokensDetails": details(text=200, audio=800)}), "0.000885", (200, "0.30"), (800, "1"), (10, "2.50")),
    "content, cached sound": bill(gemini("gemini-2.5-flash"), PARTS, content({"promptTokenCount": 1000, "cachedContentTokenCount": 600, "candidatesTokenCount": 10, "totalTokenCount": 1010,
        "promptTokensDetails": details(text=200, audio=800), "cacheTokensDetails": details(text=100, audio=500)}), "0.000408", (100, "0.30"), (100, "0.03"), (300, "1"), (500, "0.10"), (10, "2.50")),
    "content, a picture": bill(gemini("gemini-2.5-flash-image"), PARTS, content({"promptTokenCount": 10, "candidatesTokenCount": 1300, "totalTokenCount": 1310, "candidatesTokensDetails": details(image=1290)}), "0.038728", (10, "0.30"), (10, "2.50"), (1290, "30")),
    "content, maybe a picture": bill(gemini("gemini-2.5-flash-image"), PARTS, content({"promptTokenCount": 10, "candidatesTokenCount": 1300, "totalTokenCount": 1310}), "0.039003", (10, "0.30"), (1300, "30")),
    "content, long context": bill(gemini("gemini-2.5-pro"), PARTS, content({"promptTokenCount": 200_001, "cachedContentTokenCount": 100_000, "candidatesTokenCount": 1000, "thoughtsTokenCount": 500, "totalTokenCount": 201_501}),
        "0.2975025", (100_001, "2.50"), (100_000, "0.25"), (1500, "15")),
    "content, not yet long": bill(gemini("gemini-2.5-pro"), PARTS, content({"promptTokenCount": 200_000, "candidatesTokenCount": 1000, "totalTokenCount": 201_000}), "0.26", (200_000, "1.25"), (1000, "10")),
    "content, grounded prompt": bill(gemini("gemini-2.5-flash"), {**PARTS, "tools": [{"googleSearch": {}}]}, content({"promptTokenCount": 10, "candidatesTokenCount": 100, "totalTokenCount": 110}, groundingMetadata={"webSearchQueries": ["a", "b"]}),
        "0.035253", (10, "0.30"), (100, "2.50"), fees=("0.035",)),
    "content, two searches": bill(gemini("gemini-3-flash-preview"), {**PARTS, "tools": [{"google_search": {}}]}, content({"promptTokenCount": 10, "candidatesTokenCount": 100, "totalTokenCount": 110}, groundingMetadata={"webSearchQueries": ["a", "b"]}),
        "0.028305", (10, "0.50"), (100, "3"), fees=("0.014", "0.014")),
    "content, stream": bill(gemini("gemini-2.5-flash", "streamGenerateContent?alt=sse"), PARTS,
        [content({"promptTokenCount": 4, "totalTokenCount": 4}, "Fi", None), content({"promptTokenCount": 4, "candidatesTokenCount": 3, "totalTokenCount": 7}, "ne", None),
         content({"promptTokenCount": 4, "candidatesTokenCount": 9, "thoughtsTokenCount": 20, "totalTokenCount": 33}, ".")], "0.0000737", (4, "0.30"), (29, "2.50")),
    "content, embedding": bill(gemini("gemini-embedding-001", "embedContent"), {"content": {"parts": [{"text": "Hello"}]}}, {"embedding": {"values": [0.1]}, "usageMetadata": {"promptTokenCount": 6, "totalTokenCount": 6}}, "0.0000009", (6, "0.15")),
}  # fmt: skip


def test_there_are_enough_of_them_and_they_add_up() -> None:
    assert len(BILLS) >= 60
    for name, row in BILLS.items():
        by_parts = sum((count * Decimal(rate) for count, rate in row.parts), Decimal(0)) / 10**6
        assert by_parts + sum(map(Decimal, row.fees)) == Decimal(row.total), name


def wire(reply: Any, path: str) -> tuple[bytes, ...]:
    """A stream as its provider writes it: Anthropic and the Responses API name their events."""
    out = []
    for event in reply:
        name = event.get("type") if isinstance(event, dict) and path in (RESPONSES, MESSAGES) else None
        data = event.encode() if isinstance(event, str) else orjson.dumps(event)
        out.append((f"event: {name}\n".encode() if name else b"") + b"data: " + data + b"\n\n")
    return tuple(out)


@pytest.mark.parametrize("name", BILLS)
async def test_a_bill_to_the_last_unit(name: str, canned: Callable[..., Any]) -> None:
    row = BILLS[name]
    settings = "tool_prices: {code_interpreter: 0.03 USD/call}" if "container" in name else ""
    async with canned(settings, budget="1000000 USD/day") as house:
        if isinstance(row.reply, list):
            house.upstream.kind, house.upstream.pieces = "text/event-stream", wire(row.reply, row.path)
        else:
            house.upstream.body = orjson.dumps(row.reply)
        status, said = await house.post(row.path, row.body)
        assert status == 200, said
        found = await house.usage()

        assert Decimal(found["spent_usd"]) == Decimal(row.total), name
        assert found["requests"] == 1


SERVED = [
    (MESSAGES, ask(HAIKU), message({"input_tokens": 10, "output_tokens": 5, "speed": "fast"})),
    (MESSAGES, ask(HAIKU), message({"input_tokens": 10, "output_tokens": 5, "inference_geo": "moon"})),
    (CHAT, ask("gpt-4o"), chat({"prompt_tokens": 10, "completion_tokens": 5}, service_tier="instant")),
]


@pytest.mark.parametrize(("path", "body", "reply"), SERVED)
async def test_what_was_served_unasked_and_has_no_price_costs_all_that_was_reserved(
    path: str, body: dict[str, Any], reply: dict[str, Any], canned: Callable[..., Any]
) -> None:
    """Nobody here knows what it costs; the plain price would be a guess in the client's favour."""
    async with canned(budget="1000000 USD/day") as house:
        house.upstream.body = orjson.dumps(reply)
        status, said = await house.post(path, {**body, "max_tokens": 5_000})
        assert status == 200, said
        found = await house.usage()

    into, out = (Decimal("2.50"), 10) if path == CHAT else (Decimal(1), 5)
    assert Decimal(found["spent_usd"]) > (Decimal(5_000 * out) + 64 * into) / 10**6
