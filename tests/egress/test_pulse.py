"""Signs of life: real processes that are stopped, go on, and are killed when they stay so."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from llmshield.egress import processes, pulse
from llmshield.egress.processes import Process

ECHO = "import sys\nprint('{}', flush=True)\nfor line in sys.stdin: print(line, end='', flush=True)"


async def made(name: str) -> tuple[Process, list[bytes]]:
    """A process that answers, and what it has said."""
    process = await processes.spawn(name, [sys.executable, "-c", ECHO], None)
    said: list[bytes] = []

    async def read() -> None:
        assert process.process.stdout is not None
        async for line in process.process.stdout:
            said.append(line)
            process.unanswered = 0
            if not process.first.done():
                process.first.set_result({})

    process.reading = asyncio.get_running_loop().create_task(read())
    await process.first
    return process, said


async def beaten(beat: pulse.Pulse, gateway: Process, proxy: Process, times: int) -> list[bool | None]:
    """What so many beats say; who can answer one does so before the next."""
    found = []
    for _ in range(times):
        found.append(beat(gateway, proxy))
        for each in (gateway, proxy):
            while each.unanswered and state(each) not in "TZ":
                await asyncio.sleep(0.01)
    return found


def state(process: Process) -> str:
    try:
        said = Path(f"/proc/{process.process.pid}/stat").read_text()
    except FileNotFoundError:
        return "Z"
    return said.rpartition(")")[2].split()[0]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
async def test_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five unanswered questions and one more; what the proxy is told; a process that goes on is back."""
    monkeypatch.setattr(pulse, "HUNG", 8)
    (gateway, _), (proxy, told) = await made("gateway"), await made("proxy")
    beat = pulse.Pulse()
    calm = await beaten(beat, gateway, proxy, 3)
    os.kill(gateway.process.pid, signal.SIGSTOP)
    silent = await beaten(beat, gateway, proxy, 7)
    os.kill(gateway.process.pid, signal.SIGCONT)
    while gateway.unanswered:
        await asyncio.sleep(0.01)
    untold = beat.keeps_away(gateway)
    back = await beaten(beat, gateway, proxy, 2)
    os.kill(gateway.process.pid, signal.SIGSTOP)
    again = await beaten(beat, gateway, proxy, 10)
    killed = await gateway.process.wait()
    after = beat(gateway, proxy)
    os.kill(proxy.process.pid, signal.SIGSTOP)
    for _ in range(10):
        beat(None, proxy)

    assert calm == [None] * 3
    assert silent == [None] * 5 + [True, None]
    assert untold, "it answers, and the proxy does not know yet"
    assert back == [False, None]
    assert again == [None] * 5 + [True] + [None] * 4
    assert killed == -signal.SIGKILL
    assert after is None
    assert await proxy.process.wait() == -signal.SIGKILL, "so that the kernel refuses its clients"
    said = [line for line in told if b"gateway" in line]
    assert said[:3] == [
        b'{"gateway": false, "silent_s": 6.0}\n',
        b'{"gateway": false, "silent_s": 7.0}\n',
        b'{"gateway": true}\n',
    ]
    for each in (gateway, proxy):
        await each.ended(1.0)


async def test_one_that_is_not_up_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pulse, "HUNG", 1)
    process = await processes.spawn("gateway", [sys.executable, "-c", "input()"], None)
    beat: Any = pulse.Pulse()
    for _ in range(5):
        assert beat(process, None) is None
    assert process.unanswered == 0
    process.kill()
    await process.ended(5.0)
