"""`llmshield reveal`, as it is typed."""

from __future__ import annotations

import base64
import os
import subprocess
import sys

import pytest

from llmshield import vault
from llmshield_plugins.pii.operators import encrypted


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> str:
    made = base64.urlsafe_b64encode(os.urandom(32)).decode()
    monkeypatch.setenv(vault.VARIABLE, made)
    monkeypatch.delenv(vault.PREVIOUS, raising=False)
    return made


def reveal(text: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "llmshield", "reveal"], input=text, capture_output=True, text=True, check=False
    )


def test_values_come_back_for_the_holder_of_the_key(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text = f"ask {encrypted('EMAIL_ADDRESS', 'ann@corp.example')} ü\n"

    done = reveal(text)
    assert (done.returncode, done.stdout) == (0, "ask ann@corp.example ü\n")

    monkeypatch.setenv(vault.VARIABLE, base64.urlsafe_b64encode(os.urandom(32)).decode())
    refused = reveal(text)
    assert refused.returncode == 1
    assert refused.stdout == ""
    assert "LLMSHIELD_PREVIOUS_KEYS" in refused.stderr
    assert "Traceback" not in refused.stderr
