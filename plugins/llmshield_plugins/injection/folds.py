"""Character folds: what a model reads when it sees look-alikes, marks, styles and invisible characters.

Two folds, each a function of single characters (so that an offset map is a plain walk over the text):
`plain` keeps the script (Cyrillic stays Cyrillic) and drops style: compatibility forms, marks over letters,
invisible characters, exotic spaces and punctuation. `skeleton` goes on to Latin: every look-alike becomes the
Latin letter it imitates, in the sense of UTS #39 (https://www.unicode.org/reports/tr39/#Confusable_Detection).

Rules that keep this file right:
1. A fold is idempotent: no output character is folded again. `_fold_once` is repeated until it is.
2. Tables are derived from `unicodedata` on first sight of a character; only what no name tells is written down.
3. ASCII is never changed here (leet is a view of its own), so ASCII texts do not come here at all.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from typing import Final

from .slices import characters, translated

# More distinct characters than any honest text has; past it, entries are computed and not kept,
# so that a client who sends all 1.1 million code points cannot make the tables grow.
_MAX_ENTRIES: Final = 20_000

# Up to this many distinct characters to change, `str.replace` per character beats `str.translate`
# (0.3-1 us against 114 us per KB of non-ASCII text).
_REPLACE_LIMIT: Final = 40

# What no Unicode name or decomposition tells: Latin letter, then the characters that pass for it.
_LOOKALIKES: Final = """
a аɑαᎪꓮ𐊠ᗩคд
b ЬьɓᏴβꓐ𐊡ƅᏏᗷ๒б
c сϲᏟⅽꓚ𐊢ↄɔᑕς
d ԁᎠꓓɗժᏧⅾᗪ๔
e еєҽᎬεꓰ℮ҿэз
f ϝꓝ𐊇ғſƒքᖴŦ
g ɡցԍᏀꓖɢﻮ
h һհᏂᎻηꓧнᏲᕼђҺ
i іɩιӏᎥꓲ𐊊ıɪїℹเ
j јϳᎫꓙյᒍ
k κкᏦꓗқƙ
l ⅼӀᏞꓡℓǀاןᒪɭ
m мᎷꓟⅿʍᗰ๓
n ոռпᏁꓠиηᑎภ
o оοօᎾꓳ০୦๐ഠסᴑөѳσ๏ӧ
p рρᏢꓑþᑭק
q ԛգʠզᑫ
r гᎡꓣɼᏒяᖇ
s ѕꓢᏚꜱտᔕร
t тτᎢꓔ𐊗ƚ
u υսꓴʋцᴜᑌย
v νѵᏙꓦⅴטᐯש
w ѡᎳꓪԝωшщաᗯฬ
x хχꓫⅹ᙮жא
y уγүꓬყʏчץ
z Ꮓꓜȥʐᘔ
"""

_OTHER: Final = {
    "ß": "ss", "ẞ": "ss", "æ": "ae", "œ": "oe", "Æ": "ae", "Œ": "oe", "ø": "o", "Ø": "o", "ł": "l", "Ł": "l",
    "đ": "d", "Đ": "d", "ð": "d", "Ð": "d", "þ": "th", "Þ": "th", "ı": "i", "ħ": "h", "Ħ": "h", "ŋ": "n",
    "∕": "/", "⁄": "/", "⧸": "/", "∖": "\\", "⧵": "\\", "＼": "\\", "‐": "-", "‑": "-", "‒": "-", "–": "-",
    "—": "-", "―": "-", "−": "-", "‘": "'", "’": "'", "‛": "'", "ʼ": "'", "′": "'", "“": '"', "”": '"',
    "„": '"', "«": '"', "»": '"', "″": '"', "‹": "<", "›": ">", "〈": "<", "〉": ">", "⟨": "<", "⟩": ">",
    "《": "<", "》": ">", "「": '"', "」": '"', "『": '"', "』": '"', "【": "[", "】": "]", "〔": "[", "〕": "]",
    "ǃ": "!", "ǀ": "|", "∣": "|", "│": "|", "｜": "|", "•": "-", "·": ".", "。": ".", "、": ",", "؟": "?",
    "،": ",", "؛": ";", "։": ":", "∶": ":", "׃": ":", "꞉": ":", "˸": ":", "ː": ":",
    # Arabic and Persian letters that keyboards mix, and forms that writers leave out.
    "أ": "ا", "إ": "ا", "آ": "ا", "ٱ": "ا", "ى": "ي", "ی": "ي", "ک": "ك", "ة": "ه", "ؤ": "و", "ئ": "ي",
    # Cherokee and other letters by shape that the by-letter table would read as another letter.
    "Ꮋ": "h", "Ꮍ": "y",
}  # fmt: skip

_DROPPED: Final = frozenset(
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180e\u180f\u2800\u3164\ufeff\uffa0\ufffc"
)
# Combining marks that decorate letters of any script, and vowel points that Arabic and Hebrew leave out.
_MARKS: Final = (
    (0x0300, 0x036F), (0x0483, 0x0489), (0x0591, 0x05C7), (0x0610, 0x061A), (0x064B, 0x065F), (0x0670, 0x0670),
    (0x06D6, 0x06ED), (0x1AB0, 0x1AFF), (0x1DC0, 0x1DFF), (0x20D0, 0x20FF), (0x2DE0, 0x2DFF), (0xA66F, 0xA67D),
    (0xFE20, 0xFE2F), (0x1D165, 0x1D172),
)  # fmt: skip
_STYLE_WORDS: Final = (
    "LATIN LETTER SMALL CAPITAL ", "LATIN SMALL LETTER ", "LATIN CAPITAL LETTER ", "MODIFIER LETTER SMALL ",
    "MODIFIER LETTER CAPITAL ", "NEGATIVE CIRCLED LATIN CAPITAL LETTER ", "NEGATIVE SQUARED LATIN CAPITAL LETTER ",
    "REGIONAL INDICATOR SYMBOL LETTER ", "SQUARED LATIN CAPITAL LETTER ", "PARENTHESIZED LATIN SMALL LETTER ",
    "PARENTHESIZED LATIN CAPITAL LETTER ", "CIRCLED LATIN CAPITAL LETTER ", "CIRCLED LATIN SMALL LETTER ",
    "CROSSED NEGATIVE SQUARED LATIN CAPITAL LETTER ", "COMBINING LATIN SMALL LETTER ",
    "LATIN SUBSCRIPT SMALL LETTER ", "TAG LATIN SMALL LETTER ", "TAG LATIN CAPITAL LETTER ",
    "OUTLINED LATIN CAPITAL LETTER ",
)  # fmt: skip
_SHAPE_WORDS: Final = frozenset({"TURNED", "REVERSED", "INVERTED", "SIDEWAYS", "SCRIPT", "OPEN", "DOTLESS", "LONG",
                                 "CLOSED", "SMALL", "CAPITAL"})  # fmt: skip


def is_invisible(character: str) -> bool:
    """True when a model may read past this character: joiners, bidi controls, selectors, tags, fillers."""
    code = ord(character)
    if code < 0x80:
        return False
    return (
        character in _DROPPED
        or unicodedata.category(character) == "Cf"
        or 0xFE00 <= code <= 0xFE0F
        or 0xE0000 <= code <= 0xE0FFF
        or 0x1D173 <= code <= 0x1D17A
    )


def _latin_by_name(character: str) -> str | None:
    """The Latin letter that a styled, turned or stroked letter is a form of, by its Unicode name."""
    name = unicodedata.name(character, "")
    for start in _STYLE_WORDS:
        if name.startswith(start):
            words = name[len(start) :].split(" WITH ")[0].split()
            letters = [word for word in words if word not in _SHAPE_WORDS]
            if len(letters) == 1 and len(letters[0]) <= 2 and letters[0].isascii():
                return letters[0].lower()
    return None


def _plain_once(character: str) -> str:
    code = ord(character)
    if code < 0x80:
        return character
    if is_invisible(character):
        return ""
    if 0xD800 <= code <= 0xDFFF or 0x80 <= code <= 0x9F:
        return " "
    other = _OTHER.get(character)
    if other is not None:
        return other
    if any(low <= code <= high for low, high in _MARKS):
        return ""
    digit = unicodedata.digit(character, None)
    if digit is not None:
        return str(digit)
    named = _latin_by_name(character)
    if named is not None:
        return named
    category = unicodedata.category(character)
    if category == "Cn" and 0x1D400 <= code <= 0x1D6A3:
        # Holes of the mathematical alphabets, whose letters stand elsewhere: who counts from A to Z falls into them.
        place = (code - 0x1D400) % 52
        return chr(ord("A") + place if place < 26 else ord("a") + place - 26)
    if 0xAC00 <= code <= 0xD7A3:  # Hangul syllables stay whole
        return character
    parts = unicodedata.normalize("NFKD", character)
    if parts != character:
        kept = "".join(c for c in parts if not any(low <= ord(c) <= high for low, high in _MARKS))
        if len(kept) == 3 and kept[0] == "(" and kept[2] == ")":  # parenthesised letters
            kept = kept[1]
        # Recompose what folding did not touch: Devanagari nukta, kana with voicing marks.
        return unicodedata.normalize("NFC", kept)
    if category[0] == "Z" or category in ("Po", "Pd", "Ps", "Pe", "Pi", "Pf", "Pc", "So", "Sm", "Sk", "Sc"):
        return " "
    return character


def _repeat(once: Callable[[str], str], character: str) -> str:
    folded = once(character)
    for _ in range(4):
        again = "".join(once(c) for c in folded)
        if again == folded:
            break
        folded = again
    return folded


def _lookalikes() -> dict[str, str]:
    table: dict[str, str] = {}
    for line in _LOOKALIKES.split("\n"):
        if line:
            latin, _, shapes = line.partition(" ")
            for shape in shapes:
                # The first row that claims a shape keeps it: the table is ordered by letter, shapes repeat.
                for form in (shape, shape.lower(), shape.upper()):
                    if len(form) == 1 and ord(form) > 0x7F:
                        table.setdefault(form, latin)
    return table


_TABLE: Final = _lookalikes()


def _skeleton_once(character: str) -> str:
    found = _TABLE.get(character)
    return found if found is not None else _plain_once(character)


class Fold(dict[int, str]):
    """One fold as a table for `str.translate`, filled as characters are seen (at most 20,000 entries)."""

    def __init__(self, once: Callable[[str], str]) -> None:
        super().__init__((code, chr(code)) for code in range(128))
        self._once = once

    def __missing__(self, code: int) -> str:
        folded = _repeat(self._once, chr(code))
        if len(self) < _MAX_ENTRIES:
            self[code] = folded
        return folded

    def apply(self, text: str) -> str:
        """The folded text. Linear in the length of the text."""
        changed = []
        for character in characters(text):
            if character > "\x7f":
                folded = self[ord(character)]
                if folded != character:
                    changed.append((character, folded))
        if not changed:
            return text
        if len(changed) > _REPLACE_LIMIT:
            return translated(text, self)
        for character, folded in changed:
            text = text.replace(character, folded)
        return text

    def origins(self, text: str) -> list[int]:
        """For each character of `apply(text)` the index in `text` that it comes from, and the end."""
        origins: list[int] = []
        for index, character in enumerate(text):
            count = 1 if character < "\x80" else len(self[ord(character)])
            if count == 1:
                origins.append(index)
            elif count:
                origins.extend([index] * count)
        origins.append(len(text))
        return origins


PLAIN: Final = Fold(_plain_once)
SKELETON: Final = Fold(_skeleton_once)
