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


@pytest.mark.parametrize(
    ("uid", "why"),
    [
        ("-1", "no such user"),
        ("99999999999", "no such user"),
        ("nobody-of-this-name", "no such user"),
        ("0", "is root"),
    ],
)
def test_a_user_that_can_t_be(tmp_path: Path, egress: Any, uid: str, why: str) -> None:
    done = run(tmp_path, POLICY + HOSTS, f"--uid={uid}")

    assert done.returncode == 2
    assert why in done.stderr
    assert "Traceback" not in done.stderr


def test_local_capture_that_can_t_work(tmp_path: Path, egress: Any) -> None:
    """It says why before anything starts; a run that captured nothing would call itself healthy."""
    empty = tmp_path / "empty"
    empty.mkdir()
    done = run(tmp_path, POLICY + HOSTS, "--mode", "local", "--local", "curl", PATH=str(empty))
    with_uid = run(tmp_path, POLICY + HOSTS, "--mode", "local", "--uid", "48211")

    assert (done.returncode, with_uid.returncode) == (2, 2)
    assert "can't capture on this machine: " in done.stderr
    assert "intercepts at" not in done.stderr
    assert "--uid is not for --mode local" in with_uid.stderr
