"""`llmshield vault rotate --policy`: people's keys move to the new master key, and the old one can go."""

import time

import pytest
from typer.testing import CliRunner

from llmshield import vault
from llmshield.cli import build_app
from llmshield.transcripts import Kept, Told, Transcripts

POLICY = """
version: 1
providers: {a: {dialect: openai, base_url: "http://127.0.0.1:9/v1"}}
plugins: [{use: transcripts}, {use: pii}]
audit: {sink: "file://audit/audit.jsonl"}
"""


@pytest.fixture
def old(monkeypatch, tmp_path):
    """Alice has a transcript under the old key, which is a previous one now."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "policy.yaml").write_text(POLICY)
    monkeypatch.setenv("LLMSHIELD_SECRET_KEY", old := vault.new_key())
    kept = Transcripts(Kept("sqlite:///transcripts.db"))
    kept.open()
    kept.put([Told("acme", "alice", "1", time.time() + 999, 0, {}, [["user", "/", "words"]])])
    kept.close()
    monkeypatch.setenv("LLMSHIELD_SECRET_KEY", vault.new_key())
    monkeypatch.setenv("LLMSHIELD_PREVIOUS_KEYS", old)
    return old


def run(*words):
    return CliRunner().invoke(build_app(), list(words))


def test_after_it_the_old_key_can_go(old, monkeypatch):
    rotated = run("vault", "rotate", "--policy", "policy.yaml")
    assert rotated.exit_code == 0, rotated.output
    assert "transcripts: the keys of 1 people are sealed with" in rotated.stderr
    assert "the keys of 0 people" in run("vault", "rotate", "--policy", "policy.yaml").stderr

    monkeypatch.delenv("LLMSHIELD_PREVIOUS_KEYS")
    exported = run("privacy", "export", "--user", "alice")
    assert exported.exit_code == 0
    assert '"words"' in exported.stdout


def test_without_the_old_key_it_says_so(old, monkeypatch):
    monkeypatch.delenv("LLMSHIELD_PREVIOUS_KEYS")
    rotated = run("vault", "rotate", "--policy", "policy.yaml")
    assert rotated.exit_code == 1
    assert "put that key into LLMSHIELD_PREVIOUS_KEYS" in rotated.stderr
    assert old not in rotated.output
