"""`llmshield egress gateway` and `addon-path`: a mitmproxy of somebody's own, with our script, and the gateway alone."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llmshield.egress import interpreter
from llmshield.simulator import Simulator

POLICY = """
version: 1
server: {{store: "memory://", admin: null}}
providers: {{openai: {{dialect: openai, base_url: "{url}/v1"}}}}
plugins: [{{use: injection, deny: ["open sesame"]}}]
egress: {{hosts: {{api.openai.com: openai}}}}
"""


@contextlib.contextmanager
def started(*command: str, **more: Any) -> Iterator[subprocess.Popen[bytes]]:
    with Path(more["cwd"], f"{Path(command[0]).name}.log").open("wb") as out:
        process = subprocess.Popen([*command], stdout=out, stderr=out, stdin=subprocess.DEVNULL, **more)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(40)


def until(there: Any) -> None:
    end = time.monotonic() + 60
    while not there():
        assert time.monotonic() < end
        time.sleep(0.05)


def listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


async def test_as_a_script_of_mitmdump(tmp_path: Path, egress: Any, primary: Simulator) -> None:
    import asyncio

    (tmp_path / "policy.yaml").write_text(POLICY.format(url=primary.url))
    await asyncio.to_thread(_drive, tmp_path)

    assert [call.header("authorization") for call in primary.calls] == ["Bearer sk-own"] * 3


def _drive(folder: Path) -> None:
    ours = [sys.executable, "-m", "llmshield", "egress"]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    script = subprocess.run([*ours, "addon-path"], capture_output=True, text=True, check=True).stdout.strip()
    mitmdump = str(Path(interpreter.find()).with_name("mitmdump"))
    handover = folder / "egress.json"
    with started(*ours, "gateway", "--policy", "policy.yaml", cwd=folder) as gateway:
        until(handover.exists)
        assert handover.stat().st_mode & 0o777 == 0o600
        environment = {**interpreter.clean(), "LLMSHIELD_EGRESS": str(handover)}
        with started(
            mitmdump, "--mode", f"regular@127.0.0.1:{port}", "--set", f"confdir={folder / 'mitm'}", "-s", script,
            cwd=folder, env=environment,
        ):  # fmt: skip
            until(lambda: listening(port))
            trust = ssl.create_default_context(cafile=str(folder / "mitm" / "mitmproxy-ca-cert.pem"))
            opener = urllib.request.build_opener(
                urllib.request.ProxyHandler({"https": f"http://127.0.0.1:{port}"}),
                urllib.request.HTTPSHandler(context=trust),
            )
            assert ask(opener, "hello") == (200, "allow", "openai")
            assert ask(opener, "open sesame")[0] == 400
            assert ask(opener, "hello", stream=True) == (200, "allow", "openai")
            # Nobody supervises: the script itself notices that it hangs, and that it goes on.
            gateway.send_signal(signal.SIGSTOP)
            try:
                status, action, said = ask(opener, "hello")
            finally:
                gateway.send_signal(signal.SIGCONT)
            assert (status, action) == (503, "block")
            assert json.loads(said)["error"]["code"] == "gateway_unavailable"
            until(lambda: ask(opener, "open sesame")[0] == 400)
            assert ask(opener, "hello") == (200, "allow", "openai")
    assert not handover.exists()
    assert "Addon error" not in (folder / "mitmdump.log").read_text()


def ask(opener: urllib.request.OpenerDirector, text: str, *, stream: bool = False) -> tuple[Any, ...]:
    body = {"model": "gpt-small", "stream": stream, "messages": [{"role": "user", "content": text}]}
    request = urllib.request.Request(
        "https://api.openai.com/v1/chat/completions", json.dumps(body).encode(),
        {"content-type": "application/json", "authorization": "Bearer sk-own"},
    )  # fmt: skip
    try:
        with opener.open(request, timeout=30) as reply:
            reply.read()
            return reply.status, reply.headers["x-llmshield-action"], reply.headers["x-llmshield-provider"]
    except urllib.error.HTTPError as error:
        return error.code, error.headers["x-llmshield-action"], error.read().decode()


def test_a_policy_that_intercepts_nothing(tmp_path: Path) -> None:
    (tmp_path / "policy.yaml").write_text("version: 1\n")
    done = subprocess.run(
        [sys.executable, "-m", "llmshield", "egress", "gateway", "--policy", "policy.yaml"],
        cwd=tmp_path, capture_output=True, text=True, check=False, env=dict(os.environ), timeout=60,
    )  # fmt: skip

    assert done.returncode == 2
    assert "intercepts nothing" in done.stderr
