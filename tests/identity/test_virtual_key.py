"""Who is calling: keys in every place they may come in, tenants by header, addresses behind proxies."""

import asyncio
import hashlib
import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest

from llmshield import client_keys
from llmshield.client_keys import SHELF
from llmshield.errors import CallError
from llmshield.identity import Caller, Identity, as_bearer
from llmshield.identity.virtual_key import _MOST_KNOWN, VirtualKey
from llmshield.mounts.asgi import ShieldMiddleware
from llmshield.simulator import Simulator
from llmshield.stores import open_store
from llmshield.testing import FrozenClock, gateway, policy

KEY, OTHER = "sk-acme-0001", "sk-somebody-else"
DIGEST = hashlib.sha256(KEY.encode()).hexdigest()

BASE = f"""
identify: [virtual_key, "header:x-llmshield-tenant"]
trusted_proxies: [10.0.0.0/8, "fd00::/8"]
tenants:
  acme: {{tier: pro, keys: ["sha256:{DIGEST}"]}}
  beta: {{tier: pro}}
tiers: {{pro: {{}}}}
"""
OWN_KEYS = "providers: {p: {dialect: openai, api_key: env://X}}\n"
PASSED = "providers: {p: {dialect: openai}}\n"
ANONYMOUS = "  anonymous: {tier: pro}\n"


def identity(*, anonymous: bool = False, passes: bool = False) -> Identity:
    text = BASE.replace("  beta:", f"{ANONYMOUS}  beta:") if anonymous else BASE
    return Identity(policy((PASSED if passes else OWN_KEYS) + text))


def who(made: Identity, headers: dict[str, str], query: str = "", peer: str = "192.0.2.1") -> Caller:
    """The caller, of whom nobody had to wait."""
    found = made.identify(headers, query, peer)
    assert isinstance(found, Caller)
    return found


@pytest.mark.parametrize(
    ("headers", "query"),
    [
        ({"authorization": f"Bearer {KEY}"}, ""),
        ({"authorization": f"bearer {KEY}"}, ""),
        ({"x-api-key": KEY}, ""),
        ({"api-key": KEY}, ""),
        ({"x-goog-api-key": KEY}, ""),
        ({}, f"alt=sse&key={KEY}"),
        ({}, f"%6bey={KEY}"),
        ({}, f"KEY={KEY}"),
        ({}, f"%24key={KEY}"),
        ({"authorization": f"Bearer {KEY}", "x-api-key": KEY}, ""),
    ],
)
def test_a_client_key_is_known_wherever_it_comes_in_and_goes_no_further(
    headers: dict[str, str], query: str
) -> None:
    caller = who(identity(), headers, query)

    assert ("acme", "pro", None, DIGEST[:12]) == (caller.tenant, caller.tier, caller.key, caller.key_id)
    assert caller.ours
    assert KEY not in repr(caller)


@pytest.mark.parametrize(
    ("headers", "query"),
    [
        ({"authorization": f"Bearer {KEY}", "x-api-key": OTHER}, ""),
        ({"x-goog-api-key": KEY}, f"key={OTHER}"),
        ({}, f"key={KEY}&key={OTHER}"),
        ({"x-api-key": KEY}, f"ke%79={OTHER}"),
    ],
)
def test_two_different_keys_are_refused(headers: dict[str, str], query: str) -> None:
    with pytest.raises(CallError) as caught:
        identity().identify(headers, query, "192.0.2.1")

    assert "bad_request" == caught.value.kind
    assert KEY not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "anonymous", "passes", "outcome"),
    [
        (None, False, False, "unauthenticated"),
        (None, True, False, "anonymous"),
        (OTHER, False, False, "unauthenticated"),
        (OTHER, True, False, "unauthenticated"),  # a revoked key must not turn into a free tier
        (OTHER, True, True, "anonymous"),  # the client's own key for the provider
        (OTHER, False, True, "unauthenticated"),
        (KEY[:-1], False, False, "unauthenticated"),
    ],
)
def test_who_brings_no_or_another_key(key: str | None, anonymous: bool, passes: bool, outcome: str) -> None:
    made = identity(anonymous=anonymous, passes=passes)
    headers = {"x-api-key": key} if key else {}
    if outcome == "unauthenticated":
        with pytest.raises(CallError) as caught:
            made.identify(headers, "", "192.0.2.1")

        assert "unauthenticated" == caught.value.kind
    else:
        caller = who(made, headers)

        assert (outcome, key) == (caller.tenant, caller.key)


