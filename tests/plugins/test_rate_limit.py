"""rate_limit: windows that hold, places that come back, headers that tell the truth."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import pytest

from llmshield.call import Call
from llmshield.errors import StoreUnavailable
from llmshield.metrics import Metrics
from llmshield.stores import Store, open_store
from llmshield.testing import FakeProvider, FrozenClock, Lent, gateway, policy, read, run_hook
from llmshield.verdicts import Block
from llmshield_plugins.rate_limit import RateLimiter

TIERS = """
tenants: {{acme: {{tier: t}}, umbrella: {{tier: t}}, anonymous: {{tier: t}}}}
tiers: {{t: {{{tier}}}}}
plugins:
  - use: rate_limit
    {settings}
"""

Make = Callable[..., Any]


class Away(Store):
    """A store behind a broken wire: the real one, until `gone`."""

    def __init__(self, inner: Store) -> None:
        self.inner = inner
        self.gone = False

    def __getattribute__(self, name: str) -> Any:
        if name in {"inner", "gone"} or name.startswith("__"):
            return object.__getattribute__(self, name)
        if name == "instant":
            return False
        if object.__getattribute__(self, "gone"):

            async def lost(*args: Any, **kwargs: Any) -> Any:
                raise StoreUnavailable("gone")

            return lost
        return getattr(object.__getattribute__(self, "inner"), name)


Away.__abstractmethods__ = frozenset()  # everything is asked of the inner one


@pytest.fixture
def time() -> Any:
    with FrozenClock(1_790_000_000.0) as frozen:
        yield frozen


@pytest.fixture
async def make(time: FrozenClock) -> AsyncIterator[Make]:
    closing: list[RateLimiter] = []

    async def build(tier: str, settings: str = "", store: Store | None = None) -> RateLimiter:
        given = policy(TIERS.format(tier=tier, settings=settings))
        entry = given.plugins[0]
        plugin = entry.plugin(entry.settings)
        assert isinstance(plugin, RateLimiter)
        metrics = Metrics()
        await plugin.start(Lent(given, metrics, store or open_store("memory://")))
        closing.append(plugin)
        return plugin

    yield build
    for plugin in closing:
        await plugin.close()


def call_of(tenant: str = "acme", client: str = "192.0.2.1", **more: Any) -> Call:
    call = read({"model": "gpt-4o", "messages": [{"role": "user", "content": "x"}]}, tenant=tenant, **more)
    call.tier, call.client = "t", client
    return call


async def ask(plugin: RateLimiter, call: Call | None = None) -> Block | None:
    verdict = (await run_hook(plugin, "pre_request", call or call_of())).verdict
    assert verdict is None or isinstance(verdict, Block)
    return verdict


async def end(call: Call) -> None:
    ends, call._on_end = call._on_end, []
    for fn in ends:
        ending = fn(call)
        if ending is not None:
            await ending


async def test_the_limit_and_not_one_more(make: Make, time: FrozenClock) -> None:
    plugin = await make("rate: [3/minute, 100/day]")
    assert [await ask(plugin) for _ in range(3)] == [None] * 3

    refused = await ask(plugin)

    assert refused is not None
    assert refused.kind == "rate_limited"
    assert refused.retry_after_s is not None
    assert 59 <= refused.retry_after_s <= 61
    assert (
        refused.message
        == f"Rate limit of 3/minute for tenant acme is reached. Try again in {refused.retry_after_s:.0f} s."
    )
    assert await ask(plugin, call_of("umbrella")) is None


async def test_retry_after_is_when_the_next_one_passes(make: Make, time: FrozenClock) -> None:
    """500 waits of just that long, and of 100 ms less."""
    plugin = await make("rate: [5/minute, 40/hour]")
    rng = random.Random(3)
    waited = 0
    while waited < 500:
        refused = await ask(plugin)
        if refused is None:
            time.advance(rng.random() * 3)
            continue
        waited += 1
        assert refused.retry_after_s is not None
        time.advance(refused.retry_after_s - 0.1)
        assert await ask(plugin) is not None
        time.advance(0.1001)
        assert await ask(plugin) is None


async def test_a_refused_call_uses_up_nothing(make: Make, time: FrozenClock) -> None:
    plugin = await make("rate: [2/minute, 5/day], concurrent: 2")
    for _ in range(2):
        call = call_of()
        assert await ask(plugin, call) is None
        await end(call)
    for _ in range(50):
        assert await ask(plugin) is not None
    time.advance(62)

    call = call_of()
    await ask(plugin, call)
    assert '"day";r=2' in call.response_headers["ratelimit"]


async def test_at_once(make: Make, time: FrozenClock) -> None:
    plugin = await make("concurrent: 2")
    calls = [call_of(), call_of(), call_of()]
    assert [await ask(plugin, call) for call in calls[:2]] == [None, None]
    refused = await ask(plugin, calls[2])
    assert refused is not None
    assert "2 at once for tenant acme" in refused.message
    assert refused.retry_after_s == 1.0
    await end(calls[0])

    assert await ask(plugin, calls[2]) is None
    assert await ask(plugin) is not None
    for call in calls:
        await end(call)
        await end(call)
    assert plugin._held == {}


async def test_places_of_a_crashed_process_come_back(make: Make, time: FrozenClock) -> None:
    store = open_store("memory://")
    crashed, other = await make("concurrent: 1", store=store), await make("concurrent: 1", store=store)
    assert await ask(crashed) is None
    assert await ask(other) is not None
    await crashed.close()
    time.advance(61)

    assert await ask(other) is None


ADDRESSES = [
    ("192.0.2.1", "192.0.2.1", True),
    ("192.0.2.1", "192.0.2.2", False),
    ("2001:db8::1", "2001:db8::ffff", True),
    ("2001:db8::1", "2001:db8:0:0:dead:beef:0:1", True),
    ("2001:db8::1", "2001:db8:0:1::1", False),
    ("::ffff:192.0.2.1", "192.0.2.1", True),
    ("fe80::1%eth0", "fe80::2", True),
    ("", "garbage", True),
]


@pytest.mark.parametrize(("first", "second", "same"), ADDRESSES)
async def test_callers_without_a_key_are_told_apart_by_address(
    make: Make, first: str, second: str, same: bool
) -> None:
    plugin = await make("rate: [1/hour]")
    assert await ask(plugin, call_of("anonymous", first)) is None

    assert (await ask(plugin, call_of("anonymous", second)) is not None) == same


async def test_a_limit_for_each_address(make: Make) -> None:
    plugin = await make("rate: [100/hour]", "per_address: [1/minute]")
    assert await ask(plugin, call_of("acme")) is None
    refused = await ask(plugin, call_of("umbrella"))

    assert refused is not None
    assert "for this address" in refused.message
    assert await ask(plugin, call_of("umbrella", "192.0.2.9")) is None


async def test_of_two_limits_over_the_same_time_the_lower_holds(make: Make) -> None:
    plugin = await make("rate: [10/hour, 4/hour, 6/hour]")
    said = [await ask(plugin) for _ in range(10)]

    assert sum(verdict is None for verdict in said) == 4


async def test_headers(make: Make, time: FrozenClock) -> None:
    plugin = await make("rate: [20/hour, 100/day]")
    call = call_of()
    await ask(plugin, call)
    assert call.response_headers["ratelimit-policy"] == '"hour";q=20;w=3600, "day";q=100;w=86400'
    assert call.response_headers["ratelimit"].startswith('"hour";r=19;t=36')
    assert call.response_headers["x-ratelimit-limit-requests"] == "20"
    assert call.response_headers["x-ratelimit-remaining-requests"] == "19"
    assert call.response_headers["x-ratelimit-reset-requests"].startswith("1h0m")

    claude = read(
        {"model": "claude-3-5-haiku-latest", "max_tokens": 5, "messages": []},
        path="/v1/messages",
        tenant="acme",
    )
    claude.tier = "t"
    await ask(plugin, claude)
    assert claude.response_headers["anthropic-ratelimit-requests-remaining"] == "18"
    assert claude.response_headers["anthropic-ratelimit-requests-reset"].endswith("Z")

    quiet = await make("rate: [1/hour]", "headers: false")
    call = call_of()
    await ask(quiet, call)
    assert call.response_headers == {}
    assert (await ask(quiet)).headers == {}  # type: ignore[union-attr]


async def test_monitor_mode_counts_and_changes_nothing(make: Make) -> None:
    plugin = await make("rate: [1/hour], concurrent: 5")
    runs = [await run_hook(plugin, "pre_request", call_of(), enforced=False) for _ in range(3)]

    assert [run.action for run in runs] == ["allow", "would-block", "would-block"]
    assert all(run.call.response_headers == {} for run in runs)


async def test_without_the_store_each_process_has_its_share(make: Make, time: FrozenClock) -> None:
    away = Away(open_store("memory://"))
    plugin = await make("rate: [10/hour], concurrent: 4", store=away)
    away.gone = True
    admitted = []
    for _ in range(20):
        call = call_of()
        if await ask(plugin, call) is None:
            admitted.append(call)
            await end(call)
    assert len(admitted) == 5
    assert plugin._degraded.value() == 1
    away.gone = False
    time.advance(1)

    assert await ask(plugin) is None
    assert plugin._degraded.value() == 0


async def test_no_tier_no_limit(make: Make) -> None:
    plugin = await make("rate: [1/hour]")
    for _ in range(3):
        call = call_of()
        call.tier = None
        assert await ask(plugin, call) is None


async def test_processes_that_share_a_file_share_the_limit(make: Make, tmp_path: Any) -> None:
    stores = [open_store(f"sqlite:///{tmp_path / 'limits.db'}") for _ in range(2)]
    for store in stores:
        await store.open()
    plugins = [await make("rate: [10/hour]", store=store) for store in stores]
    said = [await ask(plugins[index % 2]) for index in range(30)]
    for store in stores:
        await store.close()

    assert sum(verdict is None for verdict in said) == 10


async def test_behind_the_gateway() -> None:
    async with FakeProvider() as sim:
        text = f"""
providers: {{openai: {{dialect: openai, base_url: "{sim.url}/v1"}}}}
tenants: {{anonymous: {{tier: free}}}}
tiers: {{free: {{rate: [5/hour], concurrent: 2}}}}
plugins: [{{use: rate_limit}}]
"""
        async with (
            gateway(text) as (url, _),
            aiohttp.ClientSession(headers={"authorization": "Bearer k"}) as client,
        ):

            async def post(**more: Any) -> tuple[int, Any]:
                body = {"model": "gpt-4o", "messages": [{"role": "user", "content": "x"}], **more}
                async with client.post(f"{url}/v1/chat/completions", json=body) as reply:
                    await reply.read()
                    return reply.status, reply.headers

            sim.set(ttft=0.3)
            together = await asyncio.gather(*[post() for _ in range(4)])
            assert sorted(status for status, _ in together) == [200, 200, 429, 429]
            sim.set(ttft=None)
            for _ in range(3):
                status, headers = await post(stream=True)
                assert status == 200
            assert headers["x-ratelimit-remaining-requests"] == "0"
            status, headers = await post()

            assert status == 429
            assert int(headers["retry-after"]) <= 3_660
            assert len(sim.calls) == 5
