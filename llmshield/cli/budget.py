"""`llmshield budget`: how budgets stand, raise one, unlock a tenant, and what to do when the book is lost.

The store is the policy's (`--policy`, else `policy.yaml` here). Gateways that run on it know of a raise or an unlock
within a second, and go on after a rebuild or reset without a restart. Amounts are exact decimals. Exit status: 0 good,
1 when it can't be done (the book is lost, the store is away), 2 usage.
"""

from __future__ import annotations

import asyncio
import csv
import enum
import json
import re
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from llmshield.cli._reading import USAGE, policy_at, shared_state
from llmshield.errors import BookLost, ShieldError

if TYPE_CHECKING:
    from llmshield.ledger import Ledger
    from llmshield.policy import Policy

T = TypeVar("T")

_COLUMNS = (
    "tenant",
    "account",
    "window",
    "limit_usd",
    "spent_usd",
    "held_usd",
    "remaining_usd",
    "resets_at",
    "locked",
)


class Format(enum.StrEnum):
    """How the figures are written."""

    table = "table"
    json = "json"
    csv = "csv"


PolicyOption = Annotated[Path, typer.Option("--policy", "-p", help="The policy whose store is meant.")]
_POLICY = Path("policy.yaml")


def register(app: typer.Typer) -> None:
    """Mount the commands."""
    budget = typer.Typer(
        no_args_is_help=True, help="Budgets: show, raise, unlock; rebuild or reset a lost book."
    )

    @budget.command("show")
    def show_command(
        policy: PolicyOption = _POLICY,
        tenant: Annotated[str | None, typer.Option(help="This tenant only.", show_default=False)] = None,
        format: Annotated[Format, typer.Option(help="How the figures are written.")] = Format.table,
    ) -> None:
        """Show every budget: its limit, what is spent, held and left, and when it begins anew."""
        raise typer.Exit(_run(policy, lambda ledger, loaded: _show(ledger, loaded, tenant, format)))

    @budget.command("raise")
    def raise_command(
        tenant: Annotated[str, typer.Option(help="Whose budget.")],
        by: Annotated[str, typer.Option(help="How much more: '5 USD'.")],
        policy: PolicyOption = _POLICY,
        window: Annotated[
            str | None,
            typer.Option(help="The budget of this window only (day, month, 24h).", show_default=False),
        ] = None,
        until: Annotated[
            str | None,
            typer.Option(help="End earlier than the window: 2h, 2026-11-20T18:00.", show_default=False),
        ] = None,
    ) -> None:
        """Raise a tenant's budget in its present window."""
        amount, end = _money(by), _end(until)
        raise typer.Exit(
            _run(policy, lambda ledger, loaded: _raise(ledger, loaded, tenant, amount, window, end))
        )

    @budget.command("unlock")
    def unlock_command(
        tenant: Annotated[str, typer.Argument(help="Who was locked because a provider charged too much.")],
        policy: PolicyOption = _POLICY,
    ) -> None:
        """Let a locked tenant spend again."""
        raise typer.Exit(_run(policy, lambda ledger, _: _unlock(ledger, tenant)))

    @budget.command("rebuild")
    def rebuild_command(
        policy: PolicyOption = _POLICY,
        journal: Annotated[
            list[Path] | None,
            typer.Option(
                help="A folder of journals, of another machine or a backup; may be repeated.",
                show_default=False,
            ),
        ] = None,
        book: Annotated[
            str | None,
            typer.Option(help="Which book is meant, where journals tell of several.", show_default=False),
        ] = None,
        dry_run: Annotated[
            bool, typer.Option("--dry-run", help="Say what it would do, and do nothing.")
        ] = False,
    ) -> None:
        """Write a lost book again from the journals; money is open again after it."""
        raise typer.Exit(_rebuild(policy, journal or [], book or "", dry_run))

    @budget.command("reset")
    def reset_command(
        policy: PolicyOption = _POLICY,
        yes: Annotated[bool, typer.Option("--yes", help="Yes: forget what was spent.")] = False,
    ) -> None:
        """Begin a fresh budget for everybody: what was spent is forgotten."""
        raise typer.Exit(_reset(policy, yes))

    app.add_typer(budget, name="budget")


def _run(policy: Path, work: Callable[[Ledger, Policy], Awaitable[int]]) -> int:
    """Do this with the policy's book, if that is not lost."""
    from llmshield.ledger import Ledger

    loaded = policy_at(policy, "budget")
    store, state = shared_state(loaded, "budget")

    async def run() -> int:
        ledger = Ledger(store, state)
        try:
            await ledger.books.open()
            return await work(ledger, loaded)
        finally:
            await ledger.books.close()
            await store.close()

    return _told(run())


def _told(work: Awaitable[int]) -> int:
    async def run() -> int:
        return await work

    try:
        return asyncio.run(run())
    except BookLost as error:
        print(f"llmshield budget: {error}", file=sys.stderr)
        return 1


