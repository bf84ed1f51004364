"""Read the policy that a command names: a file that can't be read is told in one line, as wrong usage."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from llmshield.policy import Policy

USAGE = 2


def policy_at(path: Path, command: str) -> Policy:
    """The policy in this file.

    Raises: PolicyError with every finding when it can't be used; typer.Exit, with a word to the user, when the
    file can't be read.
    """
    from llmshield.policy import load

    try:
        return load(path)
    except OSError as error:
        print(
            f"llmshield {command}: {path}: {error.strerror}; name a policy that can be read: --policy FILE",
            file=sys.stderr,
        )
        raise typer.Exit(USAGE) from None