@pytest.mark.parametrize(
    ("peer", "tenant", "outcome"),
    [
        ("10.1.2.3", "beta", "beta"),
        ("::ffff:10.1.2.3", "beta", "beta"),
        ("fd00::1", "acme", "acme"),
        ("192.0.2.1", "beta", None),
        ("10.1.2.3", "nobody", None),
    ],
)
def test_a_tenant_header_counts_from_trusted_addresses_only(
    peer: str, tenant: str, outcome: str | None
) -> None:
    headers = {"x-llmshield-tenant": tenant}
    if outcome is None:
        with pytest.raises(CallError):
            identity().identify(headers, "", peer)
    else:
        assert outcome == who(identity(), headers, peer=peer).tenant


@pytest.mark.parametrize(
    ("peer", "forwarded", "address"),
    [
        ("192.0.2.1", "203.0.113.9", "192.0.2.1"),  # an untrusted peer is believed nothing
        ("10.0.0.1", "203.0.113.9", "203.0.113.9"),
        ("10.0.0.1", "1.1.1.1, 203.0.113.9", "203.0.113.9"),  # what the client wrote itself stands before
        ("10.0.0.1", "203.0.113.9, 10.0.0.2", "203.0.113.9"),
        ("10.0.0.1", "garbage", "10.0.0.1"),
        ("10.0.0.1", "203.0.113.9, garbage, 10.0.0.2", "10.0.0.2"),
        ("10.0.0.1", "", "10.0.0.1"),
    ],
)
def test_addresses_behind_proxies(peer: str, forwarded: str, address: str) -> None:
    assert address == identity().address({"x-forwarded-for": forwarded}, peer)


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"authorization": "Bearer abc"}, {"authorization": "Bearer abc"}),
        ({"authorization": "bearer  abc "}, {"authorization": "Bearer abc"}),
        ({"authorization": "Basic abc", "x-api-key": "abc"}, {}),
        ({"x-api-key": "abc"}, {}),
        ({}, {}),
    ],
)
def test_a_bearer_token_stays_one(headers: dict[str, str], expected: dict[str, str]) -> None:
    assert expected == as_bearer(headers, "abc")


# -- keys of any bytes


@pytest.mark.parametrize(
    "key", ["pässwörd-1234", "ключ-1234567", "日本語-12345", "\U0001f511-1234567", "a" * 16_000]
)
def test_a_key_is_its_bytes_wherever_it_comes_in(key: str) -> None:
    digest = hashlib.sha256(key.encode()).hexdigest()
    made = Identity(policy(OWN_KEYS + BASE.replace(DIGEST, digest)))
    header = key.encode().decode("latin-1")  # as servers hand headers on

    for headers, query in (
        ({"x-api-key": header}, ""),
        ({"authorization": f"Bearer {header}"}, ""),
        ({}, f"key={quote(key)}"),
        ({"api-key": header}, f"key={quote(key)}"),
    ):
        assert "acme" == who(made, headers, query).tenant


@pytest.mark.parametrize(
    "key",
    [
        "", " ", "*", "%", "acme", f"sha256:{DIGEST}", DIGEST, DIGEST[:12], KEY + " ", KEY[:-1], KEY.upper(), f"{KEY}\x00",
        "' OR '1'='1", "client_keys", "../../etc/passwd", "\ud800", "{0.__class__}", "${jndi:ldap://x}", "ｓｋ-acme-0001",
    ],
)  # fmt: skip
def test_what_is_no_key_is_refused_and_not_repeated(key: str) -> None:
    with pytest.raises(CallError) as caught:
        identity().identify({"x-api-key": key}, "", "192.0.2.1")

    assert "unauthenticated" == caught.value.kind
    assert len(key) < 4 or key not in str(caught.value)


