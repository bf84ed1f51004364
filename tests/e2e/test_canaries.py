"""No secret in anything that leaves, on 1,000 fuzzed paths that fail (10,000 nightly): SEC-01 and SEC-03.

Every secret is a canary: providers' keys (environment, file, sealed), the vault's master key, the admin token, the
store's password, clients' keys, cookies, keys in URLs. Providers quote what they got in every way they can; plugins
raise with it; stores are lost; bodies are broken. Then answers, headers, logs at DEBUG, metrics, status, audit,
`repr()` of every object of ours and the environments of child processes are searched for each canary, plain, base64,
hex, URL-encoded, reversed, and by its first and last 8 characters. The seed is fixed: a failure comes again.
"""

import asyncio
import base64
import gc
import hashlib
import json
import logging
import os
import random
import re
import string
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import orjson
import pytest

from llmshield import logs, redact, vault
from llmshield.admin.table import Asked, routes
from llmshield.dialects import WireReply, WireRequest
from llmshield.errors import ShieldError
from llmshield.identity import Caller
from llmshield.mounts.gateway import serve
from llmshield.policy import inspect_text
from llmshield.policy.nodes import Node
from llmshield.policy.units import HostPort
from llmshield.simulator import Scripted, Simulator
from llmshield.simulator.table import FAULTS
from llmshield.testing import gateway, policy

RUNS = int(os.environ.get("LLMSHIELD_CANARY_RUNS", "10000"))
"""Paths of the nightly run."""


def canary(seed: str) -> str:
    rng = random.Random(seed)
    return "CANARY-" + "".join(rng.choice(string.ascii_letters + string.digits) for _ in range(36))


CANARIES = {name: canary(name) for name in (
    "env key", "file key", "sealed key", "client key", "own key", "wrong key", "admin token", "store password", "cookie",
    "url key", "login", "literal", "wrong admin token",
)}  # fmt: skip
CANARIES["vault master"] = base64.urlsafe_b64encode(random.Random(4).randbytes(32)).decode()
CANARIES["previous master"] = base64.urlsafe_b64encode(random.Random(5).randbytes(32)).decode()


def forms(secret: str) -> set[str]:
    """How a secret may show, in lower case."""
    raw = secret.encode()
    found = {
        secret,
        secret[::-1],
        raw.hex(),
        raw.hex(" "),
        quote(secret, safe=""),
        "".join(f"%{b:02x}" for b in raw),
    }
    found |= {secret[:8], secret[-8:], secret[:8][::-1]}
    for before in range(3):
        coded = base64.b64encode(b"\0" * before + raw).rstrip(b"=").decode()
        core = coded[(0, 2, 3)[before] : len(coded) - 2]
        found |= {core, core.replace("+", "-").replace("/", "_")}
    return {form.lower() for form in found}


FORMS = {name: forms(value) for name, value in CANARIES.items()}
ANY = re.compile("|".join(re.escape(form) for each in FORMS.values() for form in sorted(each)))


def leaks(text: str) -> list[str]:
    """Which canaries a text shows, and where."""
    low = text.lower()
    if ANY.search(low) is None:
        return []
    found = []
    for name, shown in FORMS.items():
        for form in shown:
            at = low.find(form)
            if at >= 0:
                found.append(f"{name} as {form!r} in {text[max(0, at - 120) : at + 120]!r}")
    return found


BOOM = '''
"""Raises with whatever secrets it can reach."""
from llmshield.hookspecs import Plugin, hookimpl


class Boom(Plugin):
    def burst(self, call, place):
        if call.headers.get("x-boom") == place:
            raise RuntimeError(f"boom at {place}: {dict(call.headers)} {call!r} {call.query} {self.settings!r}")

    @hookimpl
    def pre_request(self, call):
        self.burst(call, "pre_request")
        call.guard_attempt(lambda attempt: self.burst(call, "guard"))

    @hookimpl
    def choose_provider(self, call, route):
        self.burst(call, "choose_provider")

    @hookimpl
    async def post_response(self, call, reply):
        self.burst(call, "post_response")
        if call.headers.get("x-boom") in ("feed", "flush"):
            plugin = self

            class Filter:
                def feed(self, text):
                    plugin.burst(call, "feed")
                    return text

                def flush(self):
                    plugin.burst(call, "flush")
                    return ""

            reply.filter(lambda channel: Filter())
        reply.at_end(lambda reply: self.burst(call, "end"))

    @hookimpl
    def on_failure(self, call, failure):
        self.burst(call, "on_failure")
'''
BOOMS = ("pre_request", "guard", "choose_provider", "post_response", "feed", "flush", "end", "on_failure")

