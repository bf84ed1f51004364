"""cost_cap behind the real gateway and before the simulated provider: nothing is sent that is not paid for."""

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from llmshield.prices import PICO_PER_USD, Prices

Opened = Callable[..., Any]

MINI = (Decimal("0.15") / 10**6, Decimal("0.60") / 10**6)


def chat(model: str = "gpt-4o-mini", **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": "How are you?"}], **more}


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
async def test_every_route_is_settled_to_the_last_unit(
    path: str, body: dict[str, Any], opened: Opened
) -> None:
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
async def test_a_budget_that_is_too_small_sends_nothing(
    path: str, body: dict[str, Any], opened: Opened
) -> None:
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


async def test_until_it_is_spent_and_no_further(opened: Opened) -> None:
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
    # Some servers obey the one, some the other.
    ({"max_tokens": 5, "max_completion_tokens": 1_000_000_000}, "less"),
    ({"max_tokens": 50, "n": 8}, 50),
]


@pytest.mark.parametrize(("more", "expected"), BOUNDS)
async def test_what_is_sent_carries_the_bound_that_was_reserved(
    more: dict[str, Any], expected: Any, opened: Opened
) -> None:
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


async def test_a_balance_that_buys_less_shortens_the_answer(opened: Opened) -> None:
    async with opened(budget="0.0001 USD/day") as house:
        status, said, _ = await house.post(chat(max_tokens=5_000))
        assert status == 200
        sent = house.sim.calls[0].json["max_tokens"]

        assert 16 <= sent <= 166
        assert said["usage"]["completion_tokens"] <= sent


async def test_a_shorter_answer_than_the_shortest_is_refused(opened: Opened) -> None:
    async with opened(budget="0.00005 USD/day", settings="min_max_tokens: 100") as house:
        status, _, _ = await house.post(chat(max_tokens=5_000))

        assert status == 429
        assert house.sim.calls == []


@pytest.mark.parametrize(
    "hostile", [{"n": 1_000}, {"max_tokens": 1_000_000_000, "n": 100}, {"best_of": 1_000}]
)
async def test_many_answers_are_all_reserved(hostile: dict[str, Any], opened: Opened) -> None:
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
async def test_hostile_bounds_neither_credit_nor_crash(hostile: dict[str, Any], opened: Opened) -> None:
    async with opened() as house:
        status, _, _ = await house.post(chat(**hostile))

        assert status < 500
        assert await house.spent() >= 0


async def test_a_missing_bound_can_be_denied(opened: Opened) -> None:
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
    ("on_unknown_price: 'assume: 10 USD/Mtok'", 200, "more"),
]


@pytest.mark.parametrize(("settings", "expected", "spent"), UNPRICED)
async def test_an_unknown_price(settings: str, expected: int, spent: str, opened: Opened) -> None:
    async with opened(settings=settings) as house:
        status, said, _ = await house.post(chat("my-own-model", max_tokens=50))

        assert status == expected
        if status == 200:
            into, out = house.sim.provider.bill()["my-own-model"]
            assert await house.spent() == (0 if spent == "0" else Decimal(10) * (into + out) / 10**6)
        else:
            assert "No price is known for model 'my-own-model'" in said["error"]["message"]
            assert house.sim.calls == []


async def test_prices_of_the_policy(opened: Opened) -> None:
    async with opened(more=", prices: {input: 1, output: 2, call: 0.01 USD/call}") as house:
        await house.post(chat("whatever", max_tokens=50))
        into, out = house.sim.provider.bill()["whatever"]

        assert await house.spent() == Decimal("0.01") + Decimal(into + 2 * out) / 10**6


async def test_no_budget_is_counted_and_not_touched(opened: Opened, simulated_text: str) -> None:
    text = simulated_text.replace("{{free: {{budget: {budget}}}}}", "{{free: {{}}}}")
    async with opened(text=text) as house:
        assert (await house.post(chat()))[0] == 200
        assert (await house.post(chat("my-own-model")))[0] == 200
        into, out = house.sim.provider.bill()["gpt-4o-mini"]

        assert "max_completion_tokens" not in house.sim.calls[0].json
        assert await house.spent() == into * MINI[0] + out * MINI[1]


SHORTENED = [
    ("/v1/chat/completions", {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "x"}]}, ("max_completion_tokens",)),
    ("/v1/completions", {"model": "gpt-3.5-turbo-instruct", "prompt": "x"}, ("max_tokens",)),
    ("/v1/responses", {"model": "gpt-4o-mini", "input": "x"}, ("max_output_tokens",)),
    ("/v1/messages", {"model": "claude-3-5-haiku-latest", "max_tokens": 8_000, "messages": [{"role": "user", "content": "x"}]}, ("max_tokens",)),
    ("/v1beta/models/gemini-2.5-flash:generateContent", {"contents": [{"parts": [{"text": "x"}]}]}, ("generationConfig", "maxOutputTokens")),
]  # fmt: skip


@pytest.mark.parametrize(("path", "body", "place"), SHORTENED)
async def test_every_dialect_carries_the_bound(
    path: str, body: dict[str, Any], place: tuple[str, ...], opened: Opened
) -> None:
    async with opened(budget="0.002 USD/day") as house:
        status, said, _ = await house.post(body, path)
        assert status == 200, said
        sent = house.sim.calls[0].json
        for step in place:
            sent = sent[step]

        assert 16 <= sent <= 4_096
        assert await house.spent() <= Decimal("0.002")


@pytest.mark.parametrize(("settings", "expected"), [("default_max_tokens: 100", 100), ("", 8_192)])
async def test_the_policys_bound_holds_in_words_that_need_one(
    settings: str, expected: int, opened: Opened, simulated_text: str
) -> None:
    """An unbounded call that goes on to Anthropic, whose API wants a bound: the translation's is not the client's."""
    text = simulated_text.replace(
        "    to: [openai]", "    to: [openai, {{provider: claude, model: claude-3-5-haiku-latest}}]"
    )
    text += "  - use: failover\n"
    async with opened(settings, text=text) as house:
        house.sim.set(fault="500", first=1)
        status, said, _ = await house.post(
            {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "x"}]}
        )
        assert status == 200, said
        first, second = house.sim.calls

        assert first.json["max_completion_tokens"] == (100 if settings else 16_384)
        assert second.json["max_tokens"] == expected
