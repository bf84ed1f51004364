"""Transcripts of people: sealed each for themselves, found under old master keys, erased for good and for every process."""

import json
import time

import pytest

from llmshield import redact
from llmshield.errors import SecretError, StoreUnavailable
from llmshield.testing import FrozenClock
from llmshield.transcripts import Kept, Stored, Told, Transcripts

HOUR = 3600.0


@pytest.mark.parametrize(
    ("store", "keys"),
    [
        ("sqlite:///transcripts.db", "sqlite:///transcripts-keys.db"),
        ("sqlite:////var/lib/a.b/c", "sqlite:////var/lib/a.b/c-keys"),
        ("sqlite:////var/lib/a.b/c.d.db", "sqlite:////var/lib/a.b/c.d-keys.db"),
        ("sqlite:///.db", "sqlite:///.db-keys"),
        ("redis://h/0?prefix=x", "redis://h/0?prefix=x"),
        ("memory://", "memory://"),
    ],
)
def test_where_keys_are(store, keys):
    assert Kept(store).keys_place == keys
    assert Kept(store, "redis://k/1").keys_place == "redis://k/1"


def test_a_person_is_a_name_in_a_tenant(kept, told, ids):
    assert kept.put([told(kept), told(kept, id="2", words="More."), told(kept, tenant="other")]) == Stored(3)
    assert kept.put([told(kept, user="bob"), told(kept, user="al\ud800ice", words="\ud800 lone")]) == Stored(
        2
    )

    assert sorted(ids(kept)) == ["1", "1", "2"]
    assert ids(kept, tenant="acme") == ["1", "2"]
    assert (ids(kept, "bob"), ids(kept, "carol"), ids(kept, tenant="none")) == (["1"], [], [])
    (bobs,) = kept.export("bob", "acme")
    assert (bobs["tenant"], bobs["model"]) == ("acme", "m")
    assert bobs["texts"] == [["user", "/messages/0/content", "The harvest of quinces was poor."]]
    (odd,) = kept.export("al\ud800ice", None)
    assert odd["texts"][0][2] == "\\ud800 lone"


def test_erased_is_gone_and_others_are_not(kept, told, ids):
    kept.put([told(kept), told(kept, id="2"), told(kept, tenant="other"), told(kept, user="bob")])

    done = kept.erase("alice", "acme")
    assert (len(done.people), done.transcripts, done.left, len(done.proof)) == (1, 2, [], 1)
    assert (ids(kept), ids(kept, "bob")) == (["1"], ["1"])
    again = kept.erase("alice", "acme")
    assert (again.people, again.transcripts, again.left, again.proof) == ([], 0, [], [])
    assert kept.erase("alice", None).transcripts == 1
    assert (ids(kept), ids(kept, "bob")) == ([], ["1"])

    assert kept.put([told(kept, id="3")]) == Stored(1), "who calls again begins anew"
    (entry,) = [entry for _, entry in kept.people.found("alice", None)]
    assert entry.pseudonym not in done.people
    assert ids(kept) == ["3"]


def test_what_was_said_before_an_erasure_never_comes_back(kept, told, ids):
    before = told(kept, id="before")
    never_seen = told(kept, user="carol", id="before")
    kept.put([told(kept)])
    kept.erase("alice", None)

    assert kept.put([before]) == Stored(0, 1), "there is no key for it"
    assert kept.people.found("alice", None) == [], "nor is one made"
    assert kept.put([told(kept, id="after"), before]) == Stored(1, 1), "nor is it for the new one"
    assert kept.put([never_seen]) == Stored(0, 1), "who it is may have been erased before they were ever kept"
    assert (ids(kept), ids(kept, "carol")) == (["after"], [])


def test_another_process_notices_at_once(file, told, ids):
    one, two = Transcripts(file), Transcripts(file)
    one.open(), two.open()
    one.put([told(one)])
    late = told(one, id="2")
    assert two.erase("alice", None).transcripts == 1

    assert one.put([late]) == Stored(0, 1), "though it holds the key in memory"
    one.people.look()
    assert one.put([told(one, id="3")]) == Stored(1)
    assert ids(two) == ["3"]
    one.close(), two.close()


def test_an_erasure_that_was_killed_is_finished_by_the_next(kept, told, ids):
    """The key is gone, the rows are still there, and the files were not scrubbed."""
    kept.put([told(kept), told(kept, user="bob")])
    owners = [owner for owner, _ in kept.people.found("alice", None)]
    kept.keys.destroy(owners, erasing=True)

    assert ids(kept) == []
    assert kept.erase("alice", None).transcripts == 1, "nobody's rows go as well"
    assert ids(kept, "bob") == ["1"]
    assert len(kept.rows.people()) == 1


@pytest.mark.parametrize("step", ["scrub", "remove"])
def test_what_fails_behind_the_destroyed_key_is_left_and_not_undone(kept, monkeypatch, step, told, ids):
    kept.put([told(kept)])

    def fails(*given):
        raise StoreUnavailable("the disk is full")

    monkeypatch.setattr(type(kept.keys if step == "scrub" else kept.rows), step, fails)
    done = kept.erase("alice", None)
    assert (len(done.people), done.proof) == (1, [])
    assert "the disk is full" in done.left[0]
    assert ids(kept) == []


