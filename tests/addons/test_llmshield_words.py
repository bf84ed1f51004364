"""What mitmproxy would say in HTML, a listed host's client reads in its provider's words; other clients as ever."""

from __future__ import annotations

import json
from typing import Any

import pytest

CODE = """
from mitmproxy.connection import Client, ConnectionState
from mitmproxy.options import Options
from mitmproxy.proxy import commands, events
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layers.http import HTTPMode, HttpLayer
from mitmproxy.addons.proxyserver import Proxyserver
from mitmproxy.test import taddons
from mitm import LLMShield
from llmshield_words import speak

speak()
speak()
sent, told, asked = given
shield = LLMShield(told)
client = Client(peername=("10.0.0.5", 1), sockname=("127.0.0.1", 2), timestamp_start=0, state=ConnectionState.OPEN)
options = Options()
Proxyserver().load(type("Loader", (), {"add_option": staticmethod(options.add_option), "add_command": staticmethod(print)}))
context = Context(client, options)
http = HttpLayer(context, HTTPMode.regular)
got, gone = [], []

def play(event):
    todo = list(http.handle_event(event))
    for command in todo:
        if isinstance(command, commands.StartHook):
            hook = getattr(shield, command.name, None)
            if hook is not None:
                hook(*command.args())
            play(events.HookCompleted(command))
        elif isinstance(command, commands.OpenConnection):
            if asked is None:
                play(events.OpenConnectionCompleted(command, "refused"))
            else:
                command.connection.state = ConnectionState.OPEN
                play(events.OpenConnectionCompleted(command, None))
        elif isinstance(command, commands.SendData) and command.connection is client:
            got.append(command.data.decode())
        elif isinstance(command, commands.SendData):
            server[:] = [command.connection]
        elif isinstance(command, commands.CloseConnection) and command.connection is client:
            gone.append(True)

server = []
play(events.Start())
play(events.DataReceived(client, sent.encode()))
for answer in asked or []:
    if answer is None:
        server[0].state = ConnectionState.CLOSED
        play(events.ConnectionClosed(server[0]))
    else:
        play(events.DataReceived(server[0], answer.encode()))
result = ["".join(got), bool(gone)]
"""
POST = "POST http://{}/v1/x HTTP/1.1\r\nhost: {}\r\ncontent-length: {}\r\n\r\n{}"
HEAD = "HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\n"
JSON, HTML, CUT = "application/json", "text/html", ""
CASES: dict[str, tuple[str, list[str | None] | None, str, str]] = {
    "no gateway": (POST.format("api.openai.com", "api.openai.com", 2, "{}"), None, "503", JSON),
    "no gateway, Anthropic": (POST.format("x.claude.test", "x.claude.test", 2, "{}"), None, "503", JSON),
    "no gateway, upload under way": (POST.format("api.openai.com", "api.openai.com", 9, "{}"), None, "503", JSON),
    "dies before it answers": (POST.format("api.openai.com", "api.openai.com", 2, "{}"), [None], "503", JSON),
    "dies in its head": (POST.format("api.openai.com", "api.openai.com", 2, "{}"), [HEAD[:20], None], "503", JSON),
    "dies in its answer": (POST.format("api.openai.com", "api.openai.com", 2, "{}"), [HEAD + "half", None], "200", CUT),
    "another host": (POST.format("other.test", "other.test", 2, "{}"), None, "502", HTML),
    "a header nobody may send": (
        POST.format("api.openai.com", "api.openai.com", 2, "{}").replace("host", "x y: z\r\nhost", 1), None, "400", JSON,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_what_a_client_reads(inside: Any, said: dict[str, Any], name: str) -> None:
    sent, asked, status, kind = CASES[name]
    got, closed = inside(CODE, [sent, said, asked])
    head, _, body = got.partition("\r\n\r\n")

    assert head.startswith(f"HTTP/1.1 {status} ")
    assert kind in head.lower()
    assert closed
    if kind == JSON:
        error = json.loads(body)["error"]
        assert ("claude" in sent) == ("type" in json.loads(body))
        assert error["message"]
        assert f"content-length: {len(body)}" in head
