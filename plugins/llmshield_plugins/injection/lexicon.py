"""Where the blanks were: words found again in letters that were glued or spaced out.

`lexicon.txt` lists some thousand everyday words, the most frequent first (made by scripts/train_injection.py).
`split` finds the likeliest cut of a run of letters into such words; what is no word stays together.
"""

from __future__ import annotations

from functools import cache
from math import log
from pathlib import Path
from typing import Final

# A run longer than this is cut in pieces of it: a word lost at a border, and no table of a megabyte.
_CHUNK: Final = 4_000
# What one letter outside any word costs; the rarest word of 4,000 costs 8.3.
_UNKNOWN: Final = 5.0


@cache
def by_frequency() -> tuple[str, ...]:
    """The everyday words, the most frequent first."""
    return tuple((Path(__file__).parent / "lexicon.txt").read_text(encoding="ascii").split())


@cache
def _words() -> tuple[dict[str, float], frozenset[str]]:
    words = by_frequency()
    costs = {word: log(rank + 10) for rank, word in enumerate(words)}
    prefixes = frozenset(word[:end] for word in words for end in range(1, len(word) + 1))
    return costs, prefixes


def is_everyday(word: str) -> bool:
    """Whether a word is listed, in any case."""
    return word.lower() in _words()[0]


def split(run: str) -> str:
    """The run of letters with blanks between its words, in lower case."""
    run = run.lower()
    return " ".join(_split(run[start : start + _CHUNK]) for start in range(0, len(run), _CHUNK))


def _split(run: str) -> str:
    costs, prefixes = _words()
    size = len(run)
    best = [0.0] + [float("inf")] * size
    came = [0] * (size + 1)
    for start in range(size):
        here = best[start]
        if here + _UNKNOWN < best[start + 1]:
            best[start + 1] = here + _UNKNOWN
            came[start + 1] = start
        end = start + 1
        while end <= size and run[start:end] in prefixes:
            cost = costs.get(run[start:end])
            if cost is not None and here + cost < best[end]:
                best[end] = here + cost
                came[end] = start
            end += 1
    parts: list[str] = []
    end = size
    while end > 0:
        parts.append(run[came[end] : end])
        end = came[end]
    parts.reverse()
    # Letters that are in no word stand together.
    out: list[str] = []
    loose = False
    for part in parts:
        known = part in costs
        if out and not known and loose:
            out[-1] += part
        else:
            out.append(part)
        loose = not known
    return " ".join(out)
