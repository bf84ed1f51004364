"""Idempotency-Key: which answers are kept, which are not, and what the store sees of them."""

import asyncio
import hashlib
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from llmshield import idempotency
from llmshield.idempotency import SHELF
from llmshield.simulator import Simulator
from llmshield.stores import open_store
from llmshield.stores.sqlite import SqliteStore
from llmshield.testing import gateway


@pytest.mark.parametrize(
    ("directive", "status", "asked"),
    [
        ("500,first=1", 503, 2),
        ("429,first=1", 429, 2),
        ("reset,first=1", 503, 2),
        ("html,first=1", 503, 2),
        ("400", 400, 1),
        ("404", 404, 1),
    ],
)
async def test_failures_that_may_pass_are_not_kept(
    primary: Simulator, directive: str, status: int, asked: int, post: Any, text_of: Any, body_of: Any
) -> None:
    body = body_of("openai", f"[[simulate {directive}]] hello")
    async with gateway(text_of("memory://", primary.url)) as (url, _), aiohttp.ClientSession() as http:
        first = await post(http, url, body=body)
        second = await post(http, url, body=body)

    assert status == first.status, first.body
    assert asked == len(primary.calls)
    assert second.replayed == (asked == 1)
    assert second.status == (200 if asked == 2 else status)


async def test_refusals_of_the_policy_are_decided_anew(
    primary: Simulator, post: Any, text_of: Any, body_of: Any
) -> None:
    async with gateway(text_of("memory://", primary.url)) as (url, _), aiohttp.ClientSession() as http:
        for _ in range(2):
            answer = await post(http, url, body={**body_of("openai"), "model": "denied-model"})
            assert (404, False) == (answer.status, answer.replayed)
        assert 200 == (await post(http, url)).status  # the key was given back

    assert 1 == len(primary.calls)


async def test_a_stream_that_broke_is_not_kept(
    primary: Simulator, post: Any, text_of: Any, body_of: Any
) -> None:
    body = body_of("openai", "[[simulate cut,first=1,tokens=30]] hello", stream=True)
    async with gateway(text_of("memory://", primary.url)) as (url, _), aiohttp.ClientSession() as http:
        first = await post(http, url, body=body)
        second = await post(http, url, body=body)
        third = await post(http, url, body=body)

    assert b'"error"' in first.body
    assert second.body.endswith(b"data: [DONE]\n\n")
    assert (False, False, True) == (first.replayed, second.replayed, third.replayed)
    assert second.body == third.body


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_the_answer_waits_for_a_client_that_has_left(
    primary: Simulator, store_url: str, stream: bool, post: Any, text_of: Any, body_of: Any, called: Any
) -> None:
    """A timeout, a lost connection: what is under way is finished and kept, and nothing is asked twice."""
    body = body_of("openai", "[[simulate ttft=0.3,delay=0.02,tokens=20]] hello", stream=stream)
    async with (
        gateway(text_of(store_url, primary.url, wait="5s")) as (url, _),
        aiohttp.ClientSession() as http,
    ):
        gone = asyncio.create_task(post(http, url, body=body))
        await called()
        if stream:
            await asyncio.sleep(0.4)
        gone.cancel()
        await asyncio.sleep(0.05)
        again = await post(http, url, body=body)
        plain = await post(http, url, None, body=body)

    assert (200, True) == (again.status, again.replayed)
    assert len(again.body) > 200
    assert not plain.replayed
    assert 2 == len(primary.calls)
    assert not primary.calls[0].disconnected


async def test_a_client_that_leaves_while_the_key_is_claimed_leaves_no_claim(
    primary: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, post: Any, text_of: Any
) -> None:
    put_once = SqliteStore.put_once

    async def slow(self: Any, *args: Any) -> Any:
        note = await put_once(self, *args)
        await asyncio.sleep(0.4)
        return note

    text = text_of(f"sqlite:///{tmp_path}/book.db", primary.url, wait="100ms")
    async with gateway(text) as (url, _), aiohttp.ClientSession() as http:
        monkeypatch.setattr(SqliteStore, "put_once", slow)
        gone = asyncio.create_task(post(http, url))
        await asyncio.sleep(0.2)
        gone.cancel()
        await asyncio.sleep(0.4)
        monkeypatch.setattr(SqliteStore, "put_once", put_once)
        answer = await post(http, url)

    assert (200, False) == (answer.status, answer.replayed)
    assert 1 == len(primary.calls)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_what_is_too_large_to_keep_is_not_asked_again(
    primary: Simulator, stream: bool, post: Any, text_of: Any, body_of: Any
) -> None:
    body = body_of("openai", "[[simulate tokens=2000]] hello", stream=stream)
    async with (
        gateway(text_of("memory://", primary.url, largest="4KiB")) as (url, _),
        aiohttp.ClientSession() as http,
    ):
        first = await post(http, url, body=body)
        second = await post(http, url, body=body)

    assert (200, 409, "false") == (first.status, second.status, second.headers["x-should-retry"])
    assert len(first.body) > 4096
    assert 1 == len(primary.calls)


