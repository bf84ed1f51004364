"""`llmshield schema`: the JSON Schema of a policy, for editors."""

from __future__ import annotations

import sys

import typer


def register(app: typer.Typer) -> None:
    """Mount the command."""

    @app.command("schema")
    def command() -> None:
        """Print the JSON Schema (draft 2020-12) of a policy, settings of all installed plugins included."""
        raise typer.Exit(schema())


def schema() -> int:
    """Write the schema to standard output and return the exit status."""
    import orjson

    from llmshield.policy.schema import schema as build

    sys.stdout.write(orjson.dumps(build(), option=orjson.OPT_INDENT_2).decode() + "\n")
    return 0
