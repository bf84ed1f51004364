"""Idempotency-Key: what is the same call, and that it is asked once however often, and wherever, it is sent."""

import asyncio
import json
import socket
import time
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from llmshield.idempotency import HEADER
from llmshield.mounts.asgi import ShieldMiddleware
from llmshield.simulator import Simulator
from llmshield.testing import gateway, policy

DIALECTS = ("openai", "responses", "embeddings", "anthropic", "gemini", "gemini stream", "passed")


@pytest.mark.parametrize(
    ("dialect", "stream"),
    [*((dialect, False) for dialect in DIALECTS), ("openai", True), ("responses", True), ("anthropic", True)],
)
async def test_the_same_call_is_asked_once(
    primary: Simulator, dialect: str, stream: bool, post: Any, text_of: Any, body_of: Any
) -> None:
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


async def test_without_the_header_or_with_it_switched_off_each_call_is_asked(
    primary: Simulator, post: Any, text_of: Any
) -> None:
    async with gateway(text_of("memory://", primary.url)) as (url, _), aiohttp.ClientSession() as http:
        for _ in range(2):
            await post(http, url, None)
    off = text_of("memory://", primary.url).replace("{wait: 10s, largest: 1MiB}", "null")
    async with gateway(off) as (url, _), aiohttp.ClientSession() as http:
        for _ in range(2):
            assert not (await post(http, url)).replayed

    assert 4 == len(primary.calls)


@pytest.mark.parametrize("dialect", ["openai", "anthropic", "gemini"])
async def test_another_body_is_refused_in_the_clients_words(
    primary: Simulator, dialect: str, post: Any, text_of: Any, body_of: Any
) -> None:
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


async def test_another_path_or_query_is_another_call(primary: Simulator, post: Any, text_of: Any) -> None:
    async with gateway(text_of("memory://", primary.url)) as (url, _), aiohttp.ClientSession() as http:
        await post(http, url, dialect="gemini")
        assert 422 == (await post(http, url, dialect="gemini stream")).status
        assert 422 == (await post(http, url, dialect="openai")).status


async def test_keys_belong_to_tenants_and_credentials(primary: Simulator, post: Any, text_of: Any) -> None:
    async with gateway(text_of("memory://", primary.url)) as (url, _), aiohttp.ClientSession() as http:
        await post(http, url, who="acme")
        assert not (await post(http, url, who="beta")).replayed
        assert not (await post(http, url, who="")).replayed
        assert (await post(http, url, who="")).replayed
        # the tenant's other key: the same name, and nothing that it could open
        assert 422 == (await post(http, url, who="acme2")).status
        assert (await post(http, url, who="acme")).replayed

    assert 3 == len(primary.calls)


async def test_sixty_four_at_once_are_one(
    primary: Simulator, store_url: str, post: Any, text_of: Any, body_of: Any
) -> None:
    body = body_of("openai", "[[simulate ttft=0.3]] hello")
    async with gateway(text_of(store_url, primary.url)) as (url, _):
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
            answers = await asyncio.gather(*(post(http, url, body=body) for _ in range(64)))

    assert 1 == len(primary.calls)
    assert {(200, answers[0].body)} == {(answer.status, answer.body) for answer in answers}
    assert 63 == sum(answer.replayed for answer in answers)


async def test_over_two_gateways_on_one_store(
    primary: Simulator, shared_url: str, post: Any, text_of: Any, body_of: Any
) -> None:
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
    primary: Simulator, tmp_path: Path, dialect: str, post: Any, text_of: Any, body_of: Any, called: Any
) -> None:
    body = body_of(dialect, "[[simulate ttft=0.6]] hello")
    async with (
        gateway(text_of(f"sqlite:///{tmp_path}/book.db", primary.url, wait="150ms")) as (url, _),
        aiohttp.ClientSession() as http,
    ):
        first = asyncio.create_task(post(http, url, dialect=dialect, body=body))
        await called()
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


async def test_in_the_middleware_too(primary: Simulator, body_of: Any) -> None:
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
    first = asyncio.create_task(through(shield, body_of("openai"), gone))
    await asyncio.sleep(0.15)
    gone.set()
    second, third = await through(shield, body_of("openai")), await through(shield, body_of("openai"))
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


async def through(
    app: Any, asked: Any, gone: asyncio.Event | None = None
) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """One POST straight into an ASGI app; the client leaves when `gone` is set. Head and body of the answer."""
    messages: list[Any] = [{"type": "http.request", "body": json.dumps(asked).encode(), "more_body": False}]
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
        "type": "http", "method": "POST", "path": "/v1/chat/completions", "raw_path": b"/v1/chat/completions",
        "query_string": b"", "client": ("192.0.2.1", 1), "http_version": "1.1", "scheme": "http",
        "headers": [(b"content-type", b"application/json"), (b"idempotency-key", b"order-1")],
    }  # fmt: skip
    await app(scope, receive, send)
    return head, b"".join(body)


@pytest.mark.parametrize("key", ["", "k" * 256, "k\xe9y", "k\ty"])
async def test_keys_that_are_none(primary: Simulator, key: str, text_of: Any, body_of: Any) -> None:
    async with gateway(text_of("memory://", primary.url)) as (url, _):
        status = await asyncio.to_thread(raw_post, url, key.encode("latin-1"), body_of("openai"))

    assert 400 == status
    assert [] == primary.calls


def raw_post(url: str, key: bytes, asked: Any) -> int:
    """A header that no client library sends."""
    host, port = url.removeprefix("http://").split(":")
    body = json.dumps(asked).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\n"
    head += b"x-api-key: %b\r\nidempotency-key: %b\r\ncontent-length: %d\r\n\r\n" % (
        b"key-of-acme-0001",
        key,
        len(body),
    )
    with socket.create_connection((host, int(port)), timeout=5) as sock:
        sock.sendall(head + body)
        return int(sock.recv(65536).split()[1])


@pytest.mark.parametrize("key", ["*", "%", "' OR 1=1 --", "../../x", "a, b", "{0}", "k" * 255, "replies"])
async def test_any_other_key_is_a_key(
    primary: Simulator, shared_url: str, key: str, post: Any, text_of: Any
) -> None:
    async with gateway(text_of(shared_url, primary.url)) as (url, _), aiohttp.ClientSession() as http:
        assert not (await post(http, url, "another-key")).replayed
        assert not (await post(http, url, key)).replayed
        assert (await post(http, url, key)).replayed
