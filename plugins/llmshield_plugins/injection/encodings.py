"""Encodings that hide a text altogether: base64 and its family, number lists, uuencode; and those of `alphabets`.

Each decoder finds its runs in a text and yields what they hold, if that is text. Finding an encoding is no sign
of an attack; only signatures in what it holds count. All work is linear; a run is decoded once.
"""

from __future__ import annotations

import base64
import binascii
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from typing import Final

import re2

from .alphabets import NATO_ANY, calls_text, dump_text, morse_text, nato_text, points_text
from .matches import finditer
from .view import Piece

Decode = Callable[[str], Iterator[Piece]]

# Longest run decoded by the quadratic number systems (58, 62): 1,000 characters take 0.2 ms.
_MAX_BIG: Final = 1_000
# Longest binary block tried against single-byte XOR; what hides behind one is short.
_MAX_XOR: Final = 2_048

_CONTROL: Final = bytes(b for b in range(32) if b not in b"\t\n\r\x0b\x0c\x1b") + b"\x7f"
_FREQUENT: Final = b"etaoinshrdlu "


def readable(raw: bytes) -> str | None:
    """The bytes as text if they are text: UTF-8 or UTF-16 with hardly any control characters."""
    if len(raw) < 4:
        return None
    if raw.count(0) * 3 > len(raw):
        for codec in ("utf-16-le", "utf-16-be"):
            text = raw.decode(codec, "replace")
            if text.isascii() and "\0" not in text:
                return text
        return None
    if len(raw.translate(None, _CONTROL)) * 20 < len(raw) * 19:
        return None
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        # The end of a run may be cut inside a character; more than that is no UTF-8.
        text = raw.decode("utf-8", "ignore")
        return text if len(text) * 10 >= len(raw) * 9 else None


@cache
def _xor_table(key: int) -> bytes:
    return bytes(byte ^ key for byte in range(256))


def _unxored(raw: bytes) -> str | None:
    """The bytes under a single-byte key, if most of them become frequent letters.

    The key is guessed from the most frequent bytes, which in any prose stand for blank or e.
    """
    if not 12 <= len(raw) <= _MAX_XOR:
        return None
    for byte, _ in Counter(raw).most_common(3):
        for letter in b" e":
            key = byte ^ letter
            plain = raw.translate(_xor_table(key))
            if (
                key
                and plain.isascii()
                and 2 * (len(plain) - len(plain.translate(None, _FREQUENT))) > len(plain)
            ):
                return readable(plain)
    return None


def _text(raw: bytes) -> str | None:
    read = readable(raw)
    if read is not None and 3 * len(raw.translate(None, _FREQUENT)) < 2 * len(raw):
        return read
    # Text under an XOR key is often readable as well, but no prose.
    unxored = _unxored(raw)
    return read if unxored is None else f"{read or ''}\n{unxored}"


_BASE64_RUN: Final = re2.compile(
    r"[A-Za-z0-9+/_-]{12,}(?:[ \t]*\r?\n[ \t]*[A-Za-z0-9+/_-]{4,})*={0,2}"
    r"|[A-Za-z0-9+/_-]{8,11}(?:[ \t]*\r?\n[ \t]*[A-Za-z0-9+/_-]{4,})+={0,2}"
)


def base64_text(text: str) -> Iterator[Piece]:
    """Base64, standard or url-safe, with line breaks, with or without padding."""
    for match in finditer(_BASE64_RUN, text):
        run: str = match.group()
        if run.islower() or run[1:].islower():  # a word, with a capital or without
            continue
        found = None
        lines = run.rstrip("=").replace("-", "+").replace("_", "/").split()
        # A word on the line before or after may look like a line of the payload.
        for part in (lines, lines[1:], lines[:-1], lines[1:-1]) if len(lines) > 1 else (lines,):
            body = "".join(part)
            found = _base64(body) or _base64(body[::-1])
            if found is None and "/" in body:
                # A path or URL in front of the payload: try what stands behind the last slash.
                found = _base64(body.rpartition("/")[2])
            if found is not None:
                break
        if found is not None:
            yield Piece(found, match.start(), match.end())


