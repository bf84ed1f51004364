"""`llmshield egress`: the transparent mount. Each module of `_egress/` is one of its commands, and only the one that
was typed is imported."""

from __future__ import annotations

import importlib
import pkgutil
import sys

import typer

from llmshield.cli import _egress


def register(app: typer.Typer) -> None:
    """Add the group: every module there has `register(group)`, and its name (`_` read as `-`) is its command's."""
    group = typer.Typer(no_args_is_help=True, help="Calls of services that nobody may touch obey the policy.")
    known = {
        room.name.replace("_", "-"): room.name
        for room in pkgutil.iter_modules(_egress.__path__)
        if not room.name.startswith("_")
    }
    typed = sys.argv[2] if len(sys.argv) > 2 else ""
    for name in [known[typed]] if typed in known else sorted(known.values()):
        importlib.import_module(f"{_egress.__name__}.{name}").register(group)
    app.add_typer(group, name="egress")
