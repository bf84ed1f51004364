"""Putting values back into an answer that arrives in pieces.

A placeholder is found however it was cut: in any case, in brackets of other scripts, with Markdown, HTML, URL and JSON
escapes, in quotes, with an ending (`<PERSON_1>s`, `<PERSON_1's>`), and without its brackets where it is written just as
it was given. Only those of this call have a value, everything else stays as it is. What can't become one of this call's
placeholders is not held back.
"""

from __future__ import annotations

import html
import json
from collections.abc import Mapping
from urllib.parse import quote

import re2

from llmshield_plugins.pii.expressions import narrow
from llmshield_plugins.pii.grammar import Part, any_of, maybe, one, repeat, seq, word
from llmshield_plugins.pii.json_text import JsonText
from llmshield_plugins.pii.placeholders import canonical
from llmshield_plugins.pii.segments import MAX_OPEN

EXTRA = 16
"""Characters on each side of a name at most: brackets, escapes, quotes, blanks."""
_LONGEST = 62


def _bracket(sign: str, code: str, entity: str, others: str) -> Part:
    """A bracket as texts in HTML, Markdown, URLs and JSON spell it, or one of another script."""
    low, high = code[0], f"[{code[1].lower()}{code[1].upper()}]"
    return any_of(
        one(rf"[{sign}{others}]"),
        seq(one("&"), maybe(word("amp;")), any_of(word(entity), word("#60" if sign == "<" else "#62"), seq(word("#x"), one(low), one(high))), one(";")),
        seq(one(r"\\"), maybe(one(r"\\")), one(sign)),
        seq(one("%"), maybe(seq(one("2"), one("5"))), one(low), one(high)),
        seq(one(r"\\"), maybe(one(r"\\")), any_of(seq(one("[uU]"), one("0"), one("0")), one("x")), one(low), one(high)),
    )  # fmt: skip


_open = _bracket("<", "3c", "lt", r"\x{300a}\x{3008}\x{ab}\x{2039}\x{27e8}\x{2329}")
_close = _bracket(">", "3e", "gt", r"\x{300b}\x{3009}\x{bb}\x{203a}\x{27e9}\x{232a}")
_signs = repeat(one("[ \"'`*~]"), 0, 4)
_name = seq(
    one("[A-Za-z]"),
    repeat(
        any_of(seq(one(r"\\"), maybe(one(r"\\")), one("_")), one(r"[A-Za-z0-9_ '\x{2019}-]")), 2, _LONGEST
    ),
)

_PLACEHOLDER = re2.compile(f"({_open.full}){_signs.full}({_name.full}?){_signs.full}{_close.full}")
_BEGUN = re2.compile(f"(?:{seq(_open, _signs, _name, _signs, _close).prefix})\\z")
_LETTERS = re2.compile(rf"{_open.full}{_signs.full}([A-Za-z](?:\\{{1,2}}_|[A-Za-z0-9_ '\x{{2019}}-])*)")
_ENDING = re2.compile(r"^(.*[0-9])(['\x{2019}]?[A-Za-z]{1,2}|['\x{2019}])$")
"""What a model writes behind a name that it bends: `PERSON_1's`, `PERSON_1s`, `PERSON_1'`."""
_BARE = re2.compile(r"\b[A-Z][A-Z0-9_]*_[0-9]+\b")
_BARE_BEGUN = re2.compile(r"\b[A-Z][A-Z0-9_]*\z")
_STARTS = frozenset("<&\\%\u300a\u3008\u00ab\u2039\u27e8\u2329\uff1c")
_OF_NAMES = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")


