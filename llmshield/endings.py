"""Ends that happen exactly once: of attempts, replies and calls; and the work that outlives its exchange."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any

from llmshield import clock
from llmshield.call import Attempt, Outcome
from llmshield.logs import log


class Endings:
    """Runs end callbacks and keeps the tasks that finish them after a client has gone."""

    def __init__(self) -> None:
        self._background: set[asyncio.Task[None]] = set()

    async def end_attempt(self, attempt: Attempt, outcome: Outcome) -> None:
        """End an attempt, once: later calls find nothing left to do."""
        if attempt.outcome is not None:
            return
        attempt.outcome = outcome
        attempt.ended_at = clock.monotonic()
        ends, attempt._ends = attempt._ends, []
        await self.run(ends, attempt, attempt.call.id)

    async def run(self, ends: Iterable[Callable[[Any], Any]], subject: object, request_id: str) -> None:
        """Run end callbacks; one that fails is logged and keeps none of the others from running."""
        waiting: list[Awaitable[Any]] = []
        for fn in ends:
            try:
                result = fn(subject)
                if isinstance(result, Awaitable):
                    waiting.append(result)
            except Exception as error:  # noqa: BLE001  the others must run
                log.exception("end_callback_failed", error, request_id=request_id)
        if waiting:
            # In a task of their own: a client that goes away now must not cut a settlement in half.
            await asyncio.shield(self.spawn(_all(waiting, request_id)))

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task

    async def drain(self, seconds: float) -> None:
        """Wait for what still runs in the background."""
        if self._background:
            await asyncio.wait(set(self._background), timeout=seconds)


async def _all(waiting: list[Awaitable[Any]], request_id: str) -> None:
    for result in waiting:
        try:
            await result
        except Exception as error:  # noqa: BLE001  the others must run
            log.exception("end_callback_failed", error, request_id=request_id)
