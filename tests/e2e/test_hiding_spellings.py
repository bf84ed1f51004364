"""However a request is written, guards and provider read the same: encodings, twins, duplicates, broken bodies, frames.

One prompt in many spellings is refused in all of them; what passes reaches the provider as the tree that the guards
saw; what is no request is refused with a 4xx in the client's words, never a 5xx and never a hang.
"""

import asyncio
import base64
import gzip
import json
import zlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import aiohttp
import brotli
import orjson
import pytest
import pytest_asyncio
import zstandard

from llmshield.simulator import Simulator
from llmshield.testing import gateway

pytestmark = pytest.mark.asyncio(loop_scope="module")

SENTINEL = "zebra umbrella teapot"
POLICY = f"""
version: 1
defaults: {{timeout: 10s}}
server: {{store: "memory://", limits: {{body: 512KiB, depth: 40}}}}
providers:
  openai: {{dialect: openai, base_url: "URL/v1"}}
  anthropic: {{dialect: anthropic, base_url: "URL"}}
  gemini: {{dialect: gemini, base_url: "URL"}}
plugins:
  - {{use: injection, deny: ["{SENTINEL}"], scan: [system, user, assistant, tool]}}
  - {{use: pii, entities: {{EMAIL_ADDRESS: {{action: block}}}}, scan: [system, user, assistant, tool]}}
"""
PATHS = ("/v1/chat/completions", "/v1/responses", "/v1/completions", "/v1/embeddings", "/v1/messages",
         "/v1beta/models/gemini-2.5-flash:generateContent")  # fmt: skip


class Place:
    """The gateway, its provider and a client."""

    def __init__(self, url: str, sim: Simulator, http: aiohttp.ClientSession) -> None:
        self.url, self.sim, self.http = url, sim, http

    async def post(self, path: str, data: bytes, **headers: str) -> tuple[int, bytes]:
        head = {"content-type": "application/json", "authorization": "Bearer sk-any", **headers}
        async with self.http.post(self.url + path, data=data, headers=head) as reply:
            return reply.status, await reply.read()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def place() -> AsyncIterator[Place]:
    async with AsyncExitStack() as stack:
        sim = await stack.enter_async_context(Simulator())
        url, _ = await stack.enter_async_context(gateway(POLICY.replace("URL", sim.url)))
        http = await stack.enter_async_context(aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(10)))
        yield Place(url, sim, http)


# -- one place, many spellings -------------------------------------------------------------------------------------

CHAT = "/v1/chat/completions"


def said(text: str) -> str:
    """A chat body whose prompt is this JSON text, quotes included."""
    return f'{{"model": "gpt-4o", "messages": [{{"role": "user", "content": {text}}}]}}'


def escaped(text: str, every: int = 1) -> str:
    return "".join(f"\\u{ord(c):04x}" if n % every == 0 else c for n, c in enumerate(text))


def parts(*texts: str) -> Any:
    return {
        "model": "gpt-4o",
        "messages": [{"role": "user", "content": [{"type": "text", "text": t} for t in texts]}],
    }


def arguments(text: str) -> Any:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": text}}
    return {"model": "gpt-4o", "messages": [{"role": "assistant", "tool_calls": [call]}]}


def uploaded(url: str) -> Any:
    file = {"type": "file", "file": {"filename": "a.txt", "file_data": url}}
    return {"model": "gpt-4o", "messages": [{"role": "user", "content": [file]}]}


def file(data: bytes) -> str:
    return f"data:text/plain;base64,{base64.b64encode(data).decode()}"


