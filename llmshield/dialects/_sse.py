"""Server-sent events: bytes in, events out, and back.

Written after WHATWG HTML 9.2.6 "Interpreting an event stream"
(https://html.spec.whatwg.org/multipage/server-sent-events.html): lines end with LF, CR or CRLF and with nothing
else (`splitlines` also breaks at U+2028 and U+0085, which JSON may hold raw), one BOM at the start is skipped,
an event without its blank line is discarded.

Rule 1: any cut of the bytes gives the same events.
Rule 2: nothing here raises: what is broken sets `error`, and the events before it are still given out.
Rule 3: `id:` and `retry:` are read and dropped: no dialect uses them, and a client could not resume anyhow.
"""

from __future__ import annotations

from typing import Any

from llmshield.dialects._tree import dump

EVENT_LIMIT = 10 * 2**20
"""Bytes of one event. The largest real ones repeat a whole answer (`response.completed`) or carry an image."""

COMMENT = ":"
"""The name of an event that held comments only; its data is empty, because nobody has looked at the text."""

_BOM = b"\xef\xbb\xbf"


class SseParser:
    """Takes an event stream apart.

    `error` is None, or a sentence once the stream has broken; from then on `feed` returns nothing.
    """

    __slots__ = ("_buffer", "_limit", "_ready", "_scanned", "_skip_lf", "_started", "error")

    def __init__(self, limit: int = EVENT_LIMIT) -> None:
        self._limit = limit
        self._buffer = bytearray()
        self._scanned = 0
        self._started = False
        self._skip_lf = False
        self._ready = False
        self.error: str | None = None

    @property
    def pending(self) -> bool:
        """True when the stream stands inside an event (or inside its BOM); blank lines are none."""
        return bool(self._buffer.strip(b"\n"))

    def feed(self, data: bytes) -> list[tuple[str, bytes]]:
        """(name, data) of each event that these bytes complete; a comment block is (COMMENT, b"").

        `name` is "" where the stream gave none; `data` are the joined data lines, not decoded.
        """
        if self._ready and not self._buffer and data.find(b"\r") < 0:
            # The usual case, one whole event, without a copy into the buffer. (`find` of one byte is memchr; of
            # two, or with `in`, it takes three times as long.)
            last = len(data) - 2
            if data.startswith(b"data: "):
                if data.find(b"\n", 6) == last <= self._limit and data[-1] == 10:
                    return [("", data[6:last])]
            elif data.startswith(b"event: "):
                end = data.find(b"\n", 7)
                name = data[7:end]
                if (
                    data.startswith(b"data: ", end + 1)
                    and data.find(b"\n", end + 7) == last <= self._limit
                    and data[-1] == 10
                    and name.isascii()
                ):
                    return [(name.decode(), data[end + 7 : last])]
        return self._feed(data)

    def _feed(self, data: bytes) -> list[tuple[str, bytes]]:
        """Any bytes."""
        if self.error is not None or not data:
            return []
        if not self._started:
            data = self._skip_bom(data)
        if self._skip_lf or b"\r" in data:
            data = self._unify_lines(data)
        self._ready = self._started and not self._skip_lf
        buffer = self._buffer
        if not buffer and data.endswith(b"\n\n"):
            return self._blocks(data[:-2].split(b"\n\n"))
        buffer += data
        # The blank line may lie across the cut, so the search starts one byte before the new bytes.
        end = buffer.rfind(b"\n\n", self._scanned)
        if end < 0:
            self._scanned = max(len(buffer) - 1, 0)
            if len(buffer) > self._limit:
                self._too_long()
            return []
        whole = bytes(buffer[:end])
        del buffer[: end + 2]
        self._scanned = 0
        events = self._blocks(whole.split(b"\n\n"))
        if len(buffer) > self._limit:
            self._too_long()
        return events

    def _blocks(self, blocks: list[bytes]) -> list[tuple[str, bytes]]:
        events: list[tuple[str, bytes]] = []
        for block in blocks:
            if len(block) > self._limit:
                self._too_long()
                break
            if block.startswith(b"data: "):
                if block.find(b"\n", 6) < 0:
                    events.append(("", block[6:]))
                    continue
            elif block.startswith(b"event: "):
                end = block.find(b"\n")
                if end > 0 and block.startswith(b"data: ", end + 1) and block.find(b"\n", end + 1) < 0:
                    try:
                        events.append((block[7:end].decode(), block[end + 7 :]))
                    except UnicodeDecodeError:
                        self._fail("an event name of the stream is not UTF-8")
                        break
                    continue
            event = self._slow(block)
            if event is not None:
                events.append(event)
            if self.error is not None:
                break
        return events

    def _slow(self, block: bytes) -> tuple[str, bytes] | None:
        """One block of lines, read as the standard says."""
        name = b""
        lines: list[bytes] = []
        comment = False
        for line in block.split(b"\n"):
            field, _, value = line.partition(b":")
            if value.startswith(b" "):
                value = value[1:]
            if field == b"data":
                lines.append(value)
            elif field == b"event":
                name = value
            elif not field and line:
                comment = True
        if lines:
            try:
                return name.decode(), b"\n".join(lines)
            except UnicodeDecodeError:
                self._fail("an event name of the stream is not UTF-8")
                return None
        return (COMMENT, b"") if comment else None

    def _skip_bom(self, data: bytes) -> bytes:
        if self._buffer:
            data = bytes(self._buffer) + data
            self._buffer.clear()
        if data.startswith(_BOM):
            self._started = True
            return data[3:]
        if _BOM.startswith(data):  # may become one
            self._buffer += data
            return b""
        self._started = True
        return data

    def _unify_lines(self, data: bytes) -> bytes:
        """Make CR and CRLF into LF; a CR at the end of the bytes ends its line at once."""
        if self._skip_lf and data.startswith(b"\n"):
            data = data[1:]
            if not data:
                self._skip_lf = False
                return b""
        self._skip_lf = data.endswith(b"\r")
        return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    def _too_long(self) -> None:
        self._fail(f"an event of the stream is longer than {self._limit} bytes")

    def _fail(self, error: str) -> None:
        self.error = error
        self._ready = False
        self._buffer.clear()


def write_event(tree: Any, name: str = "") -> bytes:
    """One event around a JSON tree; `name` writes an `event:` line."""
    data = escape_lines(dump(tree))
    return b"event: %b\ndata: %b\n\n" % (name.encode(), data) if name else b"data: %b\n\n" % data


def escape_lines(data: bytes) -> bytes:
    """JSON bytes with U+2028, U+2029 and U+0085 escaped: some clients end a line there (google-genai does)."""
    if data.isascii():
        return data
    if b"\xe2\x80" in data:
        data = data.replace(b"\xe2\x80\xa8", b"\\u2028").replace(b"\xe2\x80\xa9", b"\\u2029")
    return data.replace(b"\xc2\x85", b"\\u0085") if b"\xc2\x85" in data else data
