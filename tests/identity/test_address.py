"""Tenants by the network that calls: the narrowest wins, proxies are believed where they are trusted, keys go on."""

from __future__ import annotations

import pytest

from llmshield.errors import CallError
from llmshield.identity import Caller, Identity
from llmshield.testing import policy

POLICY = """
identify: [virtual_key, address]
identity: {address: {10.1.0.0/16: search, 10.1.7.0/24: billing, "2001:db8::/32": billing}}
trusted_proxies: [192.0.2.1/32]
providers: {p: {dialect: openai}}
tenants: {search: {tier: pro}, billing: {tier: pro}}
tiers: {pro: {}}
"""


@pytest.mark.parametrize(
    ("peer", "told", "tenant"),
    [
        ("10.1.2.3", None, "search"),
        ("10.1.7.3", None, "billing"),
        ("::ffff:10.1.7.3", None, "billing"),
        ("2001:db8::7", None, "billing"),
        ("192.0.2.1", "10.1.7.9", "billing"),
        ("10.1.2.3", "10.1.7.9", "search"),  # not a trusted proxy: what it tells is nothing
        ("10.2.0.1", None, None),
        ("", None, None),
    ],
)
def test_networks(peer: str, told: str | None, tenant: str | None) -> None:
    made = Identity(policy(POLICY))
    headers = {"authorization": "Bearer sk-own", **({"x-forwarded-for": told} if told else {})}
    if tenant is None:
        with pytest.raises(CallError) as raised:
            made.identify(headers, "", peer)
        assert raised.value.kind == "unauthenticated"
        return
    found = made.identify(headers, "", peer)

    assert isinstance(found, Caller)
    assert (tenant, "pro", "sk-own") == (found.tenant, found.tier, found.key)
