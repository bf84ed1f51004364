"""Every shape of call at once against one small budget: real gateways, and a provider that takes all it may.

The provider counts a token for each byte of text, answers to the last token of each bound, for each choice and each prompt,
fails as it likes, and keeps its own bill. Ensembles, hedges, retries, embeddings in batches, lists of prompts and paths that
are paid by the call: the bill is never above the budget, and never above what was charged.
"""

import asyncio
import contextlib
import json
import random
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

CAP = Decimal("1.5")
INTO, OUT, PATH = Decimal("0.000003"), Decimal("0.000015"), Decimal("0.003")
POLICY = """
version: 1
server:
  store: "sqlite:///{folder}/book.db"
  state_dir: "{folder}/state{index}"
  paths: [{{match: "/v1/audio/*", action: pass, price: 0.003 USD/call}}]
providers:
  a: {{dialect: openai, base_url: "{url}/a/v1", api_key: "env://E2E_KEY", prices: {{input: 3, output: 15}}}}
  dear: {{dialect: openai, base_url: "{url}/dear/v1", api_key: "env://E2E_KEY", prices: {{input: 30, output: 150}}}}
  claude: {{dialect: anthropic, base_url: "{url}/claude", api_key: "env://E2E_KEY", prices: {{input: 3, output: 15}}}}
  google: {{dialect: gemini, base_url: "{url}/google", api_key: "env://E2E_KEY", prices: {{input: 3, output: 15}}}}
routes:
  - {{match: {{model: "hedged*"}}, to: [a, dear], hedge: {{after: 5ms, max_extra_cost: 100%}}}}
  - {{match: {{model: "gemini-*"}}, to: [google, claude], retry: {{attempts: 2, when: [429, 5xx, connect]}}}}
  - {{match: {{model: "claude-*"}}, to: [claude, a], retry: {{attempts: 2, when: [429, 5xx, connect]}}}}
  - {{match: {{any: true}}, to: [a, dear], retry: {{attempts: 2, when: [429, 5xx, connect]}}}}
tenants: {{anonymous: {{tier: t}}}}
tiers: {{t: {{budget: {cap} USD/day}}}}
plugins:
  - {{use: cost_cap, default_max_tokens: 300}}
  - {{use: ensemble, name: all, members: [a, {{provider: claude, model: claude-x}}, {{provider: google, model: gemini-x}}],
     answer: all, models: [all]}}
  - {{use: ensemble, name: first, members: [a, {{provider: claude, model: claude-x}}, dear], answer: first, models: [first]}}
  - {{use: ensemble, name: judged, members: [a, {{provider: claude, model: claude-x}}], answer: judge,
     judge: {{provider: a, model: j}}, models: [judged]}}
  - {{use: failover}}
"""


def texts(node: Any) -> Iterator[str]:
    if isinstance(node, dict | list):
        for value in node.values() if isinstance(node, dict) else node:
            yield from texts(value)
    elif isinstance(node, str):
        yield node


def numbers(node: Any) -> int:
    return sum(map(numbers, node)) if isinstance(node, list) else int(isinstance(node, int))


