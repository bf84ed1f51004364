"""The command itself: every file a command, nothing imported that is not needed, no traceback with keys."""

import subprocess
import sys

import pytest
from typer.testing import CliRunner

from llmshield import __version__, cli
from llmshield.errors import ShieldError

PROBE = "import sys; sys.argv = ['llmshield', *sys.argv[1:]]; from llmshield.cli import main; main()"


def run(*words):
    return subprocess.run([sys.executable, "-c", PROBE, *words], capture_output=True, text=True, check=False)


def test_every_file_is_a_command_of_its_name():
    out = CliRunner().invoke(cli.build_app(), ["--help"]).output

    for name in cli.commands():
        assert f" {name} " in out


@pytest.mark.parametrize("name", cli.commands())
def test_one_command_alone_keeps_its_name(name):
    result = CliRunner().invoke(cli.build_app(name), [name, "--help"])

    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("words", [["--version"], ["-V"]])
def test_version(words):
    result = run(*words)

    assert result.stdout == f"llmshield {__version__}\n"
    assert result.returncode == 0


def test_version_loads_neither_typer_nor_the_engine():
    """A third of a second is all it may take; importing these takes longer."""
    code = (
        PROBE.replace("main()", "main()\n").rstrip()
        + "\nprint(*sorted({m.split('.')[0] for m in sys.modules}))"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", code, "--version"], capture_output=True, text=True, check=True
    ).stdout

    assert not {"typer", "rich", "aiohttp", "uvicorn", "pydantic", "genai_prices"} & set(loaded.split())


def test_an_unknown_command_is_a_usage_error():
    result = run("serv")

    assert result.returncode == 2
    assert "serve" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_failure_is_one_line(monkeypatch, capsys):
    def fail(command):
        raise ShieldError("LLMSHIELD_SECRET_KEY is not set; make one with `llmshield vault key`")

    monkeypatch.setattr(cli, "build_app", lambda command: lambda: fail(command))
    monkeypatch.setattr(sys, "argv", ["llmshield", "x"])
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)

    with pytest.raises(SystemExit) as ended:
        cli.main()

    assert ended.value.code == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_a_crash_is_told_without_keys():
    code = (
        "from llmshield import cli\n"
        "import sys\n"
        "def crash():\n"
        "    raise RuntimeError('x-api-key: hunter2 is wrong')\n"
        "cli.build_app = lambda command: crash\n"
        "sys.argv = ['llmshield', 'x']\n"
        "cli.main()\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert result.returncode == 1
    assert "RuntimeError: x-api-key: [redacted] is wrong" in result.stderr
    assert "hunter2" not in result.stderr