async def _show(ledger: Ledger, policy: Policy, tenant: str | None, format: Format) -> int:
    from llmshield.windows import iso

    _declare(ledger, policy)
    usage = await ledger.usage([tenant] if tenant else tuple(policy.tenants))
    await ledger.books.copy()
    rows: list[dict[str, Any]] = []
    for name, figures in usage["tenants"].items():
        if tenant is not None and name != tenant:
            continue
        until = ledger.books.locked.get(name)
        total = {"window": "ever", "spent_usd": figures["spent_usd"], "held_usd": figures["held_usd"]}
        for budget in figures["budgets"] or [total]:
            rows.append({"tenant": name, **budget, "locked": iso(until) if until else ""})
    if tenant is None:
        rows += [{"tenant": "", **budget, "locked": ""} for budget in usage.get("caps", ())]
    _write([{column: row.get(column, "") for column in _COLUMNS} for row in rows], format)
    return 0


async def _raise(
    ledger: Ledger, policy: Policy, tenant: str, amount: int, window: str | None, until_ms: int
) -> int:
    from llmshield.ledger import tenant_account
    from llmshield.prices import usd
    from llmshield.windows import iso

    _declare(ledger, policy)
    caps = [cap for cap in ledger.caps_of(tenant) if cap.account == tenant_account(tenant)]
    caps = [cap for cap in caps if window in (None, cap.period)]
    if not caps:
        which = f" per {window}" if window else ""
        raise ShieldError(
            f"Tenant {tenant!r} has no budget{which} in this policy: there is nothing to raise."
        )
    for cap in caps:
        end_ms = await ledger.books.raise_by(cap, amount, until_ms)
        print(
            f"{tenant}: {usd(cap.limit)} USD/{cap.period} is raised by {usd(amount)} USD until {iso(end_ms / 1000)}."
        )
    return 0


async def _unlock(ledger: Ledger, tenant: str) -> int:
    if await ledger.books.unlock(tenant):
        print(f"{tenant} may spend again.")
        return 0
    print(f"llmshield budget: {tenant} is not locked", file=sys.stderr)
    return 1


def _rebuild(policy: Path, folders: list[Path], base: str, dry: bool) -> int:
    from llmshield.prices import usd
    from llmshield.rebuilding import rebuild

    store, state = shared_state(policy, "budget")

    async def run() -> int:
        try:
            done = await rebuild(store, state, folders, dry=dry, base=base)
        finally:
            await store.close()
        for name, amount in sorted(done.amounts.items()):
            print(f"{usd(amount)} USD  {name}")
        print(
            f"{'Would add' if dry else 'Added'} {done.settled} settled calls and {done.unended} without an end (charged in"
            f" full) from {done.files} journals; {done.present} were there already, {done.others} belong to other books,"
            f" {done.torn} lines could not be read."
        )
        if not dry:
            print(f"The book is open again, as {done.epoch}.")
        return 0

    return _told(run())


def _reset(policy: Path, yes: bool) -> int:
    from llmshield.rebuilding import reset

    store, state = shared_state(policy, "budget")
    if not yes:
        print(
            "llmshield budget: this forgets what every tenant has spent, and lets all of it be spent again."
            " Say --yes to do it.",
            file=sys.stderr,
        )
        return USAGE

    async def run() -> int:
        try:
            epoch = await reset(store, state)
        finally:
            await store.close()
        print(f"A fresh budget has begun, as {epoch}.")
        return 0

    return _told(run())


def _declare(ledger: Ledger, policy: Policy) -> None:
    """Tell the ledger which caps the policy's plugins set."""
    for entry in policy.plugins:
        budgets = getattr(entry.plugin(entry.settings), "budgets", None)
        if budgets is not None:
            ledger.declare(*budgets(policy))


def _money(text: str) -> int:
    """pico-USD in `5 USD`."""
    from decimal import Decimal

    from llmshield.prices import PICO_PER_USD

    match = re.fullmatch(r"(\d{1,7}(?:\.\d{1,12})?) USD", text)
    if match is None or not Decimal(match[1]):
        raise typer.BadParameter(f"--by {text!r}: expected an amount such as '5 USD' or '0.50 USD'")
    return int(Decimal(match[1]) * PICO_PER_USD)


def _end(text: str | None) -> int:
    """When a raise ends, in ms; 0: with its window."""
    from datetime import UTC, datetime

    from llmshield import clock
    from llmshield.policy.units import duration

    if text is None:
        return 0
    try:
        if text[:1].isdigit() and text[-1:].isalpha() and "-" not in text:
            return int((clock.now() + duration(text)) * 1000)
        at = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(
            f"--until {text!r}: expected a time from now such as 2h, or a moment such as 2026-11-20T18:00 (UTC)"
        ) from None
    return int((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1000)


def _write(rows: list[dict[str, Any]], format: Format) -> None:
    if format is Format.json:
        print(json.dumps(rows, indent=2))
    elif format is Format.csv:
        writer = csv.DictWriter(sys.stdout, list[str](_COLUMNS), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    else:
        from rich.console import Console
        from rich.table import Table

        table = Table(box=None, pad_edge=False)
        for column in _COLUMNS:
            table.add_column(column, justify="right" if column.endswith("_usd") else "left", no_wrap=True)
        for row in rows:
            table.add_row(*[row[column] for column in _COLUMNS])
        Console(width=None if sys.stdout.isatty() else 200).print(table)
