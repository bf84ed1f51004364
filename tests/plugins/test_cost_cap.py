"""cost_cap behind the real gateway and before the simulated provider: nothing is sent that is not paid for."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest

from llmshield.call import Attempt, Call, Usage
from llmshield.endings import Endings
from llmshield.ledger import Ledger
from llmshield.metrics import Metrics
from llmshield.prices import PICO_PER_USD, Prices, Quote
from llmshield.stores import open_store
from llmshield.testing import FakeProvider, Lent, gateway, policy, read
from llmshield.verdicts import Block
from llmshield_plugins.cost_cap import CostCap
from llmshield_plugins.cost_cap.bounds import asks_long_cache, price_options
from llmshield_plugins.cost_cap.bounds import bound_of as bound_with
from llmshield_plugins.cost_cap.settlement import charge_for
from llmshield_plugins.cost_cap.tools import offered_by


def bound_of(attempt: Attempt, price: Any, rounds: int) -> Any:
    return bound_with(attempt, price, offered_by(attempt, price, rounds))


POLICY = """
server: {{store: "{store}"}}
providers:
  openai: {{dialect: openai, base_url: "{sim}/v1"{more}}}
  claude: {{dialect: anthropic, base_url: "{sim}"}}
  google: {{dialect: gemini, base_url: "{sim}"}}
routes:
  - match: {{model: ["claude-*"]}}
    to: [claude]
  - match: {{model: ["gemini-*"]}}
    to: [google]
  - match: {{any: true}}
    to: [openai]
tenants: {{anonymous: {{tier: free}}}}
tiers: {{free: {{budget: {budget}}}}}
plugins:
  - use: cost_cap
    {settings}
"""


@dataclass
class House:
    """A running gateway, the provider behind it, and a client before it."""

    sim: Any
    url: str
    admin: str
    client: aiohttp.ClientSession

    async def post(self, body: dict[str, Any], path: str = "/v1/chat/completions") -> tuple[int, Any, Any]:
        async with self.client.post(self.url + path, json=body) as reply:
            text = await reply.text()
            data = None
            with contextlib.suppress(ValueError):
                data = await reply.json(content_type=None)
            return reply.status, data if data is not None else text, reply.headers

    async def usage(self) -> dict[str, Any]:
        """The tenant's figures, once nothing is held any more."""
        for _ in range(100):
            async with self.client.get(self.admin + "/usage") as reply:
                found: dict[str, Any] = (await reply.json())["tenants"]["anonymous"]
            if Decimal(found["held_usd"]) == 0:
                return found
            await asyncio.sleep(0.02)
        raise AssertionError(f"still held: {found['held_usd']}")

    async def spent(self) -> Decimal:
        return Decimal((await self.usage())["spent_usd"])


@contextlib.asynccontextmanager
async def opened(
    settings: str = "", budget: str = "1 USD/day", more: str = "", store: str = "memory://"
) -> AsyncIterator[House]:
    async with FakeProvider() as sim:
        text = POLICY.format(sim=sim.url, settings=settings, budget=budget, more=more, store=store)
        async with (
            gateway(text) as (url, admin),
            aiohttp.ClientSession(headers={"authorization": "Bearer k"}) as client,
        ):
            yield House(sim, url, admin, client)


