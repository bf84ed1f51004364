"""SEC-02, SEC-04, SSRF-01: what a client brings stops here, a provider's key goes to its own host, in a header, and
nowhere else. Raw sockets record every byte that providers, strangers and clients get; canaries stand for secrets."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest

from llmshield.mounts.asgi import ShieldMiddleware
from llmshield.testing import gateway
from llmshield.testing import policy as loaded

KEYS = {name: f"sk-CANARY{name}0123456789abcdef" for name in ("one", "two", "three", "other")}
CLIENT, OWN = "llm-CANARYclient-000111222", "sk-CANARYown-333444555666"
CHAT = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hello"}]}
CALLS: dict[str, tuple[str, str, dict[str, Any], str]] = {
    "openai": ("POST", "/v1/chat/completions", CHAT, "authorization"),
    "openai stream": ("POST", "/v1/chat/completions", {**CHAT, "stream": True}, "authorization"),
    "responses": ("POST", "/v1/responses", {"model": "gpt-4o", "input": "hello"}, "authorization"),
    "embeddings": ("POST", "/v1/embeddings", {"model": "gpt-4o", "input": "hello"}, "authorization"),
    "models": ("GET", "/v1/models", {}, "authorization"),
    "passed": ("POST", "/v1/audio/speech", {"model": "tts-1", "input": "hello"}, "authorization"),
    "anthropic": ("POST", "/v1/messages", {**CHAT, "model": "claude-sonnet-4-5", "max_tokens": 9}, "x-api-key"),
    "gemini": ("POST", "/v1beta/models/gemini-2.5-flash:generateContent", {"contents": [{"parts": [{"text": "hello"}]}]},
               "x-goog-api-key"),
    "gemini stream": ("POST", "/v1beta/models/gemini-2.5-flash:streamGenerateContent?alt=sse",
                      {"contents": [{"parts": [{"text": "hello"}]}]}, "x-goog-api-key"),
}  # fmt: skip
SENT = {
    "cookie": "session=CANARY-cookie", "proxy-authorization": "Basic CANARY-proxy", "x-auth-token": "CANARY-auth-token",
    "x-auth-request-email": "CANARY-email@example.com", "x-forwarded-for": "203.0.113.77", "forwarded": "for=203.0.113.77",
    "x-real-ip": "203.0.113.77", "x-client-cert": "CANARY-cert", "x-goog-iap-jwt-assertion": "CANARY-iap",
    "x-amz-security-token": "CANARY-sts", "x-csrf-token": "CANARY-csrf", "baggage": "user=CANARY-baggage",
    "openai-organization": "org-CANARY", "openai-project": "proj-CANARY", "x-goog-user-project": "CANARY-project",
    "x-llmshield-tenant": "CANARY-tenant", "x-llmshield-anything": "CANARY-ours", "te": "trailers", "keep-alive": "CANARY-hop",
    "connection": "keep-alive, x-nominated", "x-nominated": "CANARY-nominated", "upgrade": "CANARY-upgrade",
    "referer": "https://CANARY-referer.example", "origin": "https://app.example.com", "x-http-method-override": "DELETE",
    "x_api_key": "CANARY-underscore", "anthropic-beta": "travels-on", "x-stainless-lang": "travels-on",
}  # fmt: skip
BACK = {
    "set-cookie": "CANARY-back-cookie=1", "openai-organization": "org-CANARY-back", "openai-project": "proj-CANARY-back",
    "anthropic-organization-id": "CANARY-back-anthropic", "x-goog-user-project": "CANARY-back-google",
    "location": "http://127.0.0.1:9/CANARY-back", "authorization": "CANARY-back-authorization", "server": "CANARY-back-server",
    "x-llmshield-cost": "CANARY-back-ours", "keep-alive": "CANARY-back-hop", "x-nominated": "CANARY-back-nominated",
    "connection": "keep-alive, x-nominated", "alt-svc": 'h3="CANARY-back:443"', "x-request-id": "req-1",
}  # fmt: skip
REPLY = {
    "id": "1", "object": "chat.completion", "created": 1, "model": "gpt-4o", "choices":
    [{"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
}  # fmt: skip


@dataclass
class Recorder:
    """A host that writes down what it gets and answers the same each time."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: Any = field(default_factory=lambda: REPLY)
    delay_s: float = 0.0
    requests: list[bytes] = field(default_factory=list)
    connections: int = 0
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = next(
                    (
                        int(line[15:])
                        for line in head.split(b"\r\n")
                        if line.lower().startswith(b"content-length:")
                    ),
                    0,
                )
                self.requests.append(head + await reader.readexactly(length))
                await asyncio.sleep(self.delay_s)
                data = json.dumps(self.body).encode()
                lines = {"content-type": "application/json", **self.headers, "content-length": str(len(data))}
                text = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
                writer.write(f"HTTP/1.1 {self.status} X\r\n{text}\r\n".encode() + data)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@pytest.fixture
