"""Which views of a text are worth building: the triggers that tell, and the views that follow from them.

A trigger is a pattern that rides in the same re2 Set as the signatures, so that a plain text pays for one pass
and nothing else. It costs little to fire: what a view holds counts only if signatures match in it.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Iterator
from typing import Final, Literal, NamedTuple

import re2

from . import alphabets, encodings, escapes, hidden, longwords, markup, nearby, spellings
from .folds import PLAIN, SKELETON, is_invisible
from .matcher import Pattern
from .slices import at_blanks, characters, translated
from .view import Piece, View, edited, folded, mirrored, same_length, without

Make = Callable[[View], Iterable[View]]
MAX_DEPTH: Final = 3

# Everyday words and tokens of many languages and programs. A text that holds none of them is worth reading as
# a transposition cipher; one that holds any is not.
COMMON: Final = (
    r"\b(?:the|and|you|your|are|for|with|this|that|what|how|can|please|was|not|have|has|but|from|all|any|will|would|"
    r"should|could|there|their|they|she|her|his|him|who|why|when|where|which|about|into|one|two|new|use|using|get|"
    r"make|need|want|help|tell|give|write|show|like|know|does|did|list|find|some|more|than|then|them|its|our|out|"
    r"des|les|une|est|que|por|para|con|los|las|del|der|die|das|und|ist|nicht|ein|eine|den|mit|auf|che|per|non|sono|"
    r"het|een|van|och|att|det|som|nie|jest|bir|dan|yang|ini|untuk|egy|hogy|nao|uma|com|def|return|import|class|"
    r"function|var|const|let|int|self|none|true|false|null|http|https|www|org)\b"
)
# Words about attacks; beside a quoted attack they make it a mention, not an order.
TALK: Final = (
    r"\b(?:prompt.?injections?|jailbreak(?:s|ing)?|attacks?|attackers?|adversar\w+|phrases? (?:like|such as|'|\")|e\.g|"
    r"for example|for instance|such as|what does|the meaning of|detect\w*|classif\w*|red.?team\w*|vulnerabilit\w+|"
    r"security|malicious|known as|so.?called|defen[sc]e|defend|injected|suspicious|research\w*)\b"
)

_KEEP, _ONLY = True, False


def _in_place(name: str, decode: Callable[[str], Iterator[Piece]]) -> Make:
    def make(view: View) -> Iterable[View]:
        made = edited(name, view, decode(view.text), keep=_KEEP)
        return () if made is None else (made,)

    return make


def _payload(name: str, decode: Callable[[str], Iterator[Piece]]) -> Make:
    def make(view: View) -> Iterable[View]:
        made = edited(name, view, decode(view.text), keep=_ONLY, deeper=True)
        return () if made is None else (made,)

    return make


def _cipher(name: str, table: dict[int, int]) -> Make:
    return lambda view: (_deeper(same_length(name, view, translated(view.text, table))),)


def _deeper(view: View) -> View:
    view.depth += 1
    return view


def _backwards(view: View) -> Iterable[View]:
    yield mirrored("reversed", view, view.text[::-1])
    yield _deeper(same_length("words_reversed", view, spellings.words_backwards(view.text)))


def _word_order(view: View) -> Iterable[View]:
    size = len(view.text)
    yield View(
        "word_order",
        spellings.word_order_backwards(view.text),
        view,
        lambda start, end: (0, size),
        deeper=True,
    )


def _leet(view: View) -> Iterable[View]:
    yield same_length("leet", view, translated(view.text, spellings.LEET))
    if "1" in view.text or "!" in view.text or "|" in view.text:
        yield same_length("leet", view, translated(view.text, spellings.LEET_L))


def _unmarked(view: View) -> Iterable[View]:
    made = without("unmarked", view, spellings.MARKS)
    if made is not view:
        yield made
    if "_" in view.text:
        yield same_length("unmarked", view, view.text.replace("_", " "))


def _spaced(view: View) -> Iterable[View]:
    for name, pieces, keep in (
        ("spaced", spellings.interleaved(view.text), _KEEP),
        ("spaced", spellings.spaced(view.text), _KEEP),
        ("worded", spellings.worded(spellings.squeezed(view.text)), _KEEP),
        ("squeezed", spellings.squeezed(view.text), _ONLY),
    ):
        made = edited(name, view, pieces, keep=keep)
        if made is not None:
            yield made
            if name == "spaced" and any(map(str.isdigit, made.text)):
                yield from _leet(made)


def _near(make: Make, changes: Callable[[str], nearby.Changes], telling: nearby.Telling) -> Make:
    """The same views, of what stands around places where they show a word that counts."""

    def made(view: View) -> Iterable[View]:
        places = telling.places(changes(view.text))
        return make(nearby.excerpt(view, places)) if places else ()

    return made


def _ciphers(words: Iterable[str]) -> Iterator[tuple[str, Make]]:
    """A trigger for each shift of Caesar's cipher, Atbash, ROT47 and mirror writing of these words."""
    every = list(words)
    lettered = [word for word in every if any("a" <= letter <= "z" for letter in word.lower())]

    def trigger(change: Callable[[str], str], of: list[str], *, capitals: bool = False) -> str:
        # All words at once: a policy may deny thousands.
        forms = "\n".join(dict.fromkeys((*spellings.KEYWORDS, *(word.lower()[:_TELLING] for word in of))))
        if capitals:
            forms = f"{forms}\n{forms.title()}"
        return "|".join(dict.fromkeys(change(forms).lower().translate(_ESCAPED).split("\n")))

    for shift in range(1, 26):
        there, back = spellings.CAESAR[shift], spellings.CAESAR[26 - shift]
        make = _cipher("rot13" if shift == 13 else f"caesar{shift}", back)
        yield trigger(_translated(there), lettered), make
    yield trigger(_translated(spellings.ATBASH), lettered), _cipher("atbash", spellings.ATBASH)
    # ROT47 takes capitals elsewhere than small letters.
    yield trigger(_translated(spellings.ROT47), every, capitals=True), _cipher("rot47", spellings.ROT47)
    yield trigger(lambda word: word[::-1], every), _backwards


