"""The splice knows when an answer is under way: then a gateway's death ends the connection, else it is told in words."""

from __future__ import annotations

from typing import Any

SIZED = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello"
EMPTY = "HTTP/1.1 204 No Content\r\ncontent-length: 0\r\n\r\n"
CHUNKED = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
CONTINUE = "HTTP/1.1 100 Continue\r\n\r\n"

CODE = """
from llmshield_splice import Answers

def follow(parts):
    answers = Answers()
    answers.asked = True
    for part in parts:
        answers.feed(part.encode())
    return [answers.asked, answers.between]

result = [follow(parts) for parts in given]
"""


def test_where_answers_end(inside: Any) -> None:
    table: list[tuple[list[str], list[bool]]] = [
        ([], [True, True]),
        ([SIZED], [False, True]),
        ([EMPTY], [False, True]),
        ([SIZED[:-1]], [True, False]),
        ([SIZED[:-1], SIZED[-1]], [False, True]),
        ([CHUNKED], [False, True]),
        ([CHUNKED[:-5]], [True, False]),
        ([CHUNKED[:-5], CHUNKED[-5:]], [False, True]),
        ([SIZED, CHUNKED], [False, True]),
        ([SIZED + SIZED + CHUNKED], [False, True]),
        ([SIZED + CHUNKED + SIZED], [False, True]),
        ([CHUNKED + SIZED[:-1]], [False, False]),  # the second one is under way
        ([SIZED + SIZED[:-1], SIZED[-1]], [False, True]),
        ([CONTINUE], [True, True]),
        ([CONTINUE, SIZED], [False, True]),
        ([CONTINUE + SIZED], [False, True]),
        ([CHUNKED[:20]], [True, False]),  # half a head: it is under way
    ]
    got = inside(CODE, [parts for parts, _ in table])

    assert [wanted for _, wanted in table] == got


RELAY = """
from types import SimpleNamespace
from mitmproxy.connection import Client, ConnectionState, Server
from mitmproxy.options import Options
from mitmproxy.proxy import commands, events
from mitmproxy.proxy.context import Context
from llmshield_alive import asked_at
from llmshield_splice import Splice

def play(opened, *steps):
    known = SimpleNamespace(waiting=set(), gateway_up=opened != "silent")
    client = Client(peername=("10.0.0.5", 1), sockname=("127.0.0.1", 2), timestamp_start=0, state=ConnectionState.OPEN)
    context = Context(client, Options())
    context.server = Server(address=("127.0.0.1", 4711))
    splice = Splice(context, b"LINE\\r\\n", given, known)
    seen = []

    def note(generator, reply=None):
        try:
            command = generator.send(None)
            while True:
                back = None
                if isinstance(command, commands.SendData):
                    seen.append(["client" if command.connection is client else "server", command.data.decode()])
                elif isinstance(command, commands.CloseConnection):
                    seen.append(["close", "client" if command.connection is client else "server"])
                    command.connection.state = ConnectionState.CLOSED
                elif isinstance(command, commands.OpenConnection):
                    seen.append(["asked", asked_at(command.connection) is not None])
                    back = None if opened else "refused"
                    if opened:
                        command.connection.state = ConnectionState.OPEN
                command = generator.send(back)
        except StopIteration:
            pass

    note(splice._handle_event(events.Start()))
    for who, data in steps:
        if who == "gateway":
            known.gateway_up = data == "up"
            continue
        of = client if who == "client" else context.server
        note(splice._handle_event(events.DataReceived(of, data.encode()) if data else events.ConnectionClosed(of)))
        seen.append(["waits", asked_at(context.server) is not None])
    return seen

ASK, SIZED = "POST / HTTP/1.1\\r\\n\\r\\n", "HTTP/1.1 200 OK\\r\\ncontent-length: 5\\r\\n\\r\\nhello"
result = {
    "no gateway": play(False, ("client", ASK)),
    "answered": play(True, ("client", ASK), ("server", SIZED), ("client", "")),
    "died before": play(True, ("client", ASK), ("server", "")),
    "died between": play(True, ("client", ASK), ("server", SIZED), ("server", ""), ("client", ASK), ("server", SIZED),
                         ("client", "")),
    "said that it closes": play(True, ("client", ASK), ("server", SIZED.replace("OK", "OK\\r\\nconnection: close")),
                                ("server", "")),
    "died before the second": play(True, ("client", ASK), ("server", SIZED), ("client", ASK), ("server", "")),
    "died within": play(True, ("client", ASK), ("server", SIZED[:-1]), ("server", "")),
    "silent": play("silent", ("client", ASK)),
    "fell silent": play(True, ("client", ASK), ("server", SIZED), ("gateway", "silent"), ("client", ASK)),
    "fell silent within": play(True, ("client", ASK), ("server", SIZED[:-1]), ("gateway", "silent"), ("client", ASK),
                               ("server", SIZED[-1]), ("client", "")),
    "was silent between": play(True, ("client", ASK), ("server", SIZED), ("gateway", "silent"), ("gateway", "up"),
                               ("client", ASK), ("server", SIZED), ("client", "")),
    "two at once, then it closes": play(True, ("client", ASK + ASK),
                                        ("server", SIZED + SIZED.replace("OK", "OK\\r\\nconnection: close")), ("server", "")),
    "died within, more asked": play(True, ("client", ASK), ("server", SIZED[:-1]), ("client", ASK), ("server", "")),
}
"""


def test_a_gateway_that_dies(inside: Any, said: dict[str, Any]) -> None:
    got = inside(RELAY, said["errors"]["openai"])
    told = {
        name: [data for to, data in seen if to == "client" and " 503 " in data] for name, seen in got.items()
    }

    assert {name for name, found in told.items() if found} == {
        "no gateway",
        "died before",
        "died before the second",
        "silent",
        "fell silent",
    }
    for found in told.values():
        for text in found:
            assert '"code":"gateway_unavailable"' in text
            assert "retry-after: 2\r\n" in text
    assert all(["close", "client"] in seen for seen in got.values())
    assert [["asked", True], ["server", "LINE\r\n"]] == got["answered"][:2]
    waits = {name: [wait for what, wait in seen if what == "waits"] for name, seen in got.items()}
    assert waits["answered"] == [True, False, False], (
        "from the first byte of a request to the first of its answer"
    )
    assert waits["fell silent"] == [True, False, False]
    assert waits["fell silent within"] == [True, False, False, False, False]
    again = got["died between"]
    assert again.index(["close", "client"]) == len(again) - 2, (
        "nothing but what the test notes comes behind it"
    )
    assert ["server", "LINE\r\nPOST / HTTP/1.1\r\n\r\n"] in again
    assert 2 == again.count(["client", "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello"])
    assert ["server", "LINE\r\n"] not in got["no gateway"]