def test_a_megabyte_in_a_header_is_refused_before_it_is_hashed() -> None:
    for headers in ({"x-api-key": "a" * 2**20}, {"authorization": "Bearer " + "a" * 2**20}):
        with pytest.raises(CallError, match="longer than") as caught:
            identity().identify(headers, "", "192.0.2.1")

        assert len(str(caught.value)) < 200
    forwarded = {"x-api-key": KEY, "x-forwarded-for": "1.1.1.1," * 130_000}
    assert "acme" == who(identity(), forwarded, peer="10.0.0.1").tenant


class Loud(str):
    """A key that says when it is compared as a text."""

    __slots__ = ()
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        raise AssertionError("a key was compared as a text")


@pytest.mark.parametrize("key", [KEY[:-1] + "2", "x" * len(KEY), OTHER, ""])
def test_wrong_keys_are_compared_with_nothing(key: str) -> None:
    """By structure, not by clock: a wrong key is hashed, and its hash looked up; no text of a key meets another."""
    made = identity()
    who(made, {"x-api-key": KEY})  # the right one is remembered now
    with pytest.raises(CallError):
        made.identify({"x-api-key": Loud(key)}, "", "192.0.2.1")


def test_wrong_keys_are_not_remembered_and_right_ones_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    made = identity()
    way = made._ways[0]
    assert isinstance(way, VirtualKey)
    hashed: list[str] = []
    digest_of = client_keys.digest_of
    monkeypatch.setattr(client_keys, "digest_of", lambda key: hashed.append(key) or digest_of(key))
    for _ in range(3):
        who(made, {"x-api-key": KEY})
    for number in range(1000):
        with pytest.raises(CallError):
            made.identify({"x-api-key": f"wrong-{number}"}, "", "192.0.2.1")
    who(made, {"x-api-key": KEY})

    assert 1 == hashed.count(KEY)
    assert [KEY] == list(way._known)
    assert _MOST_KNOWN * 512 <= 4 * 2**20


def test_nothing_is_made_anew_for_the_same_caller() -> None:
    made = identity()

    assert who(made, {"x-api-key": KEY}) is who(made, {"x-api-key": KEY})
    assert who(made, {"x-api-key": KEY}) is not who(made, {"x-api-key": KEY}, peer="192.0.2.2")
    assert "192.0.2.2" == who(made, {"x-api-key": KEY}, peer="192.0.2.2").address


# -- keys of the store


STORED = """
providers: {p: {dialect: openai}}
identity: {virtual_key: {outage: 60s}}
tenants: {acme: {tier: pro}, anonymous: {tier: free}}
tiers: {pro: {}, free: {}}
"""


async def test_keys_of_the_store(shared_url: str) -> None:
    with FrozenClock() as time:
        store = open_store(shared_url)
        await store.open()
        made = Identity(policy(STORED), store)
        await made.start()
        way = made._ways[0]
        assert isinstance(way, VirtualKey)
        table = way._table
        assert table is not None
        now_ms = int(time.now() * 1000)
        try:
            cases: dict[str, dict[str, Any]] = {
                "own tier": {"tenant": "acme", "tier": "free"},
                "tenant's tier": {"tenant": "acme", "tier": None},
                "new tenant": {"tenant": "new", "tier": "pro"},
                "no tier": {"tenant": "new", "tier": None},
                "lost tier": {"tenant": "acme", "tier": "gold"},
                "expiring": {"tenant": "acme", "tier": None, "expires_ms": now_ms + 5000},
            }
            keys = {name: (await client_keys.create(store, **case)) for name, case in cases.items()}
            await table.refresh()

            def said(name: str) -> tuple[str, str | None] | str:
                try:
                    caller = who(made, {"x-api-key": keys[name][0]})
                except CallError as error:
                    return f"{error.kind}: {error}"
                assert caller.key is None
                assert caller.key_id == keys[name][1].id
                return caller.tenant, caller.tier

            for _ in range(2):
                assert ("acme", "free") == said("own tier")
                assert ("acme", "pro") == said("tenant's tier")
                assert ("new", "pro") == said("new tenant")
                assert "tenant is not in" in said("no tier")
                assert "tier is not in" in said("lost tier")
                assert ("acme", "pro") == said("expiring")
            time.advance(5)
            assert "unauthenticated: The API key has expired." == said("expiring")
            await client_keys.revoke(store, keys["own tier"][1])
            await table.refresh()
            assert "unauthenticated: The API key was revoked." == said("own tier")
            # never the free tier, never a provider, though both are open to keys that nobody knows
            await store.strike(SHELF, keys["new tenant"][1].digest)
            assert "damaged" in str(_refused(made, keys["new tenant"][0][:-1]))
            assert "client keys" in str(_refused(made, client_keys.make()))
            assert ("anonymous", "sk-foreign") == _pair(who(made, {"x-api-key": "sk-foreign"}))
            await table.refresh()
            assert ("new", "pro") == said("new tenant")  # lost, not revoked
            time.advance(59)
            await table.refresh()
            assert ("acme", "pro") == said("tenant's tier")
            time.advance(1)
            assert said("new tenant").startswith("store_unavailable")  # type: ignore[union-attr]
            assert ("acme", "pro") == said("tenant's tier")
            await store.close()
            time.advance(61)
            assert said("tenant's tier").startswith("store_unavailable")  # type: ignore[union-attr]
            assert "unauthenticated: The API key was revoked." == said("own tier")
        finally:
            await made.close()
            await store.close()


