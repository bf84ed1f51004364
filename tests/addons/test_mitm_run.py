"""The proxy's process as its parent speaks to it: what it says when it is up, and when it can't be."""

from __future__ import annotations

import json
import socket
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
