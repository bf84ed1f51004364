"""Where a text may be cut: the part of the text that decides, before any detector looks.

A text is mostly words that no recogniser cares about, and a few *segments*: digits and what belongs to them, a
token with an at sign, a long run of letters, a street, an announced password. Detectors see one segment at a time
(with the characters before it as context), never the text after it. Where segments begin and end depends on the
text alone and not on how it arrived; so a stream and a whole text have the same segments, therefore the same
findings, and what lies between segments can go on at once.
"""

from __future__ import annotations

from typing import NamedTuple

import re2

from llmshield.secrets_patterns import MAX_PEM
from llmshield_plugins.pii.expressions import Find, finder
from llmshield_plugins.pii.grammar import Part, any_of, edge, lazily, maybe, one, repeat, seq, word
from llmshield_plugins.pii.shapes import INVISIBLE, OTHER_BREAK, shape

CONTEXT = 96
"""Characters before a segment that a detector may look at: context words stand before values."""

MAX_OPEN = 4096
"""Characters that an open segment may reach before it is judged in windows; a PEM block may reach `MAX_PEM`."""

WINDOW_CUT = 3584
"""Where a window of `MAX_OPEN` is cut at the latest, unless a finding lies across."""

CHAIN = 512
"""Characters that tokens in a row (a line of numbers) may reach before they are judged; the cut is at a blank, and
leaves at least `CHAIN_REST` characters, more than any value of several tokens has."""

CHAIN_LEAST, CHAIN_REST = 256, 128

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


# No large counts here: each `{m,n}` multiplies the states of the automaton, and building states is what costs.
_gap = repeat(one(_SPACE), 1, 3)
_spaces = repeat(one(_SPACE), 1, 2)
_blanks = repeat(one(_SPACE), 0, 2)
# One step of a token: an entity (its `;` is no break), a list separator directly before a digit (`4111,1111`), or
# any character that breaks nothing. The beginnings of an entity are such characters themselves.
_entity = Part(seq(one("&"), maybe(one("#")), repeat(one("[A-Za-z0-9]"), 1, 8), one(";")).full, "")
_step = any_of(_entity, seq(one("[,;|]"), one("[0-9]")), one(f"[^{_BREAK}]"))
# Every item ends where its token ends, so that a segment never leaves half a token behind.
_rest = repeat(_step, 0)
_lead = repeat(one(f"[^A-Za-z0-9&{_BREAK}]"), 0)
_digits = repeat(one("[0-9]"), 1)
_letters = repeat(one("[A-Za-z.'-]"), 1)
_short = seq(repeat(one("[A-Z]"), 1), _spaces)

# `GB 29 NWBK 6016`, `KA 01 AB 1234`: capitals before and after a token with digits belong to it.
_hot_token = seq(
    repeat(_short, 0, 2),
    lazily(_step),
    any_of(_entity, one(_HOT)),
    _rest,
    maybe(seq(_spaces, one("[A-Z]"), _rest)),
)
_long_token = seq(repeat(one(f"[^{_BREAK}]"), 12, 12), _rest)

