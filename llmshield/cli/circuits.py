"""`llmshield circuits`: which providers are left alone; leave one alone, or ask it again, by hand.

    llmshield circuits list
    llmshield circuits open --provider openai --model gpt-4o --for 10m
    llmshield circuits close --provider openai

What is set holds in every process of the policy's store within a second. Without `--model` it is about all models of
the provider. The policy is `--policy`, else `policy.yaml` here. Exit status: 0 done, 1 the store can't be reached, 2
usage.
"""

from __future__ import annotations

import asyncio
import enum
import json
import math
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from llmshield.cli._reading import USAGE, policy_at, shared_store

if TYPE_CHECKING:
    from llmshield.circuits.notes import Key, Note
    from llmshield.policy import Policy
    from llmshield.stores import Store

T = TypeVar("T")

_Policy = Annotated[
    Path, typer.Option("--policy", "-p", help="The policy with the providers and the store of the circuits.")
]
_Provider = Annotated[str | None, typer.Option("--provider", help="A provider of the policy.")]
_Model = Annotated[
    str | None, typer.Option("--model", help="One model, as it is sent to the provider; all without it.")
]
_POLICY = Path("policy.yaml")


class Format(enum.StrEnum):
    """How the list is written."""

    table = "table"
    json = "json"


def register(app: typer.Typer) -> None:
    """Mount the group."""
    group = typer.Typer(no_args_is_help=True, help="See and set which providers are left alone.")
    app.add_typer(group, name="circuits")

    @group.command("list")
    def list_command(
        provider: _Provider = None,
        model: _Model = None,
        format: Annotated[Format, typer.Option(help="How the list is written.")] = Format.table,
        policy: _Policy = _POLICY,
    ) -> None:
        """Show how the circuits stand."""
        raise typer.Exit(show(provider, model, format, policy=policy))

    @group.command("open")
    def open_command(
        provider: _Provider = None,
        model: _Model = None,
        length: Annotated[
            str | None, typer.Option("--for", help="How long: 30s, 10m, 2h. Until it is closed without it.")
        ] = None,
        policy: _Policy = _POLICY,
    ) -> None:
        """Leave a provider alone from now on."""
        raise typer.Exit(hold_open(provider, model, length, policy=policy))

    @group.command("close")
    def close_command(provider: _Provider = None, model: _Model = None, policy: _Policy = _POLICY) -> None:
        """Ask a provider again from now on; what counted against it is forgotten."""
        raise typer.Exit(close(provider, model, policy=policy))


def show(provider: str | None, model: str | None, format: Format, *, policy: Path) -> int:
    """Write the list; returns the exit status."""
    from llmshield.circuits import notes

    loaded = policy_at(policy, "circuits list")
    if provider is not None and not _has_circuit(loaded, provider, "list"):
        return USAGE
    found = _with(policy, "list", notes.everyone)
    rows = [
        row
        for name, held in sorted(loaded.providers.items())
        if held.circuit is not None and provider in (None, name)
        for row in _rows(name, {key: note for key, (_, note) in found.items()})
        if model is None or row["model"] in (model, "*")
    ]
    if format is Format.json:
        print(json.dumps(rows, indent=2))
    elif rows:
        _print_table(rows)
    else:
        print("No provider of this policy has a circuit.")
    return 0


def hold_open(provider: str | None, model: str | None, length: str | None, *, policy: Path) -> int:
    """Open a circuit and say so; returns the exit status."""
    from llmshield.circuits import notes

    seconds = math.inf
    if length is not None:
        given = _seconds(length)
        if given is None:
            expected = "expected a duration such as 30s, 10m or 2h"
            print(f"llmshield circuits open: --for {length!r:.40}: {expected}", file=sys.stderr)
            return USAGE
        seconds = given
    loaded = policy_at(policy, "circuits open")
    if provider is None or not _has_circuit(loaded, provider, "open"):
        return USAGE if provider is not None else _needs_provider("open")
    _with(policy, "open", lambda store: notes.hold_open(store, provider, model, seconds))
    until = f"for {length}" if length is not None else "until it is closed"
    print(f"The circuit of {provider}, {model or 'all models'} is open {until}.")
    return 0


def close(provider: str | None, model: str | None, *, policy: Path) -> int:
    """Close a circuit and say so; returns the exit status."""
    from llmshield.circuits import notes

    loaded = policy_at(policy, "circuits close")
    if provider is None or not _has_circuit(loaded, provider, "close"):
        return USAGE if provider is not None else _needs_provider("close")
    _with(policy, "close", lambda store: notes.close(store, provider, model))
    print(f"The circuit of {provider}, {model or 'all models'} is closed.")
    return 0


def _rows(provider: str, found: dict[Key, Note]) -> list[dict[str, Any]]:
    """A provider's circuits: `*` is every model that has no line of its own; what is older than it says nothing."""
    whole = found.get((provider,))
    rows = [_row(provider, "*", whole)]
    for key, note in sorted(found.items()):
        if len(key) == 2 and key[0] == provider and (whole is None or whole.since_ms < note.since_ms):
            rows.append(_row(provider, key[1], note))
    return rows


def _row(provider: str, model: str, note: Note | None) -> dict[str, Any]:
    from llmshield.windows import iso

    row: dict[str, Any] = {
        "provider": provider,
        "model": model,
        "state": "closed",
        "since": None,
        "left_s": None,
        "reason": "",
    }
    if note is not None:
        row["since"] = iso(note.since_ms / 1000)
        if note.state != "closed":
            left_s = note.left_s if note.state == "open" else 0.0
            row["state"], row["reason"] = "open" if left_s else "half_open", note.reason
            row["left_s"] = round(left_s, 3) if left_s and math.isfinite(left_s) else None
    return row


def _print_table(rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for name in ("provider", "model", "state", "since", "left", "reason"):
        table.add_column(name)
    for row in rows:
        left = "" if row["left_s"] is None else f"{row['left_s']:.0f}s"
        words = (row["provider"], row["model"], row["state"], row["since"] or "", left, row["reason"])
        table.add_row(*[Text(word) for word in words])
    Console().print(table)


def _with(policy: Path, command: str, step: Callable[[Store], Awaitable[T]]) -> T:
    store = shared_store(policy, None, f"circuits {command}")

    async def run() -> T:
        await store.open()
        try:
            return await step(store)
        finally:
            await store.close()

    return asyncio.run(run())


def _has_circuit(policy: Policy, provider: str, command: str) -> bool:
    found = policy.providers.get(provider)
    if found is not None and found.circuit is not None:
        return True
    named = ", ".join(sorted(name for name, each in policy.providers.items() if each.circuit is not None))
    why = "has no `circuit` in the policy" if found is not None else "is not in the policy"
    print(
        f"llmshield circuits {command}: provider {provider!r:.80} {why}; with a circuit: {named or 'nobody'}",
        file=sys.stderr,
    )
    return False


def _needs_provider(command: str) -> int:
    print(f"llmshield circuits {command}: say which provider: --provider NAME", file=sys.stderr)
    return USAGE


def _seconds(text: str) -> float | None:
    from pydantic_core import PydanticCustomError

    from llmshield.policy.units import positive_duration

    try:
        return positive_duration(text)
    except PydanticCustomError:
        return None
