"""The log of a SQLite file (WAL): once a second on disk, and from time to time into the file.

What a commit has written is in the operating system's hands; a power cut takes what is not on disk. The thread here puts
it there, so that no caller waits for a disk. Who begins a log anew waits for a disk flush as well, and keeps the file
locked meanwhile: it is done here too, and seldom.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading

_FLUSH_S = 1.0
"""How much a power cut may take, and how often disks are bothered."""

_BUSY_MS = 50
"""How long this thread waits for writers."""

LONG = 8 * 2**20
"""Bytes of the log from which on it is written into the file and begun anew. So much of it stays on the disk: where a log
is written over, a flush delays writers by 2-10 ms, where it has to grow by up to 100."""

_HEAD, _PAGE_HEAD = 32, 24
"""Bytes before the log's first page, and before each."""

TOO_LONG = 64 * 2**20
"""From here on writers are made to wait for it: with many of them there is always one more write in the log."""


_SYNC = getattr(os, "fdatasync", os.fsync)


def length_of(log: int) -> int:
    """Bytes of the log that count: an earlier round may have left more behind them. `log` is an open file.

    Each page in it has a head that repeats the salt of the whole log's (https://www.sqlite.org/fileformat2.html#walformat);
    those that do come first.
    """
    head = os.pread(log, _HEAD, 0)
    if len(head) < _HEAD:
        return 0
    each, salt = _PAGE_HEAD + int.from_bytes(head[8:12], "big"), head[16:24]
    low, high = 0, (os.fstat(log).st_size - _HEAD) // each
    while low < high:
        middle = (low + high) // 2
        if os.pread(log, 8, _HEAD + middle * each + 8) == salt:
            low = middle + 1
        else:
            high = middle
    return _HEAD + low * each


class Log:
    """The log of the file at `path`; `begin` and `end` its thread."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._thread: threading.Thread | None = None
        self._ending = threading.Event()
        self.dirty = False
        """Set by whoever has written."""

    def begin(self, connection: sqlite3.Connection) -> None:
        """From here on look after it, on this connection. Takes a moment where crashes have left a long one: whoever opens
        the file after a crash of all has to read it whole, and it must not grow from crash to crash."""
        with contextlib.suppress(OSError, sqlite3.OperationalError):  # somebody else is at it
            self.flush(connection)
        self._ending.clear()
        self._thread = threading.Thread(
            target=self._keep, args=(connection,), name="llmshield-sqlite-log", daemon=True
        )
        self._thread.start()

    def end(self) -> None:
        """Put on disk what is not, and close the connection. Takes a moment: never on the event loop."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._ending.set()
            thread.join()

    def _keep(self, connection: sqlite3.Connection) -> None:
        connection.execute(f"PRAGMA busy_timeout={_BUSY_MS}")
        ending = False
        while not ending:
            ending = self._ending.wait(_FLUSH_S)
            if self.dirty:
                self.dirty = False
                try:
                    self.flush(connection)
                except (OSError, sqlite3.OperationalError):  # somebody is in the way: next time
                    self.dirty = True
        connection.close()

    def flush(self, connection: sqlite3.Connection) -> None:
        """Put the log on disk; if it is long, begin it anew. Raises: OSError, sqlite3.OperationalError."""
        # SQLite has its locks on the two other files: closing this one loses none of them.
        log = os.open(f"{self._path}-wal", os.O_RDONLY)
        try:
            _SYNC(log)
            length = length_of(log)
        finally:
            os.close(log)
        if length >= LONG:
            for _ in range(3):  # what was written meanwhile is less each time
                _, written, moved = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
                if written == moved:
                    # The next write begins the log anew; this one is in nobody's way.
                    connection.execute("UPDATE flush SET times = times + 1")
                    return
        if length >= TOO_LONG:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
