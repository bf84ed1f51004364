"""`llmshield egress gateway`: the gateway alone, for those who run a mitmproxy of their own, and for `egress run`."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import secrets
from pathlib import Path
from typing import Annotated

import typer

from llmshield.cli._reading import USAGE, policy_at


def register(group: typer.Typer) -> None:
    """Add the command."""

    @group.command("gateway")
    def gateway(
        policy: Annotated[Path, typer.Option("--policy", "-p", help="The policy file.")] = Path(
            "policy.yaml"
        ),
        listen: Annotated[str, typer.Option(help="HOST:PORT for the proxy, on loopback.")] = "127.0.0.1:0",
        admin: Annotated[
            str | None, typer.Option(help="HOST:PORT of the admin port; wins over the policy.")
        ] = None,
        handover: Annotated[
            Path,
            typer.Option(
                help="File that is written for the addon: address, token and hosts. Keep it private."
            ),
        ] = Path("egress.json"),
        child: Annotated[bool, typer.Option("--child", hidden=True)] = False,
    ) -> None:
        """Run the gateway for a mitmproxy of your own: LLMSHIELD_EGRESS=egress.json mitmdump -s "$(llmshield egress addon-path)"."""
        from llmshield import logs
        from llmshield.cli._egress._serving import address, loop_factory

        logs.configure()
        loaded = policy_at(policy, "egress gateway")
        gc.freeze()
        gc.set_threshold(5_000, 20, 20)
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            if child:
                from llmshield.egress import child as serving

                runner.run(serving.serve(loaded))
                return
            if loaded.egress is None or not loaded.egress.hosts:
                typer.echo(
                    f"llmshield egress gateway: {policy} intercepts nothing; name hosts under `egress:`",
                    err=True,
                )
                raise typer.Exit(USAGE)
            from llmshield.egress.handover import handover as told
            from llmshield.mounts import egress
            from llmshield.mounts import gateway as mount
            from llmshield.mounts._server import bind

            token = secrets.token_urlsafe(32)
            sock = bind(address(listen), "data")
            to = sock.getsockname()[:2]

            def ready(data: str, admin_url: str | None) -> None:
                write_private(handover, json.dumps(told(loaded, to, token)))
                typer.echo(f"llmshield takes spliced calls at {data}; the addon reads {handover}", err=True)

            admin_at = address(admin) if admin else loaded.server.admin
            try:
                runner.run(
                    mount.serve(
                        loaded,
                        sock,
                        admin_at,
                        port=egress.port(loaded, token),
                        mount="egress",
                        on_ready=ready,
                    )
                )
            finally:
                handover.unlink(missing_ok=True)


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read, from its first byte on."""
    path.unlink(missing_ok=True)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