def _cut_words() -> str:
    """Key words with a blank or the end of a line in them."""
    cuts = (
        rf"{word[:at]}{spellings.CUT}{word[at:]}" for word in spellings.KEYWORDS for at in range(1, len(word))
    )
    return rf"\b(?:{'|'.join(cuts)})"


# Eight letters of a user's literal are enough to make a text worth deciphering; the whole ones take three times as long
# to compile.
_TELLING: Final = 8
# A backslash before every mark and blank, which patterns would read as something else.
_ESCAPED: Final = {code: f"\\{chr(code)}" for code in range(32, 127) if not chr(code).isalnum()}


def _translated(table: dict[int, int]) -> Callable[[str], str]:
    return lambda word: word.translate(table)


class Trigger(NamedTuple):
    """A pattern that makes a view worth building, and what to do with the view.

    `open`: all that fire are applied one after the other, and the last result is read on; `read`: each result is
    read on by itself; `end`: its words are matched, nothing further is made of it.
    """

    pattern: Pattern
    make: Make
    then: Literal["open", "read", "end"]
    by_words: bool = False
    """Whether a long word of plain prose makes it fire: `LongWords` says if it counts."""


# Escapes that wreck a text that merely looks as if it had them: read apart from the others.
_APART: Final = frozenset({"quoted_printable", "utf7"})


# Where the triggers of encodings are looked for; the others' among the forms.
_GROUPS: Final = {
    **dict.fromkeys(("base64", "base32", "base58", "base85", "base85_rfc"), "runs"),
    **dict.fromkeys(("hex", "binary", "octal", "decimal"), "digits"),
    "nato": "ciphers",
}


