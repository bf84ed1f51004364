"""Escapes that a model reads as plainly as the characters they stand for; each is a step `text -> pieces`.

HTML entities, backslash escapes (JSON, JavaScript, Python, CSS), percent, quoted-printable, MIME words, UTF-7,
punycode. All of them keep the text around the escape. Patterns match runs of escapes, not single ones: a match
costs 3 us, a run is decoded in C.
"""

from __future__ import annotations

import binascii
import html.entities
import unicodedata
from collections.abc import Callable, Iterator
from typing import Any, Final

import re2

from .matches import finditer
from .view import Piece

Decode = Callable[[str], Iterator[Piece]]

_ENTITY: Final = re2.compile(r"&(?:#[xX]([0-9a-fA-F]{1,8})|#([0-9]{1,9})|([A-Za-z][A-Za-z0-9]{1,30}));?")
_PERCENT: Final = re2.compile(r"(?:%(?:[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}))+")
_BACKSLASH: Final = re2.compile(
    r"(?:\\(?:u\{[0-9a-fA-F]{1,6}\}|u[0-9a-fA-F]{4}|x[0-9a-fA-F]{2}|U[0-9a-fA-F]{8}|N\{[A-Za-z0-9 \-]{1,60}\}"
    r"|[0-3][0-7]{2}|[nrtbfv0\"'/\\]))+"
)
_BACKSLASH_ONE: Final = re2.compile(
    r"\\(?:u\{([0-9a-fA-F]{1,6})\}|u([0-9a-fA-F]{4})|x([0-9a-fA-F]{2})|U([0-9a-fA-F]{8})|N\{([A-Za-z0-9 \-]{1,60})\}"
    r"|([0-3][0-7]{2})|([nrtbfv0\"'/\\]))"
)
_CSS: Final = re2.compile(r"(?:\\[0-9a-fA-F]{2,6}[ \t]?)+")
_QUOTED: Final = re2.compile(r"(?:=(?:[0-9A-Fa-f]{2}|\r?\n))+")
_MIME: Final = re2.compile(r"=\?[A-Za-z0-9_\-]{2,20}\?([BbQq])\?([!-~]{0,400}?)\?=[ \t\r\n]*")
_UTF7: Final = re2.compile(r"\+([A-Za-z0-9/+]{3,})-?")
_PUNYCODE: Final = re2.compile(r"(?i)xn--([!-~]{2,200})")
_LABEL: Final = re2.compile(r"(?i)xn--([a-z0-9\-]{2,200})")
_SIMPLE: Final = {"n": "\n", "r": " ", "t": " ", "b": "", "f": " ", "v": " ", "0": ""}


def _character(code: int) -> str:
    """The character of a code point; surrogates and numbers beyond Unicode read as a space."""
    return chr(code) if 0 <= code < 0x110000 and not 0xD800 <= code < 0xE000 else " "


