"""`llmshield egress report` as a user types it: the three sources, one after the other."""

import csv
import io
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from llmshield import clock
from llmshield.cli import build_app
from llmshield.egress import seen

POLICY = """\
version: 1
providers: {openai: {dialect: openai, api_key: "env://KEY"}}
routes: [{match: {any: true}, to: [openai]}]
egress: {hosts: {api.openai.com: openai}}
audit: {sink: "file://audit.jsonl"}
"""
RECORD = {"kind": "call", "time": "2026-11-20T11:00:00Z", "provider": "openai", "model": "gpt-5.1", "tenant": "acme",
          "action": "allow", "input_tokens": 3, "output_tokens": 4, "cost_usd": "0.000000000001"}  # fmt: skip


def run(*words: str) -> Result:
    return CliRunner().invoke(build_app("egress"), ["egress", "report", "--no-live", *words])


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    (tmp_path / "policy.yaml").write_text(POLICY)
    return tmp_path


@pytest.fixture
def used(folder: Path) -> None:
    kept = seen.Seen()
    kept.add([["intercepted", "api.openai.com", "10.0.0.7", 3], ["passed", "api.mistral.ai", "10.0.0.8", 1],
              ["passed", "example.org", "10.0.0.8", 1]], clock.now() - 7200)  # fmt: skip
    kept.write()
    (folder / "audit.jsonl").write_text(json.dumps(RECORD) + "\n")


def test_before_anything_happened() -> None:
    done = run()

    assert done.exit_code == 0
    assert "Nobody was seen" in done.stdout


@pytest.mark.usefixtures("used")
def test_who_spoke_to_whom_and_what_it_cost() -> None:
    found = json.loads(run("--format", "json").stdout)

    assert found["shadow"] == ["api.mistral.ai"]
    assert [each["host"] for each in found["hosts"]] == ["api.mistral.ai", "api.openai.com"]
    assert [(each["model"], each["cost_usd"]) for each in found["spend"]] == [("gpt-5.1", "0.000000000001")]
    text = run().stdout
    assert all(word in text for word in ("10.0.0.7", "acme", "Not in egress.hosts"))
    assert {row["kind"] for row in csv.DictReader(io.StringIO(run("--format", "csv").stdout))} == {
        "host",
        "spend",
    }


@pytest.mark.usefixtures("used")
def test_narrower_and_wider() -> None:
    assert "example.org" in run("--all").stdout
    assert "api.openai.com" not in run("--since", "1h").stdout
    assert "api.openai.com" in run("--since", "3h").stdout


@pytest.mark.usefixtures("used")
def test_strict_is_for_pipelines() -> None:
    assert run("--strict").exit_code == 1
    assert run("--strict", "--since", "1h").exit_code == 0


def test_live_connections_are_looked_at() -> None:
    done = CliRunner().invoke(build_app("egress"), ["egress", "report", "--format", "json"])

    assert done.exit_code == 0
    assert isinstance(json.loads(done.stdout)["programs"], list)


@pytest.mark.parametrize("words", [("--since", "soon"), ("--policy", "none.yaml"), ("--format", "xml")])
def test_wrong_usage(words: tuple[str, ...]) -> None:
    assert run(*words).exit_code == 2
