"""`routes:`: which providers are asked for which calls, in which order, and what a failure means."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Annotated, Any, Literal, TypeAlias, get_args

from pydantic import BeforeValidator, Field, StringConstraints
from pydantic_core import PydanticCustomError

from llmshield.policy.globs import Matcher, compile_glob, compile_globs
from llmshield.policy.masking import found
from llmshield.policy.section import Count, Glob, Globs, Line, Name, Section
from llmshield.policy.units import DurationRange, Percent, PositiveDuration, Range, duration
from llmshield.verdicts import Target

Reason: TypeAlias = Literal[
    "connect", "reset", "timeout", "first_token", "idle", "total", "malformed", "truncated", "error_in_stream"
]
"""Failures besides statuses that `retry.when` may name: those of `errors.FailureReason` that may pass, and
`timeout` for the three that are one."""
_TIMEOUTS = frozenset({"first_token", "idle", "total"})
Condition: TypeAlias = Callable[[str, str, str | None, Mapping[str, str] | None], bool]
"""Whether a call with this model, tenant, tier and these tags is meant."""
REASONS: tuple[str, ...] = get_args(Reason)


class Match(Section):
    """Which calls a route (or an override) is for: all of its keys must hold."""

    any: Literal[True] | None = Field(default=None, description="Every call; no other key beside it.")
    model: Globs | None = Field(
        default=None, description="The model that the client named: exact, or with `*` and `?`."
    )
    tenant: Globs | None = Field(default=None, description="Who is calling.")
    tier: Globs | None = Field(default=None, description="The tenant's tier.")
    tags: dict[Name, Glob] | None = Field(default=None, description="Tags of the call, by name.")

    def matches(
        self, model: str, tenant: str = "", tier: str | None = None, tags: Mapping[str, str] | None = None
    ) -> bool:
        """Whether a call with these traits is meant."""
        return self.compiled(model, tenant, tier, tags)

    @cached_property
    def compiled(self) -> Condition:
        """`matches` as one function that asks only what this match names; for those that ask for every call."""
        for_model = compile_globs(self.model) if self.model else None
        for_tenant = compile_globs(self.tenant) if self.tenant else None
        for_tier = compile_globs(self.tier) if self.tier else None
        for_tags = tuple((name, compile_glob(glob)) for name, glob in (self.tags or {}).items())
        if not (for_tenant or for_tier or for_tags):
            if for_model is None:
                return lambda model, tenant, tier, tags: True
            return lambda model, tenant, tier, tags: for_model(model)

        def condition(model: str, tenant: str, tier: str | None, tags: Mapping[str, str] | None) -> bool:
            if for_model is not None and not for_model(model):
                return False
            if for_tenant is not None and not for_tenant(tenant):
                return False
            if for_tier is not None and (tier is None or not for_tier(tier)):
                return False
            for name, glob in for_tags:
                value = tags.get(name) if tags else None
                if value is None or not glob(value):
                    return False
            return True

        return condition

    def covers(self, other: Match) -> bool:
        """Whether every call that `other` means is meant by this one too; False where it can't be told."""
        for key in ("model", "tenant", "tier"):
            wide, narrow = getattr(self, key), getattr(other, key)
            if wide is not None and (narrow is None or not all(map(self._covering[key], narrow))):
                return False
        return self.tags is None or (other.tags is not None and self.tags.items() <= other.tags.items())

    @cached_property
    def _covering(self) -> dict[str, Matcher]:
        """For each key, whether its patterns take in another pattern.

        A pattern without `?` that matches another's text matches all that the other does, because its `*` takes
        the other's wildcards in. One with `?` is only known to cover itself.
        """
        out: dict[str, Matcher] = {}
        for key in ("model", "tenant", "tier"):
            globs: tuple[str, ...] = getattr(self, key) or ()
            wide = compile_globs([glob for glob in globs if "?" not in glob])
            out[key] = lambda glob, globs=frozenset(globs), wide=wide: glob in globs or wide(glob)  # type: ignore[misc]
        return out


def _target(value: Any) -> Any:
    """`openai` is short for `{provider: openai}`."""
    return {"provider": value} if isinstance(value, str) else value


class TargetShape(Section):
    """One provider to ask, and the model there."""

    provider: Name = Field(description="A name under `providers`.")
    model: Line | None = Field(
        default=None, description="The model to ask for there; else the one that the client named."
    )
    weight: Annotated[int, Field(ge=0, le=1000)] = Field(
        default=1, description="Share of the callers under `strategy: weighted`; 0: only when others fail."
    )
    quality: Literal["high", "medium", "low"] | None = Field(
        default=None, description="How good its answers are, for `strategy: by_complexity`; else `medium`."
    )

    @cached_property
    def target(self) -> Target:
        """The same as the word that hooks use."""
        return Target(self.provider, self.model)


