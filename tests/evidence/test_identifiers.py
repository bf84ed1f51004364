"""Identifiers are keyed hashes: the same where the key is the same, and nothing without it."""

import os

import pytest

from llmshield import vault
from llmshield.errors import SecretError
from llmshield.evidence import EvidenceError
from llmshield.evidence.identifiers import Identifiers, key_path


@pytest.fixture(autouse=True)
def no_key(monkeypatch):
    monkeypatch.delenv("LLMSHIELD_SECRET_KEY", raising=False)
    monkeypatch.delenv("LLMSHIELD_PREVIOUS_KEYS", raising=False)


def test_a_key_of_the_vault_means_the_same_on_every_host(tmp_path, monkeypatch):
    monkeypatch.setenv("LLMSHIELD_SECRET_KEY", vault.new_key())
    one, two = (Identifiers.of(tmp_path / name / "audit.jsonl") for name in "ab")

    assert one.hash("203.0.113.7") == two.hash("203.0.113.7") != one.hash("203.0.113.8")
    assert one.source == "secret_key"
    assert list(tmp_path.iterdir()) == []


def test_older_keys_still_find(sink, monkeypatch):
    old, new = vault.new_key(), vault.new_key()
    monkeypatch.setenv("LLMSHIELD_SECRET_KEY", old)
    before = Identifiers.of(sink).hash("alice")
    monkeypatch.setenv("LLMSHIELD_SECRET_KEY", new)
    monkeypatch.setenv("LLMSHIELD_PREVIOUS_KEYS", old)
    ids = Identifiers.of(sink)

    assert ids.hash("alice") != before
    assert ids.spellings("alice") == [ids.hash("alice"), before]


def test_without_one_a_file_is_made_for_its_owner_only(sink):
    ids = Identifiers.of(sink)

    assert ids.source == "file"
    assert key_path(sink).stat().st_mode & 0o777 == 0o600
    assert Identifiers.of(sink).hash("a") == ids.hash("a")
    assert sorted(path.name for path in sink.parent.iterdir()) == ["audit.key"]


def test_what_the_file_has_hashed_is_found_when_a_vault_comes(sink, monkeypatch):
    before = Identifiers.of(sink).hash("alice")
    monkeypatch.setenv("LLMSHIELD_SECRET_KEY", vault.new_key())

    assert before in Identifiers.of(sink).spellings("alice")


def test_a_sink_that_is_no_file_has_a_key_of_the_process():
    one, two = Identifiers.of(None), Identifiers.of(None)

    assert one.source == "process"
    assert one.hash("a") == one.hash("a") != two.hash("a")


@pytest.mark.parametrize(
    ("content", "mode", "match"),
    [
        (b"not a key", 0o600, "is no key"),
        (b"\xff", 0o600, "can't be read"),
        (b"", 0o600, "is no key"),
        (None, 0o644, "chmod 600"),
    ],
)
def test_an_unusable_key_file_stops_the_start(sink, content, mode, match):
    Identifiers.of(sink)
    if content is not None:
        key_path(sink).write_bytes(content)
    os.chmod(key_path(sink), mode)

    with pytest.raises(EvidenceError, match=match):
        Identifiers.of(sink)


def test_an_unusable_key_of_the_vault_is_told(sink, monkeypatch):
    monkeypatch.setenv("LLMSHIELD_SECRET_KEY", "short")

    with pytest.raises(SecretError, match="LLMSHIELD_SECRET_KEY"):
        Identifiers.of(sink)


def test_a_reader_makes_no_key(sink):
    with pytest.raises(EvidenceError, match="can't be hashed"):
        Identifiers.of(sink, make=False)
    assert not key_path(sink).exists()


@pytest.mark.parametrize("value", ["", "a", "\ud83d", "x" * 100_000, "漢"])
def test_any_value_has_a_hash(sink, value):
    ids = Identifiers.of(sink)

    assert ids.hash(value) == ids.hash(value)
    assert len(ids.hash(value)) == (21 if value else 0)
