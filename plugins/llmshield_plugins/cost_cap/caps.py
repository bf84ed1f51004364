"""Which budgets hold for an attempt: its tier's, and the plugin's own; and what a caller is told of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN, Decimal
from functools import cached_property
from typing import Annotated
from urllib.parse import unquote

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

from llmshield.call import Attempt
from llmshield.ledger import Cap, Refusal, account, iso, tenant_account
from llmshield.policy import Budget, Money, Percent, Policy, TimeZone
from llmshield.policy.globs import Matcher, compile_globs
from llmshield.prices import PICO_PER_USD
from llmshield.stores import MAX_AMOUNT
from llmshield.windows import is_rolling, zone_info

_MOST_KNOWN = 10_000
"""Tenants whose caps are kept ready; names may come from callers."""

_LONGEST = 200
"""Characters of a name in an account."""

Dimension = Annotated[
    str, StringConstraints(pattern=r"^(tenant|tier|key|model|provider|tag:[A-Za-z0-9._-]{1,64})$")
]


def _listed(value: object) -> object:
    return value if isinstance(value, list | tuple) or value is None else [value]


_Names = Annotated[tuple[str, ...], BeforeValidator(_listed, json_schema_input_type=str | tuple[str, ...])]

_WORDS: Mapping[str, Callable[[Attempt], str | None]] = {
    "tenant": lambda attempt: attempt.call.tenant,
    "tier": lambda attempt: attempt.call.tier,
    "key": lambda attempt: attempt.call.key_id,
    "model": lambda attempt: attempt.model,
    "provider": lambda attempt: attempt.provider,
}


class CapRule(BaseModel):
    """A budget for each combination of what stands in `by`, over the calls that match."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    limit: Annotated[
        tuple[Money, ...],
        BeforeValidator(_listed, json_schema_input_type=Money | tuple[Money, ...]),
        Field(min_length=1),
    ] = Field(description="Money per period, such as 5 USD/day or 5 USD/24h; of several all hold.")
    by: Annotated[
        tuple[Dimension, ...],
        BeforeValidator(_listed, json_schema_input_type=Dimension | tuple[Dimension, ...]),
    ] = Field(
        (),
        description="One budget for each: tenant, tier, key, model, provider, tag:NAME. Empty: for all together.",
    )
    models: _Names | None = Field(None, description="Only calls of these models (globs).")
    providers: _Names | None = Field(None, description="Only attempts at these providers (globs).")
    tenants: _Names | None = Field(None, description="Only calls of these tenants (globs).")
    tiers: _Names | None = Field(None, description="Only calls of these tiers (globs).")
    keys: _Names | None = Field(None, description="Only calls with these client keys, by their ids (globs).")
    tags: dict[str, _Names] = Field({}, description="Only calls that carry these tags (globs).")
    time_zone: TimeZone | None = Field(None, description="Whose days, weeks and months; else the server's.")
    warn_at: Annotated[
        tuple[Percent, ...], BeforeValidator(_listed, json_schema_input_type=Percent | tuple[Percent, ...])
    ] = Field((), description="Shares of the limit at which a warning is given, once per window.")

    def compiled(self, zone: str) -> Rule:
        """What judges attempts; `zone` is the server's."""
        return Rule(self, self.time_zone or zone)

    @cached_property
    def filters(self) -> dict[str, tuple[str, ...]]:
        """The globs of each word that this rule is narrowed to."""
        named: dict[str, tuple[str, ...] | None] = {
            "provider": self.providers, "tenant": self.tenants, "tier": self.tiers, "key": self.keys,
            **{f"tag:{name}": globs for name, globs in sorted(self.tags.items())},
        }  # fmt: skip
        return {word: globs for word, globs in named.items() if globs is not None}


class Rule:
    """A `CapRule`, ready to judge."""

    def __init__(self, rule: CapRule, zone: str) -> None:
        self._models = compile_globs(rule.models) if rule.models else None
        self._filters: list[tuple[Callable[[Attempt], str | None], Matcher]] = [
            (_word(word), compile_globs(globs)) for word, globs in rule.filters.items()
        ]
        # `cap` keeps these accounts apart from the tenants' own, whose budgets are their tiers', and from those
        # of rules for other calls.
        narrowed = [f"{word}={'|'.join(globs)}" for word, globs in rule.filters.items()]
        self._cap = ";".join([",".join(rule.models or ("*",)), *narrowed])
        self._by = [(name, _word(name)) for name in rule.by]
        self._first = account(cap=self._cap)
        self._names = sorted({"cap", *rule.by})
        self._limits = tuple((budget.limit, budget.per, _zone(budget, zone)) for budget in rule.limit)
        self._warn_at = rule.warn_at

    def caps(self, attempt: Attempt) -> tuple[Cap, ...]:
        """The budgets that this attempt falls under; none where the rule is not for it."""
        if self._models is not None and not self._models(attempt.model):
            return ()
        for word, matches in self._filters:
            if not matches((word(attempt) or "")[:_LONGEST]):
                return ()
        parts = {name: (word(attempt) or "")[:_LONGEST] for name, word in self._by}
        return self._on(account(cap=self._cap, **parts))

    def on_account(self, name: str) -> tuple[Cap, ...]:
        """The budgets that are counted on this account, if it is one of this rule's."""
        if [part.partition("=")[0] for part in name.split(",")] != self._names:
            return ()
        return self._on(name) if name.partition(",")[0] == self._first else ()

    def _on(self, name: str) -> tuple[Cap, ...]:
        return tuple([Cap(name, limit, per, zone, self._warn_at) for limit, per, zone in self._limits])


