"""Long words of honest prose: what looks like words glued into one, and is "characteristics".

One honest text in six holds such a word, so each is looked into once and remembered.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Final

import re2

from .lexicon import is_everyday, split
from .matcher import Matcher
from .matches import finditer
from .nearby import excerpt
from .view import Piece, View, edited

SHORTEST: Final = 14
# The longest word that is remembered; with this many of them, the memory stays below a megabyte.
_LONGEST: Final = 48
_REMEMBERED: Final = 4_096
_RUN: Final = re2.compile(rf"[A-Za-z0-9]{{{SHORTEST},}}")
# GluedWordsThatBeginWithCapitals; names of classes have fewer everyday words.
_CAPITAL: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_SENTENCE: Final = 5


class LongWords:
    """Reads words glued together apart. `squeezed` matches what has no blanks; `telling` says which words count."""

    def __init__(self, squeezed: Matcher, telling: Callable[[str], bool]) -> None:
        self._squeezed = squeezed
        self._telling = telling
        self._read_once = lru_cache(_REMEMBERED)(self._read)

    def say_something(self, text: str) -> bool:
        """Whether a long word of a text is worth a view."""
        return any(self._worth(match.group()) is not None for match in finditer(_RUN, text))

    def views(self, view: View) -> Iterable[View]:
        """Long words read apart where they stand, and by themselves as they are."""
        places: list[tuple[int, int]] = []
        for match in finditer(_RUN, view.text):
            if self._worth(match.group()) is not None:
                places.append(match.span())
        if not places:
            return
        around = excerpt(view, places)
        found = [
            (match.group(), match.start(), match.end(), self._worth(match.group()))
            for match in finditer(_RUN, around.text)
        ]
        worded = edited(
            "worded",
            around,
            (Piece(f" {read} ", s, e) for run, s, e, read in found if read and read != run),
            keep=True,
        )
        squeezed = edited(
            "squeezed",
            around,
            (Piece(run, s, e) for run, s, e, read in found if read is not None),
            keep=False,
        )
        yield from (made for made in (worded, squeezed) if made is not None)

    def _worth(self, run: str) -> str | None:
        return self._read_once(run) if len(run) <= _LONGEST else self._read(run)

    def _read(self, run: str) -> str | None:
        """The words in a run; None if no signature knows any of them, and they are too few for a sentence."""
        parted = _CAPITAL.sub(" ", run)
        if sum(map(is_everyday, parted.split())) >= _SENTENCE:
            return parted
        read = split(run) if run.isalpha() else run
        return read if (read != run and self._telling(read)) or self._squeezed.match(run) else None
