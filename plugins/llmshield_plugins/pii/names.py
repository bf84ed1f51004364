"""Names of persons, places and organisations in a text, by the model of `name_model.py`: nothing is downloaded, no
network is used. Needs numpy, which the extra `[pii]` brings."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from llmshield import clock
from llmshield_plugins.pii.detector import Found
from llmshield_plugins.pii.name_model import TAGS, Model, Token, tokens

if TYPE_CHECKING:
    from llmshield_plugins.pii.name_model import Array

BLOCK = 2_000
"""Tokens that are read at once."""
AROUND = 8
"""Tokens beside a block that are read with it, so that its own are described as in the whole."""


class Names:
    """Finds names of these kinds. Holds no text."""

    def __init__(self, kinds: Iterable[str], model: Model | None = None) -> None:
        self._kinds = frozenset(kinds)
        self._model = model or Model.shipped()

    def find(self, text: str, deadline: float | None = None) -> list[Found]:
        """Every name, in order. Raises: TimeoutError when a block would begin after `deadline`."""
        row = tokens(text)
        found: list[Found] = []
        for start in range(0, len(row), BLOCK):
            if clock.overdue(deadline):
                raise TimeoutError
            left = max(0, start - AROUND)
            block = row[left : start + BLOCK + AROUND]
            tags, scores = self._model.tags(block)
            found += self._found(text, block, tags, scores, start - left, start - left + BLOCK)
        return found

    def _found(
        self, text: str, row: Sequence[Token], tags: list[int], scores: Array, first: int, last: int
    ) -> list[Found]:
        out: list[Found] = []
        number = first
        while 0 < number < len(row) and _is_inside(tags[number]) and tags[number - 1]:
            number += 1  # the rest of a name that the block before has found
        while number < min(last, len(row)):
            tag = tags[number]
            if tag == 0:
                number += 1
                continue
            kind, inside = TAGS[tag][2:], tag if _is_inside(tag) else tag + 1
            stop = number + 1
            while stop < len(row) and tags[stop] == inside and not _ends(row, stop):
                stop += 1
            lead = float(
                (scores[number:stop, tag if stop == number + 1 else inside] - scores[number:stop, 0]).mean()
            )
            start, end = row[number].start, row[stop - 1].end
            if kind in self._kinds and _is_a_name(text[start:end]):
                found = Found(start, end, kind, _score(lead))
                out.append(found)
            number = stop
        return out


def _is_inside(tag: int) -> bool:
    return tag > 0 and tag % 2 == 0


def _ends(row: Sequence[Token], at: int) -> bool:
    """Whether a name can't go on here: behind a line break, or a full stop that is no abbreviation's."""
    return row[at].gap == 2 or (row[at].word == "." and len(row[at - 1].word) > 2)


def _is_a_name(value: str) -> bool:
    return sum(map(str.isalpha, value)) >= 2


def _score(lead: float) -> float:
    """0.4 to 0.95, growing with how far the tag leads."""
    return min(0.95, 0.4 + 0.55 * max(0.0, lead) / (max(0.0, lead) + _HALF))


_HALF = 20.0
"""The lead, in weights, at which a score is half way."""
