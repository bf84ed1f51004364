"""kill -9 of the real command with `required: true`: whoever was asked or answered is in the log, which verifies.

AUD-03 of the acceptance list: 200 kills nightly, a few here.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import subprocess
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from llmshield.evidence import segments, verify
from llmshield.simulator import SimulatorThread

POLICY = """
version: 1
server: {store: "memory://"}
providers: {a: {dialect: openai, base_url: "URL/v1"}}
audit: {sink: "file://audit/audit.jsonl", required: true, rotate: {size: 16KiB}}
"""
SAID = [{"role": "user", "content": "Tell me about rivers."}]
BODIES: list[dict[str, Any]] = [
    {"model": "m", "messages": SAID},
    {"model": "m", "messages": SAID, "stream": True, "user": "alice"},
    {"model": 5},
]


async def callers(url: str, answered: set[str], stop: asyncio.Event) -> None:
    """Eight at once, until the gateway is gone; an id counts when the head of its answer is here."""

    async def one(number: int) -> None:
        async with aiohttp.ClientSession() as http:
            while not stop.is_set():
                with contextlib.suppress(aiohttp.ClientError, OSError):
                    body = BODIES[number % len(BODIES)]
                    async with http.post(f"{url}/v1/chat/completions", json=body) as reply:
                        answered.add(reply.headers["x-llmshield-request-id"])
                        await reply.read()
                    continue
                return

    await asyncio.gather(*(one(number) for number in range(8)))


@pytest.mark.parametrize("kills", [4, pytest.param(200, marks=pytest.mark.nightly)])
def test_who_was_answered_is_in_the_log(tmp_path: Path, kills: int, running: Any) -> None:
    answered: set[str] = set()
    chance = random.Random(8)

    async def load(url: str, process: subprocess.Popen[bytes]) -> None:
        stop = asyncio.Event()
        running = asyncio.create_task(callers(url, answered, stop))
        await asyncio.sleep(chance.uniform(0.05, 0.8))
        process.kill()
        stop.set()
        await running

    with SimulatorThread(delay=0.001, tokens=5) as sim:
        (tmp_path / "policy.yaml").write_text(POLICY.replace("URL", sim.url))
        for _ in range(kills):
            with running(tmp_path) as gateway:
                asyncio.run(load(gateway.url, gateway.process))
        asked = {dict(call.headers)["x-client-request-id"] for call in sim.calls}

    sink = tmp_path / "audit" / "audit.jsonl"
    reports = verify(segments(sink), sink=sink)
    whole = [line for path in segments(sink) for line in path.read_bytes().split(b"\n")[:-1]]
    records = [json.loads(line) for line in whole]
    heads = [record for record in records if record["kind"] == "head"]
    by_kind = {
        kind: {r["request_id"] for r in records if r["kind"] == kind} for kind in ("ask", "answer", "call")
    }
    print(f"{kills} kills, {len(answered)} answered, {len(asked)} asked, {len(segments(sink))} segments, "
          f"{sum(report.records for report in reports)} records, {sum(head['repaired_bytes'] > 0 for head in heads)} torn")  # fmt: skip

    assert [report.fault for report in reports if report.fault] == []
    assert len(answered) >= 3 * kills
    assert answered <= by_kind["answer"]
    assert asked <= by_kind["ask"]
    assert len(heads) >= kills
