"""People: found under every master key, made only by who knows of all erasures, and nobody in another one's place."""

import time

import pytest

from llmshield import vault
from llmshield.errors import SecretError
from llmshield.testing import FrozenClock
from llmshield.transcripts import Kept, Stored, Transcripts

HOUR = 3600.0


def test_many_new_people_at_once_are_bounded(monkeypatch, url, told):
    with FrozenClock(time.time()) as clock:
        kept = Transcripts(Kept(url))
        kept.open()
        stored = kept.put([told(kept, user=f"u{number}") for number in range(520)])
        assert stored == Stored(500, 20)
        assert kept.put([told(kept, user="u3", id="2")]) == Stored(1), "who is known goes on"
        clock.advance(1)
        assert kept.put([told(kept, user="new")]) == Stored(1)
        kept.close()


def test_what_was_known_when(kept, told):
    with FrozenClock(time.time()) as clock:
        kept.people._erasures._history = []
        assert kept.known_at(clock.monotonic()) == -1
        began = clock.monotonic()
        clock.advance(5)
        kept.people.look()
        assert (kept.known_at(began), kept.known_at(clock.monotonic())) == (-1, 0)
        clock.advance(5)
        between = clock.monotonic()
        clock.advance(5)
        kept.erase("alice", None)
        assert (kept.known_at(between), kept.known_at(clock.monotonic())) == (0, 1)
        for _ in range(1100):
            clock.advance(1)
            kept.keys.destroy([], erasing=True)
            kept.people.look()
        assert kept.known_at(between) == -1, "it is long ago"
        assert kept.known_at(clock.monotonic() - 10) == 1101 - 10
    assert kept.put([told(kept, erasures=-1)]) == Stored(0, 1)


def test_a_key_that_was_put_into_another_persons_place(kept, told):
    """Who can write to the store, and has no master key, makes nobody read what is somebody else's."""
    kept.put([told(kept), told(kept, user="bob"), told(kept, tenant="other")])
    ((alice, hers),) = kept.people.found("alice", "acme")
    ((bob, his),) = kept.people.found("bob", None)
    ((other, others),) = kept.people.found("alice", "other")
    kept.keys.destroy([alice, bob, other], erasing=False)
    kept.people._known.clear()
    for owner, entry in ((bob, hers), (alice, others)):
        assert kept.keys.add(owner, entry) == entry

    for user, tenant in (("bob", None), ("alice", "acme")):
        with pytest.raises(SecretError, match="stands in another person's place: it was changed"):
            list(kept.export(user, tenant))
        with pytest.raises(SecretError):
            kept.put([told(kept, user=user, tenant="acme")])
    assert len(kept.erase("bob", None).people) == 1, "it can be destroyed all the same"
    assert his


def test_the_wrong_master_key_is_refused_and_the_old_one_is_enough(file, monkeypatch, master, told, ids):
    kept = Transcripts(file)
    kept.open()
    kept.put([told(kept)])
    kept.close()

    monkeypatch.setenv("LLMSHIELD_SECRET_KEY", vault.new_key())
    with pytest.raises(
        SecretError, match=r"transcripts-keys.db can't be opened: it was sealed with the key [0-9a-f]{12}"
    ):
        Transcripts(file).open()
    monkeypatch.delenv("LLMSHIELD_SECRET_KEY")
    with pytest.raises(SecretError, match="LLMSHIELD_SECRET_KEY is not set; make a key"):
        Transcripts(file).open()

    monkeypatch.setenv("LLMSHIELD_SECRET_KEY", vault.new_key())
    monkeypatch.setenv("LLMSHIELD_PREVIOUS_KEYS", master)
    kept = Transcripts(file)
    kept.open()
    assert ids(kept) == ["1"]
    assert kept.put([told(kept, id="2"), told(kept, user="bob")]) == Stored(2)
    assert ids(kept) == ["1", "2"], "one person, whatever key found them"
    kept.close()


def test_after_resealing_the_old_master_key_is_not_needed(file, monkeypatch, master, told, ids):
    kept = Transcripts(file)
    kept.open()
    kept.put([told(kept), told(kept, user="bob"), told(kept, tenant="other")])
    monkeypatch.setenv("LLMSHIELD_SECRET_KEY", new := vault.new_key())
    monkeypatch.setenv("LLMSHIELD_PREVIOUS_KEYS", master)

    assert kept.people.reseal() == (3, 0)
    assert kept.people.reseal() == (0, 0)
    assert (ids(kept), ids(kept, "bob")) == (["1", "1"], ["1"])
    kept.close()
    monkeypatch.delenv("LLMSHIELD_PREVIOUS_KEYS")
    kept = Transcripts(file)
    assert kept.open()
    assert (ids(kept), ids(kept, "bob"), ids(kept, tenant="acme")) == (["1", "1"], ["1"], ["1"])
    assert len(kept.erase("alice", None).people) == 2
    kept.close()
    monkeypatch.setenv("LLMSHIELD_SECRET_KEY", master)
    with pytest.raises(SecretError):
        Transcripts(file).open()
    assert new


def test_resealing_leaves_who_was_made_twice_and_says_so(file, monkeypatch, master, told):
    kept = Transcripts(file)
    kept.open()
    kept.put([told(kept)])
    ((owner, _),) = kept.keys.everybody()
    monkeypatch.setenv("LLMSHIELD_SECRET_KEY", new := vault.new_key())
    monkeypatch.setenv("LLMSHIELD_PREVIOUS_KEYS", master)
    kept.keys.add(kept.people._owners("acme", "alice")[0], kept.people._made("acme", "alice"))

    assert kept.people.reseal() == (0, 1)
    assert kept.keys.find(owner) is not None
    assert len(kept.erase("alice", None).people) == 2
    assert new
    kept.close()
