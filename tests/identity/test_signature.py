"""Signed requests: what is signed, what is refused, and that a nonce counts once."""

import hashlib
import hmac
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from llmshield.errors import CallError, PolicyError, SecretError
from llmshield.identity import Caller, Identity
from llmshield.identity.signature import HEADER
from llmshield.policy import inspect_text
from llmshield.stores import open_store
from llmshield.testing import FrozenClock, gateway, policy

SECRET = "0123456789abcdef-of-billing"
POLICY = """
identify: [signature, virtual_key]
identity:
  signature:
    skew: 60s
    signers:
      billing: {tenant: acme, secret: env://BILLING_SECRET}
      batch: {tenant: nightly, tier: free, secret: env://BATCH_SECRET}
providers: {p: {dialect: openai, api_key: env://X}}
tenants: {acme: {tier: pro}}
tiers: {pro: {}, free: {}}
"""


@pytest.fixture(autouse=True)
def secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BILLING_SECRET", SECRET)
    monkeypatch.setenv("BATCH_SECRET", "another-secret-of-batch")


@dataclass
class Request:
    """What a mount hands on."""

    method: str = "POST"
    raw_path: bytes = b"/v1/chat/completions"
    raw_query: bytes = b"a=1"
    body: bytes = b'{"model": "m"}'
    read: Any = None

    async def read_body(self, limit: int) -> bytes:  # replaced by the way
        return self.body

    def __post_init__(self) -> None:
        self.read_body = self.read_body  # type: ignore[method-assign]  # an attribute, as a mount's is


@dataclass
class Signed:
    """The parts of a signature; a test changes some."""

    signer: str = "billing"
    at: str = ""
    nonce: str = "0123456789abcdef"
    secret: str = SECRET
    request: Request = field(default_factory=Request)

    def header(self, **changed: str) -> str:
        parts = {"signer": self.signer, "at": self.at, "nonce": self.nonce}
        parts["body"] = hashlib.sha256(self.request.body).hexdigest()
        r = self.request
        text = [
            b"llmshield-signature-v1",
            *(parts[p].encode() for p in ("signer", "at", "nonce")),
            r.method.encode(),
        ]
        text += [r.raw_path, r.raw_query, parts["body"].encode()]
        parts["mac"] = hmac.digest(self.secret.encode(), b"\n".join(text), "sha256").hex()
        return ", ".join(f"{name}={value}" for name, value in {**parts, **changed}.items())


@asynccontextmanager
async def identity(url: str = "memory://", text: str = POLICY) -> AsyncIterator[Identity]:
    store = open_store(url)
    await store.open()
    made = Identity(policy(text), store)
    await made.start()
    try:
        yield made
    finally:
        await made.close()
        await store.close()


async def who(made: Identity, header: str, request: Request, **headers: str) -> Caller:
    found = made.identify({HEADER: header, **headers}, "", "192.0.2.1", request)
    return found if isinstance(found, Caller) else await found


async def refusal(made: Identity, header: str, request: Request) -> CallError:
    with pytest.raises(CallError) as caught:
        await who(made, header, request)
    return caught.value


async def test_a_signed_request_is_its_signers() -> None:
    with FrozenClock() as time:
        async with identity() as made:
            one = Signed(at=str(int(time.now())))
            caller = await who(made, one.header(), one.request)
            two = Signed("batch", one.at, "another-nonce-1234", "another-secret-of-batch")
            other = await who(made, two.header(), two.request)

            assert ("acme", "pro", "signer:billing", None) == (
                caller.tenant,
                caller.tier,
                caller.key_id,
                caller.key,
            )
            assert ("nightly", "free", "signer:batch") == (other.tenant, other.tier, other.key_id)
            assert one.request.body == await one.request.read_body(10**6)


@pytest.mark.parametrize(
    "change",
    [
        {"method": "PUT"},
        {"raw_path": b"/v1/embeddings"},
        {"raw_path": b"/v1/chat%2Fcompletions"},
        {"raw_query": b"a=2"},
        {"raw_query": b""},
    ],
)
async def test_what_was_signed_is_what_counts(change: dict[str, Any]) -> None:
    with FrozenClock() as time:
        async with identity() as made:
            header = Signed(at=str(int(time.now()))).header()
            error = await refusal(made, header, Request(**change))

            assert ("unauthenticated", "The signature is not right.") == (error.kind, str(error))


async def test_another_body_is_refused_while_it_is_read() -> None:
    with FrozenClock() as time:
        async with identity() as made:
            header = Signed(at=str(int(time.now()))).header()
            forged = Request(body=b'{"model": "n"}')
            await who(made, header, forged)
            with pytest.raises(CallError, match="body"):
                await forged.read_body(10**6)


@pytest.mark.parametrize(
    "change",
    [
        {"mac": "0" * 64},
        {"mac": "0" * 63},
        {"mac": "\xe9" * 64},
        {"signer": "nobody"},
        {"signer": "batch"},
        {"signer": "*"},
        {"signer": "billing' OR '1'='1"},
        {"nonce": "other-nonce-1234567"},
        {"nonce": "short"},
        {"nonce": "n" * 65},
        {"nonce": "abc\n0123456789abcdef"},
        {"at": "-1"},
        {"at": "1e9"},
        {"at": "9" * 13},
        {"at": "١٧٩٠٠٠٠٠٠٠"},
        {"body": "f" * 64},
        {"more": "x"},
        {"mac": "0" * 1_000_000},
    ],
)
async def test_signatures_that_are_changed(change: dict[str, str]) -> None:
    with FrozenClock() as time:
        async with identity() as made:
            one = Signed(at=str(int(time.now())))

            assert "unauthenticated" == (await refusal(made, one.header(**change), one.request)).kind


