"""The vault: the key ring of the environment, and what is said when there is none."""

from __future__ import annotations

import base64
import contextlib
import os
import threading
from pathlib import Path

import pytest

from llmshield import vault
from llmshield.errors import SecretError
from llmshield.resolvers import _ring
from llmshield.testing import FrozenClock

OLD, NEW = vault.new_key(), vault.new_key()


def test_seal_and_unseal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(vault.VARIABLE, OLD)
    sealed = vault.seal(b"data", "audit:1")
    secret = vault.derive("audit:identifiers")

    assert b"data" == vault.unseal(sealed, "audit:1")
    assert vault.is_current(sealed)
    with pytest.raises(SecretError):
        vault.unseal(sealed, "audit:2")

    monkeypatch.setenv(vault.VARIABLE, NEW)  # the environment decides at once
    with pytest.raises(SecretError, match="not here"):
        vault.unseal(sealed, "audit:1")
    monkeypatch.setenv(vault.PREVIOUS, f" {vault.new_key()}, {OLD} ,")
    assert b"data" == vault.unseal(sealed, "audit:1")
    assert not vault.is_current(sealed)
    assert secret != vault.derive("audit:identifiers")


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({}, "LLMSHIELD_SECRET_KEY is not set; make a key with `llmshield vault key`"),
        ({vault.VARIABLE: " "}, "LLMSHIELD_SECRET_KEY is not set"),
        ({vault.VARIABLE: "c2hvcnQ="}, "LLMSHIELD_SECRET_KEY: found 5 bytes"),
        ({vault.VARIABLE: NEW, vault.PREVIOUS: f"{OLD},c2hvcnQ="}, "LLMSHIELD_PREVIOUS_KEYS: found 5 bytes"),
        ({vault.VARIABLE: "env://NOWHERE"}, "LLMSHIELD_SECRET_KEY: env://NOWHERE: .* is not set"),
        ({vault.VARIABLE: "nosuch://x"}, "LLMSHIELD_SECRET_KEY: the scheme nosuch:// is not known"),
        ({vault.VARIABLE: "enc://v1.x.y.z"}, "can't be sealed with itself"),
    ],
)
def test_without_a_key(environment: dict[str, str], words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (vault.VARIABLE, vault.PREVIOUS):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    with pytest.raises(SecretError, match=words):
        vault.seal(b"", "x")
    assert vault.has_key() is bool(environment.get(vault.VARIABLE, "").strip())


def renewed() -> str:
    """The ring's id once a thread that was reading it again is through."""
    vault.ring()
    for thread in threading.enumerate():
        if thread.name == "llmshield-key-ring":
            thread.join(20)
    return vault.ring().id


def test_nobody_waits_for_a_reference_that_hangs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    clock = FrozenClock()
    monkeypatch.setattr(_ring, "clock", clock)
    file = tmp_path / "master"
    file.write_text(OLD)
    monkeypatch.setenv(vault.VARIABLE, f"file://{file}")
    first = vault.ring().id
    file.unlink()
    os.mkfifo(file)  # opening it waits for a writer
    clock.advance(61)

    assert [first] * 5 == [vault.ring().id for _ in range(5)]
    waiting = [thread for thread in threading.enumerate() if thread.name == "llmshield-key-ring"]
    assert 1 == len(waiting)
    while waiting[0].is_alive():
        with contextlib.suppress(OSError):  # nobody reads yet
            os.close(os.open(file, os.O_WRONLY | os.O_NONBLOCK))
        waiting[0].join(0.05)
    assert first == vault.ring().id


def test_a_key_in_a_file_is_read_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A replaced file counts after a minute; one that is gone changes nothing until the process ends."""
    clock = FrozenClock()
    monkeypatch.setattr(_ring, "clock", clock)
    file = tmp_path / "master"
    file.write_text(OLD)
    monkeypatch.setenv(vault.VARIABLE, f"file://{file}")
    first = vault.ring().id
    file.write_text(NEW)

    assert first == vault.ring().id
    clock.advance(61)
    second = renewed()
    assert second != first
    file.unlink()
    clock.advance(61)
    assert second == renewed()
    file.write_text(vault.new_key())
    assert second == renewed()  # not yet again
    clock.advance(61)
    assert second != renewed()
    assert ((vault.VARIABLE, f"file://{file}"),) == vault.references()


def test_a_key_of_the_environment_is_hidden_in_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    from llmshield.redact import redact

    key = base64.urlsafe_b64encode(os.urandom(32)).decode()
    monkeypatch.setenv(vault.VARIABLE, key)
    vault.ring()

    assert key not in redact(f"child process environment: {key}")
