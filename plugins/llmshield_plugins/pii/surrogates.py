"""Putting values back where a model wrote their surrogates, in an answer that arrives in pieces.

A surrogate is found in any case, as a word of its own: `192.0.2.10` is not the surrogate `192.0.2.1` and a digit. What
can't become one of this call's surrogates is not held back.
"""

from __future__ import annotations

import re2

from llmshield_plugins.pii.expressions import readable


class Surrogates:
    """What was put in the place of values in one call; `originals`: surrogate, case-folded -> value."""

    __slots__ = ("_begun", "_found", "_values", "longest")

    def __init__(self, originals: dict[str, str]) -> None:
        self._values = originals
        names = sorted(originals, key=len, reverse=True)
        self.longest = len(names[0]) + 1
        """The most characters that wait for what follows: a whole one, until it is known to be no longer word."""
        self._found = re2.compile("(?i)" + "|".join(re2.escape(name) for name in names))
        self._begun = frozenset(name[:size] for name in names for size in range(1, len(name) + 1))

    def restorer(self) -> Restorer:
        """A filter for one channel."""
        return Restorer(self)

    def open_from(self, text: str) -> int:
        """From where on `text` may be the beginning of a surrogate, or one whose end is not sure."""
        for start in range(max(0, len(text) - self.longest + 1), len(text)):
            if text[start:].casefold() in self._begun:
                return start
        return len(text)

    def restored(self, text: str, before: str, after: str) -> str:
        """`text` with the values back; `before` and `after` are its neighbours, one character each, or nothing."""
        out: list[str] = []
        position = 0
        around = before + text + after
        shift = len(before)
        for match in self._found.finditer(readable(text)):
            start, end = match.span()
            if _joins(around[: start + shift][-1:], text[start]) or _joins(
                around[end + shift :][:1], text[end - 1]
            ):
                continue
            out += (text[position:start], self._values[match.group().casefold()])
            position = end
        return "".join([*out, text[position:]]) if out else text


class Restorer:
    """A TextFilter for one channel."""

    __slots__ = ("_before", "_held", "_of")

    def __init__(self, of: Surrogates) -> None:
        self._of = of
        self._held = ""
        self._before = ""

    def feed(self, text: str) -> str:
        """What can go out now."""
        text = self._held + text
        keep = self._of.open_from(text)
        return self._let_go(text, keep)

    def flush(self) -> str:
        """The rest."""
        return self._let_go(self._held, len(self._held))

    def _let_go(self, text: str, keep: int) -> str:
        ready, self._held = text[:keep], text[keep:]
        if not ready:
            return ""
        out = self._of.restored(ready, self._before, self._held[:1])
        self._before = ready[-1]
        return out


def _joins(neighbour: str, edge: str) -> bool:
    return neighbour.isalnum() and edge.isalnum()
