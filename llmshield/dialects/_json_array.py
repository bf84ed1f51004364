"""A JSON array that arrives in pieces, element by element: what Google streams without `alt=sse`.

Rule 1: any cut of the bytes gives the same elements.
Rule 2: nothing here raises: what is broken sets `error`, and the elements before it are still given out.
"""

from __future__ import annotations

import re2

from llmshield.dialects._sse import EVENT_LIMIT

_OUTSIDE = re2.compile(rb'["{}\[\]]')
_BLANK = b" \t\r\n"
_BOM = b"\xef\xbb\xbf"


class JsonArrayParser:
    """Cuts an array of objects into its elements, as bytes.

    `closed` is True once the array's end was seen, `error` None or a sentence once the bytes are no such array.
    A single object instead of an array (an error answer) is one element, and ends the stream.
    """

    __slots__ = (
        "_bare",
        "_buffer",
        "_depth",
        "_in_string",
        "_limit",
        "_scanned",
        "_state",
        "closed",
        "error",
    )

    def __init__(self, limit: int = EVENT_LIMIT) -> None:
        self._limit = limit
        self._buffer = bytearray()
        self._scanned = 0
        self._depth = 0
        self._in_string = False
        self._bare = False
        self._state = "start"
        self.closed = False
        self.error: str | None = None

    def feed(self, data: bytes) -> list[bytes]:
        """The elements that these bytes complete."""
        elements: list[bytes] = []
        if self.error is not None:
            return elements
        self._buffer += data
        while self.error is None and self._buffer:
            if self._state != "inside":
                if not self._between():
                    break
                continue
            element = self._element()
            if element is None:
                if len(self._buffer) > self._limit:
                    self._fail(f"an element of the stream is longer than {self._limit} bytes")
                break
            elements.append(element)
        return elements

    def _between(self) -> bool:
        """Step over what stands between elements; False when more bytes are needed."""
        buffer = self._buffer
        if self._state == "start":
            if buffer.startswith(_BOM):
                del buffer[:3]
            elif _BOM.startswith(buffer):  # may become one
                return False
        stripped = buffer.lstrip(_BLANK)
        if not stripped:
            buffer.clear()
            return False
        del buffer[: len(buffer) - len(stripped)]
        byte = buffer[0:1]
        if self.closed:
            self._fail("bytes follow the end of the array")
        elif byte == b"{" and self._state in ("start", "first", "next"):
            self._bare = self._state == "start"
            self._state = "inside"
            self._scanned = self._depth = 0
            return True
        elif byte == b"[" and self._state == "start":
            self._state = "first"
        elif byte == b"," and self._state == "after":
            self._state = "next"
        elif byte == b"]" and self._state in ("first", "after"):
            self.closed = True
        else:
            self._fail("the stream is no array of objects")
        if self.error is None:
            del buffer[:1]
        return self.error is None

    def _element(self) -> bytes | None:
        """The object at the start of the buffer, if its end is there."""
        fresh = bytes(self._buffer[self._scanned :])
        at, depth, in_string = 0, self._depth, self._in_string
        while True:
            if in_string:
                end = _string_end(fresh, at)
                if end < 0:
                    at = _safe(fresh, at)
                    break
                at, in_string = end, False
                continue
            found = _OUTSIDE.search(fresh, at)
            if found is None:
                at = len(fresh)
                break
            at = found.end()
            char = found.group()
            if char == b'"':
                in_string = True
            elif char in b"{[":
                depth += 1
            else:
                depth -= 1
                if not depth:
                    return self._take(self._scanned + at)
        self._scanned += at
        self._depth, self._in_string = depth, in_string
        return None

    def _take(self, end: int) -> bytes:
        element = bytes(self._buffer[:end])
        del self._buffer[:end]
        self._scanned, self._depth, self._in_string = 0, 0, False
        self._state = "after"
        self.closed = self._bare
        return element

    def _fail(self, error: str) -> None:
        self.error = error
        self._buffer.clear()


def _string_end(buffer: bytes, at: int) -> int:
    """The position behind the quote that ends the string in which `at` stands, or -1."""
    start = at
    while True:
        quote = buffer.find(b'"', at)
        if quote < 0:
            return -1
        slashes = quote
        while slashes > start and buffer[slashes - 1] == 0x5C:
            slashes -= 1
        if (quote - slashes) % 2 == 0:
            return quote + 1
        at = quote + 1


def _safe(buffer: bytes, start: int) -> int:
    """Where a later scan may go on inside a string: before a run of backslashes at the end, since an escape may
    be cut in half there."""
    end = len(buffer)
    while end > start and buffer[end - 1] == 0x5C:
        end -= 1
    return end
