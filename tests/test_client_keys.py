"""Keys in the store: their form, and that making and revoking reaches every process within a second."""

import asyncio
import shutil
import time
from pathlib import Path

import orjson
import pytest

from llmshield import client_keys, clock
from llmshield.client_keys import SHELF, ClientKey, KeyTable
from llmshield.errors import ShieldError
from llmshield.stores import open_store
from llmshield.testing import FrozenClock


def test_a_key_can_be_told() -> None:
    keys = {client_keys.make() for _ in range(2000)}

    assert 2000 == len(keys)
    for key in keys:
        assert len(key) == 55
        assert key.isascii()
        assert key.replace("_", "").isalnum()
        assert client_keys.has_our_form(key)
        assert client_keys.is_whole(key)


@pytest.mark.parametrize("at", [6, 20, 48, 49, 54])
def test_a_damaged_key_is_noticed(at: int) -> None:
    key = client_keys.make()
    other = "b" if key[at] == "a" else "a"

    assert not client_keys.is_whole(key[:at] + other + key[at + 1 :])
    assert not client_keys.is_whole(key[:at] + key[at + 1 :])
    assert not client_keys.is_whole(key[:at] + "é" + key[at + 1 :])
    assert not client_keys.is_whole(key + "a")


async def test_the_store_holds_no_key(tmp_path: Path) -> None:
    path = tmp_path / "book.db"
    store = open_store(f"sqlite:///{path}")
    await store.open()
    key, made = await client_keys.create(store, tenant="acme", tier="pro", name="ci")
    notes = await store.notes(SHELF, 0)
    await store.close()

    data = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert made.digest.encode() in data
    assert key.encode() not in data
    assert key[10:30].encode() not in data
    assert {made.digest: made.dump()} == notes


@pytest.mark.parametrize(
    "note",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b'{"tenant": "a"}',
        b"\x80\x04.",
        b'{"tenant":"a","tier":"b","name":"","created_ms":"x","expires_ms":0,"revoked_ms":0}',
    ],
)
def test_a_broken_note_is_no_key(note: bytes) -> None:
    assert ClientKey.load("0" * 64, note) is None


def test_a_note_and_back() -> None:
    made = ClientKey("0" * 64, "acme", None, "ci", 1, 2, 3)

    assert made == ClientKey.load(made.digest, made.dump())
    assert {"tenant", "tier", "name", "created_ms", "expires_ms", "revoked_ms"} == set(
        orjson.loads(made.dump())
    )


@pytest.mark.parametrize(
    ("expires_ms", "revoked_ms", "now_ms", "state"),
    [
        (0, 0, 10**15, "active"),
        (5, 0, 4, "active"),
        (5, 0, 5, "expired"),
        (5, 3, 4, "revoked"),
        (0, 1, 0, "revoked"),
    ],
)
def test_states(expires_ms: int, revoked_ms: int, now_ms: int, state: str) -> None:
    assert state == ClientKey("0", "a", None, "", 0, expires_ms, revoked_ms).state(now_ms)


async def until(true: object, seconds: float = 1.0) -> float:
    """How long it took until `true()`; fails after `seconds`."""
    assert callable(true)
    begun = time.monotonic()
    while not true():
        assert time.monotonic() - begun < seconds, f"not within {seconds} s"
        await asyncio.sleep(0.01)
    return time.monotonic() - begun


async def test_every_process_knows_within_a_second(shared_url: str) -> None:
    """Two stores on one URL are what two processes have."""
    ours, theirs = open_store(shared_url), open_store(shared_url)
    await ours.open()
    await theirs.open()
    changes: list[int] = []
    table = KeyTable(theirs, 60, lambda: changes.append(1))
    await table.start()
    try:
        _, made = await client_keys.create(ours, tenant="acme", tier="pro")
        await until(lambda: table.find(made.digest) is not None)
        assert made == table.find(made.digest)
        revoked = await client_keys.revoke(ours, made)
        await until(lambda: table.is_revoked(made.digest))
        assert revoked == await client_keys.revoke(ours, revoked)
        assert [revoked] == await client_keys.everyone(ours)
        # whoever writes an older state back (a restored backup): a revocation that was seen stays
        await ours.put(SHELF, made.digest, made.dump())
        before = len(changes)
        await until(lambda: len(changes) > before)
        assert table.is_revoked(made.digest)
    finally:
        await table.close()
        await ours.close()
        await theirs.close()


async def test_a_store_that_is_away_is_believed_for_a_while(shared_url: str) -> None:
    with FrozenClock() as frozen:
        store = open_store(shared_url)
        await store.open()
        _, made = await client_keys.create(store, tenant="acme", tier="pro")
        table = KeyTable(store, 60, lambda: None)
        await table.refresh()
        await store.close()
        frozen.advance(59)
        with pytest.raises(ShieldError):
            await table.refresh()
        assert table.find(made.digest) is not None
        assert clock.monotonic() < table.good_until
        frozen.advance(2)
        assert clock.monotonic() >= table.good_until


async def test_keys_that_a_store_has_lost_fade(shared_url: str) -> None:
    """A revoked key stays in the store as revoked: one that is missing was lost."""
    with FrozenClock() as frozen:
        store = open_store(shared_url)
        await store.open()
        _, kept = await client_keys.create(store, tenant="acme", tier="pro")
        _, lost = await client_keys.create(store, tenant="acme", tier="pro")
        table = KeyTable(store, 60, lambda: None)
        await table.refresh()
        await store.strike(SHELF, lost.digest)
        await table.refresh()
        faded = table.find(lost.digest)
        assert faded is not None
        assert clock.monotonic() + 60 == faded.fades_at
        assert table.find(kept.digest) == kept
        frozen.advance(61)
        await client_keys.create(store, tenant="acme", tier="pro")
        await table.refresh()
        assert table.find(lost.digest) is None
        await store.put(SHELF, lost.digest, lost.dump())
        await table.refresh()
        assert table.find(lost.digest) == lost
        await store.close()


async def test_the_watch_goes_on_after_an_outage(tmp_path: Path) -> None:
    path = tmp_path / "book.db"
    url = f"sqlite:///{path}"
    store = open_store(url)
    await store.open()
    table = KeyTable(store, 60, lambda: None)
    await table.start()
    await store.close()
    await asyncio.sleep(2 * client_keys.WATCH_S)
    await store.open()
    _, made = await client_keys.create(store, tenant="acme", tier="pro")
    await until(lambda: table.find(made.digest) is not None)
    await table.close()
    await store.close()
    shutil.rmtree(tmp_path)


@pytest.mark.parametrize(
    "text",
    ["", "*", "%", "0" * 11, "0" * 13, "A" * 12, "' OR 1=1 --", "0123456789a*", "0123456789a\n", "０" * 12],
)
def test_ids_are_hexadecimal_digits_and_nothing_else(text: str) -> None:
    with pytest.raises(ShieldError, match="12 hexadecimal"):
        client_keys.checked_id(text)


def test_a_digest_is_of_the_bytes() -> None:
    """What `printf %s KEY | sha256sum` prints, when a header brought the bytes one by one."""
    assert "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb" == client_keys.digest_of("a")
    assert client_keys.digest_of("é".encode().decode("latin-1")) == client_keys.digest_of("\xc3\xa9")
    assert 64 == len(client_keys.digest_of("\ud800€"))
