"""What runs here, for programs and for people."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ConfigDict, Field

from llmshield.admin import page
from llmshield.admin.house import House
from llmshield.admin.shapes import Query, Shape
from llmshield.admin.table import Asked, Example, Page, route


class Part(Shape):
    """A part of the status; it may tell more than is written here."""

    model_config = ConfigDict(extra="allow")


class Today(Part):
    """Figures of the day, which begins at midnight UTC, in this process."""

    requests: int = Field(description="Attempts that were sent.")
    ok: int
    failed: int
    input_tokens: int
    output_tokens: int


class Left(Part):
    """What the provider's own rate limits leave, as its last answer said; null where it said nothing."""

    requests: int | None
    tokens: int | None


class ProviderStatus(Part):
    """One provider, as this process sees it."""

    active: bool = Field(description="Whether it may be asked for anything.")
    dialect: str | None
    circuit: Literal["closed", "half_open", "open"] = Field(description="The worst of its circuits.")
    circuits: dict[str, Any] = Field(description="Circuits by model that have something to tell.")
    model: str | None = Field(description="The model that answered last.")
    last_ok: float | None = Field(description="When it last answered well, in seconds since 1970.")
    failures: int = Field(description="Failures since then.")
    last_failure: float | None
    last_reason: str | None
    today: Today
    remaining: Left
    success_rate: float | None = Field(description="Of today; null without a try.")


class PolicyName(Part):
    """Which policy is in force."""

    file: str
    hash: str


class AuditStatus(Part):
    """How the record does."""

    written: int
    dropped: int
    failure: str | None


class Status(Part):
    """What runs here."""

    version: str
    policy: PolicyName
    mount: str
    ready: bool
    uptime_s: float
    plugins: dict[str, str] = Field(description="Every plugin with its mode.")
    providers: dict[str, ProviderStatus]
    circuits_alone: bool
    audit: AuditStatus


class StatusQuery(Query):
    """How it is written."""

    format: Literal["json", "html"] | None = Field(
        default=None, description="Else what the `Accept` header prefers; JSON without one."
    )


@route(
    "GET", "/status", role="read", early=True, kinds={"text/html": "The same as a page for people."},
    example=Example(),
)  # fmt: skip
async def status(house: House, query: StatusQuery, asked: Asked) -> Status | Page:
    """Show what runs here: the policy, each plugin's mode, and each provider's figures of today.

    JSON, or a page for people where the `Accept` header prefers `text/html`. The page runs nothing and loads nothing.
    """
    found = await house.runtime.status()
    wanted = query.format or ("html" if page.preferred(asked.headers.get("accept", "")) else "json")
    if wanted == "html":
        return Page("text/html; charset=utf-8", page.render(found), headers={"vary": "accept"})
    return Status.model_validate(found, strict=False)
