"""Budgets: how they stand, raise one, give one back whole, unlock a tenant."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BeforeValidator, Field, StringConstraints, WithJsonSchema
from pydantic_core import PydanticCustomError

from llmshield import clock
from llmshield.admin.access import Officer
from llmshield.admin.endpoints.usage import BudgetStanding
from llmshield.admin.house import House
from llmshield.admin.problems import Problem
from llmshield.admin.shapes import Length, Moment, Query, Shape, TenantPart, Usd, moment
from llmshield.admin.table import Example, route
from llmshield.budgets import Cap, budget, by_account
from llmshield.ledger import tenant_account
from llmshield.policy.units import PICO_PER_USD
from llmshield.prices import usd as _usd
from llmshield.stores import MAX_AMOUNT

_AMOUNT = r"^(?:0|[1-9][0-9]{0,6})(?:\.[0-9]{1,12})?$"
_PERIOD = r"^(minute|hour|day|week|month|[1-9][0-9]{0,9}(s|m|h|d))$"


def _picousd(value: object) -> int:
    if not isinstance(value, str) or re.fullmatch(_AMOUNT, value) is None:
        raise PydanticCustomError("amount", 'expected USD as text, such as "5" or "0.50", below 10 million')
    whole, _, rest = value.partition(".")
    amount = int(whole) * PICO_PER_USD + int(rest.ljust(12, "0"))
    if amount == 0 or amount > 4_000_000 * PICO_PER_USD:
        raise PydanticCustomError("amount", "expected more than 0 and at most 4000000 USD")
    return amount


Amount = Annotated[
    int,
    BeforeValidator(_picousd),
    WithJsonSchema(
        {
            "type": "string",
            "pattern": r"^(?:[1-9][0-9]{0,5}(?:\.[0-9]{1,12})?|0\.[0-9]{0,11}[1-9])$",
            "examples": ["5", "0.50"],
        }
    ),
]
"""pico-USD."""


class Budgets(Shape):
    """The budgets of one tenant."""

    tenant: str
    locked_until: Moment | None = Field(
        description="Until when it may spend nothing, because a provider charged more than was reserved."
    )
    budgets: tuple[BudgetStanding, ...]


class BudgetList(Shape):
    """The budgets of every tenant that is known, and those that are no single tenant's."""

    tenants: tuple[Budgets, ...]
    caps: tuple[BudgetStanding, ...]


class BudgetPath(Query):
    """Whose budgets."""

    tenant: TenantPart = Field(description="A tenant.")


class Window(Shape):
    """Which of a tenant's budgets."""

    window: Annotated[str, StringConstraints(pattern=_PERIOD)] | None = Field(
        default=None, description="The budget of this window only: `day`, `month`, `24h`."
    )


class Raise(Window):
    """How much more, and for how long."""

    usd: Amount = Field(description="How much more, in USD.")
    for_: Length | None = Field(default=None, alias="for", description="End earlier than the window: `2h`.")


class Raised(Shape):
    """One budget that was raised."""

    window: str
    usd: Usd = Field(description="By how much.")
    until: Moment | None


class RaiseList(Shape):
    """What was raised, and how the budgets stand now."""

    raised: tuple[Raised, ...]
    tenant: Budgets


@route("GET", "/v1/budgets", role="read", example=Example())
async def list_budgets(house: House) -> BudgetList:
    """Show every budget: its limit, what is spent, held and left, and when it begins anew."""
    page = await house.ledger.usage(tuple(house.policy.tenants))
    locks = await house.ledger.locks()
    return BudgetList(
        tenants=tuple(
            _budgets(name, locks.get(name, 0.0), each["budgets"]) for name, each in page["tenants"].items()
        ),
        caps=tuple(_standing(each) for each in page.get("caps", ())),
    )


@route("GET", "/v1/budgets/{tenant}", role="read", example=Example(path="/v1/budgets/acme"))
async def show_budgets(house: House, path: BudgetPath) -> Budgets:
    """Show the budgets of one tenant.

    A tenant that never called and that the policy does not name has none.
    """
    return await _of_tenant(house, path.tenant)


