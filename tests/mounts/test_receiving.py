"""Requests out of bytes: a head that was known again gives what the parser would have given."""

import asyncio
import itertools
import re
from typing import Any

import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmshield.errors import CallError
from llmshield.mounts import _receiving
from llmshield.mounts._protocol import Connection
from llmshield.mounts._receiving import Receiving
from llmshield.mounts._request import HttpRequest
from llmshield.simulator import Simulator
from llmshield.testing import gateway

HEAD = b"POST /v1/x?a=b HTTP/1.1\r\nHost: x\r\nContent-Length: %b\r\nAuthorization: Bearer llm-0123456789\r\n\r\n"

DATE = re.compile(rb"date: [^\r\n]+ GMT\r\n")

Seen = tuple[str, bytes, bytes, list[tuple[bytes, bytes]], bytes]


class Written:
    """A transport that only keeps what is written."""

    def __init__(self) -> None:
        self.out = b""
        self.closing = False

    def write(self, data: bytes) -> None:
        self.out += data

    def close(self) -> None:
        self.closing = True

    abort = write_eof = close

    def is_closing(self) -> bool:
        return self.closing

    def get_extra_info(self, name: str) -> None:
        return None

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None: ...

    resume_reading = pause_reading


async def settle() -> None:
    for _ in range(4):
        await asyncio.sleep(0)


async def served(pieces: list[bytes], *, tries: int = 8) -> tuple[list[Seen], bytes, int]:
    """What was asked with these bytes, what they were answered, and how often the parser was fed."""
    seen: list[Seen] = []
    fed = 0

    class Counted(Connection):
        def _parse(self, data: bytes, begins: bool) -> None:
            nonlocal fed
            fed += 1
            super()._parse(data, begins)

    async def handler(request: HttpRequest) -> None:
        try:
            body = await request.read_body(100_000)
        except CallError as error:
            body = error.kind.encode()
        seen.append((request.method, request.raw_path, request.raw_query, request.headers, body))
        await request.start(200, {"content-length": "2"})
        await request.send(b"hi")
        await request.end()

    wire: Any = Written()
    connection = Counted(handler, set(), 10, 10)
    connection._tries = tries
    connection.connection_made(wire)
    for piece in pieces:
        if wire.closing:
            break
        connection.data_received(piece)
        await settle()
    for _ in range(100):
        if connection._current is None and not connection._waiting:
            break
        await settle()
    connection.connection_lost(None)
    await settle()
    return seen, DATE.sub(b"", wire.out), fed


def asked(body: bytes, **changes: bytes) -> bytes:
    head = HEAD % str(len(body)).encode()
    for old, new in changes.items():
        head = head.replace(old.encode(), new)
    return head + body


async def test_a_known_head_is_not_parsed_again() -> None:
    bodies = [b"a" * size for size in (3, 3, 0, 12, 40_000)]
    seen, _, fed = await served([asked(body) for body in bodies])

    assert [body for *_, body in seen] == bodies
    assert [dict(headers)[b"Content-Length"] for *_, headers, _ in seen] == [
        b"3",
        b"3",
        b"0",
        b"12",
        b"40000",
    ]
    assert fed == 1


@pytest.mark.parametrize("size", [1, 7, 100])
async def test_head_and_body_may_come_apart(size: int) -> None:
    """httpcore, below the SDKs of OpenAI and Anthropic, writes the head and then the body."""
    bodies = [b"a" * 50, b"b" * 51, b"c" * 1000]
    pieces = []
    for body in bodies:
        data = asked(body)
        pieces += [data[: -len(body)], *[body[at : at + size] for at in range(0, len(body), size)]]
    seen, _, fed = await served(pieces)

    assert [body for *_, body in seen] == bodies
    assert fed == 1 + -(-50 // size)  # the first request's pieces; the others' heads were whole


async def test_another_head_between_them() -> None:
    data = [asked(b"1"), asked(b"2", x=b"y"), asked(b"3"), b"GET / HTTP/1.1\r\nhost: x\r\n\r\n", asked(b"4")]
    seen, _, _ = await served([b"".join(data)])

    assert [body for *_, body in seen] == [b"1", b"2", b"3", b"", b"4"]


async def test_heads_that_always_differ_are_not_compared_for_ever() -> None:
    pieces = [asked(b"1", llm=str(number).encode() * 3) for number in range(20)]
    learned = 0

    def counted(*given: Any) -> None:
        nonlocal learned
        learned += 1

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_receiving, "pattern_of", counted)
        await served(pieces)

    assert learned == 8


async def test_a_client_that_goes_on_with_the_same_is_known_for_ever() -> None:
    pieces = [asked(b"1", llm=(b"first", b"first", b"second")[number % 3]) for number in range(60)]
    _, _, fed = await served(pieces)

    assert fed <= 1 + 2 * 20


async def test_the_sdk_of_openai_begins_every_call_alike() -> None:
    fed = []

    def counted(self: Receiving, data: bytes, begins: bool) -> None:
        fed.append(begins)
        parse(self, data, begins)

    parse = Receiving._parse
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Receiving, "_parse", counted)
        async with (
            Simulator() as sim,
            gateway(f"providers:\n  a: {{dialect: openai, base_url: {sim.url}/v1}}\n") as (url, _),
            openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="sk-any-0123456789") as client,
        ):
            for words in range(1, 6):
                asks = [{"role": "user", "content": "hello " * words}]
                made = await client.chat.completions.create(model="gpt-4o", messages=asks)  # type: ignore[arg-type]
                assert made.choices

    assert len(fed) <= 2  # the first call's head and body


@st.composite
def message(draw: st.DrawFn) -> bytes:
    """A request with nearly always the same head, and sometimes a length that is none."""
    body = draw(st.binary(max_size=40))
    length = draw(
        st.sampled_from(
            [b"%d"] * 12 + [b"0%d", b" %d", b"%d ", b"+%d", b"%d,%d", b"0x%d", b"%d\r\n", b"", b"%d;"]
        )
    )
    head = HEAD % (length.replace(b"%d", str(len(body)).encode()))
    other = draw(
        st.sampled_from(
            [(b"", b"")] * 10 + [
                (b"Host", b"host"), (b"POST", b"PUT"), (b"1.1", b"1.0"), (b"Host: x\r\n", b""),
                (b"Host: x", b"Host: x\r\nConnection: close"), (b"Host: x", b"Host: x\r\nTransfer-Encoding: chunked"),
                (b"Host: x", b"Host: x\r\nExpect: 100-continue"), (b"\r\nAuth", b"\nAuth"), (b"POST", b"\r\nPOST"),
                (b"Host: x", b"Host: x\r\nUpgrade: h2c\r\nConnection: upgrade"),
            ]
        )
    )  # fmt: skip
    return head.replace(*other) + body if other[0] else head + body


@given(st.lists(message(), max_size=10), st.lists(st.integers(min_value=0), max_size=10))
@settings(max_examples=300)
async def test_what_is_known_changes_nothing(messages: list[bytes], marks: list[int]) -> None:
    data = b"".join(messages)
    places = sorted({mark % (len(data) + 1) for mark in marks} | {0, len(data)})
    pieces = [data[a:b] for a, b in itertools.pairwise(places)]

    seen, out, _ = await served(pieces)
    plain, expected, _ = await served(pieces, tries=0)

    assert seen == plain
    assert out == expected
