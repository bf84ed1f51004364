"""`llmshield serve`: the sidecar gateway, in the foreground, until SIGTERM."""

from __future__ import annotations

import asyncio
import gc
import sys
from pathlib import Path
from typing import Annotated

import typer

from llmshield.cli._reading import policy_at


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command()
    def serve(
        policy: Annotated[Path, typer.Option("--policy", "-p", help="The policy file.")] = Path(
            "policy.yaml"
        ),
        listen: Annotated[
            str | None, typer.Option(help="HOST:PORT of the data port; wins over the policy.")
        ] = None,
        admin: Annotated[
            str | None, typer.Option(help="HOST:PORT of the admin port; wins over the policy.")
        ] = None,
    ) -> None:
        """Run the sidecar gateway: point a program's base_url at it."""
        from pydantic_core import PydanticCustomError

        from llmshield import logs
        from llmshield.mounts import gateway
        from llmshield.policy.units import host_port

        logs.configure()
        loaded = policy_at(policy, "serve")
        for finding in loaded.warnings:
            print(finding, file=sys.stderr)
        try:
            data_at = host_port(listen) if listen else loaded.server.listen
            admin_at = host_port(admin) if admin else loaded.server.admin
        except PydanticCustomError as error:
            raise typer.BadParameter(error.message()) from None
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(gateway.serve(loaded, data_at, admin_at, on_ready=_say))


def _say(data: str, admin: str | None) -> None:
    """It serves. What the start has made stays: the garbage collector need not walk it again with every call."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
    print(f"llmshield serves {data}" + (f", admin {admin}" if admin else ""), file=sys.stderr, flush=True)


def _loop_factory() -> type[asyncio.AbstractEventLoop] | None:
    """uvloop where it exists (not on Windows)."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.Loop
