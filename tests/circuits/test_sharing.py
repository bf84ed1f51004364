"""Circuits of several processes: who learns what and when, whose the probe is, what a lost store or process leaves."""

import asyncio
import random
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import pytest

from llmshield.circuits import Circuits, Permit, notes
from llmshield.circuits.notes import Note
from llmshield.errors import StoreUnavailable
from llmshield.stores import Store, open_store
from llmshield.testing import FrozenClock


@dataclass
class Circuit:
    failures: int = 3
    rate: float | None = None
    slow: float | None = None
    window: float = 30.0
    open_for: float = 60.0
    max_open: float = 200.0


@dataclass
class Provider:
    circuit: Circuit | None


def new(open_for: float = 60.0) -> Circuits:
    return Circuits({"a": Provider(Circuit(open_for=open_for)), "b": Provider(None)})


async def ask(circuits: Circuits, model: str = "m") -> Permit | None:
    permit = circuits.permit("a", model)
    return permit if permit is None or not permit.probe or await circuits.confirm(permit) else None


async def probed(circuits: Circuits, model: str = "m") -> Permit:
    permit = await ask(circuits, model)
    assert permit is not None
    assert permit.probe
    return permit


def fail(circuits: Circuits, model: str = "m") -> None:
    for _ in range(3):
        permit = circuits.permit("a", model)
        assert permit is not None
        permit.failure("connect")


async def until(circuits: Circuits, model: str, *states: str) -> None:
    """Within a second."""
    began = time.monotonic()
    while circuits.state("a", model) not in states:
        assert time.monotonic() - began < 1.0
        await asyncio.sleep(0.01)


async def sync(*circuits: Circuits) -> None:
    for each in circuits:
        assert each._sharing is not None
        await each._sharing.sync()


class Held(Store):
    """The real store, behind a wire that can be cut and counts what goes over it."""

    def __init__(self, inner: Store) -> None:
        self.inner, self.cut, self.steps = inner, False, 0

    def __getattribute__(self, name: str) -> Any:
        own = object.__getattribute__
        if name in ("inner", "cut", "steps"):
            return own(self, name)
        if name == "shared":
            return True
        found = getattr(own(self, "inner"), name)
        if name not in ("swap", "revision", "notes", "put"):
            return found

        async def step(*args: Any) -> Any:
            self.steps += 1
            if self.cut:
                raise StoreUnavailable("cut")
            await asyncio.sleep(0)  # others get their turn in the midst of every step
            return await found(*args)

        return step


Held.__abstractmethods__ = frozenset()  # everything is asked of the inner one


@pytest.fixture
async def stores() -> AsyncIterator[Callable[[], Held]]:
    inner = open_store("memory://")
    await inner.open()
    yield lambda: Held(inner)
    await inner.close()


@pytest.fixture
async def two(stores: Callable[[], Held]) -> AsyncIterator[tuple[Circuits, Circuits, FrozenClock]]:
    """Two processes that look only when told, and time that moves when told."""
    with FrozenClock() as frozen:
        made = (new(), new())
        for each in made:
            await each.start(stores())
            assert each._sharing is not None
            assert each._sharing._watcher is not None
            each._sharing._watcher.cancel()
        yield (*made, frozen)
        for each in made:
            await each.close()


async def test_all_processes_know_within_a_second(shared_url: str) -> None:
    opened = [open_store(shared_url) for _ in range(3)]
    circuits = [new() for _ in opened]
    for each, store in zip(circuits, opened, strict=True):
        await store.open()
        await each.start(store)
    fail(circuits[0])
    for each in circuits:
        await until(each, "m", "open")
        assert each.permit("a", "m") is None
        assert 58 < each.retry_after_s("a", "m") <= 60
    await notes.close(opened[2], "a", "m")
    for each in circuits:
        await until(each, "m", "closed")
    for each, store in zip(circuits, opened, strict=True):
        await each.close()
        await store.close()


async def test_a_closed_circuit_asks_the_store_nothing(stores: Callable[[], Held]) -> None:
    circuits, store = new(), stores()
    await circuits.start(store)
    before = store.steps
    for _ in range(1_000):
        permit = await ask(circuits)
        assert permit is not None
        permit.success()

    assert store.steps == before
    await circuits.close()


async def test_a_store_of_one_process_is_not_watched() -> None:
    circuits, store = new(), open_store("memory://")
    await circuits.start(store)
    fail(circuits)

    assert circuits._sharing is None
    assert not circuits.alone
    await circuits.close()