async def test_the_store_holds_nothing_that_can_be_read(
    primary: Simulator, tmp_path: Path, post: Any, text_of: Any, body_of: Any
) -> None:
    """Answers with restored values, keys and prompts: none of it in any file of the store, in no spelling of bytes."""
    body = body_of("openai", "hello from jo.smith@example.com")
    text = text_of(f"sqlite:///{tmp_path}/book.db", primary.url) + "plugins: [{use: pii, restore: true}]\n"
    async with gateway(text) as (url, _), aiohttp.ClientSession() as http:
        first = await post(http, url, "order-4711", body=body)
        second = await post(http, url, "order-4711", body=body)
        data = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    store = open_store(f"sqlite:///{tmp_path}/book.db")
    await store.open()
    notes = await store.notes(SHELF, 0)
    await store.close()

    assert b"jo.smith@example.com" in first.body
    assert b"jo.smith" not in primary.calls[0].body
    assert second.replayed
    assert first.body == second.body
    assert 1 == len(notes)
    for secret in ("jo.smith@example.com", "order-4711", "hello from", "key-of-acme-0001", "You said"):
        raw = secret.encode()
        for spelling in (raw, raw[::-1], raw.hex().encode(), hashlib.sha256(raw).digest()):
            assert spelling not in data, secret
    for raw in (json.dumps(body).encode(), first.body, b"order-4711"):
        assert hashlib.sha256(raw).hexdigest().encode() not in data


@pytest.mark.parametrize("change", ["flip", "cut", "swap", "empty"])
async def test_a_kept_answer_that_was_changed_is_refused(
    primary: Simulator, tmp_path: Path, change: str, post: Any, text_of: Any
) -> None:
    url_of = f"sqlite:///{tmp_path}/book.db"
    async with gateway(text_of(url_of, primary.url)) as (url, _), aiohttp.ClientSession() as http:
        await post(http, url)
        store = open_store(url_of)
        await store.open()
        (name, note), = (await store.notes(SHELF, 0)).items()  # fmt: skip
        if change == "swap":
            await post(http, url, "order-2")
            notes = await store.notes(SHELF, 0)
            other = next(value for each, value in notes.items() if each != name)
            forged = note[:17] + other[17:]
        else:
            forged = {"flip": note[:-1] + bytes([note[-1] ^ 1]), "cut": note[:40], "empty": note[:17]}[change]
        await store.put(SHELF, name, forged, 2**50)
        await store.close()
        answer = await post(http, url)

    assert 500 == answer.status
    assert b"can't be read" in answer.body


async def test_memory_keeps_no_more_than_its_bound(
    primary: Simulator, monkeypatch: pytest.MonkeyPatch, post: Any, text_of: Any, body_of: Any
) -> None:
    monkeypatch.setattr(idempotency, "IN_MEMORY", 20_000)
    body = body_of("openai", "[[simulate tokens=2000]] hello")
    async with gateway(text_of("memory://", primary.url)) as (url, _), aiohttp.ClientSession() as http:
        for number in range(4):
            await post(http, url, f"k{number}", body=body)
        assert (await post(http, url, "k3", body=body)).replayed
        assert not (await post(http, url, "k0", body=body)).replayed


async def test_a_store_that_is_away_refuses(
    primary: Simulator, tmp_path: Path, post: Any, text_of: Any
) -> None:
    path = tmp_path / "book.db"
    async with (
        gateway(text_of(f"sqlite:///{path}", primary.url)) as (url, _),
        aiohttp.ClientSession() as http,
    ):
        await post(http, url, "first")
        lock = subprocess.Popen(
            [sys.executable, "-c", f"import sqlite3,time;c=sqlite3.connect({str(path)!r},isolation_level=None);"
             "c.execute('begin exclusive');print(flush=True);time.sleep(20)"], stdout=subprocess.PIPE,
        )  # fmt: skip
        assert lock.stdout is not None
        await asyncio.to_thread(lock.stdout.readline)
        begun = time.monotonic()
        answer = await post(http, url, "second")
        plain = await post(http, url, None)
        lock.kill()
        lock.communicate()

        assert 503 == answer.status
        assert time.monotonic() - begun < 5
        assert 200 == plain.status


async def test_an_answer_is_kept_for_its_time(
    primary: Simulator, store_url: str, post: Any, text_of: Any
) -> None:
    text = text_of(store_url, primary.url).replace("{wait:", "{keep: 700ms, wait:")
    async with gateway(text) as (url, _), aiohttp.ClientSession() as http:
        await post(http, url)
        assert (await post(http, url)).replayed
        await asyncio.sleep(0.8)
        assert not (await post(http, url)).replayed

    assert 2 == len(primary.calls)


def test_hkdf_is_the_one_of_the_rfc() -> None:
    """RFC 5869, A.1, first block."""
    import hmac

    secret = hmac.digest(bytes.fromhex("000102030405060708090a0b0c"), b"\x0b" * 22, "sha256")
    expanded = idempotency._expand(secret, bytes.fromhex("f0f1f2f3f4f5f6f7f8f9"))

    assert "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf" == expanded.hex()
