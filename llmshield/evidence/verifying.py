"""Is the record what was written? Chains, anchors, lists of heads and what segments quote of each other, offline.

The first bad record of each segment is named by file, line and number. Segments that retention has removed are
accounted for by the `pruned` record that was written before; any other that is quoted and not there is told.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from llmshield.evidence.heads import anchor_path, heads_path, read, read_anchor
from llmshield.evidence.segments import GENESIS, LONGEST_LINE, may_begin, segment_id, whole

_HASH_PART = len(',"hash":"') + 64 + len('"}')
_TAIL = 1 << 16
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(slots=True)
class Report:
    """What `verify` found in one segment, or in one list of heads; good when `fault` is empty.

    `line` counts from 1, `seq` is the number that stands in (or should stand in) the first bad record.
    """

    path: Path
    records: int = 0
    hash: str = GENESIS
    line: int = 0
    seq: int = 0
    fault: str = ""
    notes: list[str] = field(default_factory=list)


@dataclass(slots=True, frozen=True)
class _Claim:
    """Somebody says which hash a record has: an anchor beside `path`, a head in it, or a line of a list of heads."""

    hash: str
    path: Path
    place: str
    line: int = 0
    file: str = ""


_Claims = dict[int, list[_Claim]]
"""By record number; witnesses may contradict each other, so all are heard."""


@dataclass(slots=True)
class _Witnesses:
    """What was claimed about every segment, by id; who was pruned; whose heads say that there is a list of heads."""

    claims: dict[str, _Claims] = field(default_factory=dict)
    pruned: set[str] = field(default_factory=set)
    listed: list[tuple[Path, int]] = field(default_factory=list)

    def claim(self, segment: str, seq: int, said: _Claim) -> None:
        self.claims.setdefault(segment, {}).setdefault(seq, []).append(said)


def verify(
    paths: Iterable[Path], *, complete: bool = False, sink: Path | None = None, heads: Iterable[Path] = ()
) -> list[Report]:
    """Check segments, their anchors and what their heads quote of each other; reports in the order given.

    A quoted segment that is not there (archived, taken away) is a note; with `complete` it is a fault. With `sink`
    the list of heads beside it is heard as well, with `heads` those kept elsewhere: what these name has to be there.
    Raises: OSError when a file can't be read.
    """
    paths = list(paths)
    lists = [*([heads_path(sink)] if sink is not None and heads_path(sink).exists() else []), *heads]
    heard = _hear(paths, lists)  # before the segments: a running process only ever adds to them
    reports = []
    for path in paths:
        with path.open("rb") as file:
            name = segment_id(file.read(_TAIL))
        reports.append(_verify_one(path, heard.claims.pop(name, {})))
    by_path = {report.path: report for report in reports}
    missing = {path: Report(path) for path in lists}
    for name, wanted in heard.claims.items():
        if name in heard.pruned:
            continue
        seq = max(wanted)
        for witness in wanted[seq]:
            if witness.path in missing:
                report = missing[witness.path]
                if not report.fault:
                    report.line, report.seq = witness.line, seq
                    report.fault = (
                        f"the segment {name} ({witness.file}), whose record {seq} it names, is not here"
                    )
                break
        else:
            report = by_path[wanted[seq][0].path]
            note = f"segment {name}, whose record {seq} {wanted[seq][0].place} quotes, is not here"
            report.notes.append(note)
            if complete and not report.fault:
                report.seq, report.fault = seq, note
    if sink is not None and heard.listed and not heads_path(sink).exists():
        path, line = heard.listed[0]
        fault = f"the list of heads that {path.name}:{line} speaks of is gone"
        missing[heads_path(sink)] = Report(heads_path(sink), line=1, seq=1, fault=fault)
    return reports + [report for report in missing.values() if report.fault]


def _hear(paths: Iterable[Path], lists: Iterable[Path]) -> _Witnesses:
    """All witnesses. Raises: OSError."""
    heard = _Witnesses()
    for path in lists:
        for head in read(path):
            place = f"{path.name}:{head.line}"
            heard.claim(head.segment, head.seq, _Claim(head.hash, path, place, head.line, head.file))
    for path in paths:
        anchor = read_anchor(path)
        if anchor is not None:
            heard.claim(anchor.segment, anchor.seq, _Claim(anchor.hash, path, anchor_path(path).name))
        for number, line in enumerate(_lines(path), 1):
            if b'"kind":"head"' in line or b'"kind":"pruned"' in line:
                with contextlib.suppress(
                    ValueError, TypeError, KeyError, AttributeError
                ):  # told by _verify_one
                    _hear_record(heard, path, number, orjson.loads(line))
    return heard


def _hear_record(heard: _Witnesses, path: Path, number: int, record: Any) -> None:
    if record["kind"] == "pruned":
        heard.pruned.update(str(each["segment"]) for each in record["segments"])
    elif record["kind"] == "head":
        if record.get("heads"):
            heard.listed.append((path, number))
        for name, (seq, digest) in record["others"].items():
            heard.claim(name, whole(seq), _Claim(str(digest), path, f"{path.name}:{number}"))


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
            if nothing or len(line) > LONGEST_LINE or not may_begin(line, begin):
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
            seq, previous = whole(record["seq"]), record["prev"]
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
