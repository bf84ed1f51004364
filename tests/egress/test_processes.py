"""A process that is spoken to line by line: what is told arrives, and an end is waited for, then made."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from pathlib import Path

import pytest

from llmshield.egress.accounts import Account
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


ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root starts processes as somebody else")
SERVICE = Account(48_211, 48_212, "service", "/nonexistent")


@ROOT
async def test_as_another_user() -> None:
    """Its numbers, no group of ours, its own home."""
    made = await spawn(
        "who", ["/bin/sh", "-c", "id -u; id -g; id -G; echo $HOME $USER $KEPT"], SERVICE, env={"KEPT": "kept"}
    )
    assert made.process.stdout is not None
    said = (await made.process.stdout.read()).decode().splitlines()
    await made.ended(20)

    assert said == ["48211", "48212", "48212", "/nonexistent service kept"]


@ROOT
async def test_what_is_closed_to_another_user(tmp_path: Path) -> None:
    """The folder that is in the way is named, and a way out."""
    tmp_path.chmod(0o700)
    shutil.copy("/bin/sh", tmp_path / "sh")
    with pytest.raises(ShieldError, match=r"as user 48211: .* is closed to that user; have the interpreters"):
        await spawn("proxy", [str(tmp_path / "sh"), "-c", "true"], SERVICE)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may do it")
async def test_who_may_not() -> None:
    with pytest.raises(ShieldError, match="by root only"):
        await spawn("proxy", ["/bin/sh", "-c", "true"], SERVICE)
