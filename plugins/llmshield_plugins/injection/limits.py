"""Bounds that need no detector: how long a text may be, and what a field of an application's own JSON may hold."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Final

from pydantic import Field

from llmshield.call import Text
from llmshield.hookspecs import Settings as Base
from llmshield.policy.forms import Form, matcher

_CONTROLS_ALLOWED: Final = "\t\n\r"
Matches = Callable[[str], bool]
Length = Annotated[int, Field(ge=1, le=100_000_000)]


class LengthSettings(Base):
    """The largest number of characters; nothing is cut, a longer text is refused."""

    text: Length | None = None
    """One text of a scanned role."""
    user: Length | None = None
    """One text of a user."""
    tool: Length | None = None
    """One text of a tool."""
    total: Length | None = None
    """All scanned texts of a call together."""


class FieldSettings(Base):
    """What the texts at one place of the request may be: for applications with JSON of their own."""

    at: Annotated[str, Field(min_length=2, pattern="^/")] = Field(
        description="A JSON pointer; `*` is any one step."
    )
    pattern: Form | None = Field(None, description="re2; the whole text has to match.")
    max_length: Length | None = Field(None, description="Characters at most.")
    control_characters: bool = Field(
        False, description="Whether control and invisible characters are allowed."
    )
    lines: Annotated[int, Field(ge=1)] | None = Field(None, description="Lines at most.")


class Fields:
    """The validators of a policy, compiled."""

    def __init__(self, settings: Sequence[FieldSettings]) -> None:
        self._rules: list[tuple[list[str], FieldSettings, Matches | None]] = [
            (
                one.at.split("/")[1:],
                one,
                matcher(one.pattern),
            )
            for one in settings
        ]

    def broken(self, text: Text) -> str | None:
        """What is wrong with a text, in words that hold none of it; None if nothing is, or no field is meant."""
        steps = text.place.split("/")[1:]
        for at, rule, matches in self._rules:
            if len(at) == len(steps) and all(a in ("*", b) for a, b in zip(at, steps, strict=True)):
                wrong = _wrong(text.value, rule, matches)
                if wrong is not None:
                    return wrong
        return None


def _wrong(value: str, rule: FieldSettings, matches: Matches | None) -> str | None:
    if rule.max_length is not None and len(value) > rule.max_length:
        return f"is {len(value)} characters long, at most {rule.max_length} are allowed"
    if rule.lines is not None and value.count("\n") >= rule.lines:
        return f"has {value.count(chr(10)) + 1} lines, at most {rule.lines} are allowed"
    if not rule.control_characters and any(map(_is_control, value)):
        return "holds control or invisible characters"
    if matches is not None and not matches(value):
        return "does not have the required form"
    return None


def _is_control(character: str) -> bool:
    return character not in _CONTROLS_ALLOWED and unicodedata.category(character) in (
        "Cc",
        "Cf",
        "Cs",
        "Co",
        "Cn",
    )


def too_long(texts: Sequence[Text], limits: LengthSettings) -> tuple[Text, int, int] | None:
    """The first text that is too long, its length and what is allowed; of a total, the last text and the sum."""
    per_role: Mapping[str, int | None] = {"user": limits.user, "tool": limits.tool}
    total = 0
    for text in texts:
        size = len(text.value)
        total += size
        for most in (limits.text, per_role.get(text.role)):
            if most is not None and size > most:
                return text, size, most
        if limits.total is not None and total > limits.total:
            return text, total, limits.total
    return None