class Greedy:
    """The provider, and its bill in USD."""

    def __init__(self) -> None:
        self.bill = Decimal(0)
        self.asked = 0
        self._rng = random.Random(3)

    def charge(self, provider: str, into: int, out: int) -> None:
        self.bill += (into * INTO + out * OUT) * (10 if provider == "dear" else 1)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked += 1
        data = await request.read()
        path, provider = request.path, request.match_info["provider"]
        if "/audio/" in path:
            self.bill += PATH
            return web.json_response({"text": "ok"})
        body = json.loads(data)
        into = sum(len(text.encode()) for text in texts({key: body[key] for key in body if key != "model"}))
        shape = next(each for each in WRITE if each in path)
        made, bound = bounds(shape, body)
        into += numbers(body.get("prompt")) + numbers(body.get("input"))
        mood = self._rng.choice(["well"] * 5 + ["500", "429", "drop", "cut"])
        if mood in ("500", "429"):
            return web.json_response({"error": {"message": "x", "type": "server_error"}}, status=int(mood))
        if not (body.get("stream") or "stream" in path):
            self.charge(provider, into, made * bound)
            if mood == "well":
                return web.json_response(WRITE[shape](body, made, into, made * bound))
            return await self._broken(request, "application/json", b'{"id": ')
        if mood == "drop":
            self.charge(provider, into, made * bound)
            return await self._broken(request, "", b"")
        return await self._stream(
            request, provider, shape, into, made * bound, self._rng.random() if mood == "cut" else 1
        )

    @staticmethod
    async def _broken(request: web.Request, kind: str, data: bytes) -> web.StreamResponse:
        reply = web.StreamResponse(headers={"content-type": kind or "text/plain", "content-length": "9999"})
        if data:
            await reply.prepare(request)
            await reply.write(data)
        assert request.transport is not None
        request.transport.abort()
        return reply

    async def _stream(
        self, request: web.Request, provider: str, shape: str, into: int, out: int, share: float
    ) -> web.StreamResponse:
        reply = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await reply.prepare(request)
        head, piece, end = STREAM[shape]
        made = 0
        try:
            await reply.write(events(*head(into)))
            for made in range(1, int(out * share) + 1):
                await reply.write(events(*piece(into, made)))
                await asyncio.sleep(0)
            if share == 1:
                await reply.write(events(*end(into, out)))
            elif request.transport is not None:
                request.transport.abort()
        except (ConnectionError, asyncio.CancelledError):
            pass  # the gateway left; what was made is billed
        finally:
            self.charge(provider, into, made)
        return reply


def bounds(shape: str, body: dict[str, Any]) -> tuple[int, int]:
    """How many answers, and the tokens of each, by what was sent."""
    if shape in ("/embeddings", "mbedContent"):
        return 0, 0
    if shape == "GenerateContent" or shape == "generateContent":
        config = body.get("generationConfig") or body.get("generation_config") or {}
        return config.get("candidateCount", config.get("candidate_count", 1)), config.get(
            "maxOutputTokens", config.get("max_output_tokens", 9_999)
        )
    bound = max([body[key] for key in body if key.startswith("max_") and key.endswith("tokens")] or [9_999])
    prompts = body.get("prompt")
    many = (
        len(prompts)
        if isinstance(prompts, list) and not all(isinstance(each, int) for each in prompts)
        else 1
    )
    return max(body.get("n") or 1, body.get("best_of") or 1) * many, bound


def events(*trees: Any) -> bytes:
    out = b""
    for tree in trees:
        name = f"event: {tree['type']}\n" if isinstance(tree, dict) and "type" in tree else ""
        out += f"{name}data: {tree if isinstance(tree, str) else json.dumps(tree)}\n\n".encode()
    return out


def _usage(into: int, out: int) -> dict[str, int]:
    return {"prompt_tokens": into, "completion_tokens": out, "total_tokens": into + out}


def _google(into: int, out: int, made: int = 1, **more: Any) -> dict[str, Any]:
    parts = {"content": {"role": "model", "parts": [{"text": "1 "}]}, **more}
    usage = {"promptTokenCount": into, "candidatesTokenCount": out, "totalTokenCount": into + out}
    return {"candidates": [{"index": index, **parts} for index in range(made)], "usageMetadata": usage}


def _message(into: int, out: int, **more: Any) -> dict[str, Any]:
    return {"id": "m", "type": "message", "role": "assistant", "model": "m", "content": [], "stop_reason": None,
            "stop_sequence": None, "usage": {"input_tokens": into, "output_tokens": out}, **more}  # fmt: skip


def _chunk(**choice: Any) -> dict[str, Any]:
    return {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m",
            "choices": [{"index": 0, "finish_reason": None, **choice}] if choice else []}  # fmt: skip


