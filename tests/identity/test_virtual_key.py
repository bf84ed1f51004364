"""Who is calling: keys in every place they may come in, tenants by header, addresses behind proxies."""

import hashlib

import pytest

from llmshield.errors import CallError
from llmshield.identity import Identity, as_bearer
from llmshield.testing import policy

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
    caller = identity().identify(headers, query, "192.0.2.1")

    assert ("acme", "pro", None) == (caller.tenant, caller.tier, caller.key)
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
    who = identity(anonymous=anonymous, passes=passes)
    headers = {"x-api-key": key} if key else {}
    if outcome == "unauthenticated":
        with pytest.raises(CallError) as caught:
            who.identify(headers, "", "192.0.2.1")

        assert "unauthenticated" == caught.value.kind
    else:
        caller = who.identify(headers, "", "192.0.2.1")

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
        assert outcome == identity().identify(headers, "", peer).tenant


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
