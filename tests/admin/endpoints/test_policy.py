"""The effective policy: all of it, and none of its secrets."""

from pathlib import Path
from typing import Any

import pytest

from llmshield.admin.showing import shown
from llmshield.resolvers import SecretRef

TOKEN = "a-token-of-some-length"
EXAMPLE = Path(__file__).parents[3] / "policy.example.yaml"


async def test_it_is_all_there(desk: Any) -> None:
    said = await desk.ask("GET", "/v1/policy", key="read")
    policy = said.json["policy"]

    assert desk.runtime.policy.hash == said.json["hash"]
    assert {"server", "admin", "providers", "routes", "tenants", "tiers", "plugins", "audit"} <= set(policy)
    assert ("env://KEY_OF_A", 60.0) == (
        policy["providers"]["a"]["api_key"],
        policy["providers"]["a"]["circuit"]["open_for"],
    )
    assert ["5 USD/day", "50 USD/month"] == policy["tiers"]["pro"]["budget"]
    assert b"CANARY" not in said.body
    assert "***" == policy["admin"]["keys"]["admin-key"]["key"]


async def test_secrets_of_a_policy_stay_there(open_desk: Any) -> None:
    text = """
server: {store: "memory://"}
providers:
  a: {dialect: openai, api_key: "env://KEY_OF_A", system: {prefix: "sk-CANARY0123456789abcdefghij"}}
tenants: {acme: {keys: ["sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"]}}
"""
    async with open_desk(text, token=TOKEN) as desk:
        said = [
            await desk.ask("GET", path, key=TOKEN) for path in ("/v1/policy", "/v1/providers/a", "/status")
        ]

    for each in said:
        assert 200 == each.status
        assert b"CANARY" not in each.body
        assert b"9f86d081884c7d65" not in each.body


@pytest.mark.parametrize(
    ("name", "value", "is_shown"),
    [
        ("api_key", SecretRef("env", "NAME"), "env://NAME"),
        ("api_key", SecretRef("enc", "v1.openai.k1.CANARY"), "enc://***"),
        ("api_key", "CANARY", "***"),
        ("password", "CANARY", "***"),
        ("password", "env://NAME", "env://NAME"),
        ("url", "redis://user:CANARY@host:6379/0", "redis://***@host:6379/0"),
        ("words", "sk-CANARY0123456789abcdef", "***"),
        ("x", float("inf"), "inf"),
        ("x", 2**70, str(2**70)),
        ("x", (1, None, True), [1, None, True]),
        ("x", {"token": "CANARY", "y": Path("a/b")}, {"token": "***", "y": "a/b"}),
        ("x", str, "str"),
    ],
)
def test_single_values(name: str, value: object, is_shown: object) -> None:
    assert is_shown == shown(value, name)


def test_what_goes_round_in_circles_ends() -> None:
    value: list[Any] = []
    value.append(value)

    assert "***" in str(shown(value))
