"""Where records go: one segment after the other, each closed, anchored and, when its time is over, removed.

For the audit's thread alone. A segment that is full, or of another day, is closed by its `end` record (`closed`) and
never taken up again; the next one's head quotes it. What retention removes is named by a `pruned` record first, with
its last number and hash, so that what is left verifies and tells what is missing.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from llmshield import __version__, clock
from llmshield.evidence import Segment, Stream, anchor_path, heads_path, segments
from llmshield.evidence import heads as heads_of
from llmshield.evidence.segments import is_written, last_record
from llmshield.logs import log, stamp
from llmshield.records import other_record

_HEADS_S = 3600.0
"""How often a segment that is being written gets a line in the list of heads."""
_ANCHOR_S = 60.0
"""How often a head is sent to another place."""
_AT_ONCE = 50
"""Segments that are removed in one look: records wait meanwhile."""


class Rotation(Protocol):
    """When a segment is closed: at this many bytes, and with the day."""

    @property
    def size(self) -> int: ...
    @property
    def every(self) -> Any: ...


class Options(Protocol):
    """What of the policy's `audit:` says where records go."""

    @property
    def sink(self) -> str: ...
    @property
    def rotate(self) -> Rotation: ...
    @property
    def retention(self) -> float: ...
    @property
    def anchor_to(self) -> str | None: ...


