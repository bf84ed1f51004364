"""`llmshield egress ca`, and `llmshield ca`, as a user types them."""

import json
import ssl
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from llmshield.cli import build_app
from llmshield.errors import ShieldError

POLICY = """\
version: 1
providers: {openai: {dialect: openai, base_url: "https://api.openai.com/v1", api_key: "env://KEY"}}
routes: [{match: {any: true}, to: [openai]}]
egress: {hosts: {HOSTS}}
"""


def run(*words: str) -> Result:
    """Through the group, with an error told as the command would."""
    done = CliRunner().invoke(build_app(words[0]), list(words))
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        assert isinstance(done.exception, ShieldError), done.exception
    return done


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    write_policy(tmp_path, "api.openai.com")
    return tmp_path


def write_policy(folder: Path, *hosts: str) -> None:
    text = POLICY.replace("HOSTS", ", ".join(f"{host}: openai" for host in hosts))
    (folder / "policy.yaml").write_text(text)


def keys_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and b"PRIVATE KEY" in path.read_bytes()]


def test_the_way_through_as_a_user_goes_it(folder: Path) -> None:
    words = [sys.executable, "-m", "llmshield", "egress", "ca"]

    def say(*more: str) -> str:
        return subprocess.run([*words, *more], capture_output=True, text=True, check=True).stdout

    assert "made: it may sign for api.openai.com" in say("init", "--policy", "policy.yaml")
    assert "is kept" in say("init", "--policy", "policy.yaml")
    assert "bundle.pem" in say("export", "--dir", "out")
    assert sorted(path.name for path in folder.joinpath("out").iterdir()) == [
        "bundle.pem",
        "ca.crt",
        "truststore.p12",
    ]
    key = folder / "state" / "llmshield" / "egress" / "ca" / "current" / "key.pem"
    assert keys_in(folder) == [key]
    assert key.stat().st_mode & 0o777 == 0o600
    assert "rotation    none" in say("show")


def test_without_a_policy_hosts_are_named(folder: Path) -> None:
    (folder / "policy.yaml").unlink()

    done = run("ca", "init")
    assert "egress.hosts" in str(done.exception)
    assert run("ca", "init", "--host", "api.openai.com").exit_code == 0
    assert run("ca", "init", "--policy", "none.yaml").exit_code == 2


def test_a_host_more_in_the_policy_is_told_and_a_rotation_helps(folder: Path) -> None:
    run("ca", "init")
    write_policy(folder, "api.openai.com", "eu.example.com")

    for words in (("ca", "init"), ("ca", "show")):
        done = run(*words)
        assert done.exit_code == 1
        assert "eu.example.com" in done.output
        assert "ca rotate" in done.output
    assert "not used yet" in run("ca", "rotate").stdout
    run("ca", "export", "--dir", "out")
    assert (folder / "out" / "ca.crt").read_bytes().count(b"BEGIN CERTIFICATE") == 2
    assert "signs now" in run("ca", "rotate", "--switch").stdout
    assert run("ca", "show").exit_code == 0
    assert "once more" in run("ca", "rotate", "--finish").stdout
    run("ca", "export", "--dir", "out")
    assert (folder / "out" / "ca.crt").read_bytes().count(b"BEGIN CERTIFICATE") == 1


def test_a_rotation_can_be_given_up(folder: Path) -> None:
    run("ca", "init")
    run("ca", "rotate")
    assert "next" in run("ca", "show").stdout

    assert "not touched" in run("ca", "rotate", "--abandon").stdout
    assert run("ca", "rotate", "--switch", "--finish").exit_code == 2
    assert "No rotation was started" in str(run("ca", "rotate", "--switch").exception)


def test_show_before_init(folder: Path) -> None:
    done = run("ca", "show")

    assert done.exit_code == 1
    assert "ca init" in done.stdout


def test_a_half_missing_one_is_an_error_everywhere(folder: Path) -> None:
    run("ca", "init")
    (folder / "state/llmshield/egress/ca/current/key.pem").unlink()

    for words in (("init",), ("export", "--dir", "out"), ("show",), ("rotate",), ("env",)):
        done = run("ca", *words)
        assert done.exit_code == 1, words
        assert "lacks key.pem" in str(done.exception), words
    assert not (folder / "out").exists()


def test_nothing_is_exported_into_the_folder_of_keys(folder: Path) -> None:
    run("ca", "init")

    assert run("ca", "export", "--dir", "state/llmshield/egress/ca/current").exit_code == 2


def test_the_policys_folder_is_used(folder: Path) -> None:
    policy = folder / "policy.yaml"
    policy.write_text(policy.read_text().replace("egress: {", "egress: {ca: keys/here, "))

    run("ca", "init")
    assert keys_in(folder) == [folder / "keys" / "here" / "current" / "key.pem"]


def test_env_is_reached_by_three_names_and_writes_what_it_names(folder: Path) -> None:
    run("ca", "init")

    said = {
        run(*words, "--shell", "json").stdout
        for words in (("ca", "env"), ("egress", "ca", "env"), ("egress", "env"))
    }
    assert len(said) == 1
    found = json.loads(said.pop())
    assert len(ssl.create_default_context(cafile=found["SSL_CERT_FILE"]).get_ca_certs()) > 1
    assert Path(found["NODE_EXTRA_CA_CERTS"]).is_file()
