"""Local capture on this machine's own kernel: programs by name, nothing set for them, no rules.

The test has a control group of its own, mounted as the root of all of them, so that no other process is touched.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

HOST = "api.openai.com"
POLICY = """\
version: 1
server: {store: "memory://"}
providers: {openai: {dialect: openai, base_url: "https://api.openai.com/v1"}}
plugins: [{use: pii, entities: {EMAIL_ADDRESS: {action: replace}}}]
egress: {hosts: {api.openai.com: openai}}
"""
CAPTURED = "llmshield-probe"
"""The name of a copy of curl; none of the machine's programs has it."""
ECHO = """
import socket, threading
udp, tcp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM), socket.create_server(("", 5432))
udp.bind(("", 53))
def greet():
    while True:
        conn, _ = tcp.accept()
        conn.sendall(b"greeting"); conn.close()
threading.Thread(target=greet, daemon=True).start()
print("ready", flush=True)
while True:
    data, who = udp.recvfrom(100)
    udp.sendto(data[::-1], who)
"""
TALK = """
import socket, sys
open("/proc/self/comm", "w").write(sys.argv[1])
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); udp.settimeout(10)
udp.connect((sys.argv[2], 53)); udp.send(b"name?"); print(udp.recv(100).decode())
tcp = socket.create_connection((sys.argv[2], 5432), 10); print(tcp.recv(100).decode())
quic = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); quic.settimeout(2)
quic.connect((sys.argv[2], 443))
try:
    quic.send(b"x" * 1200); quic.recv(1); print("HTTP/3 passed")
except OSError:
    print("no HTTP/3")
"""


@pytest.fixture(scope="module")
def captured(cable: Any) -> Iterator[Any]:
    """The namespace `near` with a cgroup2 of its own at /sys/fs/cgroup, into which its commands go."""
    mounts = [line.split()[1:3] for line in Path("/proc/self/mounts").read_text().splitlines()]
    roots = [Path(place) for place, kind in mounts if kind == "cgroup2"]
    if not roots:
        pytest.skip("no cgroup2 is mounted here")
    group = roots[0] / f"llmshield-test-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error.strerror}")
    join = f"echo $$ > {group}/cgroup.procs && exec unshare -Cm sh -c 'mount --make-rprivate / && "
    join += "mount -t cgroup2 none /sys/fs/cgroup && echo ready && exec sleep 100000'"
    room = subprocess.Popen(
        ["nsenter", "-t", str(cable.near.process.pid), "-n", "-m", "sh", "-c", join], stdout=subprocess.PIPE
    )
    assert room.stdout is not None
    plain, process = cable.near.words, cable.near.process
    try:
        assert room.stdout.readline() == b"ready\n"

        def words(*command: str) -> list[str]:
            into = [
                "sh",
                "-c",
                f'echo $$ > {group}/cgroup.procs; exec nsenter -t {room.pid} -n -m -C "$@"',
                "sh",
            ]
            return [*into, *command]

        cable.near.words, cable.near.process = words, room
        why = cable.near.do(sys.executable, "-c", WHY).strip()
        if why:
            pytest.skip(f"this machine can't capture: {why}")
        shutil.copy(shutil.which("curl") or "curl", cable.folder / CAPTURED)
        yield cable
    finally:
        cable.near.words, cable.near.process = plain, process
        room.kill()
        room.wait()
        room.stdout.close()
        for pid in (group / "cgroup.procs").read_text().split():
            os.kill(int(pid), signal.SIGKILL)
        for _ in range(100):
            try:
                group.rmdir()
                break
            except OSError:
                time.sleep(0.1)


WHY = "from llmshield.egress import capturing; print(capturing.trouble() or '')"


def test_a_program_by_its_name(captured: Any) -> None:
    """It obeys; another one goes past; names, other ports and loopback are as ever; HTTP/3 is refused."""
    near, curl = captured.near, str(captured.folder / CAPTURED)
    body = json.dumps({"model": "gpt-4o", "messages": [{"role": "user", "content": "to ada@example.com"}]})
    say = ["-sS", "--max-time", "20", "-H", "content-type: application/json", "-d", body]
    with (
        captured.provider((HOST,)) as far,
        captured.run(POLICY, (HOST,), "--local", CAPTURED, mode="local") as run,
    ):
        run.wait_healthy()
        near.do(
            *captured.shield,
            "ca",
            "export",
            "--ca",
            str(captured.folder / "ca"),
            "--dir",
            str(captured.folder / "public"),
        )
        obeys = near.run(
            curl,
            *say,
            "--cacert",
            str(captured.folder / "public" / "ca.crt"),
            f"https://{HOST}/v1/chat/completions",
        )
        past = near.run(
            "curl",
            *say,
            "--cacert",
            str(captured.folder / "roots.pem"),
            f"https://{HOST}/v1/chat/completions",
        )
        own = near.run(curl, "-sS", "--max-time", "20", f"http://{captured.ADMIN}/healthz")
        echo = subprocess.Popen(far.words("python3", "-c", ECHO), stdout=subprocess.PIPE)
        try:
            assert echo.stdout is not None
            assert echo.stdout.readline() == b"ready\n"
            talk = near.run("python3", "-c", TALK, CAPTURED, captured.FAR)
        finally:
            echo.kill()
            echo.wait()
            assert echo.stdout is not None
            echo.stdout.close()
        told = json.loads(far.do("curl", "-sS", f"http://127.0.0.1:{captured.CONTROL}/__sim__/calls"))
        run.process.terminate()
        assert run.process.wait(40) == 0
    log = (captured.folder / "log.txt").read_text()

    assert obeys.returncode == 0, obeys.stderr + log
    assert '"choices"' in obeys.stdout
    assert past.returncode == 0, past.stderr
    assert ["ada@example.com" in json.dumps(call["body"]) for call in told] == [False, True]
    assert '"ok"' in own.stdout
    assert talk.stdout.split("\n")[:3] == ["?eman", "greeting", "no HTTP/3"], talk.stderr
    assert "has crashed" not in log


def test_a_capture_that_ends_ends_the_run(captured: Any) -> None:
    """Health must not say 200 while programs go past."""
    with captured.run(POLICY, (HOST,), "--local", CAPTURED, mode="local") as run:
        run.wait_healthy()
        redirectors = [
            int(each.name) for each in Path("/proc").glob("[0-9]*")
            if (each / "comm").exists() and "redirector" in (each / "cmdline").read_text()
            and os.readlink(each / "ns" / "net") == os.readlink(f"/proc/{captured.near.process.pid}/ns/net")
        ]  # fmt: skip
        assert redirectors
        for pid in redirectors:
            os.kill(pid, signal.SIGKILL)
        assert run.process.wait(60) == 1

    assert "nothing is captured until it is started again" in (captured.folder / "log.txt").read_text()