def _refused(made: Identity, key: str) -> CallError:
    with pytest.raises(CallError) as caught:
        made.identify({"x-api-key": key}, "", "192.0.2.1")
    return caught.value


def _pair(caller: Caller) -> tuple[str, str | None]:
    return caller.tenant, caller.key


async def test_a_key_of_the_policy_can_be_revoked_in_the_store(shared_url: str) -> None:
    store = open_store(shared_url)
    await store.open()
    made = Identity(policy(OWN_KEYS + BASE), store)
    await made.start()
    try:
        who(made, {"x-api-key": KEY})
        await client_keys.revoke(store, client_keys.ClientKey(DIGEST, "acme"))
        way = made._ways[0]
        assert isinstance(way, VirtualKey)
        assert way._table is not None
        await way._table.refresh()

        assert "revoked" in str(_refused(made, KEY))
        await store.close()  # its word holds without the store
        assert "revoked" in str(_refused(made, KEY))
    finally:
        await made.close()
        await store.close()


# -- through the mounts


WAYS: dict[str, tuple[dict[str, str], str]] = {
    "bearer": ({"authorization": "Bearer {key}"}, ""),
    "Bearer in capitals": ({"authorization": "BEARER {key}"}, ""),
    "x-api-key": ({"x-api-key": "{key}"}, ""),
    "api-key": ({"api-key": "{key}"}, ""),
    "x-goog-api-key": ({"x-goog-api-key": "{key}"}, ""),
    "query": ({}, "?key={key}"),
    "query, encoded": ({}, "?a=1&%6bey={key}&b=2"),
    "query, with a dollar": ({}, "?$key={key}"),
    "all at once": ({"authorization": "Bearer {key}", "x-api-key": "{key}", "api-key": "{key}", "x-goog-api-key": "{key}"}, "?key={key}"),
}  # fmt: skip
BODIES = {
    "/v1/chat/completions": {"model": "gpt-4o", "messages": [{"role": "user", "content": "hello"}]},
    "/v1/messages": {
        "model": "claude-sonnet-4-5",
        "max_tokens": 9,
        "messages": [{"role": "user", "content": "hello"}],
    },
    "/v1beta/models/gemini-2.5-flash:generateContent": {
        "contents": [{"role": "user", "parts": [{"text": "hello"}]}]
    },
    "/v1/audio/speech": {"any": "thing"},
}
ANSWER = {
    "id": "c", "object": "chat.completion", "created": 1, "model": "gpt-4o",
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "hi"}}],
}  # fmt: skip
GATEWAY = """
server: {{store: "{store}", paths: [{{match: "/v1/audio/*", action: pass}}]}}
providers:
  o: {{dialect: openai, base_url: {url}/v1 {key}}}
  a: {{dialect: anthropic, base_url: {url} {key}}}
  g: {{dialect: gemini, base_url: {url} {key}}}
tenants: {{acme: {{tier: pro}}, anonymous: {{tier: pro}}}}
tiers: {{pro: {{}}}}
"""


