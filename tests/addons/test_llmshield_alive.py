"""Who waits for a silent gateway is told so; who was heard before waits on. And how an unsupervised script finds out."""

from __future__ import annotations

from typing import Any

SILENCE = """
import asyncio, time
from types import SimpleNamespace
from mitmproxy import ctx
from mitmproxy.connection import Server
from llmshield_alive import Alive, ask_at

def hangs_up(up, silent_s, asked):
    closed = []
    server = Server(address=None)
    if asked is not None:
        ask_at(server, time.monotonic() - asked)
    writer = SimpleNamespace(write_eof=lambda: closed.append("told"))
    transports = {each: SimpleNamespace(writer=writer) for each in (Server(address=None), server)}
    handler = SimpleNamespace(transports=transports, close_connection=closed.append)
    ctx.master = SimpleNamespace(addons=SimpleNamespace(
        get=lambda name: SimpleNamespace(connections={"id": handler})))
    alive = Alive()
    alive.gateway_is(up, silent_s)
    return [alive.gateway_up, closed == ["told", server]]

result = [hangs_up(*case) for case in given]
"""


def test_who_is_told(inside: Any) -> None:
    table: list[tuple[list[Any], list[bool]]] = [
        ([False, 6.0, 3.0], [False, True]),
        ([False, 6.0, 9.0], [False, False]),  # it may have been heard before: it waits on
        ([False, 6.0, None], [False, False]),  # between two requests, or in the middle of an answer
        ([False, 0.0, 3.0], [False, False]),  # it died: the kernel tells
        ([True, 0.0, 3.0], [True, False]),
    ]
    got = inside(SILENCE, [case for case, _ in table])

    assert [wanted for _, wanted in table] == got


ANSWERS = """
import asyncio
from llmshield_alive import answers

async def one(how):
    heard = b""

    async def serve(reader, writer):
        nonlocal heard
        heard = await reader.readline()
        if how == "answers":
            writer.write(b"LLMSHIELD/1 alive\\r\\n")
        if how != "silent":
            writer.close()
        else:
            await reader.read()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    to = server.sockets[0].getsockname()
    if how == "gone":
        server.close()
        await server.wait_closed()
    found = await answers(to, "token", 0.3 if how == "silent" else 30)
    server.close()
    return [found, heard.decode()]

result = {how: asyncio.run(one(how)) for how in given}
"""


def test_who_answers(inside: Any) -> None:
    line = 'LLMSHIELD/1 {"t": "token", "alive": true}\r\n'
    wanted = {"answers": [True, line], "full": [True, line], "silent": [False, line], "gone": [False, ""]}

    assert wanted == inside(ANSWERS, list(wanted))
