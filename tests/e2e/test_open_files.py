"""A sidecar that may open 256 files, and ten times as many clients: who has no place is told so, and nothing stays open."""

import asyncio
import collections
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import orjson
import pytest

from llmshield.simulator import Simulator

POLICY = """
version: 1
server: {{limits: {{head: 3s}}}}
providers: {{openai: {{dialect: openai, base_url: "{url}/v1"}}}}
audit: {{sink: none}}
"""
BODY = orjson.dumps({"model": "gpt-4o", "messages": [{"role": "user", "content": "hello"}]})
ASKED = (
    b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    b"content-length: %d\r\nconnection: close\r\n\r\n%b" % (len(BODY), BODY)
)
FILES, CLIENTS = 256, 960


def open_files(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


async def ask(port: int) -> str:
    """The status that one client got; "reset" for none."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(ASKED)
        head = await reader.read()
        writer.close()
    except OSError:
        return "reset"
    return head[9:12].decode() or "reset"


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs Linux's /proc to count open files")
async def test_ten_times_more_clients_than_files(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < 2 * CLIENTS:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4 * CLIENTS), hard))
    async with Simulator(name="openai") as sim:
        (tmp_path / "policy.yaml").write_text(POLICY.format(url=sim.url))
        limited = f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, ({FILES}, {FILES})); from llmshield.cli import main; main()"
        command = [
            sys.executable,
            "-c",
            limited,
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--admin",
            "127.0.0.1:0",
        ]
        log = tmp_path / "log"
        with log.open("wb") as errors, subprocess.Popen(command, cwd=tmp_path, stderr=errors) as process:
            try:
                async with asyncio.timeout(60):
                    while (
                        found := re.search(r"llmshield serves http://127.0.0.1:(\d+)", log.read_text())
                    ) is None:
                        await asyncio.sleep(0.05)
                port = int(found[1])
                assert await ask(port) == "200"
                before = open_files(process.pid)

                seen = collections.Counter(await asyncio.gather(*[ask(port) for _ in range(CLIENTS)]))

                assert seen.keys() <= {"200", "503", "reset"}
                assert seen["200"] >= 90, seen
                assert seen["503"] >= 1, seen
                for _ in range(100):
                    if open_files(process.pid) <= before + 5:
                        break
                    await asyncio.sleep(0.1)
                assert open_files(process.pid) <= before + 5
                assert await ask(port) == "200"
            finally:
                process.terminate()
