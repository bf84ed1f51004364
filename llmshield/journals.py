"""Journals: what each process did with money, on its own disk, so that a lost book can be written again.

A shared store may lose what it holds. Each process therefore keeps, in the state folder, apart from the store, a
journal of every reservation and its end. From the journals of all machines `rebuilding` writes the book again; what
was reserved and has no end there is charged in full.

A journal is text, a record a line: a checksum, a space, JSON. A line that was torn by a crash is known by its
checksum and left out. A thread writes what has come together in 20 ms, and has the disk keep it once a second. So a
killed process loses 20 ms of its journal at the most, a power cut one second; it matters only where the store is
lost as well. Files are closed at 16 MiB and packed; they are kept for 40 days, longer than any budget's window, and
for 4 GiB at the most, the oldest going first.

Rule: whoever spends asks `failure` first. A journal that can't be written closes money under a cap.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import socket
import threading
import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from gzip import GzipFile
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from llmshield import clock
from llmshield.errors import StoreError
from llmshield.local_state import LocalState
from llmshield.stores import Labels, Line

SEGMENT = 16 * 2**20
"""Size of a file in bytes; packed it is a tenth."""

KEPT_S = 40 * 86_400
KEPT_BYTES = 4 * 2**30
"""How long files are kept, and how much of them for one store."""

_WRITE_S = 0.02
_SYNC_S = 1.0
_MOST_WAITING = 200_000
"""Records that wait for a disk that can't be written, 60 MB; what comes then is counted and lost."""

_MOST_KEYS = 5_000
"""Sets of accounts with a number of their own in one file."""


