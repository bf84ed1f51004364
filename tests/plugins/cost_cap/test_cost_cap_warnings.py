"""`warn_at`: each share once per window, over all processes; nothing where no budget asks for it."""

import asyncio
import logging
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from llmshield.errors import StoreUnavailable
from llmshield.ledger import Cap, Ledger, Reservation, tenant_account
from llmshield.metrics import Metrics
from llmshield.prices import Prices
from llmshield.stores import Labels, Store, open_store
from llmshield.testing import FakeProvider, FrozenClock, Lent, gateway, policy
from llmshield_plugins.cost_cap.warnings import Warnings

LABELS = Labels("acme", "openai", "gpt-4o")
MIDNIGHT = datetime(2026, 11, 21, tzinfo=UTC).timestamp()


@pytest.fixture
def time() -> Iterator[FrozenClock]:
    with FrozenClock(MIDNIGHT - 3_600) as frozen:
        yield frozen


class Process:
    """What one process has: its ledger, its warnings and its metrics."""

    def __init__(self, store: Store) -> None:
        self.ledger, self.metrics, self.spent = Ledger(store), Metrics(), 0
        self.warnings = Warnings(self.ledger, self.metrics)

    async def spend(self, amount: int, *caps: Cap) -> None:
        self.spent += 1
        held = await self.ledger.reserve(f"{id(self)}.{self.spent}", LABELS, caps, amount)
        assert isinstance(held, Reservation)
        await self.ledger.settle(held, amount)
        self.warnings.touch(held)

    @property
    def said(self) -> dict[tuple[str, ...], float]:
        count = self.warnings._count
        return {labels: count.value(*labels) for labels in count._values}


def cap(period: str = "day", *shares: float, account: str = "acme") -> Cap:
    return Cap(tenant_account(account), 1_000, period, "UTC", shares or (0.5, 0.8))


async def test_each_share_is_warned_of_once(time: FrozenClock, caplog: pytest.LogCaptureFixture) -> None:
    one, other = Process(store := open_store("memory://")), Process(store)
    with caplog.at_level(logging.WARNING, logger="llmshield"):
        for process in (one, other, one, other, one, other):
            await process.spend(100, cap())
            await process.warnings.look()
        assert len(caplog.records) == 1
        for _ in range(3):
            await other.spend(100, cap())
            await one.spend(1, cap())
        await asyncio.gather(one.warnings.look(), other.warnings.look())

    assert [record.getMessage() for record in caplog.records] == [
        'budget_warning {"budget":"0.000000001000 USD/day","of":"tenant acme","reached":"50%",'
        '"spent_usd":"0.000000000500","window":"day:2026-11-20"}',
        'budget_warning {"budget":"0.000000001000 USD/day","of":"tenant acme","reached":"80%",'
        '"spent_usd":"0.000000000903","window":"day:2026-11-20"}',
    ]
    assert one.said | other.said == {("tenant acme", "50%"): 1, ("tenant acme", "80%"): 1}
    assert sum(one.said.values()) + sum(other.said.values()) == 2


async def test_a_new_window_warns_anew_and_a_clock_set_back_does_not(time: FrozenClock) -> None:
    process = Process(open_store("memory://"))
    await process.spend(500, cap())
    await process.warnings.look()
    time.advance(3_601)
    await process.spend(600, cap())
    await process.warnings.look()
    time.step(-3_602)
    await process.spend(1, cap())
    await process.warnings.look()

    assert process.said == {("tenant acme", "50%"): 2}


async def test_the_last_moment_of_a_window_is_not_forgotten(time: FrozenClock) -> None:
    process = Process(open_store("memory://"))
    time.advance(3_599.9)
    await process.spend(900, cap())
    time.advance(1)
    await process.warnings.look()

    assert process.said == {("tenant acme", "50%"): 1, ("tenant acme", "80%"): 1}


async def test_a_rolling_budget_warns_once_in_its_length(time: FrozenClock) -> None:
    process = Process(open_store("memory://"))
    for _ in range(20):
        await process.spend(50, cap("24h", 0.5))
        await process.warnings.look()
        time.advance(1_800)
    assert process.said == {("tenant acme", "50%"): 1}
    time.advance(20 * 3_600)
    for _ in range(3):
        await process.spend(200, cap("24h", 0.5))
        await process.warnings.look()

    assert process.said == {("tenant acme", "50%"): 2}