@pytest.mark.parametrize("own", [True, False], ids=["provider's key", "client's key passed on"])
async def test_a_key_of_ours_reaches_no_provider(
    primary: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: bool
) -> None:
    """Every way in, every dialect and a path that passes unread; also where unknown keys are passed on."""
    monkeypatch.setenv("PROVIDER_KEY", "sk-provider-key-1")
    text = GATEWAY.format(
        store=f"sqlite:///{tmp_path}/b.db",
        url=primary.url,
        key=", api_key: env://PROVIDER_KEY" if own else "",
    )
    store = open_store(f"sqlite:///{tmp_path}/b.db")
    await store.open()
    key, _ = await client_keys.create(store, tenant="acme", tier="pro")
    gone, made = await client_keys.create(store, tenant="acme", tier="pro")
    await client_keys.revoke(store, made)
    await store.close()
    async with gateway(text) as (url, _), aiohttp.ClientSession() as http:
        for path, body in BODIES.items():
            for name, (headers, query) in WAYS.items():
                for sent, expected in ((key, 200), (gone, 401)):
                    primary.calls.clear()
                    async with http.post(
                        url + path + query.replace("{key}", sent),
                        data=json.dumps(body),
                        headers={n: v.replace("{key}", sent) for n, v in headers.items()}
                        | {"content-type": "application/json", "anthropic-version": "2023-06-01"},
                    ) as reply:
                        await reply.read()
                    where = f"{path} {name}"
                    if expected == 401:
                        assert 401 == reply.status, where
                        assert [] == primary.calls, where
                    else:
                        assert 1 == len(primary.calls), where
                        seen = repr(primary.calls[0])
                        assert sent not in seen, where
                        assert ("sk-provider-key-1" in seen) == own, where


@pytest.mark.parametrize("name", WAYS)
async def test_a_key_of_ours_reaches_no_wrapped_app(name: str) -> None:
    seen: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(repr((scope["headers"], scope["query_string"])))
        await receive()
        head = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        await send({"type": "http.response.body", "body": json.dumps(ANSWER).encode()})

    text = (
        f"tenants: {{acme: {{tier: pro, keys: ['sha256:{DIGEST}']}}, anonymous: {{}}}}\ntiers: {{pro: {{}}}}"
    )
    shield = ShieldMiddleware(app, policy(text))
    headers, query = WAYS[name]
    for key, login in ((KEY, ""), (OTHER, ""), (KEY, "Basic dXNlcjpwYXNz")):
        sent = {n: v.replace("{key}", key) for n, v in headers.items()}
        if login:
            sent = {n: v for n, v in sent.items() if n != "authorization"} | {
                "authorization": login,
                "x-api-key": key,
            }
        assert 200 == await _ask(shield, sent, query.replace("{key}", key).removeprefix("?"))
    await shield.runtime.close()

    assert 3 == len(seen)
    assert KEY not in seen[0]
    assert OTHER in seen[1]  # not ours: the app may know it
    assert KEY not in seen[2]
    assert "Basic dXNlcjpwYXNz" in seen[2]


async def _ask(app: Any, headers: dict[str, str], query: str) -> int:
    """One POST straight into an ASGI app; its status."""
    body = json.dumps(BODIES["/v1/chat/completions"]).encode()
    messages: list[Any] = [{"type": "http.request", "body": body, "more_body": False}]
    answered: list[Any] = []

    async def receive() -> Any:
        if messages:
            return messages.pop(0)
        await asyncio.sleep(60)
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        answered.append(message)

    scope = {
        "type": "http", "method": "POST", "path": "/v1/chat/completions", "raw_path": b"/v1/chat/completions",
        "query_string": query.encode(), "client": ("192.0.2.1", 1), "http_version": "1.1", "scheme": "http",
        "headers": [(b"content-type", b"application/json"), *((n.encode(), v.encode()) for n, v in headers.items())],
    }  # fmt: skip
    await app(scope, receive, send)
    return int(answered[0]["status"])
