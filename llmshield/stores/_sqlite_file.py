"""One SQLite file and who writes to it: this process' one writing connection, its thread, and the wait for others.

The first steps of a turn of the event loop are done on the spot, each in a transaction of its own: its 40 us are less
than a hop to a thread and back costs. What comes later in the same turn is one transaction at the turn's end. If another
process is writing, or there is much to do, it is for the writing thread, which does all that is waiting in one
transaction. Every way an answer comes after the COMMIT: what a caller has been told is in the file. Reports are read on
connections of their own, which WAL lets run beside the writers.

Rule 1: a file in which nobody else commits for 50 ms is held by somebody who is stuck: the step fails, and while it
stays so every other step fails at once. Where others do commit it is only crowded, and waited for half a second. Time in
which whoever holds it is ready to run and gets no processor does not count to the 50 ms (`_sqlite_holder`).
Rule 2: the waiting is done in the thread, never on the event loop.
Rule 3: disk flushes are for another thread (`_sqlite_log`), which no step waits for.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import sqlite3
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Concatenate, Final, NamedTuple, ParamSpec, TypeVar

from llmshield.errors import StoreUnavailable
from llmshield.stores import book_lost
from llmshield.stores._sqlite_connect import READ_S, connect
from llmshield.stores._sqlite_holder import Holder
from llmshield.stores._sqlite_log import Log
from llmshield.stores._trouble import busy, sqlite_trouble

P = ParamSpec("P")
R = TypeVar("R")
_Answer = tuple["asyncio.Future[Any]", Any, BaseException | None]

PATIENCE_S = 0.05
"""What a file that somebody holds locked may cost a call, with the way to the thread and back."""

_WAY_S = 0.005

_PATIENCE_FULL_S = 0.5
"""The same where each commit of others has a disk flush in it (`sync=full`): slow disks take 0.2 s for one."""

_CROWDED_S = 0.5
"""Longest wait for other processes that do commit. They take below a millisecond each."""

_POLL_S = 0.0003
"""Between two looks whether the file is free; SQLite's own waiting sleeps up to 100 ms at a time."""

_COUNTED_S = 0.001
"""What one look counts of the patience at the most: where we get no processor, the others may not get any either."""

_LOOK_S = 0.01
"""Between two looks at who holds the file."""

_SPOTS = 4
"""Most steps that are done on the spot in one turn of the event loop: what one caller does in a row."""

_TURN = 32
"""Most steps that are done on the event loop at once: it stands still for half a millisecond."""

_BATCH = 256
"""Most steps in one transaction: at 20 us each it holds the file for 5 ms."""


class _Job(NamedTuple):
    step: Callable[[sqlite3.Connection], Any]
    future: asyncio.Future[Any]
    loop: asyncio.AbstractEventLoop
    asked: float


class _Busy:
    """What comes back instead of a result: another process is writing."""


_BUSY: Final = _Busy()


