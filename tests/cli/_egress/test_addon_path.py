"""`llmshield egress addon-path` names a file that a mitmproxy of another environment can load (test_gateway does)."""

import subprocess
import sys
from pathlib import Path


def test_it_prints_a_file() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "llmshield", "egress", "addon-path"],
        capture_output=True,
        text=True,
        check=True,
    )

    assert Path(done.stdout.strip()).name == "mitm.py"
    assert Path(done.stdout.strip()).is_file()
