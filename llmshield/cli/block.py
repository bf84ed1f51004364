"""`llmshield block`: who may not call, whatever the policy says; known to every process of the store within a second.

    llmshield block add 192.0.2.7 --for 24h --reason "credential stuffing"
    llmshield block add tenant:acme
    llmshield block list
    llmshield block remove 192.0.2.7

A target is an address, a network (`2001:db8::/48`) or `tenant:NAME`; a single IPv6 address is blocked as its /64. The
store is `--store`, or the policy's (`--policy`, else `policy.yaml` here, else `llmshield.db` here). Exit status: 0
done, 1 the store can't be reached or holds no such block, 2 usage.
"""

from __future__ import annotations

import asyncio
import enum
import json
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from llmshield.cli._reading import USAGE, shared_store

if TYPE_CHECKING:
    from llmshield.blocks import Blocked
    from llmshield.stores import Store

T = TypeVar("T")

_Policy = Annotated[Path | None, typer.Option("--policy", help="The policy whose store holds the blocks.")]
_StoreUrl = Annotated[str | None, typer.Option("--store", help="The store, instead of a policy's.")]
_Target = Annotated[str, typer.Argument(help="An address, a network or tenant:NAME.")]


class Format(enum.StrEnum):
    """How the list is written."""

    table = "table"
    json = "json"


def register(app: typer.Typer) -> None:
    """Mount the group."""
    group = typer.Typer(no_args_is_help=True, help="Say who may not call.")
    app.add_typer(group, name="block")

    @group.command("add")
    def add_command(
        target: _Target,
        length: Annotated[
            str | None, typer.Option("--for", help="How long: 30m, 24h, 7d. For ever without it.")
        ] = None,
        reason: Annotated[str, typer.Option(help="For the list; callers never see it.")] = "",
        policy: _Policy = None,
        store: _StoreUrl = None,
    ) -> None:
        """Block a target from now on; again to change how long."""
        raise typer.Exit(add(target, length, reason, policy=policy, store=store))

    @group.command("list")
    def list_command(
        format: Annotated[Format, typer.Option(help="How the list is written.")] = Format.table,
        policy: _Policy = None,
        store: _StoreUrl = None,
    ) -> None:
        """Show who is blocked, until when and why."""
        raise typer.Exit(show(format, policy=policy, store=store))

    @group.command("remove")
    def remove_command(target: _Target, policy: _Policy = None, store: _StoreUrl = None) -> None:
        """Take a block back."""
        raise typer.Exit(remove(target, policy=policy, store=store))


def add(target: str, length: str | None, reason: str, *, policy: Path | None, store: str | None) -> int:
    """Write the block and say so; returns the exit status."""
    from llmshield import blocks, clock

    until_ms = 0
    if length is not None:
        seconds = _seconds(length)
        if seconds is None:
            print(
                f"llmshield block add: --for {length!r:.40}: expected a duration such as 30m, 24h or 7d",
                file=sys.stderr,
            )
            return USAGE
        until_ms = int((clock.now() + seconds) * 1000)
    if not _is_target(target, "add"):
        return USAGE
    there = shared_store(policy, store, "block add", make=True)
    made = _with(there, lambda s: blocks.add(s, target, until_ms, reason))
    print(f"{made.shown} is blocked{_until(made)}.")
    return 0


def remove(target: str, *, policy: Path | None, store: str | None) -> int:
    """Strike the block; returns the exit status: 1 if there was none."""
    from llmshield import blocks

    if not _is_target(target, "remove"):
        return USAGE
    found = _with(shared_store(policy, store, "block remove"), lambda s: blocks.remove(s, target))
    shown = blocks.Blocked(blocks.read_target(target), 0).shown
    print(f"{shown} is not blocked any more." if found else f"{shown} was not blocked.")
    return 0 if found else 1


def show(format: Format, *, policy: Path | None, store: str | None) -> int:
    """Write the list; returns the exit status."""
    from llmshield import blocks
    from llmshield.windows import iso

    found = _with(shared_store(policy, store, "block list"), blocks.everyone)
    rows = [
        {"target": item.shown, "since": iso(item.since_ms / 1000),
         "until": iso(item.until_ms / 1000) if item.until_ms else None, "reason": item.reason}
        for item in found
    ]  # fmt: skip
    if format is Format.json:
        print(json.dumps(rows, indent=2))
    elif rows:
        _print_table(rows)
    else:
        print("Nobody is blocked.")
    return 0


def _print_table(rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for name in rows[0]:
        table.add_column(name)
    for row in rows:
        table.add_row(*[Text(str(value or "")) for value in row.values()])
    Console().print(table)


def _with(store: Store, step: Callable[[Store], Awaitable[T]]) -> T:
    async def run() -> T:
        await store.open()
        try:
            return await step(store)
        finally:
            await store.close()

    return asyncio.run(run())


def _is_target(target: str, command: str) -> bool:
    from llmshield.blocks import read_target
    from llmshield.errors import ShieldError

    try:
        read_target(target)
    except ShieldError as error:
        print(f"llmshield block {command}: {error}", file=sys.stderr)
        return False
    return True


def _seconds(text: str) -> float | None:
    from pydantic_core import PydanticCustomError

    from llmshield.policy.units import positive_duration

    try:
        return positive_duration(text)
    except PydanticCustomError:
        return None


def _until(made: Blocked) -> str:
    from llmshield.windows import iso

    return f" until {iso(made.until_ms / 1000)}" if made.until_ms else ""