@route(
    "POST", "/v1/budgets/{tenant}/raise", role="operate",
    example=Example(path="/v1/budgets/acme/raise", body={"usd": "5", "window": "day"}),
)  # fmt: skip
async def raise_budget(house: House, who: Officer, path: BudgetPath, body: Raise) -> RaiseList:
    """Raise a tenant's budgets in their present windows.

    It ends with the window, or earlier (`for`); raising again adds up.
    """
    caps = _caps(house, path.tenant, body.window)
    until_ms = int((clock.now() + body.for_) * 1000) if body.for_ is not None else 0
    detail = {"usd": _usd(body.usd), "window": body.window, "until": moment(until_ms)}
    done = []
    await house.ledger.books.copy()
    for cap in house.ledger.books.raised(caps, clock.now()):
        if cap.limit + body.usd > MAX_AMOUNT:
            raise Problem(
                "conflict", f"With this the budget per {cap.period} would be more than an account can hold."
            )
    async with house.change(who, "budget.raise", path.tenant, detail):
        for cap in caps:
            ends_ms = await house.ledger.books.raise_by(cap, body.usd, until_ms)
            done.append(Raised(window=cap.period, usd=_usd(body.usd), until=moment(ends_ms)))
    return await _after(house, path.tenant, done)


@route(
    "POST", "/v1/budgets/{tenant}/reset", role="operate",
    example=Example(path="/v1/budgets/acme/reset", body={"window": "day"}),
)  # fmt: skip
async def reset_budget(house: House, who: Officer, path: BudgetPath, body: Window) -> RaiseList:
    """Give a tenant its whole budget again, in its present window.

    It is raised by what is spent: the book forgets nothing, and what was spent stays told. To forget all amounts of a
    store there is `llmshield budget reset`.
    """
    caps = _caps(house, path.tenant, body.window)
    now = clock.now()
    accounts = by_account(await house.store.balances(tenant_account(path.tenant)))
    await house.ledger.books.copy()
    done = []
    async with house.change(who, "budget.reset", path.tenant, {"window": body.window}) as before:
        for cap, raised in zip(caps, house.ledger.books.raised(caps, now), strict=True):
            standing = budget(raised, accounts.get(cap.account, []), now)
            before[f"spent_usd_{cap.period}"] = standing["spent_usd"]
            spent = _from_usd(standing["spent_usd"]) - (raised.limit - cap.limit)
            if spent > 0:
                ends_ms = await house.ledger.books.raise_by(cap, spent)
                done.append(Raised(window=cap.period, usd=_usd(spent), until=moment(ends_ms)))
    return await _after(house, path.tenant, done)


@route("POST", "/v1/budgets/{tenant}/unlock", role="operate", example=Example(path="/v1/budgets/acme/unlock"))
async def unlock_tenant(house: House, who: Officer, path: BudgetPath) -> Budgets:
    """Let a tenant spend again that was locked because a provider charged more than was reserved.

    One that is not locked stays as it is.
    """
    async with house.change(who, "budget.unlock", path.tenant) as before:
        before["was_locked"] = await house.ledger.books.unlock(path.tenant)
    return await _of_tenant(house, path.tenant)


def _caps(house: House, tenant: str, window: str | None) -> list[Cap]:
    """A tenant's own caps. Raises: Problem where there is none."""
    caps = [cap for cap in house.ledger.caps_of(tenant) if cap.account == tenant_account(tenant)]
    found = [cap for cap in caps if window in (None, cap.period)]
    if not found:
        have = ", ".join(cap.period for cap in caps)
        raise Problem(
            "not_found",
            f"Tenant {tenant!r} has no budget{f' per {window}' if window else ''} in this policy"
            + (f"; it has one per {have}." if have else "."),
        )
    return found


async def _after(house: House, tenant: str, done: list[Raised]) -> RaiseList:
    return RaiseList(raised=tuple(done), tenant=await _of_tenant(house, tenant))


async def _of_tenant(house: House, tenant: str) -> Budgets:
    locks = await house.ledger.locks()  # and what was raised, as it is now
    page = await house.ledger.usage([tenant])
    return _budgets(tenant, locks.get(tenant, 0.0), page["tenants"][tenant]["budgets"])


def _budgets(tenant: str, locked_s: float, found: list[dict[str, object]]) -> Budgets:
    return Budgets(
        tenant=tenant, locked_until=moment(locked_s * 1000), budgets=tuple(_standing(each) for each in found)
    )


def _standing(found: dict[str, object]) -> BudgetStanding:
    return BudgetStanding.model_validate(found, strict=False)


def _from_usd(text: str) -> int:
    whole, _, rest = text.partition(".")
    return int(whole) * PICO_PER_USD + int(rest)
