"""`/usage`: money, requests and tokens of each tenant, and what is left of them; asking counts nothing."""

import asyncio
import time as machine
from decimal import Decimal
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from llmshield.hookspecs import Plugin
from llmshield.ledger import Cap, Ledger, Reservation, tenant_account
from llmshield.metrics import Metrics
from llmshield.prices import Prices
from llmshield.stores import Labels, Store, open_store
from llmshield.testing import FakeProvider, Lent, gateway, policy
from llmshield.usage import usage

LIMITED = """
tenants: {acme: {tier: t}, quiet: {tier: t}, free: {}, anonymous: {tier: t}}
tiers: {t: {rate: [5/hour, 20/day, 1000 tokens/minute], budget: [1 USD/hour, 5 USD/24h]}}
plugins: [{use: rate_limit}]
"""


@pytest.fixture(params=["memory", "sqlite"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return "memory://" if request.param == "memory" else f"sqlite:///{tmp_path / 'book.db'}"


async def limiter(store: Store) -> Plugin:
    given = policy(LIMITED)
    entry = given.plugins[0]
    plugin = entry.plugin(entry.settings)
    await plugin.start(Lent(given, Metrics(), store, Prices()))
    return plugin


async def test_what_is_left(url: str) -> None:
    store = open_store(url)
    await store.open()
    ledger, plugin = Ledger(store), await limiter(store)
    caps = (Cap(tenant_account("acme"), 10**12, "hour"), Cap(tenant_account("acme"), 5 * 10**12, "24h"))
    ledger.declare(lambda tenant: caps if tenant == "acme" else ())
    windows = plugin.windows_of("acme")
    now_ms = int(machine.time() * 1000)
    for _ in range(3):
        await store.admit(windows["requests"], (), now_ms)
    await store.count(windows["tokens"], now_ms, 1_200)
    held = await ledger.reserve("a", Labels("acme", "p", "m"), caps, 10**11)
    assert isinstance(held, Reservation)
    await ledger.settle(held, 10**11, 7, 3)

    first = await usage(ledger, store, [plugin], ["acme", "quiet", "free", "anonymous"])
    second = await usage(ledger, store, [plugin], ["acme", "quiet", "free", "anonymous"])
    await plugin.close()
    await store.close()

    acme = first["tenants"]["acme"]
    limits = [
        {name: each[name] for name in ("unit", "limit", "per", "used", "remaining")}
        for each in acme["limits"]
    ]
    assert limits == [
        {"unit": "requests", "limit": 5, "per": "hour", "used": 3, "remaining": 2},
        {"unit": "requests", "limit": 20, "per": "day", "used": 3, "remaining": 17},
        {"unit": "tokens", "limit": 1_000, "per": "minute", "used": 1_200, "remaining": 0},
    ]
    assert all(0 < each["resets_in_s"] <= 90_000 for each in acme["limits"])
    assert acme["remaining"] == {"requests": 2, "tokens": 0, "usd": "0.900000000000"}
    assert (acme["requests"], acme["tokens"], acme["spent_usd"]) == (1, 10, "0.100000000000")
    quiet = first["tenants"]["quiet"]
    assert quiet["remaining"] == {"requests": 5, "tokens": 1_000, "usd": None}
    assert [each["used"] for each in quiet["limits"]] == [0, 0, 0]
    nothing = {"requests": None, "tokens": None, "usd": None}
    assert first["tenants"]["free"]["remaining"] == first["tenants"]["anonymous"]["remaining"] == nothing
    assert [each["used"] for each in second["tenants"]["acme"]["limits"]] == [3, 3, 1_200]


async def test_many_tenants_are_asked_in_parts() -> None:
    store = open_store("memory://")
    plugin = await limiter(store)
    plugin._tier_of = {f"t{index}": "t" for index in range(300)}  # type: ignore[attr-defined]
    await store.admit(plugin.windows_of("t299")["requests"], (), int(machine.time() * 1000))
    page = await usage(Ledger(store), store, [plugin], [f"t{index}" for index in range(300)])
    await plugin.close()

    assert [entry["remaining"]["requests"] for entry in page["tenants"].values()].count(5) == 299
    assert page["tenants"]["t299"]["remaining"]["requests"] == 4


SERVED = """
server: {{store: "{store}"}}
providers: {{openai: {{dialect: openai, base_url: "{sim}/v1"}}}}
routes: [{{match: {{any: true}}, to: [openai]}}]
identify: ["header:x-tenant"]
trusted_proxies: [127.0.0.1/32]
tenants: {{acme: {{tier: pro}}, umbrella: {{tier: pro}}}}
tiers: {{pro: {{rate: [100/hour, 100000 tokens/hour], budget: 5 USD/24h}}}}
plugins:
  - use: rate_limit
  - {{use: cost_cap, caps: [{{limit: 9 USD/day, by: [provider]}}]}}
"""


async def test_as_a_user_sees_it(tmp_path: Path) -> None:
    """Two gateways on one store, whole replies and streams: settled within 3 s, the same page on both."""
    async with FakeProvider() as sim:
        text = SERVED.format(sim=sim.url, store=f"sqlite:///{tmp_path / 'book.db'}")
        headers = {"authorization": "Bearer k", "x-tenant": "acme"}
        async with (
            gateway(text) as (one, admin),
            gateway(text) as (two, other),
            aiohttp.ClientSession(headers=headers) as client,
        ):
            for turn, url in enumerate((one, two, one, two)):
                body: dict[str, Any] = {"model": "gpt-4o-mini", "max_tokens": 30, "stream": turn > 1}
                body["messages"] = [{"role": "user", "content": "Hello"}]
                async with client.post(url + "/v1/chat/completions", json=body) as reply:
                    assert reply.status == 200
                    await reply.read()
            pages = []
            for url in (admin, other):
                deadline = machine.monotonic() + 3
                while True:
                    async with client.get(url + "/usage") as reply:
                        page = await reply.json()
                    if Decimal(page["tenants"]["acme"]["held_usd"]) == 0 or machine.monotonic() > deadline:
                        break
                    await asyncio.sleep(0.05)
                pages.append(page)
            into, out = sim.provider.bill()["gpt-4o-mini"]

    bill = (Decimal("0.15") * into + Decimal("0.60") * out) / 10**6
    for page in pages:
        acme = page["tenants"]["acme"]
        assert Decimal(acme["spent_usd"]) == bill > 0
        assert acme["held_usd"] == "0.000000000000"
        assert (acme["requests"], acme["tokens"]) == (4, into + out)
        assert acme["remaining"] == {
            "requests": 96, "tokens": 100_000 - into - out, "usd": f"{Decimal(5) - bill:.12f}",
        }  # fmt: skip
        assert page["tenants"]["umbrella"]["remaining"]["requests"] == 100
        (cap,) = page["caps"]
        assert (cap["account"], Decimal(cap["spent_usd"])) == ("cap=%2A,provider=openai", bill)
