"""Looking again and again: through failures, told once each time, until it is closed."""

import asyncio

import pytest

from llmshield.errors import StoreUnavailable
from llmshield.watching import Watcher


class Shelf:
    """Fails where a look is said to."""

    def __init__(self, *outcomes: Exception | None) -> None:
        self.outcomes = list(outcomes)
        self.looks = 0
        self.done = asyncio.Event()

    async def look(self) -> None:
        self.looks += 1
        outcome = self.outcomes.pop(0) if self.outcomes else None
        if not self.outcomes:
            self.done.set()
        if outcome is not None:
            raise outcome


async def test_failures_are_told_once_until_a_look_succeeds(caplog: pytest.LogCaptureFixture) -> None:
    away, bug = StoreUnavailable("away"), KeyError("a bug")
    shelf = Shelf(away, away, away, None, bug, bug, None, away, None)
    watcher = Watcher("things", shelf.look, 0.001, go_on_s=5.0)
    await watcher.start()
    await shelf.done.wait()
    await watcher.close()

    told = [line for line in caplog.messages if "things_unwatched" in line]
    assert ["StoreUnavailable" in line for line in told] == [True, False, True]
    assert ['"expected":true' in line for line in told] == [True, False, True]
    assert all('"go_on_s":5.0' in line for line in told)


async def test_the_first_look_is_made_at_once_and_its_bugs_are_raised() -> None:
    shelf = Shelf(KeyError("a bug"))
    watcher = Watcher("things", shelf.look, 60.0)

    with pytest.raises(KeyError):
        await watcher.start()
    await watcher.start()
    await watcher.start()

    assert shelf.looks == 2
    await watcher.close()
    await watcher.close()


async def test_nothing_looks_after_the_end() -> None:
    shelf = Shelf(None, None, None)
    watcher = Watcher("things", shelf.look, 0.001)
    await watcher.start()
    await shelf.done.wait()
    await watcher.close()
    before = shelf.looks
    await asyncio.sleep(0.02)

    assert shelf.looks == before