POLICY = """
version: 1
defaults: {timeout: 5s}
server: {store: "memory://", debug_headers: true, simulation: true, limits: {body: 64KiB}, unknown_traffic: TRAFFIC}
identify: [virtual_key]
tenants: {acme: {tier: pro, keys: ["sha256:CLIENT"]}ANON}
tiers: {pro: {rate: [1000000/hour], budget: 100000 USD/day}}
providers:
  openai: {dialect: openai, base_url: "URL/v1", prices: {input: 1, output: 4}, KEY_A circuit: {failures: 1000000}}
  anthropic: {dialect: anthropic, base_url: "URL", prices: {input: 1, output: 4}, KEY_B circuit: {failures: 1000000}}
  gemini: {dialect: gemini, base_url: "URL", prices: {input: 1, output: 4}, KEY_C circuit: {failures: 1000000}}
routes:
  - {match: {model: "claude*"}, to: [anthropic], retry: {attempts: 1}}
  - {match: {model: "gemini*"}, to: [gemini], retry: {attempts: 1}}
  - {match: {model: "both*"}, to: [openai, anthropic], retry: {attempts: 2, backoff: 1ms..2ms}, mid_stream: continue}
  - {match: {any: true}, to: [openai], retry: {attempts: 1}}
plugins:
  - {use: rate_limit}
  - {use: cost_cap}
  - {use: ./boom.py}
  - {use: pii, entities: {EMAIL_ADDRESS: replace}, presidio: false}
  - {use: failover}
audit: {sink: "file://AUDIT"}
"""

PATHS = {
    "chat": ("/v1/chat/completions", lambda model, stream: {"model": model, "stream": stream, "messages": [{"role": "user", "content": "hi"}]}),
    "responses": ("/v1/responses", lambda model, stream: {"model": model, "stream": stream, "input": "hi"}),
    "messages": ("/v1/messages", lambda model, stream: {"model": model, "max_tokens": 50, "stream": stream, "messages": [{"role": "user", "content": "hi"}]}),
    "gemini": ("/v1beta/models/gemini-x:", lambda model, stream: {"contents": [{"role": "user", "parts": [{"text": "hi"}]}]}),
    "embeddings": ("/v1/embeddings", lambda model, stream: {"model": model, "input": "hi"}),
}  # fmt: skip

SLOW = {
    "silence",
    "slow_head",
    "slow_first",
    "drip",
    "endless",
    "bomb",
    "stall",
    "big_event",
    "half_close",
    "comments",
}
QUICK = sorted(set(FAULTS) - SLOW)


