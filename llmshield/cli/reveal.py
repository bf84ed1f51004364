"""`llmshield reveal`: sealed values in a text, readable again for who holds the key."""

from __future__ import annotations

import sys
from typing import Any

import typer


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command()
    def reveal() -> None:
        """Open the values that `pii` has encrypted (`<EMAIL_ADDRESS:sealed:...>`).

        Reads a text from standard input and writes it with those values as they were. The key ring is
        LLMSHIELD_SECRET_KEY and LLMSHIELD_PREVIOUS_KEYS; a value that it does not open ends with status 1, and nothing
        is written.
        """
        from llmshield import registry

        plugin: Any = registry.find("plugin", "pii")
        text = sys.stdin.buffer.read().decode("utf-8", "surrogatepass")
        sys.stdout.buffer.write(plugin.revealed(text).encode("utf-8", "surrogatepass"))
        sys.stdout.flush()
