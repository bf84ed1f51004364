"""The demo as users run it: every check that it prints holds, and it ends by itself."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest


def test_the_demo_holds() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "llmshield", "demo"], capture_output=True, text=True, check=False, timeout=120
    )

    assert 0 == done.returncode, done.stdout[-3000:] + done.stderr[-2000:]
    assert "Everything above was checked and holds." in done.stdout
    assert "✗" not in done.stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_demo_that_is_kept_takes_its_sidecar_and_its_folder_along(number: signal.Signals) -> None:
    """SIGINT is ignored at first, as in a script that starts it with `&`."""
    demo = subprocess.Popen(
        [sys.executable, "-m", "llmshield", "demo", "--keep"],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN) and None,
    )
    assert demo.stdout is not None
    try:
        mark = "Policy, audit log and sidecar log: "
        folder = next(Path(line.partition(mark)[2].strip()) for line in demo.stdout if mark in line)
        while "audit verify" not in demo.stdout.readline():
            pass
        assert folder.is_dir()
        demo.send_signal(number)
        demo.communicate(timeout=30)  # until every holder of its output, the sidecar too, has ended
    finally:
        demo.kill()
        demo.wait()

    assert 0 == demo.returncode
    assert not folder.exists()
