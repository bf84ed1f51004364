"""`llmshield ca` is `llmshield egress ca`; what it does is in tests/cli/_egress/test_ca.py."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from llmshield.cli import build_app


def test_both_names_are_the_same_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))

    made = CliRunner().invoke(build_app("ca"), ["ca", "init", "--host", "api.openai.com"])
    again = CliRunner().invoke(build_app("egress"), ["egress", "ca", "init", "--host", "api.openai.com"])
    assert "made" in made.stdout
    assert "is kept" in again.stdout
