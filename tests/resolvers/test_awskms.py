"""`awskms://` with boto3 against moto's KMS: the master key of this process, encrypted."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmshield import resolvers, vault
from llmshield.errors import SecretError


def test_the_master_key_of_the_ring(aws: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    kms = aws("kms")
    key = kms.create_key()["KeyMetadata"]["KeyId"]
    made = kms.generate_data_key(KeyId=key, KeySpec="AES_256")
    blob = base64.b64encode(made["CiphertextBlob"]).decode()
    monkeypatch.setenv(vault.VARIABLE, base64.b64encode(made["Plaintext"]).decode())
    sealed = vault.seal(b"data", "x")

    for spelling in (
        blob,
        base64.urlsafe_b64encode(made["CiphertextBlob"]).decode(),
        f"{blob.rstrip('=')}?region=eu-central-1",
    ):
        monkeypatch.setenv(vault.VARIABLE, f"awskms://{spelling}")
        assert b"data" == vault.unseal(sealed, "x")


def test_a_text_is_given_as_it_is(aws: Callable[[str], Any]) -> None:
    kms = aws("kms")
    key = kms.create_key()["KeyMetadata"]["KeyId"]

    def encrypted(plain: bytes) -> str:
        return (
            "awskms://" + base64.b64encode(kms.encrypt(KeyId=key, Plaintext=plain)["CiphertextBlob"]).decode()
        )

    assert "some-key" == resolvers.resolve(encrypted(b"some-key\n"), Path())
    with pytest.raises(SecretError, match="found 3 bytes, expected 32"):
        resolvers.resolve(encrypted(b"\xff\xfe\x00"), Path())


@pytest.mark.parametrize(
    ("rest", "words"),
    [
        ("!!", "no base64"),
        (base64.b64encode(os.urandom(80)).decode(), "awskms://…: "),
        ("AAAA?x=1", "unknown option 'x'"),
    ],
)
def test_refused(rest: str, words: str, aws: Callable[[str], Any]) -> None:
    with pytest.raises(SecretError, match=words):
        resolvers.resolve(f"awskms://{rest}", Path())
