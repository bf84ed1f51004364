"""The names model: what a token is described by, the weights of that, and the best row of tags.

A token is described by its form, by lists of known names and by its neighbours; each description is a row of weights, one
weight for each tag, in a hashed table. The best row of tags over the tokens counts (Collins 2002, structured perceptron,
averaged). What a token is described by reaches four tokens back and three ahead, and to the beginning of its line, no
further. Weights and lists are `names.npz`; docs/plugins/pii-names.md is their card.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from importlib import resources
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias
from zlib import crc32

from llmshield_plugins.pii import name_words

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array: TypeAlias = NDArray[Any]

KINDS = ("PERSON", "LOCATION", "ORGANIZATION")
TAGS = ("O", *(f"{part}-{kind}" for kind in KINDS for part in "BI"))
BITS = 18
"""The table has 2**BITS rows."""
LISTS = ("first", "last", "place", "country")

_TOKEN = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*|\d+|[^\w\s]|_")
_TITLES, _CUES, _PLACES, _FIRMS = (
    frozenset(words.split())
    for words in (name_words.TITLES, name_words.CUES, name_words.PLACES, name_words.FIRMS)
)
_AWAY = 7
"""Tokens behind a `:` to which the word before it still says something."""


class Token(NamedTuple):
    """A word, a number or a sign; `gap`: 0 nothing, 1 a blank, 2 a line break before it."""

    word: str
    start: int
    end: int
    gap: int


def tokens(text: str) -> list[Token]:
    """The tokens of a text."""
    out: list[Token] = []
    end = 0
    for match in _TOKEN.finditer(text):
        start = match.start()
        gap = 2 if not end or "\n" in text[end:start] else 1 if end < start else 0
        end = match.end()
        out.append(Token(match.group(), start, end, gap))
    return out


def fold(word: str) -> str:
    """A word in small letters without accents."""
    low = word.replace("’", "'").lower()
    return (
        low
        if low.isascii()
        else "".join(c for c in unicodedata.normalize("NFKD", low) if not unicodedata.combining(c))
    )


def listed(name: str) -> list[int]:
    """The hashes under which a list holds a name."""
    return [crc32(fold(word).encode("utf-8", "surrogatepass")) for word in _TOKEN.findall(name)]


def shape(word: str) -> str:
    """What a word looks like: `Xx`, `XX`, `999`."""
    if word.isdigit():
        return "9" * min(len(word), 5)
    if not word[0].isalnum():
        return word
    if word.islower():
        return "x" if len(word) > 1 else "y"
    if word.isupper():
        return "X" if len(word) > 3 else "XX" if len(word) > 1 else "A"
    if word[0].isupper() and word[1:].islower():
        return "Xx"
    return "xX" if word[0].islower() else "XxX"


_FORM, _SHAPE, _LISTS, _CUE, _START, _END2, _END3, _END4, _SIZE = range(9)


class Model:
    """Weights, transitions and lists. `rows` is (2**BITS, tags), `between` (tags, tags), `first` (tags)."""

    def __init__(self, rows: Array, between: Array, first: Array, known: Mapping[str, Iterable[int]]) -> None:
        import numpy

        self._np = numpy
        self.rows, self.between, self.first = rows, between, first
        self._known = [frozenset(map(int, known.get(name, ()))) for name in LISTS]
        real = between[between > -1e5]
        self._sure = (
            float(2 * (real.max() - real.min()) + abs(first[first > -1e5]).max()) if real.size else 0.0
        )
        self.described = lru_cache(50_000)(self._described)

    @classmethod
    def shipped(cls) -> Model:
        """The one in this package. Raises: ImportError without numpy."""
        import numpy

        with (
            resources.files("llmshield_plugins.pii").joinpath("names.npz").open("rb") as file,
            numpy.load(file) as kept,
        ):
            rows = kept["rows"].astype(numpy.float32) * kept["scale"]
            return cls(rows, kept["between"], kept["begin"], {name: kept[name] for name in LISTS})

    def _described(self, word: str) -> tuple[int, ...]:
        """What a word is by itself: hashes of its form, shape and affixes, and the lists that have it."""
        low = fold(word)
        form = crc32(low.encode("utf-8", "surrogatepass"))
        lists = sum(1 << place for place, known in enumerate(self._known) if form in known)
        cue = (low in _TITLES) | (low in _CUES) << 1 | (low in _PLACES) << 2 | (low in _FIRMS) << 3
        start, end2, end3, end4 = (
            crc32(part.encode("utf-8", "surrogatepass"))
            for part in ("p" + low[:3], "s" + low[-2:], "s" + low[-3:], "s" + low[-4:])
        )
        return (
            form,
            crc32(shape(word).encode("utf-8", "surrogatepass")),
            lists + 1,
            cue + 1,
            start,
            end2,
            end3,
            end4,
            min(len(word), 12),
        )

    def rows_of(self, row: Sequence[Token]) -> Array:
        """(tokens, features): which rows of the table describe each token."""
        np, count = self._np, len(row)
        f = np.zeros((count + 6, 9), np.uint64)
        f[3:-3] = np.array([self.described(token.word) for token in row], np.uint64)
        gaps = np.zeros(count + 6, np.uint64)
        gaps[3:-3] = [token.gap for token in row]
        loud, key = self._lines(row)

        def at(column: int, offset: int = 0) -> Array:
            column_of: Array = f[3 + offset : 3 + offset + count, column]
            return column_of

        def near(column: int, *offsets: int) -> list[Array]:
            return [at(column, offset) for offset in offsets]

        here, known = at(_SHAPE), at(_LISTS)
        gap, gap_after = gaps[3 : 3 + count], gaps[4 : 4 + count]
        described: list[list[Array]] = [
            [at(_FORM)], [here], [known, here], [at(_CUE)], [at(_START)], [at(_END2)], [at(_END3)], [at(_END4)],
            [at(_SIZE), here], [at(_FORM, -1)], [at(_FORM, 1)], [at(_FORM, -2)], [at(_FORM, 2)],
            near(_SHAPE, -1, 0), near(_SHAPE, 0, 1), near(_SHAPE, -1, 0, 1), near(_LISTS, -1, 0, 1),
            [at(_LISTS, -1), here], [at(_LISTS, 1), here, known], [at(_CUE, -1), here],
            [at(_CUE, -2), at(_SHAPE, -1), here], [at(_CUE, 1), here], [at(_CUE, 2), here],
            [at(_FORM, -1), here, known], [at(_FORM, 1), here, known], near(_FORM, -1, 0), near(_SHAPE, -2, -1, 0, 1),
            [gap, here, known], [gap, gap_after, at(_SHAPE, -1), at(_SHAPE, 1)], [key, here], [key, known],
            [at(_FORM, -3), here], [loud, here, known], [at(_LISTS, -1), known, at(_SHAPE, -1), here],
            [at(_END3, 1), here], [at(_END3, -1), here], [at(_FORM, -2), at(_FORM, -1), here],
        ]  # fmt: skip
        columns = [self._mixed(number, parts) for number, parts in enumerate(described, 1)]
        rows: Array = (np.stack(columns, 1) >> np.uint64(20)).astype(np.int64) & ((1 << BITS) - 1)
        return rows

    def _mixed(self, number: int, parts: list[Array]) -> Array:
        """One hash of several (the finaliser of MurmurHash3)."""
        np = self._np
        out = parts[0] ^ np.uint64(number * 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF)
        for part in parts[1:]:
            out = out * np.uint64(0xFF51AFD7ED558CCD)
            out ^= out >> np.uint64(29)
            out ^= part
        out = out * np.uint64(0xC4CEB9FE1A85EC53)
        out ^= out >> np.uint64(31)
        mixed: Array = out * np.uint64(0xFF51AFD7ED558CCD)
        return mixed

    def _lines(self, row: Sequence[Token]) -> tuple[Array, Array]:
        """For each token: whether its line is in capitals, and the word before the `:` or `=` it stands behind."""
        np = self._np
        loud = np.zeros(len(row), np.uint64)
        key = np.zeros(len(row), np.uint64)
        begin = capitals = words = 0
        name, since = 0, _AWAY
        for number, (word, _, _, gap) in enumerate(row):
            if gap == 2:
                loud[begin:number] = 2 * capitals > words
                begin, capitals, words, name, since = number, 0, 0, 0, _AWAY
            if word.isalpha():
                words += 1
                capitals += len(word) > 1 and word.isupper()
            key[number] = name if since < _AWAY else 0
            since += 1
            if word in {":", "="} and number:
                before = number - 1
                while before > 0 and row[before].word in {'"', "'"}:
                    before -= 1
                name, since = self.described(row[before].word)[_FORM], 0
            elif word in {",", ";", "|"}:
                name, since = 0, _AWAY
        loud[begin:] = 2 * capitals > words
        return loud, key

    def tags(self, row: Sequence[Token]) -> tuple[list[int], Array]:
        """The best tag of each token, and the scores of all."""
        scores: Array = self.rows[self.rows_of(row)].sum(1)
        return self.best(scores), scores

    def best(self, scores: Array) -> list[int]:
        """The best row of tags (Viterbi). Where O leads by more than any transition can change, it is certain, and the
        search begins anew behind it."""
        np = self._np
        found = [0] * len(scores)
        open_ = np.flatnonzero(scores[:, 0] - scores[:, 1:].max(1) <= self._sure)
        start = 0
        while start < len(open_):
            stop = start + 1
            while stop < len(open_) and open_[stop] == open_[stop - 1] + 1:
                stop += 1
            begin, end = int(open_[start]), int(open_[stop - 1]) + 1
            found[begin:end] = self._run(scores[begin:end], begin == 0, end < len(scores))
            start = stop
        return found

    def _run(self, scores: Array, at_start: bool, goes_on: bool) -> list[int]:
        np, between = self._np, self.between
        best = scores[0] + (self.first if at_start else between[0])
        back: list[Array] = []
        everything = np.arange(len(TAGS))
        for row in scores[1:]:
            path = best[:, None] + between
            came = path.argmax(0)
            back.append(came)
            best = path[came, everything] + row
        if goes_on:
            best = best + between[:, 0]
        tag = int(best.argmax())
        tags = [tag]
        for came in reversed(back):
            tag = int(came[tag])
            tags.append(tag)
        return tags[::-1]
