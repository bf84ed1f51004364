"""`sqlite:///file.db`: one file, any number of processes on one machine.

One connection per process writes. The steps of one turn of the event loop are one transaction. If they are few
and nobody else is writing, it is done on the spot: its 50 us are less than a hop to a thread and back costs.
Else it is for the writing thread, which does all that is waiting in one transaction. Either way an answer comes
after the COMMIT: what a caller has been told is in the file. The journal's readers have connections of their own,
which WAL lets run beside the writers.

What a crash costs. Killing this process, or all of them, loses nothing: a commit is in the operating system's
hands before it is answered (https://www.sqlite.org/pragma.html#pragma_synchronous). A power cut is another
matter: `?sync=normal` (the default) puts the log on disk once a second, so that up to that second of spending
may be forgotten, never the file's consistency; `?sync=full` puts it there before each answer and forgets
nothing, at the price of a disk flush per transaction (1-10 ms, shared by the steps that wait together).
Normal is the default because a budget is exceeded by a second of traffic at the most, after a power cut only.
"""

from __future__ import annotations

import asyncio
import os
import queue
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Concatenate, ParamSpec, TypeVar

from llmshield.errors import StoreError, StoreUnavailable
from llmshield.stores import (
    Admission,
    Balance,
    Book,
    Entry,
    Grant,
    Labels,
    Line,
    Seat,
    Settled,
    Shortage,
    Standing,
    Store,
    StoreUrl,
    Window,
    book_lost,
)
from llmshield.stores import _sqlite_book as which
from llmshield.stores import _sqlite_notes as notes
from llmshield.stores import _sqlite_steps as steps
from llmshield.stores._ages import Age
from llmshield.stores._sqlite_book import Turned
from llmshield.stores._trouble import busy, sqlite_trouble

P = ParamSpec("P")
R = TypeVar("R")
_Job = tuple[Callable[[sqlite3.Connection], Any], "asyncio.Future[Any]", asyncio.AbstractEventLoop]
_Done = tuple[_Job, Any, BaseException | None]
_Answer = tuple["asyncio.Future[Any]", Any, BaseException | None]

_BUSY_S = 0.5
"""Longest wait for other processes' transactions. They take below a millisecond each, but the disk flush with which
SQLite begins its log anew is in one of them, and slow disks take 0.2 s for that."""

_STUCK_S = 0.05
"""When somebody has waited so long for another process, what comes then fails at once, until he is through."""

_START_S = 5.0
"""The same at start, where several processes may turn a new file to WAL."""

_TURN = 32
"""Most steps that are done on the event loop: it stands still for half a millisecond."""

_BATCH = 256
"""Most steps in one transaction: at 20 us each it holds the file for 5 ms."""

_SWEEP_MS = 1_000
"""How often a reservation looks for due holds on its way."""

_PRUNE_MS = 60_000
"""How often accounts and windows that nobody can ask for any more are looked for."""

_FLUSH_S = 1.0
"""How much a power cut may take, and how often disks are bothered."""

_PAGE = 2_000
"""Journal entries read at once."""


