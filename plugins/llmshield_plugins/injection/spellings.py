"""Spellings that a model undoes in its head: leet, spaced letters, mirror writing, turned letters, ciphers.

These read the text as a whole, one for one where possible. What makes them worth their cost is a trigger in the
text (a key word in that cipher), or that the text holds no everyday word of any language we know.
"""

from __future__ import annotations

import string
from collections import Counter
from collections.abc import Iterator
from typing import Final

import re2

from .lexicon import is_everyday, split
from .matches import finditer
from .slices import at_blanks
from .view import Piece

_LOWER: Final = string.ascii_lowercase
_UPPER: Final = string.ascii_uppercase

# Digits and marks as letters; "1" and "!" are i in the first reading, l in the second.
LEET: Final = str.maketrans("0134579@$!|+8", "oieastgasiltb")
LEET_L: Final = str.maketrans("0134579@$!|+8", "oleastgaslltb")
ATBASH: Final = str.maketrans(_LOWER + _UPPER, _LOWER[::-1] + _UPPER[::-1])
ROT47: Final = {c: 33 + (c - 33 + 47) % 94 for c in range(33, 127)}
# Letters that, upside down, are other ASCII letters; the rest of the turned alphabet has code points of its own.
FLIP: Final = str.maketrans("bdnpquwm" "6" "9" "ʍɯɥɐɔǝɟƃɓᴉıɾʞʃꞁɹʇʌʎ" "¡¿˙'", "qpudbnmw" "9" "6" "wmhacefggiijkllrtvy" "!?.,")  # fmt: skip
CAESAR: Final = tuple(
    str.maketrans(_LOWER + _UPPER, _LOWER[n:] + _LOWER[:n] + _UPPER[n:] + _UPPER[:n]) for n in range(26)
)

# Words that nearly every instruction to a model holds; looked for in each cipher and backwards.
KEYWORDS: Final = (
    "instruct", "previous", "ignore", "disregard", "prompt", "forget", "system", "override", "reveal", "restrict",
    "guideline", "filter", "anything", "rules", "above", "pretend", "developer", "password", "without",
    "repeat", "bypass", "output", "hidden", "policies", "chatbot", "everything", "instead", "conversation", "obey",
)  # fmt: skip


# What may stand between the letters of a word: blanks, marks, both, the end of a line, the quotes of a list.
BETWEEN: Final = (
    r"(?:[ \t]{1,3}|[._\-*/,+~^=:;#|]{1,3}|[ ][._\-*/,+~^=:;#|]{1,2}[ ]|[.,;:|/][ ]{1,2}|[ \t]*\r?\n"
    r"""|["'],?[ ]?["'](?:[ ]["'],?[ ]?["'])?)"""
)
_SPACED: Final = re2.compile(rf"(?:[A-Za-z0-9@$!|]{BETWEEN}){{3,}}[A-Za-z0-9@$!]?")
_GAP: Final = re2.compile(r"[^A-Za-z0-9@$!]+")
_EACH: Final = re2.compile(r"[^A-Za-z0-9@$!]+|[A-Za-z0-9@$!]+")


def spaced(text: str) -> Iterator[Piece]:
    """`i g n o r e`, `i-g-n-o-r-e`, `i.g.n.o.r.e`: letters drawn together, ends of sentences kept.

    What stands between most letters parts letters; what else stands between some of them (a wider gap, another mark)
    parts words.
    """
    for match in finditer(_SPACED, text):
        run: str = match.group()
        gaps = Counter(gap.group() for gap in finditer(_GAP, run))
        usual, often = gaps.most_common(1)[0]
        others = gaps.total() - often
        if 0 < others * 2 < gaps.total():
            parts = (gap.group() for gap in finditer(_EACH, run))
            read = "".join(
                p if p[0].isalnum() or p[0] in "@$!" else "" if p == usual else _end(p) for p in parts
            )
        else:
            ends = [mark for mark in ".:;" if 0 < run.count(mark) * 6 < len(run)]
            read = "".join(c if c.isalnum() or c in "@$!" or c in ends else "" for c in run)
        yield Piece(read, match.start(), match.end())


_INTERLEAVED: Final = re2.compile(
    "|".join(rf"(?:[^\n]{re2.escape(mark)}){{8,}}[^\n]?" for mark in " .-_*/,+~:|\n")
)


def interleaved(text: str) -> Iterator[Piece]:
    """The same mark behind each character, blanks and marks included: every other character is the text."""
    for match in finditer(_INTERLEAVED, text):
        yield Piece(match.group()[::2], match.start(), match.end())


