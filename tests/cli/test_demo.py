"""The demo as users run it: every check that it prints holds, and it ends by itself."""

import subprocess
import sys


def test_the_demo_holds() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "llmshield", "demo"], capture_output=True, text=True, check=False, timeout=120
    )

    assert 0 == done.returncode, done.stdout[-3000:] + done.stderr[-2000:]
    assert "Everything above was checked and holds." in done.stdout
    assert "✗" not in done.stdout
