"""At most one probe: among a thousand callers at the instant a break ends, and in random runs of processes that die,
stores that come and go, and clocks that jump. Never wedged, whatever becomes of a probe."""

import asyncio
import random
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from llmshield.circuits import Circuits
from llmshield.stores import Store, open_store
from llmshield.testing import FrozenClock


@pytest.mark.parametrize("runs", [1_000, pytest.param(10_000, marks=pytest.mark.nightly)])
async def test_whatever_becomes_of_probes_it_closes_in_the_end(
    fresh: Callable[[], Any], runs: int, new: Any, ask: Any, fail: Any, sync: Any
) -> None:
    """Random runs of three processes whose probes answer, fail, are abandoned, or die with their process; whose store
    comes and goes; whose clocks jump. Never two probes within one lease while the store is there; and once the
    provider is well, every process asks it again within a break and a lease."""
    rng = random.Random(11)
    for run in range(runs):
        with FrozenClock() as frozen:
            store, model = fresh(), "m"
            processes = [new() for _ in range(3)]
            for each in processes:
                await start_blind(each, store)
            fail(processes[0], model)
            await sync(*processes)
            for _ in range(rng.randrange(1, 7)):
                frozen.step(rng.choice([0, 0, -90_000, 90_000]))
                frozen.advance(max(each.retry_after_s("a", model) for each in processes))
                said = await asyncio.gather(*[ask(each, model) for each in processes for _ in range(3)])
                probes = [permit for permit in said if permit is not None and permit.probe]
                assert len(probes) <= 1, (run, probes)
                for probe in probes:
                    outcome = rng.choice(["success", "failure", "refused", "abandon", "lost", "killed"])
                    if outcome == "failure":
                        probe.failure("status", rng.choice([None, 30.0, 1e9]))
                    elif outcome == "killed":
                        dead = next(
                            i for i, each in enumerate(processes) if probe.breaker in each._breakers.values()
                        )
                        processes[dead] = new()
                        await start_blind(processes[dead], store)
                    elif outcome != "lost":
                        getattr(probe, outcome)()
                if rng.random() < 0.2:
                    store.cut = True
                    await sync(*processes)
                    store.cut = False
                    await sync(*processes)
                await sync(*rng.sample(processes, rng.randrange(4)))
            for _ in range(4):
                await sync(*processes)
                frozen.advance(200)
                for each in processes:
                    permit = await ask(each, model)
                    if permit is not None:
                        permit.success()
            await sync(*processes)
            await sync(*processes)

            assert ["closed"] * 3 == [each.state("a", model) for each in processes], run


async def start_blind(circuits: Circuits, store: Store) -> None:
    """Start; it looks only when told."""
    await circuits.start(store)
    assert circuits._sharing is not None
    watcher = circuits._sharing._watcher
    assert watcher is not None
    watcher.cancel()


@pytest.mark.parametrize("rounds", [1, pytest.param(100, marks=pytest.mark.nightly)])
async def test_one_probe_among_a_thousand_callers(
    shared_url: str, rounds: int, new: Any, ask: Any, fail: Any, until: Any
) -> None:
    """Four processes' circuits in one loop, 250 callers each, at the instant the break ends."""
    opened = [open_store(shared_url) for _ in range(4)]
    for store in opened:
        await store.open()
    for number in range(rounds):
        circuits = [new(open_for=0.6) for _ in opened]
        for each, store in zip(circuits, opened, strict=True):
            await each.start(store)
        model = f"m{number}"
        fail(circuits[0], model)
        for each in circuits:
            await until(each, model, "open", "half_open")
        for each in circuits:
            await until(each, model, "half_open")
        said = await asyncio.gather(*[ask(each, model) for _ in range(250) for each in circuits])

        assert 1 == sum(permit is not None for permit in said)
        for each in circuits:
            await each.close()
    for store in opened:
        await store.close()


PROCESS = """
import asyncio, sys, types
from llmshield.circuits import Circuits
from llmshield.stores import open_store
settings = types.SimpleNamespace(failures=1, rate=None, slow=None, window=30.0, open_for=1.5, max_open=60.0)
async def main():
    store = open_store(sys.argv[1])
    await store.open()
    circuits = Circuits({"a": types.SimpleNamespace(circuit=settings)})
    await circuits.start(store)
    print("ready", flush=True)
    if sys.stdin.readline() == "fail\\n":
        circuits.permit("a", "m").failure("connect")
    while circuits.state("a", "m") != "half_open":
        await asyncio.sleep(0.001)
    async def ask():
        permit = circuits.permit("a", "m")
        return permit is not None and await circuits.confirm(permit)
    print(sum(await asyncio.gather(*[ask() for _ in range(250)])), circuits.alone, flush=True)
    sys.stdin.readline()
asyncio.run(main())
"""


def test_one_probe_among_a_thousand_callers_of_four_processes(shared_url: str) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, shared_url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    try:
        for each in processes:
            assert each.stdout is not None
            assert "ready\n" == each.stdout.readline()
        for number, each in enumerate(processes):
            assert each.stdin is not None
            each.stdin.write("fail\n" if number == 0 else "watch\n")
            each.stdin.flush()
        said = [each.stdout.readline().split() for each in processes if each.stdout is not None]
    finally:
        for each in processes:
            each.kill()
            each.communicate()

    assert {alone for _, alone in said} == {"False"}
    assert 1 == sum(int(probes) for probes, _ in said)
