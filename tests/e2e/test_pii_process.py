"""The sidecar as a process, with the `pii` plugin and all it finds: ready when warm, small, and never in the others' way."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from llmshield.simulator import Scripted, Simulator
from llmshield.testing import gateway

pytest.importorskip("presidio_analyzer")

DENSE = (
    "On 2024-01-15 at 10:22 we shipped 15 items (v1.2.3) for 1,234.56 EUR to 3 customers; see https://example.com/a?b=1. "
    "Anna Weber went to school, wrote to anna.smith@example.com, called +1 212 555 0187 and paid with 4111 1111 1111 1111. "
)
SIZES = (500, 1_500, 2_400, 8_000, 16_000, 300_000)
MOST_MS = float(os.environ.get("LLMSHIELD_MOST_MS", "15"))
"""CPU of one turn of the loop. The goal is 5 (docs/figures.md tells what was measured); three times that where caches are
shared with other work."""
MOST_MB = 350


def dense(size: int) -> str:
    return (DENSE * (size // len(DENSE) + 1))[:size]


def policy(url: str) -> str:
    return f"""
version: 1
server: {{store: "memory://"}}
providers: {{p: {{dialect: openai, base_url: "{url}/v1"}}}}
routes: [{{match: {{any: true}}, to: [p]}}]
plugins: [{{use: pii, timeout: 30s}}]
"""


class Watchdog:
    """The CPU that the loop's thread spends between two of its turns: what others cost does not count."""

    def __init__(self) -> None:
        self.worst = 0.0
        self.turns = 0
        self.going = True

    async def run(self) -> None:
        last = time.thread_time()
        while self.going:
            await asyncio.sleep(0)
            now = time.thread_time()
            self.worst = max(self.worst, (now - last) * 1000)
            self.turns += 1
            last = now


def client(box: dict[str, Any]) -> None:
    """In a thread: the provider, and calls of all sizes; `box` says when the gateway is there, and what the loop did."""

    async def run() -> None:
        async with Simulator() as sim, aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(60)) as http:
            box["provider"] = sim.url
            while "url" not in box:
                await asyncio.sleep(0.01)
            for turn in range(2):
                for size in SIZES:
                    for stream in (False, True):
                        box["watchdog"].worst = 0.0
                        sim.say(Scripted(text=dense(min(size, 20_000))))
                        body = {
                            "model": "m",
                            "stream": stream,
                            "messages": [{"role": "user", "content": dense(size)}],
                        }
                        async with http.post(
                            f"{box['url']}/v1/chat/completions",
                            json=body,
                            headers={"authorization": "Bearer sk-x"},
                        ) as answer:
                            data = await answer.read()
                            assert answer.status == 200, data[:300]
                        if turn:
                            box["worst"][size, stream] = box["watchdog"].worst

    try:
        asyncio.run(run())
    except BaseException as error:
        box["error"] = error
    box["done"] = True


async def test_no_turn_of_the_loop_is_long() -> None:
    """Long texts and long answers, with values close together, whole and streamed. The first calls of each size are
    not counted: whatever is made once is made then."""
    box: dict[str, Any] = {"worst": {}, "watchdog": Watchdog()}
    thread = threading.Thread(target=client, args=(box,))
    thread.start()
    while "provider" not in box:
        await asyncio.sleep(0.01)
    gc.collect()
    gc.freeze()  # as the command does
    async with gateway(policy(box["provider"])) as (url, _):
        box["url"] = url
        watching = asyncio.create_task(box["watchdog"].run())
        while "done" not in box:
            await asyncio.sleep(0.02)
        box["watchdog"].going = False
        await watching
    thread.join()
    gc.unfreeze()
    print(
        {
            f"{size}{' streamed' if stream else ''}": round(ms, 1)
            for (size, stream), ms in box["worst"].items()
        }
    )

    assert "error" not in box, box["error"]
    assert box["watchdog"].turns > 1000
    assert len(box["worst"]) == 2 * len(SIZES)
    assert max(box["worst"].values()) < MOST_MS, box["worst"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def memory_mb(process: subprocess.Popen[bytes]) -> float:
    for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    raise AssertionError("no VmRSS")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
async def test_ready_when_warm_and_small_under_load(tmp_path: Path, primary: Simulator) -> None:
    """`/readyz` is 503 while presidio loads and `/healthz` is 200; then long texts of all sizes, whole and streamed."""
    (tmp_path / "policy.yaml").write_text(policy(primary.url))
    data, admin = free_port(), free_port()
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "llmshield", "serve", "--policy", "policy.yaml", "--listen", f"127.0.0.1:{data}",
             "--admin", f"127.0.0.1:{admin}"],
            cwd=tmp_path, stdout=log, stderr=log,
        )  # fmt: skip
    seen: list[tuple[int, int]] = []
    try:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(60)) as http:
            while not seen or seen[-1][1] != 200:
                assert process.poll() is None, (tmp_path / "log").read_text()
                await asyncio.sleep(0.02)
                try:
                    async with http.get(f"http://127.0.0.1:{admin}/healthz") as health:
                        async with http.get(f"http://127.0.0.1:{admin}/readyz") as ready:
                            seen.append((health.status, ready.status))
                except aiohttp.ClientConnectionError:
                    continue
            said = [dense(500) + "Write to a@corp.example.", "Hauptstraße 12. " * 400, dense(300_000)]
            for number in range(24):
                primary.say(Scripted(text=dense(4_000)))
                body = {
                    "model": "m",
                    "stream": bool(number % 2),
                    "messages": [{"role": "user", "content": said[number % 3]}],
                }
                async with http.post(
                    f"http://127.0.0.1:{data}/v1/chat/completions",
                    json=body,
                    headers={"authorization": "Bearer sk-x"},
                ) as answer:
                    assert answer.status == 200, await answer.text()
                    await answer.read()
            memory = memory_mb(process)
    finally:
        process.terminate()
        process.wait(30)
    print(f"{memory:.0f} MB, {len(seen)} looks before it was ready")

    assert set(seen[:-1]) == {(200, 503)}  # up, and not ready before the detectors are
    assert memory < MOST_MB
