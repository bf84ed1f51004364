"""Who keeps a SQLite file locked, and whether that process gets a processor.

A program that keeps the file locked and sleeps is stuck. One that was interrupted by a busy machine in the middle of its 40 us
is not: it goes on as soon as it is its turn. Linux tells them apart: `/proc/locks` names the process, its `schedstat` and
`stat` how long it ran and whether it waits to run (https://docs.kernel.org/scheduler/sched-stats.html,
https://man7.org/linux/man-pages/man5/proc.5.html). Where that can't be read (another system, a process of another
container), nothing is known.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import NamedTuple

_WRITE_LOCK = 120
"""The byte of the file `-shm` that a writer has locked (https://www.sqlite.org/walformat.html#wal_locks)."""


class _Thread(NamedTuple):
    """Seconds that it ran, and that it waited for a processor until it last got one; whether it wants one now."""

    ran: float
    waited: float
    ready: bool


class Holder:
    """Watches whoever keeps the file at `path` locked, from the first look on."""

    def __init__(self, path: str) -> None:
        self._shared = f"{path}-shm"
        self._pid = 0
        self._threads: dict[str, _Thread] = {}
        self._looked = 0.0

    def unused(self) -> float | None:
        """Seconds since the last look in which it might have gone on and did not: none of those in which it waited for a
        processor, and 0 if it is another process by now. None: nothing is known, as at the first look. Takes 0.2 ms."""
        now, pid, before = time.monotonic(), _writer(self._shared), self._pid
        passed, self._looked, self._pid = now - self._looked, now, pid
        threads, self._threads = self._threads, _threads(pid) if pid else {}
        if not pid or not before:
            return None
        if pid != before:
            return 0.0
        starved = 0.0
        for name, thread in self._threads.items():
            was = threads.get(name)
            if was is not None:
                missed = passed - (thread.ran - was.ran) if thread.ready else 0.0
                starved = max(starved, missed, thread.waited - was.waited)
        return max(0.0, passed - starved) if self._threads else None


def _writer(shared: str) -> int:
    """The process that has the write lock; 0: nobody, or nobody that we can see."""
    with contextlib.suppress(OSError, ValueError):
        inode = str(os.stat(shared).st_ino)  # noqa: PTH116  as the other looks at this file
        for line in Path("/proc/locks").read_text(encoding="ascii").splitlines():
            # 3: POSIX  ADVISORY  WRITE 4711 fe:00:2162954 120 120
            parts = line.split()
            if (
                len(parts) == 8
                and parts[3] == "WRITE"
                and parts[5].rpartition(":")[2] == inode
                and parts[6].isdecimal()
                and int(parts[6]) <= _WRITE_LOCK
                and (parts[7] == "EOF" or int(parts[7]) >= _WRITE_LOCK)
            ):
                return max(0, int(parts[4]))
    return 0


def _threads(pid: int) -> dict[str, _Thread]:
    """The threads of a process, as far as they can be read."""
    found: dict[str, _Thread] = {}
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError, ValueError, IndexError):  # it may end meanwhile
                ran, waited, _ = (task / "schedstat").read_text(encoding="ascii").split()
                state = (task / "stat").read_bytes().rpartition(b") ")[2][:1]
                found[task.name] = _Thread(int(ran) / 1e9, int(waited) / 1e9, state == b"R")
    return found