def echo(rng: random.Random) -> Callable[[Any], Scripted]:
    """A provider that quotes the request's head in its error, in some place and some spelling."""
    spell = rng.choice((
        str, str, lambda s: s[::-1], lambda s: base64.b64encode(s.encode()).decode(), lambda s: s.encode().hex(),
        lambda s: quote(s, safe=""), lambda s: s[:8] + "********" + s[-8:], lambda s: base64.b64encode(b"user:" + s.encode()).decode(),
        lambda s: s.upper(), lambda s: f"<b>{s}</b>\r\n\x1b[31m{s}\u2028", lambda s: "".join(f"%{b:02X}" for b in s.encode()),
    ))  # fmt: skip
    place = rng.choice(
        (
            "message",
            "code",
            "param",
            "type",
            "header",
            "reason",
            "text",
            "html",
            "detail",
            "stream",
            "error in 200",
            "name",
        )
    )
    status = rng.choice((400, 401, 403, 404, 409, 422, 429, 500, 502, 503))

    def reply(call: Any) -> Scripted:
        head = dict(call.headers)
        key = (
            head.get("authorization", "").removeprefix("Bearer ")
            or head.get("x-api-key")
            or head.get("x-goog-api-key")
            or "none"
        )
        told = spell(key)
        error: dict[str, Any] = {
            "message": "refused",
            "type": "invalid_request_error",
            "code": "bad",
            "param": None,
        }
        if place in error:
            error[place] = f"you sent {told}" if place == "message" else told
        headers = {"content-type": "application/json"}
        if place == "header":
            headers[
                rng.choice(
                    (
                        "x-request-id",
                        "x-debug",
                        "retry-after",
                        "openai-processing-ms",
                        "x-ratelimit-reset-requests",
                    )
                )
            ] = re.sub(r"[^\x20-\x7e]", "", told)
        tree: Any = {"error": error}
        if place == "detail":
            tree = {
                "error": {
                    **error,
                    "details": [{"@type": "x", "metadata": {"key": told, "deep": [[told]]}}],
                    "status": told,
                }
            }
        if place == "name":
            tree = {"error": {**error, told: 1}, told: {"a": told}}
        body = orjson.dumps(tree).decode()
        if rng.random() < 0.3:
            body = json.dumps(tree).replace("/", "\\/")
        if place == "text":
            body, headers["content-type"] = f"upstream said: {told}", "text/plain"
        if place == "html":
            body, headers["content-type"] = f"<html><!-- {told} --><h1>{told}</h1>", "text/html"
        if place == "error in 200":
            return Scripted(status=200, headers=headers, body=body)
        if place == "stream":
            headers["content-type"] = "text/event-stream"
            first = '{"id":"x","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":{"role":"assistant","content":"Hello"},"finish_reason":null}]}'
            if "/messages" in call.path:
                first = '{"type":"message_start","message":{"id":"m","type":"message","role":"assistant","model":"m","content":[],"stop_reason":null,"stop_sequence":null,"usage":{"input_tokens":1,"output_tokens":1}}}'
            if "/responses" in call.path:
                first = '{"type":"response.created","sequence_number":0,"response":{"id":"r","object":"response","created_at":1,"status":"in_progress","model":"m","output":[]}}'
            if "Content" in call.path:
                first = '{"candidates":[{"content":{"role":"model","parts":[{"text":"Hello"}]},"index":0}]}'
            tree = {"type": "error", "error": {**error, "message": f"key {told} expired"}}
            kind = json.loads(first).get("type")
            lead = f"event: {kind}\n" if kind else ""
            bad = "event: error\n" if kind else ""
            return Scripted(
                status=200,
                headers=headers,
                chunks=[f"{lead}data: {first}\n\n", f"{bad}data: {json.dumps(tree)}\n\n"],
            )
        return Scripted(status=status, headers=headers, body=body)

    return reply


def broken(rng: random.Random, body: bytes) -> bytes:
    """A body that somebody mangled."""
    data = bytearray(body)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(max(1, len(data)))
        match rng.randint(0, 5):
            case 0:
                del data[at:]
            case 1:
                data[at:at] = rng.choice(
                    (b"\xff", b"NaN", b'"', b"\\ud800", b"[" * 80, b"\x00", b"{}", b",", b"1e999")
                )
            case 2:
                data[at : at + 1] = b""
            case 3:
                data = bytearray(
                    re.sub(rb'"(user|hi)"', rng.choice((b"5", b"null", b"[]", b"{}")), bytes(data))
                )
            case 4:
                data = data + data
            case _:
                data[at : at + 1] = bytes([rng.randrange(256)])
    return bytes(data)


