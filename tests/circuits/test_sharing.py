"""Circuits of several processes: who learns what and when, whose the probe is, what a lost store or process leaves."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from llmshield.circuits import Circuits, notes
from llmshield.circuits.notes import Note
from llmshield.stores import open_store
from llmshield.testing import FrozenClock


async def test_all_processes_know_within_a_second(shared_url: str, new: Any, fail: Any, until: Any) -> None:
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


async def test_a_closed_circuit_asks_the_store_nothing(stores: Callable[[], Any], new: Any, ask: Any) -> None:
    circuits, store = new(), stores()
    await circuits.start(store)
    before = store.steps
    for _ in range(1_000):
        permit = await ask(circuits)
        assert permit is not None
        permit.success()

    assert store.steps == before
    await circuits.close()


async def test_a_store_of_one_process_is_not_watched(new: Any, fail: Any) -> None:
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
    two: tuple[Circuits, Circuits, FrozenClock],
    outcome: str,
    here: str,
    there: str,
    ask: Any,
    probed: Any,
    fail: Any,
    sync: Any,
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


async def test_a_probe_that_came_to_nothing_is_anybodys(
    two: tuple[Circuits, Circuits, FrozenClock], ask: Any, probed: Any, fail: Any, sync: Any
) -> None:
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


@pytest.mark.parametrize("turns", [1, 2, 3, 4])
async def test_a_client_that_leaves_while_the_store_answers(
    two: tuple[Circuits, Circuits, FrozenClock], turns: int, ask: Any, probed: Any, fail: Any, sync: Any
) -> None:
    """Whether the swap was made or not: nobody waits for a lease."""
    mine, yours, frozen = two
    fail(mine)
    await sync(mine, yours)
    frozen.advance(60)
    permit = mine.permit("a", "m")
    assert permit is not None
    asking = asyncio.ensure_future(mine.confirm(permit))
    for _ in range(turns):
        await asyncio.sleep(0)
    asking.cancel()
    await asyncio.wait({asking})
    permit.abandon()  # as the attempt's end does
    await sync(mine, yours)

    await probed(yours)
    assert await ask(mine) is None


async def test_of_two_that_want_what_nobody_has_one_gets_it(
    two: tuple[Circuits, Circuits, FrozenClock], ask: Any, probed: Any, fail: Any, sync: Any
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
    two: tuple[Circuits, Circuits, FrozenClock], ask: Any, probed: Any, fail: Any, sync: Any
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
    two: tuple[Circuits, Circuits, FrozenClock], ask: Any, probed: Any, fail: Any, sync: Any
) -> None:
    mine, yours, frozen = two
    frozen.step(-500_000)
    fail(mine)
    await sync(mine)
    frozen.step(1_000_000)
    await sync(yours)
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
    two: tuple[Circuits, Circuits, FrozenClock], stores: Callable[[], Any], new: Any, fail: Any, sync: Any
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


async def test_a_lost_store_leaves_each_its_own(
    stores: Callable[[], Any], new: Any, probed: Any, fail: Any, sync: Any
) -> None:
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


async def test_last_words_are_said(
    stores: Callable[[], Any], new: Any, probed: Any, fail: Any, sync: Any
) -> None:
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


async def test_what_was_read_before_a_write_is_no_news(
    stores: Callable[[], Any], new: Any, probed: Any, fail: Any, sync: Any
) -> None:
    """A look at the shelf that takes long: meanwhile this process' probe has closed the circuit."""
    with FrozenClock() as frozen:
        circuits, store = new(), stores()
        await circuits.start(store)
        fail(circuits)
        await sync(circuits)
        frozen.advance(60)
        probe = await probed(circuits)
        await store.put("circuits", "something else", b"")

        async def meanwhile() -> None:
            probe.success()
            assert circuits._sharing is not None
            await circuits._sharing._write(circuits._breakers["a", "m"])

        store.meanwhile = meanwhile
        await sync(circuits)
        assert circuits.state("a", "m") == "closed"
        await sync(circuits)

        assert circuits.state("a", "m") == "closed"
        await circuits.close()


async def test_notes_that_are_none_change_nothing(
    two: tuple[Circuits, Circuits, FrozenClock], stores: Callable[[], Any], fail: Any, sync: Any
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
