"""Views that differ from their parent in few places: only what stands around those places is read once more.

A page of code is full of `f(x)` and `a_b`, and of a page with `a*b` in one line the other lines were read already. A place
counts only if the word that comes out there is one that a signature knows.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import Any, Final

import re2

from .atoms import literals, shortest
from .matcher import Matcher, Pattern
from .matches import finditer
from .spellings import JOINED, LEET, MARKS, interleaved, spaced, squeezed
from .view import Piece, View

Span = tuple[int, int]
Changes = Iterable[tuple[str, int, int]]
"""Words as a view would show them, and where they stand in its parent."""

# Characters on both sides of a place: a signature reaches over a line of 120 and some words.
_REACH: Final = 300
# No signature reaches over this: a line break and twelve words that are in no filler.
BREAK: Final = "\n" + "qx " * 12 + "\n"
# A shorter text is read once more as a whole.
_WHOLE: Final = 900
_LETTERS: Final = 5
"""A literal of a signature with fewer letters is in words of all kinds."""
_TEXT: Final = 40
"""Characters from which on what comes out is more than a word, and may be in an encoding."""


class Telling:
    """Whether words are such that a signature, or a literal of the policy, knows them."""

    def __init__(self, sources: Iterable[str], own: Iterable[str] = (), *, everything: bool = False) -> None:
        """`sources` are patterns, `own` words that count at any length; with `everything`, any word counts."""
        self._everything = everything
        words = {word for source in sources for word in literals(source) if len(word) >= _LETTERS}
        words = {word for word in words if word.isascii()} | {"dan", "rule"}
        words.update(word.lower() for word in own if word.isascii())
        pattern = "|".join(re2.escape(word) for word in shortest(words))
        self._matches: Callable[[str], list[int]] = Matcher([Pattern(pattern, "telling")]).match
        self._pattern: Any = re2.compile(f"(?i){pattern}")

    def __call__(self, text: str) -> bool:
        """Whether one of them stands in a text."""
        return self._everything or bool(self._matches(text))

    def places(self, changes: Changes) -> list[Span]:
        """Where words change into such as count, in order."""
        found = list(changes)
        if self._everything or not found:
            return [(start, end) for _, start, end in found]
        joined = "\n".join([word for word, _, _ in found])
        long = [(start, end) for word, start, end in found if len(word) >= _TEXT]
        if not self._matches(joined):
            return long
        offsets = [0]
        for word, _, _ in found:
            offsets.append(offsets[-1] + len(word) + 1)
        told = dict.fromkeys(
            bisect_right(offsets, match.start()) - 1 for match in finditer(self._pattern, joined)
        )
        return sorted({*long, *(found[index][1:] for index in told)})


def excerpt(view: View, places: Sequence[Span]) -> View:
    """What stands around some places of a view; the view itself if that is most of it."""
    size = len(view.text)
    if size <= _WHOLE:
        return view
    parts: list[Span] = []
    for start, end in places:
        start, end = max(0, start - _REACH), min(size, end + _REACH)
        if parts and start <= parts[-1][1] + len(BREAK):
            parts[-1] = parts[-1][0], max(parts[-1][1], end)
        else:
            parts.append((start, end))
    if 4 * sum(end - start for start, end in parts) >= 3 * size:
        return view
    offsets: list[int] = []
    texts: list[str] = []
    at = 0
    for start, end in parts:
        offsets.append(at)
        texts.append(view.text[start:end])
        at += end - start + len(BREAK)

    def back(at: int) -> int:
        index = max(0, bisect_right(offsets, at) - 1)
        start, end = parts[index]
        return min(end, start + at - offsets[index])

    return View("", BREAK.join(texts), view, lambda start, end: (back(start), back(end)))


_SIDE: Final = 16
_MARKED: Final = re2.compile(r"[A-Za-z0-9]*[A-Za-z](?:[*_`~\\\[\]{}()|^]{1,6}[A-Za-z0-9]+)+")
_UNMARK: Final = dict.fromkeys(map(ord, MARKS))


def marked(text: str) -> Iterator[tuple[str, int, int]]:
    """Words with marks in them, without the marks."""
    for match in finditer(_MARKED, text):
        yield match.group().translate(_UNMARK), match.start(), match.end()


def unescaped(decode: Callable[[str], Iterator[Piece]]) -> Callable[[str], Changes]:
    """Words in which something is escaped, as a decoder reads them."""

    def words(text: str) -> Iterator[tuple[str, int, int]]:
        for read, start, end in decode(text):
            left = text[max(0, start - _SIDE) : start].rpartition(" ")[2]
            yield left + read + text[end : end + _SIDE].partition(" ")[0], start, end

    return words


def glued(text: str) -> Iterator[tuple[str, int, int]]:
    """Strings and halves of words that a program or a reader would join."""
    for match in finditer(JOINED, text):
        start, end = match.start(), match.end()
        left = text[max(0, start - _SIDE) : start].rpartition(" ")[2]
        yield left + text[end : end + _SIDE].partition(" ")[0], start, end


def apart(text: str) -> Iterator[tuple[str, int, int]]:
    """Runs of letters that stand apart, drawn together in both ways, and with letters for digits."""
    for read, start, end in chain(interleaved(text), spaced(text)):
        yield f"{read} {read.translate(LEET)}", start, end
    yield from squeezed(text)


_FIGURED: Final = re2.compile(
    r"(?i)[a-z0134579@$!|+8]*[a-z][0134579@$!|+8]+[a-z0-9@$!|+]*|\b[0134579@$!|8][a-z0-9@$!|+]{2,}"
)


def figured(text: str) -> Iterator[tuple[str, int, int]]:
    """Words with digits and marks for letters, read as letters in both ways."""
    for match in finditer(_FIGURED, text):
        word: str = match.group()
        read = word.translate(LEET)
        if "1" in word or "!" in word or "|" in word:
            read = f"{read} {read.replace('i', 'l')}"
        yield read, match.start(), match.end()
