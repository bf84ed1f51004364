"""Recognisers of the policy's own: expressions and words to be found as they stand, also across words."""

from __future__ import annotations

from typing import Any, NamedTuple

from llmshield_plugins.pii.detector import Found
from llmshield_plugins.pii.expressions import compiled, readable
from llmshield_plugins.pii.settings import Recogniser

CONTEXT_BOOST = 0.35
CONTEXT_CHARS = 80


class _Own(NamedTuple):
    kind: str
    regex: Any
    score: float
    context: tuple[str, ...]


class Custom:
    """All recognisers of a policy. A match is at most `width` characters long."""

    def __init__(self, recognisers: tuple[Recogniser, ...], width: int) -> None:
        self.width = width
        self._own: list[_Own] = []
        for recogniser in recognisers:
            for pattern in recogniser.patterns:
                context = tuple(word.lower() for word in pattern.context)
                self._own.append(_Own(recogniser.kind, compiled(pattern.regex), pattern.score, context))
            if recogniser.deny:
                self._own.append(_Own(recogniser.kind, compiled(_any_of(recogniser.deny)), 1.0, ()))

    def __bool__(self) -> bool:
        return bool(self._own)

    def find(self, text: str, start: int) -> list[Found]:
        """Every match that begins at or after `start`, by code points; lone surrogates match nothing."""
        plain = text if text.isascii() else readable(text)
        found: list[Found] = []
        for own in self._own:
            for match in own.regex.finditer(plain, start):
                first, last = match.span()
                if first == last:
                    continue
                score = own.score
                if own.context:
                    before = text[max(0, first - CONTEXT_CHARS) : first].lower()
                    if any(word in before for word in own.context):
                        score = min(1.0, score + CONTEXT_BOOST)
                found.append(Found(first, last, own.kind, score))
        return found


def _any_of(terms: tuple[str, ...]) -> str:
    """The terms, longest first, in any case, as whole words."""
    parts = []
    for term in sorted(terms, key=len, reverse=True):
        quoted = "".join(c if c.isalnum() or ord(c) > 127 else f"\\x{{{ord(c):x}}}" for c in term)
        left = r"\b" if term[0].isascii() and term[0].isalnum() else ""
        right = r"\b" if term[-1].isascii() and term[-1].isalnum() else ""
        parts.append(f"{left}{quoted}{right}")
    return "(?i)(?:" + "|".join(parts) + ")"