class Caps:
    """The budgets of one policy."""

    def __init__(self, policy: Policy, rules: tuple[CapRule, ...]) -> None:
        zone = policy.server.time_zone
        self._budgets: dict[str | None, tuple[tuple[Budget, str, tuple[float, ...]], ...]] = {
            name: tuple(
                (budget, _zone(budget, tier.time_zone or zone), tier.warn_at) for budget in tier.budget
            )
            for name, tier in policy.tiers.items()
        }
        self._tiers = {name: tenant.tier for name, tenant in policy.tenants.items()}
        self._rules = tuple(rule.compiled(zone) for rule in rules)
        self._known: dict[tuple[str, str | None], tuple[Cap, ...]] = {}
        self._seen: dict[str, str | None] = {}
        self.warns = any(tier.warn_at for tier in policy.tiers.values()) or any(
            rule.warn_at for rule in rules
        )
        """Whether any budget has a `warn_at`."""

    def of_attempt(self, attempt: Attempt) -> tuple[Cap, ...]:
        """Every budget that this attempt must fit."""
        call = attempt.call
        caps = self._of(call.tenant, call.tier)
        if not self._rules:
            return caps
        return (*caps, *[cap for rule in self._rules for cap in rule.caps(attempt)])

    def of_tenant(self, tenant: str) -> tuple[Cap, ...]:
        """The budgets of a tenant's tier, as the policy or its last call tells it."""
        return self._of(tenant, self._tiers.get(tenant, self._seen.get(tenant)))

    def on_account(self, name: str) -> tuple[Cap, ...]:
        """The caps of rules that this account is for."""
        return tuple([cap for rule in self._rules for cap in rule.on_account(name)])

    def _of(self, tenant: str, tier: str | None) -> tuple[Cap, ...]:
        key = (tenant, tier)
        caps = self._known.get(key)
        if caps is None:
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
                self._seen.clear()
            name = tenant_account(tenant)
            caps = tuple(
                Cap(name, budget.limit, budget.per, zone, warn_at)
                for budget, zone, warn_at in self._budgets.get(tier, ())
            )
            self._known[key] = caps
            self._seen[tenant] = tier
        return caps

    @staticmethod
    def unlimited(caps: tuple[Cap, ...]) -> tuple[Cap, ...]:
        """The same accounts without their limits, for monitor mode."""
        return tuple(Cap(cap.account, MAX_AMOUNT, cap.period, cap.zone) for cap in caps)


def whose(cap: Cap) -> str:
    """Whom a budget is for, in words."""
    name, _, rest = cap.account.partition(",")
    if name.startswith("tenant=") and not rest:
        return f"tenant {unquote(name.removeprefix('tenant='))}"
    if rest:
        return ", ".join(unquote(part.replace("=", " ", 1)) for part in rest.split(","))
    which = unquote(name.removeprefix("cap=")).removeprefix("*").removeprefix(";")
    return f"calls of {which}" if which else "all calls"


def is_a_providers(cap: Cap) -> bool:
    """Whether a budget is for attempts at some providers only: another target may still be paid."""
    parts = dict(part.split("=", 1) for part in cap.account.split(",") if "=" in part)
    return "provider" in parts or ";provider=" in unquote(parts.get("cap", ""))


def describe(refusal: Refusal, least: int) -> str:
    """What a caller reads: whose budget, how much of it is gone, and whether it is spent, held by calls under way,
    or too small for this call (which costs `least` pico-USD even if its answer is short)."""
    cap = refusal.cap
    budget = f"Budget of {short(cap.limit)} USD/{cap.period} for {whose(cap)}"
    held = f", {short(refusal.held)} USD held for calls under way" if refusal.held else ""
    figures = f"({short(refusal.spent)} USD{held})"
    again = moment(refusal.resets_at, cap.zone)
    resets = f"Room comes back from {again} on." if is_rolling(cap.period) else f"Resets {again}."
    left = min(cap.limit, MAX_AMOUNT) - refusal.spent - refusal.held
    if left > 0:
        return (
            f"{budget} has {short(left, ROUND_FLOOR)} USD left {figures}, and this call may cost"
            f" {short(least, ROUND_CEILING)} USD even"
            f" with a short answer. Send less, or wait. {resets}"
        )
    if refusal.spent < cap.limit:
        return f"{budget} is held by calls under way {figures}. Try again when they are over. {resets}"
    return f"{budget} is spent {figures}. {resets}"


def moment(at: float, zone: str) -> str:
    """A point in time as the budget's zone tells it: `2026-11-21T00:00:00+01:00 (Europe/Berlin)`."""
    if zone == "UTC":
        return iso(at)
    return f"{datetime.fromtimestamp(at, zone_info(zone)).isoformat(timespec='seconds')} ({zone})"


def short(picousd: int, rounding: str = ROUND_HALF_EVEN) -> str:
    """USD with six decimals at the most, or all of them where these would show next to nothing; no needless zeros."""
    amount = Decimal(picousd) / PICO_PER_USD
    if picousd >= 10**6:
        amount = amount.quantize(Decimal("0.000001"), rounding)
    text = f"{amount:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _zone(budget: Budget, zone: str) -> str:
    """The zone that a budget's windows depend on: minutes, hours and rolling windows on none."""
    return zone if budget.per in ("day", "week", "month") else "UTC"


def _word(name: str) -> Callable[[Attempt], str | None]:
    if name in _WORDS:
        return _WORDS[name]
    tag = name.removeprefix("tag:")
    return lambda attempt: attempt.call.tags.get(tag)
