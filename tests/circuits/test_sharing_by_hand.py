"""Circuits that an operator opens and closes: every process obeys, models that nobody has asked for yet included."""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import pytest

from llmshield.circuits import Circuits, Permit, notes
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


async def sync(*circuits: Circuits) -> None:
    for each in circuits:
        assert each._sharing is not None
        await each._sharing.sync()


@pytest.fixture
async def two(stores: Callable[[], Any]) -> AsyncIterator[tuple[Circuits, Circuits, FrozenClock]]:
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


async def test_an_operator_opens_and_closes(
    two: tuple[Circuits, Circuits, FrozenClock], stores: Callable[[], Any]
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
    assert not mine.active("a")
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
    two: tuple[Circuits, Circuits, FrozenClock], stores: Callable[[], Any]
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


async def test_what_an_operator_said_is_said_once(
    two: tuple[Circuits, Circuits, FrozenClock], stores: Callable[[], Any]
) -> None:
    mine, yours, frozen = two
    await notes.hold_open(stores(), "a", None, 600)
    await sync(mine, yours)
    assert mine.permit("a", "m") is None
    frozen.advance(600)
    (await probed(mine)).success()
    fail(yours, "other")
    await sync(yours, mine, yours)

    assert (mine.state("a", "m"), yours.state("a", "m")) == ("closed", "closed")


async def test_an_operators_word_outlives_the_probe_under_way(
    two: tuple[Circuits, Circuits, FrozenClock], stores: Callable[[], Any]
) -> None:
    mine, yours, frozen = two
    fail(mine)
    await sync(mine, yours)
    frozen.advance(60)
    probe = await probed(mine)
    await notes.close(stores(), "a", "m")
    probe.failure("reset")
    await sync(mine, yours)

    assert (mine.state("a", "m"), yours.state("a", "m")) == ("closed", "closed")
