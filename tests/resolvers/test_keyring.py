"""`keyring://` with the real library, over a backend of its own that keeps entries in memory (a desktop's needs a desktop)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import keyring
import pytest
from keyring.backend import KeyringBackend
from keyring.backends import fail
from keyring.errors import KeyringLocked

from llmshield import resolvers
from llmshield.errors import SecretError

CANARY = "CANARY-ring-51"


class Kept(KeyringBackend):
    """Entries by service and user."""

    priority = 1  # type: ignore[assignment]

    def __init__(self) -> None:
        super().__init__()
        self.entries: dict[tuple[str, str], str] = {}
        self.locked = False

    def get_password(self, service: str, username: str) -> str | None:
        if self.locked:
            raise KeyringLocked(f"not {CANARY}")
        return self.entries.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        self.entries[service, username] = password

    def delete_password(self, service: str, username: str) -> None:
        del self.entries[service, username]


@pytest.fixture
def kept() -> Iterator[Kept]:
    before = keyring.get_keyring()
    made = Kept()
    keyring.set_keyring(made)
    keyring.set_password("llmshield", "openai", CANARY)
    keyring.set_password("a/b", "c", f'{{"k": "{CANARY}"}}')
    yield made
    keyring.set_keyring(before)


def ask(rest: str) -> str:
    return resolvers.resolve(f"keyring://{rest}", Path(), "openai")


def test_read(kept: Kept) -> None:
    assert CANARY == ask("llmshield/openai") == ask("a/b/c#k")


@pytest.mark.parametrize(
    ("rest", "words"),
    [
        ("llmshield", "expected keyring://SERVICE/USER"),
        ("llmshield/", "expected keyring://SERVICE/USER"),
        ("llmshield/none", "no such entry; run `keyring set llmshield none`"),
        ("llmshield/openai#k", "no JSON object"),
        ("llmshield/openai?x=1", "unknown option"),
    ],
)
def test_refused(rest: str, words: str, kept: Kept) -> None:
    with pytest.raises(SecretError, match=words):
        ask(rest)


def test_a_keyring_that_gives_nothing(kept: Kept) -> None:
    kept.locked = True
    with pytest.raises(SecretError, match="can't be read: KeyringLocked") as caught:
        ask("llmshield/openai")
    assert "CANARY" not in str(caught.value)
    keyring.set_keyring(fail.Keyring())
    with pytest.raises(SecretError, match="can't be read: NoKeyringError"):
        ask("llmshield/openai")