def utf8(raw: bytes) -> str:
    """Bytes as text: UTF-8, or else Latin-1, in which an ASCII attack still reads the same."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def html_entities(text: str) -> Iterator[Piece]:
    """`&#105;`, `&#x69;`, `&lt;`, with or without the semicolon."""
    for match in finditer(_ENTITY, text):
        hexadecimal, decimal, name = match.group(1), match.group(2), match.group(3)
        if name is not None:
            read = html.entities.html5.get(name + ";")
            if read is None:
                continue
        else:
            read = _character(int(hexadecimal, 16) if hexadecimal is not None else int(decimal))
        yield Piece(read, match.start(), match.end())


def percent(text: str) -> Iterator[Piece]:
    """`%69%67`, also `%u0069`."""
    for match in finditer(_PERCENT, text):
        run: str = match.group()
        if "%u" in run:
            read = "".join(
                _character(int(part[1:5], 16)) + part[5:]
                if part[:1] == "u"
                else _character(int(part[:2], 16))
                for part in run.split("%")[1:]
            )
        else:
            read = utf8(bytes.fromhex(run.replace("%", "")))
        yield Piece(read, match.start(), match.end())


def _one_backslash(match: Any) -> str:
    braces, u4, x2, u8, name, octal, simple = match.groups()
    if simple is not None:
        return _SIMPLE.get(str(simple), str(simple))
    if name is not None:
        try:
            return unicodedata.lookup(name)
        except KeyError:
            return " "
    return _character(int(octal, 8) if octal is not None else int(braces or u4 or x2 or u8, 16))


def backslash(text: str) -> Iterator[Piece]:
    """`\\u0069`, `\\x69`, `\\u{69}`, `\\U00000069`, `\\151`, `\\N{LATIN SMALL LETTER I}` and `\\n`."""
    for match in finditer(_BACKSLASH, text):
        run: str = match.group()
        if len(run) == 2:
            read = _SIMPLE.get(run[1], run[1])
        elif "\\ud" in run.lower():
            # A pair of surrogates is one character.
            units = "".join(
                chr(int(m.group(2), 16)) if m.group(2) else _one_backslash(m)
                for m in finditer(_BACKSLASH_ONE, run)
            )
            read = units.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        else:
            read = "".join(_one_backslash(m) for m in finditer(_BACKSLASH_ONE, run))
        yield Piece(read, match.start(), match.end())


def css(text: str) -> Iterator[Piece]:
    """`\\69 \\67 \\6e`: one to six hex digits and the space that ends them."""
    for match in finditer(_CSS, text):
        numbers = match.group().split("\\")[1:]
        yield Piece("".join(_character(int(n, 16)) for n in numbers), match.start(), match.end())


def quoted_printable(text: str) -> Iterator[Piece]:
    """`=69=67`, and the soft line breaks that cut words in two."""
    for match in finditer(_QUOTED, text):
        digits = match.group().replace("\r", "").replace("=\n", "").replace("=", "")
        yield Piece(utf8(bytes.fromhex(digits)), match.start(), match.end())


def mime_words(text: str) -> Iterator[Piece]:
    """`=?utf-8?B?aWdub3Jl?=` and the Q form, of mail headers."""
    for match in finditer(_MIME, text):
        body: str = match.group(2)
        if match.group(1) in "Bb":
            try:
                read = utf8(binascii.a2b_base64(body + "=" * (-len(body) % 4)))
            except binascii.Error:
                continue
        else:
            read = "".join(p.text for p in _filled(body.replace("_", " ")))
        yield Piece(read, match.start(), match.end())


def _filled(text: str) -> Iterator[Piece]:
    last = 0
    for piece in quoted_printable(text):
        yield Piece(text[last : piece.start], last, piece.start)
        yield piece
        last = piece.end
    yield Piece(text[last:], last, len(text))


def utf7(text: str) -> Iterator[Piece]:
    """`+AGkAZw-`: UTF-16 in base64 between plus and minus."""
    for match in finditer(_UTF7, text):
        body: str = match.group(1)
        raw = binascii.a2b_base64(
            body[: len(body) - (len(body) % 4 == 1)] + "=" * (-len(body) % 4 if len(body) % 4 != 1 else 0)
        )
        raw = raw[: len(raw) // 2 * 2]
        read = raw.decode("utf-16-be", "replace")
        if read and "\ufffd" not in read and _mostly_ascii(read):
            yield Piece(read, match.start(), match.end())


def _mostly_ascii(text: str) -> bool:
    return 2 * sum(c < "\x80" for c in text) >= len(text)


def punycode(text: str) -> Iterator[Piece]:
    """`xn--gnr-...`: labels of international domain names, which carry look-alikes; marks of the word may stand inside."""
    for match in finditer(_PUNYCODE, text):
        whole = _label(match.group(1))
        if whole is not None:
            yield Piece(whole, match.start(), match.end())
            continue
        for label in finditer(_LABEL, match.group()):
            read = _label(label.group(1))
            if read is not None:
                yield Piece(read, match.start() + label.start(), match.start() + label.end())


def _label(label: str) -> str | None:
    try:
        return label.encode().decode("punycode")
    except UnicodeError:
        return None


# name, the pattern whose presence in a text makes the step worth its cost, the step. In the order applied:
# what mail and URLs wrap is opened before what HTML and programs wrote inside.
ESCAPES: Final[tuple[tuple[str, str, Decode], ...]] = (
    ("mime", r"=\?[a-z0-9_\-]{2,20}\?[bq]\?", mime_words),
    # One "x=10" in a page of code is none.
    (
        "quoted_printable",
        r"=[0-9a-f]{2}=[0-9a-f]{2}|[a-z]=[2-7][0-9a-f][a-z]|[a-z ,.]=\r?\n",
        quoted_printable,
    ),
    ("percent", r"%(?:[0-9a-f]{2}|u[0-9a-f]{4})", percent),
    ("html", r"&(?:#x?[0-9a-f]{2,8}|[a-z]{2,30};)", html_entities),
    ("backslash", r"\\(?:u\{|u[0-9a-f]{4}|x[0-9a-f]{2}|N\{|[0-3][0-7]{2}|[nrt])", backslash),
    ("css", r"\\[0-9a-f]{2,6}[ \t]?\\[0-9a-f]{2,6}", css),
    ("utf7", r"\+[a-z0-9/+]{3,}-?", utf7),
    ("punycode", r"xn--[a-z0-9\-]{2}", punycode),
)
