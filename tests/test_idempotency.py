"""Idempotency-Key: asked once, answered as often as it is sent; what is kept, what is not, and what the store sees."""

import asyncio
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from llmshield import idempotency
from llmshield.idempotency import HEADER, SHELF
from llmshield.mounts.asgi import ShieldMiddleware
from llmshield.simulator import Simulator, SimulatorThread
from llmshield.stores import open_store
from llmshield.stores.sqlite import SqliteStore
from llmshield.testing import gateway, policy

KEYS = {name: f"key-of-{name}-0001" for name in ("acme", "acme2", "beta")}
HASHES = {name: "sha256:" + hashlib.sha256(key.encode()).hexdigest() for name, key in KEYS.items()}
POLICY = f"""
server: {{store: "STORE", paths: [{{match: "/v1/audio/*", action: pass}}], idempotency: {{wait: WAIT, largest: LARGEST}}}}
providers:
  o: {{dialect: openai, base_url: URL/v1, api_key: env://PROVIDER_KEY}}
  a: {{dialect: anthropic, base_url: URL, api_key: env://PROVIDER_KEY}}
  g: {{dialect: gemini, base_url: URL, api_key: env://PROVIDER_KEY}}
tenants:
  acme: {{tier: pro, keys: ["{HASHES["acme"]}", "{HASHES["acme2"]}"]}}
  beta: {{tier: pro, keys: ["{HASHES["beta"]}"]}}
  anonymous: {{tier: pro}}
tiers: {{pro: {{}}}}
routes:
  - {{match: {{model: denied-model}}, deny: {{}}}}
  - {{match: {{model: "claude-*"}}, to: [a]}}
  - {{match: {{model: "gemini-*"}}, to: [g]}}
  - {{match: {{any: true}}, to: [o]}}
"""
PATHS = {
    "openai": "/v1/chat/completions",
    "responses": "/v1/responses",
    "embeddings": "/v1/embeddings",
    "anthropic": "/v1/messages",
    "gemini": "/v1beta/models/gemini-2.5-flash:generateContent",
    "gemini stream": "/v1beta/models/gemini-2.5-flash:streamGenerateContent",
    "passed": "/v1/audio/speech",
}


def text_of(store: str, url: str, wait: str = "10s", largest: str = "1MiB") -> str:
    return (
        POLICY.replace("STORE", store).replace("URL", url).replace("WAIT", wait).replace("LARGEST", largest)
    )


def body_of(dialect: str, text: str = "hello", **more: Any) -> dict[str, Any]:
    message = [{"role": "user", "content": text}]
    if dialect.startswith("gemini"):
        return {"contents": [{"role": "user", "parts": [{"text": text}]}], **more}
    if dialect == "responses":
        return {"model": "gpt-4o", "input": text, **more}
    if dialect == "embeddings":
        return {"model": "text-embedding-3-small", "input": text, **more}
    if dialect == "anthropic":
        return {"model": "claude-sonnet-4-5", "max_tokens": 50, "messages": message, **more}
    return {"model": "gpt-4o", "messages": message, **more}


class Answer:
    """What a client got."""

    def __init__(self, status: int, headers: Any, body: bytes) -> None:
        self.status, self.headers, self.body = status, headers, body

    @property
    def replayed(self) -> bool:
        return self.headers.get("idempotent-replayed") == "true"


async def post(
    http: aiohttp.ClientSession, url: str, key: str | None = "order-1", dialect: str = "openai", who: str = "acme",
    body: Any = None, **headers: str,
) -> Answer:  # fmt: skip
    sent = {"content-type": "application/json", "anthropic-version": "2023-06-01", **headers}
    if who:
        sent["x-api-key"] = KEYS[who]
    if key is not None:
        sent[HEADER] = key
    data = (
        body
        if isinstance(body, bytes)
        else json.dumps(body if body is not None else body_of(dialect)).encode()
    )
    query = "?alt=sse" if dialect == "gemini stream" else ""
    async with http.post(url + PATHS[dialect] + query, data=data, headers=sent) as reply:
        return Answer(reply.status, reply.headers, await reply.read())


@pytest.fixture(autouse=True)
def provider_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROVIDER_KEY", "sk-provider-key-1")


