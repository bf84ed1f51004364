"""`llmshield audit verify`: is the record of decisions what was written? 0 good, 1 broken, 2 usage."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

GOOD, BROKEN, USAGE = 0, 1, 2


def register(app: typer.Typer) -> None:
    """Mount the group."""
    group = typer.Typer(no_args_is_help=True, help="The record of decisions.")

    @group.callback()
    def audit() -> None:
        """The record of decisions."""

    @group.command("verify")
    def command(
        files: Annotated[
            list[Path] | None,
            typer.Argument(help="Segments; without them, those of the policy.", show_default=False),
        ] = None,
        policy: Annotated[
            Path | None, typer.Option("--policy", help="The policy whose `audit.sink` is verified.")
        ] = None,
        complete: Annotated[
            bool, typer.Option("--complete", help="A segment that is quoted and not here is a fault.")
        ] = False,
    ) -> None:
        """Check the hash chains of all segments: 0 good, 1 broken (file, line and number of the first bad record), 2 usage."""
        raise typer.Exit(verify(files or [], policy, complete=complete))

    app.add_typer(group, name="audit")


def verify(files: list[Path], policy: Path | None = None, *, complete: bool = False) -> int:
    """Verify these segments, else all of the policy's sink, else `audit*.jsonl` here; return the exit status."""
    from llmshield.evidence import segments
    from llmshield.evidence import verify as verify_segments

    paths = files
    if not paths:
        sink = Path("audit.jsonl")
        if policy is not None:
            found = _sink(policy)
            if found is None:
                return USAGE
            sink = found
        paths = segments(sink)
        if not paths:
            print(
                f"llmshield audit verify: no segment {sink.stem}*{sink.suffix} in {sink.parent}",
                file=sys.stderr,
            )
            return USAGE
    try:
        reports = verify_segments(paths, complete=complete)
    except IsADirectoryError as error:
        where = Path(error.filename)
        print(
            f"llmshield audit verify: {where} is a folder; name its segments: {where / 'audit*.jsonl'}",
            file=sys.stderr,
        )
        return USAGE
    except OSError as error:
        print(f"llmshield audit verify: {error.filename}: {error.strerror}", file=sys.stderr)
        return USAGE
    for report in reports:
        for note in report.notes:
            print(f"{report.path}: note: {note}")
        if report.fault:
            print(f"{report.path}:{report.line}: record {report.seq}: {report.fault}")
        else:
            print(f"{report.path}: {report.records} records, last hash {report.hash}")
    broken = sum(bool(report.fault) for report in reports)
    total = sum(report.records for report in reports)
    print(f"{'BROKEN' if broken else 'good'}: {len(reports)} segments, {total} good records, {broken} broken")
    return BROKEN if broken else GOOD


def _sink(policy: Path) -> Path | None:
    """Where the policy's records are; None, with a word to the user, when that is no file.

    Only `audit.sink` is read: a record is verified even where the policy's plugins are not installed.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        tree = YAML(typ="safe", pure=True).load(policy)
        sink = tree["audit"]["sink"]
    except OSError as error:
        print(f"llmshield audit verify: {policy}: {error.strerror}", file=sys.stderr)
        return None
    except (YAMLError, ValueError):
        print(f"llmshield audit verify: {policy} is no YAML; see `llmshield check {policy}`", file=sys.stderr)
        return None
    except (KeyError, TypeError):
        sink = "none"
    if not str(sink).startswith("file://"):
        print(f"llmshield audit verify: {policy}: audit.sink is {sink!r}, which is no file", file=sys.stderr)
        return None
    return Path(str(sink).removeprefix("file://"))