async def recorders() -> AsyncIterator[Callable[..., Any]]:
    servers: list[asyncio.Server] = []

    async def make(**options: Any) -> Recorder:
        made = Recorder(**options)
        server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
        made.port = server.sockets[0].getsockname()[1]
        servers.append(server)
        return made

    yield make
    for server in servers:
        server.close()


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, key in KEYS.items():
        monkeypatch.setenv(f"KEY_{name.upper()}", key)


def policy(one: Recorder, two: Recorder, *, keys: bool = True, more: str = "") -> str:
    def key(name: str) -> str:
        return f", api_key: env://KEY_{name.upper()}" if keys else ""

    return f"""version: 1
server: {{paths: [{{match: "/v1/audio/*", action: pass}}]}}
providers:
  one: {{dialect: openai, base_url: "{one.url}/v1"{key("one")}{more}}}
  claude: {{dialect: anthropic, base_url: "{one.url}"{key("two")}{more}}}
  gemini: {{dialect: gemini, base_url: "{one.url}"{key("three")}{more}}}
  other: {{dialect: openai, base_url: "{two.url}/v1"{key("other")}}}
routes:
  - {{match: {{model: "gpt-*"}}, to: [one, other], retry: {{attempts: 1}}}}
  - {{match: {{model: "claude-*"}}, to: [claude]}}
  - {{match: {{model: "gemini-*"}}, to: [gemini]}}
tenants:
  acme: {{tier: free, keys: ["sha256:{hashlib.sha256(CLIENT.encode()).hexdigest()}"]}}
  anonymous: {{tier: free}}
tiers: {{free: {{}}}}
plugins: [{{use: failover}}]
"""


@dataclass
class Got:
    status: int
    headers: list[tuple[str, str]]
    body: bytes

    @property
    def text(self) -> str:
        return f"{self.headers}{self.body.decode('latin-1')}"


async def ask(
    url: str, name: str, credential: str, headers: dict[str, str] | None = None, **more: Any
) -> Got:
    method, path, body, place = CALLS[name]
    value = f"Bearer {credential}" if place == "authorization" else credential
    sent = {**(SENT if headers is None else headers), place: value}
    async with (
        aiohttp.ClientSession() as http,
        http.request(
            method,
            url + path,
            json={**body, **more} if method == "POST" else None,
            headers=sent,
            allow_redirects=False,
        ) as reply,
    ):
        return Got(reply.status, list(reply.headers.items()), await reply.read())


