"""Where a text may be cut: the part of the text that decides, before any detector looks.

A text is mostly words that no recogniser cares about, and a few *segments*: digits and what belongs to them, a
token with an at sign, a long run of letters, a street, an announced password. Detectors see one segment at a time
(with the characters before it as context), never the text after it. Where segments begin and end depends on the
text alone and not on how it arrived; so a stream and a whole text have the same segments, therefore the same
findings, and what lies between segments can go on at once.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import re2

from llmshield.secrets_patterns import MAX_PEM
from llmshield_plugins.pii.grammar import Part, any_of, edge, lazily, maybe, one, repeat, seq, word
from llmshield_plugins.pii.shapes import INVISIBLE, OTHER_BREAK

CONTEXT = 96
"""Characters before a segment that a detector may look at: context words stand before values."""

MAX_OPEN = 4096
"""Characters that an open segment may reach before it is judged in windows; a PEM block may reach `MAX_PEM`."""

WINDOW_CUT = 3584
"""Where a window of `MAX_OPEN` is cut at the latest, unless a finding lies across."""

# All expressions here read the *shape* of a text (`shapes.py`): one ASCII byte for each character, so that they
# stay small and their offsets are code points. Written over Unicode classes, the same grammar has 3.5 million
# instructions.
#
# Between two tokens: blanks, quotes, brackets, list punctuation, and every character of the scripts that write no
# blanks (an e-mail address may stand directly beside Chinese text).
_BREAK = r"\s\x0b\x1c-\x1f\"<>{}\[\]|`,;" + OTHER_BREAK
# What makes a token worth a look: any digit of any script, at signs, an entity, invisible characters.
_HOT = r"[0-9@&" + INVISIBLE + "]"

_SPACE = "[ \\t]"


def _words(*literals: str) -> Part:
    return any_of(*(word(literal) for literal in literals))


_gap = repeat(one(_SPACE), 1, 3)
# One step of a token: an entity (its `;` is no break), a list separator directly before a digit (`4111,1111`), or
# any character that breaks nothing.
_entity = seq(one("&"), maybe(one("#")), repeat(one("[A-Za-z0-9]"), 1, 8), one(";"))
_step = any_of(_entity, seq(one("[,;|]"), one("[0-9]")), one(f"[^{_BREAK}]"))
_rest = repeat(_step, 0)
_capital = one(r"[A-Z]")
_short = seq(edge(), repeat(_capital, 1, 4), repeat(one(_SPACE), 1, 2))

# `GB 29 NWBK 6016`, `KA 01 AB 1234`: short capitals before and after a token with digits belong to it.
_hot_token = seq(
    repeat(_short, 0, 2),
    lazily(_step),
    any_of(_entity, one(_HOT)),
    _rest,
    maybe(seq(repeat(one(_SPACE), 1, 2), repeat(_capital, 1, 4), edge())),
)
_long_token = seq(repeat(_step, 16, 16), _rest)

_street_word = _words(
    "rue", "avenue", "av.", "boulevard", "bd", "chemin", "impasse", "place", "quai", "allee", "route", "de", "des", "du",
    "la", "le", "les", "of", "the", "st", "street", "road", "rd", "lane", "ave", "drive", "court", "apt", "suite", "floor", "unit",
)  # fmt: skip
_address = seq(
    repeat(one("[0-9]"), 1, 6),
    maybe(one("[A-Za-z]")),
    repeat(
        seq(
            maybe(one(",")),
            repeat(one(_SPACE), 1, 2),
            any_of(seq(one("[A-Z0-9#]"), _rest), seq(_street_word, edge())),
        ),
        1,
        12,
    ),
)
_date = seq(
    repeat(one("[0-9]"), 1, 2),
    maybe(any_of(one("[.]"), _words("st", "nd", "rd", "th"))),
    maybe(seq(repeat(one(_SPACE), 1, 2), _words("of", "de", "di"))),
    repeat(one(_SPACE), 1, 2),
    repeat(one(f"[^{_BREAK}]"), 3, 12),
    repeat(one(_SPACE), 1, 2),
    maybe(seq(_words("del", "de"), repeat(one(_SPACE), 1, 2))),
    repeat(one("[0-9]"), 2, 4),
    _rest,
)
_month_first = seq(
    edge(),
    _words("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"),
    repeat(one("[a-z.]"), 0, 7),
    repeat(one(_SPACE), 1, 2),
    repeat(one("[0-9]"), 1, 2),
    maybe(_words("st", "nd", "rd", "th")),
    maybe(one(",")),
    repeat(one(_SPACE), 1, 2),
    repeat(one("[0-9]"), 4, 4),
    _rest,
)
_street_first = seq(
    any_of(
        seq(repeat(one(r"[A-Za-z.-]"), 2, 40), _words("strase", "strasse", "str.", "weg", "platz", "allee", "gasse", "laan", "straat")),
        seq(edge(), _words("calle", "via", "viale", "piazza", "plaza", "avenida", "av.", "rua", "paseo", "corso", "largo", "carrera", "ulica", "ul.")),
    ),
    repeat(seq(_gap, repeat(one(r"[A-Za-z.'-]"), 1, 24)), 0, 4),
    maybe(one(",")),
    _gap,
    one("[0-9]"),
    _rest,
    maybe(seq(maybe(one(",")), _gap, repeat(one("[0-9]"), 4, 5), repeat(seq(_gap, one("[A-Z]"), _rest), 1, 3))),
)  # fmt: skip
_bracket_open, _bracket_close = one(r"[(\[{<]"), one(r"[)\]}>]")
_blanks = repeat(one(_SPACE), 0, 2)
_dot = any_of(
    seq(_blanks, _bracket_open, _blanks, any_of(word("dot"), one("[.]")), _blanks, _bracket_close), one("[.]")
)
_email_at = seq(
    repeat(one(r"[A-Za-z0-9._%+-]"), 1, 64),
    _blanks, _bracket_open, _blanks, any_of(word("at"), one("@")), _blanks, _bracket_close, _blanks,
    repeat(one(r"[A-Za-z0-9-]"), 1, 63),
    repeat(seq(_dot, _blanks, repeat(one(r"[A-Za-z0-9-]"), 1, 63)), 0, 4),
    _rest,
)  # fmt: skip
_secret_name = _words(
    "passw",
    "passphrase",
    "passcode",
    "pwd",
    "secret",
    "token",
    "credential",
    "bearer",
    "authorization",
)
_secret_name = any_of(
    _secret_name,
    seq(_words("api", "access", "auth", "account", "private", "signing"), maybe(one("[ _.-]")), word("key")),
)
_announced = seq(
    _secret_name,
    repeat(one(r"[A-Za-z0-9_-]"), 0, 24),
    repeat(one(r"[\s\"'`:=>)\]]"), 1, 10),
    maybe(seq(any_of(word("is"), word("basic"), word("bearer")), repeat(one(r"[\s\"'`:=]"), 1, 4))),
    repeat(_step, 1),
)  # fmt: skip
_pem_header = seq(
    repeat(one("-"), 5, 5),
    seq(*(one(c) for c in "BEGIN ")),
    repeat(one("[A-Z0-9 ]"), 0, 48),
    repeat(one("-"), 5, 5),
)
_ip_dots = seq(
    repeat(one("[0-9]"), 1, 3), repeat(seq(_dot, _blanks, repeat(one("[0-9]"), 1, 3)), 3, 3), _rest
)
_item = any_of(
    _email_at,
    _ip_dots,
    _announced,
    _pem_header,
    _month_first,
    _street_first,
    _address,
    _date,
    _hot_token,
    _long_token,
)
_segment = seq(_item, repeat(seq(_gap, _item), 0))


def _compile(pattern: str) -> Any:
    options = re2.Options()
    options.max_mem = 64 << 20
    options.encoding = re2.Options.Encoding.LATIN1
    return re2.compile(pattern.encode(), options)


SEGMENT = _compile(_segment.full)
OPEN = _compile(_segment.prefix + r"\z")


class Segment(NamedTuple):
    """A piece of text to be judged. `whole` is False for a window of a longer one, which may be cut anywhere."""

    start: int
    end: int
    whole: bool


def next_segment(text: str, form: bytes, start: int, final: bool) -> tuple[Segment | None, int]:
    """The first complete segment at or after `start`, and where the text must be held if there is none.

    `form` is `shape(text)`. `final`: nothing follows. A returned segment will be the same whatever follows.
    """
    match = SEGMENT.search(form, start)
    hold = len(text) if final else _open(form, start)
    if match is None:
        return None, hold
    first, last = match.span()
    if last - first >= MAX_OPEN:
        return Segment(first, first + MAX_OPEN, False), hold
    if first >= hold:
        return None, hold
    if _BEGIN in form[first:last]:
        return _pem(text, Segment(first, last, True), final)
    return Segment(first, last, True), hold


def _open(form: bytes, start: int) -> int:
    """From where on the text may be the beginning of a segment."""
    match = OPEN.search(form, start)
    return len(form) if match is None else int(match.start())


_BEGIN = b"-----BEGIN "


def _pem(text: str, segment: Segment, final: bool) -> tuple[Segment | None, int]:
    """The segment, stretched over the private key that begins in it."""
    begin = text.find("-----BEGIN ", segment.start, segment.end)
    if "PRIVATE KEY" not in text[begin : segment.end]:
        return segment, segment.start
    end = text.find("-----END", begin, begin + MAX_PEM)
    close = text.find("-----", end + 8, end + 88) if end >= 0 else -1
    if close >= 0:
        return Segment(segment.start, max(segment.end, close + 5), True), segment.start
    if final or len(text) - begin >= MAX_PEM + 88:
        return Segment(segment.start, min(len(text), begin + MAX_PEM + 88), True), segment.start
    return None, segment.start


def token_start(form: bytes, position: int) -> int:
    """The beginning of the token that holds `position`, so that a cut there splits no token."""
    while position > 0 and form[position - 1] not in _BREAK_BYTES:
        position -= 1
    return position


_BREAK_BYTES = frozenset(b' \t\n\r\f\v\x1c\x1d\x1e\x1f"<>{}[]|`,;\x01')
