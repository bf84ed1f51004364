"""Stretches of a text: the worst of them, wherever it begins, for what one takes that is judged as a whole.

A stretch's sum counts each n-gram once. That is slow, so first the sums of all stretches are had with repetitions, from one
running sum; only those that come near what is asked for are counted in full, and those in which much is repeated.
"""

from __future__ import annotations

from collections import Counter
from itertools import accumulate, pairwise, repeat
from math import log
from operator import add, sub
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from .learned import Model

WINDOW: Final = 96
"""Words that are judged as a whole."""
GRID: Final = 8
"""Stretches begin at every eighth word."""
LENGTHS: Final = (24, 48, 96)

# Thousandths that repetitions take from the sum of a stretch, unless one word makes up so many of 48.
_SLACK: Final = 700
_REPEATS, _OFTEN = 48, 6


def summed(parts: list[bytes], model: Model) -> int:
    """The sum over the n-grams of some words, each counted once; thousandths."""
    words, pairs = model.words, model.pairs
    return sum(map(words.__getitem__, words.keys() & parts)) + sum(
        map(pairs.__getitem__, pairs.keys() & pairwise(parts))
    )


def passage(parts: list[bytes], model: Model) -> tuple[int, int, int]:
    """The worst run of whole sentences, lines or values: its sum, and its words. `parts` begin with an end of a sentence."""
    words, pairs = model.words, model.pairs
    running = lowest = best = 0
    first = begin = 0
    last = len(parts)
    for index, (word, follower) in enumerate(pairwise([*parts, b"."])):
        running += words.get(word, 0)
        if follower == b".":
            if running - lowest > best:
                best, first, last = running - lowest, begin, index + 1
            if running < lowest:
                lowest, begin = running, index + 1
        running += pairs.get((word, follower), 0)
    return summed(parts[first:last], model), first, last


def reached(model: Model, length: int, variety: int) -> float:
    """What stretches of so many words hardly ever reach in an honest text of a variety."""
    a, b = model.reach[length]
    return a + b * log(variety)


class Sums:
    """The stretches of a text."""

    def __init__(self, parts: list[bytes], model: Model) -> None:
        self._parts = parts
        self._model = model
        values = map(
            add,
            map(model.words.get, parts, repeat(0)),
            map(model.pairs.get, pairwise([*parts, b""]), repeat(0)),
        )
        self._running = list(accumulate(values, initial=0))
        self._short = self._of(LENGTHS[0])
        self.variety = max(WINDOW, GRID * len(set(self._short)))
        """Different stretches, in words."""

    def _of(self, length: int) -> list[int]:
        """The sums of the stretches of so many words, repetitions included; at the end of the text they are shorter."""
        running = self._running
        starts, ends = running[:-1:GRID], running[length::GRID]
        ends += [running[-1]] * (len(starts) - len(ends))
        return list(map(sub, ends, starts))

    def highest(self, length: int) -> float:
        """The highest sum of a stretch of so many words."""
        parts = self._parts
        return (
            max(summed(parts[at : at + length], self._model) for at in range(0, max(1, len(parts)), GRID))
            / 1000
        )

    def worst(self, variety: int, needed: float) -> tuple[float, int, int] | None:
        """The margin of the worst stretch over what honest texts reach, and its words; None if that is below `needed`."""
        parts, model = self._parts, self._model
        found: tuple[float, int, int] | None = None
        repeated = self._repeated()
        for length in LENGTHS:
            if length > WINDOW // 2 and len(parts) <= WINDOW:
                break
            point = reached(model, length, variety)
            sums = self._short if length == LENGTHS[0] else self._of(length)
            near = 1000 * (needed + point) - _SLACK
            chosen = [index for index, rough in enumerate(sums) if rough >= near] if max(sums) >= near else []
            for step, taken in repeated.items():
                first = max(0, step * _REPEATS - length) // GRID + 1
                for index in range(first, min(len(sums), (step + 1) * _REPEATS // GRID)):
                    # Of the steps that a stretch touches, all may be such.
                    last = (index * GRID + length - 1) // _REPEATS
                    more = taken + sum(repeated.get(other, 0) for other in range(step + 1, last + 1))
                    if near > sums[index] >= near - more:
                        chosen.append(index)
            seen: set[tuple[int, bytes]] = set()
            for index in chosen:
                start = index * GRID
                if (sums[index], parts[start]) in seen:
                    continue
                seen.add((sums[index], parts[start]))
                margin = summed(parts[start : start + length], model) / 1000 - point
                if margin >= needed:
                    needed = margin
                    found = margin, start, min(start + length, len(parts))
        return found

    def _repeated(self) -> dict[int, int]:
        """The steps of 48 words that repeat one of them a lot, and what all their repetitions take from a sum."""
        parts, model = self._parts, self._model
        found: dict[int, int] = {}
        for start in range(0, len(parts), _REPEATS):
            step = parts[start : start + _REPEATS]
            counted = Counter(step)
            counted[b"."] = 0  # has no weight, alone or twice
            if max(counted.values()) >= _OFTEN:
                taken = sum(
                    (count - 1) * max(0, -model.words.get(word, 0))
                    for word, count in counted.items()
                    if count > 1
                )
                pairs = Counter(pairwise(step))
                taken += sum(
                    (count - 1) * max(0, -model.pairs.get(pair, 0))
                    for pair, count in pairs.items()
                    if count > 1
                )
                if taken:
                    found[start // _REPEATS] = taken
        return found
