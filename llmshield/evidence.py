"""Files of hash-chained lines: written by one process each, repaired after a crash, verified offline.

One line is one JSON object: `{"seq":7,"prev":"<hash of line 6>","time":"...",...,"hash":"<sha256>"}`. The hash
covers all bytes of the line before `,"hash":`, `prev` included; so an edited, lost, moved or added line breaks
the chain at a place that can be named. What a chain alone can't show is a missing end. Two things do: an anchor
file beside each segment (`audit.anchor`: last number and hash, at most a second old), and the head record that
every start writes, which quotes the anchors of all other segments (by id: files may be renamed). Whoever ships anchors to another machine can
prove the end against someone who may write to this one.

Rule: a segment has one writer at a time (flock), whole lines only (O_APPEND), and is never rewritten, except
that a torn last line is cut off, which the next head record tells.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from llmshield.errors import ShieldError

try:
    import fcntl
except ImportError:  # Windows: no flock, so every process takes a segment of its own
    fcntl = None  # type: ignore[assignment]

GENESIS = "0" * 64
_HASH_PART = len(',"hash":"') + 64 + len('"}')
_TAIL = 1 << 16
_FIRST_BYTES = b'{"seq":'
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
LONGEST_LINE = 1 << 20
"""A longer last line is taken for damage; records stay below a hundredth of it."""


class EvidenceError(ShieldError):
    """A segment can't be opened or written; the message names the file and what to do."""


class Segment:
    """One file of the chain, open for appending. `seq` and `hash` are those of the last line."""

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self._fd = fd
        self.id, self.seq, self.hash, self.size, self.repaired = "", 0, GENESIS, 0, 0
        self._anchored = 0
        self._continue()

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
            stem = f"{sink.stem}-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{os.getpid()}"
            for again in range(100):
                path = sink.with_name(f"{stem}{f'-{again}' if again else ''}{sink.suffix}")
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
        """The segment at `path`, made if it is missing; None if it is taken or its end is damaged."""
        fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if _lock(fd):
                return cls(path, fd)
        except (ValueError, KeyError, TypeError):  # not ours to continue; `audit verify` will name the line
            pass
        os.close(fd)
        return None

    def _continue(self) -> None:
        """Find the chain's end; cut off a torn last line. Raises: ValueError when the last line is no record."""
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
            if not _may_begin(tail[end + 1 :], _FIRST_BYTES):
                raise ValueError("the last line is not the beginning of a record")
            os.ftruncate(self._fd, self.size - torn)
            self.size -= torn
            self.repaired = torn
        if end < 0:  # nothing but a torn first line
            self.id = os.urandom(8).hex()
            return
        record = orjson.loads(tail[begin + 1 : end])
        self.seq, self.hash = _whole(record["seq"]), str(record["hash"])
        self.id = _segment_id(os.pread(self._fd, _TAIL, 0))

    def append(self, bodies: Iterable[tuple[str, bytes]]) -> None:
        """Write records, given as (time, JSON object), as one batch of whole lines.

        Raises: OSError when they could not be written; then nothing of them is in the file.
        """
        data, seq, digest = _chained(self.seq, self.hash, bodies)
        written = 0
        try:
            while written < len(data):
                written += os.write(self._fd, data[written:])
        except OSError:
            if written:
                os.ftruncate(self._fd, self.size)
            raise
        self.size += len(data)
        self.seq, self.hash = seq, digest

    def anchor(self) -> None:
        """Note the chain's end beside the segment, if it moved. Raises: OSError."""
        if self._anchored == self.seq:
            return
        target = anchor_path(self.path)
        fresh = target.with_name(f"{target.name}.new")
        fresh.write_bytes(orjson.dumps({"segment": self.id, "seq": self.seq, "hash": self.hash}) + b"\n")
        fresh.replace(target)
        self._anchored = self.seq

    def moved(self) -> bool:
        """Whether somebody took the file away or cut it (log rotation): then open another."""
        try:
            there = self.path.stat()
        except FileNotFoundError:
            return True
        ours = os.fstat(self._fd)
        return there.st_ino != ours.st_ino or ours.st_size < self.size

    def others(self) -> dict[str, list[Any]]:
        """The anchors of all other segments beside this one: id -> [seq, hash], for the head record."""
        anchors = (_read_anchor(path) for path in segments(self.path.with_name(_family(self.path))))
        return {anchor[0]: [anchor[1], anchor[2]] for anchor in anchors if anchor and anchor[0] != self.id}

    def close(self) -> None:
        """Let go of the file and its lock."""
        os.close(self._fd)


