"""The settings of the injection plugin, checked when the policy is read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import re2
from pydantic import Field, StringConstraints, field_validator, model_validator

from llmshield.hookspecs import Settings as Base

from .engines import EngineSettings
from .judgement import Budget, Rules
from .limits import FieldSettings, LengthSettings
from .links import LinkSettings
from .signatures import FAMILIES, Signature

Role = Literal["system", "user", "assistant", "tool", "output"]
Action = Literal["block", "flag", "wrap", "answer"]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Phrase = Annotated[str, StringConstraints(min_length=2, max_length=1_000)]


class FamilySettings(Base):
    """How one family counts: `monitor` is reported and never refuses, `disabled` is not looked for."""

    mode: Literal["enforce", "monitor", "disabled"] = "enforce"
    weight: Share = 1.0


class OwnSignature(Base):
    """A user's own pattern."""

    id: Annotated[str, StringConstraints(pattern=r"^[a-z0-9_.-]{1,60}$")]
    pattern: Annotated[str, StringConstraints(min_length=2, max_length=4_000)]
    score: Share = 0.95
    family: Annotated[str, StringConstraints(pattern=r"^[a-z0-9_]{1,40}$")] = "own"

    @field_validator("pattern")
    @classmethod
    def _is_re2(cls, pattern: str) -> str:
        options = re2.Options()
        options.log_errors = False
        try:
            compiled = re2.compile(pattern, options)
        except re2.error as error:
            reason = error.args[0].decode() if error.args and isinstance(error.args[0], bytes) else str(error)
            raise ValueError(
                f"is no re2 expression: {reason} (re2 knows no look-around and no back-references)"
            ) from error
        if compiled.fullmatch("") is not None:
            raise ValueError("matches the empty text, so it would match every text")
        return pattern


class BudgetSettings(Base):
    """How much reading one text may cost."""

    base: Annotated[int, Field(ge=1_024, le=10_000_000)] = 65_536
    factor: Annotated[int, Field(ge=1, le=1_000)] = 24
    score: Share = 0.60


class RoleSettings(Base):
    """What is different for the texts of one role."""

    block_at: Share | None = None
    flag_at: Share | None = None
    action: Action | None = None


class InjectionSettings(Base):
    """Everything that may stand beside `use: injection`."""

    scan: tuple[Role, ...] = ("user", "tool")
    view: Literal["conversation", "last_turn"] = "conversation"
    block_at: Share = 0.90
    flag_at: Share = 0.60
    action: Action = "block"
    answer: Annotated[str, StringConstraints(min_length=1, max_length=10_000)] = "I can't help with that."
    roles: Mapping[Role, RoleSettings] = {}
    wrap: tuple[Literal["user", "tool"], ...] = ()
    strip: tuple[Literal["system", "user", "assistant", "tool"], ...] = ()
    limits: LengthSettings = LengthSettings()
    fields: tuple[FieldSettings, ...] = ()
    canary: bool = False
    repeat: Annotated[int, Field(ge=0, le=1_000)] = 0
    links: LinkSettings | None = None
    engines: tuple[EngineSettings, ...] = ()
    deny: tuple[Phrase, ...] = ()
    allow: tuple[Phrase, ...] = ()
    families: Mapping[str, FamilySettings] = {}
    signatures: tuple[OwnSignature, ...] = ()
    budget: BudgetSettings = BudgetSettings()

    @field_validator("deny", "allow")
    @classmethod
    def _has_letters(cls, phrases: tuple[str, ...]) -> tuple[str, ...]:
        for phrase in phrases:
            if not any(c.isalnum() for c in phrase):
                raise ValueError(f"{phrase!r} has neither letter nor digit")
        return phrases

    @model_validator(mode="after")
    def _consistent(self) -> InjectionSettings:
        if self.flag_at > self.block_at:
            raise ValueError(
                f"flag_at ({self.flag_at}) is above block_at ({self.block_at}): what is blocked is flagged as well"
            )
        for role, own in self.roles.items():
            flag_at, block_at = self._points(own)
            if flag_at > block_at:
                raise ValueError(f"roles.{role}: flag_at ({flag_at}) is above block_at ({block_at})")
            if "wrap" in (own.action, self.action if own.action is None else "") and role not in (
                "user",
                "tool",
            ):
                raise ValueError(f"roles.{role}: only texts of user and tool can be wrapped")
        if self.canary and "output" not in self.scan:
            raise ValueError("canary: it is looked for in replies; add `output` to `scan`")
        known = {
            *FAMILIES,
            "deny",
            "learned",
            "unscanned",
            "prompt_leak",
            "engine",
            *(own.family for own in self.signatures),
        }
        unknown = sorted(set(self.families) - known)
        if unknown:
            raise ValueError(f"families: {unknown[0]!r} is none of {', '.join(sorted(known))}")
        return self

    def _points(self, own: RoleSettings) -> tuple[float, float]:
        return (
            self.flag_at if own.flag_at is None else own.flag_at,
            self.block_at if own.block_at is None else own.block_at,
        )

    def action_for(self, role: str) -> Action:
        """What happens to a text of this role from its `block_at` on."""
        own = self.roles.get(role)  # type: ignore[call-overload]
        return self.action if own is None or own.action is None else own.action

    def rules(self, canary: str = "") -> Rules:
        """The same for the scanner."""
        return Rules(
            points={role: self._points(own) for role, own in self.roles.items()},
            canary=canary,
            block_at=self.block_at,
            flag_at=self.flag_at,
            deny=self.deny,
            allow=self.allow,
            own=tuple(
                Signature(s.id, s.family, "", s.score, s.score, s.pattern, None, "", "")
                for s in self.signatures
            ),
            weights={name: 0.0 if f.mode == "disabled" else f.weight for name, f in self.families.items()},
            monitored=frozenset(name for name, f in self.families.items() if f.mode == "monitor"),
            budget=Budget(self.budget.base, self.budget.factor, self.budget.score),
        )
