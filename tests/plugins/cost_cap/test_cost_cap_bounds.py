"""What is reserved before a call is sent: tools, tiers, predictions; and what has no price is not sent."""

from collections.abc import Callable
from decimal import Decimal
from types import MappingProxyType
from typing import Any

import orjson
import pytest

from llmshield.call import Attempt, Usage
from llmshield.errors import PolicyError
from llmshield.prices import ModelPrice, Prices, Quote, Rates
from llmshield.testing import policy, read
from llmshield_plugins.cost_cap.bounds import bound_of, price_options
from llmshield_plugins.cost_cap.settlement import charge_for, thinks_unseen
from llmshield_plugins.cost_cap.tools import NOTHING, Offered, offered_by

HI = [{"role": "user", "content": "Hi"}]
CHAT, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/responses", "/v1/messages"
GEMINI = "/v1beta/models/gemini-2.5-flash:generateContent"
PARTS = {"contents": [{"role": "user", "parts": [{"text": "Hi"}]}]}
PRICE = ModelPrice(
    Rates(10**12, 10**12), context=100_000, per_tool=10**10,
    tools=MappingProxyType({"web_search": 10**10, "file_search": 2_500_000_000}),
)  # fmt: skip
BARE = ModelPrice(Rates(10**12, 10**12), context=100_000)


def attempt_of(path: str, body: dict[str, Any], model: str = "") -> Attempt:
    call = read({**({} if "gemini" in path else {"model": model or "gpt-4o-mini"}), **body}, path=path)
    attempt = Attempt(
        call, number=1, provider="p", model=model or call.model, dialect=call.dialect, body=dict(call.body)
    )
    attempt.input_bytes, attempt.unseen, attempt.choices = 1_000, tuple(call.unseen), call.choices
    return attempt


SEARCH = {"type": "web_search_20250305", "name": "web_search"}
FETCH = {"type": "web_fetch_20250910", "name": "web_fetch"}
CODE = {"type": "code_interpreter", "container": {"type": "auto"}}
MINE = {"type": "function", "name": "f", "parameters": {}}
OFFERS: dict[str, tuple[str, dict[str, Any], Offered]] = {
    "nothing": (RESPONSES, {"input": "x"}, NOTHING),
    "the client's own": (RESPONSES, {"input": "x", "tools": [MINE]}, NOTHING),
    "a search": (RESPONSES, {"input": "x", "tools": [{"type": "web_search"}]}, Offered(3, 3, limit=3)),
    "a dated search": (RESPONSES, {"input": "x", "tools": [{"type": "web_search_2025_08_26"}]}, Offered(3, 3, limit=3)),
    "a preview of it": (RESPONSES, {"input": "x", "tools": [{"type": "web_search_preview_2025_03_11"}]}, Offered(3, 3, limit=3)),
    "a stated bound": (RESPONSES, {"input": "x", "tools": [{"type": "web_search"}], "max_tool_calls": 7}, Offered(7, 7)),
    "files": (RESPONSES, {"input": "x", "tools": [{"type": "file_search", "vector_store_ids": ["v"]}]}, Offered(3, fees=3 * 2_500_000_000, limit=3)),
    "a remote tool": (RESPONSES, {"input": "x", "tools": [{"type": "mcp", "server_label": "l", "server_url": "u"}]}, Offered(3, limit=3)),
    "code": (RESPONSES, {"input": "x", "tools": [CODE]}, Offered(3, unpriced="code_interpreter", limit=3)),
    "a picture": (RESPONSES, {"input": "x", "tools": [{"type": "image_generation"}]}, Offered(3, unpriced="image_generation", limit=3)),
    "one of tomorrow": (RESPONSES, {"input": "x", "tools": [{"type": "time_travel"}]}, Offered(3, unpriced="time_travel", limit=3)),
    "chat that searches": (CHAT, {"messages": HI, "web_search_options": {}}, Offered(1, 1)),
    "chat without tools": (CHAT, {"messages": HI}, NOTHING),
    "messages, search": (MESSAGES, {"messages": HI, "max_tokens": 5, "tools": [SEARCH]}, Offered(3, 3, limit=3)),
    "messages, bounded": (MESSAGES, {"messages": HI, "max_tokens": 5, "tools": [{**SEARCH, "max_uses": 5}, {**FETCH, "max_uses": 2}]}, Offered(7, 7)),
    "messages, half bounded": (MESSAGES, {"messages": HI, "max_tokens": 5, "tools": [{**SEARCH, "max_uses": 5}, FETCH]}, Offered(8, 8, limit=3)),
    "messages, code": (MESSAGES, {"messages": HI, "max_tokens": 5, "tools": [{"type": "code_execution_20250825", "name": "code_execution"}]}, Offered(3, unpriced="code_execution")),
    "messages, bash": (MESSAGES, {"messages": HI, "max_tokens": 5, "tools": [{"type": "bash_20250124", "name": "bash"}]}, NOTHING),
    "messages, remote": (MESSAGES, {"messages": HI, "max_tokens": 5, "mcp_servers": [{"type": "url", "url": "u", "name": "n"}]}, Offered(3)),
    "Gemini, search": (GEMINI, {**PARTS, "tools": [{"googleSearch": {}}]}, Offered(3, 3)),
    "Gemini, snake case": (GEMINI, {**PARTS, "tools": [{"google_search": {}}, {"url_context": {}}]}, Offered(3, 3)),
    "Gemini, code": (GEMINI, {**PARTS, "tools": [{"codeExecution": {}}]}, Offered(3)),
    "Gemini, maps": (GEMINI, {**PARTS, "tools": [{"googleMaps": {}}]}, Offered(3, unpriced="google_maps")),
    "Gemini, functions": (GEMINI, {**PARTS, "tools": [{"functionDeclarations": [{"name": "f"}]}]}, NOTHING),
}  # fmt: skip


