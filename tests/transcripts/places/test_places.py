"""One contract for every place, on a real SQLite file and a real redis-server."""

import os
import stat
import threading
import time
import uuid

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmshield.errors import StoreError, StoreUnavailable
from llmshield.transcripts.places import Entry, Owner, Row, open_place, sqlite

NOW = 1_900_000_000_000
A, B = Owner("a" * 32, "1" * 32), Owner("a" * 32, "2" * 32)
C = Owner("c" * 32, "1" * 32)


def entry(number, born=0):
    return Entry(f"t:{number:016x}", bytes(range(256)) + b"%d" % number, born)


@pytest.fixture
def place(url):
    place = open_place(url)
    assert place.open()
    yield place
    place.close()


def test_keys_of_people(place):
    assert (place.find(A), place.named(A.name), list(place.everybody())) == (None, [], [])
    assert place.add(A, entry(1)) == entry(1)
    assert place.add(A, entry(2)) == entry(1), "the first one has made it"
    assert place.add(B, entry(3)) == entry(3)
    assert place.add(C, entry(4)) == entry(4)

    assert (place.find(A), place.find(B)) == (entry(1), entry(3))
    assert place.named(A.name) == [(A, entry(1)), (B, entry(3))]
    assert sorted(place.everybody()) == [(A, entry(1)), (B, entry(3)), (C, entry(4))]

    assert place.destroy([A, B], erasing=True) == 2
    assert (place.find(A), place.named(A.name), list(place.everybody())) == (None, [], [(C, entry(4))])
    assert place.destroy([A], erasing=True) == 0
    assert place.erasures() == 2, "one of nobody counts too"


def test_who_does_not_know_of_an_erasure_makes_no_key(place):
    assert place.erasures() == 0
    place.destroy([], erasing=True)

    assert place.add(A, entry(1, born=0)) is None
    assert place.find(A) is None
    assert place.add(A, entry(1, born=1)) == entry(1, born=1)
    assert place.destroy([A], erasing=False) == 1
    assert place.erasures() == 1


def test_a_key_is_moved_when_it_is_what_is_there(place):
    place.add(A, entry(1))
    place.add(C, entry(3))

    assert not place.move(A, entry(2), B, b"new"), "it is another one"
    assert not place.move(A, entry(1), C, b"new"), "somebody is there"
    assert place.move(A, entry(1), A, b"again")
    now = entry(1)._replace(sealed=b"again")
    assert place.find(A) == now
    assert place.move(A, now, B, b"new \n\0 bytes")
    assert (place.find(A), place.find(B)) == (None, entry(1)._replace(sealed=b"new \n\0 bytes"))
    assert len(list(place.everybody())) == 2


def test_the_first_mark_stays_until_it_is_replaced(place):
    assert place.mark(None) is None
    assert place.mark(b"one") == b"one"
    assert place.mark(b"two") == b"one"
    place.remark(b"three")
    assert place.mark(None) == b"three"


def test_transcripts(place):
    now = int(time.time() * 1000)
    rows = [Row("t:1", f"{i:03}", now + 3_600_000 + i, os.urandom(50)) for i in range(20)]
    other = Row("t:2", "000", now + 3_600_000, b"\0 x")
    place.append([*reversed(rows), other])

    assert list(place.read("t:1", now)) == rows
    assert list(place.read("t:1", now + 3_600_009)) == rows[10:], "what is over can't be read, swept or not"
    assert list(place.read("t:2", now)) == [other]
    assert list(place.read("t:3", now)) == []
    assert place.people() == {"t:1", "t:2"}
    replaced = rows[0]._replace(sealed=b"again")
    place.append([replaced])
    assert next(place.read("t:1", now)) == replaced

    assert place.remove(["t:1", "t:3"]) == 20
    assert (list(place.read("t:1", now)), place.people()) == ([], {"t:2"})
    assert place.remove(["t:1"]) == 0


def test_what_is_over_is_swept(place):
    now = int(time.time() * 1000)
    place.append([Row("t:1", "a", now + 300, b"a"), Row("t:1", "b", now + 900_000, b"b")])
    place.append([Row("t:2", "a", now + 300, b"a")])
    place.append([])

    assert place.sweep(now) == 0
    time.sleep(0.35)
    assert place.sweep(now + 350) == 2
    assert [row.id for row in place.read("t:1", 0)] == ["b"]
    assert place.people() == {"t:1"}


