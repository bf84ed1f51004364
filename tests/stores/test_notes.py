"""What every store promises about notes: written, written once, ended, struck, and told apart by a revision."""

import asyncio
import random
import sqlite3
from pathlib import Path

import pytest

from llmshield.stores import Store, open_store
from llmshield.testing import FrozenClock

NOW = 1_900_000_000_000
EVER = 0


async def test_a_note_is_written_replaced_and_struck(store: Store) -> None:
    assert await store.look("keys", "a", NOW) is None
    await store.put("keys", "a", b"one")
    await store.put("keys", "a", b"two")
    await store.put("blocks", "a", b"elsewhere")

    assert await store.look("keys", "a", NOW) == b"two"
    assert await store.notes("keys", NOW) == {"a": b"two"}
    assert await store.strike("keys", "a")
    assert not await store.strike("keys", "a")
    assert await store.look("keys", "a", NOW) is None
    assert await store.notes("keys", NOW) == {}
    assert await store.notes("blocks", NOW) == {"a": b"elsewhere"}


async def test_a_note_ends(store: Store) -> None:
    await store.put("blocks", "short", b"x", NOW + 1_000)
    await store.put("blocks", "long", b"y", NOW + 5_000)
    await store.put("blocks", "ever", b"z")

    assert await store.look("blocks", "short", NOW + 999) == b"x"
    assert await store.look("blocks", "short", NOW + 1_000) is None
    assert (await store.notes("blocks", NOW + 1_000)).keys() == {"long", "ever"}
    await store.put("blocks", "long", b"y")

    before = await store.revision("blocks")
    await store.expire(NOW + 9_000)
    assert await store.revision("blocks") > before
    assert await store.notes("blocks", NOW) == {"long": b"y", "ever": b"z"}, "ended notes are forgotten"
    again = await store.revision("blocks")
    await store.expire(NOW + 9_000)
    assert await store.revision("blocks") == again


async def test_written_once_means_once(store: Store) -> None:
    assert await store.put_once("replies", "k", b"first", NOW + 1_000, NOW) is None
    assert await store.put_once("replies", "k", b"second", NOW + 9_000, NOW + 999) == b"first"
    assert await store.look("replies", "k", NOW) == b"first"
    assert await store.put_once("replies", "k", b"third", NOW + 9_000, NOW + 1_000) is None
    assert await store.look("replies", "k", NOW + 2_000) == b"third"
    await store.expire(NOW + 1_000)
    assert await store.look("replies", "k", NOW + 2_000) == b"third"


async def test_of_many_at_once_one_writes(store: Store) -> None:
    said = await asyncio.gather(
        *[store.put_once("replies", "k", b"%d" % index, NOW + 1_000, NOW) for index in range(40)]
    )

    winner = await store.look("replies", "k", NOW)
    assert said.count(None) == 1
    assert winner == b"%d" % said.index(None)
    assert {answer for answer in said if answer is not None} == {winner}


async def test_a_note_is_swapped_for_what_stands_there(store: Store) -> None:
    assert await store.swap("circuits", "k", b"other", b"one", EVER, NOW) is None
    assert await store.swap("circuits", "k", None, b"one \0 1", NOW + 1_000, NOW) == b"one \0 1"
    before = await store.revision("circuits")
    assert await store.swap("circuits", "k", None, b"two", EVER, NOW) == b"one \0 1"
    assert await store.swap("circuits", "k", b"one", b"two", EVER, NOW) == b"one \0 1"
    assert await store.revision("circuits") == before, "nothing was written"
    assert await store.swap("circuits", "k", b"one \0 1", b"two", NOW + 1_000, NOW) == b"two"
    assert await store.revision("circuits") > before
    assert await store.swap("circuits", "k", None, b"three", EVER, NOW + 1_000) == b"three", "two had ended"

    assert await store.look("circuits", "k", NOW + 9_000) == b"three"


