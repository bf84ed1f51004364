"""Circuits of processes, what callers and operators do with them, and stores behind a wire that tests cut."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest

from llmshield.circuits import Circuits, Permit
from llmshield.errors import StoreUnavailable
from llmshield.stores import Store, open_store
from llmshield.testing import FrozenClock


class Held(Store):
    """The real store, behind a wire that can be cut and counts what goes over it."""

    def __init__(self, inner: Store) -> None:
        self.inner, self.cut, self.steps = inner, False, 0
        self.meanwhile: Callable[[], Awaitable[None]] | None = None

    def __getattribute__(self, name: str) -> Any:
        own = object.__getattribute__
        if name in ("inner", "cut", "steps", "meanwhile"):
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
            said = await found(*args)
            meanwhile = self.meanwhile
            if name == "notes" and meanwhile is not None:
                self.meanwhile = None
                await meanwhile()
            return said

        return step


Held.__abstractmethods__ = frozenset()  # everything is asked of the inner one


@pytest.fixture
async def stores() -> AsyncIterator[Callable[[], Held]]:
    inner = open_store("memory://")
    await inner.open()
    yield lambda: Held(inner)
    await inner.close()


@pytest.fixture
def fresh() -> Callable[[], Held]:
    """Makes a store that holds nothing, each time."""
    return lambda: Held(open_store("memory://"))


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


def _new(**settings: float) -> Circuits:
    return Circuits({"a": Provider(Circuit(**settings)), "b": Provider(None)})  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def new() -> Callable[..., Circuits]:
    """`new(open_for=1.0)`: circuits of a process for the providers `a`, with these settings, and `b`, without any."""
    return _new


async def _ask(circuits: Circuits, model: str = "m") -> Permit | None:
    permit = circuits.permit("a", model)
    return permit if permit is None or not permit.probe or await circuits.confirm(permit) else None


@pytest.fixture(scope="session")
def ask() -> Callable[..., Awaitable[Permit | None]]:
    """`await ask(circuits, model)`: a permit, if a caller gets one."""
    return _ask


@pytest.fixture(scope="session")
def probed() -> Callable[..., Awaitable[Permit]]:
    """`await probed(circuits, model)`: the permit of a caller whose call is the probe."""

    async def run(circuits: Circuits, model: str = "m") -> Permit:
        permit = await _ask(circuits, model)
        assert permit is not None
        assert permit.probe
        return permit

    return run


@pytest.fixture(scope="session")
def fail() -> Callable[..., None]:
    """`fail(circuits, model)`: three calls that fail, which opens the circuit."""

    def run(circuits: Circuits, model: str = "m") -> None:
        for _ in range(3):
            permit = circuits.permit("a", model)
            assert permit is not None
            permit.failure("connect")

    return run


@pytest.fixture(scope="session")
def until() -> Callable[..., Awaitable[None]]:
    """`await until(circuits, model, *states)`: it is in one of these states, within a second."""

    async def run(circuits: Circuits, model: str, *states: str) -> None:
        began = time.monotonic()
        while circuits.state("a", model) not in states:
            assert time.monotonic() - began < 1.0
            await asyncio.sleep(0.01)

    return run


@pytest.fixture(scope="session")
def sync() -> Callable[..., Awaitable[None]]:
    """`await sync(*circuits)`: each looks into the store once."""

    async def run(*circuits: Circuits) -> None:
        for each in circuits:
            assert each._sharing is not None
            await each._sharing.sync()

    return run


@pytest.fixture
async def two(stores: Callable[[], Held]) -> AsyncIterator[tuple[Circuits, Circuits, FrozenClock]]:
    """Two processes that look only when told, and time that moves when told."""
    with FrozenClock() as frozen:
        made = (_new(), _new())
        for each in made:
            await each.start(stores())
            assert each._sharing is not None
            assert each._sharing._watcher is not None
            each._sharing._watcher.cancel()
        yield (*made, frozen)
        for each in made:
            await each.close()
