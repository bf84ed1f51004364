"""A request's head as the engine reads it; what was read out of one serves the next that says the same.

A client's requests begin alike: its headers stay the same from call to call, but for the length of the body. A mount
that sees so gives such requests the same `Kept`, and their head is read once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias

from llmshield import senders
from llmshield.headers import name_of, upstream_headers

Raw: TypeAlias = "Sequence[tuple[bytes, bytes]]"
"""Names and values as they came."""

_SINGLE = frozenset(
    {"authorization", "x-api-key", "api-key", "x-goog-api-key", "host", "content-type", "content-encoding",
     "content-length", "transfer-encoding"}
)  # fmt: skip


class Head:
    """What a head says. It holds the client's key, and lives as long as its call or its connection.

    `named` are the headers by their names in lower case, several of one name joined; `doubled`: one that may stand
    once came twice with different values.
    """

    __slots__ = ("_going_up", "doubled", "key", "named", "sender")

    def __init__(self, raw: Raw, query: bytes) -> None:
        self.doubled = False
        self.named = {name_of(name): value.decode("latin-1") for name, value in raw}
        if len(self.named) != len(raw):
            self.named, self.doubled = _joined(raw)
        self.key: str | Literal[False] | None = False
        """The one key that it carries, or None; False before `identity` has looked for it."""
        self.sender = senders.hold(self.named, query.decode("latin-1"))
        self._going_up: tuple[bool, dict[str, str], dict[str, str], str] | None = None

    def going_up(self, told: Mapping[str, str], *, own_key: bool) -> tuple[dict[str, str], str]:
        """`upstream_headers` of `told`, and as lines: what this head says, unless a plugin or a translation has changed
        it."""
        last = self._going_up
        if last is None or last[0] is not own_key or last[1] != told:
            headers = upstream_headers(told, own_key=own_key)
            last = self._going_up = (own_key, dict(told), headers, lines_of(headers))
        return last[2].copy(), last[3]


def lines_of(headers: Mapping[str, str]) -> str:
    """Headers as they go over the wire (RFC 9112, 5)."""
    return "".join([f"{name}: {value}\r\n" for name, value in headers.items()])


class Kept:
    """What requests share whose heads differ in their `content-length` only, which is the header at `length_at`."""

    __slots__ = ("head", "length_at")

    def __init__(self, length_at: int) -> None:
        self.length_at = length_at
        self.head: Head | None = None


def read(raw: Raw, query: bytes, kept: Kept | None) -> tuple[Head, dict[str, str]]:
    """The head of a request, and its headers, which are the call's own from here on. What it says that is secret is hidden
    from now on (`senders.hold`). `kept` is what it shares with other requests, if anything."""
    if kept is None:
        head = Head(raw, query)
        return head, head.named
    known = kept.head
    if known is None:
        known = kept.head = Head(raw, query)
        return known, known.named.copy()
    senders.hold_again(known.sender)
    headers = known.named.copy()
    headers["content-length"] = raw[kept.length_at][1].decode("latin-1")
    return known, headers


def _joined(raw: Raw) -> tuple[dict[str, str], bool]:
    """Headers some of which came more than once, joined (RFC 9110, 5.3); True where one may stand once and differs."""
    headers: dict[str, str] = {}
    doubled = False
    for raw_name, raw_value in raw:
        name = name_of(raw_name)
        value = raw_value.decode("latin-1")
        if name in headers:
            if name == "host" or (name in _SINGLE and headers[name] != value):  # RFC 9112, 3.2
                doubled = True
            elif name not in _SINGLE:
                value = f"{headers[name]}, {value}"
        headers[name] = value
    return headers, doubled
