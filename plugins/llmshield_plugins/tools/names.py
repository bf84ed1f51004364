"""Names that a program may take for another: with blanks around them, in wide letters, with letters that look alike."""

from __future__ import annotations

import unicodedata

_HIDDEN = frozenset({"Cf", "Cc", "Zs", "Zl", "Zp", "Mn", "Me"})
# Scripts with letters that are drawn as Latin ones; in a word with Latin letters they are there to deceive.
_ALIKE = ("CYRILLIC ", "GREEK ", "ARMENIAN ", "CHEROKEE ", "COPTIC ", "LISU ")


def read(name: str) -> str:
    """A name as a lenient program reads it: without blanks, marks and hidden characters, in plain letters."""
    if name.isascii() and name.isprintable() and " " not in name:
        return name
    wide = unicodedata.normalize("NFKD", name)
    return "".join(c for c in wide if unicodedata.category(c) not in _HIDDEN)


def deceives(name: str) -> bool:
    """Whether letters of a name are of scripts that are mixed only to be taken for other letters."""
    if name.isascii():
        return False
    plain = read(name)
    return any(c.isascii() and c.isalpha() for c in plain) and any(
        unicodedata.name(c, "").startswith(_ALIKE) for c in plain
    )
