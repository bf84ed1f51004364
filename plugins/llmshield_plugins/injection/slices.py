"""Long texts in slices: one call into C holds the interpreter, and with it the event loop, until it returns.

`str.translate` of ten megabytes takes a second, splitting them a tenth of one; re2 alone lets others run meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

SLICE: Final = 1 << 16
"""Characters, or bytes, that are handled in one call: a few milliseconds."""


def translated(text: str, table: Mapping[int, str | int | None]) -> str:
    """`text.translate(table)`, a slice at a time."""
    if len(text) <= SLICE:
        return text.translate(table)
    return "".join([text[at : at + SLICE].translate(table) for at in range(0, len(text), SLICE)])


def characters(text: str) -> set[str]:
    """The characters of a text, each once."""
    if len(text) <= SLICE:
        return set(text)
    found: set[str] = set()
    for at in range(0, len(text), SLICE):
        found.update(text[at : at + SLICE])
    return found


def at_blanks(text: str) -> Iterator[str]:
    """The text in slices, each but the last ending with a blank or a line break: no word is cut."""
    start, size = 0, len(text)
    while size - start > SLICE:
        end = max(text.rfind(" ", start, start + SLICE), text.rfind("\n", start, start + SLICE))
        if end < 0:
            end = text.find(" ", start + SLICE)
            if end < 0:
                break
        yield text[start : end + 1]
        start = end + 1
    yield text[start:]