def triggers(
    telling: nearby.Telling, long_words: longwords.LongWords, words: Iterable[str] = ()
) -> list[Trigger]:
    """All triggers, `open` ones first and in the order in which they are applied.

    `words` are literals of the user's that are to be found in ciphers as well.
    """
    out: list[Trigger] = []

    def add(
        pattern: str,
        make: Make,
        then: Literal["open", "read", "end"],
        group: str = "forms",
        *,
        by_words: bool = False,
    ) -> None:
        out.append(Trigger(Pattern(pattern, group), make, then, by_words))

    for name, pattern, decode in escapes.ESCAPES:
        make = _in_place(name, decode)
        if name in _APART:
            add(pattern, _near(make, nearby.unescaped(decode), telling), "read")
        else:
            add(pattern, make, "open")
    add(r"<[a-z!?/]", _in_place("tags", markup.without_tags), "open")
    add(r"\]\(", _in_place("links", markup.link_labels), "end")
    add(
        r"""["'][ \t]?(?:\+|\.|&|,|\|\|)[ \t]?\r?\n?[ \t]*["']|[a-z]-\r?\n[a-z]""",
        _near(_in_place("joined", spellings.joined), nearby.glued, telling),
        "end",
    )
    add(
        r"""["'][ \t]*\r?\n[ \t]*["']""",
        _near(_in_place("joined", spellings.concatenated), nearby.glued, telling),
        "end",
    )
    add(_cut_words(), _in_place("mended", spellings.mended), "end", "ciphers")
    add(r"[a-z][*_`~\\\[\]{}()|^]{1,6}[a-z]", _near(_unmarked, nearby.marked, telling), "end")
    add(rf"(?:[a-z0-9@$!|]{spellings.BETWEEN}){{5}}", _near(_spaced, nearby.apart, telling), "end")
    add(rf"[a-z0-9]{{{longwords.SHORTEST}}}", long_words.views, "end", "runs", by_words=True)
    add(
        r"[a-z][0134579@$!|+8][a-z0-9@$!|]|\b[0134579@$!|8][a-z]{1,4}[0134579@$!|8]|\b[0134579@$!|8][a-z]{2}",
        _near(_leet, nearby.figured, telling),
        "end",
    )
    add(
        r"\b(?:prompt|instructions?|directions|rules?|guidelines?|restrictions?|polic(?:y|ies)|filters?|message)\b[^\n]*"
        r"\b(?:ignore|disregard|forget|reveal|repeat|print|override|bypass|pretend|stop|output)\b",
        _word_order,
        "end",
    )
    add(r"(?:^|\s)={1,2}[a-z0-9+/]{12}", lambda view: (mirrored("reversed", view, view.text[::-1]),), "read")
    for name, pattern, decode in encodings.ENCODINGS:
        add(pattern, _payload(name, decode), "read", _GROUPS.get(name, "forms"))
    for pattern, make in _ciphers(words):
        add(pattern, make, "read", "ciphers")
    return out


# A text shorter than this is not searched for binary data.
BLOB_MIN: Final = 512


def without_blobs(text: str) -> str:
    """The text with long binary data blanked, at the same length; the same object if it holds none.

    Random letters are what an automaton of many patterns is slowest on: it meets no state twice (3 us a letter).
    """
    parts: list[str] = []
    last = 0
    for start, end in encodings.blobs(text):
        parts += (text[last:start], " " * (end - start))
        last = end
    return "".join((*parts, text[last:])) if last else text


# Letters that only turned writing has.
_TURNED: Final = frozenset("ɐɔǝɟɥᴉɯɹʇʌʍʎƃɓʞıɾ")


_SPELLED: Final = re2.compile(r"(?i)(?:\b[a-z0-9]\b[^a-z0-9]{1,3}){6}")


def _says_something(skeleton: str, plain: str, telling: nearby.Telling) -> bool:
    """Whether words come out under the second fold that a signature knows, or letters with blanks between them.

    Most honest texts beyond ASCII are in another script, and read as Latin they are nonsense.
    """
    words: set[str] = set()
    for part in at_blanks(skeleton):
        words.update(part.split())
    for part in at_blanks(plain):
        words.difference_update(part.split())
    return telling(" ".join(words)) or _SPELLED.search(skeleton) is not None