def _base64(body: str) -> str | None:
    usable = len(body) - (len(body) % 4 == 1)
    if usable < 12:
        return None
    body = body[:usable]
    # Words and names are no base64: 16 characters of it without a capital occur once in 100,000.
    if body == body.lower() or (body.isalpha() and body == body.upper()):
        return None
    return _text(binascii.a2b_base64(body + "=" * (-usable % 4)))


_BLOB: Final = re2.compile(
    r"[A-Za-z0-9+/_-]{256,}(?:\r?\n[A-Za-z0-9+/_-]{4,})*={0,2}|(?:[A-Za-z0-9+/_-]{60,80}\r?\n){8,}"
)


def blobs(text: str) -> Iterator[tuple[int, int]]:
    """The spans of long base64 that holds no text: pictures, archives, keys.

    A run counts as base64 when both of its marks occur about as often as they do in random bytes (one letter in 32);
    other encodings have none of them.
    """
    for match in finditer(_BLOB, text):
        body = "".join(match.group().split()).rstrip("=").replace("-", "+").replace("_", "/")
        marks = min(body.count("+"), body.count("/"))
        if marks * 200 >= len(body) and _base64(body) is None and _base64(body[::-1]) is None:
            yield match.start(), match.end()


_BASE32: Final = re2.compile(r"[A-Za-z2-7]{16,}(?:[ \t]*\r?\n[ \t]*[A-Za-z2-7]{8,})*={0,6}")


def base32_text(text: str) -> Iterator[Piece]:
    """Base32 (RFC 4648), padding optional."""
    for match in finditer(_BASE32, text):
        body = "".join(match.group().split()).rstrip("=").upper()
        body = body[: len(body) - (len(body) % 8 in (1, 3, 6))]
        try:
            found = readable(base64.b32decode(body + "=" * (-len(body) % 8)))
        except binascii.Error:
            continue
        if found is not None:
            yield Piece(found, match.start(), match.end())


_BASE_N: Final = re2.compile(r"[0-9A-Za-z]{16,}")
_ALPHABETS: Final = (
    "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz",  # base58, Bitcoin's order
    "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz",  # base62
    "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ",  # base62, lower case first
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789",  # base62, base64's order
)
_DIGITS: Final = tuple({letter: value for value, letter in enumerate(alphabet)} for alphabet in _ALPHABETS)


