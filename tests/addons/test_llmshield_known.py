"""Hosts, clients and addresses as the addon looks them up; the same answers as the gateway's about hosts."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmshield.egress.handover import handover
from llmshield.testing import policy
from llmshield_addons.llmshield_known import Known, ip_of, shown

POLICY = policy("""
providers: {openai: {dialect: openai}, claude: {dialect: anthropic}}
egress:
  hosts: {api.openai.com: openai, "*.claude.test": claude, "*.deep.claude.test": openai}
  bypass: {clients: [10.9.0.0/16, "2001:db8::/32"], hosts: [pinned.claude.test, "*.pinned.claude.test"]}
""")
SAID = handover(POLICY, ("127.0.0.1", 4711), "token", (("127.0.0.1", 4712),))
KNOWN = Known(SAID)


@given(
    st.sampled_from(
        ["api.openai.com", "claude.test", "a.claude.test", "x.deep.claude.test", "deep.claude.test"]
    ),
    st.sampled_from(["", ".", "x", ".evil.example"]),
    st.booleans(),
)
def test_hosts_as_the_gateway_sees_them(name: str, tail: str, upper: bool) -> None:
    host = (name.upper() if upper else name) + tail
    assert POLICY.egress is not None
    provider = POLICY.egress.provider_of(host)
    about = KNOWN.find(host)

    assert (provider is None) == (about is None)
    assert about is None or about["family"] == POLICY.providers[provider or ""].dialect


@pytest.mark.parametrize(
    ("client", "host", "bypassed"),
    [
        ("10.9.1.1", "api.openai.com", True),
        ("::ffff:10.9.1.1", "api.openai.com", True),
        ("2001:db8::1", "api.openai.com", True),
        ("10.8.1.1", "api.openai.com", False),
        ("10.8.1.1", "PINNED.claude.test.", True),
        ("10.8.1.1", "a.pinned.claude.test", True),
        ("10.8.1.1", "xpinned.claude.test", False),
    ],
)
def test_bypasses(client: str, host: str, bypassed: bool) -> None:
    assert bypassed is KNOWN.is_bypassed(client, host)


@pytest.mark.parametrize(
    ("host", "port", "closed"),
    [
        ("other.example", 443, False),
        ("other.example", 80, False),
        ("other.example", 22, True),
        ("169.254.169.254", 80, True),
        ("[fe80::1%eth0]", 443, True),
        ("fd00:ec2::254", 80, True),
        ("::ffff:169.254.169.254", 80, True),
        ("10.0.0.1", 443, False),
    ],
)
def test_where_nobody_is_connected_to(host: str, port: int, closed: bool) -> None:
    assert closed is (KNOWN.may_go((host, port)) is not None)


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.9.9.9", "localhost", "::1", "0.0.0.0", "::", "::ffff:127.0.0.1"]
)
def test_our_own_ports(host: str) -> None:
    assert KNOWN.is_closed(host, 4711) is not None
    assert KNOWN.is_closed(host, 4712) is not None
    assert KNOWN.is_closed(host, 4713) == "services of this machine are closed (egress.loopback)"
    assert Known({**SAID, "loopback": "pass"}).is_closed(host, 4713) is None


@given(st.text(max_size=40))
def test_any_text(text: str) -> None:
    found: Any = ip_of(text)

    assert found is None or str(found)


@given(st.text(max_size=300))
def test_a_host_is_shown_in_one_line_of_plain_letters(text: str) -> None:
    found = shown(text)

    assert len(found) <= 253
    assert all("!" <= each <= "~" and each not in '"\\' for each in found)
    assert shown("api.openai.com:443") == "api.openai.com:443"
    assert shown('a\x1b]0;b\x07\n"c\\') == "a?]0;b???c?"
