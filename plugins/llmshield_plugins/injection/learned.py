"""The trained scorer: a linear model over words and pairs of words, for what no signature names.

`learned.json` (made by scripts/train_injection.py) holds the n-grams that matter with their weights, two points
calibrated on the dev set, and nothing else. A text is cut into windows of 96 words, half overlapping, so that a
few lines in a long document count as much as alone; the score is that of the worst window. No Python loop runs per
character, and each window looks every n-gram up in one dict.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import islice, pairwise
from math import inf, log
from pathlib import Path
from typing import Any, Final, NamedTuple

import orjson

from .folds import PLAIN
from .lexicon import by_frequency
from .slices import SLICE, at_blanks

WINDOW: Final = 96
STEP: Final = 48
_FILE: Final = Path(__file__).parent / "learned.json"
# Ends of sentences and quotation marks are words of their own, since an order begins a sentence and a quotation is none;
# every other ASCII character that is neither letter nor digit parts words; capitals become small. Bytes, because a
# table for bytes is a hundred times faster than one for characters.
_ENDS: Final = frozenset(".!:;\n")
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
    """How much a text is like the attacks seen in training: 0..1, and the words of the worst window."""

    score: float
    first: int
    last: int


# How fast the score falls below the point of flagging.
_SLOPE: Final = 0.3
# Sums of the same weights in another order differ in the last digits.
_ROUNDING: Final = 1e-6
NOTHING: Final = Learned(0.0, 0, 0)


def words(text: str) -> list[bytes]:
    """The words of a text, folded and in lower case, as UTF-8; the first is the end of what was before."""
    if not text.isascii():
        text = PLAIN.apply(text)
    if len(text) <= SLICE:
        return _words(b". " + text.encode())
    parts = [b"."]
    for part in at_blanks(text):
        parts += _words(part.encode())
    return parts


def _words(raw: bytes) -> list[bytes]:
    raw = raw.translate(_PARTS).replace(b".", b" . ").replace(b"?", b" ? ")
    return (raw.replace(b'"', b' " ') if b'"' in raw else raw).split()


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


class _Model(NamedTuple):
    bias: float
    flag: float
    block: float
    words: dict[bytes, float]
    pairs: dict[tuple[bytes, ...], float]
    bounds: dict[bytes, float]


@cache
def _model() -> _Model:
    stored: dict[str, Any] = orjson.loads(_FILE.read_bytes())
    scale = stored["scale"]
    names = stored["ngrams"].encode().split(b"\n")
    weights = {name: weight / scale for name, weight in zip(names, stored["weights"], strict=True)}
    words = {name: weight for name, weight in weights.items() if b" " not in name}
    # Pairs as tuples: `pairwise` makes them, and a hash of two hashes is cheaper than a new string.
    pairs = {tuple(name.split(b" ")): weight for name, weight in weights.items() if b" " in name}
    return _Model(stored["bias"], stored["flag"], stored["block"], words, pairs, _bounds(weights))


def _bounds(weights: Mapping[bytes, float]) -> dict[bytes, float]:
    """For each word a number, so that no text has a score above the sum over its words.

    A word's own weight, and shares of pairs: the shares of both words of a pair are at least its weight. The rarer word
    bears all of it where it can, so that honest prose, full of frequent words, has a low sum: half of such texts are
    below the point of flagging by it, at a third of the cost of looking up their pairs.
    """
    pairs = sorted(
        ((weight, name.split(b" ")) for name, weight in weights.items() if weight > 0.0 and b" " in name),
        reverse=True,
    )
    ranks = {word.encode(): rank for rank, word in enumerate(by_frequency())}
    as_first: dict[bytes, float] = {}
    as_last: dict[bytes, float] = {}
    for weight, (first, last) in pairs:
        if ranks.get(first, inf) >= ranks.get(last, inf):
            as_first[first] = max(as_first.get(first, 0.0), weight - as_last.get(last, 0.0))
        else:
            as_last[last] = max(as_last.get(last, 0.0), weight - as_first.get(first, 0.0))
    # What the other word bears by now need not be borne twice.
    for _ in range(2):
        needed: dict[bytes, float] = {}
        for weight, (first, last) in pairs:
            needed[first] = max(needed.get(first, 0.0), weight - as_last.get(last, 0.0))
        as_first, needed = needed, {}
        for weight, (first, last) in pairs:
            needed[last] = max(needed.get(last, 0.0), weight - as_first[first])
        as_last = needed
    bounds = {name: weight for name, weight in weights.items() if b" " not in name}
    for share in (as_first, as_last):
        for word, weight in share.items():
            bounds[word] = bounds.get(word, 0.0) + weight
    return bounds


def load() -> None:
    """Read the model now rather than with the first text."""
    _model()


# The highest of many windows of an honest text is higher than that of a few; by how much, on the dev set.
_FOR_MANY: Final = 0.45
_WINDOW_LENGTH: Final = 6 * STEP


def allowance(length: int) -> float:
    """How much more has to be found in a text of so many characters than in one of a single window."""
    return _FOR_MANY * log(length / _WINDOW_LENGTH) if length > _WINDOW_LENGTH else 0.0


def rate(text: str, least: float = 0.0, length: int = 0) -> Learned:
    """Score a text: 0.60 at the point where flagging starts, 0.90 where blocking does.

    A score that is certain to be below `least` may be given as 0. `length` is that of the text that this one is a passage
    of, in characters: the longer it is, the more has to be found.
    """
    model = _model()
    flag, block = model.flag, model.block
    bias = model.bias - allowance(max(length, len(text)))
    parts = words(text)
    if len(parts) > WINDOW:
        worst, first, last = _worst_window(parts, model)
    else:
        if least > 0.0:
            bounds = model.bounds
            limit = flag + (min(least, 0.6) - 0.6) / _SLOPE - bias - _ROUNDING
            if sum(map(bounds.__getitem__, bounds.keys() & parts)) < limit:
                return NOTHING
        seen, pairs = model.words.keys() & parts, model.pairs.keys() & pairwise(parts)
        worst = sum(map(model.words.__getitem__, seen)) + sum(map(model.pairs.__getitem__, pairs))
        first, last = 0, len(parts)
    worst += bias
    if worst < flag:
        score = max(0.0, 0.6 + _SLOPE * (worst - flag))
    elif worst < block:
        score = 0.6 + 0.3 * (worst - flag) / (block - flag)
    else:
        score = min(0.99, 0.9 + 0.03 * (worst - block))
    return Learned(score, first, last)


def _worst_window(parts: list[bytes], model: _Model) -> tuple[float, int, int]:
    """The highest sum of a window's n-grams, each counted once, and where that window is.

    A window is two steps: the sum of both, less what stands in both.
    """
    words, word = model.words.keys(), model.words.__getitem__
    pairs, pair = model.pairs.keys(), model.pairs.__getitem__
    worst, first = -inf, 0
    last_words: set[bytes] = set()
    last_pairs: set[tuple[bytes, ...]] = set()
    last_sum = 0.0
    for at in range(0, len(parts), STEP):
        step = parts[at : at + STEP + 1]
        # The pair that leads out of a step is the step's.
        seen_pairs = pairs & pairwise(step)
        if len(step) > STEP:
            step.pop()
        seen_words = words & step
        total = sum(map(word, seen_words)) + sum(map(pair, seen_pairs))
        if at:
            both = total + last_sum
            both -= sum(map(word, last_words & seen_words)) + sum(map(pair, last_pairs & seen_pairs))
            if both > worst:
                worst, first = both, at - STEP
        last_words, last_pairs, last_sum = seen_words, seen_pairs, total
    return worst, first, min(first + WINDOW, len(parts))


_WORD: Final = re.compile(r'[.!:;\n?"]|[0-9A-Za-z\x80-\U0010ffff]+')


def place(text: str, first: int, last: int) -> tuple[int, int]:
    """Where the words `first` to `last` of a text stand, in characters of the text; roughly if it was folded."""
    # The first word is the end of what was before the text.
    found = islice(_WORD.finditer(text), max(0, first - 1), max(1, last - 1))
    start = next((match.start() for match in found), 0) if first else 0
    ended = next(islice(_WORD.finditer(text), max(0, last - 1), None), None)
    return start, len(text) if ended is None else ended.start()
