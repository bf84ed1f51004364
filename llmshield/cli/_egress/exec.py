"""`llmshield egress exec -- CMD`: run a command so that its calls obey the policy; a proxy has to be running.

Without `--isolate` the variables are set by which clients find and trust the proxy: a client that ignores them goes past.
With it the command runs in a network namespace from which nothing leads out but the proxy, whatever the client obeys.
Exit status: the command's own, 128 and the number of the signal that ended it; 127 not found, 126 not to be run.
"""

from __future__ import annotations

import os
import socket
import sys
from typing import Annotated

import typer

from llmshield.cli._egress._shared import CaOption, DirOption, PolicyOption, ca_store, misused, section


def register(group: typer.Typer) -> None:
    """Add the command."""

    # What follows the command's name is the command's own, also where it looks like an option of ours.
    @group.command("exec", context_settings={"allow_interspersed_args": False})
    def exec_command(
        command: Annotated[list[str], typer.Argument(metavar="-- CMD [ARGUMENTS]...")],
        isolate: Annotated[
            bool, typer.Option("--isolate", help="In a network namespace that leads to the proxy only.")
        ] = False,
        proxy: Annotated[
            str | None,
            typer.Option("--proxy", help="Where the proxy listens, HOST:PORT; the policy's without it."),
        ] = None,
        direct: Annotated[
            list[str] | None,
            typer.Option(
                "--direct",
                help="With --isolate: HOST:PORT that may be reached past the proxy; may be repeated.",
            ),
        ] = None,
        policy: PolicyOption = None,
        dir: DirOption = None,
        folder: CaOption = None,
    ) -> None:
        """Run a command whose calls obey the policy."""
        from llmshield.child_environment import without_ours
        from llmshield.cli._egress.env import parse_address, ready_folder
        from llmshield.egress import environment, launching
        from llmshield.policy.egress import Egress

        egress = section(policy, "exec") or Egress()
        address = (
            parse_address(proxy, "exec", "--proxy") if proxy else (egress.listen.host, egress.listen.port)
        )
        past = {
            port: (host, port)
            for host, port in (parse_address(one, "exec", "--direct") for one in direct or ())
        }
        if past and not isolate:
            raise misused("exec", "--direct is for --isolate: without it every address can be reached")
        if clash := sorted({*past} & {*egress.ports}):
            raise misused(
                "exec", f"--direct: port {clash[0]} is one of egress.ports; what goes there goes to the proxy"
            )
        _find_proxy(address)
        trusted = environment.trust_variables(ready_folder(ca_store(folder, egress), dir), os.environ)
        if isolate:
            kept = {name: value for name, value in without_ours().items() if name.upper() not in _PROXY}
            found = environment.merged(kept, trusted)
            sys.exit(launching.isolate(command, found, egress.ports, address, past))
        found = environment.merged(without_ours(), trusted, environment.proxy_variables(*address, trusted))
        sys.exit(launching.replace(command, found))


_PROXY = {"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "NODE_USE_ENV_PROXY"}
"""Inside a room a proxy's address leads nowhere."""


def _find_proxy(address: tuple[str, int]) -> None:
    """A command without a proxy would only fail later, with worse words. Raises: RoomError."""
    from llmshield.egress.room import RoomError

    try:
        socket.create_connection(address, timeout=5).close()
    except OSError as error:
        raise RoomError(
            f"No proxy listens on {address[0]}:{address[1]} ({error.strerror or 'no answer'}); start it: llmshield egress"
            " run --policy FILE, or say where it is: --proxy HOST:PORT"
        ) from None