class World:
    """Gateways, a provider that may quote anything, and everything that they tell."""

    def __init__(
        self, sim: Simulator, http: aiohttp.ClientSession, stranger: aiohttp.ClientSession, folder: Path
    ) -> None:
        self.sim, self.http, self.stranger, self.folder = sim, http, stranger, folder
        self.urls: dict[str, str] = {}
        self.admins: dict[str, str] = {}
        self.lines: list[str] = []
        self.count = 0
        self.troubles = (
            "echo",
            "echo",
            "echo",
            "fault",
            "fault",
            "body",
            "boom",
            "path",
            "type",
            "simulated",
        )

    def see(self, where: str, text: str) -> None:
        self.count += 1
        assert [] == leaks(text), where

    async def ask(self, rng: random.Random, where: str) -> None:
        """One call on one path that fails."""
        name = rng.choice(list(self.urls))
        path, make = PATHS[speech := rng.choice(list(PATHS))]
        stream = rng.random() < 0.4
        if speech == "gemini":
            path += "streamGenerateContent" if stream else "generateContent"
        model = {"messages": "claude-x", "gemini": "gemini-x"}.get(
            speech, rng.choice(("gpt-4o", "both", "claude-y"))
        )
        body = orjson.dumps(make(model, stream))
        headers = {"content-type": "application/json", "cookie": f"session={CANARIES['cookie']}; b=2"}
        query: dict[str, str] = {"alt": "sse"} if "stream" in path else {}
        key = CANARIES["client key" if name == "keys" else "own key"]
        match rng.randint(0, 9):
            case 0:
                headers["authorization"] = f"Bearer {CANARIES['wrong key']}"
            case 1:
                headers |= {"authorization": f"Bearer {key}", "x-api-key": CANARIES["wrong key"]}
            case 2:
                headers["authorization"] = (
                    f"Basic {base64.b64encode(('u:' + CANARIES['login']).encode()).decode()}"
                )
            case 3:
                query["key"] = CANARIES["url key"] if rng.random() < 0.5 else key
            case 4:
                headers[rng.choice(("x-goog-api-key", "api-key", "x-api-key"))] = key
            case _:
                headers["authorization"] = f"Bearer {key}"
        self.sim.reset()
        self.sim.set(reply=None)
        trouble = rng.choice(self.troubles)
        if trouble == "echo":
            self.sim.set(reply=echo(rng))
        elif trouble == "fault":
            self.sim.set(fault=rng.choice(QUICK), after=rng.choice((0, 1)))
        elif trouble == "body":
            body = broken(rng, body)
        elif trouble == "model":  # a client that puts its key where a model's name belongs
            body = body.replace(b'"' + model.encode() + b'"', b'"' + key.encode() + b'"')
            path = path.replace("gemini-x", key)
            headers = {"content-type": "application/json", "authorization": f"Bearer {key}"}
            self.sim.set(fault=rng.choice(("404", "500", "503")))
        elif trouble == "boom":
            headers["x-boom"] = rng.choice(BOOMS)
            if headers["x-boom"] == "on_failure":
                self.sim.set(fault="500")
        elif trouble == "path":
            path = rng.choice(
                (
                    "/v1/files",
                    "/v1/nothing",
                    "//v1/chat/completions",
                    "/v1/../admin",
                    "/v1/%00",
                    "/v1/batches",
                    "/",
                    "/metrics",
                    "/v1beta/x:y",
                )
            )
            self.sim.set(reply=echo(rng))
        elif trouble == "type":
            headers["content-type"] = rng.choice(
                ("text/plain", "multipart/form-data; boundary=x", "application/json; charset=utf-16")
            )
        else:
            headers["x-simulate"] = rng.choice(
                ("fault=echo_key", "fault=503", "nonsense=" + CANARIES["client key"])
            )
        said = f"{where} {name} {speech} {trouble} {stream}"
        with suppress(aiohttp.ClientError, asyncio.TimeoutError):
            async with self.http.request(rng.choice(("POST", "POST", "POST", "POST", "GET", "PUT")) if trouble == "path" else "POST",
                                         self.urls[name] + path, params=query, data=body, headers=headers) as reply:  # fmt: skip
                self.see(f"{said}: head {reply.status}", f"{reply.reason} {dict(reply.headers)}")
                got = b""
                try:
                    async for part in reply.content.iter_any():
                        got += part
                except aiohttp.ClientError as error:
                    self.see(f"{said}: client's error", repr(error.__class__))
                self.see(f"{said}: body {reply.status}", got.decode("latin-1"))

    async def administer(self, rng: random.Random, where: str) -> None:
        """One call of the admin port: any route, with broken words in its path and its body. Wrong credentials come
        from another address: who guesses is made to wait."""
        url = rng.choice(list(self.admins.values()))
        route = rng.choice(routes())
        secret = CANARIES["literal"]
        path = re.sub(r"\{\w+\}", rng.choice(("acme", "..", "%00", "x" * 300)), route.path)
        params = {"key": CANARIES["url key"], "by": secret} if rng.random() < 0.3 else {}
        method = route.method if rng.random() < 0.8 else rng.choice(("GET", "POST", "PUT", "DELETE"))
        body = rng.choice(
            (
                b"",
                b"{",
                orjson.dumps({"usd": secret, "api_key": secret, "name": secret, "what": [secret]}),
                orjson.dumps([secret]),
            )
        )
        right = rng.random() < 0.6
        token = CANARIES["admin token" if right else "wrong admin token"]
        headers = {
            "authorization": rng.choice(("Bearer ", "Bearer ", "Basic ", "")) + token,
            "cookie": f"s={CANARIES['cookie']}",
        }
        if rng.random() < 0.2:
            headers["host"] = CANARIES["cookie"]
        if body:
            headers["content-type"] = "application/json"
        http = self.http if right and headers["authorization"].startswith("Bearer") else self.stranger
        async with http.request(method, url + path, params=params, data=body, headers=headers) as reply:
            self.see(
                f"{where} admin {method} {path} {reply.status}",
                f"{dict(reply.headers)} {(await reply.read()).decode('latin-1')}",
            )

    def misread(self, rng: random.Random, where: str) -> None:
        """A policy that has a secret where none belongs."""
        secret = CANARIES["literal"]
        text = rng.choice((
            f"version: 1\nproviders: {{a: {{dialect: openai, api_key: {secret}}}}}\n",
            f"version: 1\nserver: {{store: 'redis://u:{secret}@127.0.0.1:9/0', listen: 5}}\n",
            f"version: 1\ntenants: {{a: {{keys: [{secret}]}}}}\n",
            f"version: 1\nproviders: {{a: {{dialect: openai, api_key: {secret}, nonsense: {secret}}}}}\n",
            f"version: 1\nproviders: {{a: {{dialect: openai, base_url: 'https://u:{secret}@h/v1'}}}}\n",
            f"version: 1\nproviders: {{a: {{dialect: openai, api_key: 'enc://v1.a.k.{secret}'}}}}\n",
            f"version: 1\nidentity: {{jwt: {{secret: {secret}, jwks: 'https://u:{secret}@h/'}}}}\nidentify: ['jwt:sub']\n",
            f"version: 1\nplugins: [{{use: pii, hash_key: {secret}, entities: 5}}]\n",
            f"version: 1\napi_key: {secret}\npassword: {secret}\n",
            f"version: 1\nproviders: {{a: {{dialect: openai, api_key: 'env://{secret} x'}}}}\n",
            f"version: 1\nproviders: [api_key: {secret}",
        ))  # fmt: skip
        loaded, findings = inspect_text(text, source="policy.yaml", base=self.folder)
        self.see(f"{where} findings", "\n".join(map(str, findings)))
        self.see(f"{where} repr", f"{loaded!r} {findings!r}")

    async def start_badly(self, rng: random.Random, where: str) -> None:
        """A gateway that cannot start, or loses its store at once."""
        secret = CANARIES["store password"]
        text = rng.choice((
            f"server: {{store: 'redis://u:{secret}@127.0.0.1:9/0'}}\nplugins: [{{use: cost_cap}}]\n",
            f"server: {{store: 'redis://u:{secret}@nowhere.invalid:9/0'}}\n",
            "providers: {a: {dialect: openai, api_key: env://CANARY_LINES}}\n",
            "providers: {a: {dialect: openai, api_key: file://keys.env#NOTHING}}\n",
            f"providers: {{a: {{dialect: openai, api_key: '{self.sealed[:-9]}AAAA'}}}}\n",
            f"providers: {{b: {{dialect: openai, api_key: '{self.sealed}'}}}}\n",
        ))  # fmt: skip
        stop = asyncio.Event()
        stop.set()
        free = HostPort("127.0.0.1", 0)
        try:
            await serve(policy(text, self.folder), free, free, stop=stop, signals=False)
        except ShieldError as error:
            self.see(f"{where} start", f"{error} {error!r} {error.__cause__!r} {error.__context__!r}")
            logs.log.exception("start_failed", error)

    sealed = ""