class Stream:
    """Standard output or error in the place of a segment: chained lines, nothing to repair or to anchor."""

    repaired = 0

    def __init__(self, fd: int) -> None:
        self.id = os.urandom(8).hex()
        self.seq, self.hash = 0, GENESIS
        self._fd = fd
        self._torn = False

    def append(self, bodies: Iterable[tuple[str, bytes]]) -> None:
        """Write records as `Segment.append` does. Raises: OSError; a torn line is then ended before the next."""
        data, seq, digest = _chained(self.seq, self.hash, bodies)
        if self._torn:
            data = b"\n" + data
        written = 0
        try:
            while written < len(data):
                written += os.write(self._fd, data[written:])
        except OSError:
            self._torn = self._torn or written > 0
            raise
        self._torn = False
        self.seq, self.hash = seq, digest

    def anchor(self) -> None:
        """A stream has no place for it."""

    def moved(self) -> bool:
        """A stream stays where it is."""
        return False

    def others(self) -> dict[str, list[Any]]:
        """A stream knows no other."""
        return {}

    def close(self) -> None:
        """It belongs to the process."""


def _chained(seq: int, previous: str, bodies: Iterable[tuple[str, bytes]]) -> tuple[bytes, int, str]:
    """Lines that go on from record `seq` with hash `previous`; with the last number and hash."""
    lines: list[bytes] = []
    for at, body in bodies:
        seq += 1
        line = b'{"seq":%d,"prev":"%b","time":"%b",%b' % (seq, previous.encode(), at.encode(), body[1:-1])
        previous = hashlib.sha256(line).hexdigest()
        lines.append(b'%b,"hash":"%b"}\n' % (line, previous.encode()))
    return b"".join(lines), seq, previous


@dataclass(slots=True)
class Report:
    """What `verify` found in one segment; good when `fault` is empty.

    `line` counts from 1, `seq` is the number that stands in (or should stand in) the first bad record.
    """

    path: Path
    records: int = 0
    hash: str = GENESIS
    line: int = 0
    seq: int = 0
    fault: str = ""
    notes: list[str] = field(default_factory=list)


def segments(sink: Path) -> list[Path]:
    """All segments of this sink: `audit*.jsonl` for `audit.jsonl`, sorted by name."""
    return sorted(
        path for path in sink.parent.glob(f"{_glob_safe(sink.stem)}*{sink.suffix}") if path.is_file()
    )


def anchor_path(segment: Path) -> Path:
    """Where the anchor of a segment stands."""
    return segment.with_suffix(".anchor")


def verify(paths: Iterable[Path], *, complete: bool = False) -> list[Report]:
    """Check segments, their anchors and what their heads quote of each other; reports in the order given.

    A quoted segment that is not there (archived, rotated away) is a note; with `complete` it is a fault.
    Raises: OSError when a file can't be read.
    """
    paths = list(paths)
    claims = _claims(paths)  # before the segments: a running process only ever adds to them
    reports = []
    for path in paths:
        with path.open("rb") as file:
            name = _segment_id(file.read(_TAIL), default="")
        reports.append(_verify_one(path, claims.pop(name, {})))
    for name, wanted in claims.items():
        seq = max(wanted)
        witness = wanted[seq][0]
        for report in reports:
            if report.path == witness.path:
                note = f"segment {name}, whose record {seq} {witness.place} quotes, is not here"
                report.notes.append(note)
                if complete and not report.fault:
                    report.seq, report.fault = seq, note
    return reports


@dataclass(slots=True, frozen=True)
class _Claim:
    """Somebody says which hash a record has: an anchor beside `path`, or a head in it."""

    hash: str
    path: Path
    place: str


_Claims = dict[int, list[_Claim]]
"""By record number; witnesses may contradict each other, so all are heard."""


