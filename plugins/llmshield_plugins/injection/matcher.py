"""Many patterns over one text: a few re2 Sets that together say which patterns are worth a closer look.

Measured on 870 ordinary texts: one Set of all 300 patterns takes 80-140 us per KB, because the states of its
automaton are the products of what every pattern waits for, and 100 MB of them miss every cache. Three things
bring that to a sixth: patterns that wait for different things live in different Sets (which also spares states: a text
that was never seen takes 0.1 us per character with one Set, 0.04 with six); "up to 80 characters"
becomes "any number" (the exact pattern is asked once the Set has matched); ASCII patterns are compiled for bytes,
not for Unicode.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple, cast

import re2

# Of one Set, patterns and automaton together. 4 MB are too little for ours, which re2 says at load, and make the automaton
# begin anew twice as often. Thousands of literals of the user's need more, and get it.
_MEMORY: Final = 12 << 20
_MEMORY_MAX: Final = 512 << 20
_PER_CHARACTER: Final = 128
# This reads our own patterns at load, never a user's text.
_BOUNDED: Final = re.compile(r"(\[\^\\n[^\]]*\]|\[\^<\]|\[\^\"\]|\.)\{\d+,\d{2,}\}")


class Pattern(NamedTuple):
    """A pattern and the group of patterns that share its Set."""

    source: str
    group: str


def loosened(source: str) -> str:
    """The pattern with its long bounded runs unbounded: it matches whatever the exact one matches."""
    return _BOUNDED.sub(r"\1*", source)


class Matcher:
    """The patterns as Sets, one for each group, one more for what is not ASCII (asked for such texts only).

    Raises: ValueError naming the index of a pattern that re2 refuses.
    """

    def __init__(self, patterns: Sequence[Pattern]) -> None:
        # Patterns in the group "any" are compiled for Unicode and asked of every text.
        groups: dict[str, list[int]] = {}
        for index, pattern in enumerate(patterns):
            group = pattern.group if pattern.group == "any" or pattern.source.isascii() else ""
            groups.setdefault(group, []).append(index)
        self._sets = [
            (
                group,
                _compiled(
                    [(i, patterns[i].source) for i in indices],
                    unicode=group in ("", "any"),
                ),
                indices,
            )
            for group, indices in groups.items()
        ]
        self._ascii = [(match, indices) for group, match, indices in self._sets if group]
        self._all = [(match, indices) for _, match, indices in self._sets]

    def without(self, *groups: str) -> Matcher:
        """The same patterns but for some groups; the Sets are shared."""
        made = Matcher(())
        made._sets = [entry for entry in self._sets if entry[0] not in groups]
        made._ascii = [(match, indices) for group, match, indices in made._sets if group]
        made._all = [(match, indices) for _, match, indices in made._sets]
        return made

    def match(self, text: str) -> list[int]:
        """The indices of patterns that may match; the exact pattern decides."""
        raw = text.encode()
        found: list[int] = []
        for match, indices in self._ascii if len(raw) == len(text) else self._all:
            hits = match(raw)
            if hits:
                found += [indices[hit] for hit in hits]
        return found


def _compiled(patterns: Sequence[tuple[int, str]], *, unicode: bool) -> Callable[[bytes], list[int] | None]:
    """The Set's `Match`, with as much memory as it takes."""
    # Each try costs as much as the last one: begin with what long sources are known to take.
    size = sum(len(source) for _, source in patterns)
    memory = max(_MEMORY, min(_MEMORY_MAX, _PER_CHARACTER * size))
    while True:
        options = re2.Options()
        options.max_mem = memory
        options.case_sensitive = False
        options.log_errors = False
        if not unicode:
            options.encoding = re2.Options.Encoding.LATIN1
        made = re2.Set.SearchSet(options)
        for index, source in patterns:
            try:
                made.Add(loosened(source).encode("utf-8" if unicode else "latin-1"))
            except re2.error as error:
                raise ValueError(f"pattern {index} is no re2 expression") from error
        try:
            made.Compile()
        except re2.error as error:
            if memory >= _MEMORY_MAX:
                raise ValueError(
                    f"these patterns need more than {memory >> 20} MB; leave some out"
                ) from error
            memory *= 4
        else:
            # The Set in C: the wrapper around it adds a tenth to the half microsecond that asking a Set costs.
            inner: Any = getattr(made, "_set", made)
            return cast("Callable[[bytes], list[int] | None]", inner.Match)