def chat(model: str = "gpt-4o-mini", **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": "How are you?"}], **more}


MINI = (Decimal("0.15") / 10**6, Decimal("0.60") / 10**6)

ROUTES = [
    ("/v1/chat/completions", chat(max_tokens=50)),
    ("/v1/chat/completions", chat(max_tokens=50, stream=True)),
    ("/v1/completions", {"model": "gpt-3.5-turbo-instruct", "prompt": "Hello", "max_tokens": 50}),
    ("/v1/completions", {"model": "gpt-3.5-turbo-instruct", "prompt": "Hello", "max_tokens": 50, "stream": True}),
    ("/v1/responses", {"model": "gpt-4o-mini", "input": "Hello", "max_output_tokens": 50}),
    ("/v1/responses", {"model": "gpt-4o-mini", "input": "Hello", "max_output_tokens": 50, "stream": True}),
    ("/v1/embeddings", {"model": "text-embedding-3-small", "input": "Hello"}),
    ("/v1/messages", {"model": "claude-sonnet-4-5", "max_tokens": 50, "messages": [{"role": "user", "content": "Hello"}]}),
    ("/v1/messages", {"model": "claude-sonnet-4-5", "max_tokens": 50, "stream": True, "messages": [{"role": "user", "content": "Hello"}]}),
    ("/v1beta/models/gemini-2.5-flash:generateContent", {"contents": [{"role": "user", "parts": [{"text": "Hello"}]}]}),
    ("/v1beta/models/gemini-2.5-flash:streamGenerateContent?alt=sse", {"contents": [{"role": "user", "parts": [{"text": "Hello"}]}]}),
]  # fmt: skip


@pytest.mark.parametrize(("path", "body"), ROUTES, ids=lambda value: value if isinstance(value, str) else "")
async def test_every_route_is_settled_to_the_last_unit(path: str, body: dict[str, Any]) -> None:
    async with opened() as house:
        status, _, _ = await house.post(body, path)
        assert status == 200
        spent = await house.spent()
        prices = Prices({})
        expected = 0
        for model, (into, out) in house.sim.provider.bill().items():
            family = "anthropic" if "claude" in model else "gemini" if "gemini" in model else "openai"
            price = prices.price("x", family, model)
            assert price is not None
            expected += -(-(into * price.rates.input + out * (price.rates.output or 0)) // 10**6)

        assert spent == Decimal(expected) / PICO_PER_USD
        assert spent > 0


@pytest.mark.parametrize(("path", "body"), ROUTES, ids=lambda value: value if isinstance(value, str) else "")
async def test_a_budget_that_is_too_small_sends_nothing(path: str, body: dict[str, Any]) -> None:
    async with opened(budget="0.000001 USD/day") as house:
        status, said, _ = await house.post(body, path)

        assert status in {400, 402, 429}
        assert (
            "Budget of 0.000001 USD/day for tenant anonymous has 0.000001 USD left (0 USD), and this call may cost 0.0"
            in str(said)
        )
        assert "Resets 20" in str(said)
        assert house.sim.calls == []
        assert await house.spent() == 0


async def test_until_it_is_spent_and_no_further() -> None:
    """Real calls against a small budget: the bill never exceeds it, and the last refusal says how much it was."""
    async with opened(budget="0.0005 USD/day", settings="default_max_tokens: 100") as house:
        statuses = []
        for _ in range(60):
            status, said, headers = await house.post(chat())
            statuses.append(status)
            if status != 200:
                break
        into, out = house.sim.provider.bill()["gpt-4o-mini"]
        bill = into * MINI[0] + out * MINI[1]

        assert statuses[-1] == 429
        assert len(statuses) > 10
        assert said["error"]["code"] == said["error"]["type"] == "insufficient_quota"
        assert headers["x-should-retry"] == "false"
        assert "retry-after" not in headers
        assert bill == await house.spent() <= Decimal("0.0005")
        assert f"USD left ({round(bill, 6).normalize():f} USD)" in said["error"]["message"]


BOUNDS = [
    # body, what the provider gets: None is no bound at all
    ({}, 16_384),
    ({"max_tokens": 50}, 50),
    ({"max_completion_tokens": 60}, 60),
    ({"max_tokens": 1_000_000_000}, "less"),
    ({"max_tokens": 50, "n": 8}, 50),
]


@pytest.mark.parametrize(("more", "expected"), BOUNDS)
async def test_what_is_sent_carries_the_bound_that_was_reserved(more: dict[str, Any], expected: Any) -> None:
    async with opened(budget="0.02 USD/day") as house:
        status, _, _ = await house.post(chat(**more))
        assert status == 200
        sent = house.sim.calls[0].json
        bound = sent.get("max_completion_tokens", sent.get("max_tokens"))
        if expected == "less":
            assert 0 < bound * MINI[1] <= Decimal("0.02")
        else:
            assert bound == expected
        assert await house.spent() < Decimal("0.02")


async def test_a_balance_that_buys_less_shortens_the_answer() -> None:
    async with opened(budget="0.0001 USD/day") as house:
        status, said, _ = await house.post(chat(max_tokens=5_000))
        assert status == 200
        sent = house.sim.calls[0].json["max_tokens"]

        assert 16 <= sent <= 166
        assert said["usage"]["completion_tokens"] <= sent


async def test_a_shorter_answer_than_the_shortest_is_refused() -> None:
    async with opened(budget="0.00005 USD/day", settings="min_max_tokens: 100") as house:
        status, _, _ = await house.post(chat(max_tokens=5_000))

        assert status == 429
        assert house.sim.calls == []


@pytest.mark.parametrize(
    "hostile", [{"n": 1_000}, {"max_tokens": 1_000_000_000, "n": 100}, {"best_of": 1_000}]
)
async def test_many_answers_are_all_reserved(hostile: dict[str, Any]) -> None:
    async with opened(budget="0.001 USD/day", settings="min_max_tokens: 100") as house:
        status, _, _ = await house.post(chat(**hostile))

        assert status != 200
        assert house.sim.calls == []


@pytest.mark.parametrize(
    "hostile",
    [
        {"max_tokens": -1},
        {"max_tokens": "5"},
        {"max_tokens": 1.5},
        {"n": -3},
        {"n": "2"},
        {"tools": 5},
        {"tools": [{"type": {}}]},
        {
            "messages": [
                {"role": "user", "content": [{"type": {}}, {"type": "image_url", "image_url": {"url": "x"}}]}
            ]
        },
    ],
)
async def test_hostile_bounds_neither_credit_nor_crash(hostile: dict[str, Any]) -> None:
    async with opened() as house:
        status, _, _ = await house.post(chat(**hostile))

        assert status < 500
        assert await house.spent() >= 0


async def test_a_missing_bound_can_be_denied() -> None:
    async with opened(settings="missing_max_tokens: deny") as house:
        assert (await house.post(chat()))[0] == 400
        assert (await house.post(chat(max_tokens=5)))[0] == 200
        assert (await house.post({"model": "text-embedding-3-small", "input": "x"}, "/v1/embeddings"))[
            0
        ] == 200


UNPRICED = [
    ("", 404, "0"),
    ("on_unknown_price: allow", 200, "0"),
    ("on_unknown_price: {assume: 10 USD/Mtok}", 200, "more"),
]


@pytest.mark.parametrize(("settings", "expected", "spent"), UNPRICED)
async def test_an_unknown_price(settings: str, expected: int, spent: str) -> None:
    async with opened(settings=settings) as house:
        status, said, _ = await house.post(chat("my-own-model", max_tokens=50))

        assert status == expected
        if status == 200:
            into, out = house.sim.provider.bill()["my-own-model"]
            assert await house.spent() == (0 if spent == "0" else Decimal(10) * (into + out) / 10**6)
        else:
            assert "No price is known for model 'my-own-model'" in said["error"]["message"]
            assert house.sim.calls == []


async def test_prices_of_the_policy() -> None:
    async with opened(more=", prices: {input: 1, output: 2, call: 0.01 USD/call}") as house:
        await house.post(chat("whatever", max_tokens=50))
        into, out = house.sim.provider.bill()["whatever"]

        assert await house.spent() == Decimal("0.01") + Decimal(into + 2 * out) / 10**6


async def test_no_budget_is_counted_and_not_touched() -> None:
    text = POLICY.replace("{{free: {{budget: {budget}}}}}", "{{free: {{}}}}")
    async with FakeProvider() as sim:
        given = text.format(sim=sim.url, settings="", more="", store="memory://")
        async with (
            gateway(given) as (url, admin),
            aiohttp.ClientSession(headers={"authorization": "Bearer k"}) as client,
        ):
            house = House(sim, url, admin, client)
            assert (await house.post(chat()))[0] == 200
            assert (await house.post(chat("my-own-model")))[0] == 200
            into, out = sim.provider.bill()["gpt-4o-mini"]

            assert "max_completion_tokens" not in sim.calls[0].json
            assert await house.spent() == into * MINI[0] + out * MINI[1]


UNBILLED = ["500", "429", "400", "context_length"]


@pytest.mark.parametrize("fault", UNBILLED)
async def test_what_no_provider_bills_is_free_again(fault: str) -> None:
    async with opened() as house:
        house.sim.set(fault=fault)
        status, _, _ = await house.post(chat(max_tokens=50))

        assert status >= 400
        assert await house.spent() == 0


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "fault", ["cut", "reset", "truncated_json", "error_in_200", "usage_missing", "usage_null", "fin"]
)
async def test_a_broken_answer_costs_at_least_what_the_provider_made(fault: str, stream: bool) -> None:
    async with opened() as house:
        house.sim.set(fault=fault, text="word " * 200)
        await house.post(chat(max_tokens=500, stream=stream))
        spent = await house.spent()
        into, out = house.sim.provider.bill().get("gpt-4o-mini", (0, 0))

        assert spent >= into * MINI[0] + out * MINI[1] * (1 if fault.startswith("usage") else 0)
        assert spent > 0 or not into


LIES = ["usage_decreasing", "usage_differs", "usage_float", "usage_huge", "usage_inf", "usage_list", "usage_nan",
        "usage_negative", "usage_nested", "usage_string", "usage_text", "usage_twice", "usage_after_done"]  # fmt: skip


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fault", LIES)
async def test_lying_usage_neither_credits_nor_crashes(fault: str, stream: bool) -> None:
    async with opened() as house:
        await house.post(chat(max_tokens=50))
        before = await house.spent()
        house.sim.set(fault=fault)
        status, _, _ = await house.post(chat(max_tokens=50, stream=stream))
        after = await house.spent()

        assert status < 500 or status == 502
        assert after >= before
        assert (await house.post(chat(max_tokens=50)))[0] in {200, 429, 502}


async def test_a_provider_that_charges_more_locks_the_tenant() -> None:
    async with opened(budget="100 USD/day") as house:
        house.sim.set(fault="usage_x10", usage="1000:1000")
        status, _, _ = await house.post(chat(max_tokens=50))
        assert status == 200
        spent = await house.spent()
        again, said, _ = await house.post(chat(max_tokens=50))

        assert spent >= 1_000 * (MINI[0] + MINI[1])
        assert again == 429
        assert "is locked" in said["error"]["message"]
        assert len(house.sim.calls) == 1
        async with house.client.get(house.admin + "/metrics") as reply:
            assert 'llmshield_cost_overrun_total{provider="openai"} 1' in await reply.text()


async def test_a_provider_that_charges_more_is_only_recorded() -> None:
    async with opened(settings="on_overrun: record", budget="100 USD/day") as house:
        house.sim.set(usage="100000:1000")
        await house.post(chat(max_tokens=50))

        assert (await house.post(chat(max_tokens=50)))[0] == 200


@pytest.mark.parametrize("cut", ["estimate", "full"])
async def test_a_client_that_leaves_pays_for_what_was_made(cut: str) -> None:
    async with opened(settings=f"cut_stream: {cut}") as house:
        house.sim.set(text="word " * 400, delay=0.005)
        for events in (0, 1, 5, 40):
            async with house.client.post(
                house.url + "/v1/chat/completions", json=chat(max_tokens=600, stream=True)
            ) as reply:
                for _ in range(events):
                    await reply.content.readuntil(b"\n\n")
                reply.close()
            await asyncio.sleep(0.1)
        found = await house.usage()
        into, out = house.sim.provider.bill()["gpt-4o-mini"]
        if cut == "estimate":  # the simulator bills all that it would have said; what it sent is less
            out = sum(call.pieces for call in house.sim.calls)

        assert Decimal(found["spent_usd"]) >= into * MINI[0] + out * MINI[1]
        assert found["requests"] == 4


async def test_monitor_mode_books_and_refuses_nothing() -> None:
    async with opened(settings="mode: monitor", budget="0.000001 USD/day") as house:
        for _ in range(3):
            status, _, _ = await house.post(chat())
            assert status == 200
        into, out = house.sim.provider.bill()["gpt-4o-mini"]

        assert await house.spent() == into * MINI[0] + out * MINI[1] > Decimal("0.000001")
        assert "max_completion_tokens" not in house.sim.calls[0].json


async def test_every_target_is_paid_at_its_own_price() -> None:
    async with FakeProvider(fault="usage_missing") as first, FakeProvider() as second:
        text = f"""
providers:
  one: {{dialect: openai, base_url: "{first.url}/v1", prices: {{input: 100, output: 100}}}}
  two: {{dialect: openai, base_url: "{second.url}/v1", prices: {{input: 1, output: 1}}}}
routes:
  - match: {{any: true}}
    to: [one, two]
tenants: {{anonymous: {{tier: free}}}}
tiers: {{free: {{budget: 1 USD/day}}}}
plugins: [{{use: failover}}, {{use: cost_cap}}]
"""
        first.set(fault="truncated_json")
        async with (
            gateway(text) as (url, admin),
            aiohttp.ClientSession(headers={"authorization": "Bearer k"}) as client,
        ):
            house = House(first, url, admin, client)
            status, _, _ = await house.post(chat(max_tokens=50))
            assert status == 200
            found = await house.usage()
            into, out = second.provider.bill()["gpt-4o-mini"]

            assert found["requests"] == 2
            assert Decimal(found["spent_usd"]) > Decimal(into + out) / 10**6 + Decimal("0.005")


async def test_own_caps_by_model() -> None:
    settings = 'caps: [{by: [tenant, model], limit: 0.000001 USD/day, models: "gpt-4o"}]'
    async with opened(settings=settings) as house:
        status, said, _ = await house.post(chat("gpt-4o", max_tokens=50))

        assert status == 429
        assert "for model gpt-4o, tenant anonymous has 0.000001 USD left" in said["error"]["message"]
        assert (await house.post(chat(max_tokens=50)))[0] == 200


async def test_restarts_forget_nothing(tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path / 'spend.db'}"
    async with opened(store=store) as house:
        await house.post(chat(max_tokens=50))
        before = await house.usage()
    async with opened(store=store) as house:
        assert await house.usage() == before


# -- the guard by itself


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
        given = policy(
            POLICY.format(
                sim="http://127.0.0.1:1", settings=settings, budget=budget, more="", store="memory://"
            )
        )
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
    text = POLICY.replace(
        'server: {{store: "{store}"}}',
        "server: {{unknown_traffic: pass, paths: ["
        '{{match: "/v1/audio/*", action: pass, price: 0.01 USD/call}}, {{match: "/v1/files/*", action: pass}}]}}',
    )
    given = policy(text.format(sim="http://127.0.0.1:1", settings="", budget="1 USD/day", more="", store=""))
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


SHORTENED = [
    ("/v1/chat/completions", {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "x"}]}, ("max_completion_tokens",)),
    ("/v1/completions", {"model": "gpt-3.5-turbo-instruct", "prompt": "x"}, ("max_tokens",)),
    ("/v1/responses", {"model": "gpt-4o-mini", "input": "x"}, ("max_output_tokens",)),
    ("/v1/messages", {"model": "claude-3-5-haiku-latest", "max_tokens": 8_000, "messages": [{"role": "user", "content": "x"}]}, ("max_tokens",)),
    ("/v1beta/models/gemini-2.5-flash:generateContent", {"contents": [{"parts": [{"text": "x"}]}]}, ("generationConfig", "maxOutputTokens")),
]  # fmt: skip