class SqliteStore(Store):
    """State in one SQLite file."""

    options: ClassVar[frozenset[str]] = frozenset({"sync"})

    def __init__(self, url: StoreUrl) -> None:
        super().__init__(url)
        if not url.path:
            raise StoreError("An SQLite store names its file: sqlite:///llmshield.db")
        self._file = url.path
        self._sync = url.options.get("sync", "normal").upper()
        if self._sync not in ("NORMAL", "FULL"):
            raise StoreError(f"Store option sync={self._sync.lower()!r} is unknown (known: normal, full)")
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._writer: sqlite3.Connection | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._turn: list[_Job] = []
        self._free = threading.Lock()
        """Held by whoever uses the writing connection."""
        self._waits_since = 0.0
        """When the writing thread began to wait for another process; 0 while it does not."""
        self._inode = (0, 0)
        """Of the file that was opened."""
        self._dirty = False
        self._changes = 0
        self._sweep_ms = 0
        self._pruned_ms = 0
        self._age = Age()

    async def open(self) -> None:
        if self._thread is not None:
            return
        writer = await asyncio.to_thread(self._connect)
        flusher = await asyncio.to_thread(self._connect)
        self._inode, self.replaced = _inode(self._file), False
        self._writer, self._loop = writer, asyncio.get_running_loop()
        self._thread = threading.Thread(
            target=self._work, args=(writer, flusher), name="llmshield-sqlite", daemon=True
        )
        self._thread.start()
        if self.epoch and self.seen:
            await self._do(which.check, self.epoch, self.seen)
        await self._agree()

    async def close(self) -> None:
        thread, self._thread, self._writer = self._thread, None, None
        if thread is not None:
            for job in self._turn:
                self._jobs.put(job)
            self._turn = []
            self._jobs.put(None)
            await asyncio.to_thread(thread.join)

    async def ping(self) -> None:
        await self._step(steps.ping)

    async def reserve(
        self,
        id: str,
        lines: Sequence[Line],
        want: int,
        least: int,
        until_ms: int,
        now_ms: int,
        labels: Labels,
    ) -> Grant | Shortage:
        if now_ms >= self._sweep_ms:
            self._sweep_ms = now_ms + _SWEEP_MS
            await self._step(steps.expire, now_ms)
        return await self._step(steps.reserve, id, lines, want, least, until_ms, now_ms, labels)

    async def settle(
        self, id: str, lines: Sequence[Line], actual: int, now_ms: int, labels: Labels,
        tokens_in: int = 0, tokens_out: int = 0,
    ) -> Settled:  # fmt: skip
        return await self._step(steps.settle, id, lines, actual, now_ms, labels, tokens_in, tokens_out)

    async def release(self, id: str, lines: Sequence[Line]) -> int:
        return await self._step(steps.release, id, lines)

    async def renew(self, ids: Sequence[str], until_ms: int) -> int:
        return await self._step(steps.renew, ids, until_ms)

    async def expire(self, now_ms: int) -> int:
        age_ms = self._age(now_ms)
        if abs(now_ms - self._pruned_ms) >= _PRUNE_MS:
            self._pruned_ms = now_ms
            await self._in_thread(steps.prune_old, now_ms, age_ms)
        await self._step(notes.forget, now_ms)
        return await self._step(steps.expire, now_ms)

    async def standing(self, lines: Sequence[Line]) -> list[Standing]:
        return await self._in_thread(steps.standing, lines)

    async def balances(self, prefix: str = "") -> list[Balance]:
        return await self._in_thread(steps.balances, prefix)

    async def journal(self, since_ms: int = 0, until_ms: int | None = None) -> AsyncIterator[Entry]:
        after = 0
        while True:
            page = await asyncio.to_thread(self._page, after, since_ms, until_ms)
            for seq, entry in page:
                after = seq
                yield entry
            if len(page) < _PAGE:
                return

    async def holds(self) -> int:
        return await self._do(steps.holds)

    async def admit(
        self, windows: Sequence[Window], seats: Sequence[Seat], now_ms: int, cost: int = 1
    ) -> Admission:
        return await self._do(steps.admit, windows, seats, now_ms, cost)

    async def count(
        self, windows: Sequence[Window], now_ms: int, cost: int, at_ms: int | None = None
    ) -> None:
        await self._do(steps.count, windows, now_ms, cost, now_ms if at_ms is None else at_ms)

    async def leave(self, seats: Sequence[Seat]) -> None:
        await self._do(steps.leave, seats)

    async def sit(self, seats: Sequence[Seat]) -> None:
        await self._do(steps.sit, seats)

    async def put(self, shelf: str, key: str, value: bytes, until_ms: int = 0) -> None:
        await self._step(notes.put, shelf, key, value, until_ms)

    async def put_once(self, shelf: str, key: str, value: bytes, until_ms: int, now_ms: int) -> bytes | None:
        return await self._step(notes.put_once, shelf, key, value, until_ms, now_ms)

    async def swap(
        self, shelf: str, key: str, old: bytes | None, new: bytes, until_ms: int, now_ms: int
    ) -> bytes | None:
        return await self._step(notes.swap, shelf, key, old, new, until_ms, now_ms)

    async def look(self, shelf: str, key: str, now_ms: int) -> bytes | None:
        return await self._step(notes.look, shelf, key, now_ms)

    async def strike(self, shelf: str, key: str) -> bool:
        return await self._step(notes.strike, shelf, key)

    async def notes(self, shelf: str, now_ms: int) -> dict[str, bytes]:
        found: dict[str, bytes] | Turned = await self._in_thread(
            which.guarded, self.epoch, notes.notes, shelf, now_ms
        )
        if isinstance(found, Turned):
            return await self._step(notes.notes, shelf, now_ms)
        return found

    async def revision(self, shelf: str) -> int:
        return await self._step(notes.revision, shelf)

    async def book(self) -> Book:
        return await self._do(which.book)

    async def begin(self, epoch: str) -> None:
        await self._do(which.begin, epoch)

    async def turn(self, epoch: str, past: Sequence[str] = (), *, wipe: bool = False) -> None:
        await self._in_thread(which.turn, epoch, past, wipe)

    async def _step(
        self, step: Callable[Concatenate[sqlite3.Connection, P], R], *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """A step of the book or of the notes: in the book that we know, or in none."""
        for _ in range(3):
            done = await self._do(which.guarded, self.epoch, step, *args, **kwargs)
            if not isinstance(done, Turned):
                return done
            if not done.epoch:
                raise book_lost(f"the SQLite file {self._file!r}")
            self._adopt(done.epoch)
        raise StoreUnavailable("SQLite: the money book changes too fast")

    async def _do(
        self,
        step: Callable[Concatenate[sqlite3.Connection, P], R],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> R:
        """Take a step, with all others of this turn of the event loop; the answer comes after its commit."""
        if self._writer is None:
            raise StoreUnavailable("The SQLite store is not open")
        if self._waits_since and time.monotonic() - self._waits_since > _STUCK_S:
            raise busy(self._file, _STUCK_S)
        loop = asyncio.get_running_loop()
        if self._sync == "FULL" or loop is not self._loop:
            return await self._in_thread(step, *args, **kwargs)
        future: asyncio.Future[R] = loop.create_future()
        self._turn.append((lambda connection: step(connection, *args, **kwargs), future, loop))
        if len(self._turn) == 1:
            loop.call_soon(self._end_turn)
        return await future

    async def _in_thread(
        self, step: Callable[Concatenate[sqlite3.Connection, P], R], *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """Take a step that may take long: never on the event loop."""
        if self._writer is None:
            raise StoreUnavailable("The SQLite store is not open")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[R] = loop.create_future()
        self._jobs.put((lambda connection: step(connection, *args, **kwargs), future, loop))
        return await future

    def _end_turn(self) -> None:
        """Do the steps of this turn here if that is quick: they are few, and nobody else is writing."""
        batch, self._turn = self._turn, []
        writer = self._writer
        done: list[_Done] | None = None
        if (
            writer is not None
            and len(batch) <= _TURN
            and self._jobs.empty()
            and self._free.acquire(blocking=False)
        ):
            try:
                done = self._commit(writer, batch, patience_s=0.0)
            finally:
                self._free.release()
        if done is None:
            for job in batch:
                self._jobs.put(job)
        else:
            _deliver([(job[1], value, error) for job, value, error in done])

    def _begin_now(self, connection: sqlite3.Connection) -> bool:
        """Open a write transaction unless another process has one."""
        try:
            connection.execute("BEGIN IMMEDIATE")
            return True
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                raise
            return False

    def _lost(self, connection: sqlite3.Connection, error: Exception) -> StoreUnavailable:
        """Undo the open transaction; what to raise for it."""
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        if isinstance(error, StoreUnavailable):
            return error
        return sqlite_trouble(self._file, error)

    # -- what runs in the writing thread

    def _connect(self) -> sqlite3.Connection:
        deadline = time.monotonic() + _START_S
        while True:
            try:
                if not Path(self._file).parent.is_dir():
                    raise StoreError(
                        f"The folder of the SQLite store {self._file!r} does not exist; make it, or name another file"
                        " (sqlite:///relative.db, sqlite:////absolute.db)."
                    )
                connection = sqlite3.connect(
                    self._file,
                    timeout=_BUSY_S,
                    isolation_level=None,
                    check_same_thread=False,
                    cached_statements=64,
                )
                connection.execute("PRAGMA journal_mode=WAL")
                connection.execute(f"PRAGMA synchronous={self._sync}")
                connection.execute("PRAGMA wal_autocheckpoint=0")  # the writing thread does it
                steps.create(connection)
                connection.execute("PRAGMA busy_timeout=0")  # we wait ourselves, and never on the event loop
                return connection
            except sqlite3.OperationalError as error:
                # Several processes that start together turn the same new file to WAL: all but one are told to wait.
                if "locked" not in str(error) or time.monotonic() > deadline:
                    raise sqlite_trouble(self._file, error) from error
                time.sleep(0.02)
            except sqlite3.DatabaseError as error:
                raise sqlite_trouble(self._file, error) from error

    def _work(self, writer: sqlite3.Connection, flusher: sqlite3.Connection) -> None:
        """The thread: batches of steps, each batch one transaction; once a second the log goes to disk."""
        flush_at, ending = 0.0, False
        while not ending:
            batch: list[_Job] = []
            try:
                job = self._jobs.get(timeout=_FLUSH_S)
                while job is not None:
                    batch.append(job)
                    if len(batch) == _BATCH:
                        break
                    job = self._jobs.get_nowait()
                ending = job is None
            except queue.Empty:
                pass
            if batch:
                with self._free:
                    done = self._commit(writer, batch)
                self._answer(done or [])
            if self._dirty and time.monotonic() >= flush_at:
                self._flush(flusher)
                flush_at = time.monotonic() + _FLUSH_S
        with self._free:
            self._flush(flusher)
            flusher.close()
            writer.close()

    def _commit(
        self, connection: sqlite3.Connection, batch: list[_Job], patience_s: float = _BUSY_S
    ) -> list[_Done] | None:
        """All steps of a batch in one transaction; if it fails, none of them happened and each is told so.

        None: without patience, and another process is writing.
        """
        done: list[_Done] = []
        deadline = time.monotonic() + patience_s
        try:
            while not self._begin_now(connection):
                if not patience_s:
                    return None
                if time.monotonic() > deadline:
                    raise busy(self._file, _BUSY_S)
                self._waits_since = self._waits_since or time.monotonic()
                time.sleep(0.0003)  # SQLite's own waiting sleeps up to 100 ms at a time
            self._waits_since = 0.0
            if _inode(self._file) != self._inode:
                self.replaced = True
                raise book_lost(
                    f"the SQLite file {self._file!r} was removed or replaced under this process; it"
                )
            for job in batch:
                # A caller that gave up before its turn gets nothing held in its name.
                done.append((job, None if job[1].cancelled() else job[0](connection), None))
            connection.execute("COMMIT")
            if connection.total_changes != self._changes:
                self._changes, self._dirty = connection.total_changes, True
        except Exception as error:  # noqa: BLE001  handed to every caller of the batch
            self._waits_since = 0.0
            lost = self._lost(connection, error)
            lost.__cause__ = None if lost is error else error
            if len(batch) > 1 and not isinstance(error, (sqlite3.OperationalError, StoreUnavailable)):
                # One of them is at fault (a value that SQLite can't take): it must not take the others with it.
                return [one for job in batch for one in self._commit(connection, [job], _BUSY_S) or ()]
            return [(job, None, lost) for job in batch]
        return done

    def _answer(self, done: list[_Done]) -> None:
        loops: dict[asyncio.AbstractEventLoop, list[_Answer]] = {}
        for job, value, error in done:
            loops.setdefault(job[2], []).append((job[1], value, error))
        for loop, answers in loops.items():
            try:
                loop.call_soon_threadsafe(_deliver, answers)
            except RuntimeError:  # that loop is closed: nobody waits there any more
                continue

    def _flush(self, flusher: sqlite3.Connection) -> None:
        """Put the log on disk and into the file. If another process is at it, or disturbs: next time.

        The write at the end makes this thread, not a caller on its event loop, wait for the flush with which
        SQLite begins the log anew.
        """
        self._dirty = False
        try:
            flusher.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
            flusher.execute("UPDATE flush SET times = times + 1")
        except sqlite3.OperationalError:
            self._dirty = True

    def _page(self, after: int, since_ms: int, until_ms: int | None) -> list[tuple[int, Entry]]:
        try:
            connection = sqlite3.connect(
                Path(self._file).absolute().as_uri() + "?mode=ro", uri=True, timeout=_BUSY_S
            )
            try:
                return steps.page(connection, after, since_ms, until_ms, _PAGE)
            finally:
                connection.close()
        except sqlite3.DatabaseError as error:
            raise sqlite_trouble(self._file, error) from error


def _inode(file: str) -> tuple[int, int]:
    """What tells a file from another one at the same place."""
    try:
        stat = os.stat(file)  # noqa: PTH116  in every transaction: pathlib costs twice as much
    except FileNotFoundError:
        return (0, 0)
    return stat.st_dev, stat.st_ino


def _deliver(answers: list[_Answer]) -> None:
    for future, value, error in answers:
        if future.done():
            continue
        if error is None:
            future.set_result(value)
        else:
            future.set_exception(error)
