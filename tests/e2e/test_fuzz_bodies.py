"""Fuzzed bodies through all rooms of the engine, in every dialect: no 5xx of our own, nothing unhandled, no hang.

What is accepted reaches the provider as JSON that two parsers read alike, without a duplicate name, and that the
dialect would accept once more. 2,000 bodies for each endpoint; 50,000 nightly. The seed is fixed: a failure comes
again.
"""

import asyncio
import copy
import json
import logging
import random
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson
import pytest

from llmshield.dialects import Dialect, WireRequest
from llmshield.dialects._tree import DEPTH_CEILING, Limits, parse_body
from llmshield.exchange import Incoming
from llmshield.runtime import Runtime
from llmshield.testing import policy
from llmshield.traffic import Dialects
from llmshield.transport import Timeouts
from llmshield.verdicts import Answer

POLICY = """
server: {store: "memory://"}
providers:
  openai: {dialect: openai, base_url: "http://127.0.0.1:9/v1", prices: {input: 1, output: 1}}
  anthropic: {dialect: anthropic, base_url: "http://127.0.0.1:9", prices: {input: 1, output: 1}}
  gemini: {dialect: gemini, base_url: "http://127.0.0.1:9", prices: {input: 1, output: 1}}
routes:
  - {match: {any: true}, to: [PROVIDER]}
tenants: {anonymous: {tier: free}}
tiers: {free: {rate: [100000000/hour], budget: 1000000 USD/day}}
plugins:
  - {use: rate_limit, timeout: 20s}
  - {use: cost_cap, timeout: 20s}
  - {use: injection, timeout: 20s}
  - use: pii
    timeout: 20s
    entities: {EMAIL_ADDRESS: {action: replace}, CREDIT_CARD: {action: mask}, US_SSN: {action: block}}
    scan: [user, tool, output]
  - {use: failover, timeout: 20s}
"""

