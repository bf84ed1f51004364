"""The guard by itself: over a real ledger, with attempts as the engine makes them."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from llmshield.call import Attempt, Call, Usage
from llmshield.endings import Endings
from llmshield.ledger import Ledger
from llmshield.metrics import Metrics
from llmshield.prices import Prices, Quote
from llmshield.stores import open_store
from llmshield.testing import Lent, policy, read
from llmshield.verdicts import Block
from llmshield_plugins.cost_cap import CostCap
from llmshield_plugins.cost_cap.bounds import asks_long_cache, price_options
from llmshield_plugins.cost_cap.bounds import bound_of as bound_with
from llmshield_plugins.cost_cap.settlement import charge_for
from llmshield_plugins.cost_cap.tools import offered_by

POLICY = """
providers: {{openai: {{dialect: openai, base_url: "http://127.0.0.1:1/v1"}}}}
tenants: {{anonymous: {{tier: free}}}}
tiers: {{free: {{budget: {budget}}}}}
plugins:
  - use: cost_cap
    {settings}
"""


def bound_of(attempt: Attempt, price: Any, rounds: int) -> Any:
    return bound_with(attempt, price, offered_by(attempt, price, rounds))


def chat(model: str = "gpt-4o-mini", **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": "How are you?"}], **more}


class Guarded:
    """The plugin over a real ledger, and attempts as the engine makes them."""

    def __init__(self, plugin: CostCap, ledger: Ledger, store: Any, prices: Prices) -> None:
        self.plugin, self.ledger, self.store, self.prices = plugin, ledger, store, prices

    async def ask(
        self, call: Call, number: int = 1, *, provider: str = "openai"
    ) -> tuple[Attempt, Block | None]:
        attempt = make_attempt(call, number=number, provider=provider)
        self.plugin.pre_request(call)
        said = await run_guard(call, attempt)
        return attempt, said


async def run_guard(call: Call, attempt: Attempt) -> Block | None:
    """Ask the last guard of a call, as the engine does."""
    said = call._attempt_guards[-1].run(attempt)
    if isinstance(said, Awaitable):
        said = await said
    assert said is None or isinstance(said, Block)
    return said


def make_attempt(call: Call, *, number: int = 1, provider: str = "openai") -> Attempt:
    attempt = Attempt(
        call, number=number, provider=provider, model=call.model, dialect=call.dialect, body=dict(call.body)
    )
    attempt.input_bytes = 1_000
    attempt.output_bound = call.output_bound
    attempt.choices = call.choices
    attempt.unseen = tuple(call.unseen)
    return attempt


@pytest.fixture
async def guarded() -> AsyncIterator[Callable[..., Any]]:
    closing: list[Any] = []

    async def make(settings: str = "", budget: str = "1 USD/day") -> Guarded:
        given = policy(POLICY.format(settings=settings, budget=budget))
        store = open_store("memory://")
        ledger, prices = Ledger(store), Prices(given.providers)
        entry = given.plugins[0]
        plugin = entry.plugin(entry.settings)
        assert isinstance(plugin, CostCap)
        await plugin.start(Lent(given, ledger, prices, Metrics(), store))
        closing.append(plugin)
        return Guarded(plugin, ledger, store, prices)

    yield make
    for plugin in closing:
        await plugin.close()


def call_of(**more: Any) -> Call:
    call = read(chat(max_tokens=100, **more))
    call.tier = "free"
    return call


async def test_a_store_that_is_away_is_closed(guarded: Callable[..., Any]) -> None:
    plugin = (await guarded()).plugin
    lost = open_store("sqlite:///never-opened.db")
    plugin._ledger, plugin._instant = Ledger(lost), False
    call = call_of()
    plugin.pre_request(call)
    said = await run_guard(call, make_attempt(call))

    assert isinstance(said, Block)
    assert said.kind == "store_unavailable"


async def test_a_hold_of_the_worst_case_is_visible(guarded: Callable[..., Any]) -> None:
    house = await guarded()
    attempt, said = await house.ask(call_of())
    price = house.prices.price("openai", "openai", "gpt-4o-mini")
    bound, bounded = bound_of(attempt, price, 3)

    assert said is None
    assert bounded
    assert attempt.reserved_picousd == Quote(price, bound).worst_case(100)
    assert (await house.store.balances())[0].held == attempt.reserved_picousd


UNSEEN = [
    (("previous_response_id",), 128_000),
    (("file_id",), 128_000),
    (("server_tool:web_search",), 128_000 * 4),
    (("encrypted_content",), 1_064),
    (("audio_data",), 1_064),
    (("image_url",), 1_064 + 50_000),
]


@pytest.mark.parametrize(("unseen", "tokens"), UNSEEN)
async def test_content_that_the_provider_holds_is_reserved_at_the_context(
    guarded: Callable[..., Any], unseen: tuple[str, ...], tokens: int
) -> None:
    house = await guarded(budget="100 USD/day")
    call = call_of()
    call.unseen = list(unseen)
    attempt, said = await house.ask(call)
    price = house.prices.price("openai", "openai", "gpt-4o-mini")
    bound, _ = bound_of(attempt, price, 3)

    assert said is None
    assert bound.input == tokens


async def test_content_that_the_provider_holds_can_be_denied(guarded: Callable[..., Any]) -> None:
    house = await guarded(settings="on_unseen: deny")
    call = call_of()
    call.unseen = ["previous_response_id"]
    _, said = await house.ask(call)

    assert said is not None
    assert "previous_response_id" in said.message
    call = call_of()
    call.unseen = ["image_url"]
    assert (await house.ask(call))[1] is None


async def test_unseen_content_at_a_model_without_a_known_window_is_denied(
    guarded: Callable[..., Any],
) -> None:
    house = await guarded(settings="on_unknown_price: {assume: 1 USD/Mtok}")
    call = read(chat("unheard-of", max_tokens=5))
    call.tier, call.unseen = "free", ["file_id"]
    _, said = await house.ask(call)

    assert said is not None
    assert (await house.store.balances()) == []


def test_a_body_says_how_it_is_served() -> None:
    assert price_options({"service_tier": "Priority", "speed": "fast"}) == (
        ("service_tier", "priority"),
        ("speed", "fast"),
    )
    assert price_options({"serviceTier": "SERVICE_TIER_FLEX"}) == (("service_tier", "flex"),)
    assert price_options({}) == ()


def test_who_asks_for_the_hour_long_cache() -> None:
    block = {"type": "text", "text": "x", "cache_control": {"type": "ephemeral", "ttl": "1h"}}

    assert asks_long_cache({"system": [block]})
    assert asks_long_cache(
        {"messages": [{"role": "user", "content": [{"type": "tool_result", "content": [block]}]}]}
    )
    assert not asks_long_cache({"system": [{**block, "cache_control": {"type": "ephemeral"}}]})
    assert not asks_long_cache({"system": [{**block, "cache_control": {"type": "ephemeral", "ttl": "5m"}}]})


ENDS: list[tuple[dict[str, Any], str, Any]] = [
    # how the attempt ended, what is charged: nothing, all that was reserved, exact picousd, or at least
    ({"sent": False, "outcome": "failed"}, "nothing", None),
    ({"sent": False, "outcome": "blocked"}, "nothing", None),
    ({"sent": True, "outcome": "failed", "status": 503}, "nothing", None),
    ({"sent": True, "outcome": "failed"}, "all", None),
    ({"sent": True, "outcome": "cancelled"}, "all", None),
    ({"sent": True, "outcome": "failed", "status": 200}, "all", None),
    ({"sent": True, "outcome": "ok", "status": 200, "usage": Usage(input=10, output=5)}, "exact", 10 * 150_000 + 5 * 600_000),
    ({"sent": True, "outcome": "ok", "status": 200, "usage": Usage(input=0, output=0)}, "exact", 0),
    ({"sent": True, "outcome": "cancelled", "status": 200, "usage": Usage(input=10, output=1), "output_chars": 40}, "exact", 10 * 150_000 + 40 * 600_000),
    ({"sent": True, "outcome": "ok", "status": 200, "output_chars": 40}, "exact", 1_064 * 150_000 + 40 * 600_000),
    ({"sent": True, "outcome": "ok", "status": 200, "output_chars": 10**6}, "all", None),
    ({"sent": True, "outcome": "ok", "status": 200, "usage": Usage(input=10**6, output=10**6)}, "exact", 10**6 * 750_000),
    ({"sent": True, "outcome": "ok", "status": 200, "usage": Usage(malformed=True), "output_chars": 40}, "exact", 1_064 * 150_000 + 40 * 600_000),
]  # fmt: skip


@pytest.mark.parametrize(("end", "what", "amount"), ENDS)
def test_what_each_end_costs(end: dict[str, Any], what: str, amount: int | None) -> None:
    attempt = make_attempt(read(chat(max_tokens=100)))
    price = Prices({}).price("openai", "openai", "gpt-4o-mini")
    assert price is not None
    bound, _ = bound_of(attempt, price, 3)
    reserved = Quote(price, bound).worst_case(100)
    for name, value in end.items():
        setattr(attempt, name, value)
    charge = charge_for(attempt, price, bound, reserved, lost_in_full=True, cut_in_full=False)

    if what == "nothing":
        assert charge is None
    else:
        assert charge is not None
        assert charge.amount == (reserved if what == "all" else amount)


PASSED = [("/v1/audio/speech", 10_000_000_000), ("/v1/files/x", None), ("/v1/unheard/of", None)]


@pytest.mark.parametrize(("path", "fee"), PASSED)
async def test_what_passes_unread_costs_its_fee(path: str, fee: int | None) -> None:
    given = policy(
        "server: {unknown_traffic: pass, paths: ["
        '{match: "/v1/audio/*", action: pass, price: 0.01 USD/call}, {match: "/v1/files/*", action: pass}]}\n'
        + POLICY.format(settings="", budget="1 USD/day").lstrip()
    )
    store = open_store("memory://")
    ledger = Ledger(store)
    entry = given.plugins[0]
    plugin = entry.plugin(entry.settings)
    await plugin.start(Lent(given, ledger, Prices(given.providers), Metrics(), store))
    call = read(chat())
    call.operation, call.path, call.tier, call.model = "passthrough", path, "free", ""
    attempt = make_attempt(call)
    attempt.model, attempt.output_bound = "", None
    plugin.pre_request(call)  # type: ignore[attr-defined]
    said = await run_guard(call, attempt)
    if fee is None:
        assert isinstance(said, Block)
        assert "no price" in said.message
    else:
        assert said is None
        assert attempt.reserved_picousd == fee
        attempt.sent, attempt.status = True, 200
        await Endings().end_attempt(attempt, "ok")
        assert attempt.cost_picousd == fee
        assert [(found.spent, found.held) for found in await store.balances()] == [(fee, 0), (fee, 0)]
    await plugin.close()


@pytest.mark.parametrize("operation", ["count_tokens", "models"])
async def test_what_no_provider_bills_is_not_guarded(guarded: Callable[..., Any], operation: Any) -> None:
    house = await guarded()
    call = call_of()
    call.operation = operation
    house.plugin.pre_request(call)

    assert call._attempt_guards == []


async def test_the_wrapped_app_pays_its_own_bills(guarded: Callable[..., Any]) -> None:
    house = await guarded(budget="0.000001 USD/day")
    _, said = await house.ask(call_of(), provider="app")

    assert said is None
    assert await house.store.balances() == []


MANY = [
    ({"n": 3}, 3, 3),
    ({"best_of": 5}, 1, 5),
    ({"prompt": ["a", "b", "c"]}, 2, 6),
    ({"prompt": [[1, 2], [3]]}, 1, 2),
    ({"prompt": [1, 2, 3]}, 1, 1),
    ({"prompt": [1, "a", [2]]}, 2, 6),
    ({"prompt": "abc"}, 1, 1),
    ({}, 0, 1),
]


@pytest.mark.parametrize(("more", "choices", "expected"), MANY)
def test_how_many_answers_are_paid_for(more: dict[str, Any], choices: int, expected: int) -> None:
    attempt = make_attempt(read(chat(max_tokens=100)))
    attempt.body, attempt.choices = {**attempt.body, **more}, choices
    price = Prices({}).price("openai", "openai", "gpt-4o-mini")
    assert price is not None

    assert bound_of(attempt, price, 3)[0].choices == expected


TOOLS = [
    ([], 1_064),
    ([{"type": "function", "function": {}}], 2_088),
    ([{"name": "mine", "input_schema": {}}], 2_088),
    ([{"type": "bash_20250124", "name": "bash"}, {"type": "computer_20250124", "name": "computer"}], 4_136),
    ("nonsense", 2_088),
]


@pytest.mark.parametrize(("tools", "expected"), TOOLS)
def test_what_tools_add(tools: Any, expected: int) -> None:
    attempt = make_attempt(read(chat(max_tokens=100)))
    attempt.body = {**attempt.body, "tools": tools}
    price = Prices({}).price("openai", "openai", "gpt-4o-mini")
    assert price is not None

    assert bound_of(attempt, price, 3)[0].input == expected
