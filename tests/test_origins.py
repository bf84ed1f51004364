"""The line before spliced bytes: exactly such a thing with our token, or nothing at all."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmshield.origins import LONGEST, MAGIC, Origin, asks, read, uid_of, write

TOKEN = "t" * 43
GOOD: dict[str, Any] = {
    "t": TOKEN,
    "peer": ["10.0.0.5", 51234],
    "sni": "api.openai.com",
    "dst": ["api.openai.com", 443],
}


def line(**changed: Any) -> bytes:
    return MAGIC + json.dumps({**GOOD, **changed}).encode()


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        ({"t": TOKEN, "alive": True}, True),
        ({"t": TOKEN, "alive": 1}, False),
        ({"t": TOKEN}, False),
        ({"t": "x" * 43, "alive": True}, False),
        ({"alive": True}, False),
        ([], False),
    ],
)
def test_who_asks_for_a_sign_of_life(said: Any, wanted: bool) -> None:
    assert asks(MAGIC + json.dumps(said).encode(), TOKEN) is wanted


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        (line(), Origin("10.0.0.5", 51234, "api.openai.com", "api.openai.com", 443)),
        (line(sni=None), Origin("10.0.0.5", 51234, "", "api.openai.com", 443)),
        (line(sni="API.OpenAI.com."), Origin("10.0.0.5", 51234, "api.openai.com", "api.openai.com", 443)),
        (line(peer=["::ffff:10.0.0.5", 1]), Origin("10.0.0.5", 1, "api.openai.com", "api.openai.com", 443)),
        (line(peer=["fe80::1%eth0", 1]), Origin("fe80::1", 1, "api.openai.com", "api.openai.com", 443)),
        (line(dst=["2001:db8::1", 443]), Origin("10.0.0.5", 51234, "api.openai.com", "2001:db8::1", 443)),
        (line(more={"a": 1}), Origin("10.0.0.5", 51234, "api.openai.com", "api.openai.com", 443)),
        (line(t="x" * 43), None),
        (line(t=""), None),
        (line(t=None), None),
        (line(t=[TOKEN]), None),
        (line(t="\N{SNOWMAN}"), None),
        (line(t="\ud800"), None),
        (line(peer="10.0.0.5"), None),
        (line(peer=["10.0.0.5"]), None),
        (line(peer=["host.example", 1]), None),
        (line(peer=["10.0.0.5", True]), None),
        (line(peer=["10.0.0.5", 65536]), None),
        (line(peer=["10.0.0.5", -1]), None),
        (line(peer=["10.0.0.5", 1.0]), None),
        (line(sni=""), None),
        (line(sni=5), None),
        (line(sni="a b"), None),
        (line(sni="a\r\nx: y"), None),
        (line(sni="a" * 256), None),
        (line(dst=None), None),
        (line(dst=["", 443]), None),
        (line(dst=["a/b", 443]), None),
        (MAGIC, None),
        (MAGIC + b"[]", None),
        (MAGIC + b"[" * 4000, None),
        (MAGIC + b'{"t":' + b"1" * 4000 + b"}", None),
        (MAGIC + b"\xff", None),
        (b"GET / HTTP/1.1", None),
    ],
)
def test_lines(said: bytes, wanted: Origin | None) -> None:
    assert wanted == read(said, TOKEN)


NAMES = st.from_regex(r"\A[a-z0-9][a-z0-9.-]{0,60}[a-z0-9]\Z")


@given(st.ip_addresses(v=4), st.integers(0, 65535), st.none() | NAMES, NAMES, st.integers(0, 65535))
def test_what_is_written_is_read(address: Any, port: int, sni: str | None, host: str, to: int) -> None:
    written = write(TOKEN, (str(address), port), sni, (host, to))

    assert written.endswith(b"\r\n")
    assert len(written) < LONGEST
    assert Origin(str(address), port, sni or "", host, to) == read(written[:-2], TOKEN)


@given(st.binary(max_size=300))
def test_any_bytes(said: bytes) -> None:
    assert read(said, TOKEN) is None
    assert read(MAGIC + said, TOKEN) is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(["t", "peer", "sni", "dst"]), JSON))
def test_any_values(said: dict[str, Any]) -> None:
    """Whatever the members are: nothing is raised, and without the token nothing is believed."""
    text = json.dumps({**GOOD, **said}).encode()

    assert read(text, "another") is None
    found = read(text, TOKEN)
    assert found is None or isinstance(found, Origin)


@pytest.mark.parametrize(
    ("host", "good"),
    [
        ("api.openai.com", True),
        ("API.openai.com:443", True),
        ("api.openai.com.", True),
        (" api.openai.com ", True),
        ("api.openai.com:8443", True),
        ("openai.com", False),
        ("api.openai.com.evil.example", False),
        ("evil.example", False),
        ("", False),
        (":443", False),
        ("api.openai.com:443:443", False),
        ("api.openai.com@evil.example", False),
    ],
)
def test_hosts(host: str, good: bool) -> None:
    assert good is Origin("10.0.0.5", 1, "api.openai.com", "10.9.9.9", 443).is_for(host)


def test_an_address_without_a_name() -> None:
    assert Origin("10.0.0.5", 1, "", "2001:db8::1", 443).is_for("[2001:db8::1]:443")


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="Linux tells whose a socket is")
@pytest.mark.parametrize(("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_whose_a_connection_is(family: socket.AddressFamily, host: str) -> None:
    with socket.socket(family) as server, socket.socket(family) as client:
        try:
            server.bind((host, 0))
        except OSError:
            pytest.skip("no IPv6 here")
        server.listen()
        client.connect(server.getsockname()[:2])
        address, port = client.getsockname()[:2]

        assert os.getuid() == uid_of(address, port)
        assert uid_of(address, 1) is None
    assert uid_of("no address", 1) is None
    assert uid_of(host, port, ("/no/such/table",)) is None
