"""What other programs get of our environment; and that the ones we start get no more."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from llmshield.child_environment import OURS, remember_environment, without_ours, without_secrets
from llmshield.egress import firewall, interpreter
from llmshield.redact import forget, redact, remember

CANARY = "CANARY-x8Jq2LmZ7vRt5Yw1Nc4Kp9Sd3Fg6Hb0A"
PLAIN = {
    "PATH": "/usr/bin",
    "LANG": "C.UTF-8",
    "TERM": "xterm",
    "HOSTNAME": "box-1",
    "EDITOR": "vi",
    "MONKEY": "banana",
}
SECRET = {
    "OPENAI_API_KEY": "x", "GITHUB_TOKEN": "y", "PGPASSWORD": "z", "AWS_SECRET_ACCESS_KEY": "w", "SENTRY_DSN": "v",
    "SIGNING_KEY": "u", "INNOCENT": "ghp_x8Jq2LmZ7vRt5Yw1Nc4Kp9Sd3Fg6Hb0AaQeU", "DATABASE_URL": "postgres://u:pw0rd@db/x",
    "KNOWN": f"a {CANARY} b", "LLMSHIELD_SECRET_KEY": "t",
}  # fmt: skip


@pytest.fixture(autouse=True)
def _known():
    remember(CANARY)
    yield
    forget(CANARY)


def test_tools_get_no_secret() -> None:
    assert without_secrets({**PLAIN, **SECRET}) == PLAIN


def test_commands_of_the_user_get_all_but_ours() -> None:
    given = {**PLAIN, **SECRET, **dict.fromkeys(OURS, CANARY)}

    assert without_ours(given) == {name: value for name, value in given.items() if name not in OURS}


def test_what_is_started_finds_no_canary(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The environment as the kernel shows it for a helper's process and for a tool of the system."""
    for name in (*OURS, "OPENAI_API_KEY", "SOME_NAME"):
        monkeypatch.setenv(name, CANARY)
    shown = subprocess.run(
        [sys.executable, "-c", "print(open('/proc/self/environ').read())"], env=interpreter.clean(),
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    tool = tmp_path / "nft"
    tool.write_text(f"#!{sys.executable}\nprint(open('/proc/self/environ').read())\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    asked = firewall._ask(["nft", "list"]).stdout

    assert CANARY not in shown
    assert "PATH=" in shown
    assert CANARY not in asked
    assert str(tmp_path) in asked


def test_variables_named_like_secrets_are_hidden_from_now_on() -> None:
    values = {"MY_TOKEN": "CANARY-aaa-1111-bbb", "KEYS": "x", "LLMSHIELD_PREVIOUS_KEYS": "CANARY-ccc-2222,CANARY-ddd-3333",
              "OTHER_KEY": "file:///run/secrets/key9", "A_PASSWORD": "/run/secrets/pw9", "EDITOR": "CANARY-vi-4444-eee"}  # fmt: skip
    remember_environment(values)
    try:
        hidden = {
            value
            for value in " ".join(values.values()).replace(",", " ").split()
            if redact(f"<{value}>") == "<[redacted]>"
        }
    finally:
        for value in (
            "CANARY-aaa-1111-bbb",
            "CANARY-ccc-2222,CANARY-ddd-3333",
            "CANARY-ccc-2222",
            "CANARY-ddd-3333",
        ):
            forget(value)

    assert hidden == {"CANARY-aaa-1111-bbb", "CANARY-ccc-2222", "CANARY-ddd-3333"}
