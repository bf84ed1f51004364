"""What other processes can see of a gateway that runs as users run it: its output, its command line, its children."""

import asyncio
import base64
import os
import random
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from llmshield.simulator import Simulator

CANARIES = {name: f"CANARY-{random.Random(name).randbytes(18).hex()}" for name in (
    "provider", "client", "admin", "cookie", "url", "literal", "store")}  # fmt: skip
MASTER = base64.urlsafe_b64encode(random.Random(9).randbytes(32)).decode()
SECRETS = (*CANARIES.values(), MASTER)

POLICY = """
version: 1
server: {store: "sqlite:///book.db"}
providers:
  main: {dialect: openai, base_url: "URL/v1", api_key: env://PROVIDER_KEY, prices: {input: 1, output: 1}, circuit: {failures: 100000}}
  sealed: {dialect: anthropic, base_url: "URL", api_key: "SEALED", prices: {input: 1, output: 1}, circuit: {failures: 100000}}
routes:
  - {match: {model: "claude*"}, to: [sealed]}
  - {match: {any: true}, to: [main]}
plugins: [{use: cost_cap}, {use: ./boom.py}, {use: failover}]
tenants: {anonymous: {tier: t}}
tiers: {t: {budget: 100 USD/day}}
audit: {sink: "file://audit.jsonl"}
"""
BOOM = '''
"""Raises with the head of its call."""
from llmshield.hookspecs import Plugin, hookimpl


class Boom(Plugin):
    @hookimpl
    def pre_request(self, call):
        if call.headers.get("x-boom"):
            raise RuntimeError(f"boom {dict(call.headers)}")
'''


def leaks(text: str) -> list[str]:
    low = text.lower()
    shown = []
    for secret in SECRETS:
        raw = secret.encode()
        for form in (
            secret,
            secret[::-1],
            raw.hex(),
            base64.b64encode(raw).decode()[:-4],
            secret[:8],
            secret[-8:],
        ):
            if form.lower() in low:
                shown.append(form)
    return shown


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    return {
        **os.environ, "PROVIDER_KEY": CANARIES["provider"], "LLMSHIELD_SECRET_KEY": MASTER, "LLMSHIELD_LOG_LEVEL": "debug",
        "LLMSHIELD_ADMIN_TOKEN": CANARIES["admin"], "XDG_STATE_HOME": str(tmp_path / "state"),
    }  # fmt: skip


def run(
    folder: Path, environ: dict[str, str], *words: str, said: str = ""
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "llmshield", *words], cwd=folder, env=environ, input=said, capture_output=True, text=True,
        check=False, timeout=60,
    )  # fmt: skip


async def read_until(stream: asyncio.StreamReader, lines: list[str], pattern: str) -> re.Match[str]:
    while True:
        line = (await asyncio.wait_for(stream.readline(), 60)).decode()
        assert line, "".join(lines)
        lines.append(line)
        if found := re.search(pattern, line):
            return found


def family(pid: int) -> list[int]:
    """The process and everything below it."""
    found = [pid]
    for parent in found:
        for task in Path(f"/proc/{parent}/task").iterdir():
            found += [int(child) for child in (task / "children").read_text().split()]
    return found


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="reads /proc, as ps does")
async def test_a_running_gateway_shows_no_canary(
    tmp_path: Path, primary: Simulator, environ: dict[str, str]
) -> None:
    """Errors of every kind, then: standard output and error at DEBUG, `ps`, the environments of children, the files
    that it writes."""
    sealed = run(
        tmp_path, environ, "vault", "seal", "--provider", "sealed", said=CANARIES["literal"]
    ).stdout.strip()
    (tmp_path / "boom.py").write_text(BOOM)
    (tmp_path / "policy.yaml").write_text(POLICY.replace("URL", primary.url).replace("SEALED", sealed))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "llmshield", "serve", "--policy", "policy.yaml", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0",
        cwd=tmp_path, env=environ, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    assert process.stdout is not None
    lines: list[str] = []
    try:
        found = await read_until(process.stdout, lines, r'"data":"(http://[^"]+)".*"admin":"(http://[^"]+)"')
        reader = asyncio.create_task(_drain(process.stdout, lines))
        await _errors(found[1], found[2], primary)
        for pid in family(process.pid):
            assert leaks(Path(f"/proc/{pid}/cmdline").read_text()) == []
            if pid != process.pid:
                assert leaks(Path(f"/proc/{pid}/environ").read_text()) == []
    finally:
        process.terminate()
        await process.wait()
    await reader

    assert process.returncode == 0
    assert len(lines) > 4
    assert leaks("".join(lines)) == []
    for path in tmp_path.rglob("*"):
        if path.is_file() and path.suffix not in (".py", ".pyc"):
            assert leaks(path.read_bytes().decode("latin-1")) == [], path.name


