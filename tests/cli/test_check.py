"""`llmshield check` and `llmshield schema`: exit status and what is written, as a program would call them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from llmshield.cli import check as check_module
from llmshield.cli import schema as schema_module

CLEAN = "version: 1\n"
WARNING = "version: 1\nidentify: ['header:x-t']\n"
ERROR = "version: 1\nserverr: {}\n"


@pytest.fixture
def run(tmp_path: Path) -> Any:
    app = typer.Typer()
    check_module.register(app)
    schema_module.register(app)

    def run(text: str | None, *options: str) -> Any:
        path = tmp_path / "policy.yaml"
        if text is not None:
            path.write_text(text)
        return CliRunner().invoke(app, ["check", str(path), *options])

    run.app = app  # type: ignore[attr-defined]
    return run


@pytest.mark.parametrize(
    ("text", "options", "status"),
    [
        (CLEAN, (), 0),
        (WARNING, (), 1),
        (WARNING, ("--allow-warnings",), 0),
        (ERROR, (), 1),
        (ERROR, ("--allow-warnings",), 1),
        (None, (), 2),
        (CLEAN, ("--format", "xml"), 2),
        (CLEAN, ("--nope",), 2),
    ],
)
def test_status(text: str | None, options: tuple[str, ...], status: int, run: Any) -> None:
    assert status == run(text, *options).exit_code


def test_directory_is_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check_module.check(tmp_path) == 2
    assert "Is a directory" in capsys.readouterr().err


def test_text(run: Any) -> None:
    out = run(ERROR).output

    assert "policy.yaml:2:1: error LS201: serverr: unknown key 'serverr'" in out
    assert "  serverr: {}" in out
    assert "hint: did you mean 'server'?" in out
    assert "1 error, 0 warnings" in out
    assert "clean (0 providers, 0 routes, 0 plugins) sha256:" in run(CLEAN).output


def test_long_lines_and_markup_stay_as_they_are(run: Any) -> None:
    """What a policy says is no markup for the terminal, and no line is broken for its width."""
    out = run("version: 1\n'[bold]x[/bold]" + "y" * 90 + "': 1\n").output

    assert "[bold]x[/bold]" in out
    assert "y" * 40 in out.splitlines()[0]


def test_json(run: Any) -> None:
    result = run(ERROR, "--format", "json")
    out = json.loads(result.output)

    assert (out["usable"], out["hash"]) == (False, None)
    assert [
        (item["code"], item["severity"], item["line"], item["column"], item["path"])
        for item in out["findings"]
    ] == [("LS201", "error", 2, 1, "serverr")]
    assert json.loads(run(CLEAN, "--format", "json").output)["findings"] == []


def test_github(run: Any) -> None:
    line = run(ERROR, "--format", "github").output.strip()

    assert line.startswith("::error file=")
    assert line.endswith(
        ",line=2,col=1,title=LS201::serverr: unknown key 'serverr'%0Ahint: did you mean 'server'?"
    )


def test_secrets(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    text = "version: 1\nproviders: {a: {dialect: openai, api_key: env://NO_SUCH_KEY}}\n"

    assert run(text).exit_code == 0
    assert run(text, "--secrets").exit_code == 1


def test_schema(run: Any) -> None:
    result = CliRunner().invoke(run.app, ["schema"])

    assert result.exit_code == 0
    assert json.loads(result.output)["properties"]["version"]["const"] == 1
