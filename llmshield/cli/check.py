"""`llmshield check FILE`: every finding about a policy; 0 clean, 1 findings, 2 usage."""

from __future__ import annotations

import enum
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from llmshield.policy import Finding, Policy

CLEAN, FINDINGS, USAGE = 0, 1, 2


class Format(enum.StrEnum):
    """How findings are written: for people, for programs, for GitHub's annotations."""

    text = "text"
    json = "json"
    github = "github"


def register(app: typer.Typer) -> None:
    """Mount the command."""

    @app.command("check")
    def command(
        file: Annotated[Path, typer.Argument(help="The policy.", show_default=False)],
        format: Annotated[Format, typer.Option(help="How findings are written.")] = Format.text,
        allow_warnings: Annotated[
            bool, typer.Option("--allow-warnings", help="Warnings alone are clean.")
        ] = False,
        secrets: Annotated[
            bool, typer.Option("--secrets", help="Look whether key references resolve.")
        ] = False,
    ) -> None:
        """Check a policy: 0 clean, 1 findings, 2 usage."""
        raise typer.Exit(check(file, format=format, allow_warnings=allow_warnings, secrets=secrets))


def check(
    path: Path, *, format: Format = Format.text, allow_warnings: bool = False, secrets: bool = False
) -> int:
    """Write all findings to standard output and return the exit status.

    Warnings count as findings unless `allow_warnings`; `secrets` also resolves every key reference.
    """
    from llmshield.policy import inspect

    try:
        policy, findings = inspect(path, secrets=secrets)
    except OSError as error:
        print(f"llmshield check: {path}: {error.strerror}", file=sys.stderr)
        return USAGE
    _WRITERS[format](path, policy, findings)
    counted = [item for item in findings if item.severity == "error" or not allow_warnings]
    return FINDINGS if counted else CLEAN


def _write_text(path: Path, policy: Policy | None, findings: tuple[Finding, ...]) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(soft_wrap=True, highlight=False)
    for item in findings:
        style = "red" if item.severity == "error" else "yellow"
        line = Text(f"{item.file}:{item.line}:{item.column}: ")
        line.append(f"{item.severity} {item.code}", style=f"bold {style}")
        line.append(f": {item.path}: {item.message}" if item.path else f": {item.message}")
        console.print(line)
        if item.source.strip():
            console.print(Text(f"  {item.source.strip()}", style="dim"))
        if item.hint:
            console.print(Text(f"  hint: {item.hint}", style="cyan"))
    errors = sum(item.severity == "error" for item in findings)
    warnings = len(findings) - errors
    if policy is None:
        console.print(
            Text(f"{path}: {_counted(errors, 'error')}, {_counted(warnings, 'warning')}", style="bold red")
        )
    else:
        what = _counted(warnings, "warning") if warnings else "clean"
        console.print(
            f"{path}: {what} ({_counted(len(policy.providers), 'provider')}, "
            f"{_counted(len(policy.routes), 'route')}, {_counted(len(policy.plugins), 'plugin')}) {policy.hash}",
            style="yellow" if warnings else "green",
            markup=False,
        )


def _write_json(path: Path, policy: Policy | None, findings: tuple[Finding, ...]) -> None:
    import orjson

    out = {
        "file": str(path),
        "usable": policy is not None,
        "hash": policy.hash if policy is not None else None,
        "findings": [item.as_dict() for item in findings],
    }
    print(orjson.dumps(out, option=orjson.OPT_INDENT_2).decode())


def _write_github(path: Path, policy: Policy | None, findings: tuple[Finding, ...]) -> None:
    """Workflow commands: https://docs.github.com/actions/reference/workflow-commands-for-github-actions"""
    for item in findings:
        message = f"{item.path}: {item.message}" if item.path else item.message
        if item.hint:
            message += f"\nhint: {item.hint}"
        place = f"file={_property(item.file)},line={item.line},col={item.column},title={item.code}"
        print(f"::{item.severity} {place}::{_escaped(message)}")


def _escaped(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _escaped(text).replace(":", "%3A").replace(",", "%2C")


def _counted(count: int, word: str) -> str:
    return f"{count} {word}{'' if count == 1 else 's'}"


_WRITERS = {Format.text: _write_text, Format.json: _write_json, Format.github: _write_github}
