"""`llmshield ca`: the same as `llmshield egress ca`."""

from __future__ import annotations

import typer


def register(app: typer.Typer) -> None:
    """Mount the commands."""
    from llmshield.cli._egress import ca

    ca.register(app)
