"""The admin API under schemathesis, on a real gateway: no 5xx, no secret in an answer, and what is answered is what
the description says. Twelve seconds here; ten minutes at night."""

import hashlib
import json
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from llmshield.admin.table import routes
from llmshield.simulator import SimulatorThread

HOOKS = Path(__file__).with_name("schemathesis_hooks.py")
CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,"
    "response_schema_conformance,negative_data_rejection,unsupported_method,allow_header_conformance,no_secrets"
)
POLICY = """
version: 1
server: {{store: "sqlite:///book.db", state_dir: state}}
audit: {{sink: "file://audit.jsonl"}}
admin:
  keys: {{fuzz: {{key: "sha256:{digest}", role: admin}}}}
  configure: [api_key, timeout, models]
providers:
  openai: {{dialect: openai, base_url: "{url}/v1", api_key: "env://KEY_OPENAI", circuit: {{failures: 3}}}}
  anthropic: {{dialect: anthropic, base_url: "{url}", api_key: "env://KEY_ANTHROPIC", circuit: {{failures: 3}}}}
  gemini: {{dialect: gemini, base_url: "{url}", api_key: "env://KEY_GEMINI"}}
identify: [virtual_key]
tenants: {{acme: {{tier: pro}}, anonymous: {{tier: free}}}}
tiers: {{pro: {{budget: [5 USD/day, 50 USD/month]}}, free: {{budget: 1 USD/24h, rate: 20/hour}}}}
plugins: [{{use: rate_limit}}, {{use: cost_cap}}, {{use: failover}}]
"""


class Served(NamedTuple):
    admin: str
    key: str
    canaries: list[str]
    folder: Path


@pytest.fixture
def served(tmp_path: Path, running: Any) -> Iterator[Served]:
    """`llmshield serve` as users run it, with a canary in the place of each secret."""
    key = f"CANARY-{secrets.token_hex(16)}"
    canaries = {
        name: f"CANARY-{secrets.token_hex(16)}"
        for name in ("KEY_OPENAI", "KEY_ANTHROPIC", "KEY_GEMINI", "LLMSHIELD_ADMIN_TOKEN")
    }
    ring = secrets.token_urlsafe(32) + "="
    with SimulatorThread() as sim:
        text = POLICY.format(url=sim.url, digest=hashlib.sha256(key.encode()).hexdigest())
        (tmp_path / "policy.yaml").write_text(text)
        environment = {**canaries, "LLMSHIELD_SECRET_KEY": ring, "LLMSHIELD_LOG_LEVEL": "debug"}
        with running(tmp_path, **environment) as gateway:
            yield Served(gateway.admin, key, [key, *canaries.values(), ring], tmp_path)
        log_text = gateway.log.read_text()
        assert gateway.process.returncode == 0
        assert "admin_failed" not in log_text
        assert "Traceback" not in log_text
        for canary in (key, *canaries.values(), ring):
            assert canary not in log_text
            assert all(canary not in file.read_text() for file in tmp_path.glob("audit*.jsonl"))


def fuzz(served: Served, seconds: int) -> dict[str, Any]:
    """Runs schemathesis for so long; its report."""
    report = served.folder / "report.json"
    command = [
        str(Path(sys.executable).with_name("schemathesis")), "run", f"{served.admin}/openapi.json",
        "--header", f"Authorization: Bearer {served.key}", "--checks", CHECKS, "--max-time", str(seconds),
        "--phases", "examples,coverage,fuzzing", "--continue-on-failure", "--request-timeout", "30",
        "--suppress-health-check", "all", "--warnings", "off", "--no-color",
        "--report-json-path", str(report),
    ]  # fmt: skip
    environment = {
        **os.environ, "SCHEMATHESIS_HOOKS": HOOKS.stem, "PYTHONPATH": f"{HOOKS.parent}:{os.environ.get('PYTHONPATH', '')}",
        "CANARIES": " ".join(served.canaries),
    }  # fmt: skip
    run = subprocess.run(
        command,
        cwd=served.folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=seconds + 240,
        check=False,
    )
    assert run.returncode == 0, f"{run.stdout[-6000:]}\n{run.stderr[-2000:]}"
    found: dict[str, Any] = json.loads(report.read_text())
    return found


def test_a_short_run(served: Served) -> None:
    """Enough of them that a run which could not reach anything, or not log in, would be seen."""
    found = fuzz(served, 12)

    assert found["operations"]["tested"] == len(routes()) - 1  # it leaves out the description itself
    assert found["test_cases"]["generated"] > 100
    accepted = {
        name
        for name, phases in found["valid_rates"].items()
        if any(each["accepted"] for each in phases.values())
    }
    assert {"POST /v1/blocks", "POST /v1/circuits/open", "GET /v1/usage"} <= accepted


@pytest.mark.nightly
def test_ten_minutes(served: Served) -> None:
    assert fuzz(served, 600)["test_cases"]["generated"] > 2_000
