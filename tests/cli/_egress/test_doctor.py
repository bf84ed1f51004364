"""`llmshield egress doctor` as a user types it; what it finds is in tests/egress/test_doctor.py."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from llmshield.cli import build_app
from llmshield.egress.ca import Store


def run(*words: str) -> Result:
    return CliRunner().invoke(build_app("egress"), ["egress", "doctor", *words])


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path


def test_without_anything_it_says_what_to_do() -> None:
    done = run("--listen", "127.0.0.1:1")

    assert done.exit_code == 1
    for said in ("ca init", "ca export", "egress run", "openai"):
        assert said in done.stdout


def test_as_json_for_one_client() -> None:
    Store().init(["api.openai.com"])
    done = run("--listen", "127.0.0.1:1", "--client", "curl", "--format", "json")

    found = json.loads(done.stdout)
    assert done.exit_code == 1
    assert found["good"] is False
    assert [each["client"] for each in found["clients"]] == ["curl"]
    assert {check["name"]: check["state"] for check in found["checks"]}["authority"] == "good"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--client", "netscape"), "node-fetch"),
        (("--pid", "4194305"), "--pid"),
        (("--policy", "none.yaml"), "none.yaml"),
        (("--listen", "nonsense"), "HOST:PORT"),
    ],
)
def test_wrong_usage(words: tuple[str, ...], said: str) -> None:
    done = run(*words)

    assert done.exit_code == 2
    assert said in done.stderr
