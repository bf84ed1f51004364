"""Stretches of a text: the worst of them, wherever it begins, for what one takes that is judged as a whole.

And runs: sentences, lines, cells or values that follow each other. What somebody wraps into a page or a file is such a
run, and its sum is what it would be alone, whatever stands around it.

A stretch's sum counts each n-gram once. That is slow, so first the sums of all stretches are had with repetitions, from one
running sum; only those that come near what is asked for are counted in full, and those in which much is repeated.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator
from functools import cached_property
from itertools import accumulate, pairwise, repeat
from math import inf, log
from operator import add, sub
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from .learned import Model

WINDOW: Final = 96
"""Words that are judged as a whole."""
GRID: Final = 8
"""Stretches begin at every eighth word."""
LENGTHS: Final = (24, 48, 96)
RUN: Final = 0
"""Among lengths: a run of whole sentences."""
RUN_MAX: Final = 64
"""Words of a run, if it is more than one sentence: whole pages that sound somewhat alarming are no order."""
END: Final = b"."
"""What stands between sentences, and at both ends of a text."""

# Thousandths that repetitions take from the sum of a stretch, unless one word makes up so many of 48.
_SLACK: Final = 700
_REPEATS, _OFTEN = 48, 6
_AT_ONCE: Final = 16_384


class Variety(NamedTuple):
    """How much there is in a text, in words, what it says again left out: for stretches, and for runs of sentences."""

    stretches: int = 0
    told: int = 0


def summed(parts: list[bytes], model: Model) -> int:
    """The sum over the n-grams of some words, each counted once; thousandths."""
    words, pairs = model.words, model.pairs
    return sum(map(words.__getitem__, words.keys() & parts)) + sum(
        map(pairs.__getitem__, pairs.keys() & pairwise(parts))
    )


def reached(model: Model, length: int, variety: int) -> float:
    """What stretches of so many words hardly ever reach in an honest text of a variety; no less than a text has to."""
    a, b = model.reach[length]
    return max(model.block - model.bias, a + b * log(variety))


def _short_run(ends: list[int], sums: list[int]) -> tuple[int, int]:
    """The run with the highest sum among those of at most `RUN_MAX` words, or of one sentence."""
    best: tuple[float, int, int] = (-inf, 0, 1)
    lows: deque[int] = deque()  # where a run may begin, sums rising
    for last in range(1, len(ends)):
        while lows and sums[lows[-1]] >= sums[last - 1]:
            lows.pop()
        lows.append(last - 1)
        while len(lows) > 1 and ends[last] - ends[lows[0]] > RUN_MAX:
            lows.popleft()
        best = max(best, (sums[last] - sums[lows[0]], lows[0], last))
    return best[1:]


def _pieces(parts: list[bytes]) -> Iterator[tuple[list[bytes], list[bytes]]]:
    """The words in order, and after each the next one, an empty one after the last: so many at once that other threads
    get their turn between; what runs in C over a million words holds them all up."""
    for at in range(0, len(parts), _AT_ONCE):
        yield parts[at : at + _AT_ONCE], [*parts[at + 1 : at + _AT_ONCE + 1], b""]


class Sums:
    """The stretches of a text."""

    def __init__(self, parts: list[bytes], model: Model) -> None:
        self._parts = parts
        self._model = model
        running = [0]
        for some, after in _pieces(parts):
            values = map(
                add,
                map(model.words.get, some, repeat(0)),
                map(model.pairs.get, zip(some, after, strict=False), repeat(0)),
            )
            running += accumulate(values, initial=running.pop())
        self._running = running

    @cached_property
    def _short(self) -> list[int]:
        return self._of(LENGTHS[0])

    @cached_property
    def variety(self) -> int:
        """Different stretches, in words."""
        return max(WINDOW, GRID * len(set(self._short)))

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

    def run(self, wanted: float = -inf) -> tuple[int, int, int]:
        """The worst run of whole sentences: its sum, each n-gram once, and its words, with the ends on both sides.

        Below `wanted` (thousandths) it may be another than the worst.
        """
        ends = self._ends()
        if len(ends) < 2:
            return summed(self._parts, self._model), 0, len(self._parts)
        rough, found = self._worst_run(ends, list(map(self._running.__getitem__, ends)))
        if rough - found[0] > _SLACK and rough >= wanted:
            # What is said again was counted again: a refrain must not outdo what is said once.
            once = [self._once(begin, end)[0] for begin, end in pairwise(ends)]
            found = max(found, self._worst_run(ends, list(accumulate(once, initial=0)))[1])
        return found

    def _worst_run(self, ends: list[int], sums: list[int]) -> tuple[int, tuple[int, int, int]]:
        """The worst run by running sums at the ends, and what it has when each n-gram counts once."""
        lowest = list(accumulate(sums, min))
        above = list(map(sub, sums[1:], lowest))
        last = above.index(max(above)) + 1
        first = sums.index(lowest[last - 1])
        if ends[last] - ends[first] > RUN_MAX:
            first, last = _short_run(ends, sums)
        alone = list(map(sub, sums[1:], sums))
        worst = alone.index(max(alone))
        # One sentence may be worse than a run in which something comes twice.
        run, sentence = self._once(ends[first], ends[last]), self._once(ends[worst], ends[worst + 1])
        return sums[last] - sums[first], max(run, sentence)

    def _once(self, begin: int, end: int) -> tuple[int, int, int]:
        return summed(self._parts[begin : end + 1], self._model), begin, end + 1

    def told(self) -> int:
        """Different pairs of neighbours, numbers left out: the words of a text, what it says again not counted."""
        told = [word for word in self._parts if not word.isdigit()]
        different = set[tuple[bytes, bytes]]()
        for some, after in _pieces(told):
            different.update(zip(some, after, strict=False))
        return max(0, len(different) - 1)  # the last word has no neighbour

    def _ends(self) -> list[int]:
        find, at, ends = self._parts.index, -1, list[int]()
        for _ in range(self._parts.count(END)):
            at = find(END, at + 1)
            ends.append(at)
        return ends

    def worst(self, variety: int, needed: float) -> tuple[float, int, int] | None:
        """The margin of the worst stretch over what honest texts reach, and its words; None if that is below `needed`."""
        parts, model = self._parts, self._model
        found: tuple[float, int, int] | None = None
        if len(parts) > WINDOW:
            # At the end stretches are shorter, and so they are at the beginning, or what comes first would be more diluted.
            point = reached(model, LENGTHS[0], variety)
            for last in range(GRID, LENGTHS[0], GRID):
                margin = summed(parts[:last], model) / 1000 - point
                if margin >= needed:
                    needed, found = margin, (margin, 0, last)
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