def spellings(words: str) -> dict[str, bytes]:
    """Chat bodies in which a model reads these words."""
    encoded = base64.b64encode(f"A text file. {words}. The end.".encode()).decode()
    quoted = json.dumps(words)
    made: dict[str, str | dict[str, Any]] = {
        "plain": said(quoted),
        "upper case": said(quoted.upper()),
        "escaped": said(f'"{escaped(words)}"'),
        "half escaped": said(f'"{escaped(words, 3)}"'),
        "escapes in capitals": said(f'"{escaped(words)}"'.replace("\\u00", "\\u00").upper().replace("\\U", "\\u")),
        "escaped names": said(quoted).replace('"content"', f'"{escaped("content")}"').replace('"messages"', f'"{escaped("messages")}"'),
        "slashes": said(f'"\\/ {words} \\/"'),
        "tabs and lines": said(f'"{words}"'.replace(" ", "\\n\\t ")),
        "surrogates around": said(f'"\\ud83c\\udf0a{words}\\ud83c\\udf0a"'),
        "white space": " \n\t" + said(quoted).replace(":", " :\n").replace(",", "\r\n,") + "\n ",
        "zero width": said('"' + "\\u200b".join(words) + '"'),
        "wide letters": said('"' + "".join(chr(ord(c) + 0xFEE0) if c != " " else c for c in words) + '"'),
        "two parts": parts(words[:9], words[9:]),
        "three parts": parts(words[:4], words[4:13], words[13:]),
        "two messages": {"model": "gpt-4o", "messages": [
            {"role": "user", "content": words[:9]}, {"role": "user", "content": words[9:]}]},
        "twice, the last": said('"hi"')[:-1] + f', "messages": [{{"role": "user", "content": {quoted}}}]}}',
        "twice within, the last": said(f'"hi", "content": {quoted}'),
        "arguments": arguments(json.dumps({"city": words})),
        "arguments, a name": arguments(json.dumps({words: 1})),
        "arguments, escaped": arguments(f'{{"city": "{escaped(words)}"}}'),
        "arguments, deep": arguments(json.dumps({"a": [{"b": [[words]]}]})),
        "arguments, twice": arguments(json.dumps({"a": json.dumps({"b": json.dumps([words])})})),
        "arguments, a name given twice": arguments(f'{{"city": "Rome", "city": {quoted}}}'),
        "arguments, no JSON": arguments(f"{{broken {words}"),
        "arguments, a string": arguments(quoted),
        "a tool's result, escaped": {"model": "gpt-4o", "messages": [
            {"role": "tool", "tool_call_id": "c", "content": f'{{"x": "{escaped(words)}"}}'}]},
        "a text file": uploaded(f"data:text/plain;base64,{encoded}"),
        "a text file without a head": uploaded(encoded),
        "a text file in UTF-16": uploaded(file(f"Größe. {words}.".encode("utf-16"))),
        "a text file in one byte a character": uploaded(file(f"Größe. {words}.".encode("cp1252"))),
        "a text file in lines": uploaded(base64.encodebytes(f"A text file. {words}. The end.".encode()).decode()),
        "a text file with a control character": uploaded(file(f"\x01 {words}".encode())),
        "words with line ends in a file's place": uploaded(words.replace(" ", "\n")),
        "a text file, percent-encoded": uploaded("data:text/plain,A%20file.%20" + words.replace(" ", "%20")),
        "a picture that is text": {"model": "gpt-4o", "messages": [{"role": "user", "content": [
            {"type": "image_url", "image_url": {"url": f"data:image/svg+xml;base64,{encoded}"}}]}]},
    }  # fmt: skip
    return {
        name: body.encode() if isinstance(body, str) else orjson.dumps(body) for name, body in made.items()
    }


QUOTED = json.dumps(SENTINEL)
TWINS = f'"Messages": [{{"role": "user", "content": {QUOTED}}}]'
FOLDED_TWINS = f'"MeſſAGES": [{{"role": "user", "content": {QUOTED}}}]'
"""Go's JSON reader takes the long s for an s."""
SQUEEZED = {
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "br": brotli.compress,
    "zstd": zstandard.ZstdCompressor().compress,
    "x-gzip": gzip.compress,
}


async def test_every_spelling_is_seen_through(place: Place) -> None:
    cases = {name: (data, {}) for name, data in spellings(SENTINEL).items()}
    for name, squeeze in SQUEEZED.items():
        cases[f"in {name}"] = (squeeze(said(QUOTED).encode()), {"content-encoding": name})
    before = len(place.sim.calls)
    missed = []
    for name, (data, headers) in cases.items():
        status, reply = await place.post(CHAT, data, **headers)
        if status != 400 or b"Blocked by policy 'injection'" not in reply:
            missed.append(f"{name}: {status} {reply[:120]!r}")

    assert not missed, "\n".join(missed)
    assert before == len(place.sim.calls)


async def test_the_same_spellings_of_honest_words_pass(place: Place) -> None:
    """What refuses above is the sentinel, not its wrapping."""
    for name, data in spellings("river meadow sunset").items():
        status, reply = await place.post(CHAT, data)

        assert status == 200, (name, reply)


# -- what was guarded is what is sent --------------------------------------------------------------------------------

