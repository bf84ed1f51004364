"""Ends that happen exactly once: of attempts, replies and calls; and the work that outlives its exchange."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any

from llmshield import clock
from llmshield.call import Attempt, Outcome
from llmshield.errors import FAILURES
from llmshield.logs import log

PATIENCE_S = 10.0
"""How long the client and its next request wait for the end callbacks of this one; they go on behind its back."""


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
        if waiting := self.begin(ends, attempt, attempt.call.id):
            await self.finish(waiting, attempt.call.id)

    async def run(self, ends: Iterable[Callable[[Any], Any]], subject: object, request_id: str) -> None:
        """Run end callbacks to their end."""
        if waiting := self.begin(ends, subject, request_id):
            await self.finish(waiting, request_id)

    def begin(
        self, ends: Iterable[Callable[[Any], Any]], subject: object, request_id: str
    ) -> list[Awaitable[Any]]:
        """Run end callbacks, and return what some of them wait for, to be given to `finish` at once. One that fails is
        logged and keeps none of the others from running."""
        waiting: list[Awaitable[Any]] = []
        for fn in ends:
            try:
                result = fn(subject)
                if result is not None and isinstance(result, Awaitable):
                    waiting.append(result)
            except FAILURES as error:  # the others must run
                log.exception("end_callback_failed", error, request_id=request_id)
        return waiting

    async def finish(self, waiting: list[Awaitable[Any]], request_id: str) -> None:
        """Wait for them in a task of their own: a client that goes away now must not cut a settlement in half."""
        task = self.spawn(_all(waiting, request_id))
        if not task.done():
            _, late = await asyncio.wait({task}, timeout=PATIENCE_S)
            if late:
                log.error("end_callback_slow", request_id=request_id, seconds=PATIENCE_S)

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Work that goes on whatever becomes of the caller; what waits for nothing is done at once (3.12+)."""
        task = _begin(work)
        if not task.done():
            self._background.add(task)
            task.add_done_callback(self._background.discard)
        return task

    async def drain(self, seconds: float) -> None:
        """Wait for what still runs in the background."""
        if self._background:
            await asyncio.wait(set(self._background), timeout=seconds)


def _begin(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """A task that runs up to its first wait before this returns, where Python can: it saves a turn of the loop."""
    loop = asyncio.get_running_loop()
    if sys.version_info >= (3, 12):
        return asyncio.Task(work, loop=loop, eager_start=True)
    return loop.create_task(work)


async def _all(waiting: list[Awaitable[Any]], request_id: str) -> None:
    for result in waiting:
        try:
            await result
        except FAILURES as error:  # the others must run
            log.exception("end_callback_failed", error, request_id=request_id)
