"""The addon's hooks with mitmproxy's own objects: what goes where, and that a hook that breaks lets nothing go on."""

from __future__ import annotations

from typing import Any

MAKE = """
import asyncio
from types import SimpleNamespace
from mitmproxy import http, tls
from mitmproxy.connection import Client, ConnectionState, Server
from mitmproxy.options import Options
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.server_hooks import ServerConnectionHookData
from mitmproxy.test import tflow
from mitm import LLMShield
from llmshield_splice import Closed, Splice

def client(peer="10.0.0.5"):
    return Client(peername=(peer, 1), sockname=("127.0.0.1", 2), timestamp_start=0, state=ConnectionState.OPEN)

def hello(shield, sni, to=None, peer="10.0.0.5", alpn=(b"h2", b"http/1.1")):
    context = Context(client(peer), Options())
    context.server = Server(address=tuple(to) if to else None)
    data = SimpleNamespace(context=context, client_hello=SimpleNamespace(sni=sni, alpn_protocols=list(alpn)),
                           ignore_connection=False)
    shield.tls_clienthello(data)
    return data

def connects(shield, data, to=None):
    server = data.context.server
    if to:
        server.address = tuple(to)
    about = ServerConnectionHookData(client=data.context.client, server=server)
    shield.server_connect(about)
    return about.server.error
"""

HELLOS = (
    MAKE
    + """
def judge(case):
    shield = LLMShield({**given["said"], **case.get("said", {})})
    shield.addresses = frozenset(["192.0.2.9"])
    shield.gateway_up = case.get("up", True)
    data = hello(shield, case["sni"], case["to"], case.get("peer", "10.0.0.5"))
    if not data.ignore_connection:
        return "intercepted"
    return "blocked" if connects(shield, data) else "passed"

result = [judge(case) for case in given["cases"]]
"""
)


def test_what_becomes_of_a_connection(inside: Any, said: dict[str, Any]) -> None:
    listed, other = ["api.openai.com", 443], ["other.example", 443]
    table: list[tuple[dict[str, Any], str]] = [
        ({"sni": "api.openai.com", "to": listed}, "intercepted"),
        ({"sni": "API.OpenAI.com", "to": ["192.0.2.9", 443]}, "intercepted"),
        ({"sni": "x.claude.test", "to": ["x.claude.test", 443]}, "intercepted"),
        ({"sni": "pinned.claude.test", "to": ["pinned.claude.test", 443]}, "passed"),
        ({"sni": "api.openai.com", "to": listed, "peer": "10.9.1.1"}, "passed"),
        ({"sni": "other.example", "to": other}, "passed"),
        ({"sni": "other.example", "to": other, "said": {"unlisted": "log"}}, "passed"),
        ({"sni": "other.example", "to": other, "said": {"unlisted": "block"}}, "blocked"),
        ({"sni": "other.example", "to": other, "said": {"unlisted": "block"}, "peer": "10.9.1.1"}, "blocked"),
        ({"sni": "other.example", "to": ["other.example", 22]}, "blocked"),
        ({"sni": "other.example", "to": ["169.254.169.254", 443]}, "blocked"),
        ({"sni": "other.example", "to": ["fe80::1", 443]}, "blocked"),
        ({"sni": "other.example", "to": ["127.0.0.1", 4711], "said": {"ports": [443, 4711]}}, "blocked"),
        ({"sni": "other.example", "to": ["::1", 4712], "said": {"ports": [443, 4712]}}, "blocked"),
        ({"sni": "other.example", "to": ["localhost", 4712], "said": {"ports": [443, 4712]}}, "blocked"),
        ({"sni": None, "to": ["198.51.100.1", 443]}, "passed"),
        ({"sni": None, "to": ["198.51.100.1", 443], "said": {"on_no_sni": "block"}}, "blocked"),
        ({"sni": None, "to": ["192.0.2.9", 443]}, "blocked"),  # the address of a host of the policy
        ({"sni": None, "to": listed}, "blocked"),
        ({"sni": "other.example", "to": listed}, "blocked"),  # its name, with another one in the handshake
        ({"sni": "other.example", "to": ["x.claude.test", 443], "said": {"unlisted": "log"}}, "blocked"),
        ({"sni": "other.example", "to": ["192.0.2.9", 443]}, "passed"),  # a CDN's address has many hosts
        ({"sni": "api.openai.com", "to": listed, "up": False}, "intercepted"),
        ({"sni": "api.openai.com", "to": listed, "up": False, "said": {"on_crash": "bypass"}}, "passed"),
    ]
    got = inside(HELLOS, {"said": said, "cases": [case for case, _ in table]})

    assert [(case, wanted) for case, wanted in table] == [
        (case, was) for (case, _), was in zip(table, got, strict=True)
    ]


HANDSHAKES = (
    MAKE
    + """
shield = LLMShield(given)
result = []
for alpn in ((b"h2", b"http/1.1"), (b"http/1.1",), (b"h2",), ()):
    data = hello(shield, "api.openai.com", ("203.0.113.1", 443), alpn=alpn)
    result.append([(data.context.client.alpn or b"").decode(), list(data.context.server.address)])
"""
)


def test_handshakes(inside: Any, said: dict[str, Any]) -> None:
    """HTTP/1.1 wherever the client speaks it; the leaf is for the name and never for an address."""
    to = ["api.openai.com", 443]

    assert [["http/1.1", to], ["http/1.1", to], ["", to], ["http/1.1", to]] == inside(HANDSHAKES, said)


