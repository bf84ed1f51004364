"""Every curl command of docs/admin-api.md, run as it stands there against `llmshield serve`."""

import json
import os
import re
import secrets
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from llmshield.admin.table import routes
from llmshield.simulator import SimulatorThread

PAGE = (Path(__file__).parents[2] / "docs" / "admin-api.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^\$ (curl .+)$", PAGE, re.MULTILINE)
POLICY = """
version: 1
server: {{store: "sqlite:///book.db", state_dir: state}}
audit: {{sink: "file://audit.jsonl"}}
admin: {{configure: [api_key, timeout, models]}}
providers: {{openai: {{dialect: openai, base_url: "{url}/v1", api_key: "env://KEY_OPENAI", circuit: {{failures: 3}}}}}}
tenants: {{acme: {{tier: pro}}}}
tiers: {{pro: {{budget: 5 USD/day}}}}
plugins: [{{use: cost_cap}}, {{use: failover}}]
"""


def test_the_page_has_a_command_for_every_route() -> None:
    assert len(COMMANDS) == len(routes())


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_every_command_works(tmp_path: Path, running: Any) -> None:
    key = secrets.token_hex(16)
    with SimulatorThread() as sim:
        (tmp_path / "policy.yaml").write_text(POLICY.format(url=sim.url))
        environment = {
            "LLMSHIELD_ADMIN_TOKEN": key, "KEY_OPENAI": "sk-of-openai-0123456789",
            "LLMSHIELD_SECRET_KEY": secrets.token_urlsafe(32) + "=",
        }  # fmt: skip
        with running(tmp_path, **environment) as gateway:
            shell = {**os.environ, "ADMIN": gateway.admin, "KEY": key, "ID": ""}
            failed = []
            for line in COMMANDS:
                run = subprocess.run(
                    ["sh", "-c", f"{line} -w '\\n%{{http_code}}'"], env=shell, capture_output=True, text=True, timeout=60,
                    check=False,
                )  # fmt: skip
                body, _, status = run.stdout.rpartition("\n")
                if run.returncode or status not in {"200", "201"}:
                    failed.append(f"{line}\n{status} {body}{run.stderr}")
                elif '"llmsk_' in body:
                    shell["ID"] = json.loads(body)["id"]
            assert failed == []