_street_word = _words(
    "rue", "avenue", "av.", "boulevard", "bd", "chemin", "impasse", "place", "quai", "allee", "route", "de", "des", "du",
    "la", "le", "les", "of", "the", "st", "street", "road", "rd", "lane", "ave", "drive", "court", "apt", "suite", "floor", "unit",
)  # fmt: skip
_address = seq(
    _digits,
    _rest,
    repeat(seq(maybe(one(",")), _spaces, any_of(seq(one("[A-Z0-9#]"), _rest), seq(_street_word, edge()))), 1),
    _rest,
)
_date = seq(
    _digits,
    _rest,
    maybe(seq(_spaces, _words("of", "de", "di"))),
    _spaces,
    _letters,
    maybe(one(",")),
    _spaces,
    maybe(seq(_words("del", "de"), _spaces)),
    _digits,
    _rest,
)
_month_first = seq(
    _words("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"),
    repeat(one("[a-z.]"), 0),
    _spaces,
    _digits,
    _rest,
    maybe(one(",")),
    _spaces,
    _digits,
    _rest,
)
_street_first = seq(
    any_of(
        seq(
            repeat(one("[A-Za-z.'-]"), 0),
            _words(
                "strase", "strasse", "str.", "weg", "platz", "allee", "gasse", "laan", "straat", "gracht", "plein", "singel",
                "gatan", "gata", "gate", "gaten", "vagen", "veien", "vegen", "vejen", "vej", "gade", "ntie", "katu", "chaussee",
                "promenade", "ring", "ufer", "damm", "graben", "steig", "hof", "markt", "dijk", "kade", "pfad",
            ),
        ),
        seq(
            one("[A-Z]"), repeat(one("[A-Za-z.-]"), 1), one(" "),
            _words("gate", "gata", "gatan", "vagen", "vei", "veg", "vej", "gade", "utca", "ut", "cesta", "ulica", "straat", "laan", "plass", "plads", "torg"),
        ),
        _words(
            "rue", "calle", "c/", "c.", "cl.", "via", "viale", "vicolo", "piazza", "piazzale", "plaza", "pza", "avenida", "avda",
            "av.", "rua", "travessa", "praca", "alameda", "estrada", "paseo", "corso", "largo", "carrera", "carretera", "camino",
            "ronda", "travesia", "glorieta", "carrer", "passeig", "strada", "lungomare", "ulica", "ul.", "al.", "pl.", "os.",
        ),
    ),
    maybe(one("[.]")),
    repeat(seq(_blanks, _letters), 0, 4),
    maybe(one(",")),
    _spaces,
    _digits,
    _rest,
    maybe(seq(maybe(one(",")), _spaces, _digits, _rest, repeat(seq(_spaces, one("[A-Z]"), _rest), 1))),
)  # fmt: skip
_bracket_open, _bracket_close = one(r"[(\[{<]"), one(r"[)\]}>]")
_dot = any_of(
    seq(_blanks, _bracket_open, _blanks, any_of(word("dot"), one("[.]")), _blanks, _bracket_close, _blanks),
    one("[.]"),
)
_email_at = seq(
    repeat(one("[A-Za-z0-9._%+-]"), 1),
    _blanks, _bracket_open, _blanks, any_of(word("at"), one("@")), _blanks, _bracket_close, _blanks,
    repeat(one("[A-Za-z0-9-]"), 1),
    repeat(seq(_dot, repeat(one("[A-Za-z0-9-]"), 1)), 0),
    _rest,
)  # fmt: skip
_ip_dots = seq(_digits, repeat(seq(_dot, _digits), 3, 3), _rest)
_secret_name = any_of(
    _words(
        "passw", "passphrase", "passcode", "pwd", "secret", "token", "credential", "bearer", "authorization"
    ),
    seq(_words("api", "access", "auth", "account", "private", "signing"), maybe(one("[ _.-]")), word("key")),
)
_announced = seq(
    lazily(one("[A-Za-z0-9_.-]")),
    _secret_name,
    repeat(one("[A-Za-z0-9_-]"), 0),
    repeat(one(r"[\s\"'`:=>)\]]"), 1),
    maybe(seq(any_of(word("is"), word("basic"), word("bearer")), repeat(one(r"[\s\"'`:=]"), 1))),
    repeat(_step, 1),
)
_pem_header = seq(
    repeat(one("-"), 5, 5),
    seq(*(one(c) for c in "BEGIN ")),
    repeat(one("[A-Z0-9 ]"), 0),
    repeat(one("-"), 5, 5),
    _rest,
)
_item = seq(
    _lead,
    any_of(
        _email_at, _ip_dots, _announced, _pem_header, _month_first, _street_first, _address, _date, _hot_token, _long_token
    ),
)  # fmt: skip
_segment = seq(_item, repeat(seq(_gap, _item), 0)).full
# The beginnings of it, with fewer copies of `_item` in them than `seq` would write.
_begun = f"(?:{_item.full}{_gap.full})*{_item.prefix}"


def _compile(pattern: str, memory: int = 64 << 20) -> Find:
    """The expression as a function: where it matches first in `form[start:]`, (-1, -1) for nowhere."""
    options = re2.Options()
    options.max_mem = memory
    options.encoding = re2.Options.Encoding.LATIN1
    return finder(re2.compile(pattern.encode(), options))


# A segment begins where a token begins: the break before it is part of the match. NEXT finds, at the first place
# where there is either, what reaches the end and may go on, or else a complete segment. Its memory is a bound: what
# does not fit is dropped and made again, 20 us and more for each state.
_ANY_BREAK = _compile(f"[{_BREAK}]")
SEGMENT = _compile(rf"(?:\A|[{_BREAK}]){_segment}")
NEXT = _compile(rf"(?:\A|[{_BREAK}])(?:{_begun}\z|{_segment})", 128 << 20)


class Segment(NamedTuple):
    """A piece of text to be judged; decided up to `cut`, which is `end` unless this is a window of a longer one."""

    start: int
    end: int
    cut: int


