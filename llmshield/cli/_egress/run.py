"""`llmshield egress run`: gateway and proxy, in the foreground, until SIGTERM."""

from __future__ import annotations

import asyncio
import enum
import sys
from pathlib import Path
from typing import Annotated

import typer

from llmshield.cli._reading import USAGE, policy_at


class RulesAre(enum.StrEnum):
    """Who sets the kernel's rules for transparent mode."""

    up = "up"
    waited_for = "waited-for"


class Mode(enum.StrEnum):
    """How clients come in."""

    regular = "regular"
    transparent = "transparent"
    socks5 = "socks5"
    local = "local"


def register(group: typer.Typer) -> None:
    """Add the command."""

    @group.command("run")
    def run(
        policy: Annotated[Path, typer.Option("--policy", "-p", help="The policy file.")] = Path(
            "policy.yaml"
        ),
        mode: Annotated[Mode | None, typer.Option(help="How clients come in; wins over the policy.")] = None,
        listen: Annotated[
            str | None, typer.Option(help="HOST:PORT of the proxy; wins over the policy.")
        ] = None,
        admin: Annotated[
            str | None, typer.Option(help="HOST:PORT of the admin port; wins over the policy.")
        ] = None,
        python: Annotated[
            str | None,
            typer.Option(help="A Python that has mitmproxy, if this one has none.", show_default=False),
        ] = None,
        ca: Annotated[
            Path | None,
            typer.Option("--ca", help="Folder of the certificate authority; wins over the policy."),
        ] = None,
        uid: Annotated[
            int | None,
            typer.Option(
                help="User (and group) that gateway and proxy run as; the rules leave it alone. Needs root."
            ),
        ] = None,
        local: Annotated[
            str, typer.Option(help="With --mode local: which processes, by name or id, separated by commas.")
        ] = "",
        rules: Annotated[
            RulesAre,
            typer.Option(
                help="With --mode transparent: set the kernel's rules, and take them out at the end; or wait for them."
            ),
        ] = RulesAre.waited_for,
    ) -> None:
        """Run the transparent mount: services that nobody touches obey the policy."""
        from llmshield import logs
        from llmshield.cli._egress._serving import address
        from llmshield.egress import interpreter
        from llmshield.egress.ca import Store
        from llmshield.egress.running import Run, Wanted

        logs.configure()
        loaded = policy_at(policy, "egress run")
        for finding in loaded.warnings:
            print(finding, file=sys.stderr)
        egress = loaded.egress
        if egress is None or not egress.hosts:
            print(
                f"llmshield egress run: {policy} intercepts nothing; name hosts under `egress:`",
                file=sys.stderr,
            )
            raise typer.Exit(USAGE)
        try:
            found = interpreter.find(python)
        except interpreter.NoMitmproxy as error:
            print(f"llmshield egress run: {error}", file=sys.stderr)
            raise typer.Exit(USAGE) from None
        wanted = Wanted(
            policy=loaded,
            file=policy,
            mode=mode.value if mode is not None else egress.mode,
            listen=address(listen) if listen else egress.listen,
            admin=address(admin) if admin else loaded.server.admin,
            python=found,
            authority=Store(ca or egress.ca).needed(egress.hosts),
            user=uid,
            local=local,
            sets_rules=rules is RulesAre.up,
            on_ready=_say,
        )

        async def serve() -> None:
            await Run(wanted).until_stopped()

        asyncio.run(serve())  # uvloop starts no process as another user


def _say(listening: list[str], admin: str | None) -> None:
    at = ", ".join(listening) or "its own capture"
    print(
        f"llmshield intercepts at {at}" + (f", admin {admin}" if admin else ""), file=sys.stderr, flush=True
    )
