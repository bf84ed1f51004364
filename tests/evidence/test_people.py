"""A person is a pseudonym and a key; erasing them is destroying the key."""

import json
import os
import subprocess
import sys

import pytest

from llmshield import vault
from llmshield.errors import SecretError
from llmshield.evidence import people as people_module
from llmshield.evidence.identifiers import Identifiers
from llmshield.evidence.people import People, people_path
from llmshield.testing import FrozenClock


@pytest.fixture(autouse=True)
def no_key(monkeypatch):
    monkeypatch.delenv("LLMSHIELD_SECRET_KEY", raising=False)
    monkeypatch.delenv("LLMSHIELD_PREVIOUS_KEYS", raising=False)


def people(sink):
    return People(sink, Identifiers.of(sink))


def files(sink):
    return sorted(people_path(sink).rglob("*.json"))


def test_a_person_is_the_same_in_every_process(sink):
    one, two = people(sink), people(sink)
    sealed = one.of("acme", "alice").ring.seal(b"words", "c")

    assert one.of("acme", "alice").pseudonym == two.of("acme", "alice").pseudonym
    assert two.of("acme", "alice").ring.unseal(sealed, "c") == b"words"
    assert len({two.of(t, u).pseudonym for t in ("acme", "b") for u in ("alice", "bob")}) == 4
    assert len(files(sink)) == 4


def test_no_file_tells_who_it_is(sink):
    people(sink).of("acme", "alice@example.com")

    (path,) = files(sink)
    assert b"alice" not in path.read_bytes()
    assert "alice" not in str(path)
    assert path.stat().st_mode & 0o777 == 0o600


def test_many_processes_make_one_person(sink):
    program = (
        "import sys; from pathlib import Path\n"
        "from llmshield.evidence.identifiers import Identifiers\n"
        "from llmshield.evidence.people import People\n"
        "sink = Path(sys.argv[1]); sys.stdin.readline()\n"
        "people = People(sink, Identifiers.of(sink))\n"
        "print([people.of('acme', f'u{n}').pseudonym for n in range(20)])\n"
    )
    running = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(sink)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for _ in range(4)
    ]
    said = {process.communicate(b"go\n")[0] for process in running}

    assert len(said) == 1
    assert len(files(sink)) == 20


def test_erased_is_gone_for_all(sink, monkeypatch):
    here, there = people(sink), people(sink)
    before = here.of("acme", "alice")
    here.of("b", "alice")
    here.of("acme", "bob")
    sealed = before.ring.seal(b"words", "c")
    there.of("acme", "alice")

    assert [person.pseudonym for person in here.erase("alice", "acme")] == [before.pseudonym]
    assert [person.tenant for person in here.find("alice")] == ["b"]

    monkeypatch.setattr(people_module, "LOOK_S", 0.0)  # as if a second had gone by
    after = there.of("acme", "alice")
    assert after.pseudonym != before.pseudonym
    for person in there.all():
        with pytest.raises(SecretError):
            person.ring.unseal(sealed, "c")
    assert len(there.erase("alice")) == 2
    assert there.erase("alice") == []


@pytest.mark.parametrize("left", [b"", b"\x8f\x01", b'{"person":1}', b"[]"])
def test_who_was_stopped_while_erasing_has_erased(sink, left):
    before = people(sink).of("acme", "alice")
    files(sink)[0].write_bytes(left)

    after = people(sink).of("acme", "alice")

    assert after.pseudonym != before.pseudonym
    assert people(sink).of("acme", "alice").pseudonym == after.pseudonym


def test_a_flood_of_names_makes_no_flood_of_files(sink, monkeypatch):
    monkeypatch.setattr(people_module, "_NEW_A_SECOND", 5)
    monkeypatch.setattr(people_module.time, "monotonic", lambda: 100.5)
    crowd = people(sink)
    names = [crowd.of("acme", f"u{n}").pseudonym for n in range(20)]

    assert len(set(names)) == 20
    assert len(files(sink)) == 5


def test_a_vault_that_comes_later_keeps_the_people(sink, monkeypatch):
    before = people(sink).of("acme", "alice")
    monkeypatch.setenv("LLMSHIELD_SECRET_KEY", vault.new_key())

    assert people(sink).of("acme", "alice").pseudonym == before.pseudonym
    assert [person.pseudonym for person in people(sink).find("alice")] == [before.pseudonym]


def test_without_a_file_nobody_is_kept():
    nobody = People(None, Identifiers.of(None))

    assert nobody.of("acme", "alice").pseudonym != nobody.of("acme", "alice").pseudonym
    assert nobody.find("alice") == list(nobody.all()) == nobody.erase("alice") == []


def rotated(monkeypatch):
    """A new master key, and the one before it."""
    old = os.environ["LLMSHIELD_SECRET_KEY"]
    monkeypatch.setenv("LLMSHIELD_SECRET_KEY", vault.new_key())
    monkeypatch.setenv("LLMSHIELD_PREVIOUS_KEYS", old)


@pytest.fixture
def master(monkeypatch):
    monkeypatch.setenv("LLMSHIELD_SECRET_KEY", vault.new_key())


