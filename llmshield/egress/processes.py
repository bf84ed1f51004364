"""A process that is spoken to line by line: JSON objects over its standard input, and back over its output."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
from dataclasses import dataclass, field
from typing import Any

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

    def tell(self, **said: Any) -> None:
        """Send one line; nothing happens where nobody reads any more."""
        stdin = self.process.stdin
        if stdin is not None and not stdin.is_closing():
            with contextlib.suppress(OSError):
                stdin.write(json.dumps(said).encode() + b"\n")

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
            with contextlib.suppress(ProcessLookupError):
                self.process.kill()
            await self.process.wait()
        if self.reading is not None:
            await self.reading


async def spawn(name: str, command: list[str], user: int | None, **more: Any) -> Process:
    """Start one, in a session of its own: a Ctrl-C at the terminal is ours to pass on. `user` is whom it runs as.

    Raises: ShieldError where it can't be started.
    """
    if user is not None:
        more |= {"user": user, "group": user, "extra_groups": []}
    try:
        process = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, start_new_session=True,
            limit=2**22, **more,
        )  # fmt: skip
    except OSError as error:
        who = f" as user {user}" if user is not None else ""
        raise ShieldError(
            f"The {name} can't be started{who}: {command[0]}: {error.strerror}"
            + (" (that user needs to reach the interpreter, the policy and the store)" if who else "")
        ) from None
    return Process(name, process)
