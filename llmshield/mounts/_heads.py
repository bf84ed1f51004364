"""Heads of requests as bytes: one without its upgrade, which ones can be served, and whether one came before."""

from __future__ import annotations

import re
from weakref import WeakValueDictionary

from llmshield.heads import Kept

LONGEST = 4 * 1024
"""Bytes of a head that is remembered for the next request of its connection."""

Headers = list[tuple[bytes, bytes]]

_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,15})[ \t]*\r\n", re.IGNORECASE)
_UPGRADE = frozenset({b"upgrade", b"connection", b"http2-settings"})
_ENDING = {b"connection": b"close", b"upgrade": b"websocket"}  # what ends a connection behind the answer


class Pattern:
    """The head of a request that was parsed and taken, to tell another one that differs in its length only.

    What the parser said of the one holds for the other: its framing is this length, and nothing else. Connections of one
    client share it, and it lives as long as the last of them.
    """

    __slots__ = (
        "__weakref__",
        "_after",
        "_before",
        "_length_at",
        "headers",
        "kept",
        "method",
        "raw_path",
        "raw_query",
    )

    def __init__(
        self,
        before: bytes,
        after: bytes,
        method: str,
        raw_path: bytes,
        raw_query: bytes,
        headers: Headers,
        length_at: int,
    ) -> None:
        self._before = before
        self._after = after
        self._length_at = length_at
        self.method = method
        self.raw_path = raw_path
        self.raw_query = raw_query
        self.headers = headers
        self.kept = Kept(length_at)

    def match(self, data: bytes) -> tuple[int, Headers, int] | None:
        """Where the body of a request with this head begins in `data`, its headers, and how long the body is; None when
        another head stands there, or not all of one."""
        start = len(self._before)
        if not data.startswith(self._before):
            return None
        end = data.find(b"\r", start, start + 16)
        digits = data[start:end]
        if end < 0 or not digits.isdigit() or not data.startswith(self._after, end):
            return None
        headers = self.headers.copy()
        headers[self._length_at] = (headers[self._length_at][0], digits)
        return end + len(self._after), headers, int(digits)


def pattern_of(
    head: bytes, method: str, raw_path: bytes, raw_query: bytes, headers: Headers
) -> Pattern | None:
    """The pattern of a head that was parsed; None where its length is not told by one plain `content-length`."""
    if len(head) > LONGEST or not head.endswith(b"\r\n\r\n") or head.find(b"\r\n\r\n") != len(head) - 4:
        return None
    framing = [
        at
        for at, (name, _) in enumerate(headers)
        if name.lower() in {b"content-length", b"transfer-encoding"}
    ]
    found = _LENGTH.search(head)
    if found is None or len(framing) != 1 or headers[framing[0]][1] != found[1]:
        return None
    around = (head[: found.start(1)], head[found.end(1) :])
    pattern = _patterns.get(around)
    if pattern is None:
        pattern = _patterns[around] = Pattern(*around, method, raw_path, raw_query, headers, framing[0])
    return pattern


_patterns: WeakValueDictionary[tuple[bytes, bytes], Pattern] = WeakValueDictionary()


def understood(version: str, headers: Headers) -> bool:
    """Whether it is HTTP/1.1 that says for which host (RFC 9112, 3.2) and has no coding but `chunked`, or HTTP/1.0 as
    such: with chunks, two servers would see two different ends (RFC 9112, 6.1)."""
    for name, value in headers:
        if (
            len(name) == 17
            and name.lower() == b"transfer-encoding"
            and (version != "1.1" or value.strip().lower() != b"chunked")
        ):
            return False
    if version == "1.1":
        return any(len(name) == 4 and name.lower() == b"host" for name, _ in headers)
    return version == "1.0"


def without_upgrade(method: bytes, url: bytes, version: str, headers: Headers) -> bytes:
    """A head as one that asks for no upgrade; a refused WebSocket's ends its connection."""
    lines = [b"%b %b HTTP/%b\r\n" % (method, url, version.encode())]
    for name, value in headers:
        if name.lower() not in _UPGRADE:
            lines.append(b"%b: %b\r\n" % (name, value))
        elif _ENDING.get(name.lower(), b"\n") in value.lower():
            lines.append(b"connection: close\r\n")
    lines.append(b"\r\n")
    return b"".join(lines)