class Originals:
    """The values of one call, ready for the restorers of its channels. `values`: name -> value."""

    __slots__ = ("_bare", "_prefixes", "hold_back", "quoted", "values")

    def __init__(self, values: Mapping[str, str]) -> None:
        self.values = values
        self._prefixes = frozenset(
            name.replace("_", "")[:n] for name in values for n in range(1, len(name) + 1)
        )
        self._bare = frozenset(name[:n] for name in values for n in range(1, len(name) + 1))
        self.quoted = any(_quoted(value) != value for value in values.values())
        """Whether a value would break JSON text that it is put into as it is."""
        self.hold_back = min(MAX_OPEN, max((len(name) for name in values), default=0) + 2 * EXTRA)
        """The most characters that a Restorer keeps waiting."""

    def untouched(self, text: str) -> bool:
        """Whether a whole text holds nothing that could begin a placeholder."""
        return "_" not in text and _STARTS.isdisjoint(text)

    def begun(self, text: str) -> int:
        """From where on `text` may be the beginning of one of these placeholders."""
        tail = max(0, len(text) - _LONGEST - 2 * EXTRA)
        end = narrow(text[tail:])
        start = 0
        found = len(end)
        while (match := _BEGUN.search(end, start)) is not None and match.start() < len(end):
            letters = _LETTERS.match(match.group())
            if letters is None or self._possible(letters.group(1)):
                found = int(match.start())
                break
            start = match.start() + 1
        bare = _BARE_BEGUN.search(end)
        if bare is not None and bare.start() < found and bare.group() in self._bare:
            found = int(bare.start())
        return tail + found

    def _possible(self, letters: str) -> bool:
        plain = canonical(letters).replace("_", "")
        if not plain or plain in self._prefixes:
            return True
        ending = _ENDING.match(plain)
        return ending is not None and ending.group(1) in self._prefixes

    def value(self, name: str) -> str | None:
        """The value of a name in whatever spelling, with the ending that it has."""
        found = self.values.get(canonical(name))
        if found is not None:
            return found
        ending = _ENDING.match(name.strip(" \\"))
        if ending is None:
            return None
        found = self.values.get(canonical(ending.group(1)))
        return None if found is None else found + str(ending.group(2))


class Restorer:
    """A TextFilter for one channel."""

    __slots__ = ("_before", "_held", "_json", "_of")

    def __init__(self, of: Originals) -> None:
        self._of = of
        self._held = ""
        self._before = ""
        self._json = JsonText() if of.quoted else None

    def feed(self, text: str) -> str:
        """What can go out now."""
        if not self._held and text[-1:] not in _OF_NAMES and self._of.untouched(text):
            return self._let_go(text)
        text = self._held + text
        keep = self._of.begun(text)
        self._held = text[keep:]
        return self._let_go(text[:keep])

    def flush(self) -> str:
        """The rest."""
        text, self._held = self._held, ""
        return self._let_go(text)

    def _let_go(self, text: str) -> str:
        if not text:
            return ""
        found = self._found(text)
        if not found:
            self._before = text[-1]
            if self._json is not None:
                self._json.feed(text)
            return text
        out: list[str] = []
        position = 0
        for start, end, value, bracket in found:
            self._pass(text[position:start], out)
            written = _as_written(value, bracket)
            if self._json is not None and self._json.in_string and not _in_json(bracket):
                written = _quoted(written)
            out.append(written)
            position = end
        self._pass(text[position:], out)
        self._before = text[-1]
        return "".join(out)

    def _pass(self, text: str, out: list[str]) -> None:
        out.append(text)
        if self._json is not None:
            self._json.feed(text)

    def _found(self, text: str) -> list[tuple[int, int, str, str]]:
        """Placeholders of this call in a text that ends with none: where they are, their values, their brackets."""
        if self._of.untouched(text):
            return []
        plain = narrow(text)
        found: list[tuple[int, int, str, str]] = []
        for match in _PLACEHOLDER.finditer(plain):
            value = self._of.value(match.group(2))
            if value is not None:
                found.append((*match.span(), value, match.group(1)))
        for match in _BARE.finditer(plain):
            start, end = match.span()
            value = self._of.values.get(match.group())
            before = self._before if start == 0 else plain[start - 1]
            if (
                value is None
                or _joins(before)
                or any(start < last and first < end for first, last, _, _ in found)
            ):
                continue
            found.append((start, end, value, ""))
        return sorted(found)


def _joins(neighbour: str) -> bool:
    """Whether a name behind this character is the rest of a longer word."""
    return neighbour.isalnum() or neighbour == "_"


def _as_written(value: str, bracket: str) -> str:
    """The value in the escaping that the placeholder had."""
    if bracket[:1] == "&":
        escaped = html.escape(value, quote=False)
        return escaped.replace("&", "&amp;") if bracket[:5].lower() == "&amp;" else escaped
    if bracket[:1] == "%":
        return quote(quote(value, safe=""), safe="") if bracket[:3] == "%25" else quote(value, safe="")
    if _in_json(bracket):
        return _quoted(_quoted(value)) if bracket[1:2] == "\\" else _quoted(value)
    return value


def _in_json(bracket: str) -> bool:
    """Whether a bracket was written as JSON writes it: `\\u003c`."""
    return bracket[:1] == "\\" and bracket[-1:] != "<"


def _quoted(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)[1:-1]