async def test_what_is_held_is_not_spent(time: FrozenClock) -> None:
    process = Process(open_store("memory://"))
    await process.ledger.reserve("held", LABELS, (cap(),), 900)
    await process.spend(100, cap())
    await process.warnings.look()

    assert process.said == {}


async def test_a_store_that_is_away_delays_a_warning(time: FrozenClock) -> None:
    process = Process(store := open_store("memory://"))
    await process.spend(500, cap())

    class Away:
        def __getattr__(self, name: str) -> Any:
            async def lost(*args: Any) -> None:
                raise StoreUnavailable("away")

            return lost

    process.ledger._store = Away()  # type: ignore[assignment]
    await process.warnings.look()
    assert process.said == {}
    process.ledger._store = store
    await process.warnings.look()

    assert process.said == {("tenant acme", "50%"): 1}


async def test_no_budget_asks_for_it() -> None:
    """Nothing is noted, so nothing is asked."""
    process = Process(open_store("memory://"))
    await process.spend(900, Cap(tenant_account("acme"), 1_000, "day"))
    assert process.warnings._touched == {}


SERVED = """
server: {{store: "sqlite:///{store}"}}
providers: {{openai: {{dialect: openai, base_url: "{sim}/v1", api_key: "env://KEY"}}}}
routes: [{{match: {{any: true}}, to: [openai]}}]
tenants: {{anonymous: {{tier: free}}}}
tiers: {{free: {{budget: 0.001 USD/day, warn_at: [1%, 99%]}}}}
plugins: [{{use: cost_cap}}]
"""


async def test_two_gateways_warn_once(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import aiohttp

    monkeypatch.setenv("KEY", "k")
    async with FakeProvider() as sim:
        text = SERVED.format(sim=sim.url, store=tmp_path / "book.db")
        async with (
            gateway(text) as (one, admin), gateway(text) as (two, other_admin), aiohttp.ClientSession() as client,
        ):  # fmt: skip
            body = {"model": "gpt-4o-mini", "max_tokens": 40, "messages": [{"role": "user", "content": "Hi"}]}
            for url in (one, two):
                async with client.post(url + "/v1/chat/completions", json=body) as reply:
                    assert reply.status == 200
            warned = 0.0
            for _ in range(60):
                await asyncio.sleep(0.05)
                metrics = ""
                for each in (admin, other_admin):
                    async with client.get(each + "/metrics") as reply:
                        metrics += await reply.text()
                found = [
                    line
                    for line in metrics.splitlines()
                    if line.startswith("llmshield_budget_warnings_total")
                ]
                warned = sum(float(line.split()[-1]) for line in found)
                if warned:
                    break
            await asyncio.sleep(1.1)
            async with client.get(admin + "/usage") as reply:
                budget = (await reply.json())["tenants"]["anonymous"]["budgets"][0]

    assert found == ['llmshield_budget_warnings_total{budget="tenant anonymous",share="1%"} 1']
    assert warned == 1
    assert budget["warned_at"] == ["1%"]


@pytest.mark.parametrize(
    ("tier", "settings", "asks"),
    [
        ("budget: 1 USD/day", "", False),
        ("budget: 1 USD/day, warn_at: [50%]", "", True),
        ("rate: 1/hour", ", caps: [{limit: 1 USD/day}]", False),
        ("rate: 1/hour", ", caps: [{limit: 1 USD/day, warn_at: 50%}]", True),
    ],
)
async def test_a_policy_without_warn_at_has_none_of_it(tier: str, settings: str, asks: bool) -> None:
    given = policy(f"tiers: {{free: {{{tier}}}}}\nplugins: [{{use: cost_cap{settings}}}]")
    store, entry = open_store("memory://"), given.plugins[0]
    plugin: Any = entry.plugin(entry.settings)
    await plugin.start(Lent(given, Ledger(store), Prices(), Metrics(), store))
    await plugin.close()

    assert (plugin._terms.warnings is not None) == asks