@pytest.fixture
def secrets_around(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Canaries wherever a secret is kept."""
    (tmp_path / "boom.py").write_text(BOOM)
    (tmp_path / "key").write_text(CANARIES["file key"])
    (tmp_path / "key").chmod(0o600)
    (tmp_path / "keys.env").write_text(f"OTHER={CANARIES['literal']}\n")
    (tmp_path / "keys.env").chmod(0o600)
    for name, value in (
        ("LLMSHIELD_SECRET_KEY", CANARIES["vault master"]), ("LLMSHIELD_PREVIOUS_KEYS", CANARIES["previous master"]),
        ("LLMSHIELD_ADMIN_TOKEN", CANARIES["admin token"]), ("CANARY_KEY", CANARIES["env key"]),
        ("CANARY_LINES", f"{CANARIES['literal']}\n{CANARIES['literal']}"),
    ):  # fmt: skip
        monkeypatch.setenv(name, value)
    known = set(redact._known.values)
    root = logging.getLogger()
    state = root.handlers[:], root.level, logs.log.level, logs.log._write
    yield tmp_path
    root.handlers[:], logs.log.level, logs.log._write = state[0], state[2], state[3]
    root.setLevel(state[1])
    logging.captureWarnings(False)
    for secret in redact._known.values - known:
        redact.forget(secret)


@pytest.fixture
async def world(secrets_around: Path) -> AsyncIterator[World]:
    """One gateway with keys of its own, one that passes the client's on, and one that passes unread traffic."""
    digest = hashlib.sha256(CANARIES["client key"].encode()).hexdigest()
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        sim = await enter(Simulator())
        http = await enter(aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(20)))
        elsewhere = aiohttp.TCPConnector(local_addr=("127.0.0.2", 0))
        stranger = await enter(aiohttp.ClientSession(connector=elsewhere, timeout=aiohttp.ClientTimeout(20)))
        made = World(sim, http, stranger, secrets_around)
        logs.configure("debug", made.lines.append)
        made.sealed = vault.ring().seal_reference(CANARIES["sealed key"], "gemini")
        for name, keys, anonymous, traffic in (
            ("keys", ("api_key: env://CANARY_KEY,", "api_key: file://key,", f"api_key: '{made.sealed}',"), "", "deny"),
            ("own", ("", "", ""), ", anonymous: {tier: pro}", "pass"),
        ):  # fmt: skip
            text = (
                POLICY.replace("URL", sim.url)
                .replace("CLIENT", digest)
                .replace("ANON", anonymous)
                .replace("TRAFFIC", traffic)
            )
            for letter, key in zip("ABC", keys, strict=True):
                text = text.replace(f"KEY_{letter}", key)
            text = text.replace("AUDIT", str(secrets_around / f"audit-{name}.jsonl"))
            if name == "own":
                text = text.replace("identify: [virtual_key]\n", "").replace(
                    ', keys: ["sha256:' + digest + '"]', ""
                )
            made.urls[name], made.admins[name] = await enter(gateway(policy(text, secrets_around)))
        yield made