@pytest.mark.parametrize("name", OFFERS)
def test_what_the_providers_tools_can_add(name: str) -> None:
    path, body, expected = OFFERS[name]

    assert offered_by(attempt_of(path, body), PRICE, 3) == expected


def test_a_search_without_a_price_in_the_list_has_none() -> None:
    attempt = attempt_of(RESPONSES, {"input": "x", "tools": [{"type": "web_search"}]})

    assert offered_by(attempt, BARE, 3).unpriced == "web_search"
    searching = attempt_of(CHAT, {"messages": HI}, "gpt-4o-search-preview")
    assert offered_by(searching, BARE, 3).unpriced == "web_search", "it searches without being asked"


def test_each_round_of_a_tool_reads_the_whole_context_again() -> None:
    attempt = attempt_of(RESPONSES, {"input": "x", "tools": [{"type": "web_search"}], "max_tool_calls": 7})
    bound, holds = bound_of(attempt, PRICE, offered_by(attempt, PRICE, 3))

    assert holds
    assert (bound.input, bound.tools) == (100_000 * 8, 7)
    assert Quote(PRICE, bound).worst_case(0) == 100_000 * 8 * 10**6 + 7 * 10**10


SHOT = {"type": "computer_call_output", "call_id": "c",
        "output": {"type": "computer_screenshot", "image_url": "https://x/a.png"}}  # fmt: skip
