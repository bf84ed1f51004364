"""A text from left to right: what is decided, what must wait. A whole text is the case where nothing waits.

Rule 1: where a text is cut depends on the text alone, not on how it arrived; so a stream and a whole text give the
same findings. `OPEN` and `BREAKS` of the patterns say where no match can reach over.
Rule 2: a run without such a place is judged in windows of WINDOW characters; only a private key may be longer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import re2

from llmshield import clock
from llmshield.secrets_patterns import BREAKS, MAX_PEM, OPEN, Credential

Find = Callable[[str], "list[Credential]"]

WINDOW = 4096
"""Characters that may wait for their end before they are judged without it."""

_CUT = 3584
"""Where a window is cut, unless a finding lies across."""

_NAME = 128
"""Characters before a value that its announcement may have."""

_LONGEST_END = 128
"""Characters that the END line of a private key may have, and its BEGIN line."""

CONTINUED = "CONTINUED"
"""The kind of a find that goes on with the one before it, which was longer than a window."""

_OPEN = re2.compile(OPEN)
_REST = re2.compile(r"[A-Za-z0-9_./+=~%-]*")
_PEM = re2.compile(r"-----BEGIN (?:[A-Z0-9]{1,16} ){0,3}PRIVATE KEY(?: BLOCK)?-----")
_JWT = re2.compile(r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\z")
_BEGIN = "-----BEGIN "


class Reader:
    """Reads one text, whole or in pieces. `find` looks for credentials in a part that is complete."""

    __slots__ = ("_find", "_low", "_torn")

    def __init__(self, find: Find) -> None:
        self._find = find
        self._torn: Credential | None = None
        self._low = 0

    @property
    def waits(self) -> bool:
        """Whether a piece without a break changes nothing: the text before it waits for one."""
        return self._torn is None

    def settle(self, text: str, final: bool, deadline: float | None = None) -> tuple[list[Credential], int]:
        """The credentials in `text[:upto]`, and `upto`; the next `text` begins there. `final`: nothing follows.

        Raises: TimeoutError when a part would begin after `deadline` (`clock.monotonic()` seconds).
        """
        found: list[Credential] = []
        begin, size = 0, len(text)
        while begin < size:
            if clock.overdue(deadline):
                raise TimeoutError
            if self._torn is not None:
                rest = begin + len(_readable_match(text[begin : begin + WINDOW]))
                if rest > begin:
                    found.append(self._torn._replace(start=begin, end=rest, kind=CONTINUED))
                if rest < begin + WINDOW and rest < size:
                    self._torn = None
                begin = rest
                continue
            cut, window = self._cut(text, begin, final)
            if cut < 0:
                break
            more = self._find(text[begin:cut])
            if window:
                more += _unfinished(text[begin:cut])
                cut = begin + self._window(more, cut - begin)
            found += [
                item._replace(start=item.start + begin, end=item.end + begin)
                for item in more
                if item.end + begin <= cut
            ]
            all_seen = not window and not final and size <= begin + WINDOW
            begin, self._low = cut, 0
            if all_seen and text.find(_BEGIN, begin) < 0:
                self._low = size - begin  # the cut was at the last place that was good for one
                break
        return _joined(found) if found else found, begin

    def _cut(self, text: str, begin: int, final: bool) -> tuple[int, bool]:
        """Where the part that begins at `begin` ends, and whether that is the end of a window; -1: not known yet."""
        size = len(text)
        if final and size - begin < WINDOW:
            return size, False
        limit = min(size, begin + WINDOW)
        keys = _private_keys(text, begin, limit, final) if text.find(_BEGIN, begin, limit + 16) >= 0 else []
        waits = min((first for first, last in keys if last > size), default=limit) if keys else limit
        for place in range(min(limit, waits), begin + self._low, -1):
            if (
                text[place - 1] in BREAKS
                and not (keys and any(first < place < last for first, last in keys))
                and not _opens(text[max(begin, place - _NAME) : place])
            ):
                return place, False
        if size - begin < WINDOW:
            self._low = waits - begin
            return -1, False
        if not keys:
            return limit, True
        first, last = keys[0]
        if first > begin:
            return first, False
        return (-1, False) if last > size else (last, False)

    def _window(self, found: list[Credential], size: int) -> int:
        """Where a window is cut: behind every finding that begins before, so that none is cut in two."""
        cut = _CUT
        for item in found:
            if item.start >= cut + _NAME or item.end <= cut:
                continue
            if item.end < size:
                cut = item.end
            elif item.start > _NAME:
                return item.start - _NAME
            else:
                self._torn = item
                return size
        return cut


def _searcher(expression: Any) -> Callable[[bytes], bool]:
    """Whether an expression matches anywhere, in C: its wrapper costs three times what the question does."""
    inner: Any = getattr(expression, "_regexp", None)
    if inner is None:  # another build of re2
        return lambda data: expression.search(data) is not None
    match, anywhere = inner.Match, type(inner).Anchor.UNANCHORED
    return lambda data: match(anywhere, data, 0, len(data))[0][0] >= 0


_open = _searcher(_OPEN)


def _opens(text: str) -> bool:
    """Whether what ends here may have begun a match that goes on."""
    return _open(text.encode() if text.isascii() else _utf8(text).encode())


def _private_keys(text: str, begin: int, limit: int, final: bool) -> list[tuple[int, int]]:
    """Where private keys begin in `text[begin:limit]` and end; an end behind the text is not known yet."""
    size = len(text)
    keys: list[tuple[int, int]] = []
    first = text.find(_BEGIN, begin, limit + 16)
    last = begin
    while 0 <= first < limit and last <= size:
        if _PEM.match(_utf8(text[first : first + _LONGEST_END])) is not None:
            end = text.find("-----END", first + 16, first + MAX_PEM)
            close = text.find("-----", end + 8, end + 88) if end >= 0 else -1
            if close >= 0:
                last = close + 5
            elif end >= 0 and (size >= end + 96 or final):
                last = min(size, end + 96)
            elif final:
                last = min(size, first + MAX_PEM + _LONGEST_END)
            else:
                last = first + MAX_PEM + _LONGEST_END
            keys.append((first, last))
        first = text.find(_BEGIN, max(first + 1, last), limit + 16)
    return keys


def _unfinished(window: str) -> list[Credential]:
    """A JWT that is longer than a window has no end to be known by; its first two parts are enough."""
    found = _JWT.search(_utf8(window))
    return [Credential(found.start(), len(window), "JWT", "jwt")] if found is not None else []


def _readable_match(text: str) -> str:
    """What stands at the beginning of a text and continues a token."""
    ascii_text = text if text.isascii() else "".join(c if c < "\x80" else " " for c in text)
    match = _REST.match(ascii_text)
    return match[0] if match is not None else ""


def _utf8(text: str) -> str:
    """The same characters; a lone surrogate, which re2 does not take, as another that breaks nothing."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return "".join("\ufffd" if "\ud800" <= c <= "\udfff" else c for c in text)
    return text


def _joined(found: list[Credential]) -> list[Credential]:
    """What goes on with a find of the same list becomes a part of it."""
    out: list[Credential] = []
    for item in found:
        if out and item.kind == CONTINUED:
            out[-1] = out[-1]._replace(end=item.end)
        else:
            out.append(item)
    return out