async def fuzz(world: World, runs: int) -> None:
    for number in range(runs):
        rng = random.Random(number)
        where = f"seed {number}"
        kind = rng.random()
        if kind < 0.84:
            await world.ask(rng, where)
        elif kind < 0.92:
            await world.administer(rng, where)
        elif kind < 0.97:
            world.misread(rng, where)
        else:
            await world.start_badly(rng, where)
        _logs(world, where)
    await _look(world)
    _objects(world)


def _logs(world: World, where: str) -> None:
    for line in world.lines:
        assert [] == leaks(line), f"{where}: log"
        assert line.count("\n") == 1
        assert line.strip().isprintable()
    world.lines.clear()


async def _look(world: World) -> None:
    """What the admin port shows and what was recorded."""
    headers = {"authorization": f"Bearer {CANARIES['admin token']}"}
    for url in world.admins.values():
        for path in ("/metrics", "/status", "/usage", "/v1/circuits"):
            async with world.http.get(url + path, headers=headers) as reply:
                assert reply.status == 200
                world.see(path, await reply.text())
    audits = [path for path in world.folder.iterdir() if path.name.startswith("audit-")]
    assert len(audits) >= 2
    for path in audits:
        for line in path.read_text().splitlines():
            assert [] == leaks(line), f"audit {path.name}"


