"""`llmshield spend`: what was spent, by tenant, model, provider and time; read from the store's journal.

The store is `--store`, or the policy's (`--policy`, else `policy.yaml` here, else `llmshield.db` here). It may be in
use: reading the journal stops nobody. `memory://` has no journal that another process could read. Amounts are
exact decimals. Exit status: 0 with figures (or none), 1 when the store can't be read, 2 usage.
"""

from __future__ import annotations

import asyncio
import csv
import enum
import json
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmshield.errors import ShieldError

if TYPE_CHECKING:
    from llmshield.stores import Entry, Store

GOOD, FAILED, USAGE = 0, 1, 2

_POLICY = Path("policy.yaml")
_BOOK = Path("llmshield.db")


class Format(enum.StrEnum):
    """How the figures are written."""

    table = "table"
    json = "json"
    csv = "csv"


def _when(form: str) -> Callable[[Entry], str]:
    return lambda entry: datetime.fromtimestamp(entry.at_ms / 1000, UTC).strftime(form)


KEYS: Mapping[str, Callable[[Entry], str]] = {
    "tenant": lambda entry: entry.labels.tenant,
    "model": lambda entry: entry.labels.model,
    "provider": lambda entry: entry.labels.provider,
    "hour": _when("%Y-%m-%dT%H"),
    "day": _when("%Y-%m-%d"),
    "month": _when("%Y-%m"),
}
"""What `--by` may name; times are UTC."""


def register(app: typer.Typer) -> None:
    """Mount the command."""

    @app.command("spend")
    def command(
        by: Annotated[
            str, typer.Option(help="tenant, model, provider, hour, day, month; parted by commas.")
        ] = "tenant",
        format: Annotated[Format, typer.Option(help="How the figures are written.")] = Format.table,
        policy: Annotated[
            Path | None, typer.Option(help="The policy whose store is read.", show_default=False)
        ] = None,
        store: Annotated[
            str | None, typer.Option(help="The store, instead of a policy's.", show_default=False)
        ] = None,
        since: Annotated[
            str | None, typer.Option(help="From this day on (2026-11-20, UTC).", show_default=False)
        ] = None,
        until: Annotated[
            str | None, typer.Option(help="Up to this day, itself not.", show_default=False)
        ] = None,
    ) -> None:
        """Show what was spent."""
        raise typer.Exit(spend(by, format=format, policy=policy, store=store, since=since, until=until))


def spend(
    by: str, *, format: Format, policy: Path | None, store: str | None, since: str | None, until: str | None
) -> int:
    """Write the figures to standard output and return the exit status."""
    names = [name.strip() for name in by.split(",") if name.strip()]
    unknown = [name for name in names if name not in KEYS]
    if unknown or not names:
        return _misused(f"--by {by!r}: expected some of {', '.join(KEYS)}")
    try:
        since_ms, until_ms = _day(since) or 0, _day(until)
    except ValueError:
        return _misused("--since and --until take a day such as 2026-11-20")
    if store is None:
        path = policy or _POLICY
        if path.is_file():
            from llmshield.policy import load

            store = load(path).server.store
        elif policy is None and _BOOK.is_file():
            store = f"sqlite:///{_BOOK}"
        else:
            return _misused(f"there is no {path}; say --policy FILE or --store URL")
    rows = asyncio.run(_rows(_store(store), names, since_ms, until_ms))
    _WRITERS[format](names, rows)
    return GOOD


def _store(url: str) -> Store:
    """The store to read, not yet opened. Raises: ShieldError where there is nothing to read."""
    from llmshield.stores import open_store

    store = open_store(url)
    if not store.shared:
        raise ShieldError(
            "memory:// lives in the serving process only; its figures are at /usage on the admin port."
        )
    if store.url.scheme == "sqlite" and not Path(store.url.path).is_file():
        raise ShieldError(f"There is no store at {store.url.path!r}.")  # opening would make one
    return store


async def _rows(store: Store, names: list[str], since_ms: int, until_ms: int | None) -> list[dict[str, Any]]:
    from llmshield.prices import usd

    await store.open()
    sums: dict[tuple[str, ...], list[int]] = {}
    try:
        async for entry in store.journal(since_ms, until_ms):
            if entry.id.startswith("lock."):
                continue
            found = sums.setdefault(tuple([KEYS[name](entry) for name in names]), [0, 0, 0, 0])
            found[0] += entry.kind != "correct"
            found[1] += entry.tokens_in
            found[2] += entry.tokens_out
            found[3] += entry.amount
    finally:
        await store.close()
    return [
        {**dict(zip(names, key, strict=True)), "requests": found[0], "input_tokens": found[1],
         "output_tokens": found[2], "usd": usd(found[3])}
        for key, found in sorted(sums.items())
    ]  # fmt: skip


def _day(text: str | None) -> int | None:
    if text is None:
        return None
    return int(datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC).timestamp() * 1000)


def _misused(message: str) -> int:
    print(f"llmshield spend: {message}", file=sys.stderr)
    return USAGE


def _as_json(names: list[str], rows: list[dict[str, Any]]) -> None:
    print(json.dumps(rows, indent=2))


def _as_csv(names: list[str], rows: list[dict[str, Any]]) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow([*names, *_FIGURES])
    for row in rows:
        writer.writerow([_plain(str(row[name])) for name in (*names, *_FIGURES)])


def _as_table(names: list[str], rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for name in names:
        table.add_column(name)
    for figure in _FIGURES:
        table.add_column(figure, justify="right")
    for row in rows:
        table.add_row(*[Text(str(row[name])) for name in (*names, *_FIGURES)])
    Console().print(table)


def _plain(cell: str) -> str:
    """A cell that no spreadsheet takes for a formula (https://owasp.org/www-community/attacks/CSV_Injection)."""
    return (
        f"'{cell}"
        if cell[:1] in ("=", "+", "@", "\t", "\r") or (cell[:1] == "-" and not cell[1:2].isdigit())
        else cell
    )


_FIGURES = ("requests", "input_tokens", "output_tokens", "usd")
_WRITERS = {Format.table: _as_table, Format.json: _as_json, Format.csv: _as_csv}