def test_after_resealing_the_old_master_key_is_not_needed(sink, monkeypatch, master):
    before = {
        who: people(sink).of("acme", who).ring.seal(b"words", "c") for who in ("alice", "bob", "al\ud800")
    }
    names = {who: people(sink).of("acme", who).pseudonym for who in before}
    rotated(monkeypatch)

    assert people(sink).reseal() == (3, 0)
    assert people(sink).reseal() == (0, 0)
    monkeypatch.delenv("LLMSHIELD_PREVIOUS_KEYS")
    crowd = people(sink)
    for who, sealed in before.items():
        (person,) = crowd.find(who, "acme")
        assert (person.pseudonym, person.user) == (names[who], who)
        assert person.ring.unseal(sealed, "c") == b"words"
        assert crowd.of("acme", who).pseudonym == names[who]
    assert len(files(sink)) == 3
    assert [person.pseudonym for person in crowd.erase("alice")] == [names["alice"]]


def test_without_the_key_of_some_people_nobody_is_told_that_one_is_not_there(sink, monkeypatch, master):
    people(sink).of("acme", "alice")
    monkeypatch.setenv("LLMSHIELD_SECRET_KEY", vault.new_key())

    for ask in (people(sink).find, people(sink).erase):
        with pytest.raises(
            SecretError, match=r"found under the key [0-9a-f]{12}, which is not here; put that key"
        ):
            ask("alice")
    assert len(files(sink)) == 1
    (people_path(sink) / "keys").unlink()  # as an older version has left it
    with pytest.raises(SecretError, match="which is not here"):
        people(sink).erase("alice")
    assert people(sink).of("acme", "bob").pseudonym, "calls go on"


def as_before(path):
    """The file as older versions wrote it."""
    said = json.loads(path.read_bytes())
    path.write_text(json.dumps({name: said[name] for name in ("person", "tenant", "key")}))


def test_files_of_older_versions_go_on_and_are_told_when_they_need_the_old_key(sink, monkeypatch, master):
    before = people(sink).of("acme", "alice")
    as_before(files(sink)[0])
    (people_path(sink) / "keys").unlink()
    assert people(sink).of("acme", "alice").pseudonym == before.pseudonym
    rotated(monkeypatch)

    assert people(sink).reseal() == (1, 1)
    assert people(sink).reseal() == (0, 1), "it stays so"
    people(sink).of("acme", "bob")
    assert [person.pseudonym for person in people(sink).find("alice")] == [before.pseudonym]
    monkeypatch.delenv("LLMSHIELD_PREVIOUS_KEYS")
    with pytest.raises(SecretError, match="which is not here"):
        people(sink).find("alice")


def test_a_file_that_was_put_into_another_persons_place_is_no_use_there(sink):
    crowd = people(sink)
    alice, bob = crowd.of("acme", "alice"), crowd.of("acme", "bob")
    hers, his = (
        next(path for path in files(sink) if each.pseudonym in path.read_text()) for each in (alice, bob)
    )
    his.write_bytes(hers.read_bytes())

    assert people(sink).find("bob") == []
    assert people(sink).erase("bob") == []
    assert people(sink).of("acme", "bob").pseudonym not in {alice.pseudonym, bob.pseudonym}
    assert [person.pseudonym for person in people(sink).find("alice")] == [alice.pseudonym]


def test_a_call_under_way_at_an_erasure_makes_nobody_anew(sink):
    with FrozenClock() as clock:
        here, there = people(sink), people(sink)
        here.look()
        clock.advance(1)
        began = clock.monotonic()
        known = here.of("acme", "alice", began)
        assert here.of("acme", "alice", began).pseudonym == known.pseudonym
        clock.advance(1)
        there.erase("alice")
        there.erase("carol")

        for who in ("alice", "carol"):
            assert len({here.of("acme", who, began).pseudonym for _ in range(3)}) == 3, "nobody, each time"
        assert files(sink) == []
        clock.advance(1)
        after = here.of("acme", "alice", clock.monotonic())
        assert here.of("acme", "alice", clock.monotonic()).pseudonym == after.pseudonym != known.pseudonym
        assert here.of("acme", "alice", began).pseudonym not in {after.pseudonym, known.pseudonym}
        assert [person.pseudonym for person in there.find("alice")] == [after.pseudonym]


@pytest.mark.parametrize("moment", ["before the old one goes", "while the old one goes"])
def test_who_is_erased_while_being_resealed_is_erased(sink, monkeypatch, master, moment):
    before = people(sink).of("acme", "alice")
    sealed = before.ring.seal(b"words", "c")
    rotated(monkeypatch)
    destroy = people_module._destroy
    erased = []

    def at_that_moment(path):
        if not erased:
            erased.append(True)
            if moment == "before the old one goes":
                assert len(people(sink).erase("alice")) == 1
            else:
                destroy(path)
        destroy(path)

    monkeypatch.setattr(people_module, "_destroy", at_that_moment)
    assert people(sink).reseal() == (0, 0)
    assert people(sink).find("alice") == []
    assert not any(sealed[10:40] in path.read_bytes() for path in files(sink))
    assert files(sink) == []
