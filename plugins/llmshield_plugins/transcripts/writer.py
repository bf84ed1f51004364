"""The thread that keeps: it takes conversations off a bounded queue, seals them and writes them together.

Best effort. What does not fit the queue is dropped and counted; when the store is away, conversations wait for it, up
to the queue's bounds and `STALE_S`. Losing one harms nobody; keeping one that should not be kept would.
"""

from __future__ import annotations

import threading
from collections import deque

from llmshield import clock
from llmshield.errors import ShieldError, StoreUnavailable
from llmshield.logs import log
from llmshield.transcripts import Told, Transcripts
from llmshield.transcripts.people import LOOK_S

JOIN_S = 0.05
"""How long the first conversation waits for others, to be written with them."""
STALE_S = 600.0
"""How long a conversation waits for a store that is away."""
MOST_CHARACTERS = 16 * 2**20
"""Characters that may wait in memory, of all conversations together."""
_BATCH = 64


class Writer:
    """Writes to `transcripts`. `kept`, `dropped`, `late` count; `failure` says why nothing can be written now."""

    def __init__(self, transcripts: Transcripts, most: int) -> None:
        self.kept = 0
        self.dropped = 0
        self.late = 0
        self.failure: str | None = None
        self._transcripts = transcripts
        self._most = most
        self._queue: deque[tuple[float, Told]] = deque()
        self._characters = 0
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def waiting(self) -> int:
        """Conversations in the queue."""
        return len(self._queue)

    @property
    def full(self) -> bool:
        """Whether the next one would be dropped."""
        return len(self._queue) >= self._most or self._characters >= MOST_CHARACTERS

    def start(self) -> None:
        """Start the thread; `transcripts` was opened, or is opened by it as soon as that works."""
        self._thread = threading.Thread(target=self._run, name="llmshield-transcripts", daemon=True)
        self._thread.start()

    def put(self, told: Told) -> None:
        """Queue one conversation: never waits, never raises."""
        with self._lock:
            if self.full:
                self.dropped += 1
                return
            self._queue.append((clock.monotonic(), told))
            self._characters += told.size
        self._wake.set()

    def close(self, timeout_s: float) -> None:
        """Write what is queued, as far as that works in this time, and let go of the store."""
        self._stop.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(timeout_s)
            self._thread = None
        if self._queue:
            log.warning("transcripts_lost", count=len(self._queue))

    # -- the thread

    def _run(self) -> None:
        while not self._stop.is_set():
            if self.failure is not None:
                self._stop.wait(LOOK_S)
            elif self._wake.wait(LOOK_S):
                self._wake.clear()
                self._stop.wait(JOIN_S)
            self._safely()
        self._safely()
        self._transcripts.close()

    def _safely(self) -> None:
        """Whatever happens, the thread goes on."""
        try:
            self._transcripts.open()
            self._drain()
            self._transcripts.look_after()
            if self.failure is not None:
                log.warning("transcripts_recovered")
                self.failure = None
        except ShieldError as error:
            self._failed(str(error), type(error).__name__)
        except Exception as error:  # noqa: BLE001
            log.exception("transcripts_thread_failed", error)
            self._failed(f"{type(error).__name__} in the thread that keeps transcripts", type(error).__name__)
        self._forget_stale()

    def _failed(self, reason: str, kind: str) -> None:
        if self.failure is None:
            log.error("transcripts_failed", reason=reason, error=kind)
        self.failure = reason

    def _drain(self) -> None:
        """Keep all that is queued, batch by batch. One that can't be sealed does not keep the others out."""
        while True:
            batch = [told for _, told in list(self._queue)[:_BATCH]]
            if not batch:
                return
            try:
                self._keep(batch)
            except StoreUnavailable:
                raise
            except Exception as error:  # noqa: BLE001  whose fault it is shows when each is tried for itself
                log.warning("transcripts_one_by_one", error=type(error).__name__)
                self._one_by_one(batch)
            self._take(len(batch))

    def _one_by_one(self, batch: list[Told]) -> None:
        for told in batch:
            try:
                self._keep([told])
            except StoreUnavailable:
                raise
            except Exception as error:  # noqa: BLE001
                log.exception("transcript_failed", error, request_id=told.id)
                self.dropped += 1

    def _keep(self, batch: list[Told]) -> None:
        stored = self._transcripts.put(batch)
        self.kept += stored.kept
        self.late += stored.late

    def _take(self, count: int) -> None:
        with self._lock:
            for _ in range(count):
                _, told = self._queue.popleft()
                self._characters -= told.size

    def _forget_stale(self) -> None:
        before = clock.monotonic() - STALE_S
        stale = 0
        while self._queue and self._queue[0][0] < before:
            self._take(1)
            stale += 1
        self.dropped += stale
