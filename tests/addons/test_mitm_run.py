"""The proxy's process as its parent speaks to it: what it says when it is up, and when it can't be."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
import subprocess
from pathlib import Path
from typing import Any

import pytest

from llmshield.egress import interpreter
from llmshield.egress.running import addon


def start(python: str, said: dict[str, Any], mode: str, folder: Path) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [python, str(addon("mitm_run"))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=interpreter.clean(),
    )
    assert process.stdin is not None
    line = {**said, "mode": [mode], "confdir": str(folder), "drain_s": 1.0}
    process.stdin.write(json.dumps(line).encode() + b"\n")
    process.stdin.flush()
    return process


@pytest.mark.parametrize("end", ["input", "signal"])
def test_its_life(python: str, said: dict[str, Any], tmp_path: Path, end: str) -> None:
    process = start(python, said, "regular@127.0.0.1:0", tmp_path)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        (address,) = json.loads(process.stdout.readline())["listening"]
        with socket.create_connection(tuple(address)) as sock:
            sock.sendall(b"CONNECT 169.254.169.254:443 HTTP/1.1\r\nhost: x\r\n\r\n")
            assert sock.recv(100).startswith(b"HTTP/1.1 403 ")
        if end == "input":
            process.stdin.close()
        else:
            process.terminate()
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


def test_a_port_that_is_taken(python: str, said: dict[str, Any], tmp_path: Path) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        process = start(python, said, f"regular@127.0.0.1:{sock.getsockname()[1]}", tmp_path)
        out, _ = process.communicate(timeout=60)

    assert process.returncode == 4
    assert "in use" in json.loads(out.splitlines()[0])["failed"]


BROKEN = """
import asyncio, sys
sys.path.insert(0, {folder!r})
import mitm, mitm_run

def broken(*about):
    raise RuntimeError("broken on purpose")

mitm.LLMShield.{method} = broken
sys.exit(asyncio.run(mitm_run.run()))
"""


@pytest.mark.parametrize(
    ("method", "listed"),
    [
        ("find", "localhost"),
        ("find", "api.openai.com"),
        ("is_bypassed", "localhost"),
        ("_origin", "localhost"),
        ("may_go", "api.openai.com"),
        ("is_closed", "api.openai.com"),
        ("_let_by", "api.openai.com"),
    ],
)
async def test_with_an_addon_that_breaks_nothing_goes_out(
    python: str, said: dict[str, Any], tmp_path: Path, method: str, listed: str
) -> None:
    """The whole of mitmproxy around it: `localhost` gets no byte, whether the policy lists it or not."""
    got = b""

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal got
        got += await reader.read(100)
        writer.close()

    server = await asyncio.start_server(listen, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    script = tmp_path / "broken.py"
    script.write_text(BROKEN.format(folder=str(addon("mitm_run").parent), method=method))
    process = await asyncio.create_subprocess_exec(
        python, str(script), stdin=-1, stdout=-1, stderr=-1, env=interpreter.clean()
    )
    assert process.stdin is not None
    assert process.stdout is not None
    told = {**said, "ports": [80, 443, port], "loopback": "pass", "mode": ["regular@127.0.0.1:0"], "confdir": str(tmp_path), "drain_s": 0.1,
            "hosts": {listed: {"family": "openai", "connect": None}}}  # fmt: skip
    process.stdin.write(json.dumps(told).encode() + b"\n")
    (address,) = json.loads(await process.stdout.readline())["listening"]
    insecure = ssl._create_unverified_context()
    reader, writer = await asyncio.open_connection(*address)
    with contextlib.suppress(OSError, ssl.SSLError, asyncio.IncompleteReadError):
        async with asyncio.timeout(30):
            writer.write(f"CONNECT localhost:{port} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode())
            head = await reader.readuntil(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 200 "):
                raise ConnectionRefusedError
            await writer.start_tls(insecure, server_hostname="localhost")
            writer.write(b"GET /secret HTTP/1.1\r\nhost: localhost\r\n\r\n")
            assert b"200" not in await reader.read(100)
    writer.transport.abort()
    process.terminate()
    await process.communicate()
    server.close()

    assert got == b""
