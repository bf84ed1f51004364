"""`serve` and `simulate` from the command line: what they print, and refusals in one line without a traceback."""

import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest


def run(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "llmshield", *words],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize(
    ("policy", "words", "status", "said"),
    [
        ("version: 1\nplugins: [{use: pi}]\n", (), 1, "did you mean"),
        (
            "version: 1\nproviders: {a: {dialect: openai, api_key: env://NOT_SET_AT_ALL}}\n",
            (),
            1,
            "NOT_SET_AT_ALL",
        ),
        ("version: 1\n", ("--listen", "nonsense"), 2, "HOST:PORT"),
        (
            "version: 1\nserver: {store: 'sqlite:////nowhere/at/all.db'}\n",
            ("--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"),
            1,
            "",
        ),
    ],
)
def test_a_refused_start_names_the_remedy(
    tmp_path: Path, policy: str, words: tuple[str, ...], status: int, said: str
) -> None:
    (tmp_path / "policy.yaml").write_text(policy)
    done = run("serve", *words, cwd=tmp_path)

    assert status == done.returncode, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_taken_port_is_told(tmp_path: Path) -> None:
    (tmp_path / "policy.yaml").write_text("version: 1\n")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = run(
            "serve", "--listen", f"127.0.0.1:{taken.getsockname()[1]}", "--admin", "127.0.0.1:0", cwd=tmp_path
        )

    assert 1 == done.returncode
    assert "can't be opened" in done.stderr


def test_simulate_serves_and_says_where(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "llmshield", "simulate", "--listen", "127.0.0.1:0", "--set", "tokens=3"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        url = process.stdout.readline().split()[-1]
        with urllib.request.urlopen(f"{url}/v1/models", timeout=5) as reply:
            assert 200 == reply.status
    finally:
        process.terminate()
        process.wait(10)
        process.stdout.close()


def test_the_manual_and_wrong_directives(tmp_path: Path) -> None:
    assert "retry_after" in run("simulate", "--manual", cwd=tmp_path).stdout
    wrong = run("simulate", "--listen", "127.0.0.1:0", "--set", "nonsense=1", cwd=tmp_path)

    assert 2 == wrong.returncode
    assert "nonsense" in wrong.stderr


@pytest.mark.parametrize("words", [("serve", "-p"), ("scan", "--plugin", "pii", "-p")])
@pytest.mark.parametrize(("name", "why"), [("missing.yaml", "No such file"), (".", "Is a directory")])
def test_a_policy_that_cannot_be_read_is_wrong_usage_in_one_line(
    tmp_path: Path, words: tuple[str, ...], name: str, why: str
) -> None:
    done = run(*words, name, cwd=tmp_path)

    assert 2 == done.returncode, done.stderr
    assert 1 == len(done.stderr.splitlines()), done.stderr
    assert f"{name}: {why}" in done.stderr


def test_a_taken_port_of_the_simulator_is_told(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = run("simulate", "--listen", f"127.0.0.1:{taken.getsockname()[1]}", cwd=tmp_path)

    assert 1 == done.returncode, done.stderr
    assert 1 == len(done.stderr.splitlines()), done.stderr
    assert "Address already in use. Free it" in done.stderr
