"""What goes wrong before a command runs; commands that run are in tests/cli/_egress/test_exec.py."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from llmshield.egress import launching


@pytest.mark.parametrize(("name", "status"), [("no-such-command", 127), ("/", 126), ("./plain.txt", 126)])
def test_a_command_that_can_not_run(name: str, status: int, tmp_path: Path) -> None:
    (tmp_path / "plain.txt").write_text("")
    script = f"import os; from llmshield.egress import launching; raise SystemExit(launching.replace([{name!r}], os.environ))"

    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == status
    assert done.stderr.startswith(f"llmshield egress exec: {name}: ")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("number", "said"),
    [(errno.EPERM, "--only-uid"), (errno.ENOSPC, "max_user_namespaces"), (errno.EIO, "No room could")],
)
def test_why_there_is_no_room(number: int, said: str) -> None:
    assert said in launching._why(OSError(number, os.strerror(number)))
