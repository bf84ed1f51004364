"""A process of its own with rate_limit in it, for tests that need several, or kill one: `worker.py URL TIER DO N`.

`hold`: take a place, say so, keep it. `rush`: N decisions by 32 clients; prints the times of those let in, in ms.
`crowd`: N different callers; prints by how many bytes the process grew.
"""

import asyncio
import sys
from pathlib import Path

from llmshield import clock
from llmshield.call import Call
from llmshield.metrics import Metrics
from llmshield.stores import open_store
from llmshield.testing import Lent, policy
from llmshield_plugins.rate_limit import RateLimiter

CLIENTS = 32


def call_of(id: str, tenant: str = "acme", client: str = "192.0.2.1") -> Call:
    call = Call(id=id, dialect="openai_chat", family="openai", operation="generate", model="m", body={})
    call.tenant, call.tier, call.client = tenant, "t", client
    return call


async def main(url: str, tier: str, do: str, count: int) -> None:
    settings = "lease: 1s" if do == "hold" else "local_share: 0%"
    given = policy(
        f"tenants: {{acme: {{tier: t}}, anonymous: {{tier: t}}}}\ntiers: {{t: {{{tier}}}}}\n"
        f"plugins: [{{use: rate_limit, {settings}}}]"
    )
    plugin = given.plugins[0].plugin(given.plugins[0].settings)
    assert isinstance(plugin, RateLimiter)
    store = open_store(url)
    await store.open()
    await plugin.start(Lent(given, Metrics(), store))
    if do == "hold":
        assert await said(plugin, call_of("held")) is None
        print("held", flush=True)
        await asyncio.sleep(3600)
    elif do == "rush":
        print("ready", flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
        done = await asyncio.gather(*[rush(plugin, name, count // CLIENTS) for name in range(CLIENTS)])
        print(*[at for times in done for at in times], flush=True)
    else:
        print(await crowd(plugin, count), flush=True)
    await plugin.close()
    await store.close()


async def said(plugin: RateLimiter, call: Call) -> object:
    verdict = plugin.pre_request(call)
    return await verdict if hasattr(verdict, "__await__") else verdict


async def rush(plugin: RateLimiter, name: int, count: int) -> list[int]:
    let_in = []
    for index in range(count):
        before = int(clock.now() * 1000)
        if await said(plugin, call_of(f"{name}.{index}")) is None and not plugin._away:
            let_in.append(
                before
            )  # on a crowded machine the store may be late; its decisions are what counts here
    return let_in


async def crowd(plugin: RateLimiter, count: int) -> int:
    """Each caller comes once, from an address of its own; the first thousand warm up what is made once."""
    before = 0
    for index in range(count + 1_000):
        if index == 1_000:
            before = resident()
        address = f"{1 + (index >> 24)}.{index >> 16 & 255}.{index >> 8 & 255}.{index & 255}"
        call = call_of(str(index), "anonymous", address)
        assert await said(plugin, call) is None
        for end in call._on_end:
            end(call)
        if index % 50_000 == 0:
            await asyncio.sleep(0)
    return resident() - before


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])))