def test_time_to_live(kept, told, ids):
    kept.put([told(kept, ttl=0.3), told(kept, id="2"), told(kept, user="bob", ttl=0.3)])
    assert ids(kept) == ["1", "2"]
    time.sleep(0.4)

    assert (ids(kept), ids(kept, "bob")) == (["2"], []), "it can't be read, swept or not"
    kept.look_after()
    assert len(kept.rows.people()) == 1


def test_it_is_swept_once_a_minute(url, told):
    with FrozenClock(time.time()) as clock:
        kept = Transcripts(Kept(url))
        kept.open()
        kept.look_after()
        kept.put([told(kept, ttl=0.2)])
        time.sleep(0.3)
        clock.advance(59)
        kept.look_after()
        assert len(kept.rows.people()) == 1, "not yet"
        clock.advance(2)
        kept.look_after()
        assert len(kept.rows.people()) == 0
        kept.close()


def test_people_without_transcripts_are_forgotten_at_the_second_look(url, told, ids):
    with FrozenClock(time.time()) as clock:
        kept = Transcripts(Kept(url))
        kept.open()
        now = clock.now()
        kept.put([told(kept)])
        for number in range(600):
            kept.people._made_now = 0
            kept.put([Told("acme", f"u{number}", "1", now + 0.5, 0, {}, [["user", "/", "x"]])])

        def tour():
            clock.advance(3600)
            for _ in range(20):
                kept.look_after()
                clock.advance(1)

        time.sleep(0.6)
        kept.look_after()
        assert len(kept.rows.people()) == 601 or kept.rows.shared
        tour()
        assert len(list(kept.keys.everybody())) == 601, "they may be calling just now"
        kept.put([Told("acme", "u7", "2", now + 99_999, 0, {}, [["user", "/", "x"]])])
        kept.put([Told("acme", "alice", "2", now + 99_999, 0, {}, [["user", "/", "x"]])])
        tour()
        assert len(list(kept.keys.everybody())) == 2
        assert (ids(kept, "u7"), ids(kept, "alice")[-1:], kept.people.erasures) == (["2"], ["2"], 0)
        assert kept.put([told(kept, user="u9")]) == Stored(1)
        kept.close()


@pytest.mark.parametrize("change", ["person", "id", "until_ms", "sealed"])
def test_a_row_is_good_in_its_own_place_only(kept, change, told):
    kept.put([told(kept), told(kept, user="bob", id="2")])
    (alice,), (bob,) = ([entry for _, entry in kept.people.found(who, None)] for who in ("alice", "bob"))
    (row,) = kept.rows.read(alice.pseudonym, 0)
    bad = {
        "person": row._replace(person=bob.pseudonym),
        "id": row._replace(id="7"),
        "until_ms": row._replace(until_ms=row.until_ms + 1),
        "sealed": row._replace(sealed=row.sealed[:-1] + bytes([row.sealed[-1] ^ 1])),
    }[change]
    kept.rows.remove([alice.pseudonym])
    kept.rows.append([bad])

    with pytest.raises(SecretError):
        list(kept.export("bob" if change == "person" else "alice", None))


def test_nothing_of_a_conversation_is_in_a_repr(kept, told):
    assert "alice" not in repr(told(kept))
    assert "quince" not in repr(told(kept))


def test_no_key_and_no_name_is_in_any_file(file, tmp_path, told):
    secret = "sk-CANARYsecret-0123456789abcdef"
    redact.remember(secret)
    kept = Transcripts(file)
    kept.open()
    kept.put([told(kept, user="alice-4711", words=f"My key is {secret}, and the quinces are poor.")])
    (said,) = kept.export("alice-4711", None)
    assert secret not in json.dumps(said)
    assert "[redacted]" in said["texts"][0][2]
    kept.close()

    data = b"".join(path.name.encode() + path.read_bytes() for path in tmp_path.iterdir())
    for word in (secret, "alice", "4711", "acme", "quince", "content"):
        assert word.encode() not in data, word


def test_where_nothing_was_kept_nothing_is_made(file, tmp_path):
    kept = Transcripts(file)
    assert not kept.open(make=False)
    assert list(tmp_path.iterdir()) == []
    empty = Transcripts(file)
    assert empty.open()
    empty.close()
    assert kept.open(make=False)
    assert kept.erase("alice", None).people == []
    kept.close()


def test_a_place_in_a_variable_has_its_keys_beside_it(monkeypatch, tmp_path):
    monkeypatch.setenv("WHERE", f"sqlite:///{tmp_path}/t.db")
    kept = Transcripts(Kept("env://WHERE"))
    kept.open()
    kept.close()
    assert {path.name for path in tmp_path.glob("*.db")} == {"t.db", "t-keys.db"}
