"""`llmshield egress env`: every variable by which clients trust the proxy, and find it, for a shell or a container.

    eval "$(llmshield egress env)"                          this shell
    llmshield egress env --shell fish | source
    docker run --env-file <(llmshield egress env --shell env-file --at /etc/llmshield) ...

The files that they name are written first where they are missing or stale. Exit status: 0 good, 1 no, 2 usage.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmshield.cli._egress._shared import CaOption, DirOption, PolicyOption, ca_store, misused, section

if TYPE_CHECKING:
    from llmshield.egress.ca import Store

ShellOption = Annotated[
    str, typer.Option("--shell", "-s", help="sh, fish, powershell, docker, env-file, systemd, json.")
]


def register(group: typer.Typer) -> None:
    """Add the command."""

    @group.command("env")
    def env_command(
        shell: ShellOption = "sh",
        dir: DirOption = None,
        at: Annotated[
            Path | None,
            typer.Option(
                "--at", help="Where clients see that folder, such as a volume's path in a container."
            ),
        ] = None,
        proxy: Annotated[
            str | None, typer.Option("--proxy", help="Also the proxy's address, HOST:PORT, for regular mode.")
        ] = None,
        policy: PolicyOption = None,
        folder: CaOption = None,
    ) -> None:
        """Print the variables that clients need, ready for a shell."""
        print_variables(ca_store(folder, section(policy, "env")), shell, dir, at, proxy)


def print_variables(store: Store, shell: str, dir: Path | None, at: Path | None, proxy: str | None) -> None:
    """Print the variables. Raises: CaError; typer.Exit for wrong usage."""
    from llmshield.egress import environment

    if shell not in environment.FORMS:
        raise misused("env", f"--shell {shell!r:.40}: expected one of {', '.join(environment.FORMS)}")
    address = parse_address(proxy, "env", "--proxy") if proxy is not None else None
    ready_folder(store, dir)
    variables = environment.trust_variables(at or dir or store.public, os.environ)
    if address is not None:
        variables |= environment.proxy_variables(*address, variables)
    print(environment.render(variables, shell), end="")


def ready_folder(store: Store, dir: Path | None) -> Path:
    """The folder of what clients are given, with what is handed out now; written where it is not there or stale.

    Raises: CaError.
    """
    from llmshield.egress import trust

    folder, ours = dir or store.public, store.roots()
    files = [folder / name for name in (trust.CA, trust.BUNDLE, trust.TRUSTSTORE)]
    if not all(file.is_file() for file in files) or [*trust.certificates_in(files[0])] != ours:
        trust.export(ours, trust.system_roots(), folder)
    return folder


def parse_address(text: str, command: str, option: str) -> tuple[str, int]:
    """`HOST:PORT`. Raises: typer.Exit with a word to the user."""
    from pydantic import TypeAdapter, ValidationError

    from llmshield.policy.units import Address

    try:
        found = TypeAdapter(Address).validate_python(text)
    except ValidationError as error:
        raise misused(command, f"{option}: {error.errors()[0]['msg']}") from None
    return found.host, found.port
