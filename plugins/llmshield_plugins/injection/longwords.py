"""Long words of honest prose: what looks like a run worth decoding, and is "characteristics".

Runs of fourteen and more letters fire six triggers, and the views that follow cost five times what the text itself
does. One honest text in six holds such a word, so each word is looked into once: under every decoder of runs, and
for words that are glued in it.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import chain
from typing import Final

from . import encodings, spellings
from .matcher import Matcher
from .slices import at_blanks

# The encodings whose triggers fire on letters without a blank; each decodes a word by itself as it does in a text.
ENCODINGS: Final = ("base64", "base32", "base58", "base85", "base85_rfc")
SHORTEST: Final = 14
# The longest word that is remembered; with this many of them, the memory stays below a megabyte.
_LONGEST: Final = 48
_REMEMBERED: Final = 4_096
_EDGES: Final = ".,;:!?\"'()"


# Glued words that are replaced one after the other, each in the whole text; more of them take time in its square.
_EACH: Final = 64


def _apart(text: str, apart: dict[str, str]) -> str:
    """The text with these words read apart where they stand, in one pass."""
    out: list[str] = []
    done = end = 0
    for token in chain.from_iterable(map(str.split, at_blanks(text))):
        start = text.index(token, end)
        end = start + len(token)
        if len(token) >= SHORTEST and (word := token.strip(_EDGES)) in apart:
            out += (text[done:start], token.replace(word, apart[word]))
            done = end
    return "".join((*out, text[done:]))


class LongWords:
    """Reads long words that hide nothing but, perhaps, shorter ones. `squeezed` matches what has no blanks."""

    def __init__(self, squeezed: Matcher) -> None:
        self._squeezed = squeezed
        self._decoders = [decode for name, _, decode in encodings.ENCODINGS if name in ENCODINGS]
        self._read_once = lru_cache(_REMEMBERED)(self._read_word)

    def read(self, text: str) -> str | None:
        """An ASCII text with blanks between the words that are glued in its long words; mostly the same object.

        None if a run of 14 and more characters is no word, or says something by itself.
        """
        if "<~" in text:
            return None
        apart: dict[str, str] = {}
        for token in chain.from_iterable(map(str.split, at_blanks(text))):
            if len(token) >= SHORTEST and len(word := token.strip(_EDGES)) >= SHORTEST:
                # No capital after the first letter and no digit: base64 over several lines has both, and so have keys.
                letters = word if word.isalpha() else word.replace("-", "").replace("/", "").replace("'", "")
                if len(word) > _LONGEST or not (letters.isalpha() and word[1:].islower()):
                    return None
                words = self._read_once(word)
                if words is None:
                    return None
                if words is not word:
                    apart[word] = words
        if len(apart) > _EACH:
            return _apart(text, apart)
        for word, words in apart.items():
            text = text.replace(word, words)
        return text

    def _read_word(self, word: str) -> str | None:
        if any(True for decode in self._decoders for _ in decode(word)):
            return None
        if any(self._squeezed.match(run.text) for run in spellings.glued(word)):
            return None
        words, last = "", 0
        for text, start, end in spellings.worded(spellings.glued(word)):
            words += word[last:start] + text
            last = end
        return words + word[last:] if last else word
