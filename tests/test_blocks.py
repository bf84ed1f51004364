"""Manual blocks: whom they catch, how they are spelt, when they end."""

import asyncio
import hashlib
from typing import Any

import aiohttp
import pytest

from llmshield import blocks
from llmshield.blocks import Blocked, Blocks, read_target
from llmshield.errors import CallError, ShieldError
from llmshield.identity import Identity
from llmshield.stores import open_store
from llmshield.testing import FakeProvider, FrozenClock, gateway, policy

SPELLINGS = [
    ("192.0.2.7", "192.0.2.7/32", "192.0.2.7"),
    ("192.0.2.7/24", "192.0.2.0/24", "192.0.2.0/24"),
    ("2001:DB8::1", "2001:db8::/64", "2001:db8::/64"),
    ("2001:db8::1/128", "2001:db8::1/128", "2001:db8::1"),
    ("[2001:db8::1]", "2001:db8::/64", "2001:db8::/64"),
    ("2001:db8:5::/48", "2001:db8:5::/48", "2001:db8:5::/48"),
    ("::ffff:192.0.2.7", "192.0.2.7/32", "192.0.2.7"),
    ("::ffff:192.0.2.7/120", "192.0.2.0/24", "192.0.2.0/24"),
    ("tenant:acme", "tenant:acme", "tenant:acme"),
    ("tenant:a/32", "tenant:a/32", "tenant:a/32"),
]


@pytest.mark.parametrize(("text", "target", "shown"), SPELLINGS)
def test_a_target_has_one_spelling(text: str, target: str, shown: str) -> None:
    assert read_target(text) == target
    assert read_target(target) == target
    assert Blocked(target, 0).shown == shown


@pytest.mark.parametrize(
    "text", ["", "acme", "192.0.2.999", "192.0.2.7/33", "tenant:", "1::2::3", "localhost"]
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ShieldError, match="expected an address"):
        read_target(text)


CAUGHT = [
    ("192.0.2.7", "192.0.2.7", True),
    ("192.0.2.7", "192.0.2.8", False),
    ("192.0.2.7", "::ffff:192.0.2.7", True),
    ("192.0.2.0/24", "192.0.2.200", True),
    ("192.0.2.0/24", "192.0.3.0", False),
    ("0.0.0.0/0", "203.0.113.5", True),
    ("0.0.0.0/0", "2001:db8::1", False),
    ("2001:db8::1", "2001:db8::ffff", True),
    ("2001:db8::1", "2001:db8:0:1::1", False),
    ("2001:db8::1/128", "2001:db8::2", False),
    ("fe80::1", "fe80::2%eth0", True),
    ("192.0.2.7", "", False),
    ("192.0.2.7", "garbage", False),
    ("tenant:acme", "198.51.100.1", True),
    ("tenant:umbrella", "198.51.100.1", False),
]


@pytest.mark.parametrize(("target", "address", "caught"), CAUGHT)
async def test_whom_a_block_catches(target: str, address: str, caught: bool) -> None:
    store = open_store("memory://")
    await blocks.add(store, "203.0.113.0/28")
    await blocks.add(store, target)
    seen = Blocks(store)
    await seen.refresh()
    try:
        seen.check("acme", address)
        refused = False
    except CallError as error:
        refused = error.kind == "forbidden"

    assert refused == caught


async def test_a_block_ends_and_is_taken_back() -> None:
    with FrozenClock(1_790_000_000.0) as time:
        store, seen = open_store("memory://"), None
        await blocks.add(store, "192.0.2.7", int((time.now() + 60) * 1000), "why")
        await blocks.add(store, "tenant:acme")
        seen = Blocks(store)
        await seen.refresh()
        with pytest.raises(CallError, match=r"This address is blocked until 2026-09-21T14:14:20Z\.$"):
            seen.check("umbrella", "192.0.2.7")
        with pytest.raises(CallError, match=r"Tenant acme is blocked\.$"):
            seen.check("acme", "192.0.2.9")
        time.advance(61)
        seen.check("umbrella", "192.0.2.7")
        assert [item.target for item in await blocks.everyone(store)] == ["tenant:acme"]
        assert await blocks.remove(store, "tenant:acme")
        assert not await blocks.remove(store, "tenant:acme")
        await seen.refresh()

        seen.check("acme", "192.0.2.9")
        assert not seen.any


