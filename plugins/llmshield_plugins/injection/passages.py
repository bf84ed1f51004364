"""Long texts in passages: what one line of a book needs, a look at it in another form, its other pages do not.

A view costs as much as the text that it is made of, and somewhere in a megabyte every trigger fires. So a long text is
cut into passages that overlap, each is judged as if it stood alone, and what was found is judged together. A
passage ends at a blank, so no word, run of base64 or number is cut, and overlaps the next by more than any signature and
any encoding of one reaches.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from .judgement import Hit

LENGTH: Final = 8_192
"""Characters of a passage; a run without a blank may make it longer."""
WHOLE: Final = 12_288
"""A text up to this length is one passage."""
OVERLAP: Final = 1_024


def passages(text: str, overlap: int = OVERLAP) -> Iterator[tuple[int, str]]:
    """The passages of a text, each with the place where it begins. Linear in the text."""
    size = len(text)
    start = 0
    while size - start > WHOLE + overlap:
        end = _blank(text, start + LENGTH, size)
        if size - end < overlap:
            break
        yield start, text[start:end]
        # Back from the end by the overlap, to the beginning of a word, but never to where this one began.
        at = max(
            text.rfind(" ", end - 2 * overlap, end - overlap),
            text.rfind("\n", end - 2 * overlap, end - overlap),
        )
        start = at + 1 if at > start else end
    yield start, text[start:]


def _blank(text: str, at: int, size: int) -> int:
    """The next place behind `at` where a word ends."""
    ends = [found for found in (text.find(" ", at), text.find("\n", at)) if found >= 0]
    return min(ends, default=size)


def moved(hit: Hit, by: int) -> Hit:
    """A hit of a passage, in the text that the passage is of."""
    return replace(hit, start=hit.start + by, end=hit.end + by) if by else hit
