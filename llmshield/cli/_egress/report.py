"""`llmshield egress report`: which hosts and processes speak to LLM providers here, and what the policy's own calls cost.

What the proxy saw comes from the names in TLS, which processes are connected from the kernel's tables, models and spend
from the policy's audit; nothing is decrypted for it. Run it as root to see other users' processes.
Exit status: 0 good, 1 when it can't be done, 2 usage; with `--strict` 1 when a provider is spoken to past the policy.
"""

from __future__ import annotations

import enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmshield.cli._egress._shared import DEFAULT_POLICY, PolicyOption, misused

if TYPE_CHECKING:
    from llmshield.egress.report import Report
    from llmshield.policy import Policy


class Format(enum.StrEnum):
    """How it is written."""

    text = "text"
    json = "json"
    csv = "csv"


def register(group: typer.Typer) -> None:
    """Add the command."""

    @group.command("report")
    def report_command(
        policy: PolicyOption = None,
        format: Annotated[Format, typer.Option(help="How it is written.")] = Format.text,
        since: Annotated[
            str | None,
            typer.Option(help="Only what was seen within this time: 24h, 30d.", show_default=False),
        ] = None,
        everything: Annotated[
            bool, typer.Option("--all", help="Hosts that are no LLM provider's as well.")
        ] = False,
        live: Annotated[
            bool, typer.Option("--live/--no-live", help="Look at processes that have connections open now.")
        ] = True,
        strict: Annotated[
            bool,
            typer.Option("--strict", help="Exit status 1 when a provider is spoken to that is not listed."),
        ] = False,
    ) -> None:
        """List who speaks to LLM providers."""
        from llmshield.egress import report as reports

        found = build(policy, since, everything, live)
        write = {Format.text: reports.as_text, Format.json: reports.as_json, Format.csv: reports.as_csv}[
            format
        ]
        print(write(found), end="")
        if strict and found.shadow:
            raise typer.Exit(1)


def build(path: Path | None, since: str | None, everything: bool, live: bool) -> Report:
    """Look at all three sources. Raises: PolicyError; typer.Exit for wrong usage."""
    from llmshield import clock
    from llmshield.cli._reading import policy_at
    from llmshield.egress import known, report, seen, sockets
    from llmshield.policy.egress import Egress

    if path is None and DEFAULT_POLICY.is_file():
        path = DEFAULT_POLICY
    policy = policy_at(path, "egress report") if path is not None else None
    egress = (policy.egress if policy is not None else None) or Egress()
    start = clock.now() - _seconds(since) if since is not None else 0.0
    notes = list[str]()

    sights = seen.read()
    if not sights:
        notes.append("the proxy has seen nobody yet (llmshield egress run writes what it sees)")
    rows = [(each.how, each.host, each.client, each.connections, each.first, each.last) for each in sights]
    hosts = report.hosts(rows, egress, start, everything)

    programs: list[report.Program] = []
    if live:
        found = sockets.connections()
        names = [*egress.hosts, *(each.host for each in hosts), *known.hosts()]
        addresses = report.resolve(names)
        if not addresses:
            notes.append(
                "no name of a provider could be looked up, so that open connections are matched to no host"
            )
        programs = report.programs(
            found.connections, egress, addresses, (egress.listen.host, egress.listen.port)
        )
        if found.hidden:
            notes.append(f"{found.hidden} processes of other users could not be looked into; run it as root")
    return report.Report(hosts, programs, _spend(policy, start, notes), notes)


def _spend(policy: Policy | None, start: float, notes: list[str]) -> list[report_module.Spend]:
    from llmshield.egress import report
    from llmshield.errors import ShieldError
    from llmshield.evidence import segments

    sink = policy.audit.sink if policy is not None else "none"
    if not sink.startswith("file://"):
        notes.append(
            "models and spend are not shown: they come from the audit, and the policy has no audit.sink file"
        )
        return []
    files = segments(Path(sink.removeprefix("file://")))
    try:
        return report.spend(report.read_records(files), start)
    except OSError as error:
        raise ShieldError(f"{error.filename}: {error.strerror}") from None


def _seconds(text: str) -> float:
    from pydantic_core import PydanticCustomError

    from llmshield.policy.units import positive_duration

    try:
        return positive_duration(text)
    except PydanticCustomError as error:
        raise misused("report", f"--since: {error.message()}") from None


if TYPE_CHECKING:
    from llmshield.egress import report as report_module
