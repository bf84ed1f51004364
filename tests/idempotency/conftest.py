"""What the tests of Idempotency-Key share: a policy with two tenants, a body for each dialect, and a client."""

import asyncio
import hashlib
import json
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from llmshield.idempotency import HEADER
from llmshield.simulator import Simulator

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


@pytest.fixture(scope="session", name="text_of")
def _text_of() -> Callable[..., str]:
    """`text_of(store, url, wait, largest)`: a policy with this store and provider."""
    return text_of


@pytest.fixture(scope="session", name="body_of")
def _body_of() -> Callable[..., dict[str, Any]]:
    """`body_of(dialect, text, **more)`: a call's body."""
    return body_of


@pytest.fixture(scope="session", name="post")
def _post() -> Callable[..., Awaitable[Answer]]:
    """`await post(http, url, key, dialect, who, body, **headers)`: one call with this Idempotency-Key."""
    return post


@pytest.fixture
def called(primary: Simulator) -> Callable[[], Awaitable[None]]:
    """`await called()`: until the provider has been asked."""

    async def wait() -> None:
        for _ in range(400):
            if primary.calls:
                return
            await asyncio.sleep(0.01)
        raise AssertionError("the provider was not asked")

    return wait


@pytest.fixture(autouse=True)
def provider_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROVIDER_KEY", "sk-provider-key-1")


@pytest.fixture(params=["memory", "sqlite", "redis"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "redis":
        return f"{request.getfixturevalue('redis_url')}?prefix=i{time.monotonic_ns()}"
    return "memory://" if request.param == "memory" else f"sqlite:///{tmp_path}/book.db"