async def test_a_note_that_is_no_block_harms_none() -> None:
    store = open_store("memory://")
    good = await blocks.add(store, "192.0.2.7")
    for key, value in (("192.0.2.8/32", b"[]"), ("nobody", good.dump()), ("::1", good.dump())):
        await store.put(blocks.SHELF, key, value)

    assert await blocks.everyone(store) == [good]


WIRE: list[tuple[str, dict[str, Any], Any]] = [
    ("/v1/chat/completions", {"model": "gpt-4o", "messages": []}, lambda body: body["error"]["message"]),
    ("/v1/messages", {"model": "claude", "max_tokens": 5, "messages": []}, lambda body: body["error"]["message"]),
    ("/v1beta/models/gemini-2.5-pro:generateContent", {"contents": []}, lambda body: body["error"]["message"]),
    ("/v1/audio/speech", {}, lambda body: body["error"]["message"]),
]  # fmt: skip


@pytest.mark.parametrize(("path", "body", "message"), WIRE)
async def test_the_refusal_in_each_dialect(
    tmp_path: Any, path: str, body: dict[str, Any], message: Any
) -> None:
    """Passed-through paths as well; nothing is asked of a provider."""
    url = f"sqlite:///{tmp_path / 'blocks.db'}"
    async with FakeProvider() as sim:
        text = f"""
server: {{store: "{url}", paths: [{{match: "/v1/audio/*", action: pass}}]}}
providers:
  openai: {{dialect: openai, base_url: "{sim.url}/v1"}}
  anthropic: {{dialect: anthropic, base_url: "{sim.url}"}}
  gemini: {{dialect: gemini, base_url: "{sim.url}"}}
trusted_proxies: [127.0.0.1/32]
"""
        async with (
            gateway(text) as (data, _),
            aiohttp.ClientSession(headers={"authorization": "Bearer k"}) as client,
        ):
            store = open_store(url)
            await store.open()
            await blocks.add(store, "192.0.2.7")
            await store.close()
            for _ in range(100):
                headers = {"x-forwarded-for": "8.8.8.8, 192.0.2.7"}
                async with client.post(data + path, json=body, headers=headers) as reply:
                    status, told = reply.status, await reply.json(content_type=None)
                if status == 403:
                    break
                await asyncio.sleep(0.01)
            asked = len(sim.calls)
            async with client.post(data + path, json=body, headers={"x-forwarded-for": "192.0.2.8"}) as reply:
                other = reply.status

        assert status == 403
        assert message(told) == "This address is blocked."
        assert other != 403
        assert len(sim.calls) <= asked + 1


async def test_a_blocked_address_learns_nothing_about_keys() -> None:
    """Two keys, a wrong one, a good one: all the same from there."""
    store = open_store("memory://")
    await blocks.add(store, "192.0.2.7")
    digest = hashlib.sha256(b"good").hexdigest()
    given = policy(
        f"tenants: {{acme: {{keys: ['sha256:{digest}']}}}}\nproviders: {{o: {{dialect: openai, api_key: env://X}}}}"
    )
    identity = Identity(given, store)
    await identity.start()
    for headers in ({"x-api-key": "good"}, {"x-api-key": "bad"}, {"x-api-key": "a", "api-key": "b"}, {}):
        with pytest.raises(CallError, match="This address is blocked"):
            identity.identify(headers, "", "192.0.2.7")
    with pytest.raises(CallError, match="client keys"):
        identity.identify({"x-api-key": "bad"}, "", "192.0.2.8")
    await identity.close()