def of_unicode(view: View, telling: nearby.Telling) -> Iterator[View]:
    """The views of a text beyond ASCII: folded, as Latin, and what it hides."""
    plain = folded("plain", view, PLAIN)
    yield plain
    skeleton = folded("skeleton", view, SKELETON)
    if (
        skeleton is not view
        and skeleton.text != plain.text
        and _says_something(skeleton.text, plain.text, telling)
    ):
        yield skeleton
    seen = characters(view.text)
    unseen = [c for c in seen if is_invisible(c)]
    if unseen:
        # Between words, as blanks: there are more of them than of blanks, and not one after each letter.
        count = sum(map(view.text.count, unseen))
        if count >= 2 and view.text.count(" ") * 2 < count and len(plain.text) >= 3 * count:
            blanks = dict.fromkeys(map(ord, unseen), " ")
            yield folded("plain", same_length("blanks", view, translated(view.text, blanks)), PLAIN)
    drawn = "".join(c for c in seen if c > "\x7f" and unicodedata.category(c) in ("So", "Sk"))
    if drawn:
        # Pictures in words; between words they part them, as in the plain view.
        bare = folded("plain", without("undrawn", view, drawn), PLAIN)
        if _says_something(bare.text, plain.text, telling):
            yield bare
    for name, decode in hidden.HIDDEN:
        made = edited(name, view, decode(view.text), keep=name == "bidi", deeper=True)
        if made is not None:
            yield made
    if len(seen & _TURNED) >= 3:
        turned = same_length("turned", view, translated(view.text, spellings.FLIP))
        yield turned
        yield mirrored("turned", turned, turned.text[::-1])
    if any("\u2800" < c <= "\u28ff" for c in seen):
        made = edited("braille", view, alphabets.braille_text(view.text), keep=_ONLY, deeper=True)
        if made is not None:
            yield made


# A transposed text of a few hundred letters is what an attacker can expect a model to undo.
_FENCE_MIN, _FENCE_MAX, _FENCE_RAILS = 20, 2_000, range(2, 8)


def may_be_transposed(text: str) -> bool:
    """Whether a text has the length and the letters of a transposition cipher."""
    if not _FENCE_MIN <= len(text) <= _FENCE_MAX or not text.isascii():
        return False
    # Ciphers that move or shift letters leave the blanks there; keys, hashes and base64 have none.
    return text.count(" ") * 20 >= len(text) - 40 and sum(map(str.isalpha, text)) * 3 >= len(text) * 2


# What ROT47 makes of the ten most frequent letters; half of prose is of them, and a fifth of code.
_ROT47: Final = b"6E2@:?DC=9"


def of_no_words(view: View) -> Iterator[View]:
    """The readings of a short text without one everyday word: letters moved or shifted."""
    text = view.text.strip()
    if _FENCE_MIN <= len(view.text) <= _FENCE_MAX and view.text.isascii():
        raw = view.text.encode()
        if 2 * (len(raw) - len(raw.translate(None, _ROT47))) > len(raw) - raw.count(b" "):
            yield _deeper(same_length("rot47", view, view.text.translate(spellings.ROT47)))
    if len(view.text) <= _FENCE_MAX and may_be_transposed(text):
        size = len(view.text)
        for shift in range(1, 26):
            yield same_length("caesar", view, view.text.translate(spellings.CAESAR[shift]))
        yield same_length("atbash", view, view.text.translate(spellings.ATBASH))
        yield from _backwards(view)
        for rails in _FENCE_RAILS:
            yield View(
                "rail_fence", spellings.unfenced(text, rails), view, lambda start, end: (0, size), deeper=True
            )


# Folds, and views that no character comes into that was not in their parent, of which there are folds of its own.
_FOLDED: Final = frozenset(
    {
        "plain",
        "skeleton",
        "squeezed",
        "unmarked",
        "joined",
        "links",
        "leet",
        "word_order",
        "spaced",
        "worded",
        "tags",
    }
)


def is_folded(view: View) -> bool:
    """Whether a view is a fold, or was made without a character that was not there before."""
    return view.name in _FOLDED