def test_more_rows_than_are_read_at_once(place):
    now = int(time.time() * 1000)
    place.append([Row("t:1", f"{i:05}", now + 900_000, b"x") for i in range(1201)])
    assert len(list(place.read("t:1", now))) == 1201
    for number in range(1201):
        place.add(Owner(f"{number:032}", "1" * 32), entry(number))
    assert len({owner for owner, _ in place.everybody()}) == 1201
    owners = [Owner(f"{number:032}", "1" * 32) for number in range(1201)]
    assert place.destroy(owners, erasing=True) == 1201
    assert place.erasures() == 1
    assert place.remove(["t:1"]) == 1201


OWNERS = st.sampled_from([A, B, C])
PEOPLE = st.sampled_from(["t:1", "t:2"])
STEPS = st.one_of(
    st.tuples(st.just("add"), OWNERS, st.builds(entry, st.integers(1, 3), st.integers(0, 2))),
    st.tuples(st.just("destroy"), st.lists(OWNERS, max_size=3).map(tuple), st.booleans()),
    st.tuples(st.just("move"), OWNERS, st.builds(entry, st.integers(1, 3)), OWNERS, st.binary(max_size=9)),
    st.tuples(st.just("append"), st.lists(st.builds(Row, PEOPLE, st.sampled_from("ab"),
              st.integers(NOW + 1, NOW + 9), st.binary(max_size=9)), max_size=3).map(tuple)),
    st.tuples(st.just("remove"), st.lists(PEOPLE, max_size=2, unique=True).map(tuple)),
    st.tuples(st.just("named"), OWNERS.map(lambda owner: owner.name)),
)  # fmt: skip


@pytest.mark.parametrize("kind", ["sqlite", "redis"])
@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(steps=st.lists(STEPS, max_size=25))
def test_every_place_does_what_memory_does(kind, steps, tmp_path_factory, redis_url):
    url = f"{redis_url}?prefix=h{uuid.uuid4().hex[:12]}"
    if kind == "sqlite":
        url = f"sqlite:///{tmp_path_factory.mktemp('place')}/t.db"
    real, model = open_place(url), open_place("memory://")
    real.open(), model.open()
    try:
        for name, *given_ in steps:
            more = {"erasing": given_.pop()} if name == "destroy" else {}
            assert getattr(real, name)(*given_, **more) == getattr(model, name)(*given_, **more), name
            assert real.erasures() == model.erasures()
            assert sorted(real.everybody()) == sorted(model.everybody())
            for person in ("t:1", "t:2"):
                assert list(real.read(person, NOW + 4)) == list(model.read(person, NOW + 4))
            assert real.people() == model.people()
    finally:
        real.close()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("mysql://x", "found the store 'mysql', expected one of memory, redis, sqlite"),
        ("sqlite://", "without a file"),
        ("sqlite:///a.db?mode=ro", "have no option 'mode' (known: none)"),
        ("redis://h:1/0?prefix=a:b", "letters, digits, hyphen"),
        ("redis://:pa/ss@h:1/0", "percent-encode"),
        ("nothing", "A store is named like"),
    ],
)
def test_what_is_no_place(text, said):
    with pytest.raises(StoreError) as caught:
        open_place(text)
    assert said in str(caught.value)
    assert "pa/ss" not in str(caught.value)


def test_nothing_is_made_where_nothing_is_asked_for(tmp_path):
    place = open_place(f"sqlite:///{tmp_path}/t.db")
    assert not place.open(make=False)
    assert list(tmp_path.iterdir()) == []
    assert place.open()
    place.add(A, entry(1))
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o600}
    place.close()
    with pytest.raises(StoreUnavailable):
        place.find(A)
    with pytest.raises(StoreError, match=r"the folder of .* does not exist"):
        open_place(f"sqlite:///{tmp_path}/none/t.db").open()
    (tmp_path / "text.db").write_text("no database at all, but a text of some length" * 50)
    with pytest.raises(StoreUnavailable, match="no SQLite database"):
        open_place(f"sqlite:///{tmp_path}/text.db").open()


def test_a_redis_that_is_not_there():  # a busy machine may be too late to say "refused"
    place = open_place("redis://127.0.0.1:1/0")
    with pytest.raises(StoreUnavailable, match=r"nobody listens there|no answer within"):
        place.open()
    with pytest.raises(StoreUnavailable, match="is not open"):
        place.people()


def test_a_full_disk_keeps_all_or_none(tmp_path):
    place = open_place(f"sqlite:///{tmp_path}/t.db")
    place.open()
    place.append([Row("t:1", "a", NOW, b"a")])
    pages = place._connection.execute("PRAGMA page_count").fetchone()[0]
    place._connection.execute(f"PRAGMA max_page_count={pages + 2}")

    with pytest.raises(StoreUnavailable, match="disk is full"):
        place.append([Row("t:1", f"b{i}", NOW, bytes(3000)) for i in range(9)])
    assert [row.id for row in place.read("t:1", 0)] == ["a"]
    place._connection.execute("PRAGMA max_page_count=100000")
    place.append([Row("t:1", "c", NOW, b"c")])
    assert [row.id for row in place.read("t:1", 0)] == ["a", "c"]
    place.close()