@pytest.fixture(params=["memory", "sqlite", "redis"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "redis":
        return f"{request.getfixturevalue('redis_url')}?prefix=i{time.monotonic_ns()}"
    return "memory://" if request.param == "memory" else f"sqlite:///{tmp_path}/book.db"


@pytest.mark.parametrize(
    ("dialect", "stream"),
    [*((dialect, False) for dialect in PATHS), ("openai", True), ("responses", True), ("anthropic", True)],
)
async def test_the_same_call_is_asked_once(primary: Simulator, dialect: str, stream: bool) -> None:
    body = body_of(dialect, **({"stream": True} if stream else {}))
    async with gateway(text_of("memory://", primary.url)) as (url, _), aiohttp.ClientSession() as http:
        first = await post(http, url, dialect=dialect, body=body)
        second = await post(http, url, dialect=dialect, body=body)

        assert 1 == len(primary.calls)
        assert (first.status, first.body) == (second.status, second.body)
        assert (False, True) == (first.replayed, second.replayed)
        assert first.headers["content-type"] == second.headers["content-type"]
        assert first.headers["x-llmshield-request-id"] != second.headers["x-llmshield-request-id"]
        assert "x-llmshield-cost" not in second.headers
        assert HEADER not in dict(primary.calls[0].headers)
        assert first.body


async def test_without_the_header_or_with_it_switched_off_each_call_is_asked(primary: Simulator) -> None:
    async with gateway(text_of("memory://", primary.url)) as (url, _), aiohttp.ClientSession() as http:
        for _ in range(2):
            await post(http, url, None)
    off = text_of("memory://", primary.url).replace("{wait: 10s, largest: 1MiB}", "null")
    async with gateway(off) as (url, _), aiohttp.ClientSession() as http:
        for _ in range(2):
            assert not (await post(http, url)).replayed

    assert 4 == len(primary.calls)


@pytest.mark.parametrize("dialect", ["openai", "anthropic", "gemini"])
async def test_another_body_is_refused_in_the_clients_words(primary: Simulator, dialect: str) -> None:
    async with gateway(text_of("memory://", primary.url)) as (url, _), aiohttp.ClientSession() as http:
        await post(http, url, dialect=dialect)
        for body in (
            body_of(dialect, "other"),
            body_of(dialect, temperature=1),
        ):
            other = await post(http, url, dialect=dialect, body=body)

            assert 422 == other.status
            assert "false" == other.headers["x-should-retry"]
            error = json.loads(other.body)["error"]
            said = {
                "openai": error.get("code"),
                "anthropic": error.get("type"),
                "gemini": error.get("status"),
            }
            expected = {
                "openai": "idempotency_key_reused",
                "anthropic": "invalid_request_error",
                "gemini": "INVALID_ARGUMENT",
            }
            assert expected[dialect] == said[dialect]

    assert 1 == len(primary.calls)


async def test_another_path_or_query_is_another_call(primary: Simulator) -> None:
    async with gateway(text_of("memory://", primary.url)) as (url, _), aiohttp.ClientSession() as http:
        await post(http, url, dialect="gemini")
        assert 422 == (await post(http, url, dialect="gemini stream")).status
        assert 422 == (await post(http, url, dialect="openai")).status


async def test_keys_belong_to_tenants_and_credentials(primary: Simulator) -> None:
    async with gateway(text_of("memory://", primary.url)) as (url, _), aiohttp.ClientSession() as http:
        await post(http, url, who="acme")
        assert not (await post(http, url, who="beta")).replayed
        assert not (await post(http, url, who="")).replayed
        assert (await post(http, url, who="")).replayed
        # the tenant's other key: the same name, and nothing that it could open
        assert 422 == (await post(http, url, who="acme2")).status
        assert (await post(http, url, who="acme")).replayed

    assert 3 == len(primary.calls)


async def test_sixty_four_at_once_are_one(primary: Simulator, store_url: str) -> None:
    body = body_of("openai", "[[simulate ttft=0.3]] hello")
    async with gateway(text_of(store_url, primary.url)) as (url, _):
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
            answers = await asyncio.gather(*(post(http, url, body=body) for _ in range(64)))

    assert 1 == len(primary.calls)
    assert {(200, answers[0].body)} == {(answer.status, answer.body) for answer in answers}
    assert 63 == sum(answer.replayed for answer in answers)


async def test_over_two_gateways_on_one_store(primary: Simulator, shared_url: str) -> None:
    body = body_of("openai", "[[simulate ttft=0.3]] hello")
    text = text_of(shared_url, primary.url)
    async with gateway(text) as (one, _), gateway(text) as (two, _), aiohttp.ClientSession() as http:
        answers = await asyncio.gather(*(post(http, (one, two)[n % 2], body=body) for n in range(16)))
        answers.append(await post(http, two, body=body))
    async with gateway(text) as (three, _), aiohttp.ClientSession() as http:  # after a restart
        answers.append(await post(http, three, body=body))

    assert 1 == len(primary.calls)
    assert {(200, answers[0].body)} == {(answer.status, answer.body) for answer in answers}


@pytest.mark.parametrize("dialect", ["openai", "anthropic", "gemini"])
async def test_one_that_is_under_way_for_long_is_told(
    primary: Simulator, tmp_path: Path, dialect: str
) -> None:
    body = body_of(dialect, "[[simulate ttft=0.6]] hello")
    async with (
        gateway(text_of(f"sqlite:///{tmp_path}/book.db", primary.url, wait="150ms")) as (url, _),
        aiohttp.ClientSession() as http,
    ):
        first = asyncio.create_task(post(http, url, dialect=dialect, body=body))
        await primary_called(primary)
        begun = time.monotonic()
        second = await post(http, url, dialect=dialect, body=body)

        assert (409, "true", "1") == (
            second.status,
            second.headers["x-should-retry"],
            second.headers["retry-after"],
        )
        assert 0.1 < time.monotonic() - begun < 0.6
        assert 200 == (await first).status
        assert (await post(http, url, dialect=dialect, body=body)).replayed

    assert 1 == len(primary.calls)


async def primary_called(primary: Simulator) -> None:
    for _ in range(400):
        if primary.calls:
            return
        await asyncio.sleep(0.01)
    raise AssertionError("the provider was not asked")


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
    primary: Simulator, directive: str, status: int, asked: int
) -> None:
    body = body_of("openai", f"[[simulate {directive}]] hello")
    async with gateway(text_of("memory://", primary.url)) as (url, _), aiohttp.ClientSession() as http:
        first = await post(http, url, body=body)
        second = await post(http, url, body=body)

    assert status == first.status, first.body
    assert asked == len(primary.calls)
    assert second.replayed == (asked == 1)
    assert second.status == (200 if asked == 2 else status)


async def test_refusals_of_the_policy_are_decided_anew(primary: Simulator) -> None:
    async with gateway(text_of("memory://", primary.url)) as (url, _), aiohttp.ClientSession() as http:
        for _ in range(2):
            answer = await post(http, url, body={**body_of("openai"), "model": "denied-model"})
            assert (404, False) == (answer.status, answer.replayed)
        assert 200 == (await post(http, url)).status  # the key was given back

    assert 1 == len(primary.calls)


async def test_a_stream_that_broke_is_not_kept(primary: Simulator) -> None:
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
    primary: Simulator, store_url: str, stream: bool
) -> None:
    """A timeout, a lost connection: what is under way is finished and kept, and nothing is asked twice."""
    body = body_of("openai", "[[simulate ttft=0.3,delay=0.02,tokens=20]] hello", stream=stream)
    async with (
        gateway(text_of(store_url, primary.url, wait="5s")) as (url, _),
        aiohttp.ClientSession() as http,
    ):
        gone = asyncio.create_task(post(http, url, body=body))
        await primary_called(primary)
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
    primary: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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


