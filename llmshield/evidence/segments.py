"""Files of hash-chained lines: written by one process each, repaired after a crash, never rewritten.

One line is one JSON object: `{"seq":7,"prev":"<hash of line 6>","time":"...",...,"hash":"<sha256>"}`. The hash
covers all bytes of the line before `,"hash":`, `prev` included; so an edited, lost, moved or added line breaks
the chain at a place that can be named (`verifying.py`). What a chain alone can't show is a missing end: that is
what anchors are for (`heads.py`).

Rule: a segment has one writer at a time (flock), whole lines only (O_APPEND), and is never rewritten, except that
a torn last line is cut off, which the next head record tells, and that a batch which could not be written whole is
taken back.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import orjson

from llmshield.errors import ShieldError

try:
    import fcntl
except ImportError:  # Windows: no flock, so every process takes a segment of its own
    fcntl = None  # type: ignore[assignment]

GENESIS = "0" * 64
LONGEST_LINE = 1 << 20
"""A longer last line is taken for damage; records stay below a third of it."""
_TAIL = 1 << 16
_FIRST_BYTES = b'{"seq":'
_HASHED_AT_ONCE = 2040
"""hashlib gives the interpreter away for 2,048 bytes and more, and a writer of many records has to fight for it again
after each: that costs more than the hash."""
_sync = getattr(os, "fdatasync", os.fsync)


class EvidenceError(ShieldError):
    """A segment can't be opened or written; the message names the file and what to do."""


class Segment:
    """One file of the chain, open for appending. `seq` and `hash` are those of the last line, `size` bytes of it.

    `closed` segments (rotated away) are never taken up again.
    """

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self._fd = fd
        self.id, self.seq, self.hash, self.size, self.repaired = "", 0, GENESIS, 0, 0
        self.began: str = ""
        """The time of its first record, as it stands there; empty while there is none."""
        self._kept = (0, 0, GENESIS)
        self._too_long = False
        self._continue()
        self._kept = (self.size, self.seq, self.hash)

    @classmethod
    def open(cls, sink: Path) -> Segment:
        """The first segment beside `sink` that no other process writes; a new one when all are taken.

        Raises: EvidenceError when the folder can't be written.
        """
        try:
            sink.parent.mkdir(parents=True, exist_ok=True)
            if fcntl is not None:
                for path in (sink, *(path for path in segments(sink) if path != sink)):
                    found = cls._try(path)
                    if found is not None:
                        return found
            for again in range(100):
                path = sink.with_name(f"{fresh_stem(sink)}{f'-{again}' if again else ''}{sink.suffix}")
                with contextlib.suppress(FileExistsError):
                    fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
                    _lock(fd)
                    return cls(path, fd)
        except OSError as error:
            raise EvidenceError(
                f"the audit log {str(sink)!r} can't be written: {error.strerror or error}; "
                "choose another `audit.sink` or make its folder writable for this user"
            ) from error
        raise EvidenceError(f"no free name for an audit segment beside {str(sink)!r}")

    @classmethod
    def _try(cls, path: Path) -> Segment | None:
        """The segment at `path`, made if it is missing; None if it is taken, closed, or its end is damaged."""
        fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if _lock(fd):
                return cls(path, fd)
        except (ValueError, KeyError, TypeError):  # not ours to continue; `audit verify` will name the line
            pass
        os.close(fd)
        return None

    def _continue(self) -> None:
        """Find the chain's end; cut off a torn last line. Raises: ValueError when the last line is no record, or
        the segment was closed for good."""
        self.size = os.fstat(self._fd).st_size
        if not self.size:
            self.id = os.urandom(8).hex()
            return
        start = max(0, self.size - _TAIL)
        while True:
            tail = os.pread(self._fd, self.size - start, start)
            end = tail.rfind(b"\n")
            begin = tail.rfind(b"\n", 0, max(end, 0))
            if begin >= 0 or start == 0:
                break
            if self.size - start > LONGEST_LINE:
                raise ValueError("no line end")
            start = max(0, start - _TAIL)
        torn = len(tail) - end - 1
        if torn:
            if not may_begin(tail[end + 1 :], _FIRST_BYTES):
                raise ValueError("the last line is not the beginning of a record")
            os.ftruncate(self._fd, self.size - torn)
            self.size -= torn
            self.repaired = torn
        if end < 0:  # nothing but a torn first line
            self.id = os.urandom(8).hex()
            return
        record = orjson.loads(tail[begin + 1 : end])
        if record.get("closed") is True:
            raise ValueError("closed")
        self.seq, self.hash = whole(record["seq"]), str(record["hash"])
        first = orjson.loads(os.pread(self._fd, _TAIL, 0).split(b"\n", 1)[0])
        self.id, self.began = str(first["segment"]), str(first["time"])

    def append(self, bodies: Iterable[tuple[str, bytes]]) -> None:
        """Write records, given as (time, JSON object), as one batch of whole lines.

        Raises: OSError when they could not be written; then nothing of them is in the file.
        """
        self._mend()
        data, seq, digest, first = chained(self.seq, self.hash, bodies)
        try:
            _write(self._fd, data)
        except OSError:
            self._too_long = True
            self._mend()
            raise
        self.size += len(data)
        self.seq, self.hash = seq, digest
        self.began = self.began or first

    def sync(self) -> None:
        """Return when all that was appended is on the disk (fdatasync).

        Raises: OSError; what was appended since the last `sync` is then taken back: nobody can say any more what
        of it the disk has (https://lwn.net/Articles/752063/, a failed fsync is told once).
        """
        try:
            _sync(self._fd)
        except OSError:
            self.size, self.seq, self.hash = self._kept
            self._too_long = True
            with contextlib.suppress(OSError):
                self._mend()
            raise
        self._kept = (self.size, self.seq, self.hash)

    def _mend(self) -> None:
        """Cut off what a failed write has left. Raises: OSError; then nothing may be appended."""
        if self._too_long:
            os.ftruncate(self._fd, self.size)
            self._too_long = False

    def moved(self) -> bool:
        """Whether somebody took the file away or cut it (log rotation): then open another."""
        try:
            there = self.path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return True
        ours = os.fstat(self._fd)
        return there.st_ino != ours.st_ino or there.st_dev != ours.st_dev or ours.st_size < self.size

    def set_aside(self, sink: Path) -> None:
        """Give the sink's own name free: this segment is closed and keeps a dated name. Raises: OSError."""
        if self.path != sink:
            return
        target = sink.with_name(f"{fresh_stem(sink)}-{self.id[:8]}{sink.suffix}")
        self.path.rename(target)
        self.path = target

    def close(self) -> None:
        """Let go of the file and its lock."""
        os.close(self._fd)


