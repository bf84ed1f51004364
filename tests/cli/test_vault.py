"""`llmshield vault` as a user runs it: standard input to standard output, one line and a status when it fails."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.fernet import Fernet
from typer.testing import CliRunner, Result

from llmshield import vault
from llmshield.cli import build_app
from llmshield.sealing import KeyRing, read_key

OLD, NEW = vault.new_key(), vault.new_key()
KEY = "sk-CANARY0123456789abcdef"


@pytest.fixture(autouse=True)
def _keys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(vault.VARIABLE, NEW)
    monkeypatch.setenv(vault.PREVIOUS, OLD)
    monkeypatch.delenv("LLMSHIELD_ENV", raising=False)
    monkeypatch.chdir(tmp_path)


def run(*words: str, text: str = "") -> Result:
    return CliRunner().invoke(build_app("vault"), ["vault", *words], input=text)


def out(*words: str, text: str = "") -> str:
    result = run(*words, text=text)
    assert 0 == result.exit_code, result.output + repr(result.exception)
    return result.stdout.rstrip("\n")


def ring(key: str = NEW) -> KeyRing:
    return KeyRing(read_key(key))


def fernet(key: str = OLD) -> str:
    return "enc://" + Fernet(base64.urlsafe_b64encode(read_key(key))).encrypt(KEY.encode()).decode()


def test_key_is_a_new_one_each_time() -> None:
    made = {out("key") for _ in range(3)}

    assert 3 == len(made)
    assert [""] * 3 == [vault.weakness(read_key(key)) for key in made]


def test_seal_and_unseal() -> None:
    reference = out("seal", "--provider", "openai", text=f"{KEY}\n")

    assert reference.startswith("enc://v1.openai.")
    assert KEY not in reference
    assert (
        KEY == out("unseal", text=reference) == out("unseal", "--provider", "openai", text=f"{reference}\n")
    )
    assert KEY == out("unseal", text=reference.removeprefix("enc://"))
    assert KEY == out("unseal", "--provider", "openai", text=out("seal", text=KEY))
    assert KEY == out("unseal", text=fernet())


def test_rotate_one_or_a_whole_policy() -> None:
    old = ring(OLD).seal_reference(KEY, "openai")
    for text in (old, old.removeprefix("enc://")):
        rotated = out("rotate", text=text)
        assert KEY == ring().unseal_reference(rotated, "openai")
        assert rotated.startswith("enc://") is text.startswith("enc://")

    policy = f"# a policy\nproviders:\n  openai: {{api_key: '{old}'}}\n  b: {{api_key: {fernet()}}} # keep\n  c: enc://k#c\n"
    rotated = run("rotate", text=policy).stdout
    one, two = (line.split("api_key: ")[1].split("}")[0].strip("'") for line in rotated.splitlines()[2:4])
    assert policy.replace(old, "").replace(fernet()[:5], "").splitlines()[0] == rotated.splitlines()[0]
    assert KEY == ring().unseal_reference(one, "openai") == ring().unseal_reference(two)
    assert rotated.replace(one, old).splitlines()[4] == "  c: enc://k#c"
    assert "# keep" in rotated

    bound = out("rotate", "--provider", "b", text=fernet())
    assert bound.startswith("enc://v1.b.")


def test_a_key_file() -> None:
    assert "enc://keys#openai" == out("seal", "--provider", "openai", "--file", "keys", text=KEY)
    out("seal", "--provider", "b", "--file", "keys", text="sk-b")

    assert (
        KEY
        == out("unseal", "--file", "keys", "--provider", "openai")
        == out("unseal", text="enc://keys#openai")
    )
    result = run("rotate", "--file", "keys")
    assert (0, "") == (result.exit_code, result.stdout)
    assert f"2 keys in keys are sealed with {ring().id} now" in result.stderr
    assert 0o600 == Path("keys").stat().st_mode & 0o777


@pytest.mark.parametrize(
    ("words", "text", "said"),
    [
        (["seal"], "", "standard input is empty"),
        (["seal"], f"{KEY}\n{KEY}", "several lines"),
        (["seal", "--provider", "a b"], KEY, "expected letters"),
        (["seal", "--file", "keys"], KEY, "say --provider"),
        (["seal", "--file", "no/keys", "--provider", "p"], KEY, "no/keys: it can't be written: No such file"),
        (["unseal"], "", "expected|found another form"),
        (["unseal"], "enc://v1.openai.00.AA", "changed or cut"),
        (
            ["unseal", "--provider", "b"],
            ring().seal_reference(KEY, "openai"),
            "sealed for 'openai', not for 'b'",
        ),
        (["unseal"], KeyRing(os.urandom(32)).seal_reference(KEY), "LLMSHIELD_PREVIOUS_KEYS"),
        (["unseal", "--file", "keys"], "", "say --provider"),
        (["unseal", "--file", "keys", "--provider", "p"], "", "No such file"),
        (["rotate"], "nothing sealed here\n", "there is no sealed reference"),
        (["rotate"], f"a: {ring().seal_reference(KEY, 'a')[:-1]}", "changed or cut|changed, or sealed"),
        (["rotate", "--provider", "b"], ring().seal_reference(KEY, "openai"), "not for 'b'"),
        (["rotate", "--file", "keys"], "", "No such file"),
    ],
)
def test_a_failure_is_one_line(words: list[str], text: str, said: str) -> None:
    """In a process of its own: no traceback, nothing on standard output, nothing of the key."""
    process = subprocess.run(
        [sys.executable, "-m", "llmshield", "vault", *words], input=text, capture_output=True, text=True
    )

    assert 1 == process.returncode
    assert "" == process.stdout
    assert 1 == len(process.stderr.splitlines())
    assert any(part in process.stderr for part in said.split("|")), process.stderr
    assert "CANARY" not in process.stderr


def test_without_a_master_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(vault.VARIABLE)
    result = run("seal", text=KEY)

    assert 1 == result.exit_code
    assert "LLMSHIELD_SECRET_KEY is not set; make a key with `llmshield vault key`" in str(result.exception)


def checked(**keys: str) -> tuple[int, str]:
    lines = [f"  {name}: {{dialect: openai, api_key: '{reference}'}}" for name, reference in keys.items()]
    Path("policy.yaml").write_text("\n".join(["version: 1", "providers:", *lines, ""]))
    result = run("check", "--policy", "policy.yaml")
    assert "CANARY" not in result.output
    return result.exit_code, result.stdout


def test_check_good_and_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    out("seal", "--provider", "f", "--file", "keys", text=KEY)
    monkeypatch.setenv("PROVIDER_KEY", KEY)
    good = {"a": ring().seal_reference(KEY, "a"), "f": "enc://keys#f", "e": "env://PROVIDER_KEY"}
    code, said = checked(**good)
    assert 0 == code
    assert 3 == said.count("good ")
    assert "LLMSHIELD_PREVIOUS_KEYS: no key of this policy needs it any more" in said

    code, said = checked(
        old=ring(OLD).seal_reference(KEY, "old"), token=fernet(), any=ring().seal_reference(KEY), **good
    )
    assert 0 == code
    assert (
        "providers.old.api_key: sealed with a previous key; `llmshield vault rotate --provider old`" in said
    )
    assert "providers.token.api_key: a Fernet token is good for any provider; `llmshield vault rotate" in said
    assert "providers.any.api_key: sealed for any provider" in said
    assert "any more" not in said


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        (ring().seal_reference(KEY, "other"), "sealed for 'other', not for 'p'"),
        (KeyRing(os.urandom(32)).seal_reference(KEY, "p"), "LLMSHIELD_PREVIOUS_KEYS"),
        ("env://NO_SUCH_VARIABLE", "export it"),
        ("enc://keys#p", "No such file"),
    ],
)
def test_check_bad(reference: str, words: str) -> None:
    code, said = checked(p=reference)

    assert 1 == code
    assert "bad     providers.p.api_key: " in said
    assert words in said


def test_check_a_weak_or_missing_master_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(vault.VARIABLE, base64.b64encode(bytes(32)).decode())
    assert "is weak" in checked(p="env://HOME")[1]
    monkeypatch.delenv(vault.VARIABLE)
    assert 1 == checked(p=ring().seal_reference(KEY, "p"))[0]
    assert 0 == checked(p="env://HOME")[0]
    monkeypatch.setenv("LLMSHIELD_ENV", "production")
    assert 1 == checked(p="env://HOME")[0]


def test_keys_in_the_store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path}/book.db"
    result = run("seal", "--provider", "p", "--store", store, text=KEY)
    assert (0, "") == (result.exit_code, result.stdout)
    assert 1 == run("seal", "--store", store, text=KEY).exit_code
    Path("policy.yaml").write_text(
        f"version: 1\nserver: {{store: '{store}'}}\nproviders: {{p: {{dialect: openai, api_key: env://HOME}}}}\n"
    )

    def said() -> str:
        result = run("check", "--policy", "policy.yaml")
        return f"{result.exit_code} {result.stdout}"

    assert said().startswith("0 ")
    assert "good    providers.p: its key is in the store" in said()
    assert "take it away" in said()
    older, newer = os.environ[vault.VARIABLE], vault.new_key()
    monkeypatch.setenv(vault.VARIABLE, newer)
    assert said().startswith("1 ")
    assert "its key in the store: it was sealed with the key" in said()
    monkeypatch.setenv(vault.PREVIOUS, older)
    assert "sealed with a previous key; `llmshield vault rotate --store`" in said()
    assert "take it away" not in said()
    assert "1 keys in the store are sealed with" in run("rotate", "--store", store).stderr
    assert "take it away" in said()
    assert 0 == run("revoke", "p", "--policy", "policy.yaml").exit_code
    assert "advice  providers.p: revoked; `llmshield vault revoke p --lift` ends it" in said()
    assert "CANARY" not in said()


def test_check_reads_a_policy() -> None:
    assert 2 == run("check", "--policy", "nowhere.yaml").exit_code