def _when(value: Any) -> str:
    """A status (429), a class of them (5xx) or a kind of failure (connect), as text."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not (
        value in REASONS
        or value in ("4xx", "5xx")
        or (value.isascii() and value.isdigit() and 400 <= int(value[:9]) <= 599)
    ):
        expected = f"a status from 400 to 599, 4xx, 5xx or one of {', '.join(REASONS)}"
        raise PydanticCustomError(
            "choice",
            "found {found}, expected {expected}",
            {"found": found(value), "expected": expected, "choices": REASONS},
        )
    return value


When: TypeAlias = Annotated[
    str,
    BeforeValidator(
        _when,
        json_schema_input_type=Reason | Literal["4xx", "5xx"] | Annotated[int, Field(ge=400, le=599)],
    ),
]


class Retry(Section):
    """How often one target is tried."""

    attempts: Annotated[Count, Field(le=10)] = Field(
        default=1, description="Tries per target, the first included."
    )
    when: tuple[When, ...] = Field(
        default=("429", "5xx", "connect"), description="Failures after which the same target is tried again."
    )
    backoff: DurationRange = Field(
        default=Range(0.2, 2.0), description="Shortest and longest wait before the next try."
    )

    @cached_property
    def _statuses(self) -> frozenset[int]:
        out: set[int] = set()
        for word in self.when:
            if word.isdigit():
                out.add(int(word))
            elif word.endswith("xx"):
                out.update(range(int(word[0]) * 100, int(word[0]) * 100 + 100))
        return frozenset(out)

    def covers(self, reason: str, status: int | None = None) -> bool:
        """Whether a failure (`errors.FailureReason`, HTTP status) is one to try the same target again for."""
        if reason in self.when or (reason in _TIMEOUTS and "timeout" in self.when):
            return True
        return status is not None and status in self._statuses


class Hedge(Section):
    """When a second target is asked while the first is still silent."""

    after: Annotated[str, StringConstraints(strict=True, pattern=r"^(p[1-9][0-9]|[0-9]+(ms|s))$")] = Field(
        description="A percentile of past latencies (`p95`) or a duration."
    )
    max_extra_cost: Percent = Field(
        default=0.2, description="Share of the calls for which a second target may be asked."
    )

    @cached_property
    def share(self) -> float | None:
        """The percentile as a share, if `after` is one."""
        return int(self.after[1:]) / 100 if self.after.startswith("p") else None

    @cached_property
    def after_s(self) -> float:
        """The duration in seconds, if `after` is one."""
        return 0.0 if self.after.startswith("p") else duration(self.after)


class Degraded(Section):
    """The answer when every target has failed."""

    message: Line = Field(description="What the client is told, as a normal reply.")


class Deny(Section):
    """The refusal of a route that asks nobody."""

    message: Line = Field(
        default="Model {model} is not on the allow list.",
        description="What the client is told; `{model}` is the name it asked for.",
    )

    def text(self, model: str) -> str:
        """The message for a call that asked for `model`."""
        return self.message.replace("{model}", model)


class Route(Section):
    """Which calls, and whom they are sent to; the first route that matches a call is the one."""

    match: Match = Field(description="Which calls this is for.")
    targets: tuple[
        Annotated[TargetShape, BeforeValidator(_target, json_schema_input_type=Name | TargetShape)], ...
    ] = Field(default=(), alias="to", description="The fallback chain, in order.")
    deny: Deny | None = Field(default=None, description="Refuse instead of asking anybody.")
    retry: Retry = Field(default=Retry(), description="How often one target is tried.")
    first_token: PositiveDuration | None = Field(
        default=None,
        description="From an attempt's request to its first output, whole answers included; the provider's own limit"
        " holds as well.",
    )
    mid_stream: Literal["error", "continue", "restart_marker"] = Field(
        default="error", description="What happens when a stream breaks after its first output."
    )
    on_loss: Literal["record", "refuse"] = Field(
        default="record", description="What happens to what a translation can't carry."
    )
    hedge: Hedge | None = Field(default=None, description="Ask a second target while the first is silent.")
    degraded: Degraded | None = Field(default=None, description="The answer when every target has failed.")
    regions: tuple[Name, ...] | None = Field(
        default=None, description="Only providers of these regions are asked."
    )
    strategy: Literal["ordered", "fastest", "cheapest", "weighted", "by_complexity"] = Field(
        default="ordered", description="In which order targets are asked."
    )

    @cached_property
    def to(self) -> tuple[Target, ...]:
        """The fallback chain as the targets that hooks know."""
        return tuple(shape.target for shape in self.targets)
