"""The short way through a stream: it is taken, it changes no byte, and what it leaves is done by the task of the call."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
from collections.abc import AsyncIterator
from pathlib import Path
from types import TracebackType as Traceback
from typing import Any

import aiohttp
import pytest

from llmshield import senders
from llmshield.call import Call
from llmshield.lane import LONG, Lane
from llmshield.testing import gateway, policy

WORDS = [f" word{number}" for number in range(12)]
PII = "  - {use: pii, presidio: false, scan: [user, output], entities: {CREDIT_CARD: {action: block}, EMAIL_ADDRESS: replace}}\n"

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def event(text: str, finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": {"content": text} if text else {}, "finish_reason": finish}
    tree = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
    return f"data: {json.dumps(tree)}\n\n".encode()


def events(*texts: str) -> list[bytes]:
    return [*map(event, texts), event("", "stop"), b"data: [DONE]\n\n"]


@contextlib.asynccontextmanager
async def served(pieces: list[bytes], plugins: str, base: Path | str = ".") -> AsyncIterator[str]:
    """A gateway before a provider that writes these pieces, each in a packet of its own; gives the gateway's URL."""

    serving: list[asyncio.Task[None]] = []

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.append(asyncio.create_task(serve(reader, writer)))

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                await reader.readexactly(int(head.lower().split(b"content-length: ")[1].split()[0]))
                writer.write(HEAD)
                for piece in [*pieces, b""]:
                    writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
                    await writer.drain()
                    await asyncio.sleep(0.004)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    provider = f"{{dialect: openai, base_url: 'http://127.0.0.1:{port}/v1', api_key: 'env://KEY'}}"
    try:
        made = policy(f"providers: {{p: {provider}}}\nplugins:\n{plugins}", base=base)
        async with gateway(made) as (url, _):
            yield url
    finally:
        server.close()
        await asyncio.gather(*serving)


async def said(url: str, key: str = "sk-of-a-client") -> bytes:
    """The bytes of a stream."""
    headers = {"authorization": f"Bearer {key}"}
    body = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "hi"}]}
    async with (
        aiohttp.ClientSession() as http,
        http.post(f"{url}/v1/chat/completions", json=body, headers=headers) as answer,
    ):
        return await answer.read()


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEY", "sk-of-the-provider")


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """What lanes said to what they were offered."""
    answers: list[bool] = []
    real = Lane.take

    def take(self: Lane, data: bytes) -> bool:
        answers.append(real(self, data))
        return answers[-1]

    monkeypatch.setattr(Lane, "take", take)
    return answers


STREAMS = {
    "plain": events(*WORDS),
    "values": events("Write to", " ada@", "example", ".com or", " bob@example.org", " today", *WORDS),
    "a stop": events(*WORDS, " 4111 1111", " 1111 1111.\n\n", *WORDS),
    "a stop among others": [
        *map(event, WORDS),
        b"".join(map(event, (" kept", " 4111 1111", " 1111 1111.\n\n", " gone"))),
        *events(*WORDS),
    ],
    "escapes": events(*WORDS, ' a "quoted"', " line\n", " Grüße \U0001f30a", *WORDS),
    "another form": [*map(event, WORDS), b": ping\n\n", *map(event, WORDS), *events(*WORDS)],
    "cut events": [*map(event, WORDS), *(part for one in events(*WORDS) for part in (one[:40], one[40:]))],
    "a broken event": [*map(event, WORDS), b"data: {oops\n\n", *events(*WORDS)],
    "an error": [*map(event, WORDS), b'data: {"error": {"message": "no more", "type": "server_error"}}\n\n'],
    "no end": [*map(event, WORDS)],
    "long texts": events(*WORDS, "x " * LONG, *WORDS),
    "two at once": [b"".join(pair) for pair in zip(*[iter(events(*WORDS))] * 2, strict=True)],
}


@pytest.mark.parametrize("name", STREAMS)
async def test_no_byte_depends_on_the_lane(
    name: str, taken: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with served(STREAMS[name], PII) as url:
        short = await said(url)
    took = sum(taken)
    monkeypatch.setattr(Lane, "take", lambda self, data: False)
    async with served(STREAMS[name], PII) as url:
        long = await said(url)

    # The message of an error has the call's number.
    assert [line for line in short.split(b"\n") if b"llmshield" not in line] == [
        line for line in long.split(b"\n") if b"llmshield" not in line
    ]
    assert took >= len(WORDS) // 3
    assert (b"kept" in short) is (name == "a stop among others")
    assert b"gone" not in short
    assert b"ada@" not in short
    assert b"4111 1111" not in short


PLUGIN = """
from llmshield import senders
from llmshield.call import Call, Reply
from llmshield.hookspecs import Plugin


class _Words:
    def feed(self, text: str) -> str:
        {act}
        return text

    def flush(self) -> str:
        return ""


class Mine(Plugin):
    def post_response(self, call: Call, reply: Reply) -> None:
        reply.filter(lambda channel: _Words())
"""


async def test_a_filter_that_fails_there_fails_as_it_does_anywhere(
    tmp_path: Path, taken: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "words.py").write_text(
        PLUGIN.format(act='if "word9" in text: raise RuntimeError("secret words")')
    )
    async with served(STREAMS["plain"], "  - {use: ./words.py}\n", tmp_path) as url:
        short = await said(url)
    assert sum(taken) > 4
    monkeypatch.setattr(Lane, "take", lambda self, data: False)
    async with served(STREAMS["plain"], "  - {use: ./words.py}\n", tmp_path) as url:
        long = await said(url)

    assert b"word8" in short
    assert b"word9" not in short
    assert b"secret" not in short
    assert short.split(b"\n\n")[:9] == long.split(b"\n\n")[:9]
    assert len(short.split(b"\n\n")) == len(long.split(b"\n\n"))


async def test_a_filter_is_in_its_own_call_whoever_made_the_connection(
    tmp_path: Path, taken: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Callbacks of a connection run in the context of the call that opened it; what is held of a client's secrets is
    each call's own."""
    held: list[Any] = []
    monkeypatch.setattr(senders, "_seen_by_test", held, raising=False)
    (tmp_path / "words.py").write_text(PLUGIN.format(act="senders._seen_by_test.append(senders._held.get())"))
    async with served(STREAMS["plain"], "  - {use: ./words.py}\n", tmp_path) as url:
        await said(url)
        first = len(held)
        await asyncio.sleep(0.05)  # the end of the first answer: its connection serves again
        await said(url, "sk-of-another-client")

    assert sum(taken) > 10
    assert len({id(one) for one in held[:first]}) == len({id(one) for one in held[first:]}) == 1
    assert held[0] is not held[-1]


def _is_ours(it: object) -> bool:
    return isinstance(it, Traceback) and it.tb_frame.f_globals["__name__"].startswith("llmshield")


async def test_a_stop_there_leaves_nothing_to_the_collector(
    taken: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    troubles: list[bool] = []
    real = Lane.go

    async def go(self: Lane, data: bytes) -> bool:
        troubles.append(self._trouble is not None)
        return await real(self, data)

    monkeypatch.setattr(Lane, "go", go)
    async with served(STREAMS["a stop"], PII) as url:
        await said(url)
        gc.collect()
        gc.disable()
        gc.set_debug(gc.DEBUG_SAVEALL)
        try:
            await said(url)
            await asyncio.sleep(0.05)
            gc.collect()
            left = [type(it).__name__ for it in gc.garbage if isinstance(it, Lane | Call) or _is_ours(it)]
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
            gc.enable()

    assert left == []
    assert [True, False] == taken[-2:]
    assert [True, True] == troubles, "the guard did not stop it there"