WRITE: dict[str, Any] = {
    "/chat/completions": lambda body, made, into, out: {
        "id": "x", "object": "chat.completion", "created": 1, "model": body["model"], "usage": _usage(into, out),
        "choices": [{"index": index, "message": {"role": "assistant", "content": "1"}, "finish_reason": "length"} for index in range(made)]},
    "/completions": lambda body, made, into, out: {
        "id": "x", "object": "text_completion", "created": 1, "model": body["model"], "usage": _usage(into, out),
        "choices": [{"index": index, "text": "1", "logprobs": None, "finish_reason": "length"} for index in range(made)]},
    "/messages": lambda body, made, into, out: _message(into, out, content=[{"type": "text", "text": "1"}], stop_reason="max_tokens"),
    "/embeddings": lambda body, made, into, out: {
        "object": "list", "model": body["model"], "data": [{"object": "embedding", "index": 0, "embedding": [0.1]}],
        "usage": {"prompt_tokens": into, "total_tokens": into}},
    "mbedContent": lambda body, made, into, out: {"embeddings": [{"values": [0.1]} for _ in body["requests"]]},
    "generateContent": lambda body, made, into, out: _google(into, out, made, finishReason="MAX_TOKENS"),
    "GenerateContent": None,
}  # fmt: skip
STREAM: dict[str, Any] = {
    "/chat/completions": (lambda into: [], lambda into, made: [_chunk(delta={"content": "word "})],
        lambda into, out: [_chunk(delta={}, finish_reason="length"), {**_chunk(), "usage": _usage(into, out)}, "[DONE]"]),
    "/completions": (lambda into: [], lambda into, made: [{**_chunk(text="word ", logprobs=None), "object": "text_completion"}],
        lambda into, out: [{**_chunk(), "object": "text_completion", "usage": _usage(into, out)}, "[DONE]"]),
    "/messages": (
        lambda into: [{"type": "message_start", "message": _message(into, 1)},
                      {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}],
        lambda into, made: [{"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "word "}}],
        lambda into, out: [{"type": "content_block_stop", "index": 0}, {"type": "message_delta", "usage": {"output_tokens": out},
                           "delta": {"stop_reason": "max_tokens", "stop_sequence": None}}, {"type": "message_stop"}]),
    "GenerateContent": (lambda into: [], lambda into, made: [_google(into, made)],
        lambda into, out: [_google(into, out, finishReason="MAX_TOKENS")]),
}  # fmt: skip

TEXTS = ["hi", "é" * 50, "🙂" * 30, "a" * 300]
PROMPTS = ["hi", ["hi", "é"], ["a"] * 5, [1, 2, 3], [[1, 2], [3]], [5, "x", "y"]]


def call(shape: str, rng: random.Random) -> tuple[str, dict[str, Any]]:
    """A call of this shape: its path and body."""
    text, stream, most = rng.choice(TEXTS), rng.random() < 0.5, rng.choice([1, 20, 100])
    bound: dict[str, Any] = {"max_tokens": most} if rng.random() < 0.9 else {}
    if stream:
        bound["stream"] = True
    if shape == "completions":
        more = rng.choice([{}, {"n": 2}, {"best_of": 4}, {"n": 2, "best_of": 3}, {"echo": True}])
        return "/v1/completions", {"model": "m", "prompt": rng.choice(PROMPTS), **bound, **more}
    if shape == "messages":
        return "/v1/messages", {"model": "claude-x", "messages": [{"role": "user", "content": text}], "max_tokens": most, "stream": stream}  # fmt: skip
    if shape == "gemini":
        config = {
            rng.choice(["maxOutputTokens", "max_output_tokens"]): most,
            "candidateCount": rng.choice([1, 1, 3]),
        }
        way = "streamGenerateContent?alt=sse" if stream else "generateContent"
        return f"/v1beta/models/gemini-x:{way}", {"contents": [{"role": "user", "parts": [{"text": text}]}], "generationConfig": config}  # fmt: skip
    if shape == "embeddings":
        return "/v1/embeddings", {"model": "e", "input": rng.choice([text, [text] * 20, [9] * 500, [[1, 2]] * 30])}  # fmt: skip
    if shape == "batch":
        return "/v1beta/models/gemini-e:batchEmbedContents", {
            "requests": [{"model": "models/gemini-e", "content": {"parts": [{"text": text}]}} for _ in range(rng.choice([1, 20]))]}  # fmt: skip
    if shape == "path":
        return "/v1/audio/speech", {"model": "tts", "input": text}
    n = {"n": rng.choice([2, 3])} if rng.random() < 0.2 else {}
    return "/v1/chat/completions", {
        "model": shape,
        "messages": [{"role": "user", "content": text}],
        **bound,
        **n,
    }


SHAPES = ["chat", "completions", "messages", "gemini", "embeddings", "batch", "path", "hedged", "all", "first", "judged"]  # fmt: skip


def free() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.asynccontextmanager
async def gateways(folder: Path, url: str, count: int) -> AsyncIterator[list[tuple[str, str]]]:
    """So many real processes on one SQLite file: their addresses for calls and for figures."""
    running, found = [], []
    try:
        for index in range(count):
            file = folder / f"policy{index}.yaml"
            file.write_text(POLICY.format(folder=folder, index=index, url=url, cap=CAP))
            data, admin = f"127.0.0.1:{free()}", f"127.0.0.1:{free()}"
            command = [sys.executable, "-m", "llmshield", "serve", "--policy", str(file), "--listen", data, "--admin", admin]  # fmt: skip
            log = (folder / f"log{index}").open("wb")
            running.append(subprocess.Popen(command, stdout=log, stderr=log))
            log.close()
            found.append((f"http://{data}", f"http://{admin}"))
        async with aiohttp.ClientSession() as http:
            for index, (_, admin) in enumerate(found):
                for _ in range(600):
                    assert running[index].poll() is None, (folder / f"log{index}").read_text()
                    with contextlib.suppress(aiohttp.ClientError):
                        async with http.get(f"{admin}/readyz") as reply:
                            if reply.status == 200:
                                break
                    await asyncio.sleep(0.1)
        yield found
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait(30)


@pytest.mark.parametrize("clients", [16, pytest.param(64, marks=pytest.mark.nightly)])
async def test_no_shape_of_call_overspends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clients: int
) -> None:
    monkeypatch.setenv("E2E_KEY", "sk-of-a-test")
    greedy = Greedy()
    app = web.Application(client_max_size=10**8)
    app.router.add_post("/{provider}/{rest:.*}", greedy.answer)
    runner = web.AppRunner(app, handler_cancellation=True)
    await runner.setup()
    port = free()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    refused: dict[str, int] = dict.fromkeys(SHAPES, 0)

    async def client(number: int) -> None:
        rng = random.Random(number)
        while sum(refused.values()) < 40 * len(SHAPES) and min(refused.values()) < 3:
            shape = rng.choice(SHAPES)
            path, body = call(shape, rng)
            with contextlib.suppress(aiohttp.ClientError):
                async with http.post(rng.choice(addresses)[0] + path, json=body) as reply:
                    head = await reply.content.read(80)
                    refused[shape] += b"Budget of" in head or b" is locked" in head
                    if rng.random() < 0.8:  # the others leave
                        await reply.read()

    async with gateways(tmp_path, f"http://127.0.0.1:{port}", 2) as addresses:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
            async with asyncio.timeout(120):
                await asyncio.gather(*[client(number) for number in range(clients)])
            for _ in range(100):
                async with http.get(f"{addresses[0][1]}/usage") as reply:
                    found = (await reply.json())["tenants"]["anonymous"]
                if not Decimal(found["held_usd"]):
                    break
                await asyncio.sleep(0.1)
    await runner.cleanup()

    assert Decimal(found["held_usd"]) == 0
    assert greedy.bill <= Decimal(found["spent_usd"]) <= CAP
    assert Decimal(found["spent_usd"]) > CAP * Decimal("0.9")
    assert greedy.asked > 100
