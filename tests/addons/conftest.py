"""Code that runs inside mitmproxy's own environment, where nothing of ours is installed."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmshield.egress import interpreter
from llmshield.egress.handover import handover
from llmshield.egress.running import addon
from llmshield.testing import policy

POLICY = """
providers: {openai: {dialect: openai, connect: "127.0.0.1:9443"}, claude: {dialect: anthropic}}
egress:
  hosts: {api.openai.com: openai, "*.claude.test": claude}
  bypass: {clients: [10.9.0.0/16], hosts: [pinned.claude.test]}
"""


@pytest.fixture(scope="session")
def python() -> str:
    """A Python that has mitmproxy."""
    try:
        return interpreter.find()
    except interpreter.NoMitmproxy:
        pytest.skip("no mitmproxy here; `make egress` sets it up")


@pytest.fixture
def said() -> dict[str, Any]:
    """What the addon is told."""
    return handover(policy(POLICY), ("127.0.0.1", 4711), "token", (("127.0.0.1", 4712),))


@pytest.fixture
def inside(python: str, tmp_path: Path) -> Callable[..., Any]:
    """`inside(code, given)`: what the code leaves in `result`, run beside the addons with `given` at hand."""

    def run(code: str, given: Any = None) -> Any:
        script = tmp_path / "inside.py"
        script.write_text(
            f"import json, sys\nsys.path.insert(0, {str(addon('mitm').parent)!r})\n"
            f"given = json.loads(sys.stdin.read())\n{code}\nprint(json.dumps(result))\n"
        )
        done = subprocess.run(
            [python, str(script)], input=json.dumps(given), capture_output=True, text=True, check=False,
            env=interpreter.clean(), timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return run