@pytest.mark.parametrize(
    ("outcome", "here", "there"),
    [("success", "closed", "closed"), ("refused", "closed", "closed"), ("failure", "open", "open")],
)
async def test_what_a_probe_found_holds_everywhere(
    two: tuple[Circuits, Circuits, FrozenClock], outcome: str, here: str, there: str
) -> None:
    mine, yours, frozen = two
    fail(mine)
    await sync(mine, yours)
    assert yours.state("a", "m") == "open"
    frozen.advance(60)
    probe = await probed(mine)
    assert await ask(yours) is None, "the other process' probe"
    if outcome == "failure":
        probe.failure("status", None)
    else:
        getattr(probe, outcome)()
    await sync(mine, yours)

    assert (here, there) == (mine.state("a", "m"), yours.state("a", "m"))
    assert mine.retry_after_s("a", "m") == yours.retry_after_s("a", "m") == (120 if here == "open" else 0)


async def test_a_probe_that_came_to_nothing_is_anybodys(two: tuple[Circuits, Circuits, FrozenClock]) -> None:
    mine, yours, frozen = two
    fail(mine)
    await sync(mine, yours)
    frozen.advance(60)
    probe = await probed(mine)
    assert await ask(yours) is None
    probe.abandon()
    await sync(mine, yours)

    await probed(yours)
    assert await ask(mine) is None


async def test_of_two_that_want_what_nobody_has_one_gets_it(
    two: tuple[Circuits, Circuits, FrozenClock],
) -> None:
    """Both know only that it was free: the second is told by the swap itself."""
    mine, yours, frozen = two
    fail(mine)
    await sync(mine, yours)
    frozen.advance(60)
    (await probed(mine)).abandon()
    await sync(mine)  # the other one has not looked

    said = await asyncio.gather(ask(mine), ask(yours))
    assert 1 == sum(permit is not None for permit in said)


async def test_the_probe_of_a_process_that_died_is_a_lease(
    two: tuple[Circuits, Circuits, FrozenClock],
) -> None:
    mine, yours, frozen = two
    fail(mine)
    await sync(mine, yours)
    frozen.advance(60)
    late = await probed(mine)  # and nothing more is heard of it
    await sync(yours)
    frozen.advance(59)
    assert await ask(yours) is None
    frozen.advance(1)
    probe = await probed(yours)
    late.success()  # it was not dead after all: it has seen that the provider is back
    await sync(mine, yours)
    assert yours.state("a", "m") == "closed"
    probe.failure("reset")

    assert yours.state("a", "m") == "closed"


async def test_a_wall_clock_that_jumps_moves_no_break_and_no_lease(
    two: tuple[Circuits, Circuits, FrozenClock],
) -> None:
    mine, yours, frozen = two
    frozen.step(-500_000)
    fail(mine)
    await sync(mine, yours)
    frozen.step(1_000_000)
    await sync(mine, yours)
    assert yours.retry_after_s("a", "m") == 60
    frozen.advance(60)
    frozen.step(-2_000_000)
    await probed(mine)
    frozen.step(4_000_000)
    await sync(mine, yours)

    assert await ask(yours) is None
    frozen.advance(60)
    await probed(yours)


async def test_who_starts_late_goes_on_with_the_break(
    two: tuple[Circuits, Circuits, FrozenClock], stores: Callable[[], Held]
) -> None:
    mine, _, frozen = two
    fail(mine)
    await sync(mine)
    frozen.advance(45)
    late = new()
    await late.start(stores())
    assert late.retry_after_s("a", "m") == 15
    frozen.step(-900_000)
    later = new()
    await later.start(stores())

    assert later.retry_after_s("a", "m") == 60, "never longer than the break"
    await late.close()
    await later.close()


async def test_a_lost_store_leaves_each_its_own(stores: Callable[[], Held]) -> None:
    with FrozenClock() as frozen:
        cut, whole = stores(), stores()
        mine, yours = new(), new()
        await mine.start(cut)
        await yours.start(whole)
        cut.cut = True
        fail(mine)
        await sync(mine, yours)
        assert mine.alone
        assert (mine.state("a", "m"), yours.state("a", "m")) == ("open", "closed")
        frozen.advance(60)
        (await probed(mine)).failure("reset")
        assert mine.retry_after_s("a", "m") == 120
        cut.cut = False
        await sync(mine, yours)

        assert not mine.alone
        assert yours.retry_after_s("a", "m") == 120, "what changed meanwhile is told"
        await mine.close()
        await yours.close()


