"""Every place where one pattern matches, for a third of what re2's own wrapper takes.

The wrapper counts characters in both directions for every group and makes a generator for every search; an ASCII text
needs neither, its bytes are its characters. Decoders find dozens of runs in an ordinary text.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

Span = tuple[int, int]


class Match:
    """What `re.Match` is, as far as it is used here."""

    __slots__ = ("_spans", "_text")

    def __init__(self, text: str, spans: Sequence[Span]) -> None:
        self._text = text
        self._spans = spans

    def group(self, number: int = 0) -> Any:
        """The text of the match, or of one of its groups; None for a group that took no part."""
        start, end = self._spans[number]
        return None if start < 0 else self._text[start:end]

    def groups(self) -> tuple[Any, ...]:
        """The texts of all groups."""
        return tuple(self.group(number) for number in range(1, len(self._spans)))

    def start(self, number: int = 0) -> int:
        return self._spans[number][0]

    def end(self, number: int = 0) -> int:
        return self._spans[number][1]

    def span(self, number: int = 0) -> Span:
        return self._spans[number]


def finditer(pattern: Any, text: str) -> Iterator[Any]:
    """`pattern.finditer(text)` for a compiled pattern of re2's."""
    inner: Any = getattr(pattern, "_regexp", None)
    if inner is None:  # another build of re2
        return pattern.finditer(text)  # type: ignore[no-any-return]
    return _in_ascii(inner, text) if text.isascii() else _in_utf8(inner, text)


def _in_ascii(inner: Any, text: str) -> Iterator[Match]:
    match, anywhere = inner.Match, type(inner).Anchor.UNANCHORED
    data, at, size = text.encode(), 0, len(text)
    while True:
        spans = match(anywhere, data, at, size)
        start, end = spans[0]
        if start < 0:
            return
        yield Match(text, spans)
        if at == size:
            return
        at = at + 1 if end == at else end


def _in_utf8(inner: Any, text: str) -> Iterator[Match]:
    match, anywhere = inner.Match, type(inner).Anchor.UNANCHORED
    data = text.encode()
    at, size = 0, len(data)
    seen = before = 0  # bytes up to the last match's end, and the characters that they are
    while True:
        spans = match(anywhere, data, at, size)
        start, end = spans[0]
        if start < 0:
            return
        first = before + len(data[seen:start].decode())
        placed = [
            (first + len(data[start:low].decode()), first + len(data[start:high].decode()))
            if low >= 0
            else (-1, -1)
            for low, high in spans
        ]
        yield Match(text, placed)
        seen, before = end, placed[0][1]
        if at == size:
            return
        at = at + 1 if end == at else end
        while at < size and data[at] & 0xC0 == 0x80:  # never inside a character
            at += 1
