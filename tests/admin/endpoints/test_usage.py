"""Usage as it stands, and statistics from the journal, as JSON and CSV."""

from typing import Any

import pytest

from llmshield import clock
from llmshield.ledger import Ledger
from llmshield.stores import Labels


async def spent(ledger: Ledger, tenant: str, model: str, picousd: int, tokens: int) -> None:
    labels = Labels(tenant, "a", model)
    reservation = await ledger.reserve(f"{tenant}.{model}.{clock.monotonic()}", labels, (), picousd)
    await ledger.settle(reservation, picousd, tokens, tokens * 2)  # type: ignore[arg-type]


@pytest.fixture
async def used(desk: Any) -> Any:
    for tenant, model, picousd in (
        ("acme", "gpt-4o", 10**9),
        ("acme", "gpt-4o", 1),
        ("=cmd", "gpt-4o-mini", 5 * 10**12),
    ):
        await spent(desk.runtime.ledger, tenant, model, picousd, 7)
    return desk


async def test_usage_as_it_stands(used: Any) -> None:
    said = await used.ask("GET", "/usage", key="read")

    acme = said.json["tenants"]["acme"]
    assert ("0.001000000001", 2, 42) == (acme["spent_usd"], acme["requests"], acme["tokens"])
    assert ["5.000000000000", "50.000000000000"] == [each["limit_usd"] for each in acme["budgets"]]
    assert "warned_at" not in acme["budgets"][0]


@pytest.mark.parametrize(
    ("query", "rows"),
    [
        ("by=tenant", [["=cmd", 1, 7, 14, "5.000000000000"], ["acme", 2, 14, 28, "0.001000000001"]]),
        ("by=model&tenant=acme", [["gpt-4o", 2, 14, 28, "0.001000000001"]]),
        ("by=model&model=*-mini", [["gpt-4o-mini", 1, 7, 14, "5.000000000000"]]),
        ("by=provider&until=2020-01-01", []),
        ("by=provider&since=1h&provider=a", [["a", 3, 21, 42, "5.001000000001"]]),
    ],
)
async def test_statistics(used: Any, query: str, rows: list[list[Any]]) -> None:
    said = await used.ask("GET", f"/v1/usage?{query}", key="read")
    (by,) = said.json["by"]

    assert rows == [
        [row[by], row["requests"], row["input_tokens"], row["output_tokens"], row["usd"]]
        for row in said.json["rows"]
    ]


async def test_csv_is_a_table_and_no_cell_is_a_formula(used: Any) -> None:
    said = await used.ask("GET", "/v1/usage?by=tenant,model&format=csv")

    assert "text/csv; charset=utf-8" == said.headers["content-type"]
    assert [
        "tenant,model,requests,input_tokens,output_tokens,usd",
        "'=cmd,gpt-4o-mini,1,7,14,5.000000000000",
        "acme,gpt-4o,2,14,28,0.001000000001",
    ] == said.body.decode().splitlines()


@pytest.mark.parametrize(
    "query",
    [
        "by=",
        "by=nothing",
        "by=tag:",
        "since=yesterday",
        "until=2026-13-01",
        "since=99999d",
        "since=1970-W99",
        "format=xml",
        "tenant=",
    ],
)
async def test_wishes_that_mean_nothing(desk: Any, query: str) -> None:
    said = await desk.ask("GET", f"/v1/usage?{query}")

    assert (422, "invalid") == (said.status, said.code)


async def test_too_many_groups_are_not_told(used: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmshield.admin.endpoints.usage.MOST_ROWS", 1)
    said = await used.ask("GET", "/v1/usage?by=tenant")

    assert (409, "conflict") == (said.status, said.code)