TOOL = {
    "name": "f",
    "description": "d",
    "parameters": {"type": "object", "properties": {"a": {"enum": ["x"]}}},
}
BODIES: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": ("/v1/chat/completions", {
        "model": "gpt-4o", "stream": True, "n": 1, "max_tokens": 9, "temperature": 0.5, "stop": ["a"], "user": "u",
        "metadata": {"a": "b"}, "tools": [{"type": "function", "function": TOOL}], "tool_choice": "auto",
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}},
        "messages": [
            {"role": "system", "content": "s"},
            {"role": "user", "content": [{"type": "text", "text": "mail me at a@b.co"},
                                         {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]},
            {"role": "assistant", "content": None, "tool_calls": [
                {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a": "x", "n": 1.5}'}}]},
            {"role": "tool", "tool_call_id": "c", "content": "r"}],
    }),
    "responses": ("/v1/responses", {
        "model": "gpt-4o", "stream": False, "instructions": "i", "max_output_tokens": 9, "store": False,
        "input": [{"role": "user", "content": [{"type": "input_text", "text": "t"}]},
                  {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
                  {"type": "function_call_output", "call_id": "c", "output": "o"},
                  {"type": "reasoning", "id": "r", "summary": [{"type": "summary_text", "text": "t"}]}],
        "tools": [{"type": "function", **TOOL}], "text": {"format": {"type": "text"}}, "metadata": {"a": "b"},
    }),
    "completions": ("/v1/completions", {
        "model": "gpt-3.5-turbo-instruct", "prompt": ["a", "b"], "suffix": "s", "max_tokens": 5, "n": 1, "logprobs": 1,
        "stream": False, "stop": "x", "user": "u"}),
    "embeddings": ("/v1/embeddings", {"model": "e", "input": ["a", "b"], "dimensions": 5, "user": "u"}),
    "messages": ("/v1/messages", {
        "model": "claude-3", "max_tokens": 9, "stream": True, "metadata": {"user_id": "u"},
        "system": [{"type": "text", "text": "s", "cache_control": {"type": "ephemeral"}}],
        "tools": [{"name": "f", "description": "d", "input_schema": TOOL["parameters"]}],
        "messages": [{"role": "user", "content": [{"type": "text", "text": "t"}, {"type": "image", "source": {
            "type": "base64", "media_type": "image/png", "data": "AAAA"}}]},
            {"role": "assistant", "content": [{"type": "tool_use", "id": "c", "name": "f", "input": {"a": "x"}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c", "content": "r"}]}],
    }),
    "gemini": ("/v1beta/models/gemini-x:generateContent", {
        "systemInstruction": {"parts": [{"text": "s"}]},
        "contents": [{"role": "user", "parts": [{"text": "t"}, {"inlineData": {"mimeType": "text/plain", "data": "YQ=="}}]},
                     {"role": "model", "parts": [{"functionCall": {"name": "f", "args": {"a": "x"}}}]},
                     {"role": "user", "parts": [{"functionResponse": {"name": "f", "response": {"r": "o"}}}]}],
        "tools": [{"functionDeclarations": [TOOL]}], "safetySettings": [{"category": "c", "threshold": "t"}],
        "generationConfig": {"maxOutputTokens": 9, "candidateCount": 1, "stopSequences": ["a"], "temperature": 1},
    }),
}  # fmt: skip

NASTY: list[Any] = [
    None, True, False, 0, -1, 1, 2**31, 2**53 + 1, 2**63, 2**64, -(2**63) - 1, 10**40, 0.1, 1e308, -0.0, "", " ", "\0",
    "\u2028", "\U0001d400", "‮", "a" * 5000, "1" * 400, "a@b.co", "4111 1111 1111 1111", "__proto__", "$ref",
    "data:text/plain;base64,aGk=", "data:,", "{\"a\":{}}", "[[[[", "{}", "null", "\"", "\\", "{{7*7}}", "${jndi:x}",
    [], {}, [[]], [None], [{}], {"": ""}, {"type": "text"}, {"type": None}, {"text": {"text": "a"}}, {"role": "user"},
    ["a", 1, None, {}], {"a" * 300: 1}, {"é": "é"},
]  # fmt: skip
BYTES = [
    b"", b"\0", b"\xff", b"\xed\xa0\x80", b"\xc0\xaf", b"\xef\xbb\xbf", b"\\ud800", b"\\u0000", b"NaN", b"Infinity",
    b"-", b"1e999", b"-0", b"00", b"+1", b"1.", b",", b",,", b":", b"{", b"}", b"[", b"]", b'"', b"'", b"//", b"/**/",
    b"\\", b'"a":1,"a":2', b'"model":"x",', b'"Messages":[],', b"[" * 300, b'{"a":' * 300, b"9" * 100, b"\r\n", b"\x85",
]  # fmt: skip


def places(node: Any, found: list[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
    """(holder, key) of everything in a tree."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        found.append((node, key))
        places(value, found)
    return found


def changed(tree: Any, chance: random.Random) -> Any:
    """The tree with one to three of its places replaced, dropped, doubled, renamed or wrapped."""
    tree = json.loads(json.dumps(tree))
    for _ in range(chance.randint(1, 3)):
        at = places(tree, [])
        if not at:
            break
        holder, key = chance.choice(at)
        what = chance.randrange(6)
        if what <= 2:
            holder[key] = copy.deepcopy(chance.choice(NASTY))
        elif what == 3:
            del holder[key]
        elif what == 4:
            holder[key] = [holder[key]] * chance.choice((0, 1, 2, 40))
        elif isinstance(holder, dict):
            holder[chance.choice(("", "type", "text", "CONTENT", key.upper(), key + "\0"))] = holder.pop(key)
        else:
            holder[key] = {"type": "text", "text": holder[key]}
    return tree


def broken(data: bytes, chance: random.Random) -> bytes:
    """The bytes with one to three cuts, inserts, flips or repeats."""
    for _ in range(chance.randint(1, 3)):
        start = chance.randrange(len(data) + 1)
        end = min(len(data), start + chance.choice((0, 1, 2, 10, 200)))
        what = chance.randrange(4)
        if what == 0:
            data = data[:start] + data[end:]
        elif what == 1:
            data = data[:start] + chance.choice(BYTES) + data[end:]
        elif what == 2:
            data = data[:end] + data[start:end] + data[end:]
        else:
            data = data[:start] + bytes([chance.randrange(256)]) + data[start + 1 :]
    return data


def bodies(name: str, count: int) -> Iterator[bytes]:
    chance = random.Random(name)
    tree = BODIES[name][1]
    for _ in range(count):
        data = json.dumps(
            changed(tree, chance) if chance.random() < 0.8 else tree, ensure_ascii=chance.random() < 0.5
        ).encode("utf-8", "surrogatepass")
        yield broken(data, chance) if chance.random() < 0.4 else data


class Whole:
    """An answer of one piece."""

    status = 200

    def __init__(self, kind: str, body: bytes) -> None:
        self.headers: Mapping[str, str] = {"content-type": kind}
        self._body = body

    async def chunk(self, take: object = None) -> bytes:
        body, self._body = self._body, b""
        return body

    def rest(self) -> None:
        return None

    def idle_after(self, seconds: float) -> None:
        """Nothing waits here."""

    def close(self) -> None:
        """Nothing is open."""


class Provider:
    """Reads what was sent as strictly as it can be read, and answers in its dialect."""

    def __init__(self, dialect: Dialect, path: str) -> None:
        self.dialect = dialect
        self.path = path
        self.asked = 0

    async def ask(self, request: WireRequest, timeouts: Timeouts) -> Whole:
        self.asked += 1
        twice = json.loads(request.body, object_pairs_hook=once)
        assert same(orjson.loads(request.body), twice)
        limits = Limits(body=2 * 10**7, depth=DEPTH_CEILING)
        found = self.dialect.claims("POST", self.path, {})
        assert found is not None
        again = WireRequest("POST", self.path, "", {}, request.body)
        call = self.dialect.read_call("id", found, again, parse_body(request.body, limits))
        if found == "embed":
            tree: Any = {
                "object": "list",
                "data": [],
                "model": "e",
                "usage": {"prompt_tokens": 1, "total_tokens": 1},
            }
            return Whole("application/json", orjson.dumps(tree))
        answer = Answer("hello", model=call.model)
        if call.stream:
            return Whole(self.dialect.open_stream(call).media_type, self.dialect.answer_stream(call, answer))
        return Whole("application/json", orjson.dumps(self.dialect.answer(call, answer)))

    async def close(self) -> None:
        """Nothing is open."""


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    assert len(dict(pairs)) == len(pairs), "a name stands twice in what was sent"
    return dict(pairs)


def same(one: Any, two: Any) -> bool:
    """Equal, and of the same types all the way down."""
    return bool(one == two) and json.dumps(one) == json.dumps(two)


class Listener:
    """The client's end."""

    def __init__(self) -> None:
        self.started = False
        self.status = 0
        self.body = b""
        self.ended = False

    async def start(self, status: int, headers: Mapping[str, str]) -> None:
        self.started = True
        self.status = status
        for name, value in headers.items():
            assert name.isascii()
            assert value.isprintable()

    async def send(self, data: bytes) -> None:
        self.body += data

    async def end(self) -> None:
        self.ended = True

    def cut(self) -> None:
        raise AssertionError("an answer that no client understands")


def give(body: bytes) -> Callable[[int], Any]:
    async def read(limit: int) -> bytes:
        return body

    return read


async def fuzz(name: str, count: int, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = BODIES[name][0]
    found = Dialects().find("POST", path, {})
    assert found is not None
    text = POLICY.replace("PROVIDER", found[0].family)
    runtime = Runtime(policy(f"{text}audit: {{sink: file://{folder}/audit.jsonl}}\n"), mount="gateway")
    await runtime.start()
    provider = Provider(found[0], path)
    for each in list(runtime.transports):
        await runtime.transports[each].close()
        runtime.transports[each] = provider  # type: ignore[assignment]
    statuses: dict[int, int] = {}
    for number, body in enumerate(bodies(name, count)):
        client = Listener()
        incoming = Incoming(
            "POST", path.encode(), b"", [(b"content-type", b"application/json")], "127.0.0.1", give(body)
        )
        async with asyncio.timeout(10):
            await runtime.engine.handle(incoming, client)
        statuses[client.status] = statuses.get(client.status, 0) + 1

        assert client.status < 500, (number, client.status, body[:2000], client.body[:300])
        assert client.ended, (number, body[:2000])
        if client.status >= 400:
            assert "error" in orjson.loads(client.body), (number, client.body)
    await runtime.close()

    assert [] == [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    assert provider.asked > count // 20, (
        statuses
    )  # the fuzz reaches the provider, and the refusals are refusals
    assert statuses.get(400, 0) > count // 20, statuses


@pytest.mark.parametrize("name", list(BODIES))
async def test_fuzzed_bodies(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    await fuzz(name, 2_000, tmp_path, caplog)


@pytest.mark.nightly
@pytest.mark.parametrize("name", list(BODIES))
async def test_fuzzed_bodies_at_length(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    await fuzz(name, 50_000, tmp_path, caplog)
