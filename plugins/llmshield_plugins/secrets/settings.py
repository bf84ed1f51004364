"""The settings of `use: secrets`, checked when the policy is read."""

from __future__ import annotations

import difflib
from typing import Annotated, Any, Literal, NamedTuple

import re2
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator

from llmshield.hookspecs import Settings
from llmshield.secrets_patterns import GROUPS, RULES

Action = Literal["redact", "block", "flag", "ignore"]

_STRICTEST: tuple[Action, ...] = ("block", "redact", "flag", "ignore")

_ENTROPY = {"assignment": 2.2, "service": 3.0}
"""Bits for each character that a value needs at the least; what has a shape of its own needs 1.5: drawn keys
(`AKIAXXXXXXXXXXXXXXXX`) have less, and of 100,000 real ones of the shortest kind none has."""
_ENTROPY_OF_SHAPES = 1.5


class RuleSetting(BaseModel):
    """What becomes of the credentials of one rule or group. `min_entropy`: bits for each character."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    action: Action | None = None
    min_entropy: float | None = Field(default=None, ge=0.0, le=8.0)


def _short_form(value: Any) -> Any:
    """`cloud: block` is short for `cloud: {action: block}`."""
    return {"action": value} if isinstance(value, str) else value or {}


class Ruling(NamedTuple):
    """What a rule came to under a policy."""

    action: Action
    min_entropy: float


Scanned = Literal["system", "user", "assistant", "tool", "output"]


class SecretsSettings(Settings):
    """`use: secrets`. Without settings, every credential is redacted, in both directions.

    `action` is for every rule that `rules` does not name: redact, block, flag or ignore. `rules` are names of rules or
    groups; a rule's own name beats its groups', and of two groups the stricter one counts. `min_entropy`: Shannon
    entropy in bits for each character below which a value is no credential; without it each rule has its own. `allow`:
    values that are no secrets; `allow_patterns`: the same as google-re2 expressions that match a whole value. `scan`:
    roles whose texts are read (`tool`: definitions, names, arguments, results; `output`: what the model writes);
    metadata is always read.
    """

    action: Action = "redact"
    rules: dict[
        str, Annotated[RuleSetting, BeforeValidator(_short_form, json_schema_input_type=RuleSetting | Action)]
    ] = Field(default_factory=dict)
    min_entropy: float | None = Field(default=None, ge=0.0, le=8.0)
    allow: tuple[str, ...] = ()
    allow_patterns: tuple[str, ...] = ()
    scan: tuple[Scanned, ...] = ("system", "user", "assistant", "tool", "output")

    @field_validator("rules")
    @classmethod
    def _known(cls, value: dict[str, RuleSetting]) -> dict[str, RuleSetting]:
        for name in value:
            if name not in RULES and name not in GROUPS:
                near = difflib.get_close_matches(name.lower().replace("-", "_"), [*GROUPS, *RULES], n=1)
                hint = f"; did you mean {near[0]!r}?" if near else f"; groups are {', '.join(GROUPS)}"
                raise ValueError(f"unknown rule {name!r}{hint}")
        return value

    @field_validator("allow_patterns")
    @classmethod
    def _readable(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in value:
            try:
                made = compiled(pattern)
            except re2.error as error:
                raise ValueError(f"{pattern!r} is not google-re2 syntax: {error}") from error
            if made.fullmatch("") is not None:
                raise ValueError(f"{pattern!r} matches the empty text; make it match at least one character")
        return value

    def rulings(self) -> dict[str, Ruling]:
        """Rule -> what becomes of its credentials, for every rule there is."""
        return {name: self._ruling(name) for name in RULES}

    def _ruling(self, name: str) -> Ruling:
        groups = [
            self.rules[group] for group, names in GROUPS.items() if name in names and group in self.rules
        ]
        own = self.rules.get(name)
        action: Action = self.action
        named = [group.action for group in groups if group.action is not None]
        if own is not None and own.action is not None:
            action = own.action
        elif named:
            action = next(each for each in _STRICTEST if each in named)
        bits = own.min_entropy if own is not None else None
        if bits is None:
            bits = min((group.min_entropy for group in groups if group.min_entropy is not None), default=None)
        if bits is None:
            bits = self.min_entropy
        return Ruling(action, _ENTROPY.get(name, _ENTROPY_OF_SHAPES) if bits is None else bits)


def compiled(pattern: str) -> Any:
    """An expression of a policy. Raises: re2.error."""
    options = re2.Options()
    options.log_errors = False
    return re2.compile(pattern, options)
