"""Real sockets: simulated providers, gateways and apps in the test's own loop."""

import contextlib
import dataclasses
import json
import os
import re
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from llmshield.mounts._protocol import Handler
from llmshield.mounts._server import Server, bind
from llmshield.policy.units import HostPort


@contextlib.asynccontextmanager
async def _serving_handler(handler: Handler) -> AsyncIterator[str]:
    server = Server(handler, bind(HostPort("127.0.0.1", 0), "data"), head_s=10.0, receive_s=60.0)
    await server.start()
    try:
        yield server.url
    finally:
        await server.stop(2.0)


@pytest.fixture(scope="session")
def serving_handler() -> Callable[[Handler], AbstractAsyncContextManager[str]]:
    """`async with serving_handler(handler) as url`: a handler on a real port of our own."""
    return _serving_handler


@dataclasses.dataclass
class Running:
    """`llmshield serve` as users run it. `log` is where its standard error goes."""

    process: subprocess.Popen[bytes]
    url: str
    admin: str
    log: Path


@contextlib.contextmanager
def _running(folder: Path, **environment: str) -> Iterator[Running]:
    log = folder / "log"
    command = [
        sys.executable, "-m", "llmshield", "serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0",
    ]  # fmt: skip
    with log.open("wb") as out:
        process = subprocess.Popen(command, cwd=folder, env={**os.environ, **environment}, stderr=out)
    try:
        while (found := re.search(r"llmshield serves (\S+), admin (\S+)", log.read_text())) is None:
            assert process.poll() is None, log.read_text()
            time.sleep(0.01)
        yield Running(process, found[1], found[2], log)
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture(scope="session")
def running() -> Callable[..., contextlib.AbstractContextManager[Running]]:
    """`with running(folder, **environment) as gateway`: the real command with the folder's policy.yaml."""
    return _running


@dataclasses.dataclass
class Got:
    """One answer as a client reads it: `trees` are its events in order (of a whole reply the one tree), `said` the
    text of each channel, `finals` the same as later events repeat it."""

    status: int
    raw: bytes
    headers: dict[str, str]
    trees: list[Any]
    said: dict[str, str]
    finals: dict[str, str]
    error: bool

    def shown(self) -> Iterator[tuple[str, str]]:
        """Every string of every event, and what the strings at one place spell together over all events."""
        joined: defaultdict[tuple[Any, ...], list[str]] = defaultdict(list)
        for tree in self.trees:
            for path, leaf in _leaves(tree, ()):
                yield "/".join(map(str, path)), leaf
                joined[path].append(leaf)
        for path, parts in joined.items():
            yield "joined " + "/".join(map(str, path)), "".join(parts)

    def spelled(self) -> str:
        """The same without the places: what the strings at each place spell together, one behind the other, and the lines
        of a stream that are no data. (The data themselves spell what they do not say: `\\u00855` and `500`.)"""
        joined: defaultdict[str, list[str]] = defaultdict(list)
        for tree in self.trees:
            _gather(tree, "", joined)
        lines = self.raw.decode().replace("\r", "\n").split("\n")
        rest = (line for line in lines if line[:1] not in ("d", "{", "[", ",", "]"))
        return "\0".join([*map("".join, joined.values()), *rest])


def _gather(node: Any, path: str, joined: defaultdict[str, list[str]]) -> None:
    if isinstance(node, str):
        joined[path].append(node)
    elif isinstance(node, dict):
        for mark in ("index", "output_index", "content_index"):
            if mark in node:
                path = f"{path}{mark}{node[mark]}"
        for name, value in node.items():
            joined[f"{path}/name"].append(name)
            if isinstance(value, (str, dict, list)):
                _gather(value, f"{path}/{name}", joined)
    elif isinstance(node, list):
        if node and all(isinstance(n, int) and 0 <= n < 256 for n in node):
            joined[f"{path}/bytes"].append(bytes(node).decode("utf-8", "replace"))
        else:
            for value in node:
                _gather(value, f"{path}/*", joined)


def _leaves(node: Any, path: tuple[Any, ...]) -> Iterator[tuple[tuple[Any, ...], str]]:
    if isinstance(node, str):
        yield path, node
    elif isinstance(node, dict):
        mark = tuple(
            (k, node[k]) for k in ("index", "output_index", "content_index") if isinstance(node.get(k), int)
        )
        for name, value in node.items():
            yield (*path, *mark, "name"), name
            yield from _leaves(value, (*path, *mark, name))
    elif isinstance(node, list):
        if node and all(isinstance(n, int) and 0 <= n < 256 for n in node):
            yield (*path, "bytes"), bytes(node).decode("utf-8", "replace")
        for value in node:
            yield from _leaves(value, (*path, "*"))


