"""Text that a person does not see and a model reads: tag characters, variation selectors, zero-width bits, bidi.

All of it lives outside ASCII, so a plain text never comes here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import re2

from .escapes import utf8
from .matches import finditer
from .view import Piece

_TAGS: Final = re2.compile("[\U000e0020-\U000e007e]{4,}")
# Selectors 1-16 and 17-256 number the bytes 0-15 and 16-255: a text rides on one emoji.
_SELECTORS: Final = re2.compile("[\ufe00-\ufe0f\U000e0100-\U000e01ef]{4,}")
_BITS: Final = re2.compile("[\u200b-\u200f\u2060-\u2064\ufeff\u180e]{24,}")
_OVERRIDE: Final = re2.compile("[\u202d\u202e\u2066-\u2068]([^\u202c\u2069\n]+)[\u202c\u2069]?")
_BIDI: Final = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f\u061c"


def tags(text: str) -> Iterator[Piece]:
    """ASCII written in the invisible characters U+E0020 to U+E007E."""
    for match in finditer(_TAGS, text):
        yield Piece("".join(chr(ord(c) - 0xE0000) for c in match.group()), match.start(), match.end())


def selectors(text: str) -> Iterator[Piece]:
    """Bytes written as variation selectors after an emoji."""
    for match in finditer(_SELECTORS, text):
        raw = bytes(ord(c) - 0xFE00 if c <= "\ufe0f" else ord(c) - 0xE0100 + 16 for c in match.group())
        yield Piece(utf8(raw), match.start(), match.end())


def bits(text: str) -> Iterator[Piece]:
    """Bytes written with two invisible characters as 0 and 1, most significant bit first, either way round."""
    for match in finditer(_BITS, text):
        run: str = match.group()
        kinds = sorted(set(run))
        if len(kinds) == 2:
            zero, one = kinds
            for first, second in ((zero, one), (one, zero)):
                digits = run.translate({ord(first): "0", ord(second): "1"})
                digits = digits[: len(digits) // 8 * 8]
                raw = int(digits, 2).to_bytes(len(digits) // 8, "big")
                if all(0x20 <= b < 0x7F or b in b"\n\r\t" for b in raw):
                    yield Piece(raw.decode("ascii"), match.start(), match.end())
                    break


def bidi(text: str) -> Iterator[Piece]:
    """What stands between a right-to-left override and its end, in the order in which it is displayed."""
    drop = dict.fromkeys(map(ord, _BIDI))
    for match in finditer(_OVERRIDE, text):
        yield Piece(match.group(1)[::-1].translate(drop), match.start(), match.end())


HIDDEN: Final = (("tags", tags), ("selectors", selectors), ("bits", bits), ("bidi", bidi))
