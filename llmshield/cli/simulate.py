"""`llmshield simulate`: a provider to rehearse with, in the foreground."""

from __future__ import annotations

import os
from typing import Annotated, Any

import typer

from llmshield.errors import ShieldError


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command()
    def simulate(
        listen: Annotated[str, typer.Option(help="HOST:PORT to serve on.")] = "127.0.0.1:9901",
        settings: Annotated[
            list[str] | None,
            typer.Option("--set", help="A directive for every call, key=value (repeatable)."),
        ] = None,
        name: Annotated[str | None, typer.Option(help="The name that replies give.")] = None,
        require_key: Annotated[str | None, typer.Option(help="Refuse calls without this key.")] = None,
        manual: Annotated[
            bool, typer.Option("--manual", help="Print every directive and fault, and exit.")
        ] = False,
    ) -> None:
        """Run a provider that speaks all dialects, with faults on demand (see --manual)."""
        from pydantic_core import PydanticCustomError

        from llmshield import simulator
        from llmshield.policy.units import host_port

        if manual:
            print(simulator.manual())
            return
        try:
            address = host_port(listen)
        except PydanticCustomError as error:
            raise typer.BadParameter(error.message()) from None
        pairs: dict[str, Any] = {}
        for item in settings or ():
            key, mark, value = item.partition("=")
            if not mark:
                raise typer.BadParameter(f"{item!r} is not key=value")
            pairs[key] = value
        if name is not None:
            pairs["name"] = name
        try:
            simulator.run(address.host, address.port, ready=_say, require_key=require_key, **pairs)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from None
        except OSError as error:
            # `strerror` of asyncio's own error repeats the address and Python's words for it.
            why = os.strerror(error.errno) if error.errno else str(error)
            raise ShieldError(
                f"{listen} can't be opened: {why}. Free it, or choose another (--listen)."
            ) from None


def _say(url: str) -> None:
    print(f"llmshield simulates a provider at {url}", flush=True)
