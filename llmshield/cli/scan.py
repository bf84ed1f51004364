"""`llmshield scan`: what a detector says of texts, one JSON verdict for each text of standard input."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from llmshield.cli._reading import policy_at
from llmshield.cli._scan_input import Format, Item, read

_AT_ONCE = 64
"""Texts that go to a process together."""


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command()
    def scan(
        plugin: Annotated[
            str, typer.Option(help="The detector: injection, pii, secrets, or another plugin that can scan.")
        ],
        policy: Annotated[
            Path | None, typer.Option("--policy", "-p", help="Take the plugin's settings from this policy.")
        ] = None,
        form: Annotated[
            Format, typer.Option("--format", help="Of the input: JSON lines, a text a line, or a table.")
        ] = "jsonl",
        column: Annotated[str, typer.Option(help="Of a table: the column with the texts.")] = "text",
        report: Annotated[
            Path | None, typer.Option(help="Also write a page for people: kinds, counts and places.")
        ] = None,
        show_texts: Annotated[
            bool,
            typer.Option("--show-texts", help="Let the report hold the texts, with what was found marked."),
        ] = False,
        jobs: Annotated[
            int, typer.Option(help="Processes that judge; 1 answers each line as it comes.", min=1, max=256)
        ] = 1,
    ) -> None:
        """Judge texts without a server.

        Reads one object a line, {"text": "...", "role": "user"} (role optional: system, user, assistant, tool,
        output), and writes one object a line, in order: action, score, spans (code points of the text as given),
        families, ms. A line that can't be read gets the action "block" and an "error". A table may have a column
        `role`.
        """
        from llmshield.errors import ShieldError

        page = None
        if report is not None:
            from llmshield.cli._scan_report import Report

            page = Report(plugin, texts=show_texts)
        write, flush = sys.stdout.write, sys.stdout.flush
        try:
            items = _shown(read(sys.stdin.buffer, form, column))
            for item, verdict in _verdicts(items, plugin, policy, jobs):
                write(json.dumps(verdict) + "\n")
                flush()
                if page is not None:
                    page.add(item, verdict)
        except ValueError as error:
            raise ShieldError(f"standard input: {error}") from None
        if report is not None and page is not None:
            try:
                report.write_text(page.page(), encoding="utf-8")
            except OSError as error:
                raise ShieldError(f"{report}: the report can't be written: {error.strerror}.") from None


def _verdicts(
    items: Iterable[Item], plugin: str, policy: Path | None, jobs: int
) -> Iterator[tuple[Item, dict[str, Any]]]:
    """Each text and its verdict, in order."""
    if jobs == 1:
        _begin(plugin, policy)
        yield from map(_judged, items)
        return
    from multiprocessing import get_context
    from threading import Semaphore

    scanner(plugin, policy)  # what is wrong with it is said here, not in a process of its own
    room = Semaphore(jobs * 4 * _AT_ONCE)  # else a pool reads all of its input at once

    def let_in() -> Iterator[Item]:
        for item in items:
            room.acquire()
            yield item

    with get_context("spawn").Pool(jobs, _begin, (plugin, policy)) as pool:
        for judged in pool.imap(_judged, let_in(), chunksize=_AT_ONCE):
            room.release()
            yield judged


_scanner: Any = None
"""Of this process."""


def _begin(plugin: str, policy: Path | None) -> None:
    global _scanner
    _scanner = scanner(plugin, policy)


def _judged(item: Item) -> tuple[Item, dict[str, Any]]:
    if item.error is not None:  # what can't be judged is refused, as it would be in a call
        return item, {
            "action": "block",
            "score": 1.0,
            "spans": [],
            "families": [],
            "ms": 0.0,
            "error": item.error,
        }
    return item, _scanner.scan(item.text, item.role)


def scanner(name: str, policy: Path | None) -> Any:
    """The plugin's scanner, with its settings of the policy or its defaults. Raises: ShieldError."""
    from llmshield import registry
    from llmshield.errors import PluginError

    if policy is None:
        found: Any = registry.find("plugin", name)
        settings = found.scan_settings() if hasattr(found, "scan_settings") else found.Settings()
    else:
        loaded = policy_at(policy, "scan")
        entry = next((e for e in loaded.plugins if name in {e.name, e.use}), None)
        if entry is None:
            used = ", ".join(e.name for e in loaded.plugins) or "none"
            raise PluginError(f"{policy}: the policy uses no plugin {name!r}; it uses: {used}.")
        found, settings = entry.plugin, entry.settings
    if not hasattr(found, "scanner"):
        raise PluginError(f"The plugin {name!r} can't scan single texts; injection, pii and secrets can.")
    return found.scanner(settings)


def _shown(items: Iterable[Item]) -> Iterable[Item]:
    """The same, with a count on the terminal where the verdicts go elsewhere."""
    if not sys.stderr.isatty() or sys.stdout.isatty():
        return items
    return _counted(items)


def _counted(items: Iterable[Item]) -> Iterator[Item]:
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.completed:,.0f} texts"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("scan", total=None)
        for item in items:
            yield item
            progress.advance(task)
