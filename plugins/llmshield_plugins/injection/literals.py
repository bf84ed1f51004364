"""The literals of a policy, `deny` and `allow`, as patterns that match in every view; and texts that re2 can read."""

from __future__ import annotations

from typing import Final

import re2

from .folds import PLAIN, SKELETON
from .signatures import GAP, Signature


def literal(text: str, *, squeezed: bool = False) -> str:
    """A pattern for a literal in folded views: any run of blanks for a blank."""
    if squeezed:
        return re2.escape("".join(c for c in text if c.isalnum()))
    return GAP.join(re2.escape(word) for word in text.split())


def forms(text: str) -> list[str]:
    """A literal as it stands and under both folds."""
    return list(
        dict.fromkeys(form for form in (text, PLAIN.apply(text), SKELETON.apply(text)) if form.strip())
    )


def speakable(text: str) -> str:
    """The text with lone surrogates, which have no UTF-8, as U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return "".join("\ufffd" if "\ud800" <= c <= "\udfff" else c for c in text)
    return text


def marked(name: str, family: str, form: str) -> Signature:
    """A literal that is sure by itself, as a signature."""
    return Signature(name, family, "", 1.0, 1.0, literal(form), literal(form, squeezed=True) or None, "", "")


def group_of(signature: Signature) -> str:
    """Which Set a signature belongs in; the user's own may hold anything."""
    return "ours" if signature.example else "any"


_PART: Final = 10
"""Letters of a random word that no honest text holds in a row."""


def parts(word: str) -> Signature:
    """The signature of a random word that is told in pieces, or in part: ten letters in a row, with marks between."""
    runs = (word[at : at + _PART] for at in range(max(1, len(word) - _PART + 1)))
    pattern = "|".join("[^a-z0-9]{0,4}".join(run) for run in runs)
    return Signature("canary_part", "prompt_leak", "", 1.0, 1.0, pattern, None, "", "")
