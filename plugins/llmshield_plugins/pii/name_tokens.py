"""Tokens of a text as the names model sees them: words, numbers, signs, and what each looks like by itself."""

from __future__ import annotations

import re
import unicodedata
from typing import NamedTuple
from zlib import crc32

_TOKEN = re.compile(r"[^\W\d_]{1,48}(?:['’](?![sS]\b)[^\W\d_]{1,48}){0,2}|\d{1,48}|[^\w\s]|_|\s{64}")
"""`O'Neill` is one word, `Nora's` is `Nora` and more. Bounded, so that a stream need not wait for the end of what is no word; so are blanks."""


class Token(NamedTuple):
    """A word, a number or a sign; `gap`: 0 nothing, 1 a blank, 2 a line break before it."""

    word: str
    start: int
    end: int
    gap: int


def tokens(text: str) -> list[Token]:
    """The tokens of a text."""
    out: list[Token] = []
    end = 0
    for match in _TOKEN.finditer(text):
        start = match.start()
        gap = 0 if end == start else 2 if "\n" in text[end:start] else 1
        if not end:
            gap = 2
        end = match.end()
        out.append(Token(match.group(), start, end, gap))
    return out


def fold(word: str) -> str:
    """A word in small letters without accents."""
    low = word.replace("’", "'").lower()
    return (
        low
        if low.isascii()
        else "".join(c for c in unicodedata.normalize("NFKD", low) if not unicodedata.combining(c))
    )


def crc(word: str) -> int:
    """The number that stands for a folded word in lists."""
    return crc32(word.encode("utf-8", "surrogatepass"))


def listed(name: str) -> list[int]:
    """The numbers under which a list holds the words of a name."""
    return [crc(fold(word)) for word in _TOKEN.findall(name)]


def shape(word: str) -> str:
    """What a word looks like: `Xx`, `XX`, `999`."""
    if word.isdigit():
        return "9" * min(len(word), 5)
    if not word[0].isalnum():
        return word
    if word.islower():
        return "x" if len(word) > 1 else "y"
    if word.isupper():
        return "X" if len(word) > 3 else "XX" if len(word) > 1 else "A"
    if word[0].isupper() and word[1:].islower():
        return "Xx"
    return "xX" if word[0].islower() else "XxX"