async def _drain(stream: asyncio.StreamReader, lines: list[str]) -> None:
    while line := await stream.readline():
        lines.append(line.decode())


async def _errors(data: str, admin: str, sim: Simulator) -> None:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(30)) as http:
        for number, fault in enumerate(
            ("echo_key", "500", "html", "reset", "401", "truncated_json", "not_http", "error_in_200", "") * 3
        ):
            sim.set(fault=fault or None)
            model = ("gpt-4o", "claude-x")[number % 2]
            headers = {"authorization": f"Bearer {CANARIES['client']}", "cookie": f"s={CANARIES['cookie']}"}
            if not fault:
                headers["x-boom"] = "1"
            body: Any = {
                "model": model,
                "messages": [{"role": "user", "content": "hi"}],
                "stream": number % 3 == 0,
            }
            async with http.post(
                f"{data}/v1/chat/completions?key={CANARIES['client']}", json=body, headers=headers
            ) as reply:
                assert leaks(f"{dict(reply.headers)} {await reply.text()}") == [], fault
        for path in ("/metrics", "/status", "/usage", f"/x?key={CANARIES['url']}"):
            async with http.get(
                admin + path, headers={"authorization": f"Bearer {CANARIES['admin']}"}
            ) as reply:
                assert leaks(await reply.text()) == []


COMMANDS = (
    (("serve", "--policy", "bad.yaml", "--listen", "127.0.0.1:0"), ""),
    (("check", "bad.yaml"), ""),
    (("vault", "check", "--policy", "bad.yaml"), ""),
    (("vault", "unseal"), f"enc://v1.a.k.{CANARIES['literal']}"),
    (("vault", "unseal"), CANARIES["literal"]),
    (("spend", "--policy", "lost.yaml"), ""),
    (("keys", "list", "--policy", "lost.yaml"), ""),
    (("audit", "verify", "--policy", "bad.yaml"), ""),
    (("serve", "--policy", "crash.yaml", "--listen", "127.0.0.1:0"), ""),
)


@pytest.mark.parametrize(
    ("words", "said"), COMMANDS, ids=lambda value: " ".join(value[:2]) if isinstance(value, tuple) else ""
)
def test_commands_that_fail_show_no_canary(
    tmp_path: Path, environ: dict[str, str], words: tuple[str, ...], said: str
) -> None:
    secret = CANARIES["literal"]
    (tmp_path / "bad.yaml").write_text(
        f"version: 1\nproviders: {{a: {{dialect: openai, api_key: {secret}}}}}\n"
    )
    (tmp_path / "lost.yaml").write_text(
        f"version: 1\nserver: {{store: 'redis://u:{CANARIES['store']}@127.0.0.1:9/0'}}\n"
    )
    (tmp_path / "crash.yaml").write_text("version: 1\nplugins: [{use: ./crash.py}]\n")
    (tmp_path / "crash.py").write_text(
        f"import os\nfrom llmshield.hookspecs import Plugin\nclass Crash(Plugin):\n    async def start(self, resources):\n"
        f"        raise RuntimeError('key ' + os.environ['PROVIDER_KEY'] + ' api_key=' + '{secret}')\n"
    )
    done = run(tmp_path, environ, *words, said=said)

    assert done.returncode != 0
    assert leaks(done.stdout + done.stderr) == [], done.stderr
