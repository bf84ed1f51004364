"""`llmshield serve` and `llmshield simulate` as a user starts them; clients on real sockets leave in the middle."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

POLICY = """
version: 1
server: {{store: "sqlite:///{folder}/spend.db"}}
providers:
  openai: {{dialect: openai, base_url: "http://127.0.0.1:{sim}/v1"}}
  claude: {{dialect: anthropic, base_url: "http://127.0.0.1:{sim}"}}
routes:
  - {{match: {{model: "claude-*"}}, to: [claude]}}
  - {{match: {{any: true}}, to: [openai]}}
tenants: {{anonymous: {{tier: free}}}}
tiers: {{free: {{budget: 5 USD/day}}}}
plugins: [{{use: cost_cap}}]
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def fetch(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=5) as reply:
        return json.loads(reply.read())


@contextlib.contextmanager
def started(*words: str, ready: str, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A command in the background, once its port takes connections."""
    environ = {**os.environ, "NO_COLOR": "1"}
    environ.pop("LLMSHIELD_ADMIN_TOKEN", None)
    with (folder / f"{words[0]}.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "llmshield", *words], cwd=folder, env=environ, stdout=log, stderr=log
        )
    try:
        host, port = ready.split(":")
        for _ in range(200):
            with socket.socket() as probe:
                if probe.connect_ex((host, int(port))) == 0:
                    break
            assert process.poll() is None, (folder / f"{words[0]}.log").read_text()
            time.sleep(0.05)
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(15)


async def take(port: int, path: str, body: dict[str, Any], events: int) -> bytes:
    """Read so many events of a streamed answer, then reset the connection."""
    data = json.dumps(body).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer k\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"  # fmt: skip
    writer.write(head.encode() + data)
    got = b""
    while got.count(b"\n\n") < events:
        piece = await reader.read(4096)
        if not piece:
            break
        got += piece
    writer.transport.abort()
    return got


HI = [{"role": "user", "content": "How are you?"}]
CALLS: list[tuple[str, dict[str, Any], Decimal]] = [
    ("/v1/chat/completions", {"model": "gpt-4o-mini", "messages": HI, "max_tokens": 900, "stream": True}, Decimal("0.60")),
    ("/v1/messages", {"model": "claude-haiku-4-5", "messages": HI, "max_tokens": 900, "stream": True}, Decimal(5)),
    ("/v1/responses", {"model": "gpt-4o-mini", "input": "How are you?", "max_output_tokens": 900, "stream": True}, Decimal("0.60")),
]  # fmt: skip


async def test_a_client_that_leaves_pays_for_what_came(tmp_path: Path) -> None:
    """Within three seconds of the end nothing is held, each call is charged once, and no less than what was said."""
    sim, data, admin = free_port(), free_port(), free_port()
    (tmp_path / "policy.yaml").write_text(POLICY.format(folder=tmp_path, sim=sim))
    serve = ("serve", "--policy", "policy.yaml", "--listen", f"127.0.0.1:{data}", "--admin", f"127.0.0.1:{admin}")  # fmt: skip
    simulate = ("simulate", "--listen", f"127.0.0.1:{sim}", "--set", "delay=0.01", "--set", "tokens=400")
    calls, before, spent = 0, Decimal(0), Decimal(0)
    with (
        started(*simulate, ready=f"127.0.0.1:{sim}", folder=tmp_path),
        started(*serve, ready=f"127.0.0.1:{data}", folder=tmp_path),
    ):
        for path, body, rate in CALLS:
            seen = 0
            for events in (4, 12, 40):
                seen += (await take(data, path, body, events)).count(b'"delta"')
                calls += 1
            left = time.monotonic()
            while True:
                usage = await asyncio.to_thread(fetch, f"http://127.0.0.1:{admin}/usage")
                found = usage["tenants"]["anonymous"]
                if found["requests"] == calls and Decimal(found["held_usd"]) == 0:
                    break
                assert time.monotonic() - left < 3, (path, found)
                await asyncio.sleep(0.05)
            spent = Decimal(found["spent_usd"])

            assert seen > 30
            assert spent - before >= seen * rate / 10**6, path
            assert spent - before < Decimal("0.05"), path
            before = spent
    book = subprocess.run(
        [sys.executable, "-m", "llmshield", "spend", "--policy", "policy.yaml", "--by", "tenant", "--format", "json"],
        cwd=tmp_path, capture_output=True, text=True, check=True, timeout=30,
    )  # fmt: skip

    assert str(spent) in book.stdout, "the book on disk says the same after the process has gone"
