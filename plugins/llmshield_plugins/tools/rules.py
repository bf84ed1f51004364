"""Rules for the arguments of tools, and the filter that waits until a value is complete."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import Annotated, Any

import orjson
from pydantic import BaseModel, ConfigDict, Field

from llmshield.call import Stop
from llmshield.policy.forms import Form, matcher
from llmshield.verdicts import Block


class RuleShape(BaseModel):
    """What one argument may be."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    pattern: Form | None = Field(None, description="re2; the whole value has to match.")
    one_of: tuple[str | int | float | bool, ...] | None = Field(
        None, description="The values that are allowed."
    )
    min: float | None = Field(None, description="The least number.")
    max: float | None = Field(None, description="The largest number.")
    max_length: Annotated[int, Field(ge=0, le=1_000_000)] = Field(4_096, description="Characters at most.")
    forbid: bool = Field(False, description="The argument must not be there.")


class Rule:
    """One rule, compiled; values are the texts of JSON leaves, numbers as their JSON text."""

    def __init__(self, shape: RuleShape) -> None:
        self._matches = matcher(shape.pattern)
        self._one_of = None if shape.one_of is None else frozenset(map(as_text, shape.one_of))
        self._least, self._most = shape.min, shape.max
        self.longest = shape.max_length
        self._forbid = shape.forbid

    def breaks(self, value: str) -> str | None:
        """What is wrong with a value, in words that hold none of it; None if nothing is."""
        if self._forbid:
            return "must not be given"
        if len(value) > self.longest:
            return f"is longer than {self.longest} characters"
        if self._one_of is not None and value not in self._one_of:
            return "is none of the allowed values"
        if self._matches is not None and not self._matches(value):
            return "does not have the required form"
        if self._least is not None or self._most is not None:
            try:
                number = Decimal(value)
            except InvalidOperation:
                return "is not a number"
            if not number.is_finite():
                return "is not a number"
            if self._least is not None and number < Decimal(str(self._least)):
                return f"is below {self._least:g}"
            if self._most is not None and number > Decimal(str(self._most)):
                return f"is above {self._most:g}"
        return None

    def breaks_inside(self) -> str:
        """What is wrong with a list or an object in the place of one value."""
        return "must not be given" if self._forbid else "is not one value"


def rule_at(rules: Mapping[tuple[str, ...], Rule], path: Sequence[str | int]) -> Rule | None:
    """The rule for a place; list items are `*`."""
    return rules.get(tuple("*" if isinstance(step, int) else step for step in path))


def as_text(value: Any) -> str:
    return value if isinstance(value, str) else orjson.dumps(value).decode()


class Held:
    """A value of the reply that goes on when it is complete and keeps the rules, or is too long to keep them."""

    def __init__(self, longest: int, judge: Callable[[str], Block | None]) -> None:
        self._longest = longest
        self._judge = judge
        self._held = ""
        self._told = False
        self._stopped: Stop | None = None

    def feed(self, text: str) -> str | Stop:
        """Keep the piece; one character more than may be there decides."""
        if self._stopped is not None:
            return self._stopped
        if self._told:
            return text
        self._held += text
        return self._decide() if len(self._held) > self._longest else ""

    def flush(self) -> str | Stop:
        """The value is complete."""
        if self._stopped is not None:
            return self._stopped
        return "" if self._told else self._decide()

    def _decide(self) -> str | Stop:
        self._told = True
        block = self._judge(self._held)
        if block is not None:
            self._stopped = Stop(block)
            return self._stopped
        held, self._held = self._held, ""
        return held
