"""`llmshield explain --text TEXT`: what the detectors of a policy say of one text, and why."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from llmshield.cli._reading import policy_at
from llmshield.cli.scan import scanner

_SHOWN = 80
"""Characters of a place that are shown."""
ROLES = ("system", "user", "assistant", "tool", "output")


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command()
    def explain(
        text: Annotated[
            str, typer.Option(help="The text; - reads it from standard input.", show_default=False)
        ],
        role: Annotated[str, typer.Option(help="Whose text it is.")] = "user",
        policy: Annotated[
            Path | None,
            typer.Option(
                "--policy", "-p", help="Its detectors and their settings; else injection's defaults."
            ),
        ] = None,
        plugin: Annotated[str | None, typer.Option(help="Only this detector.", show_default=False)] = None,
    ) -> None:
        """Say what each detector finds in a text: what, how sure, where, and in which form it was read.

        Exit status: 0 allowed or flagged, 1 refused.
        """
        if role not in ROLES:
            raise typer.BadParameter(f"{role!r} is none of {', '.join(ROLES)}", param_hint="--role")
        given = sys.stdin.buffer.read().decode("utf-8", "surrogateescape") if text == "-" else text
        refused = False
        for name in _detectors(policy, plugin):
            verdict = scanner(name, policy).scan(given, role)
            refused = refused or verdict["action"] == "block"
            sys.stdout.write("\n".join(lines(name, given, verdict)) + "\n")
        raise typer.Exit(1 if refused else 0)


def _detectors(policy: Path | None, plugin: str | None) -> list[str]:
    """The names of the detectors that are asked. Raises: PluginError when the policy has none."""
    if plugin is not None:
        return [plugin]
    if policy is None:
        return ["injection"]
    names = [entry.name for entry in policy_at(policy, "explain").plugins if hasattr(entry.plugin, "scanner")]
    if not names:
        from llmshield.errors import PluginError

        raise PluginError(f"{policy}: the policy uses no plugin that can judge single texts.")
    return names


def lines(name: str, text: str, verdict: dict[str, Any]) -> Iterator[str]:
    """A verdict for people: the decision first, then every finding, the surest first."""
    yield f"{name}: {verdict['action']}, score {verdict.get('score', 0.0):.2f}, {verdict.get('ms', 0.0):.2f} ms"
    for span in sorted(verdict["spans"], key=lambda span: -span.get("score", 0.0)):
        kind, mark = span["type"], span.get("id")
        what = kind if mark in (None, kind) else f"{kind} ({mark})"
        view = span.get("view", "text")
        read = "" if view == "text" else f", read as {view}"
        yield f"  {span.get('score', 0.0):.2f}  {what}{read}"
        yield f"        {span['start']}-{span['end']}: {_excerpt(text[span['start'] : span['end']])}"
    if not verdict["spans"]:
        yield "  nothing found"


def _excerpt(text: str) -> str:
    """A place of the text on one line of a terminal: what is not printable is escaped."""
    shown = text if len(text) <= _SHOWN else f"{text[: _SHOWN // 2]} ... {text[-_SHOWN // 2 :]}"
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in shown
    )
