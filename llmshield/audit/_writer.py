"""The thread that writes: it chains, writes and syncs batches of records, rotates, prunes and anchors.

Best effort: it sleeps until a record comes, lets others join it for a moment, and writes them together; when the disk
refuses, records wait (up to `limit`), and what does not fit is counted. Required: it writes at once, syncs, and tells
who waits; what comes while it syncs is the next batch (group commit).
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from llmshield import clock
from llmshield.audit._contents import Mode, Said, content_field
from llmshield.audit._places import Places
from llmshield.errors import ShieldError, StoreUnavailable
from llmshield.evidence import EvidenceError
from llmshield.evidence.identifiers import Identifiers
from llmshield.evidence.people import People
from llmshield.logs import log, stamp
from llmshield.records import other_record

JOIN_S = 0.05
"""How long the first record of a batch waits for others: a wake costs 25 us, whatever it is for."""
LOOK_S = 1.0
"""How often the file is looked after: anchored, followed when it was moved, tried again when it refused."""
_BATCH = 64
"""Records for each hold of the interpreter: 64 take about 0.4 ms, which no call notices."""


class Options(Protocol):
    """What the thread needs to know of the policy's `audit:`."""

    @property
    def required(self) -> bool: ...


@dataclass(slots=True)
class Waiter:
    """Somebody who goes on when the record is durable."""

    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[None]


class Subject(NamedTuple):
    """Whom a record is about, and what they and the model said: the thread makes its last fields of it."""

    request_id: str
    tenant: str
    user: str
    texts: list[Said]
    mode: Mode = "none"
    began: float | None = None
    """When its call did, by `clock.monotonic()`: who was erased since is nobody in this record."""


class Item(NamedTuple):
    """A record on its way: when, what, who waits for it, whom it is about."""

    at: float
    body: str
    waiter: Waiter | None = None
    subject: Subject | None = None


