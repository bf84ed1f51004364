"""The names model: what a token is described by, the weights of that, and the best row of tags.

A token is described by its form, by lists of known names and of common words, by the class of words it is used like, and
by its neighbours; each description is a row of weights, one weight for each tag, in a hashed table. The best row of tags
over the tokens counts (Collins 2002, structured perceptron, averaged). A description reaches `BACK` tokens back and
`AHEAD` ahead, never further: what is known of a token does not change when more text comes. Weights, lists and classes
are `names.npz`; docs/plugins/pii-names.md is their card.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from threading import Lock
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from llmshield_plugins.pii import name_words
from llmshield_plugins.pii.name_tokens import Token, crc, fold, shape

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array: TypeAlias = NDArray[Any]
else:
    Array: TypeAlias = Any

KINDS = ("PERSON", "LOCATION", "ORGANIZATION")
TAGS = ("O", *(f"{part}-{kind}" for kind in KINDS for part in "BI"))
BITS = 19
"""The table has 2**BITS rows."""
LISTS = ("first", "last", "place", "country", "org", "people", "common", "rare")
"""Names of each kind, words for people of a place, words that are written small often, and now and then."""
BACK, AHEAD = 12, 3
RUN, WIDTH = 32, 240
"""Tokens in a row that are searched together at most, and the characters after which no further one joins them."""

_TITLES, _CUES, _PLACES, _FIRMS = (
    frozenset(words.split())
    for words in (name_words.TITLES, name_words.CUES, name_words.PLACES, name_words.FIRMS)
)
_AWAY = 7
"""Tokens behind a `:` to which the word before it still says something."""
_QUOTES = 3
"""Quotes that may stand between that word and the `:`."""
_REMEMBERED = 20_000

_FORM, _SHAPE, _LISTS, _CUE, _START, _END2, _END3, _END4, _SIZE, _CLASS = range(10)
_WIDTH = 10

# What one token says about itself and about those beside it: (columns, where the described token is seen from).
_SINGLE: tuple[tuple[tuple[int, ...], int], ...] = (
    ((_FORM,), 0), ((_SHAPE,), 0), ((_LISTS, _SHAPE), 0), ((_CUE,), 0), ((_START,), 0), ((_END2,), 0), ((_END3,), 0),
    ((_END4,), 0), ((_SIZE, _SHAPE), 0), ((_CLASS,), 0), ((_CLASS, _SHAPE), 0), ((_CLASS, _LISTS), 0),
    ((_FORM,), -1), ((_CLASS,), -1), ((_LISTS, _SHAPE), -1), ((_FORM,), 1), ((_CLASS,), 1), ((_LISTS, _SHAPE), 1),
    ((_FORM,), -2), ((_CLASS,), -2), ((_FORM,), 2), ((_CLASS,), 2), ((_FORM,), -3),
)  # fmt: skip
_OFFSETS = (-3, -2, -1, 0, 1, 2)


class Words(NamedTuple):
    """What is remembered of words: hash of a word (the word itself is not kept) -> its place; its description, and what
    it adds to tokens around it. Place 0 is no word."""

    places: dict[int, int]
    columns: Array
    said: Array


class Run(NamedTuple):
    """Tokens from `start` to `end` that are searched together; `lowest` is the least lead of O among them; `is_full`:
    cut for its length."""

    start: int
    end: int
    lowest: float
    is_full: bool


class Model:
    """Weights, transitions, lists and classes. `rows` is (2**BITS, tags), `between` (tags, tags).

    `sure`: by how much O leads where no search is needed; infinity: nowhere.
    """

    def __init__(
        self,
        rows: Array,
        between: Array,
        known: Mapping[str, Iterable[int]],
        classes: Mapping[int, int] | None = None,
        sure: float = float("inf"),
    ) -> None:
        import numpy

        self._np = numpy
        self.rows, self.between, self.sure = rows, between, sure
        self._plain_steps = bool(between[0, 0] >= between.max())
        self._known = [frozenset(map(int, known.get(name, ()))) for name in LISTS]
        self._classes = classes or {}
        self._words = self._no_words(0)
        self._adding = Lock()

    @classmethod
    def shipped(cls) -> Model:
        """The one in this package. Raises: ImportError without numpy."""
        import numpy

        with (
            resources.files("llmshield_plugins.pii").joinpath("names.npz").open("rb") as file,
            numpy.load(file) as kept,
        ):
            rows = kept["rows"].astype(numpy.float32) * kept["scale"]
            classes = dict(zip(kept["words"].tolist(), kept["classes"].tolist(), strict=True))
            return cls(
                rows, kept["between"], {name: kept[name] for name in LISTS}, classes, float(kept["sure"])
            )

    def described(self, word: str) -> tuple[int, ...]:
        """What a word is by itself: hashes of its form, shape and affixes, the lists that have it, its class."""
        low = fold(word)
        form = crc(low)
        lists = sum(1 << place for place, known in enumerate(self._known) if form in known)
        cue = (low in _TITLES) | (low in _CUES) << 1 | (low in _PLACES) << 2 | (low in _FIRMS) << 3
        return (
            form, crc(shape(word)), lists + 1, cue + 1, crc("p" + low[:3]), crc("s" + low[-2:]), crc("s" + low[-3:]),
            crc("s" + low[-4:]), min(len(word), 12), self._classes.get(form, 0) + 1,
        )  # fmt: skip

    # -- descriptions ------------------------------------------------------------------------------------------------

    def rows_of(self, row: Sequence[Token]) -> Array:
        """(tokens, descriptions): which rows of the table describe each token."""
        np, count = self._np, len(row)
        f = self._columns(row)
        single = self._single(f)
        beside = [
            single[3 + offset : 3 + offset + count, number] for number, (_, offset) in enumerate(_SINGLE)
        ]
        rows: Array = np.concatenate([np.stack(beside, 1), self._joint(row, f)], 1)
        return rows

    def _columns(self, row: Sequence[Token]) -> Array:
        f = self._np.zeros((len(row) + 6, _WIDTH), self._np.uint64)
        f[3:-3] = self._np.array([self.described(token.word) for token in row], self._np.uint64)
        return f

    def _single(self, f: Array) -> Array:
        """(words, what one word says): rows of the table."""
        columns = [
            self._mixed(number, [f[:, column] for column in parts])
            for number, (parts, _) in enumerate(_SINGLE, 1)
        ]
        return self._places(columns)

    def _joint(self, row: Sequence[Token], f: Array) -> Array:
        """(tokens, what several words say together): rows of the table."""
        np, count = self._np, len(row)
        gaps = np.zeros(count + 1, np.uint64)
        gaps[:-1] = [token.gap for token in row]
        gap, gap_after = gaps[:-1], gaps[1:]
        loud, key = self._around(row, f)

        def at(column: int, offset: int = 0) -> Array:
            column_of: Array = f[3 + offset : 3 + offset + count, column]
            return column_of

        def near(column: int, *offsets: int) -> list[Array]:
            return [at(column, offset) for offset in offsets]

        here, known, form = at(_SHAPE), at(_LISTS), at(_FORM)
        described: list[list[Array]] = [
            near(_SHAPE, -1, 0), near(_SHAPE, 0, 1), near(_SHAPE, -1, 0, 1), near(_LISTS, -1, 0, 1),
            [at(_CUE, -1), here], [at(_CUE, -2), at(_SHAPE, -1), here], [at(_CUE, 1), here], [at(_CUE, 2), here],
            [at(_FORM, -1), here, known], [at(_FORM, 1), here, known], [at(_FORM, -1), form],
            near(_SHAPE, -2, -1, 0, 1), [gap, here, known], [gap, gap_after, at(_SHAPE, -1), at(_SHAPE, 1)],
            [key, here], [key, known, at(_SHAPE, -1)], [loud, here, known],
            [at(_LISTS, -1), known, at(_SHAPE, -1), here], [at(_LISTS, 1), known, at(_SHAPE, 1), here],
            [at(_END3, 1), here], [at(_END3, -1), here], [at(_FORM, -2), at(_FORM, -1), here],
            [at(_CLASS, -1), here, known], [at(_CLASS, 1), here, known], [at(_CLASS, -1), at(_CLASS, 1), here],
            [at(_CLASS, -2), at(_CLASS, -1), here],
        ]  # fmt: skip
        return self._places([self._mixed(number, parts) for number, parts in enumerate(described, 101)])

    def _places(self, columns: list[Array]) -> Array:
        np = self._np
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

    def _around(self, row: Sequence[Token], f: Array) -> tuple[Array, Array]:
        """For each token: whether its neighbours are in capitals, and the word before the `:` or `=` it stands behind."""
        np, count = self._np, len(row)
        key = np.zeros(count, np.uint64)
        words = np.zeros(count + 7, np.int64)
        capitals = np.zeros(count + 7, np.int64)
        name, since = 0, _AWAY
        for number, (word, _, _, gap) in enumerate(row):
            if gap == 2:
                name, since = 0, _AWAY
            if word.isalpha():
                words[number + 4] = 1
                capitals[number + 4] = len(word) > 1 and word.isupper()
            if since < _AWAY:
                key[number] = name
                since += 1
            if word in _ASSIGN and number:
                before = number - 1
                for _ in range(_QUOTES):
                    if before > 0 and row[before].word in _QUOTED:
                        before -= 1
                name, since = int(f[before + 3, _FORM]), 0
            elif word in _ENDING:
                name, since = 0, _AWAY
        words, capitals = words.cumsum(), capitals.cumsum()
        loud: Array = (2 * (capitals[7:] - capitals[:-7]) > words[7:] - words[:-7]).astype(np.uint64)
        return loud, key

    # -- scores and tags -----------------------------------------------------------------------------------------------

    def scores(self, row: Sequence[Token]) -> Array:
        """(tokens, tags): the sum of the weights of each token's descriptions."""
        np, count = self._np, len(row)
        known, at = self._known_words(row)
        places = np.zeros(count + 6, np.int64)
        places[3:-3] = at
        f = known.columns[places]
        said = known.said[places]
        total: Array = self.rows[self._joint(row, f)].sum(1)
        for place, offset in enumerate(_OFFSETS):
            total += said[3 + offset : 3 + offset + count, place]
        return total

    def _known_words(self, row: Sequence[Token]) -> tuple[Words, list[int]]:
        """What is remembered of words, and where in it each token is. Texts are read in several threads: what was read
        once stays where it is, and a full memory is left to whoever still reads it."""
        words = [token.word for token in row]
        numbers = [hash(word) for word in words]
        known = self._words
        try:
            return known, [known.places[number] for number in numbers]
        except KeyError:
            pass
        with self._adding:
            known = self._words
            new = {
                number: word
                for number, word in zip(numbers, words, strict=True)
                if number not in known.places
            }
            if len(known.places) + len(new) >= len(known.columns):
                known = self._words = self._no_words(len(set(numbers)))
                new = dict(zip(numbers, words, strict=True))
            begin = len(known.places) + 1
            self._describe(known, begin, list(new.values()))
            known.places.update(zip(new, range(begin, begin + len(new)), strict=True))
            return known, [known.places[number] for number in numbers]

    def _no_words(self, least: int) -> Words:
        np, size = self._np, max(_REMEMBERED, least) + 2
        known = Words(
            {}, np.zeros((size, _WIDTH), np.uint64), np.zeros((size, len(_OFFSETS), len(TAGS)), np.float32)
        )
        self._weigh(known, 0, 1)  # what stands beside the first and the last
        return known

    def _describe(self, known: Words, begin: int, words: Sequence[str]) -> None:
        end = begin + len(words)
        known.columns[begin:end] = [self.described(word) for word in words]
        self._weigh(known, begin, end)

    def _weigh(self, known: Words, begin: int, end: int) -> None:
        weights = self.rows[self._single(known.columns[begin:end])]
        known.said[begin:end] = 0
        for number, (_, offset) in enumerate(_SINGLE):
            known.said[begin:end, _OFFSETS.index(offset)] += weights[:, number]

    def joined(self, parts: list[Array]) -> Array:
        """Scores of one row of tokens that were made in parts."""
        whole: Array = self._np.concatenate(parts)
        return whole

    def runs(self, scores: Array, row: Sequence[Token]) -> list[Run]:
        """Where tokens are searched together: those in a row that are not surely O, of one line, `RUN` of them or
        `WIDTH` characters at most. `row` are the tokens that `scores` are of."""
        leads = (scores[:, 0] - scores[:, 1:].max(1)).tolist()
        out: list[Run] = []
        start, lowest = -1, 0.0
        for number, (lead, token) in enumerate(zip(leads, row, strict=True)):
            is_open = lead < self.sure
            if start >= 0:
                is_full = number - start == RUN or token.start - row[start].start >= WIDTH
                if is_full or not is_open or token.gap == 2:
                    out.append(Run(start, number, lowest, is_full))
                    start = -1
            if is_open:
                if start < 0:
                    start, lowest = number, lead
                elif lead < lowest:
                    lowest = lead
        if start >= 0:
            out.append(Run(start, len(leads), lowest, len(leads) - start == RUN))
        return out

    def is_empty(self, run: Run) -> bool:
        """Whether O is the best for each of its tokens: it leads for all, and no step is worth more than from O to O."""
        return run.lowest > 0 and self._plain_steps

    def path(self, scores: Array, goes_on: bool = False) -> list[int]:
        """The best row of tags behind O, and before O if it `goes_on` (Viterbi)."""
        between = self.between.tolist()
        steps = scores.tolist()
        best = [a + b for a, b in zip(between[0], steps[0], strict=True)]
        back: list[list[int]] = []
        for row in steps[1:]:
            came, after = [], []
            for tag, score in enumerate(row):
                top, source = -1e30, 0
                for before in _BEFORE[tag]:
                    value = best[before] + between[before][tag]
                    if value > top:
                        top, source = value, before
                came.append(source)
                after.append(top + score)
            back.append(came)
            best = after
        if goes_on:
            best = [value + between[tag][0] for tag, value in enumerate(best)]
        tag = best.index(max(best))
        tags = [tag]
        for came in reversed(back):
            tag = came[tag]
            tags.append(tag)
        return tags[::-1]


_ASSIGN, _QUOTED, _ENDING = frozenset(":="), frozenset("\"'"), frozenset(",;|")
_BEFORE = tuple(
    tuple(b for b, one in enumerate(TAGS) if other[0] != "I" or one[2:] == other[2:]) for other in TAGS
)
"""Tags that may stand before each: no name begins inside."""