async def test_in_the_middleware_too(primary: Simulator) -> None:
    asked: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        asked.append(1)
        await receive()
        await asyncio.sleep(0.3)
        head = [(b"content-type", b"application/json"), (b"set-cookie", b"session=1")]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        await send({"type": "http.response.body", "body": json.dumps(ANSWER).encode()})

    shield = ShieldMiddleware(app, policy("tenants: {anonymous: {}}"))
    gone = asyncio.Event()
    first = asyncio.create_task(through(shield, gone))
    await asyncio.sleep(0.15)
    gone.set()
    second, third = await through(shield), await through(shield)
    await first
    await shield.runtime.close()

    assert [1] == asked
    assert json.loads(second[1]) == json.loads(third[1])
    assert (b"idempotent-replayed", b"true") in second[0]
    assert b"set-cookie" not in dict(second[0])


ANSWER = {
    "id": "c", "object": "chat.completion", "created": 1, "model": "gpt-4o",
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "hi"}}],
}  # fmt: skip


async def through(app: Any, gone: asyncio.Event | None = None) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """One POST straight into an ASGI app; the client leaves when `gone` is set. Head and body of the answer."""
    messages: list[Any] = [
        {"type": "http.request", "body": json.dumps(body_of("openai")).encode(), "more_body": False}
    ]
    head: list[tuple[bytes, bytes]] = []
    body: list[bytes] = []

    async def receive() -> Any:
        if messages:
            return messages.pop(0)
        await (gone or asyncio.Event()).wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        head.extend(message.get("headers", ()))
        body.append(message.get("body", b""))

    scope = {
        "type": "http", "method": "POST", "path": PATHS["openai"], "raw_path": PATHS["openai"].encode(),
        "query_string": b"", "client": ("192.0.2.1", 1), "http_version": "1.1", "scheme": "http",
        "headers": [(b"content-type", b"application/json"), (b"idempotency-key", b"order-1")],
    }  # fmt: skip
    await app(scope, receive, send)
    return head, b"".join(body)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_what_is_too_large_to_keep_is_not_asked_again(primary: Simulator, stream: bool) -> None:
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


