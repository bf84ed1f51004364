"""Looking at the store again and again, for what other processes have changed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from llmshield.errors import StoreUnavailable
from llmshield.logs import log


class Watcher:
    """Runs `look` every `every_s` seconds in a task. Whatever fails there is told once, as the event `<what>_unwatched`
    with what `told` adds, until a look succeeds: nobody else would look.

    The first look is made by `start`, before it returns; of a store that is away as soon as it is there.
    """

    def __init__(
        self, what: str, look: Callable[[], Awaitable[object]], every_s: float, **told: float | str
    ) -> None:
        self._what = what
        self._look = look
        self._every_s = every_s
        self._told = told
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Look once, and go on looking. Raises: what `look` raises, but for StoreUnavailable."""
        if self._task is None:
            with contextlib.suppress(StoreUnavailable):
                await self._look()
            self._task = asyncio.create_task(self._run(), name=f"llmshield-watching-{self._what}")

    async def close(self) -> None:
        """Stop looking."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait({task})

    async def _run(self) -> None:
        failing = False
        while True:
            await asyncio.sleep(self._every_s)  # the machine's pace, whatever the clock says
            try:
                await self._look()
                failing = False
            except Exception as error:  # noqa: BLE001  nobody else would look
                if not failing:
                    expected = isinstance(error, StoreUnavailable)
                    log.warning(
                        f"{self._what}_unwatched", error=type(error).__name__, expected=expected, **self._told
                    )
                failing = True
