"""A process that is spoken to line by line: JSON objects over its standard input, and back over its output."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from dataclasses import dataclass, field
from typing import Any

from llmshield.egress.accounts import Account
from llmshield.errors import ShieldError
from llmshield.logs import log


@dataclass
class Process:
    """A process of ours, spoken to line by line."""

    name: str
    process: asyncio.subprocess.Process
    reading: asyncio.Task[None] | None = None
    first: asyncio.Future[dict[str, Any]] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )
    unanswered: int = 0
    """How often it was asked for a sign of life since the last one (`pulse`)."""
    killed: bool = False

    @property
    def serves(self) -> bool:
        """It has come up, and has not ended."""
        return self.first.done() and self.process.returncode is None

    def tell(self, **said: Any) -> None:
        """Send one line; nothing happens where nobody reads any more."""
        stdin = self.process.stdin
        if stdin is not None and not stdin.is_closing():
            with contextlib.suppress(OSError):
                stdin.write(json.dumps(said).encode() + b"\n")

    def kill(self) -> None:
        """End it at once; nothing happens where it has ended.

        Once: a second signal would take the exit status away from asyncio, which then tells of 255.
        """
        if not self.killed:
            self.killed = True
            with contextlib.suppress(ProcessLookupError):
                self.process.kill()

    def stop(self) -> None:
        """Ask it to finish what is under way."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGTERM)

    async def ended(self, seconds: float) -> None:
        """Wait for its end; then make one."""
        try:
            async with asyncio.timeout(seconds):
                await self.process.wait()
        except TimeoutError:
            log.warning("killed", process=self.name, after_s=seconds)
            self.kill()
            await self.process.wait()
        if self.reading is not None:
            await self.reading


async def spawn(name: str, command: list[str], user: Account | None, **more: Any) -> Process:
    """Start one, in a session of its own: a Ctrl-C at the terminal is ours to pass on. `user` is whom it runs as, with
    that user's group and home and none of ours.

    Raises: ShieldError where it can't be started.
    """
    if user is not None:
        environment = dict(more.get("env") or os.environ) | user.environment()
        more |= {"user": user.uid, "group": user.gid, "extra_groups": [], "env": environment}
    try:
        process = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, start_new_session=True,
            limit=2**22, **more,
        )  # fmt: skip
    except OSError as error:
        raise ShieldError(_why(name, command[0], user, error)) from None
    return Process(name, process)


def _why(name: str, program: str, user: Account | None, error: OSError) -> str:
    said = f"The {name} can't be started"
    if user is None:
        return f"{said}: {program}: {error.strerror}"
    said += f" as user {user.uid}: {program}: {error.strerror}"
    if isinstance(error, PermissionError) and (place := user.closed_out_of(program)) is not None:
        return (
            f"{said}. {place} is closed to that user; have the interpreters where it may go (python3 -m venv /opt/llmshield),"
            " and the policy and the store too"
        )
    if isinstance(error, PermissionError) and os.geteuid() != user.uid:
        return f"{said}. Another user's processes can be started by root only"
    return f"{said} (that user needs to reach the interpreter, the policy and the store)"