class Places:
    """The segment that is written now, and what is around it. `head` makes what a head record says of this process."""

    def __init__(self, options: Options, head: Callable[[], dict[str, Any]]) -> None:
        self.name = options.sink
        self.sink = sink_path(options.sink)
        self._options = options
        self._head = head
        self._out: Segment | Stream | None = None
        self._anchored = 0
        self._listed_at = self._sent_at = self._pruned_at = float("-inf")
        self._posting: threading.Thread | None = None

    @property
    def out(self) -> Segment | Stream:
        """The open one. Raises: OSError when there is none at the moment."""
        if self._out is None:
            raise OSError("no segment is open")
        return self._out

    def open(self) -> None:
        """Open a segment and write its head. Raises: EvidenceError, OSError."""
        self._out = None
        if self.sink is None:
            out: Segment | Stream = Stream((sys.stdout if self.name == "stdout" else sys.stderr).fileno())
        else:
            out = Segment.open(self.sink)
        try:
            if out.repaired:
                log.warning(
                    "audit_repaired", file=getattr(out, "path", Path(self.name)).name, bytes=out.repaired
                )
            said = {
                "kind": "head",
                "segment": out.id,
                "pid": os.getpid(),
                "version": __version__,
            } | self._head()
            said["repaired_bytes"] = out.repaired
            said["others"] = heads_of.others(self.sink, out.id) if self.sink is not None else {}
            if self.sink is not None:
                said["heads"] = heads_path(self.sink).name
                _sync_folder(self.sink.parent)
            out.append([(stamp(clock.now()), other_record(said).encode())])
            out.sync()
            self._out = out
            if isinstance(out, Segment) and self.sink is not None:
                self._note(out)
        except BaseException:
            self._out = None
            out.close()
            raise

    def follow(self) -> bool:
        """Open a segment if there is none, or ours was taken away (log rotation); True when it did. Raises: as open."""
        out = self._out
        if out is not None and not out.moved():
            return False
        if out is not None:
            self._out = None
            out.close()
        self.open()
        return True

    def look_after(self, now: float) -> int:
        """Anchor, rotate, prune; how many records that wrote. Raises: OSError, EvidenceError."""
        out = self._out
        if not isinstance(out, Segment) or self.sink is None:
            return 0
        written = 0
        if self._is_over(out, now):
            self._close_for_good(out)
            self.open()
            written += 2
            out = self._out
            assert isinstance(out, Segment)
        if self._anchored != out.seq:
            heads_of.anchor(out)
            self._anchored = out.seq
        monotonic = clock.monotonic()
        if monotonic - self._listed_at >= _HEADS_S:
            self._note(out)
        if self._options.anchor_to is not None and monotonic - self._sent_at >= _ANCHOR_S:
            self._send(out)
        if self._options.retention and monotonic - self._pruned_at >= _HEADS_S:
            self._pruned_at = monotonic
            written += self._prune(out, now)
        return written

    def close(self) -> None:
        """Note the end everywhere and let go. Raises: OSError."""
        out, self._out = self._out, None
        if out is None:
            return
        try:
            if isinstance(out, Segment):
                out.sync()
                heads_of.anchor(out)
                self._note(out)
                self._send(out)
        finally:
            out.close()
            if self._posting is not None:
                self._posting.join(heads_of.POST_S)

    # -- one segment after the other ---------------------------------------------------------------------------

    def _is_over(self, out: Segment, now: float) -> bool:
        rotate = self._options.rotate
        if out.size >= rotate.size:
            return True
        return bool(rotate.every == "day" and out.began and out.began[:10] < stamp(now)[:10])

    def _close_for_good(self, out: Segment) -> None:
        assert self.sink is not None
        end = {"kind": "end", "pid": os.getpid(), "closed": True}
        out.append([(stamp(clock.now()), other_record(end).encode())])
        out.sync()
        old_anchor = anchor_path(out.path)
        out.set_aside(self.sink)
        heads_of.anchor(out)
        if anchor_path(out.path) != old_anchor:
            old_anchor.unlink(missing_ok=True)
        self._note(out)
        self._send(out)
        self._out = None
        out.close()

    def _prune(self, out: Segment, now: float) -> int:
        """Remove segments that nobody writes and whose last record is older than the policy keeps."""
        assert self.sink is not None
        oldest = now - self._options.retention
        gone: list[tuple[Path, dict[str, Any]]] = []
        for path in segments(self.sink):
            with contextlib.suppress(FileNotFoundError):
                if path == out.path or path.stat().st_mtime >= oldest or is_written(path):
                    continue
                last = last_record(path)
                if last is not None and last["time"] < stamp(oldest) and len(gone) < _AT_ONCE:
                    gone.append((path, last))
        if not gone:
            return 0
        said = [{"segment": each["segment"], "file": path.name, "seq": each["seq"], "hash": each["hash"],
                 "until": each["time"]} for path, each in gone]  # fmt: skip
        out.append([(stamp(clock.now()), other_record({"kind": "pruned", "segments": said}).encode())])
        out.sync()
        for path, _ in gone:
            path.unlink(missing_ok=True)
            anchor_path(path).unlink(missing_ok=True)
        log.info("audit_pruned", segments=len(gone))
        return 1

    # -- where ends are noted ----------------------------------------------------------------------------------

    def _note(self, out: Segment) -> None:
        assert self.sink is not None
        self._listed_at = clock.monotonic()
        heads_of.note(heads_path(self.sink), heads_of.line_of(out, stamp(clock.now())))

    def _send(self, out: Segment) -> None:
        """Tell another place of the end; what does not take it is logged, and asked again a minute later."""
        where = self._options.anchor_to
        self._sent_at = clock.monotonic()
        if where is None:
            return
        line = heads_of.line_of(out, stamp(clock.now()))
        if where == "log":
            log.info("audit_head", segment=out.id, seq=out.seq, hash=out.hash, file=out.path.name)
        elif where.startswith("file://"):
            try:
                heads_of.note(Path(where.removeprefix("file://")), line)
            except OSError as error:
                log.warning("audit_anchor_failed", reason=str(error))
        elif self._posting is None or not self._posting.is_alive():
            self._posting = threading.Thread(
                target=_post, args=(where, line), name="llmshield-anchor", daemon=True
            )
            self._posting.start()


def sink_path(sink: str) -> Path | None:
    """The file of a sink; None for one that is no file."""
    return Path(sink.removeprefix("file://")) if sink.startswith("file://") else None


def _post(url: str, line: bytes) -> None:
    """In a thread of its own: records do not wait for an address."""
    try:
        heads_of.post(url, line)
    except (OSError, ValueError) as error:
        log.warning("audit_anchor_failed", reason=str(error))


def _sync_folder(folder: Path) -> None:
    """A new file is only there after a crash when its folder is synced."""
    try:
        fd = os.open(folder, os.O_RDONLY)
    except OSError:  # Windows: folders can't be opened
        return
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


__all__ = ["Places", "sink_path"]