def next_segment(text: str, form: bytes, start: int, final: bool) -> tuple[Segment | None, int]:
    """The first complete segment at or after `start`, and where the text must be held if there is none.

    `form` is `shape(text)`. `final`: nothing follows. A returned segment will be the same whatever follows.
    """
    base = 0
    if 0 < start < len(form):
        if form[start - 1] in BREAK_BYTES:
            start -= 1
        elif form[start] not in BREAK_BYTES:
            # Inside a token, after a window: what is left of it counts as a token.
            if len(form) - start >= MAX_OPEN and _ANY_BREAK(form[start : start + MAX_OPEN], 0)[0] < 0:
                return Segment(start, start + MAX_OPEN, start + WINDOW_CUT), start
            form, base, start = b" " + form[start:], start - 1, 0
    size = len(form)
    first, last = _span(SEGMENT if final else NEXT, form, start)
    if last == size and not final and size - first >= MAX_OPEN:
        begun = first
        first, last = _span(SEGMENT, form, start)
        if last - first < MAX_OPEN:
            if size - begun < 2 * MAX_OPEN:
                return None, begun + base
            # Nothing but a beginning (a name and thousands of blanks): it may not wait for ever.
            first, last = begun, begun + MAX_OPEN
    elif first == size:
        return None, first + base
    elif last == size and not final:
        # Still open: a row of tokens may be long enough to be cut all the same.
        seen = _span(SEGMENT, form, start) if size - first >= CHAIN else (size, size)
        if seen[0] != first or seen[1] - first < CHAIN or not _blank(form, first):
            return None, first + base
        last = seen[1]
    if last - first >= CHAIN and (cut := _blank(form, first)):
        return Segment(first + base, first + base + CHAIN, cut + base), first + base
    if last - first >= MAX_OPEN:
        return Segment(first + base, first + base + MAX_OPEN, first + base + WINDOW_CUT), first + base
    segment = Segment(first + base, last + base, last + base)
    return _pem(text, segment, final) if _BEGIN in form[first:last] else (segment, first + base)


def quiet_until(text: str, start: int) -> int:
    """What `next_segment` says of nearly every piece of a stream, in a third of the time: where `text` must be held,
    there being no complete segment at or after `start`; -1 where it takes the whole look."""
    form = text.encode() if text.isascii() else shape(text)
    size = len(form)
    if 0 < start < size:
        if form[start - 1] in BREAK_BYTES:
            start -= 1
        elif form[start] not in BREAK_BYTES:
            return -1
    first, last = NEXT(form, start)
    if first < 0:
        return size
    if first < last and form[first] in BREAK_BYTES:
        first += 1
    return first if first == size or (last == size and size - first < CHAIN) else -1


def _blank(form: bytes, first: int) -> int:
    """Where a row of tokens that begins at `first` is cut; 0: nowhere, it is one long token."""
    return max(0, form.rfind(b" ", first + CHAIN_LEAST, first + CHAIN - CHAIN_REST))


def _span(expression: Find, form: bytes, start: int) -> tuple[int, int]:
    """Where the expression matches first, without the break before it; both the length where it does not."""
    first, last = expression(form, start)
    if first < 0:
        return len(form), len(form)
    return (first + 1 if first < last and form[first] in BREAK_BYTES else first), last


_BEGIN = b"-----BEGIN "


def _pem(text: str, segment: Segment, final: bool) -> tuple[Segment | None, int]:
    """The segment, stretched over the private key that begins in it."""
    begin = text.find("-----BEGIN ", segment.start, segment.end)
    if "PRIVATE KEY" not in text[begin : segment.end]:
        return segment, segment.start
    end = text.find("-----END", begin, begin + MAX_PEM)
    close = text.find("-----", end + 8, end + 88) if end >= 0 else -1
    if close >= 0:
        end = max(segment.end, close + 5)
        return Segment(segment.start, end, end), segment.start
    if final or len(text) - begin >= MAX_PEM + 88:
        end = min(len(text), begin + MAX_PEM + 88)
        return Segment(segment.start, end, end), segment.start
    return None, segment.start


def token_start(form: bytes, position: int) -> int:
    """The beginning of the token that holds `position`, so that a cut there splits no token."""
    while position > 0 and form[position - 1] not in BREAK_BYTES:
        position -= 1
    return position


BREAK_BYTES = frozenset(b' \t\n\r\f\v\x1c\x1d\x1e\x1f"<>{}[]|`,;\x01')