class Stream:
    """Standard output or error in the place of a segment: chained lines, nothing to repair or to anchor."""

    repaired = 0
    size = 0
    began = ""

    def __init__(self, fd: int) -> None:
        self.id = os.urandom(8).hex()
        self.seq, self.hash = 0, GENESIS
        self._fd = fd
        self._torn = False

    def append(self, bodies: Iterable[tuple[str, bytes]]) -> None:
        """Write records as `Segment.append` does. Raises: OSError; a torn line is then ended before the next."""
        data, seq, digest, _ = chained(self.seq, self.hash, bodies)
        if self._torn:
            data = b"\n" + data
        try:
            _write(self._fd, data)
        except OSError:
            self._torn = True
            raise
        self._torn = False
        self.seq, self.hash = seq, digest

    def sync(self) -> None:
        """Whoever reads the stream keeps it."""

    def moved(self) -> bool:
        """A stream stays where it is."""
        return False

    def close(self) -> None:
        """It belongs to the process."""


def chained(seq: int, previous: str, bodies: Iterable[tuple[str, bytes]]) -> tuple[bytes, int, str, str]:
    """Lines that go on from record `seq` with hash `previous`; with the last number and hash, and the first time."""
    lines: list[bytes] = []
    sha256, before, first = hashlib.sha256, previous.encode(), ""
    for at, body in bodies:
        seq += 1
        first = first or at
        line = b'{"seq":%d,"prev":"%b","time":"%b",%b' % (seq, before, at.encode(), body[1:-1])
        if len(line) < _HASHED_AT_ONCE:
            digest = sha256(line)
        else:
            digest, view = sha256(), memoryview(line)
            for begin in range(0, len(line), _HASHED_AT_ONCE):
                digest.update(view[begin : begin + _HASHED_AT_ONCE])
        before = digest.hexdigest().encode()
        lines.append(b'%b,"hash":"%b"}\n' % (line, before))
    return b"".join(lines), seq, before.decode(), first


def _write(fd: int, data: bytes) -> None:
    written = os.write(fd, data)
    while written < len(data):
        written += os.write(fd, data[written:])


def segments(sink: Path) -> list[Path]:
    """All segments of this sink: `audit*.jsonl` for `audit.jsonl`, sorted by name."""
    return sorted(
        path for path in sink.parent.glob(f"{_glob_safe(sink.stem)}*{sink.suffix}") if path.is_file()
    )


def last_record(path: Path) -> dict[str, Any] | None:
    """The last whole record of a segment that nobody writes, with the segment's id; None when there is none."""
    with path.open("rb") as file:
        name = segment_id(file.read(_TAIL))
        file.seek(max(0, path.stat().st_size - LONGEST_LINE))
        lines = file.read().split(b"\n")
    for line in reversed(lines[:-1]):
        try:
            record: dict[str, Any] = orjson.loads(line)
            return record | {"segment": name, "seq": whole(record["seq"]), "time": str(record["time"])}
        except (ValueError, KeyError, TypeError):
            return None
    return None


def is_written(path: Path) -> bool:
    """Whether a process has this segment open for writing; True as well where nobody can tell."""
    if fcntl is None:
        return True
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return True
    try:
        return not _lock(fd)
    finally:
        os.close(fd)


def fresh_stem(sink: Path) -> str:
    """`audit-20261120T101500Z-4711` for `audit.jsonl`: a name that sorts by time."""
    return f"{sink.stem}-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{os.getpid()}"


def may_begin(line: bytes, begin: bytes) -> bool:
    """Whether a line that was cut anywhere may have begun so. A power cut can leave NULs for what was not written."""
    line = line.rstrip(b"\0")
    return line[: len(begin)] == begin[: len(line)]


def whole(value: Any) -> int:
    """A number from a file that anybody may have written. Raises: TypeError for what is no whole number."""
    if type(value) is not int:
        raise TypeError("no whole number")
    return value


def segment_id(start: bytes) -> str:
    """The id in a segment's first record; empty when there is none."""
    try:
        return str(orjson.loads(start.split(b"\n", 1)[0])["segment"])
    except (ValueError, KeyError, TypeError):
        return ""


def _lock(fd: int) -> bool:
    """Take the file for this process; False if another has it."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _glob_safe(stem: str) -> str:
    return "".join(f"[{char}]" if char in "*?[" else char for char in stem)