def base_n_text(text: str) -> Iterator[Piece]:
    """Base58 and base62: one big number, so runs of at most 1,000 characters."""
    for match in finditer(_BASE_N, text):
        run: str = match.group()
        if len(run) > _MAX_BIG or run.isdigit():
            continue
        for digits in _DIGITS:
            try:
                values = [digits[letter] for letter in run]
            except KeyError:
                continue
            number = _number(values, len(digits))
            found = readable(number.to_bytes((number.bit_length() + 7) // 8, "big"))
            if found is not None and found.isascii():
                yield Piece(found, match.start(), match.end())
                break


def _number(values: list[int], base: int) -> int:
    number = 0
    for value in values:
        number = number * base + value
    return number


# What groups of four ASCII characters begin with in both alphabets: the first digit is the highest of a number below
# 0x80000000, and not below 0x09000000. Words begin otherwise somewhere in their first twenty letters.
_FIRST85, _FIRST85_RFC = b"#$%+,-./0123456789:;<=>?@ABCDEFGHIJ", b"234ABCDEFGHIJKLMNOPQRSTUVWXYZabcdef"


def _begins(body: str, first: bytes) -> bool:
    """Whether each group of five begins with one of these; not asked where blanks or `z` shift the groups."""
    head = body[:100]
    return "z" in head or " " in head or "\n" in head or not head.encode()[::5].translate(None, first)


_ASCII85: Final = re2.compile(r"<~([!-uz\s]+?)~>|([!-uz]{20,})")
_BASE85: Final = re2.compile(r"[0-9A-Za-z!#$%&()*+;<=>?@^_`{|}~-]{20,}")


def base85_text(text: str) -> Iterator[Piece]:
    """Ascii85 (`<~...~>` or bare), and RFC 1924's alphabet as Python and git write it."""
    for match in finditer(_ASCII85, text):
        body: str = match.group(1) or match.group(2)
        if not _begins(body, _FIRST85):
            continue
        try:
            found = readable(base64.a85decode(body))
        except (ValueError, binascii.Error):
            continue
        if found is not None and found.isascii():
            yield Piece(found, match.start(), match.end())


def base85_rfc_text(text: str) -> Iterator[Piece]:
    """RFC 1924's alphabet, as `base64.b85encode` and git write it."""
    for match in finditer(_BASE85, text):
        if not _begins(match.group(), _FIRST85_RFC):
            continue
        try:
            found = readable(base64.b85decode(match.group()))
        except ValueError:
            continue
        if found is not None and found.isascii():
            yield Piece(found, match.start(), match.end())


_HEX: Final = re2.compile(r"(?:(?:0x|\\x)?[0-9a-fA-F]{2}[ \t\r\n,;:\-]{0,3}){8,}")
_HEX_DROP: Final = {ord(c): None for c in " \t\r\n,;:-"}


def hex_text(text: str) -> Iterator[Piece]:
    """Pairs of hex digits: bare, spaced, with colons, `0x` or `\\x`."""
    for match in finditer(_HEX, text):
        body = match.group().translate(_HEX_DROP).replace("0x", "").replace("\\x", "")
        found = _text(bytes.fromhex(body[: len(body) // 2 * 2]))
        if found is not None:
            yield Piece(found, match.start(), match.end())


_BINARY: Final = re2.compile(r"(?:[01]{7,8}[ \t\r\n,;_-]{0,2}){4,}")
_OCTAL: Final = re2.compile(r"(?:(?:0o|\\)?[0-7]{2,3}[ \t\r\n,;]{1,2}|\\[0-7]{2,3}){6,}(?:0o)?[0-7]{0,3}")
_DECIMAL: Final = re2.compile(r"(?:[0-9]{2,3}[ \t\r\n,;]{1,2}){6,}[0-9]{0,3}")
_NUMBER: Final = re2.compile(r"[0-9]+")


def binary_text(text: str) -> Iterator[Piece]:
    """Groups of eight (or seven) binary digits."""
    for match in finditer(_BINARY, text):
        groups = match.group().replace(",", " ").replace(";", " ").replace("_", " ").replace("-", " ").split()
        if len(groups) == 1:
            run = groups[0]
            groups = [run[i : i + 8] for i in range(0, len(run) // 8 * 8, 8)]
        found = readable(bytes(int(group, 2) & 0xFF for group in groups if len(group) <= 8))
        if found is not None:
            yield Piece(found, match.start(), match.end())


def _numbers(pattern: object, base: int) -> Decode:
    def decode(text: str) -> Iterator[Piece]:
        for match in finditer(pattern, text):
            run = match.group().replace("0o", " ").replace("\\", " ").replace(",", " ").replace(";", " ")
            values = [int(part, base) for part in run.split()]
            if all(value < 256 for value in values):
                found = readable(bytes(values))
                if found is not None and found.isascii():
                    yield Piece(found, match.start(), match.end())

    return decode


_UU: Final = re2.compile(r"(?m)^(?:begin [0-7]{3} [^\n]{0,80}\n)?((?:[!-M][ -`]{4,80}\r?\n?)+)")


def uu_text(text: str) -> Iterator[Piece]:
    """uuencode, with or without its `begin` line."""
    for match in finditer(_UU, text):
        decoded = bytearray()
        for line in match.group(1).splitlines():
            try:
                decoded += binascii.a2b_uu(line)
            except binascii.Error:
                break
        found = readable(bytes(decoded))
        if found is not None and found.isascii():
            yield Piece(found, match.start(), match.end())


# Text in an encoding has a form that words, names and paths lack: whole groups whose digits can stand for ASCII, or
# letters, capitals and digits by turns. An encoding of four bytes of text by groups of five begins each group with one
# of 35 digits of 85; base64 has a bit that is 0 in three places of four digits, base32 in five of eight.
_GROUP64: Final = "[ACI-Za-f][A-HQ-Xg-nw-z0-3][ABEFIJMNQRUVYZcdghklopstwx014589]"
_GROUP64_BACK: Final = "[ABEFIJMNQRUVYZcdghklopstwx014589][A-HQ-Xg-nw-z0-3][ACI-Za-f]"
_ANY64: Final = "[A-Za-z0-9+/_-]"
_IN_TURNS: Final = "(?:[a-z]{1,4}[A-Z0-9+/]{1,5})"
_GROUP32: Final = "[be-p][abefijmnqruvyz45][a-z2-7][a-hq-x][acegikmoqsuwy246][a-z2-7][a-di-lq-tyz23][a-z2-7]"

# name, the pattern whose presence in a text makes the decoder worth its cost, the decoder.
ENCODINGS: Final[tuple[tuple[str, str, Decode], ...]] = (
    (
        "base64",
        rf"(?-i:(?:{_GROUP64}{_ANY64}){{3}}{_ANY64}{{0,3}}(?:{_ANY64}{{4}}|={{1,2}})|(?:{_ANY64}{_GROUP64_BACK}){{4}}|{_IN_TURNS}{{4}})",
        base64_text,
    ),
    ("base32", rf"(?:{_GROUP32}){{2}}|(?-i:(?:[A-Z]{{1,7}}[2-7]{{1,3}}){{3}})", base32_text),
    ("base58", r"(?-i:(?:[a-z]{1,4}[A-Z0-9]{1,5}){3})", base_n_text),
    ("base85", r"<~|(?-i:(?:[#-%+-J][!-u]{4}){4})", base85_text),
    ("base85_rfc", r"(?-i:(?:[2-4A-Za-f][0-9A-Za-z!#$%&()*+;<=>?@^_`{|}~-]{4}){4})", base85_rfc_text),
    ("hex", r"(?:(?:0x|\\x)?[0-9a-f]{2}[ \t\r\n,;:\-]{0,3}){8}", hex_text),
    ("binary", r"(?:[01]{7,8}[ \t\r\n,;_-]{0,2}){4}", binary_text),
    ("octal", r"(?:[0-7]{2,3}[ \t\r\n,;\\]{1,2}(?:0o)?){6}", _numbers(_OCTAL, 8)),
    ("decimal", r"(?:[0-9]{2,3}[ \t\r\n,;]{1,2}){6}", _numbers(_DECIMAL, 10)),
    ("morse", r"(?:[.\-_]{1,6}[ /|\r\n]{1,4}){7}", morse_text),
    ("nato", rf"(?:(?:{NATO_ANY})[\s,./|_-]+){{6}}", nato_text),
    ("code_points", r"(?:u\+[0-9a-f]{4,6}[\s,;]{0,3}){4}", points_text),
    (
        "calls",
        r"(?:chr|char|chrw|unichr|fromcharcode)\([ ]?(?:0x)?[0-9a-f]{2,6}[ ]?\)[\s+.&,|]{0,8}(?:chr|char|chrw|unichr|string\.)",
        calls_text,
    ),
    ("hex_dump", r"(?m:^)[ \t]{0,8}[0-9a-f]{4,16}:?[ \t]{1,4}(?:[0-9a-f]{2}[ \t]{0,2}){4}", dump_text),
    ("uuencode", r"begin [0-7]{3} |(?m:^)(?-i:[!-M][ -`]{20})", uu_text),
)
