"""Providers' keys at work: read anew, lost and found again, revoked, configured. Real files, stores and clocks; the
times are short, and nothing is asserted about how long something took but that it happens at all."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmshield import provider_keys, resolvers, vault
from llmshield.errors import SecretError, UpstreamError
from llmshield.provider_keys import ProviderKeys
from llmshield.resolvers import SecretRef
from llmshield.stores import Store, open_store

CANARY = "CANARY-77c1"


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    store = open_store(f"sqlite:///{tmp_path}/book.db")
    await store.open()
    yield store
    await store.close()


@contextlib.asynccontextmanager
async def running(
    store: Store,
    base: Path,
    references: dict[str, str | None],
    *,
    lifetime_s: float = 0.05,
    outage_s: float = 3600.0,
) -> AsyncIterator[ProviderKeys]:
    parsed = {name: SecretRef.parse(text) if text else None for name, text in references.items()}
    keys = ProviderKeys(parsed, base, store, lifetime_s=lifetime_s, outage_s=outage_s)
    await keys.start()
    try:
        yield keys
    finally:
        await keys.close()


async def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


def refused(keys: ProviderKeys, name: str) -> str:
    """What a call is told that needs this key; "" where there is one."""
    try:
        keys.get(name)
    except UpstreamError as error:
        return f"{error.reason}: {error}"
    return ""


async def test_what_there_is(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", CANARY)
    async with running(store, tmp_path, {"a": "env://SOME_KEY", "b": None}) as keys:
        assert CANARY == keys.get("a")
        assert keys.get("b") is None
        assert keys.get("app") is None
        assert {"from": "env", "state": "good", "failing": None} == {
            name: value for name, value in keys.status("a").items() if name != "age_s"
        }
        assert CANARY not in repr(keys._held) + str(keys.status("a"))


async def test_a_start_without_a_key_is_refused(store: Store, tmp_path: Path) -> None:
    with pytest.raises(SecretError, match=r"providers\.a\.api_key: file://none can't be read"):
        async with running(store, tmp_path, {"b": None, "a": "file://none"}):
            pass


async def test_a_changed_key_needs_no_restart(store: Store, tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("one")
    async with running(store, tmp_path, {"a": "file://key"}) as keys:
        assert "one" == keys.get("a")
        file.write_text("two")
        await until(lambda: keys.get("a") == "two")


async def test_a_lost_place_keeps_the_last_value_for_its_time(store: Store, tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("one")
    async with running(store, tmp_path, {"a": "file://key", "b": None}, outage_s=0.5) as keys:
        file.unlink()
        await until(lambda: keys.status("a")["state"] == "outage")
        assert "one" == keys.get("a")
        assert "No such file" in keys.status("a")["failing"]
        await until(lambda: keys.status("a")["state"] == "lost")
        assert "key: The key of provider 'a' can't be read" in refused(keys, "a")
        assert keys.get("b") is None
        file.write_text("two")
        await until(lambda: not refused(keys, "a"))
        assert ("two", "good") == (keys.get("a"), keys.status("a")["state"])


async def test_revoked_and_lifted(store: Store, tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("one")
    async with running(store, tmp_path, {"a": "file://key", "b": None}, lifetime_s=3600.0) as keys:
        await provider_keys.revoke(store, "a", "leaked")
        await provider_keys.revoke(store, "b")
        await until(lambda: bool(refused(keys, "a") and refused(keys, "b")))
        assert "The key of provider 'a' was revoked" in refused(keys, "a")
        assert "revoked" == keys.status("a")["state"]
        assert {"a", "b"} == set(await provider_keys.revoked(store))

        file.write_text("two")
        assert await provider_keys.lift(store, "a")
        await until(lambda: not refused(keys, "a"))
        assert "two" == keys.get("a")
        assert refused(keys, "b")
        assert {"b"} == set(await provider_keys.revoked(store))


async def test_a_lost_note_takes_no_revocation_back(store: Store, tmp_path: Path) -> None:
    async with running(store, tmp_path, {"b": None, "c": None}) as keys:
        await provider_keys.revoke(store, "b")
        await until(lambda: bool(refused(keys, "b")))
        assert await store.strike(provider_keys.SHELF, "revoked:b")
        await provider_keys.revoke(store, "c")
        await until(lambda: bool(refused(keys, "c")))
        assert refused(keys, "b")


async def test_a_start_knows_what_was_revoked(store: Store, tmp_path: Path) -> None:
    """Its key need not even be there any more."""
    await provider_keys.revoke(store, "a")
    async with running(store, tmp_path, {"a": "file://none", "b": None}) as keys:
        assert "revoked" in refused(keys, "a")
        assert keys.get("b") is None


async def test_a_configured_key_comes_first(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(vault.VARIABLE, vault.new_key())
    monkeypatch.setenv("SOME_KEY", "from-the-policy")
    async with running(store, tmp_path, {"a": "env://SOME_KEY", "b": None}, lifetime_s=3600.0) as keys:
        for name in ("a", "b"):
            await provider_keys.configure(store, name, f"{CANARY}-{name}")
            await until(lambda name=name: not refused(keys, name) and keys.get(name) == f"{CANARY}-{name}")
            assert ("store", "good") == (keys.status(name)["from"], keys.status(name)["state"])
        notes = await store.notes(provider_keys.SHELF, 0)
        assert CANARY.encode() not in b"".join(notes.values())

        # one that was sealed for another provider is good for nobody: neither the store's nor the policy's is used
        await store.put(provider_keys.SHELF, "key:a", notes["key:b"])
        await until(lambda: "sealed for 'b', not for 'a'" in (keys.status("a")["failing"] or ""))
        assert "can't be read" in refused(keys, "a")

        assert await provider_keys.deconfigure(store, "a")
        await until(lambda: not refused(keys, "a") and keys.get("a") == "from-the-policy")


async def test_no_call_falls_between_two_keys(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(vault.VARIABLE, vault.new_key())
    monkeypatch.setenv("SOME_KEY", "from-the-policy")
    resolve = resolvers.resolve

    def slowly(*given: Any) -> str:
        time.sleep(0.1)
        return resolve(*given)

    async with running(store, tmp_path, {"a": "env://SOME_KEY"}, lifetime_s=3600.0) as keys:
        monkeypatch.setattr(resolvers, "resolve", slowly)
        seen = [keys.get("a")]
        for key in ("the-second-key", "the-third-key"):
            await provider_keys.configure(store, "a", key)
            async with asyncio.timeout(10):
                while seen[-1] != key:
                    seen.append(keys.get("a"))  # raises where there is none
                    await asyncio.sleep(0.001)

    assert [name for name, _ in itertools.groupby(seen)] == [
        "from-the-policy",
        "the-second-key",
        "the-third-key",
    ]


async def test_stored_keys_are_sealed_anew(
    store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    old = vault.new_key()
    monkeypatch.setenv(vault.VARIABLE, old)
    await provider_keys.configure(store, "a", CANARY)
    monkeypatch.setenv(vault.VARIABLE, vault.new_key())
    with pytest.raises(SecretError, match="not here"):
        await provider_keys.reseal(store)
    monkeypatch.setenv(vault.PREVIOUS, old)
    assert [1, 0] == [await provider_keys.reseal(store) for _ in range(2)]
    monkeypatch.delenv(vault.PREVIOUS)
    async with running(store, tmp_path, {"a": None}) as keys:
        assert CANARY == keys.get("a")


@given(note=st.binary(max_size=60) | st.recursive(
    st.none() | st.integers(-(2**63), 2**63 - 1) | st.text(max_size=9), lambda inner: st.dictionaries(
        st.sampled_from(["revoked_ms", "lifted_ms", "sealed", "x"]), inner, max_size=3)).map(orjson.dumps))  # fmt: skip
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_no_note_ends_the_looking(note: bytes, tmp_path: Path) -> None:
    async def look() -> None:
        store = open_store("memory://")
        await store.open()
        await store.put(provider_keys.SHELF, "revoked:a", note)
        await store.put(provider_keys.SHELF, "key:a", note)
        keys = ProviderKeys({"a": None}, tmp_path, store)
        await keys._look()
        assert isinstance(await provider_keys.revoked(store), dict)
        assert isinstance(await provider_keys.configured(store), dict)

    asyncio.run(look())


@pytest.mark.parametrize("note", [b"", b"x", b"[]", b'{"revoked_ms": "x", "sealed": 7}'])
async def test_broken_notes_break_nothing(note: bytes, store: Store, tmp_path: Path) -> None:
    async with running(store, tmp_path, {"a": None, "b": None}) as keys:
        await store.put(provider_keys.SHELF, "revoked:a", note)
        await provider_keys.revoke(store, "b")
        await until(lambda: bool(refused(keys, "b")))
        assert keys.get("a") is None


async def test_a_place_that_hangs_does_not_hold_the_others(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provider_keys, "RESOLVE_S", 0.2)
    fifo, file = tmp_path / "fifo", tmp_path / "key"
    fifo.write_text("one")
    file.write_text("one")
    async with running(store, tmp_path, {"a": "file://fifo", "b": "file://key"}) as keys:
        fifo.unlink()
        os.mkfifo(fifo)  # opening it waits for a writer
        await until(lambda: "did not answer within" in (keys.status("a")["failing"] or ""))
        file.write_text("two")
        await until(lambda: keys.get("b") == "two")
        assert "one" == keys.get("a")
        await until(lambda: keys._held["a"].wait_s > 2)  # it was tried again
        waiting = [each for each in threading.enumerate() if each.name == "llmshield-key-a"]
    assert 1 == len(waiting)  # not one more with each try
    os.close(os.open(fifo, os.O_WRONLY | os.O_NONBLOCK))
    waiting[0].join(20)


async def test_a_place_that_is_slow_holds_up_no_other_key(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUICK_KEY", "quick-key-0123456789")
    monkeypatch.setenv("SLOW_KEY", "slow-key-0123456789")
    resolve, go_on = resolvers.resolve, threading.Event()

    def slowly(reference: Any, base: Path, name: str) -> str:
        if name == "slow" and not go_on.wait(30):
            raise SecretError("it was never told to go on")
        return resolve(reference, base, name)

    places: dict[str, str | None] = {"quick": "env://QUICK_KEY", "slow": "env://SLOW_KEY"}
    async with running(store, tmp_path, places, lifetime_s=3600.0) as keys:
        monkeypatch.setattr(resolvers, "resolve", slowly)
        monkeypatch.setenv("QUICK_KEY", "another-key-0123456789")
        for held in keys._held.values():  # both are due at once
            held.next_at = 0.0
        keys._wake.set()
        try:
            await until(lambda: keys.get("quick") == "another-key-0123456789", 3.0)
        finally:
            go_on.set()
