"""`llmshield privacy`: usage and failures; what it does is in tests/holders."""

import subprocess
import sys

import pytest


def llmshield(*words, cwd):
    return subprocess.run(
        [sys.executable, "-m", "llmshield", *words], capture_output=True, text=True, cwd=cwd
    )


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "policy.yaml").write_text("version: 1\naudit: {sink: 'file://audit.jsonl'}\n")
    return tmp_path


@pytest.mark.parametrize("command", ["export", "erase"])
def test_usage(folder, command):
    assert llmshield("privacy", command, cwd=folder).returncode == 2
    missing = llmshield("privacy", command, "--user", "a", "--policy", "nowhere.yaml", cwd=folder)
    assert (missing.returncode, len(missing.stderr.splitlines())) == (2, 1)


@pytest.mark.parametrize("words", [["export"], ["erase"], ["erase", "--yes"]])
def test_where_nobody_is_kept_there_is_nothing_to_do(folder, words):
    done = llmshield("privacy", words[0], "--user", "alice", *words[1:], cwd=folder)

    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("words", [["export"], ["erase", "--yes"]])
def test_what_was_not_done_is_a_failure(folder, words):
    """There are people and no key: nobody may be told that somebody was erased."""
    (folder / "audit.people").mkdir()

    done = llmshield("privacy", words[0], "--user", "alice", *words[1:], cwd=folder)

    assert done.returncode == 1
    assert "can't be hashed" in done.stderr
    assert "Traceback" not in done.stderr
