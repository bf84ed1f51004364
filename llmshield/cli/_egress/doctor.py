"""`llmshield egress doctor`: what a client of each kind would meet on this machine, and what to set.

It looks at the policy, the certificate authority, the files that clients are given, the proxy, the kernel's rules and
an environment: this one, or that of a process (`--pid`). Exit status: 0 good, 1 something is wrong, 2 usage. A client
counts when it was asked about (`--client`); the others are told for information.
"""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated

import typer

from llmshield.cli._egress._shared import DEFAULT_POLICY, CaOption, DirOption, PolicyOption, ca_store, misused


class Format(enum.StrEnum):
    """How it is written."""

    text = "text"
    json = "json"


def register(group: typer.Typer) -> None:
    """Add the command."""

    @group.command("doctor")
    def doctor_command(
        policy: PolicyOption = None,
        pid: Annotated[
            int | None,
            typer.Option("--pid", help="Look at this process's environment and user, not at our own."),
        ] = None,
        client: Annotated[
            list[str] | None,
            typer.Option("--client", help="A kind of client that has to obey; may be repeated."),
        ] = None,
        listen: Annotated[
            str | None,
            typer.Option("--listen", help="Where the proxy is, HOST:PORT; the policy's without it."),
        ] = None,
        dir: DirOption = None,
        folder: CaOption = None,
        format: Annotated[Format, typer.Option(help="How it is written.")] = Format.text,
    ) -> None:
        """Say what clients would meet here, and what to do."""
        raise typer.Exit(run(policy, pid, client or [], listen, dir, folder, format))


def run(
    path: Path | None, pid: int | None, chosen: list[str], listen: str | None, dir: Path | None, folder: Path | None,
    format: Format,
) -> int:  # fmt: skip
    """Print the diagnosis and return the exit status. Raises: PolicyError; typer.Exit for wrong usage."""
    from llmshield.cli._egress.env import parse_address
    from llmshield.cli._reading import policy_at
    from llmshield.egress import clients, doctor

    kinds = {kind.name for kind in clients.KINDS}
    if unknown := [name for name in chosen if name not in kinds]:
        raise misused("doctor", f"--client {unknown[0]!r:.60}: expected one of {', '.join(sorted(kinds))}")
    if path is None and DEFAULT_POLICY.is_file():
        path = DEFAULT_POLICY
    policy = policy_at(path, "egress doctor") if path is not None else None
    store = ca_store(folder, policy.egress if policy is not None else None)
    try:
        patient = doctor.patient_of(pid) if pid is not None else doctor.this_process()
    except OSError as error:
        raise misused(
            "doctor", f"--pid {pid}: {error.strerror}; name a process that this user may look at"
        ) from None
    where = parse_address(listen, "doctor", "--listen") if listen else None
    found = doctor.examine(policy, store, patient, dir or store.public, chosen, where)
    print(doctor.as_json(found) if format is Format.json else doctor.as_text(found), end="")
    return 0 if found.good else 1