async def test_of_many_swaps_at_once_one_is_made(store: Store) -> None:
    await store.put("circuits", "k", b"old")
    said = await asyncio.gather(
        *[store.swap("circuits", "k", b"old", b"%d" % index, EVER, NOW) for index in range(40)]
    )

    won = [index for index, value in enumerate(said) if value == b"%d" % index]
    assert len(won) == 1
    assert set(said) == {b"%d" % won[0]}


async def test_the_revision_rises_with_every_change_and_no_other(store: Store) -> None:
    seen = [await store.revision("keys")]
    assert seen == [0]
    for change in (
        store.put("keys", "a", b"1"),
        store.put("keys", "a", b"1"),
        store.put_once("keys", "b", b"1", EVER, NOW),
        store.strike("keys", "a"),
    ):
        await change
        seen.append(await store.revision("keys"))
    assert sorted(set(seen)) == seen

    await store.put_once("keys", "b", b"2", EVER, NOW)
    await store.strike("keys", "nobody")
    await store.put("blocks", "x", b"")
    await store.look("keys", "b", NOW)
    await store.notes("keys", NOW)
    assert await store.revision("keys") == seen[-1]


async def test_others_see_it(url: str, store: Store) -> None:
    if not store.shared:
        return
    other = open_store(url)
    await other.open()
    before = await other.revision("keys")
    await store.put("keys", "a", b"1")

    assert await other.revision("keys") > before
    assert await other.look("keys", "a", NOW) == b"1"
    assert await other.strike("keys", "a")
    assert await store.look("keys", "a", NOW) is None
    await other.close()


@pytest.mark.parametrize("key", ["", " ", "a b", "line\nfeed", "ü€|{}", "*", "%_", "'; DROP TABLE note; --"])
async def test_names_and_values_are_taken_literally(store: Store, key: str) -> None:
    value = bytes(random.Random(key).randrange(256) for _ in range(300)) + b" \n\0 7 "
    await store.put("keys", key, value, NOW + 10)
    await store.put("keys", "other", b"")

    assert await store.look("keys", key, NOW) == value
    assert await store.notes("keys", NOW) == {key: value, "other": b""}
    await store.expire(NOW + 10)
    assert await store.notes("keys", NOW) == {"other": b""}


async def test_a_large_note(store: Store) -> None:
    await store.put_once("replies", "k", b"x" * 1_000_000, NOW + 1, NOW)

    assert await store.look("replies", "k", NOW) == b"x" * 1_000_000


async def test_a_revision_of_a_new_file_is_beyond_a_lost_one(tmp_path: Path) -> None:
    """A process that kept a copy must never take an emptied store for the state it knows."""
    seen = []
    for name in ("lost.db", "new.db"):
        opened = open_store(f"sqlite:///{tmp_path / name}")
        await opened.open()
        for index in range(5 if name == "lost.db" else 1):
            await opened.put("keys", str(index), b"")
        seen.append(await opened.revision("keys"))
        await opened.close()
    with FrozenClock(1_000.0):
        opened = open_store(f"sqlite:///{tmp_path / 'new.db'}")
        await opened.open()
        await opened.put("keys", "a", b"")
        seen.append(await opened.revision("keys"))
        await opened.close()

    assert sorted(set(seen)) == seen


async def test_an_older_file_gets_its_notes(tmp_path: Path) -> None:
    file = tmp_path / "old.db"
    opened = open_store(f"sqlite:///{file}")
    await opened.open()
    await opened.close()
    with sqlite3.connect(file) as connection:
        connection.execute("DROP TABLE note")
        connection.execute("DROP TABLE shelf")
        connection.execute("PRAGMA user_version=1")
    connection.close()

    opened = open_store(f"sqlite:///{file}")
    await opened.open()
    await opened.put("keys", "a", b"1")
    assert await opened.look("keys", "a", NOW) == b"1"
    await opened.close()
