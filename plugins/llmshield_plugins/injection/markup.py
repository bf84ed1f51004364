"""Markup that a person does not see and a model reads: tags, comments, attributes, Markdown link labels.

The text as given is always scanned with its markup; these views are for words that markup cuts apart.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import re2

from .matches import finditer
from .view import Piece

# A comment, or one tag; bounded so that "a < b" never swallows a page.
_TAG: Final = re2.compile(r"<!--[\s\S]*?-->|<!\[CDATA\[|\]\]>|</?[A-Za-z!?][^<>]{0,400}>")
_LINK: Final = re2.compile(r"!?\[([^\[\]]{1,200})\]\([^()\s]{0,400}\)")


# A shorter comment cuts a word; a longer one says something.
_SAYING: Final = 24


def without_tags(text: str) -> Iterator[Piece]:
    """Tags and short comments taken out, nothing put in: `ig<b></b>nore` reads `ignore`. Long comments are lines."""
    for match in finditer(_TAG, text):
        start, end = match.span()
        said = text.startswith("<!", start) and end - start > _SAYING
        yield Piece(f"\n{text[start + 2 : end - 1].strip('-')}\n" if said else "", start, end)


def link_labels(text: str) -> Iterator[Piece]:
    """Markdown links reduced to their label."""
    for match in finditer(_LINK, text):
        yield Piece(match.group(1), match.start(), match.end())
