"""presidio-analyzer's recognisers, called directly: no pipeline, no language model, no network.

Each recogniser brings expressions, a checksum and context words. Here its expressions run over one segment of a
plain view, and only where a google-re2 twin of the expression (look-around removed, so it finds more) has already
matched. presidio itself skips an expression that takes too long and goes on; here that raises, and the policy's
`on_error` decides.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from importlib import import_module
from typing import Any, NamedTuple

from llmshield_plugins.pii.detector import Found
from llmshield_plugins.pii.expressions import compiled
from llmshield_plugins.pii.kinds import PRESIDIO

TIMEOUT_S = 0.25
"""Seconds that one expression may take on one segment (at most 4,096 characters); presidio's own limit is 60."""

CONTEXT_BOOST = 0.35
CONTEXT_SCORE = 0.4
"""presidio's LemmaContextAwareEnhancer: context adds 0.35 and lifts to 0.4 at least."""

CONTEXT_CHARS = 80


class _Expression(NamedTuple):
    kind: str
    regex: Any
    score: float
    recogniser: Any
    validated: bool
    context: Any
    twin: Any


class Presidio:
    """The recognisers for these kinds, ready to run. Importing presidio takes seconds and 100 MB.

    Raises: ImportError when the extra `[pii]` is not installed.
    """

    def __init__(self, kinds: frozenset[str]) -> None:
        _keep_offline()
        talk = logging.getLogger("presidio-analyzer")
        if talk.level == logging.NOTSET:
            talk.setLevel(logging.WARNING)  # a line for each recogniser that it loads
        predefined = import_module("presidio_analyzer.predefined_recognizers")

        self._expressions = [
            expression
            for name, kind in PRESIDIO.items()
            if kind in kinds
            for expression in _expressions(getattr(predefined, name)(), kind)
        ]

    @property
    def patterns(self) -> tuple[str, ...]:
        """One google-re2 expression for each of presidio's: what they match, it matches."""
        return tuple(expression.twin for expression in self._expressions)

    def find(self, text: str, begin: int, numbers: list[int]) -> list[Found]:
        """Findings in an ASCII text, at or after `begin`, of the expressions with these numbers (places in `patterns`).

        Raises: TimeoutError when an expression takes longer than `TIMEOUT_S`.
        """
        found: list[Found] = []
        for number in numbers:
            self._run(self._expressions[number], text, begin, found)
        return found

    def _run(self, expression: _Expression, text: str, begin: int, found: list[Found]) -> None:
        for match in expression.regex.finditer(text, pos=begin, timeout=TIMEOUT_S):
            start, end = match.span()
            value = text[start:end]
            if not value.strip():
                continue
            before = text[max(0, start - CONTEXT_CHARS) : start].lower()
            announced = expression.context is not None and expression.context.search(before) is not None
            if not announced and _hangs_on(text, start, end):
                continue
            score = self._score(expression, value, announced)
            if score > 0:
                found.append(Found(start, end, expression.kind, score))

    def _score(self, expression: _Expression, value: str, announced: bool) -> float:
        valid = expression.recogniser.validate_result(value)
        if valid is False or expression.recogniser.invalidate_result(value):
            return 0.0
        if valid is None and not expression.validated:
            # A shape alone: what presidio scores below 0.6 is as often an order number.
            score = expression.score if announced or expression.score >= 0.6 else min(expression.score, 0.35)
            if score <= 0.2 and value != value.upper():
                return 0.0  # "any letters and digits" means written as codes are
        elif announced:
            score = 1.0
        elif any(c.isalpha() for c in value):
            score = 0.6 if expression.score >= 0.5 else 0.3
        else:
            # One number in ten passes a one-digit checksum: only long ones in groups count on their own.
            score = 0.5 if sum(c.isdigit() for c in value) >= 11 and not value.isdigit() else 0.3
        return min(1.0, max(score + CONTEXT_BOOST, CONTEXT_SCORE)) if announced else score


def _hangs_on(text: str, start: int, end: int) -> bool:
    """Whether the match is the middle of something longer that is joined by dashes: a UUID, an order number."""
    joins = ("-", "_")
    return (text[start - 1 : start] in joins and text[max(0, start - 2) : start - 1].isalnum()) or (
        text[end : end + 1] in joins and text[end + 1 : end + 2].isalnum()
    )


def _keep_offline() -> None:
    """tldextract asks the network for a suffix list on its first call; the list it ships is enough."""
    tldextract = import_module("tldextract")

    offline = tldextract.TLDExtract(suffix_list_urls=(), cache_dir=None)
    tldextract.tldextract.TLD_EXTRACTOR = offline


def _expressions(recogniser: Any, kind: str) -> list[_Expression]:
    regex = import_module("regex")
    base = import_module("presidio_analyzer").PatternRecognizer
    validated = type(recogniser).validate_result is not base.validate_result
    context = announcement(recogniser.context or ())
    flags = recogniser.global_regex_flags
    return [
        _Expression(
            kind,
            regex.compile(pattern.regex, flags),
            pattern.score,
            recogniser,
            validated,
            context,
            twin(pattern.regex),
        )
        for pattern in recogniser.patterns
    ]


def announcement(words: Iterable[str]) -> Any:
    """An expression for any of these words at the beginning of a word, short ones whole; None without words.

    Words that are not ASCII can't occur in a plain view.
    """
    parts = [
        "".join(c if c.isalnum() else f"\\x{ord(c):02x}" for c in word.lower())
        + (r"\b" if len(word) < 5 else "")
        for word in words
        if word.isascii()
    ]
    return compiled(r"\b(?:" + "|".join(parts) + ")") if parts else None


def twin(expression: str) -> str:
    """An re2 expression that matches wherever this one does: look-around left out, else any digit."""
    for candidate in ("(?ism)" + without_look_around(expression), "[0-9]"):
        try:
            compiled(candidate)
        except Exception:  # noqa: BLE001, S112 - re2.error has no stable home; the next candidate is wider
            continue
        return candidate
    raise AssertionError("the last candidate always compiles")


def without_look_around(expression: str) -> str:
    """The expression without its `(?=..)`, `(?!..)`, `(?<=..)` and `(?<!..)` groups."""
    out: list[str] = []
    place = 0
    in_class = False
    while place < len(expression):
        char = expression[place]
        if char == "\\":
            out.append(expression[place : place + 2])
            place += 2
            continue
        if not in_class and expression.startswith(("(?=", "(?!", "(?<=", "(?<!"), place):
            place = _group_end(expression, place)
            continue
        in_class = char == "[" if not in_class else char != "]"
        out.append(char)
        place += 1
    return "".join(out)


def _group_end(expression: str, place: int) -> int:
    """The place after the group that opens at `place`."""
    depth = 0
    in_class = False
    while place < len(expression):
        char = expression[place]
        if char == "\\":
            place += 2
            continue
        if in_class:
            in_class = char != "]"
        elif char == "[":
            in_class = True
        elif char == "(":
            depth += 1
        elif char == ")":
            depth -= 1
            if depth == 0:
                return place + 1
        place += 1
    return place