def fields(request: bytes) -> dict[str, str]:
    lines = request.split(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")[1:]
    return {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}


@pytest.mark.parametrize("name", CALLS)
async def test_the_clients_credentials_are_swapped_and_stop_here(name: str, recorders: Any) -> None:
    one, two = await recorders(), await recorders()
    async with gateway(policy(one, two)) as (url, _):
        await ask(url, name, CLIENT)
    (request,) = one.requests
    family = {"anthropic": "two", "gemini": "three", "gemini stream": "three"}.get(name, "one")
    place = CALLS[name][3]
    got = fields(request)

    assert (KEYS[family] if place != "authorization" else f"Bearer {KEYS[family]}") == got.pop(place)
    rest = request.replace(KEYS[family].encode(), b"")
    assert b"CANARY" not in rest, rest
    assert b"203.0.113" not in rest
    assert KEYS[family].encode() not in request.split(b"\r\n")[0]  # in a header, not in the URL
    assert {"keep-alive", "te", "upgrade", "connection", "origin", "x-nominated"}.isdisjoint(got)
    assert "travels-on" == got["x-stainless-lang"]
    for request in two.requests:  # it takes over where the other's answer was none
        assert b"CANARY" not in request.replace(KEYS["other"].encode(), b"")


@pytest.mark.parametrize("place", ["key", "access_token", "%6Bey", "$key", "KEY"])
async def test_a_key_in_the_clients_url_does_not_travel(place: str, recorders: Any) -> None:
    one, two = await recorders(), await recorders()
    async with gateway(policy(one, two)) as (url, _), aiohttp.ClientSession() as http:
        path = "/v1beta/models/gemini-2.5-flash:generateContent"
        async with http.post(
            f"{url}{path}?alt=json&{place}={CLIENT}", json=CALLS["gemini"][2], headers={}
        ) as reply:
            await reply.read()
    for request in one.requests:
        assert CLIENT.encode() not in request
        assert KEYS["three"] == fields(request)["x-goog-api-key"]
        assert KEYS["three"].encode() not in request.split(b"\r\n")[0]


@pytest.mark.parametrize("key", [CLIENT, OWN])
@pytest.mark.parametrize("name", ["openai", "passed", "anthropic", "gemini stream"])
async def test_a_key_in_places_of_no_key_does_not_travel(name: str, key: str, recorders: Any) -> None:
    """The client's key once more: as a header's name, in another header's value, in a query, as a request's id."""
    one, two = await recorders(), await recorders()
    method, path, body, place = CALLS[name]
    path += f"{'&' if '?' in path else '?'}note={key}&{key}=1&kept=1"
    more = {key: "1", "x-note": f"<{key}>", "x-client-request-id": key, "x-title": "travels-on"}
    sent = {**more, place: f"Bearer {key}" if place == "authorization" else key}
    async with gateway(policy(one, two, keys=key == CLIENT)) as (url, _), aiohttp.ClientSession() as http:
        async with http.request(method, url + path, json=body, headers=sent) as reply:
            await reply.read()
    for request in one.requests:
        head = request.lower().replace(f"{place}: {fields(request)[place]}".lower().encode(), b"")
        assert key.lower().encode() not in head, head
        assert "travels-on" == fields(request)["x-title"]
        assert b"kept=1" in head.split(b"\r\n")[0]
    assert one.requests


@pytest.mark.parametrize("name", CALLS)
async def test_without_a_key_the_clients_own_goes_to_that_provider(name: str, recorders: Any) -> None:
    one, two = await recorders(), await recorders()
    async with gateway(policy(one, two, keys=False)) as (url, _):
        await ask(url, name, OWN)
    request = one.requests[0]

    assert OWN in fields(request)[CALLS[name][3]]
    assert OWN.encode() not in request.split(b"\r\n")[0]
    assert 1 == request.count(OWN.encode())
    rest = request.replace(OWN.encode(), b"")
    account = (b"org-CANARY", b"proj-CANARY", b"CANARY-project")  # they name the same account as the key
    for allowed in account:
        rest = rest.replace(allowed, b"")
    assert b"CANARY" not in rest, rest
    assert b"CANARY" not in b"".join(two.requests)


@pytest.mark.parametrize("status", [500, 503, 429, 401])
@pytest.mark.parametrize("name", ["openai", "openai stream"])
async def test_never_to_a_failover_target(name: str, status: int, recorders: Any) -> None:
    one, two = await recorders(status=status, body={"error": {"message": "no"}}), await recorders()
    async with gateway(policy(one, two, keys=False)) as (url, _):
        await ask(url, name, OWN)

    assert OWN in fields(one.requests[0])["authorization"]
    assert 1 == len(two.requests)
    assert b"CANARY" not in two.requests[0], two.requests[0]


@pytest.mark.parametrize("how", ["other dialect", "hedge", "retry"])
async def test_nor_to_one_of_another_dialect_or_beside_the_first(how: str, recorders: Any) -> None:
    one, two = (
        await recorders(status=500 if how != "hedge" else 200, delay_s=1.0 if how == "hedge" else 0.0),
        await recorders(),
    )
    text = policy(one, two, keys=False)
    to = "[one, claude2]" if how == "other dialect" else "[one, other]"
    more = {"hedge": "hedge: {after: 50ms, max_extra_cost: 100%}, ", "retry": "", "other dialect": ""}[how]
    attempts = 2 if how == "retry" else 1
    text = text.replace(
        "to: [one, other], retry: {attempts: 1}",
        f"to: {to}, {more}retry: {{attempts: {attempts}, backoff: 1ms..2ms}}",
    )
    text = text.replace(
        "routes:\n", f"  claude2: {{dialect: anthropic, base_url: '{two.url}'}}\nroutes:\n", 1
    )
    async with gateway(text) as (url, _):
        await ask(url, "openai", OWN)

    assert {f"Bearer {OWN}"} == {fields(request)["authorization"] for request in one.requests}
    assert (2 if how == "retry" else 1) == len(one.requests)
    assert 1 == len(two.requests)
    assert b"CANARY" not in two.requests[0], two.requests[0]


MCP = {"type": "mcp", "server_label": "s", "server_url": "https://mcp.example.com"}


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("responses", {"tools": [{**MCP, "authorization": "CANARY-mcp"}]}),
        ("responses", {"tools": [{**MCP, "headers": {"x-key": "CANARY-mcp"}}]}),
        ("anthropic", {"mcp_servers": [{"type": "url", "name": "s", "url": "https://mcp.example.com",
                                        "authorization_token": "CANARY-mcp"}]}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("same_host", [False, True])
async def test_a_key_for_tools_goes_to_the_first_target_only(
    name: str, fields: dict[str, Any], same_host: bool, recorders: Any
) -> None:
    """Nor is it left out for the second one: what the call was to do could then not be done."""
    one, two = await recorders(status=500, body={"error": {"message": "no"}}), await recorders()
    second = one if same_host else two
    text = policy(one, second).replace(
        '{model: "claude-*"}, to: [claude]', '{model: "claude-*"}, to: [claude, again]'
    )
    text = text.replace(
        "routes:\n",
        f"  again: {{dialect: anthropic, base_url: '{second.url}', api_key: env://KEY_OTHER}}\nroutes:\n",
        1,
    )
    async with gateway(text) as (url, _):
        await ask(url, name, CLIENT, **fields)

    assert all(b"CANARY-mcp" in request for request in one.requests)
    assert (2 if same_host else 1) == len(one.requests)
    assert 0 == two.connections


@pytest.mark.parametrize("name", ["openai", "anthropic", "gemini stream"])
async def test_the_middleware_does_the_same(name: str, recorders: Any, serving_app: Any) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            while True:
                message = await receive()
                await send({"type": f"{message['type']}.complete"})
                if message["type"] == "lifespan.shutdown":
                    return
        raise AssertionError("nobody asks the application")

    one, two = await recorders(), await recorders()
    async with serving_app(ShieldMiddleware(app, policy=loaded(policy(one, two)))) as url:
        got = await ask(url, name, CLIENT)
    family = {"anthropic": "two", "gemini stream": "three"}.get(name, "one")

    assert KEYS[family] in fields(one.requests[0])[CALLS[name][3]]
    assert b"CANARY" not in one.requests[0].replace(KEYS[family].encode(), b"")
    assert "CANARY" not in got.text


@pytest.mark.parametrize("status", [500, 429])
async def test_each_provider_gets_its_own_key(status: int, recorders: Any) -> None:
    one, two = await recorders(status=status, body={"error": {"message": "no"}}), await recorders()
    async with gateway(policy(one, two)) as (url, _):
        assert 200 == (await ask(url, "openai", CLIENT)).status

    assert f"Bearer {KEYS['one']}" == fields(one.requests[0])["authorization"]
    assert f"Bearer {KEYS['other']}" == fields(two.requests[0])["authorization"]
    assert b"CANARY" not in two.requests[0].replace(KEYS["other"].encode(), b"")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("name", CALLS)
async def test_redirects_are_not_followed(name: str, status: int, recorders: Any) -> None:
    stranger, two = await recorders(), await recorders()
    one = await recorders(status=status, headers={"location": f"{stranger.url}/CANARY-elsewhere"})
    async with gateway(policy(one, two)) as (url, _):
        got = await ask(url, name, CLIENT)

    assert 0 == stranger.connections
    assert "CANARY" not in got.text
    assert b"CANARY" not in b"".join(two.requests).replace(KEYS["other"].encode(), b"")


async def test_proxies_of_the_environment_are_not_asked(
    recorders: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    stranger, one, two = await recorders(), await recorders(), await recorders()
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, stranger.url)
        monkeypatch.setenv(name.lower(), stranger.url)
    async with gateway(policy(one, two)) as (url, _):
        assert 200 == (await ask(url, "openai", CLIENT)).status
        assert 200 == (await ask(url, "models", CLIENT)).status

    assert (0, 2) == (stranger.connections, len(one.requests))


@pytest.mark.parametrize("name", CALLS)
async def test_no_request_says_where_it_goes(name: str, recorders: Any) -> None:
    stranger, one, two = await recorders(), await recorders(), await recorders()
    words = (
        "base_url",
        "api_base",
        "baseURL",
        "host",
        "proxy",
        "proxies",
        "callback_url",
        "webhook",
        "fallbacks",
        "endpoint",
    )
    headers = {f"x-{word.replace('_', '-').lower()}": stranger.url for word in words}
    headers |= {"x-forwarded-host": f"127.0.0.1:{stranger.port}", "x-original-url": stranger.url}
    async with gateway(policy(one, two)) as (url, _):
        await ask(url, name, CLIENT, headers, **dict.fromkeys(words, stranger.url))
        method, path, body, place = CALLS[name]
        mark = "&" if "?" in path else "?"
        query = "&".join(f"{word}={stranger.url}" for word in words)
        value = f"Bearer {CLIENT}" if place == "authorization" else CLIENT
        async with (
            aiohttp.ClientSession() as http,
            http.request(
                method,
                f"{url}{path}{mark}{query}",
                json=body if method == "POST" else None,
                headers={place: value},
            ) as reply,
        ):
            await reply.read()
        reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
        absolute = (
            f"GET http://127.0.0.1:{stranger.port}/v1/models HTTP/1.1\r\nhost: 127.0.0.1:{stranger.port}\r\n"
        )
        writer.write(f"{absolute}authorization: Bearer {CLIENT}\r\nconnection: close\r\n\r\n".encode())
        await reader.read()
        writer.close()

    assert 0 == stranger.connections
    assert all(fields(request)["host"] == f"127.0.0.1:{one.port}" for request in one.requests)


@pytest.mark.parametrize("status", [200, 400, 429, 500])
@pytest.mark.parametrize("name", CALLS)
async def test_what_names_the_account_does_not_come_back(name: str, status: int, recorders: Any) -> None:
    one, two = await recorders(status=status, headers=BACK), await recorders(status=status, headers=BACK)
    async with gateway(policy(one, two)) as (url, _):
        got = await ask(url, name, CLIENT)

    assert "CANARY" not in got.text, got


async def test_unless_the_policy_lists_it(recorders: Any) -> None:
    one, two = await recorders(headers=BACK), await recorders()
    async with gateway(policy(one, two, more=", reply_headers: [set-cookie, openai-organization]")) as (
        url,
        _,
    ):
        for name in ("openai", "models", "passed"):
            got = await ask(url, name, CLIENT)
            back = {header.lower(): value for header, value in got.headers if "CANARY" in value}
            assert {"set-cookie": BACK["set-cookie"], "openai-organization": "org-CANARY-back"} == back