async def test_last_words_are_said(stores: Callable[[], Held]) -> None:
    with FrozenClock() as frozen:
        mine, yours = new(), new()
        await mine.start(stores())
        await yours.start(stores())
        fail(mine)
        await sync(mine, yours)
        frozen.advance(60)
        probe = await probed(mine)
        await sync(yours)
        probe.abandon()
        await mine.close()
        await sync(yours)

        await probed(yours)
        await yours.close()


async def test_an_operator_opens_and_closes(
    two: tuple[Circuits, Circuits, FrozenClock], stores: Callable[[], Held]
) -> None:
    mine, yours, frozen = two
    operator = stores()
    fail(yours, "other")
    await notes.hold_open(operator, "a", "m", 600)
    await sync(mine, yours)
    assert (mine.retry_after_s("a", "m"), yours.retry_after_s("a", "m")) == (600, 600)
    assert mine.permit("a", "third") is not None
    await notes.hold_open(operator, "a", None)
    await sync(mine, yours)
    frozen.advance(86_400)
    assert mine.permit("a", "third") is None, "all models, those to come as well, until somebody closes it"
    assert mine.snapshot()["a"]["third"]["retry_after_s"] is None
    late = new()
    await late.start(stores())
    assert late.permit("a", "fourth") is None
    await notes.close(operator, "a", "fourth")
    await sync(mine, yours, late)
    assert late.permit("a", "fourth") is not None
    assert mine.permit("a", "fourth") is not None, (
        "one model that it never heard of is closed within all of them"
    )
    assert mine.permit("a", "fifth") is None
    await notes.close(operator, "a", None)
    frozen.advance(1)
    await sync(mine, yours, late)

    for each in (mine, yours, late):
        for model in ("m", "other", "third", "new"):
            assert each.state("a", model) == "closed"
            assert each.permit("a", model) is not None
    await late.close()


async def test_after_an_operators_break_one_probe_decides(
    two: tuple[Circuits, Circuits, FrozenClock], stores: Callable[[], Held]
) -> None:
    mine, yours, frozen = two
    await notes.hold_open(stores(), "a", None, 600)
    await sync(mine, yours)
    assert mine.permit("a", "m") is None
    assert yours.permit("a", "m") is None
    frozen.advance(600)
    probe = await probed(mine)
    assert await ask(yours) is None
    probe.failure("reset")
    await sync(mine, yours)

    assert yours.retry_after_s("a", "m") == 120


async def test_notes_that_are_none_change_nothing(
    two: tuple[Circuits, Circuits, FrozenClock], stores: Callable[[], Held]
) -> None:
    mine, yours, _ = two
    store = stores()
    good = Note("open", "g", "x", 60.0).dump()
    for key, value in [
        ("", b""), ("[]", good), ('["a"', good), ('["a","m","x"]', good), ("[1]", good), ('["unknown","m"]', good),
        ('["b","m"]', good), ('["a","m"]', b"{}"), ('["a","n"]', b'{"state":"gone"}'), ('["a"]', b"\xff"),
        ('["a","o"]', good.replace(b"60.0", b"-1")), ('["a","p"]', good.replace(b"60.0", b'"NaN"')),
    ]:  # fmt: skip
        await store.put("circuits", key, value)
    await sync(mine, yours)
    assert mine.snapshot() == {"a": {}}
    fail(mine)
    await sync(mine, yours)

    assert yours.state("a", "m") == "open", "a broken note is written over"


@pytest.mark.parametrize("runs", [1_000, pytest.param(10_000, marks=pytest.mark.nightly)])
async def test_whatever_becomes_of_probes_it_closes_in_the_end(runs: int) -> None:
    """Random runs of three processes whose probes answer, fail, are abandoned, or die with their process; whose store
    comes and goes; whose clocks jump. Never two probes within one lease while the store is there; and once the
    provider is well, every process asks it again within a break and a lease."""
    rng = random.Random(11)
    for run in range(runs):
        with FrozenClock() as frozen:
            store, model = Held(open_store("memory://")), "m"
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


@pytest.mark.parametrize("rounds", [3, pytest.param(100, marks=pytest.mark.nightly)])
async def test_one_probe_among_a_thousand_callers(shared_url: str, rounds: int) -> None:
    """Four processes' circuits in one loop, 250 callers each, at the instant the break ends."""
    opened = [open_store(shared_url) for _ in range(4)]
    for store in opened:
        await store.open()
    for number in range(rounds):
        circuits = [Circuits({"a": Provider(Circuit(open_for=0.6))}) for _ in opened]
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


def test_one_probe_among_a_thousand_callers_of_four_processes(redis_url: str) -> None:
    url = f"{redis_url}?prefix=four{time.monotonic_ns()}"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
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