def _end(gap: str) -> str:
    """A gap between words as it is read: a blank, behind the end of a sentence."""
    return next((f"{mark} " for mark in ".:;" if mark in gap), " ")


# Marks that Markdown and programs put inside words; taken out, the word reads on.
MARKS: Final = "*_`~\\[]{}()|^"
_GLUE: Final = r"[\"'][ \t]?(?:\+|\.|&|,|\|\|)?[ \t]?\r?\n?[ \t]*[\"']|-\r?\n"
JOINED: Final = re2.compile(_GLUE)
# What is left of quotation marks belongs to the program as well.
_UNQUOTED: Final = re2.compile(_GLUE + '|"')


def joined(text: str) -> Iterator[Piece]:
    """Strings that a program would join, `"ig" + "nore"`, and words cut by a hyphen at the end of a line."""
    for match in finditer(_UNQUOTED, text):
        glue: str = match.group()
        yield Piece(" " if glue.strip("\"' \t\r\n") == "" else "", match.start(), match.end())


_CONCATENATED: Final = re2.compile(r"""["'][ \t]*\r?\n[ \t]*["']""")


def concatenated(text: str) -> Iterator[Piece]:
    """Strings on lines of their own, which C and Python join without a mark between them."""
    for match in finditer(_CONCATENATED, text):
        yield Piece("", match.start(), match.end())


CUT: Final = r"[ \t]{0,4}(?:[ \t]|\r?\n)[ \t]{0,4}"
_HALF: Final = re2.compile(r"[A-Za-z]+")


def mended(text: str) -> Iterator[Piece]:
    """Words cut in two by a blank or the end of a line: `ig nore`, where the whole is a word and one half is none."""
    left, end = "", 0
    for match in finditer(_HALF, text):
        right: str = match.group()
        start = match.start()
        if (
            left
            and 0 < start - end <= 10
            and right[0].islower()
            and text[end:start].isspace()
            and is_everyday(left + right)
            and not (is_everyday(left) and is_everyday(right))
        ):
            yield Piece("", end, start)
            right = ""
        left, end = right, match.end()


_LETTERS: Final = re2.compile(r"(?:[A-Za-z0-9@$!|][^A-Za-z0-9@$!|]{1,4}){5,}[A-Za-z0-9@$!|]?")


def squeezed(text: str) -> Iterator[Piece]:
    """Runs of letters without blanks: spaced-out words drawn together, and words glued to one."""
    for match in finditer(_LETTERS, text):
        yield Piece("".join(c for c in match.group() if c.isalnum()), match.start(), match.end())


def worded(pieces: Iterator[Piece]) -> Iterator[Piece]:
    """The same runs with blanks put between the words that are found in them."""
    for run, start, end in pieces:
        if run.isascii() and run.isalpha():
            read = split(run)
            if read != run:
                yield Piece(f" {read} ", start, end)


# Everything in ASCII but letters and digits.
_NO_WORD: Final = bytes(code if code > 127 or chr(code).isalnum() else 32 for code in range(256))


def words_backwards(text: str) -> str:
    """Each word mirrored where it stands; the length stays."""
    if not text.isascii():
        return "".join(part[::-1] if part.isalnum() else part for part in _parts(text))
    data = text.encode()
    blanked = data.translate(_NO_WORD)
    out = bytearray(data)
    end = 0
    for part in at_blanks(text):
        for word in part.encode().translate(_NO_WORD).split():
            start = blanked.index(word, end)
            end = start + len(word)
            out[start:end] = word[::-1]
    return out.decode()


def word_order_backwards(text: str) -> str:
    """The last word first."""
    words: list[str] = []
    for part in at_blanks(text):
        words += part.split()
    return " ".join(reversed(words))


def _parts(text: str) -> Iterator[str]:
    start = 0
    inside = False
    for index, character in enumerate(text):
        if character.isalnum() != inside:
            if index > start:
                yield text[start:index]
            start, inside = index, not inside
    yield text[start:]


def unfenced(text: str, rails: int) -> str:
    """A rail-fence cipher of `rails` rows undone."""
    size = len(text)
    period = 2 * (rails - 1)
    order: list[int] = []
    for rail in range(rails):
        if rail in (0, rails - 1):
            order.extend(range(rail, size, period))
        else:
            pairs = zip(
                range(rail, size + period, period), range(period - rail, size + period, period), strict=False
            )
            order.extend(i for pair in pairs for i in pair if i < size)
    plain = [""] * size
    for position, letter in zip(order, text, strict=True):
        plain[position] = letter
    return "".join(plain)
