"""Alphabets that spell a text letter by letter: Morse, the spelling alphabet, Braille."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

import re2

from .matches import finditer
from .view import Piece

_MORSE: Final = re2.compile(r"(?:[.\-_]{1,6}[ /|\r\n]{1,4}){7,}[.\-_]{0,6}")
_MORSE_CODE: Final = dict(
    zip(
        (
            ".-", "-...", "-.-.", "-..", ".", "..-.", "--.", "....", "..", ".---", "-.-", ".-..", "--",
            "-.", "---", ".--.", "--.-", ".-.", "...", "-", "..-", "...-", ".--", "-..-", "-.--", "--..",
            "-----", ".----", "..---", "...--", "....-", ".....", "-....", "--...", "---..", "----.",
            ".-.-.-", "--..--", "..--..", "-....-", "-..-.", ".----.", "-.-.--",
        ),
        "abcdefghijklmnopqrstuvwxyz0123456789.,?-/'!",
        strict=True,
    )
)  # fmt: skip


def morse_text(text: str) -> Iterator[Piece]:
    """Morse: letters parted by blanks, words by a slash, a bar or a wider gap."""
    for match in finditer(_MORSE, text):
        run = match.group().replace("_", "-").replace("|", "/").replace("\n", "/").replace("\r", "")
        run = run.replace("   ", " / ").replace("  ", " / ")
        letters = [_MORSE_CODE.get(code, " ") for code in run.replace("/", " / ").split()]
        yield Piece("".join(letters), match.start(), match.end())


_NATO_WORDS: Final = (
    "alfa|alpha bravo charlie delta echo foxtrot golf hotel india juliett|juliet kilo lima mike november oscar papa "
    "quebec romeo sierra tango uniform victor whiskey|whisky xray|x-ray yankee zulu"
)
_NATO: Final = {
    word: chr(97 + index) for index, words in enumerate(_NATO_WORDS.split()) for word in words.split("|")
}
NATO_ANY: Final = "|".join(sorted(_NATO, key=len, reverse=True))
_NATO_RUN: Final = re2.compile(rf"(?i)(?:(?:{NATO_ANY}|space)[\s,./|_-]+){{6,}}(?:{NATO_ANY})?")
_NATO_ONE: Final = re2.compile(rf"(?i)({NATO_ANY}|space)([\s,./|_-]*)")


def nato_text(text: str) -> Iterator[Piece]:
    """The spelling alphabet; a line, a slash, a bar, a wide gap or the word "space" parts words."""
    for match in finditer(_NATO_RUN, text):
        letters: list[str] = []
        for part in finditer(_NATO_ONE, match.group()):
            letters.append(_NATO.get(part.group(1).lower(), " "))
            gap: str = part.group(2)
            if (len(gap) > 1 and not gap.startswith(",")) or gap in ("/", "|", "\n"):
                letters.append(" ")
        yield Piece("".join(letters), match.start(), match.end())


_POINTS: Final = re2.compile(r"(?i)(?:u\+[0-9a-f]{4,6}[\s,;]{0,3}){4,}")
_CALLS: Final = re2.compile(
    r"(?i)(?:(?:string\.)?(?:chr|char|chrw|unichr|fromcharcode)\([ ]?(?:0x[0-9a-f]{2,5}|[0-9]{2,6})[ ]?\)[\s+.&,|]{0,8}){4,}"
)
_CODE: Final = re2.compile(r"(?i)0x[0-9a-f]+|[0-9]+")


def points_text(text: str) -> Iterator[Piece]:
    """Code points as Unicode writes them, `U+0069 U+0067`."""
    for match in finditer(_POINTS, text):
        codes = match.group().upper().replace(",", " ").replace(";", " ").replace("U+", " ").split()
        yield Piece(_spelled(int(code, 16) for code in codes), match.start(), match.end())


def calls_text(text: str) -> Iterator[Piece]:
    """Characters as programs make them of numbers, `chr(105) + chr(0x67)`."""
    for match in finditer(_CALLS, text):
        codes = (code.group() for code in finditer(_CODE, match.group()))
        yield Piece(
            _spelled(int(code, 16 if code[1:2] in "xX" and code[1:2] else 10) for code in codes),
            match.start(),
            match.end(),
        )


def _spelled(codes: Iterable[int]) -> str:
    return "".join(chr(code) if code < 0xD800 or 0xE000 <= code < 0x110000 else " " for code in codes)


_DUMP: Final = re2.compile(
    r"(?m)(?:^[ \t]{0,8}[0-9A-Fa-f]{4,16}:?[ \t]{1,4}(?:[0-9A-Fa-f]{2}[ \t]{0,2}){2,32}(?:[ \t|][^\n]{0,60})?(?:\r?\n|$))+"
)
_DUMPED: Final = re2.compile(
    r"(?m)^[ \t]{0,8}[0-9A-Fa-f]{4,16}:?[ \t]{1,4}((?:[0-9A-Fa-f]{2} ?){1,8} ?(?:[0-9A-Fa-f]{2} ?){0,8})"
)


def dump_text(text: str) -> Iterator[Piece]:
    """What hexdump and xxd print: an offset, sixteen bytes and what they look like."""
    for match in finditer(_DUMP, text):
        pairs = "".join(line.group(1) for line in finditer(_DUMPED, match.group()))
        raw = bytes.fromhex("".join(pairs.split()))
        read = raw.decode("utf-8", "replace")
        if read.isprintable() or 20 * sum(map(str.isprintable, read)) > 17 * len(read):
            yield Piece(read, match.start(), match.end())


_BRAILLE: Final = re2.compile("[\u2800-\u28ff][\u2800-\u28ff \n]{6,}")
# Dots 1-6 are bits 0-5 of the code point's offset.
_BRAILLE_LETTERS: Final[dict[int, str]] = dict(
    zip(
        (0x01, 0x03, 0x09, 0x19, 0x11, 0x0B, 0x1B, 0x13, 0x0A, 0x1A, 0x05, 0x07, 0x0D, 0x1D, 0x15, 0x0F, 0x1F,
         0x17, 0x0E, 0x1E, 0x25, 0x27, 0x3A, 0x2D, 0x3D, 0x35),
        "abcdefghijklmnopqrstuvwxyz", strict=True,
    )
)  # fmt: skip


def braille_text(text: str) -> Iterator[Piece]:
    """Uncontracted Braille; the blank cell is a space."""
    for match in finditer(_BRAILLE, text):
        letters = (_BRAILLE_LETTERS.get(ord(c) - 0x2800, " ") if c >= "\u2800" else c for c in match.group())
        yield Piece("".join(letters), match.start(), match.end())