class Wire:
    """One dialect as its clients speak it, with a form of stream."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.dialect = name.removesuffix("_array")
        self.tools = name != "completions"
        self.reasoning = name != "completions"
        self.many = name in ("chat", "completions", "gemini", "gemini_array")

    def __repr__(self) -> str:
        return self.name

    def policy(self, url: str) -> str:
        """The provider of a policy that leads to a simulator."""
        family = {"messages": "anthropic", "gemini": "gemini"}.get(self.dialect, "openai")
        return f"{{dialect: {family}, base_url: {url}{'/v1' if family == 'openai' else ''}}}"

    def request(
        self, prompt: str, stream: bool, n: int = 1, logprobs: bool = False
    ) -> tuple[str, dict[str, Any]]:
        """Path and body."""
        body: dict[str, Any]
        if self.dialect == "gemini":
            verb = "streamGenerateContent" if stream else "generateContent"
            query = "?alt=sse" if stream and self.name == "gemini" else ""
            config: dict[str, Any] = {"thinkingConfig": {"includeThoughts": True}, "candidateCount": n}
            if logprobs:
                config["responseLogprobs"] = True
                config["logprobs"] = 1
            body = {"contents": [{"role": "user", "parts": [{"text": prompt}]}], "generationConfig": config}
            return f"/v1beta/models/m:{verb}{query}", body
        body = {"model": "m", "stream": stream}
        if self.dialect == "messages":
            return "/v1/messages", {
                **body,
                "max_tokens": 100_000,
                "messages": [{"role": "user", "content": prompt}],
            }
        if self.dialect == "responses":
            more = {"include": ["message.output_text.logprobs"], "top_logprobs": 1} if logprobs else {}
            return "/v1/responses", {**body, "input": prompt, **more}
        if n > 1:
            body["n"] = n
        if self.dialect == "completions":
            return "/v1/completions", {
                **body,
                "prompt": prompt,
                "max_tokens": 100_000,
                **({"logprobs": 1} if logprobs else {}),
            }
        more = {"logprobs": True, "top_logprobs": 1} if logprobs else {}
        return "/v1/chat/completions", {**body, "messages": [{"role": "user", "content": prompt}], **more}

    def headers(self) -> dict[str, str]:
        """Those that the dialect asks for."""
        return {"anthropic-version": "2023-06-01"} if self.dialect == "messages" else {}

    async def ask(
        self, http: aiohttp.ClientSession, url: str, prompt: str = "hi", *, stream: bool, n: int = 1,
        logprobs: bool = False, headers: dict[str, str] | None = None,
    ) -> Got:  # fmt: skip
        """Ask and read to the end."""
        path, body = self.request(prompt, stream, n, logprobs)
        async with http.post(url + path, json=body, headers={**self.headers(), **(headers or {})}) as reply:
            raw = await reply.read()
        return self.read(reply.status, raw, dict(reply.headers), stream=stream and reply.status == 200)

    def read(self, status: int, raw: bytes, headers: dict[str, str], *, stream: bool) -> Got:
        """Bytes as a client takes them apart; whatever is no strict JSON raises."""
        if not stream:
            trees = [json.loads(raw.removeprefix(b"\xef\xbb\xbf"))]
        elif self.name == "gemini_array":
            trees = json.loads(raw.removeprefix(b"\xef\xbb\xbf"))
        else:
            trees = [json.loads(data) for data in _payloads(raw) if data != "[DONE]"]
        said: defaultdict[str, str] = defaultdict(str)
        finals: defaultdict[str, str] = defaultdict(str)
        error = status != 200
        for tree in trees:
            error = error or ("error" in tree and bool(tree["error"])) or tree.get("type") == "error"
            if not error:
                _READ[self.dialect](tree, said, finals)
        return Got(status, raw, headers, trees, {k: v for k, v in said.items() if v}, dict(finals), error)


def _payloads(raw: bytes) -> list[str]:
    text = raw.decode().removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    assert text.endswith("\n\n"), "a stream ends with a whole event"
    found = []
    for block in text[:-2].split("\n\n"):
        lines = [line[5:].removeprefix(" ") for line in block.split("\n") if line.startswith("data:")]
        if lines:
            found.append("\n".join(lines))
    return found


Said = defaultdict[str, str]


def _chat(tree: Any, said: Said, finals: Said) -> None:
    for choice in tree.get("choices", ()):
        at, part = choice["index"], choice.get("message") or choice.get("delta") or {}
        for kind, key in (("content", "content"), ("reasoning", "reasoning_content"), ("refusal", "refusal")):
            said[f"{kind} {at}"] += part.get(key) or ""
        for number, call in enumerate(part.get("tool_calls") or ()):
            one = call.get("function") or call.get("custom") or {}
            said[f"tool {at} {call.get('index', number)}"] += one.get("arguments") or one.get("input") or ""
            said[f"name {at} {call.get('index', number)}"] += one.get("name") or ""


def _completions(tree: Any, said: Said, finals: Said) -> None:
    for choice in tree.get("choices", ()):
        said[f"content {choice['index']}"] += choice["text"]


def _messages(tree: Any, said: Said, finals: Said) -> None:
    kind = tree["type"]
    if kind == "message":
        for index, block in enumerate(tree["content"]):
            _block(index, block, said)
    elif kind == "content_block_start":
        _block(tree["index"], tree["content_block"], said, start=True)
    elif kind == "content_block_delta":
        delta, at = tree["delta"], tree["index"]
        said[f"content {at}"] += delta.get("text", "")
        said[f"reasoning {at}"] += delta.get("thinking", "")
        said[f"signature {at}"] += delta.get("signature", "")
        said[f"tool {at}"] += delta.get("partial_json", "")


def _block(at: int, block: Any, said: Said, *, start: bool = False) -> None:
    said[f"content {at}"] += block.get("text", "")
    said[f"reasoning {at}"] += block.get("thinking", "")
    said[f"signature {at}"] += block.get("signature") or ""
    said[f"name {at}"] += block.get("name", "")
    if "input" in block and not (start and block["input"] == {}):
        said[f"tool {at}"] += json.dumps(block["input"], ensure_ascii=False)


_PARTS = {
    "response.output_text.delta": "content", "response.refusal.delta": "refusal",
    "response.reasoning_summary_text.delta": "reasoning", "response.function_call_arguments.delta": "tool",
    "response.custom_tool_call_input.delta": "tool",
}  # fmt: skip


def _responses(tree: Any, said: Said, finals: Said) -> None:
    kind = tree.get("type", "")
    if kind in _PARTS:
        said[f"{_PARTS[kind]} {tree['output_index']}"] += tree["delta"]
    elif kind in ("response.completed", "response.incomplete"):
        _items(tree["response"]["output"], finals)
    elif not kind:
        _items(tree["output"], said)
    elif kind == "response.output_item.added" and "name" in tree["item"]:
        said[f"name {tree['output_index']}"] += tree["item"]["name"]


def _items(items: Any, said: Said) -> None:
    for at, item in enumerate(items):
        for part in item.get("content") or ():
            said[f"{'refusal' if 'refusal' in part else 'content'} {at}"] += part.get(
                "text", part.get("refusal", "")
            )
        for part in item.get("summary") or ():
            said[f"reasoning {at}"] += part["text"]
        if "name" in item:
            said[f"tool {at}"] += item.get("arguments", item.get("input", ""))
            said[f"name {at}"] += item["name"]


def _gemini(tree: Any, said: Said, finals: Said) -> None:
    for candidate in tree.get("candidates", ()):
        at = candidate.get("index", 0)
        for part in candidate.get("content", {}).get("parts", ()):
            said[f"{'reasoning' if part.get('thought') else 'content'} {at}"] += part.get("text", "")
            if "functionCall" in part:
                call = part["functionCall"]
                said[f"tool {at}"] += json.dumps(call.get("args"), ensure_ascii=False)
                said[f"name {at}"] += call["name"]


_READ: dict[str, Callable[[Any, Said, Said], None]] = {
    "chat": _chat, "completions": _completions, "messages": _messages, "responses": _responses, "gemini": _gemini,
}  # fmt: skip


@pytest.fixture(scope="session")
def wires() -> tuple[Wire, ...]:
    """Every dialect that streams, in every form."""
    return tuple(map(Wire, ("chat", "responses", "completions", "messages", "gemini", "gemini_array")))