def test_of_a_destroyed_key_no_byte_is_left_in_any_file(tmp_path):
    """Many people, in an order that splits and joins pages; others go on reading."""
    url = f"sqlite:///{tmp_path}/t.db"
    place, reader = open_place(url), open_place(url)
    place.open(), reader.open()
    people = {}
    for number in range(600):
        owner = Owner(os.urandom(16).hex(), "1" * 32)
        people[owner] = Entry(f"t:{os.urandom(8).hex()}", os.urandom(180), 0)
        place.add(owner, people[owner])
        if number % 7 == 0:
            gone = next(iter(people))
            assert place.destroy([gone], erasing=False) == 1
            del people[gone]
    for owner in list(people)[::3]:
        held = people.pop(owner)
        assert place.destroy([owner], erasing=True) == 1
        people_left = reader.find(next(iter(people)))
        assert people_left is not None
        if len(people) % 40 == 0:
            assert place.scrub([held.sealed]) == []
            data = b"".join(path.read_bytes() for path in tmp_path.iterdir())
            assert held.sealed not in data
            assert held.sealed[10:60] not in data
            assert owner.name.encode() not in data
    assert sorted(reader.everybody()) == sorted(people.items())
    place.close(), reader.close()


def test_what_another_program_has_not_overwritten_is_gone_as_well(tmp_path):
    url = f"sqlite:///{tmp_path}/t.db"
    place = open_place(url)
    place.open()
    secret = Entry("t:1", os.urandom(200), 0)
    place._connection.execute("PRAGMA secure_delete=OFF")  # as in a shell
    place.add(A, secret)
    place.destroy([A], erasing=False)
    place._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert any(secret.sealed[50:90] in path.read_bytes() for path in tmp_path.iterdir())

    assert place.scrub([secret.sealed]) == []
    assert not any(secret.sealed[50:90] in path.read_bytes() for path in tmp_path.iterdir())
    place.close()


def test_a_log_that_somebody_holds_is_told(tmp_path, monkeypatch):
    """A reader in the middle of its transaction keeps the log from being emptied."""
    monkeypatch.setattr(sqlite, "_WAIT_S", 0.3)
    url = f"sqlite:///{tmp_path}/t.db"
    place, reader = open_place(url), open_place(url)
    place.open(), reader.open()
    place.add(A, entry(1))
    reader._connection.execute("BEGIN")
    reader._connection.execute("SELECT * FROM person").fetchall()
    place.destroy([A], erasing=True)

    done = []
    working = threading.Thread(target=lambda: done.append(place.scrub([entry(1).sealed])))
    working.start()
    working.join(30)
    ((left,),) = done
    assert "another process reads" in left
    reader._connection.execute("COMMIT")
    assert place.scrub([entry(1).sealed]) == []
    assert not any(entry(1).sealed in path.read_bytes() for path in tmp_path.iterdir())
    place.close(), reader.close()


@pytest.mark.parametrize(
    ("rights", "said"),
    [
        ("+@all", None),
        ("+@all -@dangerous", "does not tell which files it writes"),
        ("+@all -bgrewriteaof", "say BGREWRITEAOF there"),
        ("+@all -config", "say BGSAVE there"),
    ],
)
def test_a_redis_user_with_few_rights(start_redis, rights, said):
    """Everything works but writing the files anew, and that is told. Without dumps BGSAVE makes one only if asked."""
    import redis

    url, _ = start_redis("--appendonly", "yes")
    with redis.Redis.from_url(url) as admin:
        admin.execute_command("ACL", "SETUSER", "few", "on", ">secret-word", "~llmshield:*", *rights.split())
        if "-config" in rights:
            admin.execute_command("ACL", "SETUSER", "few", "-bgsave")
    place = open_place(url.replace("//", "//few:secret-word@"))
    assert place.open()
    now = int(time.time() * 1000)
    place.mark(b"x")
    assert place.add(A, entry(1)) == entry(1)
    place.append([Row("t:1", "a", now + 99_999, b"a")])
    assert (len(list(place.read("t:1", now))), place.sweep(now), len(list(place.everybody()))) == (1, 0, 1)
    assert place.destroy([A], erasing=True) == 1
    left = place.scrub([entry(1).sealed])
    assert place.remove(["t:1"]) == 1
    place.close()

    assert (left == []) if said is None else (said in left[0] and len(left) == 1)
    assert "secret-word" not in str(left)
