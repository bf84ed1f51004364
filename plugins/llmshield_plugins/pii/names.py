"""Names of persons, places and organisations in a text, by the model of `name_model.py`: nothing is downloaded, no
network is used. Needs numpy, which the extra `[pii]` brings.

A whole text is the case where nothing follows: what is found in a stream does not depend on how it was cut. A token is
judged once the `AHEAD` tokens behind it are known, and with the tokens of its run, which has an end.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from llmshield import clock
from llmshield_plugins.pii.detector import Found
from llmshield_plugins.pii.name_model import AHEAD, BACK, TAGS, Model, Run
from llmshield_plugins.pii.name_tokens import Token, tokens

if TYPE_CHECKING:
    from llmshield_plugins.pii.name_model import Array

LONGEST = 1_000
"""Characters that a stream may wait at most: a run, and the tokens behind it."""
BLOCK = 2_000
"""Tokens that are scored at once."""
_SIGNS = frozenset("\"“”„'‘’«»<>()[]{}|:;,!?=/*#-–—…")
"""Signs with which no name begins or ends; the full stop of `Inc.` is its own."""
_NEVER = frozenset(
    [
        "none",
        "true",
        "false",
        "null",
        "undefined",
        "nan",
        "iban",
        "bic",
        "swift",
        "ssn",
        "itin",
        "vpn",
        "vat",
        "http",
        "https",
        "html",
        "json",
        "csv",
        "xml",
        "pdf",
        "sql",
        "api",
        "url",
        "usd",
        "eur",
        "gbp",
        "faq",
        "id",
        "ids",
        "cvv",
        "pin",
        "nhs",
        "bsn",
    ]
)
"""What stands where names stand, in headings and forms, and is none."""
_HALF = 20.0
"""The lead, in weights, at which a score is half way."""


class Names:
    """Finds names of these kinds. Holds no text."""

    def __init__(self, kinds: Iterable[str], model: Model | None = None) -> None:
        self._kinds = frozenset(kinds)
        self._model = model or Model.shipped()

    def find(self, text: str, deadline: float | None = None) -> list[Found]:
        """Every name, in order. Raises: TimeoutError when a block would begin after `deadline`."""
        return self.settle(text, 0, True, deadline)[0]

    def settle(
        self, text: str, start: int, final: bool, deadline: float | None = None
    ) -> tuple[list[Found], int, int]:
        """The names in `text[start:upto]`, `upto`, and from where on the text is needed as what stands before.

        What is before `upto` stays so, whatever follows; `start` is an `upto` of before, or 0. `final`: nothing follows.
        Raises: TimeoutError.
        """
        row = tokens(text)
        known = len(row) if final else _complete(row, text)
        first = 0
        while first < len(row) and row[first].start < start:
            first += 1
        ready = known if final else known - AHEAD
        if ready <= first:
            return [], _border(row, first, text, final), _needed(row, first)
        scores = self._scores(row[:known], first, ready, deadline)
        runs = self._model.runs(scores, row[first:ready])
        done = ready
        if not final and runs and runs[-1].end == ready - first and not runs[-1].is_full:
            done = first + runs.pop().start
        found = [
            name
            for run in runs
            if not self._model.is_empty(run)
            for name in self._in_run(text, row, scores, first, run, ready)
        ]
        return found, _border(row, done, text, final), _needed(row, done)

    def _scores(self, row: Sequence[Token], first: int, last: int, deadline: float | None) -> Array:
        model = self._model
        parts = []
        for begin in range(first, last, BLOCK):
            if clock.overdue(deadline):
                raise TimeoutError
            left, end = max(0, begin - BACK), min(last, begin + BLOCK)
            parts.append(model.scores(row[left : end + AHEAD])[begin - left : end - left])
        return parts[0] if len(parts) == 1 else model.joined(parts)

    def _in_run(
        self, text: str, row: Sequence[Token], scores: Array, first: int, run: Run, ready: int
    ) -> list[Found]:
        """The names in a run; `first` is the token that `scores` begin with."""
        begin, end = run.start, run.end
        goes_on = first + end < ready and not run.is_full
        tags = self._model.path(scores[begin:end], goes_on)
        out: list[Found] = []
        number = begin
        while number < end:
            tag = tags[number - begin]
            if tag == 0:
                number += 1
                continue
            kind, inside = TAGS[tag][2:], tag if tag % 2 == 0 else tag + 1
            stop = number + 1
            while stop < end and _goes_on(tags[stop - begin], inside, row, first + stop):
                stop += 1
            lead = float(
                (scores[number:stop, tag if stop == number + 1 else inside] - scores[number:stop, 0]).mean()
            )
            head, tail = first + number, first + stop - 1
            while head < tail and _is_sign(row[head].word):
                head += 1
            while tail > head and _is_sign(row[tail].word):
                tail -= 1
            start, close = row[head].start, row[tail].end
            if kind in self._kinds and _is_a_name(text[start:close]):
                out.append(Found(start, close, kind, _score(lead)))
            number = stop
        return out


def _complete(row: Sequence[Token], text: str) -> int:
    """How many tokens stay as they are, whatever follows: `O` and `'` may become `O'Neill`, `Nora's` `Nora'sun`."""
    known = len(row)
    if known and row[-1].end == len(text):
        known -= 1
        for ending in ("sS", "'’"):
            if known and row[known].word in ending and row[known - 1].end == row[known].start:
                known -= 1
    return known


def _border(row: Sequence[Token], done: int, text: str, final: bool) -> int:
    """Where the tokens from `done` on begin; blanks at the end may become a token with those that follow."""
    if done < len(row):
        return row[done].start
    return len(text) if final else row[-1].end if row else 0


def _needed(row: Sequence[Token], done: int) -> int:
    """Where the tokens begin that those from `done` on are described by."""
    return row[done - BACK - 1].start if done > BACK else 0


def _goes_on(tag: int, inside: int, row: Sequence[Token], at: int) -> bool:
    """Whether a name goes on here: not with a full stop that is no abbreviation's. Two of one kind with nothing but a
    blank between them are one."""
    if tag == inside:
        return row[at].word != "." or len(row[at - 1].word) <= 2
    return tag == inside - 1 and row[at].gap == 1 and row[at].word.isalpha() and row[at - 1].word.isalpha()


def _is_sign(word: str) -> bool:
    return word in _SIGNS or word.isspace()


def _is_a_name(value: str) -> bool:
    return sum(map(str.isalpha, value)) >= 2 and value.lower() not in _NEVER


def _score(lead: float) -> float:
    """0.4 to 0.95, growing with how far the tag leads."""
    return min(0.95, 0.4 + 0.55 * max(0.0, lead) / (max(0.0, lead) + _HALF))