@pytest.mark.parametrize(("path", "body", "place"), SHORTENED)
async def test_every_dialect_carries_the_bound(
    path: str, body: dict[str, Any], place: tuple[str, ...]
) -> None:
    async with opened(budget="0.002 USD/day") as house:
        status, said, _ = await house.post(body, path)
        assert status == 200, said
        sent = house.sim.calls[0].json
        for step in place:
            sent = sent[step]

        assert 16 <= sent <= 4_096
        assert await house.spent() <= Decimal("0.002")


async def test_streams_left_at_a_random_byte_are_settled_once_each(tmp_path: Path) -> None:
    """200 of them, 20 at a time, over a SQLite book; the client's own socket, so that it may end with a reset."""
    store = f"sqlite:///{tmp_path / 'left.db'}"
    rng = random.Random(17)
    body = orjson.dumps(chat(max_tokens=300, stream=True))
    async with opened(store=store, budget="1000 USD/day") as house:
        house.sim.set(text="word " * 100, delay=0.001)
        port = int(house.url.rsplit(":", 1)[1])
        places = asyncio.Semaphore(20)

        async def leave(after: int, reset: bool) -> None:
            async with places:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer k\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
                writer.write(head.encode() + body)
                got = 0
                while got < after:
                    data = await reader.read(after - got)
                    if not data:
                        break
                    got += len(data)
                if reset:
                    writer.transport.abort()
                else:
                    writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()

        await asyncio.gather(*[leave(rng.randrange(1, 22_000), rng.random() < 0.5) for _ in range(200)])
        for _ in range(100):
            found = await house.usage()
            if found["requests"] == 200:
                break
            await asyncio.sleep(0.05)
        sent = len(house.sim.calls)

    book = open_store(store)
    await book.open()
    entries = [entry async for entry in book.journal()]
    holds = await book.holds()
    await book.close()

    assert found["requests"] == sent == len(entries) == len({entry.id for entry in entries}) == 200
    assert holds == 0
    assert all(entry.kind == "settle" and entry.amount > 0 for entry in entries)
