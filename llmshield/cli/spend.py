"""`llmshield spend`: what was spent, by any combination of tenant, model, provider, key, tier, tag and time.

It is read from the store's journal: the store of the policy (`--policy`, else `policy.yaml` here, else `llmshield.db`
here), or `--store`. The store may be in use: reading the journal stops nobody. `memory://` has no journal that
another process could read. Amounts are exact decimals, in every format.

An amount counts for the moment at which it was settled. Keys, tiers and tags are known of calls for which a cap of
`cost_cap` names them in `by`; of others they are empty.

Exit status: 0 with figures (or none), 1 when the store can't be read, 2 usage.
"""

from __future__ import annotations

import asyncio
import enum
import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from llmshield.cli._reading import USAGE, policy_at, shared_store

GOOD, FAILED = 0, 1

_POLICY = Path("policy.yaml")


class Format(enum.StrEnum):
    """How the figures are written."""

    table = "table"
    json = "json"
    csv = "csv"


def register(app: typer.Typer) -> None:
    """Mount the command."""

    @app.command("spend")
    def command(
        by: Annotated[
            str,
            typer.Option(
                help="tenant, model, provider, key, tier, tag:NAME, hour, day, week, month; parted by commas."
            ),
        ] = "tenant",
        format: Annotated[Format, typer.Option(help="How the figures are written.")] = Format.table,
        policy: Annotated[
            Path | None, typer.Option(help="The policy whose store is read.", show_default=False)
        ] = None,
        store: Annotated[
            str | None, typer.Option(help="The store, instead of a policy's.", show_default=False)
        ] = None,
        since: Annotated[
            str | None,
            typer.Option(help="From then on: 2026-11-20, 2026-11-20T14:30, or 7d (ago).", show_default=False),
        ] = None,
        until: Annotated[
            str | None, typer.Option(help="Up to then; of a day, itself not.", show_default=False)
        ] = None,
        time_zone: Annotated[
            str | None,
            typer.Option(help="Of days and times; else the policy's, else UTC.", show_default=False),
        ] = None,
        only: Annotated[
            list[str] | None,
            typer.Option(help="tenant=acme, model=gpt-*, ...: these calls only.", show_default=False),
        ] = None,
    ) -> None:
        """Show what was spent."""
        raise typer.Exit(
            spend(
                by, format=format, policy=policy, store=store, since=since, until=until, time_zone=time_zone,
                only=only or (),
            )
        )  # fmt: skip


def spend(
    by: str,
    *,
    format: Format,
    policy: Path | None,
    store: str | None,
    since: str | None = None,
    until: str | None = None,
    time_zone: str | None = None,
    only: list[str] | tuple[str, ...] = (),
) -> int:
    """Write the figures to standard output and return the exit status."""
    from llmshield import spending

    try:
        zone = _zone(time_zone, policy, store)
        reads = spending.groups(by, zone)
        wanted = spending.filters(only)
        since_ms, until_ms = spending.moment(since, zone) or 0, spending.moment(until, zone)
    except spending.Misuse as error:
        option = "" if str(error).startswith(("'", '"')) else "--"
        print(f"llmshield spend: {option}{error}", file=sys.stderr)
        return USAGE
    opened = shared_store(policy, store, "spend")

    async def read() -> list[dict[str, Any]]:
        await opened.open()
        try:
            return await spending.rows(opened, reads, wanted, since_ms, until_ms)
        finally:
            await opened.close()

    _WRITERS[format](list(reads), asyncio.run(read()))
    return GOOD


def _zone(given: str | None, policy: Path | None, store: str | None) -> str:
    from llmshield.spending import Misuse
    from llmshield.windows import zone_info

    if given is None:
        path = policy or (_POLICY if store is None and _POLICY.is_file() else None)
        return policy_at(path, "spend").server.time_zone if path is not None else "UTC"
    try:
        zone_info(given)
    except ValueError as error:
        raise Misuse(f"time-zone: {error}") from None
    return given


def _as_json(names: list[str], rows: list[dict[str, Any]]) -> None:
    print(json.dumps(rows, indent=2))


def _as_csv(names: list[str], rows: list[dict[str, Any]]) -> None:
    from llmshield.spending import as_csv

    sys.stdout.write(as_csv(names, rows))


def _as_table(names: list[str], rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for name in names:
        table.add_column(name, overflow="fold")
    for figure in _FIGURES:
        table.add_column(figure, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*[Text(str(row[name])) for name in (*names, *_FIGURES)])
    Console(width=None if sys.stdout.isatty() else 200).print(table)


_FIGURES = ("requests", "input_tokens", "output_tokens", "usd")
_WRITERS = {Format.table: _as_table, Format.json: _as_json, Format.csv: _as_csv}
