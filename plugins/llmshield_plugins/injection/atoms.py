"""The literals in a pattern: the words that signatures know, read off them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

# This reads our own patterns at load, never a user's text. An escape, a class, a quantifier that makes the letter before it optional, what opens a group, or a run of letters.
_TOKEN: Final = re.compile(
    r"\\x[0-9a-f]{2}|\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\(\?[a-z-]*:|.(?:[?*]|\{0[0-9,]*\})|\{[0-9,]*\}|."
)


@lru_cache(maxsize=1_024)
def literals(source: str) -> frozenset[str]:
    """Every run of letters and digits in a pattern, in lower case; a letter that may be left out ends a run."""
    found: list[str] = [""]
    for match in _TOKEN.finditer(source.lower()):
        token = match.group()
        if len(token) == 1 and token.isalnum():
            found[-1] += token
        else:
            found.append("")
    return frozenset(filter(None, found))


def shortest(words: Iterable[str]) -> list[str]:
    """The words that hold no other of the words, sorted: a search for them finds a place of each."""
    kept: set[str] = set()
    for word in sorted(set(words), key=len):
        size = len(word)
        if kept.isdisjoint({word[i:j] for i in range(size) for j in range(i + 1, size + 1)}):
            kept.add(word)
    return sorted(kept)
