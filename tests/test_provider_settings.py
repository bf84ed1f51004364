"""What of a provider was set while it runs: every process sees it, nobody without the key can say it."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from llmshield import provider_settings as settings
from llmshield import vault
from llmshield.errors import SecretError
from llmshield.policy.providers import Models, Timeout
from llmshield.provider_settings import ProviderSettings, Set
from llmshield.stores import Store, open_store
from llmshield.testing import policy

TEXT = """
providers:
  a: {dialect: openai, timeout: {connect: 5s, total: 60s}, models: {allow: ["gpt-*"]}}
  b: {dialect: openai}
"""


@pytest.fixture
async def stores(shared_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Callable[[], Any]]:
    """Opens the same store again and again, as processes do."""
    monkeypatch.setenv("LLMSHIELD_SECRET_KEY", secrets.token_urlsafe(32) + "=")
    opened: list[Store] = []

    async def one() -> Store:
        opened.append(open_store(shared_url))
        await opened[-1].open()
        return opened[-1]

    yield one
    for store in opened:
        await store.close()


async def at_work(store: Store) -> ProviderSettings:
    made = ProviderSettings(policy(TEXT).providers, store)
    await made.start()
    return made


async def test_every_process_sees_it_within_a_second(stores: Any) -> None:
    here, there = await stores(), await stores()
    first, second = await at_work(here), await at_work(there)
    await settings.configure(here, "a", Set(timeout=Timeout(total="30s"), models=Models(allow=("o1",))))
    began = time.monotonic()
    while second.providers["a"].timeout.total != 30.0:
        assert time.monotonic() - began < 5
        await asyncio.sleep(0.02)

    a, b = second.providers["a"], second.providers["b"]
    assert (5.0, 30.0, True, False) == (
        a.timeout.connect,
        a.timeout.total,
        a.models.allows("o1"),
        a.models.allows("gpt-4o"),
    )
    assert (600.0, True) == (b.timeout.total, b.models.allows("gpt-4o"))
    assert second.known("a").since_ms
    await settings.deconfigure(there, "a", frozenset({"models"}))
    await first.refresh()
    assert (30.0, True) == (first.providers["a"].timeout.total, first.providers["a"].models.allows("gpt-4o"))
    await settings.deconfigure(there, "a", frozenset({"timeout", "models"}))
    await first.refresh()
    assert 60.0 == first.providers["a"].timeout.total
    await first.close()
    await second.close()


async def test_two_at_once_lose_nothing(stores: Any) -> None:
    store = await stores()
    await asyncio.gather(
        settings.configure(store, "a", Set(timeout=Timeout(total="30s"))),
        settings.configure(store, "a", Set(timeout=Timeout(idle="7s"))),
        settings.configure(store, "a", Set(models=Models(deny=("x",)))),
    )
    made = await at_work(store)

    a = made.providers["a"]
    assert (30.0, 7.0, False) == (a.timeout.total, a.timeout.idle, a.models.allows("x"))
    await made.close()


@pytest.mark.parametrize("note", [b"", b"{}", b"nonsense", b"other", b"flipped"])
async def test_what_cannot_be_opened_widens_nothing(stores: Any, note: bytes) -> None:
    """A note for another provider, a changed one and garbage: nothing known means no model, what was known goes on."""
    store = await stores()
    await settings.configure(store, "b", Set(models=Models(allow=("o1",))))
    good = await store.look(settings.SHELF, "b", 0)
    assert good is not None
    if note == b"other":
        note = good
    elif note == b"flipped":
        note = good[:-1] + bytes([good[-1] ^ 1])
    await store.put(settings.SHELF, "a", note)
    fresh = await at_work(store)

    assert not fresh.providers["a"].models.allows("gpt-4o")
    assert not fresh.known("a").readable
    assert fresh.providers["b"].models.allows("o1")
    with pytest.raises(SecretError):
        await settings.configure(store, "a", Set(timeout=Timeout(idle="7s")))
    await settings.deconfigure(store, "a", frozenset({"timeout", "models"}))
    await fresh.refresh()
    assert fresh.providers["a"].models.allows("gpt-4o")
    await settings.configure(store, "a", Set(models=Models(allow=("o1",))))
    await fresh.refresh()
    await store.put(settings.SHELF, "a", note)
    await fresh.refresh()
    assert (True, False) == (fresh.providers["a"].models.allows("o1"), fresh.known("a").readable)
    await fresh.close()


async def test_without_a_master_key_nothing_is_set(stores: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    store = await stores()
    monkeypatch.delenv("LLMSHIELD_SECRET_KEY")
    with pytest.raises(SecretError, match="LLMSHIELD_SECRET_KEY"):
        await settings.configure(store, "a", Set(timeout=Timeout(idle="7s")))

    assert {} == await store.notes(settings.SHELF, 0)


async def test_a_new_master_key_takes_them_over(stores: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    store = await stores()
    await settings.configure(store, "a", Set(timeout=Timeout(idle="7s")))
    before = await store.look(settings.SHELF, "a", 0)
    monkeypatch.setenv("LLMSHIELD_PREVIOUS_KEYS", os.environ["LLMSHIELD_SECRET_KEY"])
    monkeypatch.setenv("LLMSHIELD_SECRET_KEY", secrets.token_urlsafe(32) + "=")

    assert 1 == await settings.reseal(store)
    assert 0 == await settings.reseal(store)
    assert before != await store.look(settings.SHELF, "a", 0)
    monkeypatch.delenv("LLMSHIELD_PREVIOUS_KEYS")
    made = await at_work(store)
    assert 7.0 == made.providers["a"].timeout.idle
    assert vault.has_key()
    await made.close()
