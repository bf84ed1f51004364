"""The shape of a text: one ASCII byte for each character, enough to see where values may be.

Digits of all scripts are `0`, letters their base letter, blanks of all kinds a blank; so the grammar of segments
(`segments.py`) is written over 128 byte values, and its offsets count code points.
"""

from __future__ import annotations

import codecs
import unicodedata
from collections.abc import Callable
from functools import lru_cache
from typing import Any

OTHER_BREAK = "\x01"
"""A character of a script that writes no blanks (Han, kana, Hangul, Thai, Lao, Khmer, Burmese) or its punctuation."""

INVISIBLE = "\x02"
"""A character that shows nothing: zero width, variation selector, soft hyphen, bidi control, combining joiner."""

OTHER = "\x03"
"""Anything else: symbols, emoji, combining marks, lone surrogates."""

_DASHES = "\u2010\u2011\u2012\u2013\u2014\u2015\u2212\u2043\u02d7\ufe58\ufe63\u058a\u05be"
_DOTS = "\u00b7\u2022\u2219\u22c5\u2024\u3002\uff61\u06d4\u0701"
_AT = "\ufe6b"

# First and last code points of the scripts without blanks, with their punctuation; fullwidth forms are not among
# them, they fold to ASCII.
_NO_BLANKS = (
    (0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1100, 0x11FF), (0x1780, 0x17FF), (0x2E80, 0x2FDF), (0x3001, 0x312F),
    (0x3130, 0x31FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xA960, 0xA97F), (0xAC00, 0xD7FF), (0xF900, 0xFAFF),
    (0x20000, 0x3FFFF),
)  # fmt: skip


def shape(text: str) -> bytes:
    """One byte for each code point of `text`."""
    return text.encode() if text.isascii() else to_ascii(text, _SHAPES, "llmshield-shape")


def fold(char: str) -> str:
    """The one ASCII character that a reader takes `char` for, "" for what nobody sees, else `char` itself."""
    return _fold(char)


@lru_cache(maxsize=65_536)
def _fold(char: str) -> str:
    if char < "\x80":
        return char
    if is_invisible(char):
        return ""
    if char in _DASHES:
        return "-"
    if char in _DOTS:
        return "."
    if char == _AT:
        return "@"
    digit = unicodedata.digit(char, None)
    if digit is not None:
        return str(digit)
    if char.isspace() or unicodedata.category(char) == "Zs":
        return "\n" if char in "\u2028\u2029\x85" else " "
    plain = unicodedata.normalize("NFKC", char)
    return plain if len(plain) == 1 and plain < "\x80" else char


def is_invisible(char: str) -> bool:
    """Whether a reader sees nothing of `char` and no blank either."""
    return unicodedata.category(char) == "Cf" or char in "\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0" or (
        "\ufe00" <= char <= "\ufe0f" or "\U000e0000" <= char <= "\U000e0fff"
    )  # fmt: skip


@lru_cache(maxsize=65_536)
def shape_of(char: str) -> str:
    """The one byte that `shape` puts for this character."""
    plain = _fold(char)
    if plain == "":
        return INVISIBLE
    if plain < "\x80":
        return "0" if plain.isdigit() else plain
    if "\ud800" <= char <= "\udfff":
        return OTHER
    code = ord(char)
    if any(first <= code <= last for first, last in _NO_BLANKS):
        return OTHER_BREAK
    if char.isalpha():
        base = unicodedata.normalize("NFKD", char)[0]
        if base < "\x80" and base.isalpha():
            return base
        return "s" if char == "ß" else ("A" if char.isupper() else "a")
    return "0" if char.isnumeric() else OTHER


_SLICE = 1 << 16
"""Characters that are encoded in one call, a few milliseconds: a call into C keeps all others waiting."""


class Ascii(dict[int, bytes]):
    """Code point -> the ASCII bytes that stand for it; what is not known yet is asked of `of`, and remembered."""

    def __init__(self, of: Callable[[str], str]) -> None:
        super().__init__((code, bytes((code,))) for code in range(128))
        self._of = of

    def __missing__(self, code: int) -> bytes:
        made = self._of(chr(code)).encode("ascii")
        if len(self) < 65_536:
            self[code] = made
        return made


def to_ascii(text: str, table: Ascii, handler: str) -> bytes:
    """A text in other characters than ASCII, encoded by the table or by the error handler that does the same.

    The handler costs a microsecond for each run of other characters and nothing for the rest, the table a twentieth
    of that for every character: an English text with a dash in it is for the one, a French or Russian one for the other.
    """
    if len(text) > _SLICE:  # the loop and other threads want their turn
        return b"".join(
            [to_ascii(text[at : at + _SLICE], table, handler) for at in range(0, len(text), _SLICE)]
        )
    if text.isascii():
        return text.encode()
    if (len(text.encode("utf-8", "surrogatepass")) - len(text)) * 32 < len(text):
        return text.encode("ascii", handler)
    mapping: Any = table  # typeshed knows code points to code points only
    return codecs.charmap_encode(text, "strict", mapping)[0]


_SHAPES = Ascii(shape_of)


def _replace(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    return "".join(map(shape_of, error.object[error.start : error.end])), error.end


codecs.register_error("llmshield-shape", _replace)
