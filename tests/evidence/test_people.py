"""A person is a pseudonym and a key; erasing them is destroying the key."""

import subprocess
import sys

import pytest

from llmshield import vault
from llmshield.errors import SecretError
from llmshield.evidence import people as people_module
from llmshield.evidence.identifiers import Identifiers
from llmshield.evidence.people import People, people_path


@pytest.fixture(autouse=True)
def no_key(monkeypatch):
    monkeypatch.delenv("LLMSHIELD_SECRET_KEY", raising=False)
    monkeypatch.delenv("LLMSHIELD_PREVIOUS_KEYS", raising=False)


@pytest.fixture
def sink(tmp_path):
    return tmp_path / "audit.jsonl"


def people(sink):
    return People(sink, Identifiers.of(sink))


def files(sink):
    return sorted(path for path in people_path(sink).rglob("*") if path.is_file())


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
