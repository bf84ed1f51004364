"""`enc://`: sealed keys in a policy and in a key file; whose they are, and what is told when they do not open."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.fernet import Fernet

from llmshield import key_files, redact, resolvers, vault
from llmshield.errors import SecretError

CANARY = "CANARY-6e1f77aa02"


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv(vault.VARIABLE, vault.new_key())
    monkeypatch.delenv(vault.PREVIOUS, raising=False)
    yield
    redact.forget(CANARY)


def put(path: Path, **keys: str) -> None:
    def edit(entries: dict[str, str]) -> None:
        entries.update({name: vault.ring().seal_reference(secret, name) for name, secret in keys.items()})

    key_files.change(path, vault.ring(), edit, make=True)


def test_in_the_policy(tmp_path: Path) -> None:
    bound = vault.ring().seal_reference(CANARY, "openai")

    assert CANARY == resolvers.resolve(bound, tmp_path, "openai") == resolvers.resolve(bound, tmp_path)
    assert CANARY == resolvers.resolve(vault.ring().seal_reference(CANARY), tmp_path, "anybody")
    token = Fernet(base64.urlsafe_b64encode(vault.read_master())).encrypt(CANARY.encode()).decode()
    assert CANARY == resolvers.resolve(f"enc://{token}", tmp_path, "openai")
    assert resolvers.warn(bound, tmp_path) == ""
    assert CANARY not in redact.redact(f"the provider says {CANARY} is wrong")


def test_in_a_key_file(tmp_path: Path) -> None:
    put(tmp_path / "keys", openai=CANARY, other="x")

    for owner in ("openai", "openai-eu", None):  # the policy names the entry, so whoever names it may have it
        assert CANARY == resolvers.resolve("enc://keys#openai", tmp_path, owner)
    assert CANARY == resolvers.resolve(f"enc://{tmp_path}/keys#openai", Path("/nowhere"))
    assert resolvers.warn("enc://keys#openai", tmp_path) == ""
    (tmp_path / "keys").chmod(0o644)
    assert "chmod 600" in resolvers.warn("enc://keys#openai", tmp_path)


def test_a_rotated_file_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "keys", openai=CANARY)
    monkeypatch.setenv(vault.PREVIOUS, base64.b64encode(vault.read_master()).decode())
    monkeypatch.setenv(vault.VARIABLE, vault.new_key())
    assert CANARY == resolvers.resolve("enc://keys#openai", tmp_path)

    key_files.rotate(tmp_path / "keys", vault.ring())
    monkeypatch.delenv(vault.PREVIOUS)
    assert CANARY == resolvers.resolve("enc://keys#openai", tmp_path)


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("enc://{anthropic}", "^enc://v1.anthropic.…: it was sealed for 'anthropic', not for 'openai'"),
        ("enc://{swapped}", "^enc://v1.openai.…: it was changed, or sealed for something else"),
        ("enc://{cut}", "^enc://…: it was changed or cut"),
        ("enc://{foreign}", "^enc://v1.openai.…: it was sealed with the key [0-9a-f]{12}, which is not here"),
        ("enc://{token}", "^enc://gAAAA…: the Fernet token was changed, or its key"),
        ("enc://{lines}", "^enc://v1.openai.… holds blanks, several lines"),
        ("enc://v2.openai.k.AAAA", "^enc://…: found another form than v1.NAME.KEY.SEALED"),
        ("enc://keys", "^enc://…: found another form"),
        ("enc://keys#nobody", "^enc://keys#nobody: the file has no entry 'nobody'; it has: openai"),
        ("enc://none#openai", "^enc://none#openai: it can't be read: No such file"),
        ("enc://open#openai", "^enc://open#openai: every user of this machine may read .*chmod 600"),
        ("enc://link#openai", "^enc://link#openai: .*symbolic link"),
    ],
)
def test_refused(reference: str, words: str, tmp_path: Path) -> None:
    from llmshield.sealing import KeyRing, read_key

    ring = vault.ring()
    put(tmp_path / "keys", openai=CANARY)
    put(tmp_path / "open", openai=CANARY)
    (tmp_path / "open").chmod(0o644)
    (tmp_path / "link").symlink_to("keys")
    forms = {
        "anthropic": ring.seal_reference(CANARY, "anthropic"),
        "swapped": ring.seal_reference(CANARY, "anthropic").replace("anthropic", "openai"),
        "cut": ring.seal_reference(CANARY, "openai")[:-3],
        "foreign": KeyRing(read_key(vault.new_key())).seal_reference(CANARY, "openai"),
        "token": Fernet(Fernet.generate_key()).encrypt(CANARY.encode()).decode(),
        "lines": ring.seal_reference(f"{CANARY}\nx: y", "openai"),
    }
    text = reference.format(**{name: form.removeprefix("enc://") for name, form in forms.items()})

    with pytest.raises(SecretError, match=words) as caught:
        resolvers.resolve(text, tmp_path, "openai")
    assert "CANARY" not in str(caught.value)


def test_without_a_master_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    reference = vault.ring().seal_reference(CANARY, "openai")
    monkeypatch.delenv(vault.VARIABLE)

    with pytest.raises(
        SecretError, match=r"^LLMSHIELD_SECRET_KEY is not set; make a key with `llmshield vault key`"
    ):
        resolvers.resolve(reference, tmp_path, "openai")
