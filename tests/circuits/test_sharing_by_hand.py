"""Circuits that an operator opens and closes: every process obeys, models that nobody has asked for yet included."""

from collections.abc import Callable
from typing import Any

from llmshield.circuits import Circuits, notes
from llmshield.testing import FrozenClock


async def test_an_operator_opens_and_closes(
    two: tuple[Circuits, Circuits, FrozenClock], stores: Callable[[], Any], new: Any, fail: Any, sync: Any
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
    two: tuple[Circuits, Circuits, FrozenClock], stores: Callable[[], Any], ask: Any, probed: Any, sync: Any
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
    two: tuple[Circuits, Circuits, FrozenClock], stores: Callable[[], Any], probed: Any, fail: Any, sync: Any
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
    two: tuple[Circuits, Circuits, FrozenClock], stores: Callable[[], Any], probed: Any, fail: Any, sync: Any
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
