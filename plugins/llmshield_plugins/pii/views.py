"""What a text says once its disguise is off: other digits, invisible characters, escapes, base64 and hex.

A view is plain ASCII and knows for each of its characters where it came from, so that a finding in a view is a
span of the text as given. Bounded: three rounds of escapes, one carrier inside another, 4096 characters each.
"""

from __future__ import annotations

import binascii
import codecs
from base64 import b64decode
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass

from llmshield_plugins.pii.expressions import compiled, finder
from llmshield_plugins.pii.shapes import INVISIBLE, Ascii, fold, shape_of, to_ascii

ROUNDS = 3
"""Escapes inside escapes that are followed."""

MAX_CARRIER = 4096


@dataclass(frozen=True, slots=True)
class View:
    """`text` is ASCII; `spans[i]` says which part of the source its character `i` stands for (None: itself)."""

    text: str
    spans: list[tuple[int, int]] | None

    def source(self, start: int, end: int) -> tuple[int, int]:
        """The span of the source that `start:end` of this view stands for."""
        if self.spans is None or start >= end:
            return start, end
        return self.spans[start][0], self.spans[end - 1][1]

    def place(self, source: int) -> int:
        """The first character of this view that stands for something at or after `source`."""
        if self.spans is None or source == 0:
            return source
        return bisect_left(self.spans, source + 1, key=_span_end)


def _span_end(span: tuple[int, int]) -> int:
    return span[1]


def fold_bytes(text: str) -> bytes:
    """`text` as a reader takes it, in ASCII; invisible characters are gone, so offsets may shrink."""
    return text.encode() if text.isascii() else to_ascii(text, _FOLDS, "llmshield-fold")


def plain(text: str) -> View:
    """The view of a text as it stands."""
    if text.isascii():
        return View(text, None)
    data = fold_bytes(text)
    if len(data) == len(text):
        return View(data.decode("ascii"), None)
    chars: list[str] = []
    spans: list[tuple[int, int]] = []
    for place, char in enumerate(text):
        seen = _folded(char)
        if seen:
            chars.append(seen)
            spans.append((place, place + 1))
        elif spans:
            spans[-1] = (spans[-1][0], place + 1)
    return View("".join(chars), spans)


def _folded(char: str) -> str:
    seen = fold(char)
    if seen < "\x80":
        return seen
    other = shape_of(char)
    return "" if other == INVISIBLE else other


_FOLDS = Ascii(_folded)


def _fold_error(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    return "".join(map(_folded, error.object[error.start : error.end])), error.end


codecs.register_error("llmshield-fold", _fold_error)

# \u0040, \x40, %40, =40 (quoted-printable), &#64; &#x40; &commat;, and the spelled (at) [dot] of people who hide
# their address from harvesters.
_NAMED = {"commat": "@", "period": ".", "lowbar": "_", "hyphen": "-", "dash": "-", "plus": "+", "colon": ":", "sol": "/", "nbsp": " ", "num": "#", "quot": '"', "amp": "&", "lt": "<", "gt": ">", "equals": "="}  # fmt: skip
ESCAPE = (
    r"\\+u00([2-7][0-9A-Fa-f])|\\+x([2-7][0-9A-Fa-f])|%([2-7][0-9A-Fa-f])|=([2-7][0-9A-F])|"
    r"&#([0-9]{2,4});?|&#[xX]([0-9A-Fa-f]{2,4});?|&(" + "|".join(_NAMED) + r");|"
    r"([ ]{0,2}[(\[{<][ ]{0,2}(?i:at|@)[ ]{0,2}[)\]}>][ ]{0,2})|"
    r"([ ]{0,2}[(\[{<][ ]{0,2}(?i:dot|\.)[ ]{0,2}[)\]}>][ ]{0,2})"
)
_ESCAPE = compiled(ESCAPE)
CARRIER = r"[A-Za-z0-9+/_-]{12,}={0,2}"
_CARRIER = compiled(CARRIER)
_NEXT_CARRIER = finder(_CARRIER)
_HEX = compiled(r"(?:[0-9A-Fa-f]{2}[ :]?){8,}")
_PRINTABLE = bytes(range(0x20, 0x7F)) + b"\t\r\n"


def unescaped(view: View) -> Iterator[View]:
    """The view with one, two and three layers of escapes taken off, as long as there are any."""
    for _ in range(ROUNDS):
        after = _unescape(view)
        if after is None:
            return
        yield after
        view = after


def _unescape(view: View) -> View | None:
    data = view.text.encode("ascii")
    chars: list[str] = []
    spans: list[tuple[int, int]] = []
    position = 0
    for match in _ESCAPE.finditer(data):
        start, end = match.span()
        _copy(view, position, start, chars, spans)
        chars.append(_meaning(match.groups()))
        spans.append(view.source(start, end))
        position = end
    if not chars:
        return None
    _copy(view, position, len(data), chars, spans)
    return View("".join(chars), spans)


def _copy(view: View, start: int, end: int, chars: list[str], spans: list[tuple[int, int]]) -> None:
    chars.extend(view.text[start:end])
    spans.extend((i, i + 1) for i in range(start, end)) if view.spans is None else spans.extend(
        view.spans[start:end]
    )


def _meaning(groups: tuple[bytes | None, ...]) -> str:
    *codes, decimal, hexadecimal, name, at, _ = groups
    for code in codes:
        if code:
            return chr(int(code, 16))
    if decimal or hexadecimal:
        char = chr(int(decimal or hexadecimal or b"0", 10 if decimal else 16))
        return _folded(char) or INVISIBLE
    if name:
        return _NAMED[name.decode()]
    return "@" if at else "."


def is_carrier(data: bytes) -> bool:
    """Whether any token of 12 and more characters decodes from base64 to readable text; most are just long words."""
    start, end = _NEXT_CARRIER(data, 0)
    while start >= 0:
        if _base64(data[start : min(end, start + MAX_CARRIER)]) is not None:
            return True
        start, end = _NEXT_CARRIER(data, end)
    return False


def carried(view: View, begin: int) -> Iterator[tuple[int, int, str]]:
    """Tokens at or after `begin` that decode to readable text: start and end in the view, and the text inside."""
    data = view.text.encode("ascii")
    for match in _CARRIER.finditer(data, begin):
        start, end = match.span()
        inner = _base64(data[start : min(end, start + MAX_CARRIER)])
        if inner is not None:
            yield start, end, inner
    for match in _HEX.finditer(data, begin):
        start, end = match.span()
        compact = data[start : min(end, start + MAX_CARRIER)].replace(b" ", b"").replace(b":", b"")
        raw = binascii.unhexlify(compact[: len(compact) & ~1])
        if _readable(raw):
            yield start, end, raw.decode("utf-8", "replace")


def _base64(token: bytes) -> str | None:
    compact = token.rstrip(b"=").replace(b"-", b"+").replace(b"_", b"/")
    compact = compact[: len(compact) - (len(compact) % 4 == 1)]
    raw = b64decode(compact + b"=" * (-len(compact) % 4))
    return raw.decode("utf-8", "replace") if _readable(raw) else None


def _readable(raw: bytes) -> bool:
    """At least nine of ten bytes are printable ASCII; chance gives four of ten."""
    return len(raw) >= 6 and len(raw.translate(None, _PRINTABLE)) * 10 <= len(raw)
