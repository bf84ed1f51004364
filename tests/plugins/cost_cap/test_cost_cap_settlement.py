"""What attempts cost in the end: errors, broken and lying answers, clients that leave, overruns, failover."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from llmshield.testing import FakeProvider, gateway

Opened = Callable[..., Any]

MINI = (Decimal("0.15") / 10**6, Decimal("0.60") / 10**6)


def chat(model: str = "gpt-4o-mini", **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": "How are you?"}], **more}


UNBILLED = ["500", "429", "400", "context_length"]


@pytest.mark.parametrize("fault", UNBILLED)
async def test_what_no_provider_bills_is_free_again(fault: str, opened: Opened) -> None:
    async with opened() as house:
        house.sim.set(fault=fault)
        status, _, _ = await house.post(chat(max_tokens=50))

        assert status >= 400
        assert await house.spent() == 0


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "fault", ["cut", "reset", "truncated_json", "error_in_200", "usage_missing", "usage_null", "fin"]
)
async def test_a_broken_answer_costs_at_least_what_the_provider_made(
    fault: str, stream: bool, opened: Opened
) -> None:
    async with opened() as house:
        house.sim.set(fault=fault, text="word " * 200)
        await house.post(chat(max_tokens=500, stream=stream))
        spent = await house.spent()
        into, out = house.sim.provider.bill().get("gpt-4o-mini", (0, 0))

        assert spent >= into * MINI[0] + out * MINI[1] * (1 if fault.startswith("usage") else 0)
        assert spent > 0 or not into


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fault", ["silence", "slow_head", "slow_first"])
async def test_silence_may_have_been_billed(fault: str, stream: bool) -> None:
    """The provider was asked and may be at work: that the gateway waits no longer takes nothing back."""
    async with FakeProvider(fault=fault, pause=2) as sim, _house(sim.url) as (url, admin):
        status = await _post(url, chat("m", max_tokens=50, stream=stream))

        assert 504 == status
        assert (
            await _spent(admin) >= Decimal(100) / 10**6
        )  # the 50 tokens that it might say, at 2 USD for a million


async def test_an_error_behind_the_first_tokens_does_not_make_them_free() -> None:
    async with (
        FakeProvider(fault="error_in_200", after=20, text="word " * 60) as sim,
        _house(sim.url) as (url, admin),
    ):
        await _post(url, chat("m", max_tokens=200, stream=True))

        assert await _spent(admin) >= Decimal(2 * 19) / 10**6


@contextlib.asynccontextmanager
async def _house(provider: str) -> AsyncIterator[tuple[str, str]]:
    async with gateway(f"""
providers:
  a: {{dialect: openai, base_url: {provider}/v1, prices: {{input: 1, output: 2}}, timeout: {{first_token: 200ms}}}}
tenants: {{anonymous: {{tier: free}}}}
tiers: {{free: {{budget: 1 USD/day}}}}
plugins: [{{use: cost_cap}}]
""") as urls:
        yield urls


async def _post(url: str, body: dict[str, Any]) -> int:
    async with aiohttp.ClientSession() as http, http.post(f"{url}/v1/chat/completions", json=body) as reply:
        await reply.read()
        return reply.status


async def _spent(admin: str) -> Decimal:
    async with aiohttp.ClientSession() as http, http.get(f"{admin}/usage") as reply:
        found = (await reply.json())["tenants"]["anonymous"]
    assert Decimal(found["held_usd"]) == 0
    return Decimal(found["spent_usd"])


LIES = ["usage_decreasing", "usage_differs", "usage_float", "usage_huge", "usage_inf", "usage_list", "usage_nan",
        "usage_negative", "usage_nested", "usage_string", "usage_text", "usage_twice", "usage_after_done"]  # fmt: skip


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fault", LIES)
async def test_lying_usage_neither_credits_nor_crashes(fault: str, stream: bool, opened: Opened) -> None:
    async with opened() as house:
        await house.post(chat(max_tokens=50))
        before = await house.spent()
        house.sim.set(fault=fault)
        status, _, _ = await house.post(chat(max_tokens=50, stream=stream))
        after = await house.spent()

        assert status < 500 or status == 502
        assert after >= before
        assert (await house.post(chat(max_tokens=50)))[0] in {200, 429, 502}


async def test_a_provider_that_charges_more_locks_the_tenant(opened: Opened) -> None:
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


async def test_a_provider_that_charges_more_is_only_recorded(opened: Opened) -> None:
    async with opened(settings="on_overrun: record", budget="100 USD/day") as house:
        house.sim.set(usage="100000:1000")
        await house.post(chat(max_tokens=50))

        assert (await house.post(chat(max_tokens=50)))[0] == 200


@pytest.mark.parametrize("cut", ["estimate", "full"])
async def test_a_client_that_leaves_pays_for_what_was_made(cut: str, opened: Opened) -> None:
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


async def test_monitor_mode_books_and_refuses_nothing(opened: Opened) -> None:
    async with opened(settings="mode: monitor", budget="0.000001 USD/day") as house:
        for _ in range(3):
            status, _, _ = await house.post(chat())
            assert status == 200
        into, out = house.sim.provider.bill()["gpt-4o-mini"]

        assert await house.spent() == into * MINI[0] + out * MINI[1] > Decimal("0.000001")
        assert "max_completion_tokens" not in house.sim.calls[0].json


async def test_every_target_is_paid_at_its_own_price(simulated: Any) -> None:
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
            house = simulated(first, url, admin, client)
            status, _, _ = await house.post(chat(max_tokens=50))
            assert status == 200
            found = await house.usage()
            into, out = second.provider.bill()["gpt-4o-mini"]

            assert found["requests"] == 2
            assert Decimal(found["spent_usd"]) > Decimal(into + out) / 10**6 + Decimal("0.005")


async def test_own_caps_by_model(opened: Opened) -> None:
    settings = 'caps: [{by: [tenant, model], limit: 0.000001 USD/day, models: "gpt-4o"}]'
    async with opened(settings=settings) as house:
        status, said, _ = await house.post(chat("gpt-4o", max_tokens=50))

        assert status == 429
        assert "for model gpt-4o, tenant anonymous has 0.000001 USD left" in said["error"]["message"]
        assert (await house.post(chat(max_tokens=50)))[0] == 200


async def test_restarts_forget_nothing(tmp_path: Path, opened: Opened) -> None:
    store = f"sqlite:///{tmp_path / 'spend.db'}"
    async with opened(store=store) as house:
        await house.post(chat(max_tokens=50))
        before = await house.usage()
    async with opened(store=store) as house:
        assert await house.usage() == before
