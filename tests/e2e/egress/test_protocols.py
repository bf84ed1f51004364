"""WebSocket and gRPC: passed or blocked, as the policy says. Clients that nobody changed, by variables and by rules."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

CLIENTS = Path(__file__).parents[1] / "clients"
SPOKEN = {"websocket": "api.openai.com", "grpc": "generativelanguage.googleapis.com"}
POLICY = """\
version: 1
server: {{store: "memory://"}}
providers:
  openai: {{dialect: openai, base_url: "https://api.openai.com/v1"{openai}}}
  gemini: {{dialect: gemini, base_url: "https://generativelanguage.googleapis.com"{gemini}}}
egress: {{hosts: {{api.openai.com: openai, generativelanguage.googleapis.com: gemini}}, websocket: {say}, grpc: {say}}}
"""
PASSED = {"websocket": ["olleh", True], "grpc": [True, ["0m", "1m", "2m", "3m", "4m"]]}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        found: int = probe.getsockname()[1]
        return found


def talked(words: list[str], environment: dict[str, str]) -> dict[str, Any]:
    """What both clients got."""
    done = subprocess.run(
        [*words, sys.executable, str(CLIENTS / "talk.py"), *SPOKEN.values()], capture_output=True, text=True, check=False,
        env={**os.environ, **environment}, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@contextlib.contextmanager
def by_variables(
    say: str, folder: Path, egress: Any, started: Any, provider_certificate: Any
) -> Iterator[tuple[dict[str, Any], dict[str, int]]]:
    """A proxy in regular mode; the clients' own variables lead to it."""
    ports = [free_port() for _ in range(3)]
    words = [
        sys.executable,
        str(CLIENTS / "protocols.py"),
        "127.0.0.1",
        *map(str, ports),
        str(provider_certificate(folder)),
    ]
    text = POLICY.format(
        say=say, openai=f', connect: "127.0.0.1:{ports[0]}"', gemini=f', connect: "127.0.0.1:{ports[1]}"'
    )
    with started(words), egress(text, folder / "run", SSL_CERT_FILE=str(folder / "roots.pem")) as mount:
        found = talked([], {"https_proxy": mount.proxy, "no_proxy": "", "SSL_CERT_FILE": str(mount.bundle)})
        said = subprocess.run(
            ["curl", "-sS", f"http://127.0.0.1:{ports[2]}/"], capture_output=True, check=True
        )
        yield found, json.loads(said.stdout)


@contextlib.contextmanager
def by_rules(
    say: str, cable: Any, started: Any, provider_certificate: Any
) -> Iterator[tuple[dict[str, Any], dict[str, int]]]:
    """Transparent mode; the two hosts are two addresses at the other end of the cable."""
    pair = str(provider_certificate(cable.folder))
    cable.far.run("ip", "addr", "add", "10.77.0.3/24", "dev", "cable")
    cable.resolves(SPOKEN["websocket"])
    with (cable.folder / "hosts").open("a") as hosts:
        hosts.write(f"10.77.0.3 {SPOKEN['grpc']}\n")
    with contextlib.ExitStack() as stack:
        # One program listens on one address; both serve both, and each is asked for one.
        for address, ports in ((cable.FAR, ("443", "444", "9001")), ("10.77.0.3", ("444", "443", "9002"))):
            words = [sys.executable, str(CLIENTS / "protocols.py"), address, *ports, pair]
            stack.enter_context(started(cable.far.words(*words)))
        run = stack.enter_context(
            cable.run(POLICY.format(say=say, openai="", gemini=""), tuple(SPOKEN.values()), "--rules", "up")
        )
        run.wait_healthy()
        cable.near.do(
            *cable.shield,
            "ca",
            "export",
            "--ca",
            str(cable.folder / "ca"),
            "--dir",
            str(cable.folder / "public"),
        )
        roots = {
            "SSL_CERT_FILE": str(cable.folder / "public" / "bundle.pem"),
            "https_proxy": "",
            "HTTPS_PROXY": "",
        }
        found = talked(cable.near.words(), roots)
        counts = [
            json.loads(cable.far.do("curl", "-sS", f"http://127.0.0.1:{port}/")) for port in (9001, 9002)
        ]
        yield found, {name: counts[0][name] + counts[1][name] for name in SPOKEN}


@pytest.mark.parametrize("way", ["by_variables", "by_rules"])
@pytest.mark.parametrize("say", ["pass", "block"])
def test_what_the_policy_says(request: pytest.FixtureRequest, tmp_path: Path, way: str, say: str) -> None:
    given = [request.getfixturevalue(name) for name in ("started", "provider_certificate")]
    if way == "by_rules":
        opened = by_rules(say, request.getfixturevalue("cable"), *given)
    else:
        opened = by_variables(say, tmp_path, request.getfixturevalue("egress"), *given)
    with opened as (found, counts):
        pass

    if say == "pass":
        assert found == PASSED
        assert counts == {"websocket": 1, "grpc": 2}
        return
    assert counts == {"websocket": 0, "grpc": 0}
    status, body = found["websocket"]
    assert status in (400, 404, 501)
    assert body["error"]["message"]
    assert found["grpc"] == ["PERMISSION_DENIED", "gRPC is not served by policy"]