def _objects(world: World) -> None:
    """`repr()` of every object of ours that is alive."""
    seen = 0
    shown: dict[str, list[str]] = {}
    for thing in gc.get_objects():
        kind = type(thing)
        module = getattr(kind, "__module__", "")
        if (
            not isinstance(module, str)
            or not module.startswith("llmshield")
            or module.startswith("llmshield.simulator")
        ):
            continue
        with suppress(ReferenceError):
            found = leaks(repr(thing))
            if found:
                shown.setdefault(f"{module}.{kind.__name__}", found[:1])
        seen += 1

    assert shown == {}
    assert seen > 100


HOLDERS = (
    WireRequest(
        "POST",
        "/x",
        f"key={CANARIES['url key']}",
        {"authorization": CANARIES["own key"]},
        CANARIES["own key"].encode(),
    ),
    WireReply(200, {"x": CANARIES["own key"]}, CANARIES["own key"].encode()),
    Caller("acme", None, None, CANARIES["client key"], "192.0.2.1", secret=CANARIES["client key"]),
    Asked("GET", "/status", {"authorization": f"Bearer {CANARIES['admin token']}"}),
    Node(CANARIES["literal"], 1, 1, (1, 9)),
    vault.KeyRing(base64.urlsafe_b64decode(CANARIES["vault master"])),
)


@pytest.mark.parametrize("thing", HOLDERS, ids=lambda thing: type(thing).__name__)
def test_what_holds_a_secret_does_not_show_it(thing: object) -> None:
    """Without anything that could have been told what to hide."""
    assert leaks(f"{thing!r} {thing!s} {[thing]}") == []


async def test_no_canary_on_paths_that_fail(world: World) -> None:
    await fuzz(world, 1000)

    assert world.count > 1200


async def test_a_key_in_place_of_a_models_name(world: World) -> None:
    """A model's name is kept: in metrics, records and circuits. A client's key is not."""
    world.troubles = ("model",)
    for number in range(80):
        await world.ask(random.Random(number), f"seed {number}")
        _logs(world, f"seed {number}")
    await _look(world)


async def test_calls_at_once_hide_what_their_own_client_sent(primary: Simulator) -> None:
    """The secrets of a call are held for it alone, however many calls there are on how many connections."""

    def reply(call: Any) -> Scripted:
        key = dict(call.headers)["authorization"].removeprefix("Bearer ")
        body = json.dumps({"error": {"message": f"you sent {key[::-1]} {key.encode().hex()}", "type": "x"}})
        return Scripted(
            status=400,
            headers={"content-type": "application/json"},
            body=body,
            simulate=f"delay={len(key) % 3 * 8}ms",
        )

    primary.set(reply=reply)
    asked = f"providers: {{a: {{dialect: openai, base_url: '{primary.url}/v1'}}}}\n"
    async with gateway(asked) as (url, _), aiohttp.ClientSession() as http:

        async def one(number: int) -> None:
            key = f"own-{number:04}-" + "q7Zx81Lm"[: 3 + number % 5] * 4
            body = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
            async with http.post(
                f"{url}/v1/chat/completions", json=body, headers={"authorization": f"Bearer {key}"}
            ) as got:
                text = await got.text()
            assert got.status == 400
            assert "you sent" in text
            assert key[::-1] not in text
            assert key.encode().hex() not in text

        await asyncio.gather(*(one(number) for number in range(150)))


@pytest.mark.nightly
async def test_no_canary_on_paths_that_fail_nightly(world: World) -> None:
    await fuzz(world, RUNS)
