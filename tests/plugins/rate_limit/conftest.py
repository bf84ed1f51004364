"""rate_limit on a store of one's choice, asked as the engine asks it."""

import subprocess
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from llmshield.call import Attempt, Call, Usage
from llmshield.metrics import Metrics
from llmshield.policy import Policy
from llmshield.prices import Prices
from llmshield.stores import Store, open_store
from llmshield.testing import FrozenClock, Lent, policy, read, run_hook
from llmshield.verdicts import Block, Skip
from llmshield_plugins.rate_limit import RateLimiter

TIERS = """
tenants: {{acme: {{tier: t}}, umbrella: {{tier: t}}, anonymous: {{tier: t}}}}
tiers: {{t: {{{tier}}}}}
plugins:
  - use: rate_limit
    {settings}
"""


class Asked:
    """Plugins that a test made, and calls through them."""

    def __init__(self) -> None:
        self.made: list[RateLimiter] = []

    async def plugin(self, tier: str, settings: str = "", store: Store | None = None) -> RateLimiter:
        given: Policy = policy(TIERS.format(tier=tier, settings=settings))
        entry = given.plugins[0]
        plugin = entry.plugin(entry.settings)
        assert isinstance(plugin, RateLimiter)
        lent = Lent(given, Metrics(), store or open_store("memory://"), Prices(given.providers))
        await plugin.start(lent)
        self.made.append(plugin)
        return plugin

    def call(self, tenant: str = "acme", client: str = "192.0.2.1", path: str = "", **more: Any) -> Call:
        body = {"model": "gpt-4o", "messages": [{"role": "user", "content": "x"}], **more}
        call = read(body, tenant=tenant, path=path or "/v1/chat/completions")
        call.tier, call.client = "t", client
        return call

    async def ask(
        self, plugin: RateLimiter, call: Call | None = None, *, enforced: bool = True
    ) -> Block | None:
        run = await run_hook(plugin, "pre_request", call or self.call(), enforced=enforced, timeout_s=0.3)
        assert run.verdict is None or isinstance(run.verdict, Block)
        return run.verdict

    async def attempt(
        self, call: Call, *, size: int = 100, bound: int | None = 100, number: int = 1, **more: Any
    ) -> tuple[Attempt, Block | Skip | None]:
        """An attempt of `size` bytes and its guards' verdict."""
        attempt = Attempt(
            call, number=number, provider="openai", model=call.model, dialect=call.dialect, body=call.body
        )
        attempt.input_bytes, attempt.output_bound, attempt.choices = size, bound, call.choices
        for name, value in more.items():
            setattr(attempt, name, value)
        for guard in call._attempt_guards:
            said: Any = guard.run(attempt)
            said = await said if hasattr(said, "__await__") else said
            if said is not None:
                return attempt, said
        return attempt, None

    async def end_attempt(self, attempt: Attempt, *, used: int | None = None, **more: Any) -> None:
        """The attempt is over; `used` tokens by the provider's report (None: there was none)."""
        attempt.sent, attempt.status, attempt.outcome = True, 200, "ok"
        attempt.usage = None if used is None else Usage(input=used - used // 3, output=used // 3)
        for name, value in more.items():
            setattr(attempt, name, value)
        ends, attempt._ends = attempt._ends, []
        await run_ends(ends, attempt)

    async def end(self, call: Call) -> None:
        ends, call._on_end = call._on_end, []
        await run_ends(ends, call)


async def run_ends(ends: list[Any], subject: object) -> None:
    for fn in ends:
        ending = fn(subject)
        if ending is not None:
            await ending


@pytest.fixture
def time() -> Iterator[FrozenClock]:
    with FrozenClock(1_790_000_000.0) as frozen:
        yield frozen


@pytest.fixture
async def asked() -> AsyncIterator[Asked]:
    given = Asked()
    yield given
    for plugin in given.made:
        await plugin.close()


@pytest.fixture
def redis(start_redis: Any) -> tuple[str, "subprocess.Popen[bytes]"]:
    """A redis-server of this test's own: its URL and its process."""
    found: tuple[str, subprocess.Popen[bytes]] = start_redis()
    return found
