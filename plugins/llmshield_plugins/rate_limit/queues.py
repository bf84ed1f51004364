"""Where calls wait for a free place: first come, first served, a bounded number of them for a bounded time.

A queue belongs to one process. Its first call asks the store for a place: when a call of this process has left one,
and every `POLL_S` because another process may have. So however many wait, a queue costs one step of the store per
`POLL_S`; and between processes, whose queue asks first is chance.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Literal, TypeAlias

from llmshield import clock
from llmshield.metrics import Metrics
from llmshield.verdicts import Block

POLL_S = 0.1
"""How soon a place that another process has left is noticed."""

Full: TypeAlias = Literal["full"]


class Queues:
    """The queues of one process, by the key of the place that their calls wait for."""

    def __init__(self, metrics: Metrics) -> None:
        self._queues: dict[str, deque[asyncio.Event]] = {}
        self._ended = metrics.counter(
            "llmshield_queue_total",
            "Calls that waited for a place, or could not, by how that ended.",
            "ended",
        )
        self._seconds = metrics.histogram(
            "llmshield_queue_wait_seconds", "How long calls waited for a place.", "ended"
        )

    def __contains__(self, key: str) -> bool:
        """Whether somebody waits there: who comes now is behind them."""
        return key in self._queues

    def wake(self, key: str) -> None:
        """A place has been left: the first one may look."""
        waiting = self._queues.get(key)
        if waiting:
            waiting[0].set()

    async def wait(
        self, key: str, length: int, wait_s: float, take: Callable[[], Awaitable[Block | Full | None]]
    ) -> Block | Literal["crowded", "late"] | None:
        """Stand in line until `take` gets a place (None) or is refused for good (Block).

        `crowded`: `length` calls wait there already; `late`: `wait_s` seconds have gone by.
        """
        waiting = self._queues.get(key)
        if waiting is None:
            waiting = self._queues[key] = deque()
        elif len(waiting) >= length:
            self._ended.add(1, "crowded")
            return "crowded"
        turn = asyncio.Event()
        waiting.append(turn)
        began = clock.monotonic()
        ended = "left"
        try:
            while True:
                turn.clear()
                if waiting[0] is turn:
                    said = await take()
                    if said != "full":
                        ended = "served" if said is None else "refused"
                        return said
                left = began + wait_s - clock.monotonic()
                if left <= 0:
                    ended = "late"
                    return "late"
                await _set_within(turn, min(left, POLL_S) if waiting[0] is turn else left)
        finally:
            waiting.remove(turn)
            if waiting:
                waiting[0].set()
            else:
                del self._queues[key]
            self._ended.add(1, ended)
            self._seconds.observe(clock.monotonic() - began, ended)


async def _set_within(turn: asyncio.Event, seconds: float) -> None:
    """Until the event is set, or so many seconds have gone by."""
    try:
        async with asyncio.timeout(seconds):
            await turn.wait()
    except TimeoutError:
        return