@pytest.mark.parametrize("key", ["", "k" * 256, "k\xe9y", "k\ty"])
async def test_keys_that_are_none(primary: Simulator, key: str) -> None:
    async with gateway(text_of("memory://", primary.url)) as (url, _):
        status = await asyncio.to_thread(raw_post, url, key.encode("latin-1"))

    assert 400 == status
    assert [] == primary.calls


def raw_post(url: str, key: bytes) -> int:
    """A header that no client library sends."""
    host, port = url.removeprefix("http://").split(":")
    body = json.dumps(body_of("openai")).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\n"
    head += b"x-api-key: %b\r\nidempotency-key: %b\r\ncontent-length: %d\r\n\r\n" % (
        KEYS["acme"].encode(),
        key,
        len(body),
    )
    with socket.create_connection((host, int(port)), timeout=5) as sock:
        sock.sendall(head + body)
        return int(sock.recv(65536).split()[1])


@pytest.mark.parametrize("key", ["*", "%", "' OR 1=1 --", "../../x", "a, b", "{0}", "k" * 255, "replies"])
async def test_any_other_key_is_a_key(primary: Simulator, shared_url: str, key: str) -> None:
    async with gateway(text_of(shared_url, primary.url)) as (url, _), aiohttp.ClientSession() as http:
        assert not (await post(http, url, "another-key")).replayed
        assert not (await post(http, url, key)).replayed
        assert (await post(http, url, key)).replayed


async def test_the_store_holds_nothing_that_can_be_read(primary: Simulator, tmp_path: Path) -> None:
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
    for secret in ("jo.smith@example.com", "order-4711", "hello from", KEYS["acme"], "You said"):
        raw = secret.encode()
        for spelling in (raw, raw[::-1], raw.hex().encode(), hashlib.sha256(raw).digest()):
            assert spelling not in data, secret
    for raw in (json.dumps(body).encode(), first.body, b"order-4711"):
        assert hashlib.sha256(raw).hexdigest().encode() not in data