def _claims(paths: Iterable[Path]) -> dict[str, _Claims]:
    """All claims, by segment id."""
    claims: dict[str, _Claims] = {}

    def claim(segment: str, seq: int, *said: Any) -> None:
        claims.setdefault(segment, {}).setdefault(seq, []).append(_Claim(*said))

    for path in paths:
        anchor = _read_anchor(path)
        if anchor is not None:
            name, seq, digest = anchor
            claim(name, seq, digest, path, anchor_path(path).name)
        for number, line in enumerate(_lines(path), 1):
            if b'"kind":"head"' not in line:
                continue
            with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError):  # told by _verify_one
                for name, (seq, digest) in orjson.loads(line)["others"].items():
                    claim(name, _whole(seq), str(digest), path, f"{path.name}:{number}")
    return claims


def _verify_one(path: Path, claims: _Claims) -> Report:
    """Walk one chain to its end or its first bad record."""
    report = Report(path)

    def bad(line: int, seq: int, fault: str) -> Report:
        report.line, report.seq, report.fault = line, seq, fault
        return report

    number = 0
    for number, line in enumerate(_lines(path), 1):
        expected = report.records + 1
        if not line.endswith(b"\n"):
            begin = b'{"seq":%d,"prev":"%b","time":"' % (expected, report.hash.encode())
            nothing = not report.records and not line.strip(b"\0")
            if nothing or len(line) > LONGEST_LINE or not _may_begin(line, begin):
                return bad(number, expected, "the line is no record, nor the torn beginning of one")
            report.notes.append(f"line {number} is torn ({len(line)} bytes); the next start cuts it off")
            break
        if number == 1 and line.startswith(_BYTE_ORDER_MARK):
            return bad(
                number, expected, "a byte order mark stands before it: another program wrote this file"
            )
        body, mark, digest = (
            line[: -_HASH_PART - 1],
            line[-_HASH_PART - 1 : -67],
            line[-67:-3].decode("latin-1"),
        )
        try:
            record = orjson.loads(line)
            seq, previous = _whole(record["seq"]), record["prev"]
        except (ValueError, TypeError, KeyError):
            return bad(number, expected, "the line is no record")
        if mark != b',"hash":"' or hashlib.sha256(body).hexdigest() != digest:
            return bad(number, seq, "the record was changed: its hash does not fit its text")
        if seq != expected or previous != report.hash:
            found = f"record {seq}" if seq != expected else "one that follows another record"
            return bad(
                number, seq, f"the chain is broken: found {found}, expected record {expected} of this segment"
            )
        for claim in claims.get(seq, ()):
            if claim.hash != digest:
                return bad(number, seq, f"the record is not the one that {claim.place} quotes")
        report.records, report.hash = seq, digest
    if not number:
        report.notes.append("the file is empty: nothing was written yet, or all of it is gone")
    lost = [seq for seq in claims if seq > report.records]
    if lost:
        fault = f"the end is missing: {claims[max(lost)][0].place} quotes record {max(lost)}"
        return bad(number + 1, report.records + 1, fault)
    return report


def _lines(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while line := file.readline(LONGEST_LINE + 1):
            yield line


def _may_begin(line: bytes, begin: bytes) -> bool:
    """Whether a line that was cut anywhere may have begun so. A power cut can leave NULs for what was not written."""
    line = line.rstrip(b"\0")
    return line[: len(begin)] == begin[: len(line)]


def _whole(value: Any) -> int:
    """A number from a file that anybody may have written. Raises: TypeError for what is no whole number."""
    if type(value) is not int:
        raise TypeError("no whole number")
    return value


def _read_anchor(segment: Path) -> tuple[str, int, str] | None:
    """Segment id, number and hash; None without a readable anchor (a lost one only takes from the proof)."""
    try:
        anchor = orjson.loads(anchor_path(segment).read_bytes())
        return str(anchor["segment"]), _whole(anchor["seq"]), str(anchor["hash"])
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _segment_id(start: bytes, default: str | None = None) -> str:
    """The id in a segment's first record. Raises: ValueError, KeyError, TypeError without a default."""
    try:
        return str(orjson.loads(start.split(b"\n", 1)[0])["segment"])
    except (ValueError, KeyError, TypeError):
        if default is None:
            raise
        return default


def _lock(fd: int) -> bool:
    """Take the file for this process; False if another has it."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _family(path: Path) -> str:
    """`audit.jsonl` for `audit-20261120T101500Z-4711.jsonl`."""
    return path.stem.split("-20", 1)[0] + path.suffix


def _glob_safe(stem: str) -> str:
    return "".join(f"[{char}]" if char in "*?[" else char for char in stem)