class Writer:
    """Writes to `places`. `written` and `dropped` count records, `failure` says why nothing can be written now."""

    def __init__(
        self, options: Options, places: Places, people: People, identifiers: Identifiers, limit: int
    ) -> None:
        self.written = 0
        self.dropped = 0
        self.failure: str | None = None
        self.places = places
        self._options = options
        self._people = people
        self._ids = identifiers
        self._limit = limit
        self._queue: deque[Item] = deque()
        self._pending: list[Item] = []  # taken off the queue, not in the file yet
        self._told = 0  # drops that the chain knows of
        self._idle = True
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._required = options.required
        self._mac = identifiers.text_keys[0]

    def start(self) -> None:
        """Open the place and start the thread. Raises: EvidenceError, which says what to do; OSError."""
        self.places.open()
        self._people.look()
        self._thread = threading.Thread(target=self._run, name="llmshield-audit", daemon=True)
        self._thread.start()

    def put(self, item: Item) -> None:
        """Queue one record: about a microsecond; never waits, never raises."""
        queue = self._queue
        if (not self._required or self.failure is not None) and len(queue) + len(
            self._pending
        ) >= self._limit:
            self.dropped += 1
            return
        queue.append(item)
        if self._idle:
            self._idle = False  # one is enough
            self._wake.set()

    async def put_and_wait(self, item: Item, patience_s: float) -> None:
        """Queue one record and wait until it is durable. Raises: StoreUnavailable; it is kept for later all the same."""
        if self.failure is not None:
            self.put(item)
            raise StoreUnavailable(f"the audit log can't be written: {self.failure}")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        self.put(item._replace(waiter=Waiter(loop, future)))
        try:
            async with asyncio.timeout(patience_s):
                await future
        except TimeoutError:
            raise StoreUnavailable(f"the audit log has not taken a record within {patience_s:g} s") from None

    def close(self, timeout_s: float) -> None:
        """Write what is queued, a last record and the anchor; let go of the file."""
        if self._thread is None:
            return
        self._stop.set()
        self._wake.set()
        self._thread.join(timeout_s)
        self._thread = None

    # -- the thread --------------------------------------------------------------------------------------------

    def _run(self) -> None:
        looked = 0.0
        while not self._stop.is_set():
            if self.failure is not None:
                self._stop.wait(LOOK_S)
            elif not self._queue:
                self._wake.clear()
                self._idle = True
                if not self._queue:  # looked at after `_idle` was said, or a record could sleep
                    self._wake.wait(LOOK_S)
                self._idle = False
            if not self._required and self._queue:
                self._stop.wait(JOIN_S)
            now = clock.monotonic()
            look = now - looked >= LOOK_S or now < looked
            if look or self._required:
                self._safely(self._follow)
            self._safely(self._drain)
            if look:
                looked = now
                self._safely(self._look_after)
        self._safely(self._drain)
        end = {"kind": "end", "pid": os.getpid(), "dropped": self.dropped}
        self._pending.append(Item(clock.now(), other_record(end)))
        self._safely(self._drain)
        self._safely(self.places.close)

    def _safely(self, work: Callable[[], None]) -> None:
        """Whatever happens, the thread goes on: without it nothing would be recorded any more, and nobody told."""
        try:
            work()
        except (OSError, EvidenceError) as error:
            self._refused(error, [])
        except Exception as error:  # noqa: BLE001
            log.exception("audit_thread_failed", error)
            self._refused(OSError(f"{type(error).__name__} in the audit's thread"), [])

    def _follow(self) -> None:
        if self.places.follow():
            self.written += 1
        self._people.look()

    def _drain(self) -> None:
        """Write all that is queued, batch by batch, until the place refuses."""
        pending = self._pending
        if self.dropped > self._told:
            untold = self.dropped - self._told
            self._told += untold
            pending.append(Item(clock.now(), other_record({"kind": "dropped", "count": untold})))
        while self._queue:
            pending.append(self._queue.popleft())
        if self.failure is not None and not pending:  # somebody has to try
            pending.append(Item(clock.now(), other_record({"kind": "resumed", "after": self.failure})))
        if self._required:  # one sync for all of them
            self._write(pending, len(pending) or 1)
        else:
            self._write(pending, _BATCH)

    def _write(self, pending: list[Item], size: int) -> None:
        while pending:
            batch = pending[:size]
            try:
                out = self.places.out
                out.append([(stamp(item.at), self._finished(item)) for item in batch])
                if self._required:
                    out.sync()
            except (OSError, ShieldError) as error:
                self._refused(error, pending)
                return
            except Exception as error:  # noqa: BLE001  one bad record must not keep all others out
                if len(batch) > 1:
                    size = 1
                    continue
                log.exception("audit_record_failed", error)
                self.dropped += 1
                _tell(batch, StoreUnavailable("the audit can't make its record of this call"))
                del pending[0]
                continue
            del pending[: len(batch)]  # at once: there is room for others
            self.written += len(batch)
            if self.failure is not None:
                self.failure = None
                log.warning("audit_recovered", waiting=len(pending))
            _tell(batch, None)

    def _finished(self, item: Item) -> bytes:
        """The record with what is about a person: a pseudonym, and their texts as the policy wants them kept."""
        subject = item.subject
        if subject is None:
            return item.body.encode("ascii")
        person = self._people.of(subject.tenant, subject.user, subject.began) if subject.user else None
        more = f',"user":"{person.pseudonym}"' if person is not None else ',"user":null'
        if subject.texts:
            more += ',"content":' + content_field(
                subject.mode, subject.texts, person, self._ids.ring, self._mac, subject.request_id
            )
        return f"{item.body[:-1]}{more}}}".encode("ascii")

    def _refused(self, error: Exception, rest: Sequence[Item]) -> None:
        """Keep what could not be written for the next try; who waits for it is told now."""
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        if self.failure is None:
            log.error("audit_failed", sink=self.places.name, reason=reason, required=self._required)
        self.failure = reason
        if rest:
            self._pending = [item._replace(waiter=None) for item in rest]
            _tell(rest, StoreUnavailable(f"the audit log can't be written: {reason}"))

    def _look_after(self) -> None:
        """Once a second: note the chain's end, begin a new segment when this one is full or of yesterday, remove what is
        older than the policy keeps."""
        try:
            self.written += self.places.look_after(clock.now())
        except (OSError, EvidenceError) as error:
            log.warning("audit_look_failed", reason=str(error))


def _tell(batch: Sequence[Item], error: Exception | None) -> None:
    """Wake those who wait, one call into each loop for all of them."""
    by_loop: dict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]] = {}
    for item in batch:
        if item.waiter is not None:
            by_loop.setdefault(item.waiter.loop, []).append(item.waiter.future)
    for loop, futures in by_loop.items():
        try:
            loop.call_soon_threadsafe(_settle, futures, error)
        except RuntimeError:  # its loop is closed: nobody waits any more
            continue


def _settle(futures: list[asyncio.Future[None]], error: Exception | None) -> None:
    """On the loop's thread: let the waiting calls go on; they may have been cancelled."""
    for future in futures:
        if future.done():
            continue
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)


__all__ = ["Item", "Subject", "Waiter", "Writer"]
