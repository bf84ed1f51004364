"""How fast targets have been lately: time to the first token, and tokens per second from there on."""

from __future__ import annotations

from dataclasses import dataclass

from llmshield.call import Attempt, Call
from llmshield.verdicts import Target

_WEIGHT = 0.2
"""Of the newest figure in the mean: five calls make up two thirds of it."""
TYPICAL_TOKENS = 300
"""Length of an answer by which targets are compared."""
_LIMIT = 1024
_HISTORY = 64
_LEAST = 10
"""Measurements without which nothing is said about shares."""


@dataclass(slots=True)
class Pace:
    """Means of one target, in seconds and tokens per second; `tries` counts what they are made of."""

    first_s: float = 0.0
    per_s: float = 0.0
    tries: int = 0

    @property
    def expected_s(self) -> float:
        """Seconds that an answer of typical length takes."""
        return self.first_s + (TYPICAL_TOKENS / self.per_s if self.per_s else 0.0)


_Key = tuple[str, str, bool]


class Statistics:
    """Rolling figures of every target that was asked, in this process. Streams and whole answers are kept apart: a
    whole one begins when it is complete."""

    def __init__(self) -> None:
        self._paces: dict[_Key, Pace] = {}
        self._firsts: dict[_Key, list[float]] = {}

    def note(self, attempt: Attempt) -> None:
        """A try has answered."""
        if attempt.first_token_at is None or attempt.ended_at is None:
            return
        key = (attempt.provider, attempt.model, attempt.call.stream)
        pace = self._paces.get(key)
        if pace is None:
            if len(self._paces) >= _LIMIT:
                return
            pace = self._paces[key] = Pace()
        first_s = attempt.first_token_at - attempt.started_at
        rest_s = attempt.ended_at - attempt.first_token_at
        output = attempt.usage.output if attempt.usage is not None else None
        weight = _WEIGHT if pace.tries else 1.0
        pace.first_s += weight * (first_s - pace.first_s)
        if output and rest_s > 0.001 and attempt.call.stream:
            per_s = output / rest_s
            pace.per_s += (_WEIGHT if pace.per_s else 1.0) * (per_s - pace.per_s)
        pace.tries += 1
        firsts = self._firsts.setdefault(key, [])
        firsts.append(first_s)
        if len(firsts) > _HISTORY:
            del firsts[0]

    def pace(self, target: Target, call: Call) -> Pace | None:
        """What is known of a target that this call would ask."""
        return self._paces.get((target.provider, target.model or call.model, call.stream))

    def first_token_s(self, target: Target, call: Call, share: float) -> float | None:
        """The time within which this share of its answers to such calls began; None before there are ten."""
        firsts = self._firsts.get((target.provider, target.model or call.model, call.stream), ())
        if len(firsts) < _LEAST:
            return None
        return sorted(firsts)[min(len(firsts) - 1, int(len(firsts) * share))]
