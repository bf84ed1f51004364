"""The tenant by a header: from trusted addresses only, and never a key of ours beside it on its way to a provider."""

from typing import Any

import pytest

from llmshield.client_keys import make
from llmshield.errors import CallError, PolicyError
from llmshield.identity import Caller, Identity
from llmshield.testing import policy

POLICY = """
identify: ["header:X-LLMShield-Tenant"]
trusted_proxies: [10.0.0.0/8]
providers: {p: {dialect: openai}}
tenants: {acme: {tier: pro}, anonymous: {tier: free}}
tiers: {pro: {}, free: {}}
"""


def who(headers: dict[str, str], peer: str = "10.0.0.1", query: str = "") -> Caller:
    found = Identity(policy(POLICY)).identify(headers, query, peer)
    assert isinstance(found, Caller)
    return found


@pytest.mark.parametrize(
    ("peer", "tenant"),
    [
        ("10.0.0.1", "acme"),
        ("::ffff:10.0.0.1", "acme"),
        ("192.0.2.1", "anonymous"),
        ("", "anonymous"),
        ("x" * 10**6, "anonymous"),
    ],
)
def test_only_trusted_proxies_are_believed(peer: str, tenant: str) -> None:
    assert tenant == who({"x-llmshield-tenant": "acme"}, peer).tenant


@pytest.mark.parametrize(
    "named", ["", "nobody", "acme, acme", "ACME", "acme ", "ac*", "acm\xe9", "a" * 10**6, "%61cme"]
)
def test_a_name_that_is_none_is_refused(named: str) -> None:
    with pytest.raises(CallError) as caught:
        who({"x-llmshield-tenant": named})

    assert "unauthenticated" == caught.value.kind
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("key", "passed"),
    [("sk-own-provider-key", "sk-own-provider-key"), (make(), None), ("llmsk_broken", None)],
    ids=["a provider's", "ours", "ours, mistyped"],
)
def test_a_providers_key_goes_on_and_one_of_ours_does_not(key: str, passed: str | None) -> None:
    caller = who({"x-llmshield-tenant": "acme", "x-api-key": key})

    assert ("acme", passed, passed is None) == (caller.tenant, caller.key, caller.ours)


@pytest.mark.parametrize("key", ["sk-\r\nx-evil: 1", "sk-\x00", "sk-\x7f", "sk-\xe9"])
def test_a_key_that_no_header_can_hold_is_not_passed_on(key: str) -> None:
    from urllib.parse import quote

    with pytest.raises(CallError) as caught:
        who({"x-llmshield-tenant": "acme"}, query=f"key={quote(key, encoding='latin-1')}")

    assert "bad_request" == caught.value.kind


@pytest.mark.parametrize(("peer", "key"), [("10.0.0.1", None), ("192.0.2.1", None), ("192.0.2.1", "sk-own")])
def test_what_a_proxy_says_goes_no_further(peer: str, key: str | None) -> None:
    """Believed or not: a provider that is told tenants, or an attacker that tells them, is no good."""
    made = Identity(policy(POLICY.replace("X-LLMShield-Tenant", "X-Remote-Team")))
    headers = {"x-remote-team": "acme", "x-other": "y", **({"x-api-key": key} if key else {})}
    made.identify(headers, "", peer)

    assert "x-remote-team" not in headers
    assert "y" == headers["x-other"]


@pytest.mark.parametrize("rule", ["header:", "header", "header:x y", "header:x:y", "header:\xe9"])
def test_names_that_no_header_has(rule: Any) -> None:
    with pytest.raises(PolicyError, match="LS305"):
        policy(POLICY.replace("header:X-LLMShield-Tenant", rule))
