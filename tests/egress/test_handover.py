"""What the proxy is told, and what it says when there is nobody to ask."""

from __future__ import annotations

import json

import pytest

from llmshield.egress.handover import handover, unavailable
from llmshield.testing import policy

POLICY = """
providers:
  openai: {dialect: openai, connect: "127.0.0.1:9443"}
  claude: {dialect: anthropic}
egress:
  hosts: {api.openai.com: openai, "*.anthropic.com": claude}
  unlisted: log
  bypass: {clients: [10.0.0.0/8], hosts: [x.anthropic.com]}
"""


def test_all_that_the_proxy_needs() -> None:
    said = handover(policy(POLICY), ("127.0.0.1", 1), "t", (("127.0.0.1", 2),))
    errors, malformed = said.pop("errors"), said.pop("malformed")

    assert said == json.loads(json.dumps(said))
    assert {"", "openai", "anthropic", "gemini"} == set(errors) == set(malformed)
    assert {400} == {each["status"] for each in malformed.values()}
    assert said == {
        "gateway": ["127.0.0.1", 1], "token": "t", "own": [["127.0.0.1", 2]],
        "hosts": {"api.openai.com": {"family": "openai", "connect": ["127.0.0.1", 9443]},
                  "*.anthropic.com": {"family": "anthropic", "connect": None}},
        "unlisted": "log", "on_no_sni": "log", "websocket": "block", "grpc": "block",
        "bypass": {"clients": ["10.0.0.0/8"], "hosts": ["x.anthropic.com"]}, "ports": [80, 443], "loopback": "block",
        "on_crash": "block",
    }  # fmt: skip


def test_a_policy_that_intercepts_nothing() -> None:
    with pytest.raises(ValueError, match="hosts"):
        handover(policy("plugins: []"), ("127.0.0.1", 1), "t")


@pytest.mark.parametrize(
    ("family", "where"), [("openai", ("code",)), ("anthropic", ("type",)), ("gemini", ("status",))]
)
def test_no_gateway_in_each_family_s_words(family: str, where: tuple[str, ...]) -> None:
    said = unavailable(family)
    error = json.loads(said["body"])["error"]

    assert said["status"] == 503
    assert said["headers"]["retry-after"] == "2"
    assert "not running" in error["message"]
    assert error[where[0]]
    assert all("\n" not in value for value in said["headers"].values())
