"""Tenants by the host that a TLS handshake named, under the transparent mount and nowhere else."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from llmshield.identity import Caller, Identity
from llmshield.origins import Origin
from llmshield.testing import policy

POLICY = """
identify: [sni]
identity: {sni: {billing.llm.test: billing, "*.llm.test": search, "*.deep.llm.test": billing}}
providers: {p: {dialect: openai}}
tenants: {search: {tier: pro}, billing: {tier: pro}, anonymous: {tier: pro}}
tiers: {pro: {}}
"""


@pytest.mark.parametrize(
    ("origin", "tenant"),
    [
        (Origin("10.0.0.5", 1, "billing.llm.test", "10.9.9.9", 443), "billing"),
        (Origin("10.0.0.5", 1, "other.llm.test", "billing.llm.test", 443), "search"),
        (Origin("10.0.0.5", 1, "a.deep.llm.test", "10.9.9.9", 443), "billing"),
        (Origin("10.0.0.5", 1, "llm.test", "10.9.9.9", 443), "anonymous"),
        (Origin("10.0.0.5", 1, "", "billing.llm.test", 80), "anonymous"),
        (None, "anonymous"),
    ],
)
def test_names(origin: Origin | None, tenant: str) -> None:
    asked: Any = SimpleNamespace(origin=origin)
    found = Identity(policy(POLICY)).identify({}, "", "10.0.0.5", asked)

    assert isinstance(found, Caller)
    assert tenant == found.tenant
