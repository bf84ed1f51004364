"""Which budgets hold for an attempt: its tier's, and the plugin's own."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from functools import cached_property
from typing import Annotated
from urllib.parse import unquote

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

from llmshield.call import Attempt
from llmshield.ledger import Cap, Refusal, account, iso, tenant_account
from llmshield.policy import Budget, Money, Policy
from llmshield.policy.globs import Matcher, compile_globs
from llmshield.prices import PICO_PER_USD
from llmshield.stores import MAX_AMOUNT

_MOST_KNOWN = 10_000
"""Tenants whose caps are kept ready; names may come from callers."""

Dimension = Annotated[
    str, StringConstraints(pattern=r"^(tenant|tier|key|model|provider|tag:[A-Za-z0-9._-]{1,64})$")
]


def _listed(value: object) -> object:
    return [value] if isinstance(value, str) else value


class CapRule(BaseModel):
    """A budget for each combination of what stands in `by`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    limit: Money = Field(description="Money per calendar period (UTC), such as 5 USD/day.")
    by: Annotated[tuple[Dimension, ...], BeforeValidator(_listed)] = Field(
        (),
        description="One budget for each: tenant, tier, key, model, provider, tag:NAME. Empty: for all together.",
    )
    models: Annotated[tuple[str, ...], BeforeValidator(_listed)] | None = Field(
        None, description="Only calls of these models (globs)."
    )

    @cached_property
    def _matches(self) -> Matcher:
        return compile_globs(self.models or ("*",))

    def cap(self, attempt: Attempt) -> Cap | None:
        """The budget that this attempt falls under, or None."""
        if not self._matches(attempt.model):
            return None
        return Cap(account(**self._parts(attempt)), self.limit.limit, self.limit.per)

    def _parts(self, attempt: Attempt) -> dict[str, str]:
        call = attempt.call
        known: Mapping[str, str | None] = {
            "tenant": call.tenant, "tier": call.tier, "key": call.key_id,
            "model": attempt.model, "provider": attempt.provider,
        }  # fmt: skip
        # `cap` keeps these accounts apart from the tenants' own, whose budgets are their tiers'.
        parts = {"cap": ",".join(self.models or ("*",))}
        for name in self.by:
            tag = name.removeprefix("tag:")
            parts[name] = ((call.tags.get(tag) if tag != name else known[name]) or "")[:200]
        return parts


class Caps:
    """The budgets of one policy."""

    def __init__(self, policy: Policy, rules: tuple[CapRule, ...]) -> None:
        self._budgets: dict[str | None, tuple[Budget, ...]] = {
            name: tier.budget for name, tier in policy.tiers.items()
        }
        self._tiers = {name: tenant.tier for name, tenant in policy.tenants.items()}
        self._rules = rules
        self._known: dict[tuple[str, str | None], tuple[Cap, ...]] = {}
        self._seen: dict[str, str | None] = {}

    def of_attempt(self, attempt: Attempt) -> tuple[Cap, ...]:
        """Every budget that this attempt must fit."""
        call = attempt.call
        caps = self._of(call.tenant, call.tier)
        if not self._rules:
            return caps
        more = [cap for rule in self._rules if (cap := rule.cap(attempt)) is not None]
        return (*caps, *more)

    def of_tenant(self, tenant: str) -> tuple[Cap, ...]:
        """The budgets of a tenant's tier, as the policy or its last call tells it."""
        return self._of(tenant, self._tiers.get(tenant, self._seen.get(tenant)))

    def _of(self, tenant: str, tier: str | None) -> tuple[Cap, ...]:
        key = (tenant, tier)
        caps = self._known.get(key)
        if caps is None:
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
                self._seen.clear()
            name = tenant_account(tenant)
            caps = tuple(Cap(name, budget.limit, budget.per) for budget in self._budgets.get(tier, ()))
            self._known[key] = caps
            self._seen[tenant] = tier
        return caps

    @staticmethod
    def unlimited(caps: tuple[Cap, ...]) -> tuple[Cap, ...]:
        """The same accounts without their limits, for monitor mode."""
        return tuple(Cap(cap.account, MAX_AMOUNT, cap.period) for cap in caps)


def describe(refusal: Refusal, tenant: str) -> str:
    """What a caller reads: whose budget, how much of it is gone, when there is a new one."""
    cap = refusal.cap
    if cap.account == tenant_account(tenant):
        whose = f"tenant {tenant}"
    else:
        whose = unquote(cap.account.partition(",")[2].replace(",", ", ").replace("=", " ")) or "all calls"
    held = f", {_short(refusal.held)} USD held for calls under way" if refusal.held else ""
    return (
        f"Budget of {_short(cap.limit)} USD/{cap.period} for {whose} is spent"
        f" ({_short(refusal.spent)} USD{held}). Resets {iso(refusal.resets_at)}."
    )


def _short(picousd: int) -> str:
    """USD with six decimals at the most, without needless zeros."""
    amount = (Decimal(picousd) / PICO_PER_USD).quantize(Decimal("0.000001"))
    text = f"{amount:f}".rstrip("0").rstrip(".")
    return text or "0"