@pytest.mark.parametrize("change", ["flip", "cut", "swap", "empty"])
async def test_a_kept_answer_that_was_changed_is_refused(
    primary: Simulator, tmp_path: Path, change: str
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
    primary: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(idempotency, "IN_MEMORY", 20_000)
    body = body_of("openai", "[[simulate tokens=2000]] hello")
    async with gateway(text_of("memory://", primary.url)) as (url, _), aiohttp.ClientSession() as http:
        for number in range(4):
            await post(http, url, f"k{number}", body=body)
        assert (await post(http, url, "k3", body=body)).replayed
        assert not (await post(http, url, "k0", body=body)).replayed


async def test_a_store_that_is_away_refuses(primary: Simulator, tmp_path: Path) -> None:
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


async def test_a_claim_that_nobody_renews_ends(
    primary: Simulator, store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that is gone neither renews nor closes: its key is free after the lease."""
    monkeypatch.setattr(idempotency, "LEASE_S", 0.4)
    close = idempotency.Claim.close

    async def gone(claim: Any, x: Any) -> None:
        claim._timer.cancel()
        claim._repeats._under_way.clear()

    monkeypatch.setattr(idempotency.Claim, "close", gone)
    async with gateway(text_of(store_url, primary.url)) as (url, _), aiohttp.ClientSession() as http:
        await post(http, url)
        monkeypatch.setattr(idempotency.Claim, "close", close)
        begun = time.monotonic()
        again = await post(http, url)

    assert (200, False) == (again.status, again.replayed)
    assert 0.1 < time.monotonic() - begun < 3
    assert 2 == len(primary.calls)


async def test_a_claim_is_renewed_while_its_call_is_under_way(
    primary: Simulator, store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(idempotency, "LEASE_S", 0.3)
    body = body_of("openai", "[[simulate ttft=0.6]] hello")
    text = text_of(store_url, primary.url)
    async with gateway(text) as (url, _), aiohttp.ClientSession() as http:
        answers = await asyncio.gather(post(http, url, body=body), post(http, url, body=body))

    assert 1 == len(primary.calls)
    assert answers[0].body == answers[1].body


async def test_an_answer_is_kept_for_its_time(primary: Simulator, store_url: str) -> None:
    text = text_of(store_url, primary.url).replace("{wait:", "{keep: 700ms, wait:")
    async with gateway(text) as (url, _), aiohttp.ClientSession() as http:
        await post(http, url)
        assert (await post(http, url)).replayed
        await asyncio.sleep(0.8)
        assert not (await post(http, url)).replayed

    assert 2 == len(primary.calls)


def started(path: Path, code: str) -> "subprocess.Popen[str]":
    """`llmshield serve` in a process of its own, by this code."""
    return subprocess.Popen(
        [sys.executable, "-c", code, "serve", "--policy", str(path), "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"],
        stderr=subprocess.PIPE, text=True, env=dict(os.environ),
    )  # fmt: skip


def url_of(served: "subprocess.Popen[str]") -> str:
    assert served.stderr is not None
    return next(line.split()[2].rstrip(",") for line in served.stderr if line.startswith("llmshield serves "))


@pytest.mark.nightly
def test_sixty_four_at_once_over_four_processes_are_one(shared_url: str, tmp_path: Path) -> None:
    with SimulatorThread(name="p") as sim:
        path = tmp_path / "policy.yaml"
        path.write_text("version: 1\n" + text_of(shared_url, sim.url))
        served = [started(path, "from llmshield.cli import main; main()") for _ in range(4)]
        urls = [url_of(each) for each in served]
        bodies = [body_of("openai", f"[[simulate ttft=0.3]] hello {turn}") for turn in range(5)]

        async def run() -> None:
            async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
                for turn, body in enumerate(bodies):
                    answers = await asyncio.gather(
                        *(post(http, urls[n % 4], f"turn-{turn}", body=body) for n in range(64))
                    )
                    assert {(200, answers[0].body)} == {(each.status, each.body) for each in answers}
                    assert turn + 1 == len(sim.calls)

        asyncio.run(run())
        for each in served:
            each.send_signal(signal.SIGTERM)
        for each in served:
            each.communicate(timeout=30)


@pytest.mark.nightly
def test_a_crashed_process_blocks_its_key_no_longer_than_the_lease(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """kill -9 while the provider is asked; the next call waits out what is left of the lease, and asks again."""
    monkeypatch.setattr(idempotency, "LEASE_S", 1.0)
    with SimulatorThread(name="p") as sim:
        path = tmp_path / "policy.yaml"
        store = f"sqlite:///{tmp_path}/book.db"
        path.write_text("version: 1\n" + text_of(store, sim.url))
        code = (
            "from llmshield import idempotency as i; i.LEASE_S = 1.0; from llmshield.cli import main; main()"
        )
        served = started(path, code)
        url = url_of(served)
        body = body_of("openai", "[[simulate ttft=3,first=1]] hello")

        async def run() -> Answer:
            async with aiohttp.ClientSession() as http:
                lost = asyncio.create_task(post(http, url, body=body))
                while not sim.calls:
                    await asyncio.sleep(0.01)
                await asyncio.sleep(1.5)  # renewed meanwhile
                assert not lost.done()
                served.send_signal(signal.SIGKILL)
                with pytest.raises(aiohttp.ClientError):
                    await lost
                async with gateway(text_of(store, sim.url)) as (next_url, _):
                    return await post(http, next_url, body=body)

        answer = asyncio.run(run())
        served.communicate()

        assert (200, False) == (answer.status, answer.replayed)
        assert 2 == len(sim.calls)


def test_hkdf_is_the_one_of_the_rfc() -> None:
    """RFC 5869, A.1, first block."""
    import hmac

    secret = hmac.digest(bytes.fromhex("000102030405060708090a0b0c"), b"\x0b" * 22, "sha256")
    expanded = idempotency._expand(secret, bytes.fromhex("f0f1f2f3f4f5f6f7f8f9"))

    assert "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf" == expanded.hex()
