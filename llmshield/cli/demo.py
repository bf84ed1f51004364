"""`llmshield demo`: one policy guards real SDK traffic, on this machine, without keys or network.

Starts two simulated providers and the sidecar (a process of its own, as in production) with `policies/demo.yaml`
in a folder of its own, then drives it with the official SDKs. What is printed is what was measured: the bodies
that the simulated provider received, the objects that the SDKs returned. A scene that does not hold fails the run.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from llmshield.errors import ShieldError

ADMIN_TOKEN = "demo-admin-token"  # noqa: S105  it guards figures of simulated calls on loopback


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command()
    def demo(
        keep: Annotated[
            bool, typer.Option("--keep", help="Leave it running; print what to try by hand.")
        ] = False,
    ) -> None:
        """Watch one policy guard real SDK calls: injection, PII, failover, budget."""
        for package in ("openai", "anthropic"):
            if find_spec(package) is None:
                raise ShieldError(f"The demo drives the official SDKs; install them: pip install {package}")
        from llmshield.cli._scenes import Stage, play
        from llmshield.simulator import SimulatorThread

        # Also where a script started us with `&`, which leaves SIGINT ignored: the sidecar must not outlive us.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, _interrupt)
        with (
            tempfile.TemporaryDirectory(prefix="llmshield-demo-") as folder,
            SimulatorThread(name="primary", delay="15ms") as primary,
            SimulatorThread(name="backup") as backup,
            sidecar(Path(folder), primary.url, backup.url) as (url, admin),
        ):
            stage = Stage(url=url, admin=admin, token=ADMIN_TOKEN, primary=primary, backup=backup)
            failed = play(stage)
            if keep:
                _wait(stage, Path(folder))
        raise typer.Exit(1 if failed else 0)


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def policy_text() -> str:
    """The shipped demo policy. Raises: ShieldError when the installation lacks it."""
    here = Path(__file__).resolve().parent.parent
    for path in (here / "_policies" / "demo.yaml", here.parent / "policies" / "demo.yaml"):
        if path.is_file():
            return path.read_text(encoding="utf-8")
    raise ShieldError(
        "policies/demo.yaml is missing from this installation; install llmshield-sidecar again."
    )


@contextlib.contextmanager
def sidecar(folder: Path, primary: str, backup: str) -> Iterator[tuple[str, str]]:
    """`llmshield serve` with the demo policy and these providers; gives its data and admin URLs."""
    text = policy_text().replace("http://127.0.0.1:9901", primary).replace("http://127.0.0.1:9902", backup)
    (folder / "policy.yaml").write_text(text, encoding="utf-8")
    command = [sys.executable, "-m", "llmshield", "serve", "--policy", "policy.yaml",
               "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]  # fmt: skip
    env = {**os.environ, "LLMSHIELD_ADMIN_TOKEN": ADMIN_TOKEN}
    env.pop("PYTHONWARNINGS", None)
    log = folder / "sidecar.log"
    with log.open("wb") as out:
        process = subprocess.Popen(command, cwd=folder, stdout=out, stderr=out, env=env)  # noqa: S603  our own
    try:
        yield _addresses(process, log)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _addresses(process: subprocess.Popen[bytes], log: Path) -> tuple[str, str]:
    """The URLs that the sidecar prints when it is ready. Raises: ShieldError with what it said instead."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        said = log.read_text(encoding="utf-8", errors="replace")
        for line in said.splitlines():
            if line.startswith("llmshield serves "):
                data, _, admin = line.removeprefix("llmshield serves ").partition(", admin ")
                return data.strip(), admin.strip()
        if process.poll() is not None:
            raise ShieldError(f"The sidecar did not start:\n{said}")
        time.sleep(0.02)
    raise ShieldError("The sidecar did not get ready within 60 s.")


def _wait(stage: object, folder: Path) -> None:
    """Print what to try by hand, and wait for Ctrl-C."""
    from llmshield.cli._scenes import ACME, Stage

    assert isinstance(stage, Stage)
    with contextlib.suppress(KeyboardInterrupt):
        print(
            f"""
Running until Ctrl-C. Policy, audit log and sidecar log: {folder}

  export OPENAI_BASE_URL={stage.url}/v1 OPENAI_API_KEY={ACME}
  export ANTHROPIC_BASE_URL={stage.url} ANTHROPIC_API_KEY={ACME}
  curl -s {stage.url}/v1/chat/completions -H 'authorization: Bearer {ACME}' -H 'content-type: application/json' \\
    -d '{{"model": "gpt-4o", "messages": [{{"role": "user", "content": "Write to ada@example.com"}}]}}'
  curl -s {stage.admin}/status  -H 'authorization: Bearer {stage.token}'
  curl -s {stage.admin}/metrics -H 'authorization: Bearer {stage.token}'
  llmshield audit verify {folder}/llmshield-demo-audit*.jsonl
""",
            flush=True,
        )
        signal.pause()
