"""Rules as text: what stands in them, and that no input can put more into them."""

import pytest

from llmshield.egress.rules import (
    Rules,
    RulesError,
    check_listen,
    iptables_tables,
    iptables_up,
    nft_down,
    nft_up,
)

PLAIN = Rules(8080, 1337)


def test_nft_as_it_was_measured() -> None:
    assert nft_up(PLAIN) == (
        "add table inet llmshield\n"
        "delete table inet llmshield\n"
        "table inet llmshield {\n"
        "  chain out {\n"
        "    type nat hook output priority -100; policy accept;\n"
        "    meta skuid 1337 return\n"
        "    ip daddr 127.0.0.0/8 return\n"
        "    ip6 daddr ::1 return\n"
        "    tcp dport { 80, 443 } redirect to :8080\n"
        "  }\n"
        "  chain quic {\n"
        "    type filter hook output priority 0; policy accept;\n"
        "    meta skuid 1337 return\n"
        "    ip daddr 127.0.0.0/8 return\n"
        "    ip6 daddr ::1 return\n"
        "    udp dport { 443 } reject\n"
        "  }\n"
        "}\n"
    )
    assert nft_down() == "delete table inet llmshield\n"


@pytest.mark.parametrize(
    ("rules", "there", "absent"),
    [
        (PLAIN, ["meta skuid 1337 return"], ["skgid"]),
        (Rules(8080, 1337, 1400), ["meta skuid 1337 return", "meta skgid 1400 return"], []),
        (Rules(8080, 1337, only=(5, 6)), ["meta skuid != { 5, 6 } return"], []),
        (Rules(9000, 1337, ports=(443, 8443)), ["tcp dport { 443, 8443 } redirect to :9000", "udp dport { 443, 8443 }"], []),
        (Rules(8080, 1337, ports=(80,)), ["tcp dport { 80 }"], ["udp", "quic"]),
    ],
)  # fmt: skip
def test_what_stands_in_nft(rules: Rules, there: list[str], absent: list[str]) -> None:
    text = nft_up(rules)

    assert [part for part in there if part not in text] == []
    assert [part for part in absent if part in text] == []


@pytest.mark.parametrize(("version", "loopback"), [(4, "127.0.0.0/8"), (6, "::1/128")])
def test_iptables(version: int, loopback: str) -> None:
    assert iptables_up(Rules(8080, 1337, 1337), version).splitlines() == [
        "*nat",
        ":LLMSHIELD - [0:0]",
        "-A LLMSHIELD -m owner --uid-owner 1337 -j RETURN",
        "-A LLMSHIELD -m owner --gid-owner 1337 -j RETURN",
        f"-A LLMSHIELD -d {loopback} -j RETURN",
        "-A LLMSHIELD -p tcp -m multiport --dports 80,443 -j REDIRECT --to-ports 8080",
        "COMMIT",
        "*filter",
        ":LLMSHIELD - [0:0]",
        "-A LLMSHIELD -m owner --uid-owner 1337 -j RETURN",
        "-A LLMSHIELD -m owner --gid-owner 1337 -j RETURN",
        f"-A LLMSHIELD -d {loopback} -j RETURN",
        "-A LLMSHIELD -p udp -m multiport --dports 443 -j REJECT",
        "COMMIT",
    ]


def test_iptables_for_some_users_and_without_http3() -> None:
    text = iptables_up(Rules(8080, 1337, only=(5, 6), ports=(80,)), 4)

    assert "*filter" not in text
    assert iptables_tables(Rules(8080, 1337, ports=(80,))) == ("nat",)
    assert [line.split("-j")[0].split()[-1] for line in text.splitlines() if "REDIRECT" in line] == [
        "80",
        "80",
    ]
    assert "--uid-owner 5 -p tcp" in text
    assert "--uid-owner 6 -p tcp" in text


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "0.0.0.0", "::", "localhost"])
def test_where_a_redirect_leads(host: str) -> None:
    check_listen(host)


@pytest.mark.parametrize("host", ["10.0.0.1", "127.0.0.2", "example.com", "fe80::1", ""])
def test_where_it_never_leads(host: str) -> None:
    with pytest.raises(RulesError, match="--listen"):
        check_listen(host)
