"""`llmshield audit verify | search | export`: is the record of decisions what was written, and what does it say?

`verify`: 0 good, 1 broken, 2 usage. `search`, `export`: 0 with records or none, 1 when a key that is needed can't be
used, 2 usage. They read the segments of the policy's sink (`--policy`), or `audit*.jsonl` here.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from llmshield.cli import _audit_search

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
        heads: Annotated[
            list[Path] | None,
            typer.Option(
                "--heads", help="Heads that were kept elsewhere (`audit.anchor_to`).", show_default=False
            ),
        ] = None,
    ) -> None:
        """Check the hash chains of all segments: 0 good, 1 broken (file, line and number of the first bad record), 2 usage."""
        raise typer.Exit(verify(files or [], policy, complete=complete, heads=heads or []))

    _audit_search.register(group)
    app.add_typer(group, name="audit")


def verify(
    files: list[Path], policy: Path | None = None, *, complete: bool = False, heads: Sequence[Path] = ()
) -> int:
    """Verify these segments, else all of the policy's sink, else `audit*.jsonl` here; return the exit status."""
    from llmshield.evidence import heads_path, segments
    from llmshield.evidence import verify as verify_segments

    paths, sink, kept = files, None, list(heads)
    if not paths:
        sink = Path("audit.jsonl")
        if policy is not None:
            found = sink_of(policy, "audit verify")
            if found is None:
                return USAGE
            sink, elsewhere = found
            kept += [elsewhere] if elsewhere is not None and elsewhere not in kept else []
        paths = segments(sink)
        if not paths and not heads_path(sink).exists():
            print(
                f"llmshield audit verify: no segment {sink.stem}*{sink.suffix} in {sink.parent}",
                file=sys.stderr,
            )
            return USAGE
    try:
        reports = verify_segments(paths, complete=complete, sink=sink, heads=kept)
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


def sink_of(policy: Path, command: str) -> tuple[Path, Path | None] | None:
    """Where the policy's records are, and the file that its heads are told to; None, with a word to the user, when the
    records are in no file.

    Only `audit.sink` and `audit.anchor_to` are read: a record is verified even where the policy's plugins are not
    installed.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        tree = YAML(typ="safe", pure=True).load(policy)
        audit = tree["audit"]
        sink, anchor = audit["sink"], str(audit.get("anchor_to", ""))
    except OSError as error:
        print(f"llmshield {command}: {policy}: {error.strerror}", file=sys.stderr)
        return None
    except (YAMLError, ValueError):
        print(f"llmshield {command}: {policy} is no YAML; see `llmshield check {policy}`", file=sys.stderr)
        return None
    except (KeyError, TypeError, AttributeError):
        sink, anchor = "none", ""
    if not str(sink).startswith("file://"):
        print(f"llmshield {command}: {policy}: audit.sink is {sink!r}, which is no file", file=sys.stderr)
        return None
    elsewhere = Path(anchor.removeprefix("file://")) if anchor.startswith("file://") else None
    return Path(str(sink).removeprefix("file://")), elsewhere