@pytest.mark.parametrize("off", [-61, -100_000, 61, 100_000])
async def test_times_that_are_off(off: int) -> None:
    with FrozenClock() as time:
        async with identity() as made:
            one = Signed(at=str(int(time.now()) + off))

            assert "60 s off" in str(await refusal(made, one.header(), one.request))


async def test_a_nonce_counts_once_for_each_signer_in_all_processes(shared_url: str) -> None:
    with FrozenClock() as time:
        async with identity(shared_url) as made, identity(shared_url) as other:
            time.advance(5)
            one = Signed(at=str(int(time.now())))
            await who(made, one.header(), one.request)
            for each in (made, other):
                assert "used before" in str(await refusal(each, one.header(), one.request))
            two = Signed("batch", one.at, one.nonce, "another-secret-of-batch")
            await who(other, two.header(), two.request)
            time.advance(60)
            assert "used before" in str(await refusal(other, one.header(), one.request))
            time.advance(1)
            assert "off" in str(await refusal(other, one.header(), one.request))


async def test_a_wrong_signature_spends_no_nonce() -> None:
    with FrozenClock() as time:
        async with identity() as made:
            one = Signed(at=str(int(time.now())))
            await refusal(made, one.header(mac="0" * 64), one.request)

            assert "acme" == (await who(made, one.header(), one.request)).tenant


async def test_without_a_shared_store_nothing_from_before_the_start_counts() -> None:
    """Its nonce may have been used: nobody remembers."""
    with FrozenClock() as time:
        one = Signed(at=str(int(time.now()) - 1))
        async with identity() as made:
            assert "memory" in str(await refusal(made, one.header(), one.request))


async def test_a_store_that_is_away_refuses(tmp_path: Path) -> None:
    with FrozenClock() as time:
        async with identity(f"sqlite:///{tmp_path}/book.db") as made:
            time.advance(2)
            one = Signed(at=str(int(time.now())))
            assert made._ways[0].house.store is not None
            await made._ways[0].house.store.close()

            assert "store_unavailable" == (await refusal(made, one.header(), one.request)).kind


@pytest.mark.parametrize("secret", ["short", "fifteen-bytes-1"])
async def test_secrets_that_can_be_guessed_refuse_the_start(
    monkeypatch: pytest.MonkeyPatch, secret: str
) -> None:
    monkeypatch.setenv("BILLING_SECRET", secret)
    with pytest.raises(SecretError, match=r"identity\.signature\.signers\.billing\.secret") as caught:
        async with identity():
            pass
    assert secret not in str(caught.value)


@pytest.mark.parametrize("secret", ["", None])
async def test_no_secret_refuses_the_start(monkeypatch: pytest.MonkeyPatch, secret: str | None) -> None:
    if secret is None:
        monkeypatch.delenv("BILLING_SECRET")
    else:
        monkeypatch.setenv("BILLING_SECRET", secret)
    with pytest.raises(SecretError, match="BILLING_SECRET"):
        async with identity():
            pass


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        ("secret: env://BILLING_SECRET", f"secret: {SECRET}", "LS309"),
        ("tenant: nightly, tier: free", "tenant: nightly", "LS202"),
        ("tier: free", "tier: gold", "LS304"),
        ("skew: 60s", "skew: 2h", "LS205"),
        ("identify: [signature, virtual_key]", "identify: [virtual_key, 'signature:x']", "LS305"),
    ],
)
def test_policies_that_are_refused(old: str, new: str, code: str) -> None:
    with pytest.raises(PolicyError, match=code) as caught:
        policy(POLICY.replace(old, new))
    assert SECRET not in str(caught.value)


def test_check_looks_for_the_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BATCH_SECRET")
    monkeypatch.setenv("X", "sk-provider-1")
    found, findings = inspect_text("version: 1\n" + POLICY, secrets=True)

    assert found is None
    assert [("LS317", "identity.signature.signers.batch.secret")] == [
        (item.code, item.path) for item in findings
    ]


async def test_the_client_of_the_docs_is_served(primary: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten lines of the standard library, as they stand in docs/identity.md."""
    page = Path(__file__).parents[2].joinpath("docs", "identity.md").read_text()
    code = re.search(r"```python\n(.*?)```", page, re.DOTALL)
    assert code is not None
    text = POLICY.replace(
        "{dialect: openai, api_key: env://X}",
        f"{{dialect: openai, base_url: {primary.url}/v1, api_key: env://X}}",
    )
    monkeypatch.setenv("X", "sk-provider")
    import asyncio

    async with gateway(text) as (url, _):
        client: dict[str, Any] = {}
        exec(code[1], client)
        body = b'{"model": "gpt-4o", "messages": [{"role": "user", "content": "hello"}]}'
        answer = await asyncio.to_thread(client["post"], url, "/v1/chat/completions", body, "billing", SECRET)

    assert b'"choices"' in answer
    assert 1 == len(primary.calls)
    assert HEADER not in primary.calls[0].headers