class SqliteFile:
    """The file at `path`. `sync`: NORMAL or FULL, as in SQLite's pragma."""

    def __init__(self, path: str, sync: str) -> None:
        self.path = path
        self.replaced = False
        """True: the file there is not the one that was opened."""
        self._sync = sync
        self._patience_s = PATIENCE_S if sync == "NORMAL" else _PATIENCE_FULL_S
        self.writer: sqlite3.Connection | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._reader = ThreadPoolExecutor(1, "llmshield-sqlite-read")
        """Not the loop's own threads: those scan prompts, and who looks for revoked keys does not wait for that."""
        self._log = Log(path)
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._turn: list[_Job] = []
        self._spots = 0
        """Steps that were done on the spot in this turn of the loop."""
        self._free = threading.Lock()
        """Held by whoever uses the writing connection."""
        self._stuck = False
        """Somebody has waited for all his patience, and nobody has got the file or committed to it since."""
        self._stuck_at = 0
        """The version of the file (`_version`) that it is stuck at."""
        self._inode = (0, 0)
        self._changes = 0

    async def open(self) -> None:
        """Make what is missing. Raises: StoreUnavailable, StoreError."""
        writer = await asyncio.to_thread(connect, self.path, self._sync)
        flusher = await asyncio.to_thread(connect, self.path, self._sync)
        self._inode, self.replaced, self._stuck = _inode(self.path), False, False
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(
            target=self._work, args=(writer,), name="llmshield-sqlite", daemon=True
        )
        self._thread.start()
        self._reader = ThreadPoolExecutor(1, "llmshield-sqlite-read")
        await asyncio.to_thread(self._log.begin, flusher)
        self.writer = writer

    async def close(self) -> None:
        """Do what is waiting, put it on disk, let go. Safe to repeat."""
        thread, self._thread, self.writer = self._thread, None, None
        if thread is not None:
            for job in self._turn:
                self._jobs.put(job)
            self._turn = []
            self._jobs.put(None)
            await asyncio.to_thread(thread.join)
            await asyncio.to_thread(self._log.end)
            await asyncio.to_thread(self._reader.shutdown)

    async def do(
        self, step: Callable[Concatenate[sqlite3.Connection, P], R], *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """Take a short step; the answer comes after its commit. Raises: StoreUnavailable."""
        writer, loop = self.writer, asyncio.get_running_loop()
        if writer is None:
            raise StoreUnavailable("The SQLite store is not open")
        here = self._sync == "NORMAL" and loop is self._loop
        if (
            here
            and self._spots < _SPOTS
            and not self._turn
            and self._jobs.empty()
            and self._free.acquire(blocking=False)
        ):
            if not self._spots:
                loop.call_soon(self._end_turn)
            self._spots += 1
            try:
                said = self._alone(writer, step, *args, **kwargs)
            finally:
                self._free.release()
            if not isinstance(said, _Busy):
                return said
            if self._stuck:
                raise busy(self.path, self._patience_s)
            here = False
        future: asyncio.Future[R] = loop.create_future()
        job = _Job(lambda connection: step(connection, *args, **kwargs), future, loop, time.monotonic())
        if not here:
            self._jobs.put(job)
        else:
            self._turn.append(job)
            if len(self._turn) == 1 and not self._spots:
                loop.call_soon(self._end_turn)
        return await future

    async def do_in_thread(
        self, step: Callable[Concatenate[sqlite3.Connection, P], R], *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """Take a step that may take a while: never on the event loop."""
        if self.writer is None:
            raise StoreUnavailable("The SQLite store is not open")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[R] = loop.create_future()
        self._jobs.put(
            _Job(lambda connection: step(connection, *args, **kwargs), future, loop, time.monotonic())
        )
        return await future

    async def read(
        self, step: Callable[Concatenate[sqlite3.Connection, P], R], *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """Read as much as there is, beside the writers: everything that was answered before is in it."""
        if self.writer is None:
            raise StoreUnavailable("The SQLite store is not open")
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(
            self._reader, lambda: self._read(lambda connection: step(connection, *args, **kwargs))
        )

    def _read(self, step: Callable[[sqlite3.Connection], R]) -> R:
        try:
            with contextlib.closing(
                sqlite3.connect(
                    Path(self.path).absolute().as_uri() + "?mode=ro",
                    uri=True,
                    timeout=READ_S,
                    isolation_level=None,
                )
            ) as connection:
                connection.execute("BEGIN")
                return step(connection)
        except sqlite3.DatabaseError as error:
            raise sqlite_trouble(self.path, error) from error

    # -- on the event loop

    def _alone(
        self,
        writer: sqlite3.Connection,
        step: Callable[Concatenate[sqlite3.Connection, P], R],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> R | _Busy:
        """A step in a transaction of its own, or nothing if another process is writing."""
        try:
            if not self._begin(writer):
                return _BUSY
            said = step(writer, *args, **kwargs)
            self._end(writer)
            return said
        except Exception as error:  # noqa: BLE001  what it means is raised
            lost = self._lost(writer, error)
            raise lost from (None if lost is error else error)

    def _end_turn(self) -> None:
        """Do the steps of this turn here if they are few, and nobody else is writing."""
        batch, self._turn, self._spots = self._turn, [], 0
        if not batch:
            return
        writer = self.writer
        done: list[_Answer] | None = None
        if (
            writer is not None
            and len(batch) <= _TURN
            and self._jobs.empty()
            and self._free.acquire(blocking=False)
        ):
            try:
                done = self._commit(writer, batch, wait=False)
            finally:
                self._free.release()
        if done is None:
            for job in batch:
                self._jobs.put(job)
        else:
            _deliver(done)

    # -- transactions

    def _begin(self, connection: sqlite3.Connection) -> bool:
        """Open a write transaction on the file that we know, unless another process has one."""
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                raise
            if self._stuck and _version(connection) != self._stuck_at:
                self._stuck = False  # others do commit
            return False
        self._stuck = False
        if _inode(self.path) != self._inode:
            self.replaced = True
            raise book_lost(f"the SQLite file {self.path!r} was removed or replaced under this process; it")
        return True

    def _end(self, connection: sqlite3.Connection) -> None:
        connection.execute("COMMIT")
        changes = connection.total_changes
        if changes != self._changes:
            self._changes, self._log.dirty = changes, True

    def _lost(self, connection: sqlite3.Connection, error: Exception) -> StoreUnavailable:
        """Undo the open transaction; what to raise for it."""
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        if isinstance(error, StoreUnavailable):
            return error
        return sqlite_trouble(self.path, error)

    def _commit(self, connection: sqlite3.Connection, batch: list[_Job], wait: bool) -> list[_Answer] | None:
        """All steps of a batch in one transaction; if it fails, none of them happened and each is told so.

        None: another process is writing, and we do not wait.
        """
        done: list[_Answer] = []
        try:
            if not self._begin(connection):
                if not wait and not self._stuck:
                    return None
                self._wait(connection, batch[0].asked)
            for job in batch:
                # A caller that gave up before its turn gets nothing held in its name.
                done.append((job.future, None if job.future.cancelled() else job.step(connection), None))
            self._end(connection)
        except Exception as error:  # noqa: BLE001  handed to every caller of the batch
            lost = self._lost(connection, error)
            lost.__cause__ = None if lost is error else error
            if len(batch) > 1 and not isinstance(error, (sqlite3.OperationalError, StoreUnavailable)):
                # One of them is at fault (a value that SQLite can't take): it must not take the others with it.
                return [one for job in batch for one in self._commit(connection, [job], wait=True) or ()]
            return [(job.future, None, lost) for job in batch]
        return done

    def _wait(self, connection: sqlite3.Connection, asked: float) -> None:
        """Open a transaction as soon as the others let us. Raises: StoreUnavailable when patience is over."""
        last = looked = time.monotonic()
        # What our own thread came late counts little: those who hold the file may have had no processor either.
        waited, crowded = min(last - asked, _WAY_S), last - asked
        counted, version, holder = waited, _version(connection), Holder(self.path)
        while not self._stuck:
            time.sleep(_POLL_S)
            now = time.monotonic()
            passed = min(now - last, _COUNTED_S)
            last, waited, crowded = now, waited + passed, crowded + passed
            if self._begin(connection):
                return
            if now - looked >= _LOOK_S:
                unused = holder.unused()
                counted = waited = waited if unused is None else counted + unused
                looked = now
            seen = _version(connection)
            if seen != version:
                version, waited, counted = seen, 0.0, 0.0
            if waited > self._patience_s - _WAY_S or crowded > _CROWDED_S:
                self._stuck, self._stuck_at = True, version
        raise busy(self.path, self._patience_s)

    # -- what runs in the writing thread

    def _work(self, writer: sqlite3.Connection) -> None:
        """The thread: batches of steps, each batch one transaction."""
        ending = False
        while not ending:
            batch: list[_Job] = []
            job = self._jobs.get()
            with contextlib.suppress(queue.Empty):
                while job is not None:
                    batch.append(job)
                    if len(batch) == _BATCH:
                        break
                    job = self._jobs.get_nowait()
            ending = job is None
            if batch:
                with self._free:
                    done = self._commit(writer, batch, wait=True)
                _answer(batch, done or [])
        with self._free:
            writer.close()


def _version(connection: sqlite3.Connection) -> int:
    """A number that changes when another process commits; -1 where even reading is locked."""
    try:
        version: int = connection.execute("PRAGMA data_version").fetchone()[0]
    except sqlite3.OperationalError:
        return -1
    return version


def _inode(file: str) -> tuple[int, int]:
    """What tells a file from another one at the same place."""
    try:
        stat = os.stat(file)  # noqa: PTH116  in every transaction: pathlib costs twice as much
    except FileNotFoundError:
        return (0, 0)
    return stat.st_dev, stat.st_ino


def _answer(batch: list[_Job], done: list[_Answer]) -> None:
    loops: dict[asyncio.AbstractEventLoop, list[_Answer]] = {}
    for job, answer in zip(batch, done, strict=True):
        loops.setdefault(job.loop, []).append(answer)
    for loop, answers in loops.items():
        with contextlib.suppress(RuntimeError):  # that loop is closed: nobody waits there any more
            loop.call_soon_threadsafe(_deliver, answers)


def _deliver(answers: list[_Answer]) -> None:
    for future, value, error in answers:
        if future.done():
            continue
        if error is None:
            future.set_result(value)
        else:
            future.set_exception(error)
