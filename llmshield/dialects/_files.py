"""Files in base64 that hold text: UTF-8, UTF-16 with its mark (as Excel writes it), or one byte a character (as older
programs do). The provider reads them all, so a guard does as well."""

from __future__ import annotations

import codecs
from base64 import b64decode

_HEAD = 4096
"""Characters that are looked at before all of a large file is decoded: a picture tells in them what it is."""
_LENIENT = {ord("-"): "+", ord("_"): "/"} | dict.fromkeys(map(ord, " \t\r\n\f\v="))
"""What decoders read alike: the alphabet for URLs, blanks and line ends, padding that is missing."""
_SURELY = 16
"""Bytes of UTF-8 that words do not give by chance, read as base64 without their blanks: half of those are above 127."""
_LINE = 60
"""Characters of a line of base64, at the least: PEM has 64, MIME 76."""
_CONTROLS = bytes(byte for byte in range(32) if byte not in b"\t\n\r\f") + b"\x7f"
_NO_TEXT = (
    b"\x89PNG", b"\xff\xd8\xff", b"\xff\xfb", b"\xff\xf3", b"\xff\xf2", b"GIF8", b"RIFF", b"OggS", b"fLaC", b"ID3", b"II*\0",
    b"MM\0*", b"PK\x03\x04", b"\x1f\x8b", b"Rar!\x1a", b"7z\xbc\xaf",
)  # fmt: skip
"""How files of other kinds begin; whole marks, since a list may well begin with `MM` or `PK`."""
_BEYOND = bytes(range(128, 256))
_MOST_CONTROLS = 0.1
"""Share of control characters in a text: one alone must not make a file pass unread. Sound in UTF-8's range has more."""
_MOST_BEYOND_ASCII = 0.3
"""Share of bytes above 127: European text in one byte a character has up to a fifth, sound and packed bytes a half."""


def text_of(data: str) -> tuple[str, str] | None:
    """The text in base64 and its encoding; None for pictures, sound, archives.

    Raises: ValueError for what is no base64, and for words that only look so without their blanks.
    """
    if len(data) > 4 * _HEAD and _encoding(_decoded(data[:_HEAD], part=True), part=True) is None:
        return None
    raw = _decoded(data)
    encoding = _encoding(raw) if raw else None
    if (len(raw) < _SURELY or encoding == "cp1252" or encoding is None) and not is_base64(data):
        raise ValueError("neither base64 and nothing else, nor surely a text in it")
    if encoding is None:
        return None
    try:
        return raw.decode(encoding), encoding
    except UnicodeDecodeError:
        if encoding == "utf-16":  # cut inside a character
            return raw[: len(raw) & -2].decode(encoding, "replace"), encoding
        return raw.decode("latin-1"), "latin-1"


def is_base64(data: str) -> bool:
    """Whether it is base64 and nothing else, in one run or in lines of one length: words are base64, too, to who reads
    over blanks and line ends."""
    first, *lines = data.rstrip("\n").split("\n")
    if lines and (len(first) < _LINE or any(len(line) != len(first) for line in lines[:-1])):
        return False
    try:
        b64decode(data.replace("\n", "").replace("\r", ""), validate=True)
    except ValueError:
        return False
    return True


def encoded(text: str, encoding: str) -> bytes:
    """The text in its file's encoding, if that can say it; else in UTF-8."""
    try:
        return text.encode(encoding)
    except UnicodeEncodeError:
        return text.encode()


def _decoded(data: str, *, part: bool = False) -> bytes:
    try:
        return b64decode(data, validate=True)
    except ValueError:
        data = data.translate(_LENIENT)
    data = data[: len(data) & -4] if part else data + "=" * (-len(data) % 4)
    return b64decode(data, validate=True)


def _encoding(data: bytes, *, part: bool = False) -> str | None:
    """How the bytes spell text; None where they do not. `part`: they are cut, maybe inside a character."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        said = data[: len(data) & -2].decode("utf-16", "replace").encode()
        return "utf-16" if said and _reads(said) else None
    if not _reads(data):
        return None
    try:
        codecs.getincrementaldecoder("utf-8")().decode(data, final=not part)
        return "utf-8"
    except UnicodeDecodeError:
        pass
    # One byte a character. What says that it is a picture or sound is none, however much text it holds: its cost is not
    # in its bytes. A PDF is of more than text as well, and an edit would break it.
    if data.startswith(_NO_TEXT) or data[4:8] == b"ftyp" or b"%PDF-" in data[:1024]:
        return None
    return "cp1252" if _share(data, _BEYOND) <= _MOST_BEYOND_ASCII else None


def _reads(data: bytes) -> bool:
    return _share(data, _CONTROLS) <= _MOST_CONTROLS


def _share(data: bytes, of: bytes) -> float:
    return 1 - len(data.translate(None, of)) / len(data)
