"""What several commands of the group read: the policy's `egress:`, the folder of the certificate authority, addresses."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmshield.cli._reading import USAGE, policy_at

if TYPE_CHECKING:
    from llmshield.egress.ca import Store
    from llmshield.policy.egress import Egress

DEFAULT_POLICY = Path("policy.yaml")

PolicyOption = Annotated[
    Path | None, typer.Option("--policy", "-p", help="The policy; policy.yaml here, if there is one.")
]
CaOption = Annotated[
    Path | None,
    typer.Option(
        "--ca", help="Folder of the certificate authority, instead of the policy's.", show_default=False
    ),
]
DirOption = Annotated[
    Path | None,
    typer.Option("--dir", help="Folder of what clients are given; beside the authority's without it."),
]


def section(policy: Path | None, command: str, *, needed: bool = False) -> Egress | None:
    """The policy's `egress:`; None without a policy or without that section.

    Raises: PolicyError; typer.Exit, with a word to the user, when a policy can't be read, or is `needed` and has none.
    """
    if policy is None and DEFAULT_POLICY.is_file():
        policy = DEFAULT_POLICY
    found = policy_at(policy, f"egress {command}").egress if policy is not None else None
    if found is None and needed:
        where = f"{policy} has no `egress:`" if policy else f"there is no {DEFAULT_POLICY}"
        raise misused(command, f"{where}; name a policy with `egress: {{hosts: ...}}`: --policy FILE")
    return found


def ca_store(folder: Path | None, egress: Egress | None) -> Store:
    """The store of the certificate authority that is meant."""
    from llmshield.egress.ca import Store

    return Store(folder or (egress.ca if egress is not None else None))


def misused(command: str, message: str) -> typer.Exit:
    """Say what was used wrongly; raise what comes back."""
    print(f"llmshield egress {command}: {message}", file=sys.stderr)
    return typer.Exit(USAGE)
