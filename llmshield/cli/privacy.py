"""`llmshield privacy export | erase --user ID`: what is kept about a person, and its end.

Every kind of personal data is asked (`llmshield.holders`). `erase` shows what it will do and asks for `--yes`; what it
can't erase it says. Exit status: 0 done (or nobody there), 1 not or not wholly done, 2 usage.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmshield.cli._reading import USAGE, policy_at

if TYPE_CHECKING:
    from llmshield.holders import Holder

GOOD, FAILED = 0, 1

_User = Annotated[
    str, typer.Option(help="Whom callers name as `user`, `safety_identifier` or `metadata.user_id`.")
]
_Tenant = Annotated[
    str | None, typer.Option(help="Of this tenant; of every one without it.", show_default=False)
]
_Policy = Annotated[Path, typer.Option(help="The policy whose data it is.")]


def register(app: typer.Typer) -> None:
    """Mount the group."""
    group = typer.Typer(no_args_is_help=True, help="What is kept about a person.")

    @group.callback()
    def privacy() -> None:
        """What is kept about a person."""

    @group.command("export")
    def export_command(user: _User, tenant: _Tenant = None, policy: _Policy = Path("policy.yaml")) -> None:
        """Print everything that is kept about this person, a JSON object a line."""
        raise typer.Exit(export(user, tenant, policy))

    @group.command("erase")
    def erase_command(
        user: _User, tenant: _Tenant = None, policy: _Policy = Path("policy.yaml"),
        yes: Annotated[bool, typer.Option("--yes", help="Do it; without this word it is only told what would be.")] = False,
    ) -> None:  # fmt: skip
        """Destroy the keys of everything that is kept about this person: nobody can read it any more."""
        raise typer.Exit(erase(user, tenant, policy, yes=yes))

    app.add_typer(group, name="privacy")


def export(user: str, tenant: str | None, policy: Path) -> int:
    """Print what every holder has; return the exit status."""
    from llmshield.errors import ShieldError

    status = GOOD
    for name, holder in _holders(policy, "privacy export"):
        try:
            for item in holder.export(user, tenant):
                print(json.dumps({"holder": name, **item}))
        except (ShieldError, OSError) as error:
            print(f"llmshield privacy export: {holder.what}: {_said(error)}", file=sys.stderr)
            status = FAILED
    return status


def erase(user: str, tenant: str | None, policy: Path, *, yes: bool) -> int:
    """Let every holder erase this person; return the exit status."""
    from llmshield.errors import ShieldError

    status = GOOD
    for _, holder in _holders(policy, "privacy erase"):
        try:
            if not yes:
                count = sum(1 for _ in holder.export(user, tenant))
                print(f"{holder.what}: {count} would be made unreadable; say --yes to do it")
                continue
            done = holder.erase(user, tenant)
        except (ShieldError, OSError) as error:
            print(f"llmshield privacy erase: {holder.what}: NOT erased: {_said(error)}", file=sys.stderr)
            status = FAILED
            continue
        print(f"{holder.what}: {done.people} people erased, {done.items} {holder.what} are now nobody's")
        for line in done.proof:
            print(f"{holder.what}: {line}")
        for left in done.left:
            print(f"{holder.what}: {left}")
            status = FAILED
    return status


def _holders(policy: Path, command: str) -> list[tuple[str, Holder]]:
    """Every kind of personal data under this policy. Raises: PolicyError, typer.Exit."""
    from llmshield import registry

    if not policy.is_file():
        print(f"llmshield {command}: there is no {policy}; say --policy FILE", file=sys.stderr)
        raise typer.Exit(USAGE)
    loaded = policy_at(policy, command)
    return [(name, registry.find("holder", name)(loaded)) for name in registry.names("holder")]


def _said(error: Exception) -> str:
    """An error of the system without its number."""
    return (
        f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.filename else str(error)
    )
