"""`llmshield egress run`: what it says and with which status it ends when it can't start."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

POLICY = 'version: 1\nserver: {store: "memory://"}\nproviders: {openai: {dialect: openai}}\n'
HOSTS = "egress: {hosts: {api.openai.com: openai}}\n"


def run(folder: Path, text: str, *more: str, **environment: str) -> subprocess.CompletedProcess[str]:
    (folder / "policy.yaml").write_text(text)
    return subprocess.run(
        [sys.executable, "-m", "llmshield", "egress", "run", "--policy", "policy.yaml", "--ca", "ca", *more],
        cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip


def test_without_mitmproxy(tmp_path: Path) -> None:
    done = run(tmp_path, POLICY + HOSTS, LLMSHIELD_EGRESS_PYTHON=sys.executable)

    assert done.returncode == 2
    assert "pip install" in done.stderr
    assert "mitmproxy" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_policy_that_intercepts_nothing(tmp_path: Path) -> None:
    done = run(tmp_path, POLICY)

    assert done.returncode == 2
    assert "name hosts under `egress:`" in done.stderr


def test_without_an_authority(tmp_path: Path, egress: Any) -> None:
    done = run(tmp_path, POLICY + HOSTS)

    assert done.returncode == 1
    assert "ca init" in done.stderr


@pytest.mark.parametrize("which", ["--listen", "--admin"])
def test_a_port_that_is_taken(tmp_path: Path, egress: Any, which: str) -> None:
    made = subprocess.run(
        [sys.executable, "-m", "llmshield", "egress", "ca", "init", "--host", "api.openai.com", "--ca", "ca"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        ports = {"--listen": "127.0.0.1:0", "--admin": "127.0.0.1:0"}
        ports[which] = f"127.0.0.1:{taken.getsockname()[1]}"
        done = run(tmp_path, POLICY + HOSTS, *(word for pair in ports.items() for word in pair))

    assert done.returncode == 1
    assert ports[which] in done.stderr
    assert f"({which} HOST:PORT)" in done.stderr
    assert "Traceback" not in done.stderr