BROKEN = (
    MAKE
    + """
class Broken(LLMShield):
    def find(self, host):
        raise RuntimeError("broken on purpose")
    may_go = is_closed = find

shield = Broken(given)
data = hello(shield, "api.openai.com", ("api.openai.com", 443))
shield_ok = LLMShield(given)
result = {"hello": [data.ignore_connection, bool(connects(shield_ok, data))]}

context = Context(client(), Options())
context.client.timestamp_tls_setup = 1.0
context.client.tls = True
nextlayer = SimpleNamespace(context=context, layer=None, data_client=lambda: b"")
shield.next_layer(nextlayer)
result["layer"] = type(nextlayer.layer).__name__

about = ServerConnectionHookData(client=client(), server=Server(address=("other.example", 443)))
shield.server_connect(about)
result["server"] = bool(about.server.error)

for name in ("requestheaders", "http_connect"):
    flow = tflow.tflow()
    getattr(shield, name)(flow)
    result[name] = [flow.response.status_code, json.loads(flow.response.content)["error"]["code"], flow.request.stream]
result["counted"] = sum(number for (how, _, _), number in shield.counts.items() if how == "error")
"""
)


def test_a_hook_that_breaks_lets_nothing_go_on(inside: Any, said: dict[str, Any]) -> None:
    """mitmproxy logs what a hook raises and forwards: ours have to end what they were asked about."""
    assert inside(BROKEN, said) == {
        "hello": [True, True],
        "layer": "Closed",
        "server": True,
        "requestheaders": [500, "gateway_unavailable", False],
        "http_connect": [500, "gateway_unavailable", False],
        "counted": 5,
    }


REQUESTS = (
    MAKE
    + """
def judge(case):
    shield = LLMShield({**given["said"], **case.get("said", {})})
    flow = tflow.tflow()
    flow.request.host, flow.request.port = case["host"], case.get("port", 80)
    flow.request.host_header = case.get("header", case["host"])
    for name, value in case.get("headers", {}).items():
        flow.request.headers[name] = value
    flow.request.method = case.get("method", "GET")
    flow.request.http_version = case.get("version", "HTTP/1.1")
    flow.client_conn.sni = None
    flow.client_conn.timestamp_tls_setup = None
    shield.requestheaders(flow)
    if flow.response is not None:
        return [flow.response.status_code, json.loads(flow.response.content)["error"]["type"]]
    told = flow.request.headers.get("x-llmshield-origin")
    to = json.loads(told)["dst"][0] if told else False
    return [flow.request.host, flow.request.port, flow.request.host_header, flow.request.stream, to]

result = [judge(case) for case in given["cases"]]
"""
)


def test_requests_that_mitmproxy_reads(inside: Any, said: dict[str, Any]) -> None:
    gateway = ["127.0.0.1", 4711]
    websocket = {
        "connection": "upgrade",
        "upgrade": "websocket",
        "sec-websocket-key": "x",
        "content-length": "0",
    }
    grpc = {"content-type": "application/grpc"}
    passes = {"websocket": "pass", "grpc": "pass"}
    guarded = [*gateway, "api.openai.com", True, "api.openai.com"]
    table: list[tuple[dict[str, Any], list[Any]]] = [
        ({"host": "api.openai.com"}, [*gateway, "api.openai.com", True, "api.openai.com"]),
        (
            {"host": "api.openai.com", "headers": websocket},
            [*gateway, "api.openai.com", True, "api.openai.com"],
        ),
        ({"host": "api.openai.com", "headers": grpc}, [*gateway, "api.openai.com", True, "api.openai.com"]),
        (
            {"host": "api.openai.com", "headers": websocket, "said": {"websocket": "pass"}},
            ["api.openai.com", 80, "api.openai.com", True, False],
        ),
        (
            {
                "host": "api.openai.com",
                "headers": grpc,
                "said": {"grpc": "pass"},
                "method": "POST",
                "version": "HTTP/2.0",
            },
            ["api.openai.com", 80, "api.openai.com", True, False],
        ),
        # What only looks like one is a call like any other.
        ({"host": "api.openai.com", "headers": websocket, "said": passes, "method": "POST"}, guarded),
        (
            {"host": "api.openai.com", "headers": {**websocket, "content-length": "9"}, "said": passes},
            guarded,
        ),
        (
            {
                "host": "api.openai.com",
                "headers": {**websocket, "transfer-encoding": "chunked"},
                "said": passes,
            },
            guarded,
        ),
        ({"host": "api.openai.com", "headers": {"upgrade": "websocket"}, "said": passes}, guarded),
        ({"host": "api.openai.com", "headers": grpc, "said": passes, "method": "POST"}, guarded),
        ({"host": "other.example"}, ["other.example", 80, "other.example", True, False]),
        ({"host": "other.example", "said": {"unlisted": "block"}}, [403, "forbidden"]),
        ({"host": "other.example", "port": 25}, [403, "forbidden"]),
        ({"host": "169.254.169.254"}, [403, "forbidden"]),
        ({"host": "127.0.0.1", "port": 4712, "said": {"ports": [4712]}}, [403, "forbidden"]),
        (
            {"host": "198.51.100.7", "header": "api.openai.com"},
            [*gateway, "api.openai.com", True, "api.openai.com"],
        ),
    ]
    got = inside(REQUESTS, {"said": said, "cases": [case for case, _ in table]})

    assert [wanted for _, wanted in table] == got


def test_it_reads_its_file(inside: Any, said: dict[str, Any], tmp_path: Any) -> None:
    code = """
import os
from pathlib import Path
Path(given["file"]).write_text(json.dumps(given["said"]))
os.environ["LLMSHIELD_EGRESS"] = given["file"]
import mitm
result = [len(mitm.addons), mitm.addons[0].token]
"""

    assert [1, "token"] == inside(code, {"said": said, "file": str(tmp_path / "egress.json")})
