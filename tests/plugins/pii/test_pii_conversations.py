"""Placeholders of a conversation, on every store: the same over its calls, nobody else's, and gone in time."""

from __future__ import annotations

import asyncio
import base64
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from llmshield.call import Call
from llmshield.errors import CallError, SecretError
from llmshield.stores import Store, open_store
from llmshield.testing import FrozenClock, Lent, filtered, policy, read, run_hook
from llmshield_plugins.pii import Pii
from llmshield_plugins.pii.conversations import MOST, SHELF, packed, unpacked
from llmshield_plugins.pii.placeholders import Given

HEADER = "x-llmshield-conversation"


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMSHIELD_SECRET_KEY", base64.urlsafe_b64encode(os.urandom(32)).decode())


@pytest.fixture(params=["memory", "sqlite", "redis"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "memory":
        return "memory://"
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'book.db'}"
    return f"{request.getfixturevalue('redis_url')}?prefix=c{os.urandom(6).hex()}"


@pytest.fixture
async def store(url: str) -> AsyncIterator[Store]:
    opened = open_store(url)
    await opened.open()
    yield opened
    await opened.close()


async def started(store: Store, **conversation: Any) -> Pii:
    made = Pii(Pii.Settings(presidio=False, conversation=conversation or {}))
    made.name = "pii"
    await made.start(Lent(store))
    return made


def said(text: str, conversation: str = "c1", tenant: str = "acme", **headers: str) -> Call:
    return read(
        {"model": "m", "messages": [{"role": "user", "content": text}]},
        headers={HEADER: conversation, **headers}, tenant=tenant,
    )  # fmt: skip


async def sent(plugin: Pii, call: Call) -> str:
    return (await run_hook(plugin, "pre_request", call)).texts[0]


async def test_a_value_has_one_placeholder_in_all_calls(store: Store) -> None:
    plugin, other = await started(store), await started(store)

    assert await sent(plugin, said("I am a@corp.example")) == "I am <EMAIL_ADDRESS_1>"
    assert (
        await sent(other, said("Not b@corp.example, a@corp.example"))
        == "Not <EMAIL_ADDRESS_2>, <EMAIL_ADDRESS_1>"
    )
    later = said("And what is my address?")
    assert await sent(plugin, later) == "And what is my address?"
    assert await filtered(plugin, later, ["It is <EMAIL", "_ADDRESS_1> or <EMAIL_ADDRESS_2>, not <EMAIL_ADDRESS_3>"]) == (
        "It is a@corp.example or b@corp.example, not <EMAIL_ADDRESS_3>", None,
    )  # fmt: skip


@pytest.mark.parametrize(
    "call",
    [
        said("<EMAIL_ADDRESS_1>?", tenant="globex"),
        said("<EMAIL_ADDRESS_1>?", conversation="c2"),
        said("<EMAIL_ADDRESS_1>?", tenant="anonymous"),
        said("<EMAIL_ADDRESS_1>?", tenant='acme", "", "c1'),
        said("<EMAIL_ADDRESS_1>?", conversation="c1\0"),
        read({"model": "m", "messages": [{"role": "user", "content": "<EMAIL_ADDRESS_1>?"}]}, tenant="acme"),
    ],
    ids=["tenant", "conversation", "nobody", "tenant that looks like both", "another id", "no id"],
)
async def test_nobody_else_gets_a_value(store: Store, call: Call) -> None:
    plugin = await started(store)
    await sent(plugin, said("I am a@corp.example"))
    await sent(plugin, call)

    assert (await filtered(plugin, call, ["<EMAIL_ADDRESS_1>"]))[0] == "<EMAIL_ADDRESS_1>"


async def test_callers_without_a_name_are_told_apart_by_their_key(store: Store) -> None:
    plugin = await started(store)
    await sent(plugin, said("I am a@corp.example", tenant="anonymous", authorization="Bearer one"))
    same = said("?", tenant="anonymous", authorization="Bearer one")
    other = said("?", tenant="anonymous", authorization="Bearer two")
    await sent(plugin, same)
    await sent(plugin, other)

    assert (await filtered(plugin, same, ["<EMAIL_ADDRESS_1>"]))[0] == "a@corp.example"
    assert (await filtered(plugin, other, ["<EMAIL_ADDRESS_1>"]))[0] == "<EMAIL_ADDRESS_1>"


async def test_a_note_moved_to_another_conversation_does_not_open(store: Store) -> None:
    """Who writes into the store can't make one tenant's values another's."""
    plugin = await started(store)
    await sent(plugin, said("I am a@corp.example"))
    now = 0
    (raw,) = (await store.notes(SHELF, now)).values()
    assert plugin._conversations is not None
    page = plugin._conversations.page(said("x", tenant="globex"))
    assert page is not None
    await store.put(SHELF, page._place, raw)

    with pytest.raises(CallError) as refused:
        await sent(plugin, said("x@corp.example", tenant="globex"))
    assert "corp.example" not in str(refused.value)


async def test_calls_at_once_give_no_number_twice(store: Store) -> None:
    plugins = [await started(store) for _ in range(3)]
    texts = [f"I am user{number}@corp.example" for number in range(9)]
    made = await asyncio.gather(*(sent(plugins[number % 3], said(text)) for number, text in enumerate(texts)))

    assert sorted(made) == sorted(f"I am <EMAIL_ADDRESS_{number}>" for number in range(1, 10))
    last = said("?")
    await sent(plugins[0], last)
    for text, placeholder in zip(texts, made, strict=True):
        assert (await filtered(plugins[0], last, [placeholder]))[0] == text


async def test_it_is_gone_after_its_lifetime_and_kept_while_it_is_used(store: Store) -> None:
    with FrozenClock() as time:
        plugin = await started(store, ttl="60s")
        await sent(plugin, said("I am a@corp.example"))
        time.advance(40)
        await sent(plugin, said("hello"))
        time.advance(40)
        used = said("hello")
        await sent(plugin, used)
        assert (await filtered(plugin, used, ["<EMAIL_ADDRESS_1>"]))[0] == "a@corp.example"
        time.advance(61)
        late = said("hello")
        await sent(plugin, late)

        assert (await filtered(plugin, late, ["<EMAIL_ADDRESS_1>"]))[0] == "<EMAIL_ADDRESS_1>"
        assert await sent(plugin, said("I am b@corp.example")) == "I am <EMAIL_ADDRESS_1>"


async def test_surrogates_hold_for_a_conversation(store: Store) -> None:
    plugin = Pii(Pii.Settings(presidio=False, entities={"*": "fake"}, conversation={}))
    plugin.name = "pii"
    await plugin.start(Lent(store))
    first = await sent(plugin, said("I am a@corp.example"))
    call = said("hello")
    await sent(plugin, call)

    assert "a@corp.example" not in first
    assert (await filtered(plugin, call, [first]))[0] == "I am a@corp.example"
    assert await sent(plugin, said("I am a@corp.example")) == first


async def test_the_store_s_files_hold_no_value(tmp_path: Path, start_redis: Callable[..., Any]) -> None:
    """In no spelling: plain, base64, hex, UTF-16."""
    url, server = start_redis("--appendonly", "yes", "--appendfsync", "always", folder=tmp_path / "redis")
    for where in (f"sqlite:///{tmp_path / 'book.db'}", url):
        store = open_store(where)
        await store.open()
        plugin = await started(store)
        await sent(plugin, said("I am canary.person@corp.example, card 4111 1111 1111 1111"))
        await sent(plugin, said("Also canary.second@corp.example"))
        await store.close()
    server.terminate()
    server.wait(10)
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    data = b"".join(file.read_bytes() for file in files)
    values = [b"canary.person", b"canary.second", b"4111 1111", b"corp.example", b"EMAIL_ADDRESS", b"c1"]

    assert len(files) >= 2
    assert SHELF.encode() in data
    for value in values[:-1]:
        for spelled in (
            value,
            base64.b64encode(value)[:-3],
            value.hex().encode(),
            value.decode().encode("utf-16-le"),
        ):
            assert spelled not in data


async def test_a_store_that_is_away_refuses_or_leaves_the_call_to_itself(
    start_redis: Callable[..., Any], tmp_path: Path
) -> None:
    url, server = start_redis("--appendonly", "yes", "--appendfsync", "always", folder=tmp_path / "redis")
    store = open_store(url)
    await store.open()
    closed, alone = await started(store), await started(store, on_lost="per_call")
    await sent(closed, said("I am a@corp.example"))
    server.terminate()
    server.wait(10)

    with pytest.raises(CallError) as refused:
        await sent(closed, said("I am b@corp.example"))
    assert refused.value.kind == "store_unavailable"
    with pytest.raises(CallError):
        await sent(closed, said("nothing personal"))
    call = said("I am b@corp.example")
    assert await sent(alone, call) == "I am <EMAIL_ADDRESS_1>"
    assert (await filtered(alone, call, ["<EMAIL_ADDRESS_1>"]))[0] == "b@corp.example"
    await store.close()


async def test_without_a_key_only_a_store_of_this_process_will_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("LLMSHIELD_SECRET_KEY")
    shared, own = open_store(f"sqlite:///{tmp_path / 'book.db'}"), open_store("memory://")
    await own.open()

    with pytest.raises(SecretError):
        await started(shared)
    plugin = await started(own)
    assert await sent(plugin, said("a@corp.example")) == await sent(plugin, said("a@corp.example"))


@pytest.mark.parametrize(
    ("sources", "body", "headers", "names"),
    [
        (["header:X-Chat"], {}, {"x-chat": "7"}, True),
        (["metadata:chat"], {"metadata": {"chat": "7"}}, {}, True),
        (["body:/extra/chat"], {"extra": {"chat": "7"}}, {}, True),
        (["header:x-chat", "metadata:chat"], {"metadata": {"chat": "7"}}, {}, True),
        (["header:x-chat"], {}, {}, False),
        (["metadata:chat"], {"metadata": "7"}, {}, False),
    ],
)
async def test_where_a_call_names_its_conversation(
    sources: list[str], body: dict[str, Any], headers: dict[str, str], names: bool
) -> None:
    store = open_store("memory://")
    await store.open()
    plugin = await started(store, id=sources)
    call = read({"model": "m", "messages": [], **body}, headers=headers)
    assert plugin._conversations is not None

    assert (plugin._conversations.page(call) is not None) == names


async def test_an_id_that_is_none_is_the_client_s_error() -> None:
    store = open_store("memory://")
    await store.open()
    plugin = await started(store, id="metadata:chat")
    for wrong in ({"a": 1}, 7, "x" * 300):
        call = read({"model": "m", "messages": [], "metadata": {"chat": wrong}})
        assert (await run_hook(plugin, "pre_request", call)).verdict.kind == "bad_request"


async def test_monitor_mode_keeps_nothing() -> None:
    store = open_store("memory://")
    await store.open()
    plugin = await started(store)
    await run_hook(plugin, "pre_request", said("I am a@corp.example"), enforced=False)

    assert await store.notes(SHELF, 0) == {}


def test_the_oldest_values_are_forgotten_and_their_numbers_are_not() -> None:
    given = Given(
        {f"EMAIL_ADDRESS_{n}": f"u{n}@x.example" for n in range(1, MOST + 10)},
        {},
        {"EMAIL_ADDRESS": MOST + 9},
    )
    kept, until = unpacked(packed(given, 17))

    assert until == 17
    assert len(kept.originals) == MOST
    assert "EMAIL_ADDRESS_1" not in kept.originals
    assert kept.numbers == {"EMAIL_ADDRESS": MOST + 9}


@pytest.mark.parametrize("wrong", ["cookie:x", "header:", "metadata:a b", "body:chat"])
def test_what_names_no_place_is_a_finding_about_the_policy(wrong: str) -> None:
    with pytest.raises(Exception, match="conversation"):
        policy(f"plugins: [{{use: pii, conversation: {{id: '{wrong}'}}}}]")


async def test_a_long_call_is_read_in_a_thread_and_agreed_on_the_loop(store: Store) -> None:
    """Through the engine's step: the hook computes in a thread, then asks the store on the loop."""
    from llmshield.chain import Step, Trail, run_step

    plugin = await started(store)
    call = said("word " * 9000 + "a@corp.example")
    step = Step("pii", "pre_request", plugin.pre_request, False, False, True, False, 30.0, True, 16)
    trail = Trail(size=50_000)
    await run_step(step, trail, call)

    assert call.texts[0].value.endswith("<EMAIL_ADDRESS_1>")
    assert trail.took[-1].action == "redact"
    assert call.state[plugin].originals == {"EMAIL_ADDRESS_1": "a@corp.example"}