class Journal:
    """The journal of this process. Its methods take no time; a thread writes."""

    def __init__(self, state: LocalState, epoch: str = "") -> None:
        self._state = state
        self._epoch = epoch
        self._waiting: list[tuple[Any, ...]] = []
        self._thread: threading.Thread | None = None
        self._more = threading.Event()
        self._never = threading.Event()
        """To sleep with: under libfaketime, with which people try clocks, `time.sleep` fails."""
        self._ending = False
        self._idle = True
        self._file: io.FileIO | None = None
        self._size = 0
        self._number = 0
        self._name = (
            f"{int(clock.now() * 1000):013d}-{socket.gethostname()[:40]}-{os.getpid()}-{os.urandom(3).hex()}"
        )
        self._keys: dict[Any, int] = {}
        self._unsynced = False
        self._failure = ""
        self.alive = True
        """False: the thread that writes it has ended before its time."""
        self.dropped = 0
        """Records that were lost because it could not be written for long."""

    @property
    def failure(self) -> str:
        """Why it can't be written; empty while it can."""
        if self._failure or self.alive:
            return self._failure
        return f"the journal in {str(self._state.journals)!r} is not written any more (its thread has ended)"

    def begin(self, epoch: str) -> None:
        """Before the first record: the book it is about."""
        self._epoch = epoch

    def turned(self, epoch: str) -> None:
        """From here on it is about this book."""
        self._add(("epoch", epoch))

    def reserved(self, id: str, at_ms: int, amount: int, lines: Sequence[Line], labels: Labels) -> None:
        """An attempt may cost this much."""
        self._add(("r", id, at_ms, amount, lines, labels))

    def settled(
        self, id: str, at_ms: int, actual: int, tokens_in: int, tokens_out: int, lines: Sequence[Line], labels: Labels
    ) -> None:  # fmt: skip
        """It did cost this much."""
        self._add(("s", id, at_ms, actual, tokens_in, tokens_out, lines, labels))

    def released(self, id: str) -> None:
        """It cost nothing."""
        self._add(("f", id))

    def noted(self, shelf: str, key: str, value: str | None, until_ms: int = 0) -> None:
        """A note about money was written, or with None struck."""
        self._add(("n", shelf, key, value, until_ms))

    def close(self) -> None:
        """Write what waits, and end. Takes a moment: never on the event loop."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._ending = True
            self._more.set()
            thread.join(5.0)

    def _add(self, record: tuple[Any, ...]) -> None:
        if len(self._waiting) >= _MOST_WAITING:
            self.dropped += 1
            return
        self._waiting.append(record)
        if self._idle:
            self._idle = False
            if self._thread is None and not self._ending:
                self._thread = threading.Thread(target=self._run, name="llmshield-journal", daemon=True)
                self._thread.start()
            self._more.set()

    # -- the thread

    def _run(self) -> None:
        try:
            self._work()
        finally:
            self.alive = self._ending

    def _work(self) -> None:
        sync_at = 0.0
        while True:
            if not self._waiting and not self._unsynced and not self._ending:
                self._idle = True
                self._more.clear()
                if not self._waiting:  # a record may have come before the flag was down
                    self._more.wait(5.0)
                self._idle = False
            ending = self._ending
            if not ending:
                self._never.wait(_WRITE_S)
            try:
                self._write()
                if self._unsynced and self._file is not None and (ending or time.monotonic() >= sync_at):
                    os.fsync(self._file.fileno())
                    self._unsynced, sync_at = False, time.monotonic() + _SYNC_S
                self._failure = ""
            except Exception as error:  # noqa: BLE001  nobody else would write; who spends is told
                why = getattr(error, "strerror", None) or type(error).__name__
                self._failure = f"the journal in {str(self._state.journals)!r} can't be written ({why})"
                self._leave()
                if not ending:
                    self._never.wait(_SYNC_S)
            if ending:
                self._leave()
                return

    def _write(self) -> None:
        waiting, count = self._waiting, len(self._waiting)
        if not count:
            return
        file = self._file
        if file is None or self._size >= SEGMENT:
            file = self._begin()
        data = b"".join([line for record in waiting[:count] for line in self._lines(record)])
        if file.write(data) != len(data):
            raise OSError(errno.ENOSPC, "written in part")
        self._size += len(data)
        self._unsynced = True
        # Only now: a write that failed is tried again, and what it left half done is a torn line.
        del waiting[:count]

    def _begin(self) -> io.FileIO:
        """A new file; the full one is packed, and what is too old or too much is removed."""
        full = self._leave()
        folder = self._state.journals
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._number += 1
        path = folder / f"{self._name}-{self._number:05d}.jsonl"
        file = io.FileIO(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w")
        self._file = file
        head = {
            "store": self._state.store,
            "epoch": self._epoch,
            "host": socket.gethostname(),
            "pid": os.getpid(),
        }
        file.write(_line(("head", head)))
        self._size, self._keys = 0, {}
        if full is not None:
            _pack(full)
        _sweep(folder)
        return file

    def _leave(self) -> Path | None:
        """Close the file; the next write begins a new one."""
        file, self._file, self._unsynced = self._file, None, False
        if file is None:
            return None
        with contextlib.suppress(OSError):
            file.close()
        return self._state.journals / f"{self._name}-{self._number:05d}.jsonl"

    def _lines(self, record: tuple[Any, ...]) -> Iterator[bytes]:
        if record[0] not in ("r", "s"):
            if record[0] == "epoch":
                self._epoch = record[1]  # for the head of the next file
            yield _line(record)
            return
        *fields, lines, labels = record
        key = (tuple(lines), labels)
        number = self._keys.get(key)
        if number is None:
            if len(self._keys) >= _MOST_KEYS:
                self._keys.clear()
            number = self._keys[key] = len(self._keys)
            plain = [(line.account, line.window, line.ends_ms) for line in lines]
            yield _line(("k", number, plain, tuple(labels)))
        yield _line((*fields, number))


class Record(NamedTuple):
    """One record as it was read. `kind` as in `Journal`: r, s, f, n; what a kind has not is empty."""

    kind: str
    id: str
    epoch: str
    at_ms: int = 0
    amount: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    lines: tuple[Line, ...] = ()
    labels: Labels = Labels("", "", "")
    shelf: str = ""
    value: str | None = None
    until_ms: int = 0


@dataclass(slots=True)
class Reading:
    """The journals in some folders, read one record at a time; `torn` counts the lines that could not be read."""

    folders: Sequence[Path]
    files: int = 0
    torn: int = 0
    stores: set[str] = field(default_factory=set)

    def paths(self) -> list[Path]:
        """Every journal file, each process's in order. Raises: StoreError for a folder that is none."""
        found: dict[str, Path] = {}
        for folder in self.folders:
            if not folder.is_dir():
                raise StoreError(f"There is no folder of journals at {str(folder)!r}.")
            for path in folder.rglob("*.jsonl*"):
                if path.name.endswith((".jsonl", ".jsonl.gz")):
                    # The same file from two places, or packed a moment ago, counts once: the larger is the later.
                    name = path.name.removesuffix(".gz")
                    if (
                        name not in found
                        or path.suffix == ".gz"
                        or path.stat().st_size > found[name].stat().st_size
                    ):
                        found[name] = path
        return [found[name] for name in sorted(found)]

    def epochs(self) -> Iterator[str]:
        """Every epoch that stands at the head of a file."""
        for path in self.paths():
            yield next((rest[0]["epoch"] for kind, *rest in self._parsed(path) if kind == "head"), "")

    def __iter__(self) -> Iterator[Record]:
        for path in self.paths():
            self.files += 1
            yield from self._records(path)

    def _records(self, path: Path) -> Iterator[Record]:
        epoch, keys = "", dict[int, tuple[tuple[Line, ...], Labels]]()
        for kind, *rest in self._parsed(path):
            if kind == "head":
                epoch = rest[0]["epoch"]
                self.stores.add(rest[0]["store"])
            elif kind == "epoch":
                epoch = rest[0]
            elif kind == "k":
                lines = tuple([Line(name, window, None, ends_ms) for name, window, ends_ms in rest[1]])
                keys[rest[0]] = (lines, Labels(*rest[2]))
            elif kind == "r" and rest[3] in keys:
                yield Record("r", rest[0], epoch, rest[1], rest[2], 0, 0, *keys[rest[3]])
            elif kind == "s" and rest[5] in keys:
                id, at_ms, amount, tokens_in, tokens_out, number = rest
                yield Record("s", id, epoch, at_ms, amount, tokens_in, tokens_out, *keys[number])
            elif kind == "f":
                yield Record("f", rest[0], epoch)
            elif kind == "n":
                yield Record("n", rest[1], epoch, shelf=rest[0], value=rest[2], until_ms=rest[3])
            else:  # its key was in a line that is torn
                self.torn += 1

    def _parsed(self, path: Path) -> Iterator[list[Any]]:
        opened: Any = GzipFile(path) if path.suffix == ".gz" else path.open("rb")
        with opened as file:
            try:
                for line in file:
                    checksum, _, text = line.rstrip(b"\n").partition(b" ")
                    try:
                        if int(checksum, 16) != zlib.crc32(text):
                            raise ValueError
                        yield json.loads(text) if b"\\ud" in text else orjson.loads(text)
                    except ValueError:
                        self.torn += 1
            except (EOFError, zlib.error, OSError):  # a packed file that is cut
                self.torn += 1


def _line(record: Sequence[Any]) -> bytes:
    try:
        text = orjson.dumps(record)
    except TypeError:  # a lone surrogate, in a name that a caller chose
        text = json.dumps(record).encode()
    return b"%08x %b\n" % (zlib.crc32(text), text)


def _pack(path: Path) -> None:
    part = path.with_name(path.name + ".part")
    with path.open("rb") as source, part.open("wb") as target:
        with GzipFile(fileobj=target, mode="wb", compresslevel=1) as packed:
            while chunk := source.read(2**20):
                packed.write(chunk)
        target.flush()
        os.fsync(target.fileno())  # before the only other copy goes
    part.replace(path.with_name(path.name + ".gz"))
    path.unlink()


def _sweep(folder: Path) -> None:
    """Remove what is over, oldest first."""
    kept = 0
    for path in sorted(folder.glob("*.jsonl*"), reverse=True):
        try:
            stat = path.stat()
            kept += stat.st_size
            if stat.st_mtime < time.time() - KEPT_S or kept > KEPT_BYTES:
                path.unlink()
        except FileNotFoundError:  # another process was faster
            continue
