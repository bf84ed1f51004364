"""One client, one network."""

import pytest

from llmshield.addresses import network_of, parse

NETWORKS = [
    ("192.0.2.1", "192.0.2.1"),
    ("::ffff:192.0.2.1", "192.0.2.1"),
    ("[2001:db8::1]", "2001:db8::/64"),
    ("2001:db8:0:0:dead:beef:0:1", "2001:db8::/64"),
    ("2001:db8:0:1::1", "2001:db8:0:1::/64"),
    ("fe80::1%eth0", "fe80::/64"),
    ("", "none"),
    ("192.0.2.1:443", "none"),
    ("unix:/run/x.sock", "none"),
    ("1" * 10_000, "none"),
]


@pytest.mark.parametrize(("text", "network"), NETWORKS)
def test_the_network_of_a_client(text: str, network: str) -> None:
    assert network_of(text) == network
    assert (parse(text) is None) == (network == "none")
