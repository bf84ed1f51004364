"""What callers did before: how close their calls are, and whether what they send counts up or down.

Bounded: the `MOST` callers seen last, about 600 bytes each. Of a text its form stays (a hash of it without digits, random
in each process) and its numbers, never the text.
"""

from __future__ import annotations

import re
from collections import OrderedDict

from llmshield.call import Call

MOST = 20_000
"""Callers remembered: 12 MB."""

_LOOKED_AT = 1_000
"""Characters of a prompt that are compared."""
_NUMBERS = 32
"""Numbers of a text that are compared: a table is no sequence."""
_DIGITS = re.compile(r"([0-9]{1,15})")
_NAMES = ("x-request-id", "x-client-request-id")
"""Headers in which clients number their requests."""


class Histories:
    """The callers of one process."""

    def __init__(self, *, gap_s: float, calls: int, memory_s: float) -> None:
        self._gap_s = gap_s
        self._calls = calls
        self._memory_s = memory_s
        self._known: OrderedDict[str, History] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def of(self, caller: str, now: float) -> History:
        """This caller's history, with one more arrival; `now` in monotonic seconds."""
        known = self._known
        history = known.get(caller)
        if history is None or now - history.last_at > self._memory_s:
            history = known[caller] = History(self._calls)
        elif now - history.last_at < self._gap_s:
            history.fast_run += 1
        else:
            history.fast_run = 0
        history.last_at = now
        known.move_to_end(caller)
        if len(known) > MOST:
            known.popitem(last=False)
        return history


class History:
    """One caller."""

    __slots__ = ("_calls", "_series", "fast_run", "last_at")

    def __init__(self, calls: int) -> None:
        self._calls = calls
        self._series: dict[str, _Series] = {}
        self.last_at = 0.0
        self.fast_run = 0
        """Arrivals in a row that came within the gap of the one before."""

    def fast(self) -> float:
        """How strong the run of fast calls is, 0 to 1. The first few are nobody's fault: a page may ask for several
        things at once."""
        return _strength(self.fast_run + 1, self._calls)

    def sequential(self, call: Call) -> float:
        """How strong the longest run of rising or falling numbers is, 0 to 1, this call included."""
        longest = 0
        for name, text in _texts(call):
            series = self._series.get(name)
            if series is None:
                series = self._series[name] = _Series()
            longest = max(longest, series.add(text))
        return _strength(longest, self._calls)


class _Series:
    """Texts of one kind by one caller, one after the other."""

    __slots__ = ("_form", "_numbers", "_place", "_run", "_sign")

    def __init__(self) -> None:
        self._form = 0
        self._numbers: tuple[int, ...] = ()
        self._place = -1
        self._sign = 0
        self._run = 0

    def add(self, text: str) -> int:
        """How many texts in a row, this one included, differ in one number that moves in one direction."""
        parts = _DIGITS.split(text)
        numbers = tuple([int(digits) for digits in parts[1::2]]) if len(parts) <= 2 * _NUMBERS else ()
        form = hash(tuple(parts[::2]))
        before = self._numbers
        place = sign = -1
        if numbers and form == self._form and len(numbers) == len(before):
            moved = [at for at, number in enumerate(numbers) if number != before[at]]
            if len(moved) == 1:
                place = moved[0]
                sign = 1 if numbers[place] > before[place] else 0
        if place < 0:
            self._run = 1 if numbers else 0
        elif self._run > 1 and (place, sign) != (self._place, self._sign):
            self._run = 2  # these two may begin another sequence
        else:
            self._run += 1
        self._form, self._numbers, self._place, self._sign = form, numbers, place, sign
        return self._run


def _texts(call: Call) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    prompt = ""
    for text in call.prompts("user"):
        prompt = text.value
    if prompt:
        found.append(("prompt", prompt[:_LOOKED_AT]))
    user = call.body.get("user") if isinstance(call.body, dict) else None
    if isinstance(user, str):
        found.append(("user", user[:200]))
    found += [(name, call.headers[name][:200]) for name in _NAMES if name in call.headers]
    return found


def _strength(run: int, calls: int) -> float:
    """0 for two in a row, 1 for `calls`."""
    return min(1.0, max(0, run - 2) / (calls - 2))
