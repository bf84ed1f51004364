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
import csv
import enum
import json
import sys
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import unquote

import typer

from llmshield import clock
from llmshield.cli._reading import USAGE, policy_at, shared_store

if TYPE_CHECKING:
    from llmshield.stores import Entry, Store

GOOD, FAILED = 0, 1

_POLICY = Path("policy.yaml")

Read = Callable[["Entry"], str]


class Format(enum.StrEnum):
    """How the figures are written."""

    table = "table"
    json = "json"
    csv = "csv"


WORDS: Mapping[str, Read] = {
    "tenant": lambda entry: entry.labels.tenant,
    "model": lambda entry: entry.labels.model,
    "provider": lambda entry: entry.labels.provider,
    "key": lambda entry: part(entry, "key"),
    "tier": lambda entry: part(entry, "tier"),
}
TIMES = ("hour", "day", "week", "month")
"""What `--by` may name, besides `tag:NAME`."""


class Misuse(Exception):
    """An option that can't be understood; the text says what was expected."""


def register(app: typer.Typer) -> None:
    """Mount the command."""

    @app.command("spend")
    def command(
        by: Annotated[
            str,
            typer.Option(help=f"{', '.join([*WORDS, 'tag:NAME', *TIMES])}; parted by commas."),
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
    try:
        zone = _zone(time_zone, policy, store)
        reads = _reads(by, zone)
        wanted = _filters(only)
        since_ms, until_ms = moment(since, zone) or 0, moment(until, zone)
    except Misuse as error:
        print(f"llmshield spend: {error}", file=sys.stderr)
        return USAGE
    rows = asyncio.run(_rows(shared_store(policy, store, "spend"), reads, wanted, since_ms, until_ms))
    _WRITERS[format](list(reads), rows)
    return GOOD


def part(entry: Entry, name: str) -> str:
    """What an entry's accounts say of the call's key, tier or tag; empty where no cap counts by it."""
    mark = name + "="
    for account, _ in entry.accounts:
        if account.startswith("cap="):
            for each in account.split(",")[1:]:
                if each.startswith(mark):
                    return unquote(each[len(mark) :])
    return ""


def moment(text: str | None, zone: str) -> int | None:
    """A day, a moment or a time ago, in milliseconds since 1970. Raises: Misuse."""
    from llmshield.policy.units import duration
    from llmshield.windows import day_begins, zone_info

    if text is None:
        return None
    try:
        if text[-1:].isalpha() and text[:1].isdigit() and "-" not in text:
            return int((clock.now() - duration(text)) * 1000)
        at = datetime.fromisoformat(text)
        if len(text) <= 10:
            return int(day_begins(at.date(), zone) * 1000)
        if at.tzinfo is None:
            at = at.replace(tzinfo=zone_info(zone))
        return int(at.timestamp() * 1000)
    except ValueError:
        raise Misuse(
            f"{text!r}: expected a day such as 2026-11-20, a moment such as 2026-11-20T14:30, or a time such as 7d"
        ) from None


def _zone(given: str | None, policy: Path | None, store: str | None) -> str:
    from llmshield.windows import zone_info

    if given is None:
        path = policy or (_POLICY if store is None and _POLICY.is_file() else None)
        return policy_at(path, "spend").server.time_zone if path is not None else "UTC"
    try:
        zone_info(given)
    except ValueError as error:
        raise Misuse(f"--time-zone: {error}") from None
    return given


def _reads(by: str, zone: str) -> dict[str, Read]:
    """How each word of `--by` is read of an entry. Raises: Misuse."""
    reads: dict[str, Read] = {}
    for name in [name.strip() for name in by.split(",") if name.strip()]:
        reads[name] = _when(name, zone) if name in TIMES else _word(name, "--by")
    if not reads:
        raise Misuse(f"--by {by!r}: expected some of {', '.join([*WORDS, 'tag:NAME', *TIMES])}")
    return reads


def _word(name: str, option: str) -> Read:
    if name in WORDS:
        return WORDS[name]
    if name.startswith("tag:") and name != "tag:":
        return lambda entry: part(entry, name)
    known = [*WORDS, "tag:NAME", *(TIMES if option == "--by" else ())]
    raise Misuse(f"{option} {name!r}: expected some of {', '.join(known)}")


def _when(period: str, zone: str) -> Read:
    """The hour, day, week or month in which an entry was settled, as the zone tells it."""
    from llmshield.windows import day_of, zone_info

    rules = zone_info(zone)

    def hour(entry: Entry) -> str:
        at = datetime.fromtimestamp(entry.at_ms / 1000, rules)
        # The hour that a zone tells twice is told apart by its offset.
        return f"{at:%Y-%m-%dT%H}" if zone == "UTC" else f"{at:%Y-%m-%dT%H%z}"

    def day(entry: Entry) -> str:
        return day_of(entry.at_ms / 1000, zone).isoformat()

    def week(entry: Entry) -> str:
        found = day_of(entry.at_ms / 1000, zone)
        return f"{found - timedelta(days=found.weekday()):%G-W%V}"

    return {"hour": hour, "day": day, "week": week, "month": lambda entry: day(entry)[:7]}[period]


def _filters(only: list[str] | tuple[str, ...]) -> list[tuple[Read, Callable[[str], bool]]]:
    """What entries have to match; several values of one word are alternatives. Raises: Misuse."""
    from llmshield.policy.globs import compile_globs

    globs: dict[str, list[str]] = {}
    for item in only:
        name, equals, glob = item.partition("=")
        if not equals or not glob:
            raise Misuse(f"--only {item!r}: expected a word and a value, such as tenant=acme or model=gpt-*")
        globs.setdefault(name.strip(), []).append(glob)
    return [(_word(name, "--only"), compile_globs(values)) for name, values in globs.items()]


async def _rows(
    store: Store,
    reads: Mapping[str, Read],
    wanted: list[tuple[Read, Callable[[str], bool]]],
    since_ms: int,
    until_ms: int | None,
) -> list[dict[str, Any]]:
    from llmshield.prices import usd

    await store.open()
    sums: dict[tuple[str, ...], list[int]] = {}
    try:
        async for entry in store.journal(since_ms, until_ms):
            if entry.id.startswith("lock.") or not all(matches(read(entry)) for read, matches in wanted):
                continue
            found = sums.setdefault(tuple([read(entry) for read in reads.values()]), [0, 0, 0, 0])
            found[0] += entry.kind != "correct"
            found[1] += entry.tokens_in
            found[2] += entry.tokens_out
            found[3] += entry.amount
    finally:
        await store.close()
    return [
        {**dict(zip(reads, key, strict=True)), "requests": found[0], "input_tokens": found[1],
         "output_tokens": found[2], "usd": usd(found[3])}
        for key, found in sorted(sums.items())
    ]  # fmt: skip


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
        table.add_column(name, overflow="fold")
    for figure in _FIGURES:
        table.add_column(figure, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*[Text(str(row[name])) for name in (*names, *_FIGURES)])
    Console(width=None if sys.stdout.isatty() else 200).print(table)


def _plain(cell: str) -> str:
    """A cell that no spreadsheet takes for a formula (https://owasp.org/www-community/attacks/CSV_Injection)."""
    return (
        f"'{cell}"
        if cell[:1] in ("=", "+", "@", "\t", "\r") or (cell[:1] == "-" and not cell[1:2].isdigit())
        else cell
    )


_FIGURES = ("requests", "input_tokens", "output_tokens", "usd")
_WRITERS = {Format.table: _as_table, Format.json: _as_json, Format.csv: _as_csv}
