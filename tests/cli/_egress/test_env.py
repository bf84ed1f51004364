"""`llmshield egress env`: what a shell gets, and that its files are those of today."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from llmshield.cli import build_app
from llmshield.egress import trust
from llmshield.egress.ca import Store


def run(*words: str) -> Result:
    return CliRunner().invoke(build_app("egress"), ["egress", "env", *words])


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("JAVA_TOOL_OPTIONS", raising=False)
    store = Store()
    store.init(["api.openai.com"])
    return store


def test_trust_alone_or_with_the_proxy(store: Store) -> None:
    trusted, proxied = run(), run("--proxy", "127.0.0.1:8080")

    assert "export SSL_CERT_FILE=" in trusted.stdout
    assert "PROXY" not in trusted.stdout
    assert "export HTTPS_PROXY=http://127.0.0.1:8080\n" in proxied.stdout
    assert proxied.stdout.count("JAVA_TOOL_OPTIONS") == 1


def test_in_a_container_the_paths_are_those_of_the_volume(store: Store) -> None:
    found = json.loads(run("--shell", "json", "--dir", "out", "--at", "/etc/trust").stdout)

    assert found["SSL_CERT_FILE"] == "/etc/trust/bundle.pem"
    assert Path("out/bundle.pem").is_file()


def test_stale_files_are_written_anew(store: Store) -> None:
    run()
    before = trust.certificates_in(store.public / trust.CA)
    store.rotate(["api.openai.com"])
    (store.public / trust.TRUSTSTORE).touch()
    run()

    assert [*before] != store.roots()
    assert [*trust.certificates_in(store.public / trust.CA)] == store.roots()
    (store.public / trust.BUNDLE).unlink()
    run()
    assert (store.public / trust.BUNDLE).is_file()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--shell", "tcsh"), "powershell"),
        (("--proxy", "nowhere"), "HOST:PORT"),
        (("--proxy", "127.0.0.1:99999"), "--proxy"),
    ],
)
def test_wrong_usage(store: Store, words: tuple[str, ...], said: str) -> None:
    done = run(*words)

    assert done.exit_code == 2
    assert said in done.stderr
