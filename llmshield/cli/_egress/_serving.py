"""What the commands share that serve: addresses as they are typed, and the event loop."""

from __future__ import annotations

import asyncio

import typer

from llmshield.policy.units import HostPort, host_port


def address(text: str) -> HostPort:
    """HOST:PORT. Raises: typer.BadParameter."""
    from pydantic_core import PydanticCustomError

    try:
        return host_port(text)
    except PydanticCustomError as error:
        raise typer.BadParameter(error.message()) from None


def loop_factory() -> type[asyncio.AbstractEventLoop] | None:
    """uvloop where it exists (not on Windows)."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.Loop
