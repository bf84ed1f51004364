"""`llmshield egress run`: gateway and proxy, in the foreground, until SIGTERM."""

from __future__ import annotations

import asyncio
import enum
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmshield.cli._reading import USAGE, policy_at

if TYPE_CHECKING:
    from llmshield.egress.accounts import Account


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
            str | None,
            typer.Option(
                help="User (name or number) that gateway and proxy run as; the rules leave it alone. Needs root.",
                show_default=False,
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
        account = _account(uid) if uid is not None else None
        way = mode.value if mode is not None else egress.mode
        if way == "local":
            _check_capture(uid)
        wanted = Wanted(
            policy=loaded,
            file=policy,
            mode=way,
            listen=address(listen) if listen else egress.listen,
            admin=address(admin) if admin else loaded.server.admin,
            python=found,
            authority=Store(ca or egress.ca).needed(egress.hosts),
            user=account,
            local=local,
            sets_rules=rules is RulesAre.up,
            on_ready=_say,
        )

        async def serve() -> None:
            await Run(wanted).until_stopped()

        asyncio.run(serve())  # uvloop starts no process as another user


def _account(text: str) -> Account | None:
    """Whom gateway and proxy are to run as; None for us. Raises: typer.Exit for wrong usage."""
    import os

    from llmshield.cli._egress._shared import misused
    from llmshield.egress import accounts

    found = accounts.find(text)
    if found is None:
        raise misused("run", f"--uid {text!r:.60}: no such user; name one, or a number")
    if found.uid == 0:
        raise misused("run", "--uid 0 is root; name a user of their own, such as llmshield")
    if os.geteuid() not in (0, found.uid):
        raise misused(
            "run", f"--uid {found.uid}: only root can start them as another user; you are uid {os.geteuid()}"
        )
    return found if os.geteuid() == 0 else None


def _check_capture(uid: str | None) -> None:
    """Local capture that can't work says so here. Raises: typer.Exit."""
    from llmshield.cli._egress._shared import misused
    from llmshield.egress import capturing

    if uid is not None:
        raise misused("run", "--uid is not for --mode local: mitmproxy's capture needs root")
    if (why := capturing.trouble()) is not None:
        raise misused(
            "run", f"--mode local can't capture on this machine: {why} --mode transparent may do instead"
        )


def _say(listening: list[str], admin: str | None) -> None:
    at = ", ".join(listening) or "its own capture"
    print(
        f"llmshield intercepts at {at}" + (f", admin {admin}" if admin else ""), file=sys.stderr, flush=True
    )