READ_ALIKE: dict[str, tuple[str, Any]] = {
    "the last of two names counts": (
        said('"first"')[:-1] + ', "messages": [{"role": "user", "content": "second"}]}',
        {"model": "gpt-4o", "messages": [{"role": "user", "content": "second"}]},
    ),
    "the last of two names counts, within": (
        said('"first", "content": "second"'),
        {"model": "gpt-4o", "messages": [{"role": "user", "content": "second"}]},
    ),
    "a hidden first name is never sent": (
        f'{{"messages": [{{"role": "user", "content": {QUOTED}}}], ' + said('"hi"')[1:],
        {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}]},
    ),
    "a name given twice in arguments": (
        json.dumps(arguments(f'{{"city": {QUOTED}, "city": "Rome"}}')),
        arguments('{"city":"Rome"}'),
    ),
    "an escaped name is the name": (
        said('"hi"').replace('"content"', '"\\u0063ontent"'),
        {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}]},
    ),
    "numbers keep their value": (
        said('"hi"')[:-1] + ', "temperature": 0.10, "seed": 12345678901234567, "x": 1E2}',
        {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}], "temperature": 0.1,
         "seed": 12345678901234567, "x": 100.0},
    ),
    "characters keep their value": (
        said('"\\ud83c\\udf0a \\u2028 \\u0000 \\u200b \\\\ \\" é"'),
        {"model": "gpt-4o", "messages": [{"role": "user", "content": '\U0001f30a \u2028 \x00 \u200b \\ " é'}]},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", READ_ALIKE)
async def test_the_provider_reads_what_the_guards_read(place: Place, name: str) -> None:
    data, expected = READ_ALIKE[name]
    status, reply = await place.post(CHAT, data.encode())
    received = place.sim.calls[-1]

    assert status == 200, reply
    assert expected == json.loads(received.body)
    assert SENTINEL.encode() not in received.body
    assert len(received.body) == int(received.header("content-length") or 0)
    assert received.header("content-encoding") is None


@pytest.mark.parametrize(
    "fields", [TWINS, FOLDED_TWINS, '"MODEL": "gpt-5"', '"Max_Tokens": 9', '"mAx_toKens": 9', '"\u212aey": 1']
)
async def test_twins_that_differ_in_case_are_no_way_round(place: Place, fields: str) -> None:
    """Some servers' JSON readers ignore case: what they would take for a field is refused, or guarded like it."""
    before = len(place.sim.calls)
    status, _ = await place.post(CHAT, (said('"hi"')[:-1] + f", {fields}}}").encode())

    if fields.endswith('ey": 1'):  # a twin of nothing
        assert status == 200
    else:
        assert (400, before) == (status, len(place.sim.calls))


# -- bodies and frames that are no requests ------------------------------------------------------------------------


def broken_bodies() -> dict[str, bytes]:
    good = said('"hi"').encode()
    made = {f"cut at {n}": good[:n] for n in range(0, len(good), 3)}
    made |= {
        f"byte {n}": good[:n] + bytes([byte]) + good[n + 1 :]
        for n in (0, 10, 40, len(good) - 2)
        for byte in (0, 0x7F, 0x80, 0xFF, ord("{"), ord('"'))
    }
    made |= {
        "BOM": b"\xef\xbb\xbf" + good,
        "UTF-16": good.decode().encode("utf-16"),
        "UTF-32": good.decode().encode("utf-32"),
        "latin-1": said('"\xe9"').encode("latin-1"),
        "overlong": good.replace(b"hi", b"\xc0\xaf"),
        "half a character": good.replace(b"hi", b"\xf0\x9f\x8c"),
        "encoded surrogate": good.replace(b"hi", b"\xed\xa0\xbd"),
        "lone surrogate": said('"\\ud83d"').encode(),
        "two texts": good + good,
        "trailing words": good + b" x",
        "comment": b"/* x */" + good,
        "single quotes": good.replace(b'"', b"'"),
        "trailing comma": good[:-1] + b",}",
        "NaN": good[:-1] + b', "temperature": NaN}',
        "Infinity": good[:-1] + b', "temperature": -Infinity}',
        "huge exponent": good[:-1] + b', "temperature": 1e999}',
        "long integer": good[:-1] + b', "seed": ' + b"9" * 400 + b"}",
        "leading zero": good[:-1] + b', "seed": 007}',
        "deep list": b"[" * 100_000,
        "deep objects": b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
        "deep in a field": good[:-1] + b', "x": ' + b"[" * 60 + b"]" * 60 + b"}",
        "many names": b"{" + b",".join(b'"k%d":1' % n for n in range(20_000)) + b"}",
        "too large": said(json.dumps("x" * 600_000)).encode(),
        "null": b"null", "number": b"1", "string": b'"x"', "list": b"[]", "nothing": b"", "blank": b"   ",
        "no gzip": b"\x1f\x8b garbage",
        "types": b'{"model": {"a": 1}, "messages": 7, "stream": "yes", "n": -1, "max_tokens": "5"}',
        "messages of numbers": b'{"model": "gpt-4o", "messages": [1, null, []]}',
        "null everywhere": b'{"model": null, "messages": null, "tools": null}',
    }  # fmt: skip
    return {name: data for name, data in made.items() if data != good}


@pytest.mark.parametrize("path", PATHS)
async def test_malformed_bodies_are_refused(place: Place, path: str) -> None:
    """4xx or, where a body is one that a provider may read after all, the provider's own answer; never a 5xx."""
    wrong = []
    for name, data in broken_bodies().items():
        for encoding in ("", "gzip") if name in {"no gzip", "nothing", "cut at 30"} else ("",):
            status, reply = await place.post(
                path, data, **({"content-encoding": encoding} if encoding else {})
            )
            if status >= 500 or (status < 400 and name not in {"byte 40"}):
                wrong.append(f"{name} {encoding}: {status} {reply[:120]!r}")
            elif status >= 400 and b'"error"' not in reply:
                wrong.append(f"{name} {encoding}: {status} without an error object")

    assert not wrong, "\n".join(wrong)


HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
BODY = said(QUOTED).encode()
SMUGGLED = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(
    said('"hi"')
) + said('"hi"').encode()  # fmt: skip
FRAMES: dict[str, bytes] = {
    "both lengths": HEAD + b"content-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "two lengths": HEAD + b"content-length: 4\r\ncontent-length: 9\r\n\r\n{}  " + SMUGGLED,
    "a signed length": HEAD + b"content-length: +4\r\n\r\n{}  " + SMUGGLED,
    "a negative length": HEAD + b"content-length: -4\r\n\r\n{}  " + SMUGGLED,
    "a length in words": HEAD + b"content-length: four\r\n\r\n{}  " + SMUGGLED,
    "a huge length": HEAD + b"content-length: 99999999999999999999\r\n\r\n{}",
    "a wrong coding": HEAD + b"transfer-encoding: xchunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n" + SMUGGLED,
    "two codings": HEAD + b"transfer-encoding: chunked, identity\r\n\r\n2\r\n{}\r\n0\r\n\r\n" + SMUGGLED,
    "a bad chunk": HEAD + b"transfer-encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n" + SMUGGLED,
    "a negative chunk": HEAD + b"transfer-encoding: chunked\r\n\r\n-2\r\n{}\r\n0\r\n\r\n" + SMUGGLED,
    "a chunk without its end": HEAD + b"transfer-encoding: chunked\r\n\r\n2\r\n{}XX0\r\n\r\n" + SMUGGLED,
    "no body at all": HEAD + b"\r\n",
    "a name with a blank": HEAD + b"content-length : 2\r\n\r\n{}",
    "a folded line": HEAD + b"content-length: 2\r\nx-a: b\r\n c\r\n\r\n{}",
    "a bare line feed": HEAD.replace(b"\r\n", b"\n") + b"content-length: 2\n\n{}",
    "NUL in a value": HEAD + b"content-length: 2\r\nx-a: b\x00c\r\n\r\n{}",
    "no version": b"POST /v1/chat/completions\r\n\r\n",
    "a later version": HEAD.replace(b"1.1", b"2.0") + b"content-length: 2\r\n\r\n{}",
    "HTTP/2's preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64),
    "garbage": bytes(range(256)) * 4,
}  # fmt: skip


@pytest.mark.parametrize("name", FRAMES)
async def test_frames_that_two_servers_may_read_differently(place: Place, name: str) -> None:
    """Refused, or hung up on, at once; nothing behind such a request is ever answered as one of its own."""
    before = len(place.sim.calls)
    host, _, port = place.url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(FRAMES[name])
    try:
        async with asyncio.timeout(3):
            await writer.drain()
            writer.write_eof()
            answer = await reader.read()
    except OSError:
        answer = b""
    finally:
        writer.close()
    lines = [line for line in answer.split(b"\r\n") if line.startswith(b"HTTP/1.1 ")]

    assert len(place.sim.calls) == before
    assert len(lines) <= 1, lines
    assert all(line.startswith(b"HTTP/1.1 4") for line in lines), lines
