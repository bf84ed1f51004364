"""Where the chain's end is written down a second time, so that a missing end is noticed.

Three places say which hash a record has. The anchor beside each segment (`audit.anchor`: last number and hash, at
most a second old); the heads of other segments, which quote all anchors they saw at their start; and the list of
heads (`audit.heads`: one line for each segment's beginning, end, and hour in between), which names whole segments
that are gone. Whoever can write to the folder can rewrite all three: `audit.anchor_to` of the policy sends the same
lines to another place (a file on another disk, an address, the log), and `audit verify --heads FILE` reads them.
"""

from __future__ import annotations

import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from llmshield.evidence.segments import Segment, segments, whole

POST_S = 5.0
"""How long an address may take to note a head."""
_QUOTED = 200
"""Anchors that a head record quotes, the newest: older ones were quoted by those."""


class Head(NamedTuple):
    """A segment's end as somebody has noted it."""

    segment: str
    seq: int
    hash: str
    file: str = ""
    line: int = 0


def anchor_path(segment: Path) -> Path:
    """Where the anchor of a segment stands."""
    return segment.with_suffix(".anchor")


def heads_path(sink: Path) -> Path:
    """Where the list of heads of this sink stands."""
    return sink.with_suffix(".heads")


def anchor(segment: Segment) -> None:
    """Note a segment's end beside it. Raises: OSError."""
    target = anchor_path(segment.path)
    fresh = target.with_name(f"{target.name}.new")
    fresh.write_bytes(orjson.dumps({"segment": segment.id, "seq": segment.seq, "hash": segment.hash}) + b"\n")
    fresh.replace(target)


def read_anchor(segment: Path) -> Head | None:
    """None without a readable anchor (a lost one only takes from the proof)."""
    try:
        return _head(orjson.loads(anchor_path(segment).read_bytes()))
    except (OSError, ValueError, TypeError, KeyError):
        return None


def others(sink: Path, own: str) -> dict[str, list[Any]]:
    """The anchors of all other segments of a sink: id -> [seq, hash], the newest first, for the head record."""

    def age(path: Path) -> float:
        try:
            return -path.stat().st_mtime
        except OSError:  # pruned at this moment
            return 0.0

    found: dict[str, list[Any]] = {}
    for path in sorted(segments(sink), key=age):
        head = read_anchor(path)
        if head is not None and head.segment != own and len(found) < _QUOTED:
            found[head.segment] = [head.seq, head.hash]
    return found


def line_of(segment: Segment, at: str) -> bytes:
    """One line of a list of heads."""
    said = {
        "time": at,
        "segment": segment.id,
        "seq": segment.seq,
        "hash": segment.hash,
        "file": segment.path.name,
    }
    return orjson.dumps(said) + b"\n"


def note(path: Path, line: bytes) -> None:
    """Add a line to a list of heads, behind a torn one if there is one. Raises: OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        size = os.fstat(fd).st_size
        torn = size > 0 and os.pread(fd, 1, size - 1) != b"\n"
        os.write(fd, b"\n" + line if torn else line)
    finally:
        os.close(fd)


def post(url: str, line: bytes) -> None:
    """Send a head to an address. Raises: OSError when it did not take it with a 2xx."""
    request = urllib.request.Request(  # noqa: S310  the policy allows http and https only
        url, data=line, headers={"content-type": "application/json"}, method="POST"
    )
    try:
        with urllib.request.urlopen(request, timeout=POST_S):  # noqa: S310
            pass
    except urllib.error.HTTPError as error:
        error.close()
        raise OSError(f"the anchor's address answered {error.code}") from None


def read(path: Path) -> Iterator[Head]:
    """The heads in a list, those that can be read: a crash may tear one. Raises: OSError."""
    for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
        try:
            yield _head(orjson.loads(line))._replace(line=number)
        except (ValueError, TypeError, KeyError):
            continue


def _head(said: Any) -> Head:
    return Head(str(said["segment"]), whole(said["seq"]), str(said["hash"]), str(said.get("file", "")))