DRAWN = {"type": "image_generation_call", "id": "ig_1", "status": "completed"}
SOUND = {"contents": [{"parts": [{"inlineData": {"mimeType": "audio/flac", "data": "ZkxhQw=="}}]}]}
HELD: dict[str, tuple[str, dict[str, Any], int]] = {
    "ten screenshots": (RESPONSES, {"input": [SHOT] * 10}, 1_064 + 100_000),
    "ten pictures made before": (RESPONSES, {"input": [{**DRAWN, "result": "iVBORw=="}] * 10}, 1_064 + 100_000),
    "ten pictures that read as text": (RESPONSES, {"input": [{**DRAWN, "result": "aGVsbG8="}] * 10}, 1_064 + 100_000),
    "ten more in URLs": (RESPONSES, {"input": [{"role": "user", "content": [
        {"type": "input_image", "image_url": "data:image/png;base64,aGVsbG8="}] * 10}]}, 1_064 + 100_000),
    "and at Gemini": (GEMINI, {"contents": [{"parts": [
        {"inlineData": {"mimeType": "image/png", "data": "aGVsbG8="}}] * 10}]}, 1_064 + 100_000),
    "and at Anthropic": (MESSAGES, {"max_tokens": 5, "messages": [{"role": "user", "content": [
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGVsbG8="}}] * 10}]}, 1_064 + 100_000),
    "their ids alone": (RESPONSES, {"input": [DRAWN]}, 100_000),
    "an id without a type": (RESPONSES, {"input": [{"id": "msg_1"}]}, 100_000),
    "a compaction": (RESPONSES, {"input": "x", "context_management": [{"type": "compaction"}]}, 400_000),
    "a message with an id": (RESPONSES, {"input": [{"id": "msg_1", "role": "user", "content": "x"}]}, 1_064),
    "sound at Gemini": (GEMINI, SOUND, 100_000),
    "a PDF of plain letters": (RESPONSES, {"input": [{"role": "user", "content": [
        {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBERi0xLjQKMSAwIG9iago="}]}]}, 100_000),
    "a source of tomorrow": (MESSAGES, {"max_tokens": 5, "messages": [{"role": "user", "content": [
        {"type": "document", "source": {"type": "cloud", "uri": "x"}}]}]}, 100_000),
}  # fmt: skip


@pytest.mark.parametrize("name", HELD)
def test_what_is_elsewhere_or_dense_is_no_matter_of_bytes(name: str) -> None:
    path, body, tokens = HELD[name]
    model = "gpt-4o" if path != GEMINI else "gemini-2.5-flash"
    attempt = attempt_of(path, body, model)
    bound, bounded = bound_of(attempt, PRICE, offered_by(attempt, PRICE, 3))
    assert (bound.input, bounded) == (tokens, True)


def test_a_prediction_may_be_billed_as_output() -> None:
    """https://platform.openai.com/docs/guides/predicted-outputs: rejected tokens are billed beside the answer."""
    attempt = attempt_of(CHAT, {"messages": HI, "prediction": {"type": "content", "content": "a b c"}})
    bound, _ = bound_of(attempt, PRICE, NOTHING)

    assert bound.extra_output == 1_000
    assert Quote(PRICE, bound).worst_case(10) == (1_064 + 1_000 + 10) * 10**6


OPTIONS = [
    ({"service_tier": "Priority", "speed": "fast"}, {"service_tier": "priority", "speed": "fast"}),
    ({"serviceTier": "SERVICE_TIER_FLEX"}, {"service_tier": "flex"}),
    ({"inference_geo": "us"}, {"inference_geo": "us"}),
    ({"service_tier": None}, {}),
    ({}, {}),
]


@pytest.mark.parametrize(("body", "expected"), OPTIONS)
def test_a_body_says_how_it_is_served(body: dict[str, Any], expected: dict[str, str]) -> None:
    assert dict(price_options(body)) == expected


UNPRICED = [
    ("a region that the list has no price for", MESSAGES, {"model": "claude-opus-4-8", "messages": HI, "max_tokens": 5, "inference_geo": "eu"}, b"No price is known for model"),
    ("a tier that the list has no price for", CHAT, {"model": "gpt-4o-audio-preview", "messages": HI, "service_tier": "priority"}, b"No price is known for model"),
    ("fast, where the list knows no fast", MESSAGES, {"model": "claude-haiku-4-5", "messages": HI, "max_tokens": 5, "speed": "fast"}, b"No price is known for model"),
    ("a container", RESPONSES, {"model": "gpt-4o-mini", "input": "x", "tools": [CODE]}, b"tool 'code_interpreter'"),
    ("a search at a model without its price", CHAT, {"model": "gpt-4o-search-preview", "messages": HI}, b"tool 'web_search'"),
]  # fmt: skip


@pytest.mark.parametrize(("what", "path", "body", "said"), UNPRICED, ids=lambda value: value if isinstance(value, str) and value[:1] != "/" else "")  # fmt: skip
async def test_what_the_list_cannot_price_is_not_sent(
    what: str, path: str, body: dict[str, Any], said: bytes, canned: Callable[..., Any]
) -> None:
    async with canned() as house:
        status, reply = await house.post(path, body)

        assert status == 404, what
        assert said in reply
        assert house.upstream.connections == 0


async def test_a_policy_may_price_a_tool(canned: Callable[..., Any]) -> None:
    """The body carries the bound of rounds that was reserved for."""
    usage = {"input_tokens": 10, "output_tokens": 10}
    reply = {
        "id": "r",
        "object": "response",
        "status": "completed",
        "model": "m",
        "output": [],
        "usage": usage,
    }
    async with canned("tool_prices: {code_interpreter: 0.03 USD/call}, tool_rounds: 2".replace(", tool", "\n    tool")) as house:  # fmt: skip
        house.upstream.body = orjson.dumps(reply)
        status, said = await house.post(RESPONSES, {"model": "gpt-4o-mini", "input": "x", "tools": [CODE]})
        assert status == 200, said

        assert house.upstream.requests[0]["max_tool_calls"] == 2
        assert await house.spent() == Decimal("0.0000075")


async def test_searches_are_bounded_in_the_body(canned: Callable[..., Any]) -> None:
    """Anthropic's own word for it, on the tools that have none yet; the client's bound stays."""
    async with canned() as house:
        house.upstream.body = b'{"type": "error", "error": {"type": "x", "message": "x"}}'
        tools = [SEARCH, {**FETCH, "max_uses": 9}, {"name": "mine", "input_schema": {"type": "object"}}]
        await house.post(
            MESSAGES, {"model": "claude-haiku-4-5", "messages": HI, "max_tokens": 50, "tools": tools}
        )

        sent = house.upstream.requests[0]["tools"]
        assert [tool.get("max_uses") for tool in sent] == [3, 9, None]


async def test_without_a_budget_nothing_is_touched(canned: Callable[..., Any], policy_text: str) -> None:
    text = policy_text.replace("{{free: {{budget: {budget}}}}}", "{{free: {{}}}}")
    async with canned(text=text) as house:
        house.upstream.body = b'{"error": {"message": "x"}}'
        body = {"model": "gpt-4o-mini", "input": "x", "tools": [CODE]}
        await house.post(RESPONSES, body)

        assert house.upstream.requests == [body]


THINKERS = [
    (CHAT, {"model": "gpt-5", "messages": HI}, True),
    (CHAT, {"model": "openai/o3-mini", "messages": HI}, True),
    (CHAT, {"model": "gpt-5-chat-latest", "messages": HI}, False),
    (CHAT, {"model": "gpt-4o", "messages": HI}, False),
    (MESSAGES, {"model": "claude-opus-4-8", "messages": HI, "max_tokens": 5_000, "thinking": {"type": "adaptive"}}, True),
    (MESSAGES, {"model": "claude-opus-4-8", "messages": HI, "max_tokens": 5_000}, False),
    (GEMINI, PARTS, False),
]  # fmt: skip


@pytest.mark.parametrize(("path", "body", "expected"), THINKERS)
def test_who_thinks_unseen(path: str, body: dict[str, Any], expected: bool) -> None:
    assert thinks_unseen(attempt_of(path, body, body.get("model", ""))) is expected


def test_a_thinker_that_is_cut_is_charged_in_full_unless_it_reported() -> None:
    price = Prices({}).price("p", "openai", "gpt-5")
    assert price is not None
    attempt = attempt_of(CHAT, {"messages": HI, "stream": True}, "gpt-5")
    attempt.sent, attempt.status, attempt.outcome, attempt.output_chars = True, 200, "cancelled", 3
    bound, _ = bound_of(attempt, price, NOTHING)
    reserved = Quote(price, bound).worst_case(5_000)

    def amount() -> int:
        charge = charge_for(attempt, price, bound, reserved, lost_in_full=True, cut_in_full=False)
        assert charge is not None
        return charge.amount

    assert amount() == reserved
    attempt.usage = Usage(input=10, output=700, reasoning=690)
    assert amount() == 10 * 1_250_000 + 700 * 10_000_000


SILENT = [
    (CHAT, "openai", "gpt-5", True),
    (CHAT, "openai", "gpt-4o", False),
    (GEMINI, "gemini", "gemini-2.5-flash", True),
    (GEMINI, "gemini", "gemini-2.0-flash", False),
    ("/v1/embeddings", "openai", "text-embedding-3-small", False),
]


@pytest.mark.parametrize("usage", [None, Usage(malformed=True)])
@pytest.mark.parametrize(("path", "family", "model", "full"), SILENT)
def test_a_thinker_without_a_report_is_charged_in_full(
    path: str, family: str, model: str, full: bool, usage: Usage | None
) -> None:
    """The answer is whole, its text short: what was thought besides nobody here knows."""
    price = Prices({}).price("p", family, model)
    assert price is not None
    body = {GEMINI: PARTS, CHAT: {"messages": HI}}.get(path, {"input": "x"})
    attempt = attempt_of(path, body, model)
    attempt.sent, attempt.status, attempt.outcome, attempt.output_chars = True, 200, "ok", 3
    attempt.usage = usage
    bound, _ = bound_of(attempt, price, NOTHING)
    reserved = Quote(price, bound).worst_case(5_000)
    charge = charge_for(attempt, price, bound, reserved, lost_in_full=True, cut_in_full=False)

    assert charge is not None
    assert (charge.amount == reserved) is full or price.rates.output is None


def test_two_of_them_would_book_the_same_money_twice() -> None:
    text = "plugins: [{use: cost_cap}, {use: cost_cap, name: second}]"
    with pytest.raises(PolicyError, match="may stand in a policy once"):
        policy(text)


def test_a_hold_is_what_a_reservation_says() -> None:
    """The figures of a plain call and those of the general way are the same."""
    from llmshield_plugins.cost_cap.bounds import TEMPLATE_TOKENS, plain_bound
    from llmshield_plugins.cost_cap.tariff import Plain

    for model, family in (("gpt-4o-mini", "openai"), ("gpt-5.4", "openai"), ("gemini-2.5-flash", "gemini")):
        price = Prices({}).price("p", family, model)
        assert price is not None
        known = Plain.of(price)
        for size in (10, 5_000, 100_000, 271_936):
            attempt = attempt_of(CHAT, {"messages": HI, "n": 3}, model)
            attempt.input_bytes = size
            tokens = size + TEMPLATE_TOKENS
            assert tokens <= known.tokens
            quick = Quote.at(tokens * known.into + known.fee, known.out * attempt.choices)
            general = Quote(price, plain_bound(attempt, price))
            for output in (0, 1, 16, 4_096):
                assert quick.worst_case(output) == general.worst_case(output)
            assert quick.affordable_output(10**10) == general.affordable_output(10**10)
