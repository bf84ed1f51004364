"""A process that spends on a cap until it is refused, and prints what it has spent: URL NAME CLIENTS CAP SHARE WINDOW.

A reservation is CAP / SHARE. WINDOW is `day`, or `rolling`: each reservation is then in some step of a window of 24 h.
"""

import asyncio
import json
import random
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from llmshield.errors import StoreUnavailable
from llmshield.stores import Grant, Labels, Line, Store, open_store

LABELS = Labels("acme", "openai", "gpt-4o")
NOW, LEASE, ENDS = 2_000_000_000_000, 3_000_000_000_000, 4_000_000_000_000


def lines_of(window: str, cap: int, rng: random.Random) -> tuple[Line, Line]:
    if window == "day":
        return Line("tenant=acme", "ever"), Line("tenant=acme", "day:2026-11-20", cap, ENDS)
    # Clocks of processes differ, and time goes by: each reservation is in some step of the window.
    step = f"24h:{100 + rng.randrange(61):011d}"
    return Line("tenant=acme", "ever"), Line("tenant=acme", step, cap, ENDS, "24h:00000000100")


async def until(step: Callable[..., Awaitable[Any]], *args: Any) -> Any:
    """On a busy machine an answer may come too late; the step is repeated with its id and happens once."""
    for _ in range(100):
        try:
            return await step(*args)
        except StoreUnavailable:
            await asyncio.sleep(0.05)
    raise SystemExit("the store is gone")


async def spend(store: Store, window: str, name: str, cap: int, largest: int, rng: random.Random) -> int:
    spent = 0
    for turn in range(100_000):
        id, lines = f"{name}.{turn}", lines_of(window, cap, rng)
        held = await until(store.reserve, id, lines, largest, largest, LEASE, NOW, LABELS)
        if not isinstance(held, Grant):
            return spent
        await asyncio.sleep(rng.random() / 500)
        cost = rng.randrange(held.amount + 1)
        if rng.random() < 0.05:
            await until(store.release, id, lines)
            continue
        await until(store.settle, id, lines, cost, NOW, LABELS, 1, 1)
        spent += cost
    raise SystemExit("never refused")


async def main(url: str, name: str, clients: int, cap: int, share: int, window: str) -> None:
    store = open_store(url)
    await until(store.open)
    rng = random.Random(name)
    spends = [spend(store, window, f"{name}.{client}", cap, cap // share, rng) for client in range(clients)]
    print(json.dumps(sum(await asyncio.gather(*spends))))
    await store.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:3], *map(int, sys.argv[3:6]), sys.argv[6]))  # type: ignore[arg-type]
