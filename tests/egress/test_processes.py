"""A process that is spoken to line by line: what is told arrives, and an end is waited for, then made."""

from __future__ import annotations

import asyncio
import sys

import pytest

from llmshield.egress.processes import spawn
from llmshield.errors import ShieldError

ECHO = "import sys\nfor line in sys.stdin: print(line.strip()[::-1], flush=True)"
DEAF = "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('ready', flush=True)\ntime.sleep(60)"


async def test_what_is_told_arrives() -> None:
    made = await spawn("echo", [sys.executable, "-c", ECHO], None)
    assert made.process.stdout is not None
    made.tell(a=1)
    assert await made.process.stdout.readline() == b'}1 :"a"{\n'
    made.stop()
    await made.ended(20)
    assert made.process.returncode != 0
    made.tell(a=2)  # nobody reads any more
    made.stop()


async def test_what_is_not_there() -> None:
    with pytest.raises(ShieldError, match="can't be started: /no/such/python"):
        await spawn("proxy", ["/no/such/python"], None)


async def test_an_end_is_made() -> None:
    made = await spawn("deaf", [sys.executable, "-c", DEAF], None)
    assert made.process.stdout is not None
    assert await made.process.stdout.readline() == b"ready\n"
    made.stop()
    async with asyncio.timeout(20):
        await made.ended(0.1)
    assert made.process.returncode == -9
