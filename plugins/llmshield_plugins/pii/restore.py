"""Putting values back into an answer that arrives in pieces.

A placeholder is found however it was cut, in any case, with Markdown or HTML escapes; only those of this call have
a value, everything else stays as it is. What can't become one of this call's placeholders is not held back.
"""

from __future__ import annotations

import html
from typing import Any
from urllib.parse import quote

import re2

from llmshield_plugins.pii.expressions import readable
from llmshield_plugins.pii.grammar import Part, any_of, maybe, one, repeat, seq
from llmshield_plugins.pii.placeholders import canonical
from llmshield_plugins.pii.segments import MAX_OPEN

EXTRA = 16
"""Characters around a name at most: brackets, escapes, blanks."""


def _escaped(code: str) -> Part:
    """`\\u003c` as JSON inside text spells it."""
    return seq(one(r"\\"), one("[uU]"), one("0"), one("0"), one("3"), one(code))


_open = any_of(
    one("<"),
    seq(one("&"), one("[lL]"), one("[tT]"), one(";")),
    seq(one(r"\\"), one("<")),
    seq(one("%"), one("3"), one("[cC]")),
    _escaped("[cC]"),
    one(r"\x{ff1c}"),
)
_close = any_of(
    one(">"),
    seq(one("&"), one("[gG]"), one("[tT]"), one(";")),
    seq(one(r"\\"), one(">")),
    seq(one("%"), one("3"), one("[eE]")),
    _escaped("[eE]"),
    one(r"\x{ff1e}"),
)
_blank = maybe(one(" "))
_name = seq(one("[A-Za-z]"), repeat(any_of(seq(one(r"\\"), one("_")), one("[A-Za-z0-9_ -]")), 2, 62))


def _compile(part: str) -> Any:
    return re2.compile(part)


_PLACEHOLDER = _compile(f"({_open.full}){_blank.full}({_name.full}?){_blank.full}{_close.full}")
_BEGUN = _compile(f"(?:{seq(_open, _blank, _name, _blank, _close).prefix})\\z")
_LETTERS = _compile(r"(?:<|;|%3[cC]|\\u003[cC]|\x{ff1c}) ?([A-Za-z](?:\\_|[A-Za-z0-9_ -])*)")
_STARTS = frozenset("<&\\%\uff1c")


def untouched(text: str) -> bool:
    """Whether a whole text holds nothing that could begin a placeholder."""
    return _STARTS.isdisjoint(text)


class Restorer:
    """A TextFilter for one channel. `originals`: name -> value, of this call only."""

    __slots__ = ("_held", "_originals", "_prefixes")

    def __init__(self, originals: dict[str, str]) -> None:
        self._originals = originals
        self._prefixes = {name.replace("_", "")[:n] for name in originals for n in range(1, len(name) + 1)}
        self._held = ""

    def feed(self, text: str) -> str:
        if not self._held and _STARTS.isdisjoint(text):
            return text
        text = self._held + text
        keep = self._begun(text)
        self._held = text[keep:]
        return self._restored(text[:keep])

    def flush(self) -> str:
        text, self._held = self._held, ""
        return self._restored(text)

    def _begun(self, text: str) -> int:
        """From where on `text` may be the beginning of one of this call's placeholders."""
        tail = max(0, len(text) - 62 - 2 * EXTRA)
        end = readable(text[tail:])
        start = 0
        while (match := _BEGUN.search(end, start)) is not None and match.start() < len(end):
            letters = _LETTERS.match(match.group())
            if letters is None or self._possible(letters.group(1)):
                return tail + int(match.start())
            start = match.start() + 1
        return len(text)

    def _possible(self, letters: str) -> bool:
        plain = canonical(letters).replace("_", "")
        return not plain or plain in self._prefixes

    def _restored(self, text: str) -> str:
        if not text or _STARTS.isdisjoint(text):
            return text
        out: list[str] = []
        position = 0
        for match in _PLACEHOLDER.finditer(readable(text)):
            value = self._originals.get(canonical(match.group(2)))
            if value is None:
                continue
            start, end = match.span()
            out.append(text[position:start])
            out.append(_as_written(value, match.group(1)))
            position = end
        if not out:
            return text
        out.append(text[position:])
        return "".join(out)


def _as_written(value: str, bracket: str) -> str:
    """The value in the escaping that the placeholder had."""
    if bracket[:1] == "&":
        return html.escape(value, quote=False)
    if bracket[:1] == "%":
        return quote(value, safe="")
    return value


def hold_back(originals: dict[str, str]) -> int:
    """The most characters that a Restorer keeps waiting."""
    return min(MAX_OPEN, max((len(name) for name in originals), default=0) + 2 * EXTRA)
