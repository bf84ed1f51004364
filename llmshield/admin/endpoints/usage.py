"""What was spent and used: as it stands, and as statistics by tenant, model, day and more."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, StringConstraints

from llmshield import spending
from llmshield.admin.house import House
from llmshield.admin.problems import Flaw, Problem
from llmshield.admin.shapes import Query, Shape, Usd
from llmshield.admin.table import Example, Page, route

MOST_ROWS = 10_000
"""Groups of one answer: 2 MB."""


class Remaining(Shape):
    """What the tightest limit of each kind leaves; null where there is none."""

    requests: int | None
    tokens: int | None
    usd: Usd | None


class Limit(Shape):
    """One limit on requests or tokens."""

    unit: str
    limit: int
    per: str
    used: int
    remaining: int
    resets_in_s: int


class BudgetStanding(Shape):
    """How one budget stands in its present window."""

    account: str = Field(description="The account that it is on.")
    limit_usd: Usd
    window: str = Field(description="`day`, `month`, ... of the calendar, or a length such as `24h`.")
    time_zone: str
    spent_usd: Usd
    held_usd: Usd = Field(description="Reserved for calls that are under way.")
    remaining_usd: Usd
    resets_at: str
    warned_at: tuple[str, ...] = Field(default=(), description="Shares at which a warning was given.")


class TenantUsage(Shape):
    """What one tenant has spent and used."""

    spent_usd: Usd = Field(description="Since the store was made.")
    held_usd: Usd
    budgets: tuple[BudgetStanding, ...]
    requests: int
    tokens: int
    limits: tuple[Limit, ...]
    remaining: Remaining


class Usage(Shape):
    """What tenants have spent and used, over all processes of the store."""

    tenants: dict[str, TenantUsage]
    caps: tuple[BudgetStanding, ...] | None = Field(
        default=None, description="Budgets that are no single tenant's; absent where the policy has none."
    )


class UsageQuery(Query):
    """Which calls, and how they are grouped."""

    by: Annotated[str, StringConstraints(min_length=1, max_length=200)] = Field(
        default="tenant,model,day",
        description="Some of `tenant`, `model`, `provider`, `key`, `tier`, `tag:NAME`, `hour`, `day`, `week`, `month`,"
        " parted by commas.",
    )
    since: Annotated[str, StringConstraints(min_length=1, max_length=40)] = Field(
        default="31d", description="From then on: `2026-11-20`, `2026-11-20T14:30`, or `7d` (ago)."
    )
    until: Annotated[str, StringConstraints(min_length=1, max_length=40)] | None = Field(
        default=None, description="Up to then; of a day, itself not."
    )
    tenant: Annotated[str, StringConstraints(min_length=1, max_length=200)] | None = Field(
        default=None, description="These tenants only: a name or a glob."
    )
    model: Annotated[str, StringConstraints(min_length=1, max_length=256)] | None = Field(
        default=None, description="These models only: a name or a glob."
    )
    provider: Annotated[str, StringConstraints(min_length=1, max_length=200)] | None = Field(
        default=None, description="These providers only: a name or a glob."
    )
    format: Literal["json", "csv"] = Field(default="json", description="How the figures are written.")


class Row(Shape):
    """One group: a key for each word of `by`, and its figures."""

    model_config = ConfigDict(extra="allow")

    requests: int
    input_tokens: int
    output_tokens: int
    usd: Usd


class Statistics(Shape):
    """What was spent, by group."""

    by: tuple[str, ...] = Field(description="What the rows are grouped by, in order.")
    time_zone: str = Field(description="Whose hours, days, weeks and months they are.")
    rows: tuple[Row, ...]


@route("GET", "/usage", role="read", example=Example())
async def usage(house: House) -> Usage:
    """Show what each tenant has spent, holds and may still, as it stands.

    Exact decimal amounts over all processes of the store, settled within 3 s of a reply's end.
    """
    page: dict[str, Any] = await house.runtime.usage()
    return Usage.model_validate(page, strict=False)


@route(
    "GET", "/v1/usage", role="read", kinds={"text/csv": "The same as a table (`format=csv`)."}, timeout_s=60.0,
    example=Example(query="by=tenant,model&since=7d"),
)  # fmt: skip
async def usage_statistics(house: House, query: UsageQuery) -> Statistics | Page:
    """Add up what was spent, by tenant, model, day and more.

    From the store's journal: an amount counts for the moment at which it was settled. Keys, tiers and tags are known of
    calls for which a cap of `cost_cap` names them in `by`.
    """
    zone = house.policy.server.time_zone
    wishes = (("tenant", query.tenant), ("model", query.model), ("provider", query.provider))
    try:
        reads = spending.groups(query.by, zone)
        wanted = spending.filters(f"{name}={glob}" for name, glob in wishes if glob is not None)
        since_ms = spending.moment(query.since, zone) or 0
        until_ms = spending.moment(query.until, zone)
    except spending.Misuse as error:
        raise Problem(
            "invalid", str(error), errors=[Flaw(place="query", at="", message=str(error))]
        ) from None
    try:
        rows = await spending.rows(house.store, reads, wanted, max(0, since_ms), until_ms, most=MOST_ROWS)
    except spending.Crowded:
        raise Problem(
            "conflict",
            f"There are more than {MOST_ROWS} groups: ask for a shorter time, or fewer words in `by`.",
        ) from None
    if query.format == "csv":
        return Page("text/csv; charset=utf-8", spending.as_csv(reads, rows).encode())
    return Statistics(by=tuple(reads), time_zone=zone, rows=tuple(Row(**row) for row in rows))
