"""Transcripts of people: sealed each for themselves, found under old master keys, erased for good and for every process."""

import json
import time

import pytest

from llmshield import redact, vault
from llmshield.errors import SecretError
from llmshield.testing import FrozenClock
from llmshield.transcripts import Kept, Stored, Told, Transcripts

HOUR = 3600.0


def told(
    kept,
    user="alice",
    tenant="acme",
    id="1",
    words="The harvest of quinces was poor.",
    ttl=HOUR,
    erasures=None,
):
    return Told(
        tenant, user, id, time.time() + ttl, kept.erasures if erasures is None else erasures, {"model": "m"},
        [["user", "/messages/0/content", words]],
    )  # fmt: skip


@pytest.fixture
def kept(url):
    kept = Transcripts(Kept(url))
    assert kept.open()
    yield kept
    kept.close()


@pytest.fixture
def file(tmp_path):
    return Kept(f"sqlite:///{tmp_path}/transcripts.db")


def ids(kept, user="alice", tenant=None):
    return [each["id"] for each in kept.export(user, tenant)]


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


def test_a_person_is_a_name_in_a_tenant(kept):
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


def test_erased_is_gone_and_others_are_not(kept):
    kept.put([told(kept), told(kept, id="2"), told(kept, tenant="other"), told(kept, user="bob")])

    done = kept.erase("alice", "acme")
    assert (len(done.people), done.transcripts, done.left, len(done.proof)) == (1, 2, [], 1)
    assert (ids(kept), ids(kept, "bob")) == (["1"], ["1"])
    again = kept.erase("alice", "acme")
    assert (again.people, again.transcripts, again.left, again.proof) == ([], 0, [], [])
    assert kept.erase("alice", None).transcripts == 1
    assert (ids(kept), ids(kept, "bob")) == ([], ["1"])

    assert kept.put([told(kept, id="3")]) == Stored(1), "who calls again begins anew"
    (entry,) = [entry for _, entry in kept._found("alice", None)]
    assert entry.pseudonym not in done.people
    assert ids(kept) == ["3"]


def test_what_was_said_before_an_erasure_never_comes_back(kept):
    before = told(kept, id="before")
    never_seen = told(kept, user="carol", id="before")
    kept.put([told(kept)])
    kept.erase("alice", None)

    assert kept.put([before]) == Stored(0, 1), "there is no key for it"
    assert kept.put([told(kept, id="after"), before]) == Stored(1, 1), "nor is it for the new one"
    assert kept.put([never_seen]) == Stored(0, 1), "who it is may have been erased before they were ever kept"
    assert (ids(kept), ids(kept, "carol")) == (["after"], [])


def test_another_process_notices_at_once(file):
    one, two = Transcripts(file), Transcripts(file)
    one.open(), two.open()
    one.put([told(one)])
    late = told(one, id="2")
    assert two.erase("alice", None).transcripts == 1

    assert one.put([late]) == Stored(0, 1), "though it holds the key in memory"
    one.look()
    assert one.put([told(one, id="3")]) == Stored(1)
    assert ids(two) == ["3"]
    one.close(), two.close()


def test_an_erasure_that_was_killed_is_finished_by_the_next(kept):
    """The key is gone, the rows are still there, and the files were not scrubbed."""
    kept.put([told(kept), told(kept, user="bob")])
    owners = [owner for owner, _ in kept._found("alice", None)]
    kept.keys.destroy(owners, erasing=True)

    assert ids(kept) == []
    assert kept.erase("alice", None).transcripts == 1, "nobody's rows go as well"
    assert ids(kept, "bob") == ["1"]
    assert len(kept.rows.people()) == 1


def test_time_to_live(kept):
    kept.put([told(kept, ttl=0.3), told(kept, id="2"), told(kept, user="bob", ttl=0.3)])
    assert ids(kept) == ["1", "2"]
    time.sleep(0.4)

    assert (ids(kept), ids(kept, "bob")) == (["2"], []), "it can't be read, swept or not"
    kept.sweep()
    assert len(kept.rows.people()) == 1
    assert len(list(kept.keys.everybody())) == 2, "bob may be calling just now"
    kept.sweep()
    assert len(list(kept.keys.everybody())) == 1
    assert kept.put([told(kept, user="bob")]) == Stored(1)
    kept.sweep()
    assert ids(kept, "bob") == ["1"]


def test_it_is_swept_once_a_minute(kept):
    with FrozenClock(time.time()) as clock:
        kept.put([told(kept, ttl=30)])
        kept.look_after()
        clock.advance(59)
        kept.look_after()
        if kept.rows.shared is False:
            assert kept.rows.people(), "not yet"
        clock.advance(2)
        kept.look_after()
    assert "redis" in kept.rows.name or not kept.rows.people()


def test_rows_of_nobody_are_swept(kept):
    kept.put([told(kept), told(kept, user="bob")])
    kept.keys.destroy([owner for owner, _ in kept._found("alice", None)], erasing=False)

    assert kept.sweep() == 1
    assert ids(kept, "bob") == ["1"]


@pytest.mark.parametrize("change", ["person", "id", "until_ms", "sealed"])
def test_a_row_is_good_in_its_own_place_only(kept, change):
    kept.put([told(kept), told(kept, user="bob", id="2")])
    (alice,), (bob,) = ([entry for _, entry in kept._found(who, None)] for who in ("alice", "bob"))
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


def test_the_wrong_master_key_is_refused_and_the_old_one_is_enough(file, monkeypatch, master):
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


def test_after_resealing_the_old_master_key_is_not_needed(file, monkeypatch, master):
    kept = Transcripts(file)
    kept.open()
    kept.put([told(kept), told(kept, user="bob"), told(kept, tenant="other")])
    monkeypatch.setenv("LLMSHIELD_SECRET_KEY", new := vault.new_key())
    monkeypatch.setenv("LLMSHIELD_PREVIOUS_KEYS", master)

    assert kept.reseal() == (3, 0)
    assert kept.reseal() == (0, 0)
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


def test_resealing_leaves_who_was_made_twice_and_says_so(file, monkeypatch, master):
    kept = Transcripts(file)
    kept.open()
    kept.put([told(kept)])
    ((owner, _),) = kept.keys.everybody()
    monkeypatch.setenv("LLMSHIELD_SECRET_KEY", new := vault.new_key())
    monkeypatch.setenv("LLMSHIELD_PREVIOUS_KEYS", master)
    elsewhere = Transcripts(Kept("memory://"))
    elsewhere.open()
    kept.keys.add(kept._owners("acme", "alice")[0], elsewhere._made(told(kept)))

    assert kept.reseal() == (0, 1)
    assert kept.keys.find(owner) is not None
    assert len(kept.erase("alice", None).people) == 2
    assert new
    kept.close()


def test_no_key_and_no_name_is_in_any_file(file, tmp_path):
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
    Transcripts(file).open()
    assert kept.open(make=False)
    assert kept.erase("alice", None).people == []
    kept.close()


def test_a_place_in_a_variable_has_its_keys_beside_it(monkeypatch, tmp_path):
    monkeypatch.setenv("WHERE", f"sqlite:///{tmp_path}/t.db")
    kept = Transcripts(Kept("env://WHERE"))
    kept.open()
    kept.close()
    assert {path.name for path in tmp_path.glob("*.db")} == {"t.db", "t-keys.db"}
