"""The trained scorer: a linear model over words and pairs of words, for what no signature names.

`learned.json` (made by scripts/train_injection.py) holds the n-grams that matter with their weights, two points
calibrated on the dev set, and what the worst stretches of honest texts reach. A text of one window is judged as a whole;
of a longer one stretches of 24, 48 and 96 words are, wherever they begin, so that a line in a document counts nearly as much
as alone. How nearly depends on how many different stretches there are: the worst of a book is worse than that of a page,
and a page that says the same again and again is as a single line. No Python loop runs per character.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import islice, pairwise
from math import inf
from pathlib import Path
from typing import Any, Final, NamedTuple

import orjson

from .folds import PLAIN
from .lexicon import by_frequency
from .slices import SLICE, at_blanks
from .stretches import END, RUN, WINDOW, Sums, Variety, reached, summed

STEP: Final = 48
_FILE: Final = Path(__file__).parent / "learned.json"
# Ends of sentences, lines, cells, tags and values, and quotation marks, are words of their own, since an order begins a
# sentence and a quotation is none; every other ASCII character that is neither letter nor digit parts words; capitals
# become small. Bytes, because a table for bytes is a hundred times faster than one for characters.
_ENDS: Final = frozenset(".!:;\n\t<>{}|=")
_MARKS: Final = _ENDS | {"?", '"'}
_PARTS: Final = bytes(
    code
    if code > 127
    else ord(".")
    if chr(code) in _ENDS
    else ord(chr(code).lower())
    if chr(code).isalnum() or chr(code) in _MARKS
    else 32
    for code in range(256)
)


class Learned(NamedTuple):
    """How much a text is like the attacks seen in training: 0..1, and which of its words are most, ends not counted."""

    score: float
    first: int
    last: int


# "Stop", "continue", "who are you": so few words alone are no order to drop others, whatever they weigh.
_FEW: Final = 4
_OF_FEW: Final = 0.55
# How fast the score falls below the point of flagging.
_SLOPE: Final = 0.4
NOTHING: Final = Learned(0.0, 0, 0)


def words(text: str) -> list[bytes]:
    """The words of a text, folded and in lower case, as UTF-8; an end of a sentence comes first and last."""
    if not text.isascii():
        text = PLAIN.apply(text)
    parts: list[bytes] = [END]
    left = b""
    long = False
    for part in (text,) if len(text) <= SLICE else at_blanks(text):
        *pieces, left = (left + _marked(part.encode())).split(END)
        long = _add(parts, pieces, long=long)
    _add(parts, [left], long=long)
    parts.append(END)
    return parts


# A cell, a key or a line of fewer words is no sentence, and where several follow each other, as in a table or a list of
# words, nothing ends and nothing begins.
_SAYING: Final = 3


def _add(parts: list[bytes], pieces: list[bytes], *, long: bool) -> bool:
    """Add what stands between ends, with ends between; whether the last of it is a sentence."""
    for piece in pieces:
        said = piece.split()
        if said:
            before, long = long, len(said) >= _SAYING
            if (before or long) and len(parts) > 1:
                parts.append(END)
            parts += said
    return long


# Quotation marks of JSON, CSV and programs hold values and quote nobody; comments, links and arguments are texts of
# their own as well.
_VALUES: Final = (
    b'": "', b'":"', b'", "', b'","', b'": ', b'":', b': "', b'{"', b'["', b'"}', b'"]', b',"', b'="', b'= "', b'">',
    b'",', b'";', b'"\n', b'\\"',
)  # fmt: skip
_BORDERS: Final = (b"](", b"--", b"# ")


def _marked(raw: bytes) -> bytes:
    """Bytes with letters, digits, blanks and marks only."""
    if b'"' in raw:
        for value in _VALUES:
            raw = raw.replace(value, b". ")
    for border in _BORDERS:
        raw = raw.replace(border, b". ")
    raw = raw.translate(_PARTS).replace(b"?", b" ?.")
    return raw.replace(b'"', b' " ') if b'"' in raw else raw


def windows(parts: list[bytes]) -> Iterator[tuple[int, list[bytes]]]:
    """The windows of a text, each with the index of its first word."""
    if len(parts) <= WINDOW:
        yield 0, parts
        return
    for start in range(0, len(parts) - STEP, STEP):
        yield start, parts[start : start + WINDOW]


def ngrams(window: list[bytes]) -> set[bytes]:
    """What the model sees of a window: its words and pairs of neighbours, each once."""
    seen = set(window)
    seen.update(map(b" ".join, pairwise(window)))
    return seen


class Model(NamedTuple):
    """What the file holds; weights in thousandths, so that sums are exact."""

    bias: float
    flag: float
    block: float
    reach: dict[int, tuple[float, float]]
    """By length of a stretch, `RUN` for runs of sentences: what honest texts reach, `a + b * log(words)`."""
    words: dict[bytes, int]
    pairs: dict[tuple[bytes, ...], int]
    bounds: dict[bytes, int]
    burdens: dict[bytes, int]
    """Those bounds that are above 0."""


@cache
def _model() -> Model:
    stored: dict[str, Any] = orjson.loads(_FILE.read_bytes())
    return made(stored)


def made(stored: Mapping[str, Any]) -> Model:
    """The model as the file holds it."""
    weights = dict(zip(stored["ngrams"].encode().split(b"\n"), stored["weights"], strict=True))
    words = {name: weight for name, weight in weights.items() if b" " not in name}
    # Pairs as tuples: `pairwise` makes them, and a hash of two hashes is cheaper than a new string.
    pairs = {tuple(name.split(b" ")): weight for name, weight in weights.items() if b" " in name}
    reach = {int(length): (float(a), float(b)) for length, (a, b) in stored.get("reach", {}).items()}
    bounds = _bounds(weights)
    return Model(
        stored["bias"],
        stored.get("flag", 0.0),
        stored.get("block", 1.0),
        reach,
        words,
        pairs,
        bounds,
        {word: bound for word, bound in bounds.items() if bound > 0},
    )


def _bounds(weights: Mapping[bytes, int]) -> dict[bytes, int]:
    """For each word a number, so that no text has a score above the sum over its words.

    A word's own weight, and shares of pairs: the shares of both words of a pair are at least its weight. The rarer word
    bears all of it where it can, so that honest prose, full of frequent words, has a low sum: half of such texts are
    below the point of flagging by it, at a third of the cost of looking up their pairs.
    """
    pairs = sorted(
        ((weight, name.split(b" ")) for name, weight in weights.items() if weight > 0 and b" " in name),
        reverse=True,
    )
    ranks = {word.encode(): rank for rank, word in enumerate(by_frequency())}
    as_first: dict[bytes, int] = {}
    as_last: dict[bytes, int] = {}
    for weight, (first, last) in pairs:
        if ranks.get(first, inf) >= ranks.get(last, inf):
            as_first[first] = max(as_first.get(first, 0), weight - as_last.get(last, 0))
        else:
            as_last[last] = max(as_last.get(last, 0), weight - as_first.get(first, 0))
    # What the other word bears by now need not be borne twice.
    for _ in range(2):
        needed: dict[bytes, int] = {}
        for weight, (first, last) in pairs:
            needed[first] = max(needed.get(first, 0), weight - as_last.get(last, 0))
        as_first, needed = needed, {}
        for weight, (first, last) in pairs:
            needed[last] = max(needed.get(last, 0), weight - as_first[first])
        as_last = needed
    bounds = {name: weight for name, weight in weights.items() if b" " not in name}
    for share in (as_first, as_last):
        for word, weight in share.items():
            bounds[word] = bounds.get(word, 0) + weight
    return bounds


def load() -> None:
    """Read the model now rather than with the first text."""
    _model()


# A shorter text has no stretches.
SHORT: Final = 40
# Below the point of blocking a part of a text is worth less than a whole one: it is one of many.
_STEEPER: Final = 2.0


ALONE: Final = Variety()
"""A text that is no part of another."""


def variety(text: str) -> Variety:
    """The different stretches and sentences of a text: as many words as it has, or fewer if it repeats itself."""
    sums = Sums(words(text), _model())
    return Variety(sums.variety, sums.told())


def _of_part(margin: float) -> float:
    return margin if margin >= 0.0 else margin * _STEEPER


def _as_part(margin: float) -> float:
    return margin if margin >= 0.0 else margin / _STEEPER


def rate(text: str, least: float = 0.0, many: Variety = ALONE, *, beside: bool = False) -> Learned:
    """Score a text: 0.60 at the point where flagging starts, 0.90 where blocking does.

    A score that is certain to be below `least` may be given as 0. `many` is the variety of the text that this one is a part
    or a form of: the greater it is, the more has to be found.
    """
    model = _model()
    parts = words(text)
    between = model.block - model.flag
    # A margin is how far a sum is above the point of blocking.
    needed = -inf if least <= 0.0 else -between + (min(least, 0.6) - 0.6) / _SLOPE
    margin, first, last = -inf, 0, len(parts)
    alone = model.block - model.bias
    if len(parts) <= WINDOW:
        point = reached(model, WINDOW, many.stretches) if many.stretches > WINDOW else alone
        # A part of a text is at most what its words bear that bear something, and a part has to reach more.
        bounds = model.bounds if parts.count(END) <= 2 and len(parts) < SHORT else model.burdens
        if sum(map(bounds.__getitem__, bounds.keys() & parts)) < 1000 * (needed + point):
            return NOTHING
        margin = summed(parts, model) / 1000 - point
    sums = Sums(parts, model)
    wanted = max(margin, needed if beside else _as_part(needed))
    total, begin, end = sums.run(1000 * (alone + wanted))
    if total / 1000 - alone > wanted:
        point = reached(model, RUN, max(sums.told(), many.told, 1))
        part = total / 1000 - point
        if not beside or point > alone:
            part = _of_part(part)
        if part > margin:
            margin, first, last = part, begin, end
    if len(parts) >= SHORT:
        worst = sums.worst(max(many.stretches, sums.variety), _as_part(max(needed, margin)))
        if worst is not None:
            margin, first, last = _of_part(worst[0]), *worst[1:]
    if margin < needed:
        return NOTHING
    if margin >= 0.0:
        score = min(0.99, 0.9 + 0.03 * margin)
    elif margin >= -between:
        score = 0.9 + 0.3 * margin / between
    else:
        score = max(0.0, 0.6 + _SLOPE * (margin + between))
    begins, ends = _said(parts[:first]), _said(parts[:last])
    if ends - begins < _FEW and not beside:
        score = min(score, _OF_FEW)
    return Learned(score, begins, ends)


def _said(parts: list[bytes]) -> int:
    return len(parts) - sum(map(parts.count, (END, b"?", b'"')))


_WORD: Final = re.compile(r"[0-9A-Za-z\x80-\U0010ffff]+")


def place(text: str, first: int, last: int) -> tuple[int, int]:
    """Where the words `first` to `last` of a text stand, in characters of the text; roughly if it was folded."""
    start = next((match.start() for match in islice(_WORD.finditer(text), first, None)), 0) if first else 0
    ended = next(islice(_WORD.finditer(text), last, None), None)
    return start, len(text) if ended is None else ended.start()
