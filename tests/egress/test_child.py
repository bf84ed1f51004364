"""The gateway's process as its parent speaks to it: serves on a socket that it was given, is healthy when told, ends
with its parent."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from llmshield.egress.child import count
from llmshield.egress.running import reserved
from llmshield.metrics import Metrics
from llmshield.mounts._server import bind
from llmshield.policy.units import HostPort

POLICY = 'version: 1\nserver: {store: "memory://"}\nproviders: {openai: {dialect: openai}}\negress: {hosts: {api.openai.com: openai}}\n'


def health(port: int) -> int:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=10) as reply:
            return int(reply.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_its_life(tmp_path: Path) -> None:
    (tmp_path / "policy.yaml").write_text(POLICY)
    splice, admin = reserved(), bind(HostPort("127.0.0.1", 0), "admin")
    port = admin.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "llmshield", "egress", "gateway", "--child", "--policy", "policy.yaml"],
        cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=(splice.fileno(), admin.fileno()),
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None

    def tell(**said: object) -> None:
        process.stdin.write(json.dumps(said).encode() + b"\n")  # type: ignore[union-attr]
        process.stdin.flush()  # type: ignore[union-attr]

    try:
        tell(token="t", splice=splice.fileno(), admin=admin.fileno(), issuing=None)
        assert {"serving": True} == json.loads(process.stdout.readline())
        assert health(port) == 503
        tell(health=None, seen=[["passed", "a.test", "10.0.0.1", 3]])
        until = time.monotonic() + 10
        while health(port) != 200 and time.monotonic() < until:
            time.sleep(0.02)
        assert health(port) == 200
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as reply:
            text = reply.read().decode()
        assert 'llmshield_egress_connections_total{how="passed",host="a.test"} 3' in text
        assert "10.0.0.1" not in text
        process.stdin.close()  # as when the parent was killed
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        splice.close()
        admin.close()


def test_counts_are_sums() -> None:
    metrics = Metrics()
    count(metrics, [["blocked", "a.test", "10.0.0.1", 1]])
    count(metrics, [["blocked", "a.test", "10.0.0.2", 2]])

    assert b'llmshield_egress_connections_total{how="blocked",host="a.test"} 3' in metrics.render()
