"""No secret in anything that leaves, on 1,000 fuzzed paths that fail (10,000 nightly): SEC-01 and SEC-03.

Every secret is a canary: providers' keys (environment, file, sealed), the vault's master key, the admin token, the
store's password, clients' keys, cookies, keys in URLs. Providers quote what they got in every way they can; plugins
raise with it; stores are lost; bodies are broken. Then answers, headers, logs at DEBUG, metrics, status, audit,
`repr()` of every object of ours and the environments of child processes are searched for each canary, plain, base64,
hex, URL-encoded, reversed, and by its first and last 8 characters. The seed is fixed: a failure comes again.
"""

import asyncio
import base64
import json
import os
import random
import re
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from urllib.parse import quote

import aiohttp
import orjson
import pytest

from llmshield import logs
from llmshield.admin.table import routes
from llmshield.errors import ShieldError
from llmshield.mounts.gateway import serve
from llmshield.policy import inspect_text
from llmshield.policy.units import HostPort
from llmshield.simulator import Scripted, Simulator
from llmshield.simulator.table import FAULTS
from llmshield.testing import gateway, policy

RUNS = int(os.environ.get("LLMSHIELD_CANARY_RUNS", "10000"))
"""Paths of the nightly run."""


BOOMS = ("pre_request", "guard", "choose_provider", "post_response", "feed", "flush", "end", "on_failure")

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
TROUBLES = ("echo", "echo", "echo", "fault", "fault", "body", "boom", "path", "type", "simulated")
"""Ways in which a call fails; `model` is one more."""


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


async def ask(world: Any, rng: random.Random, where: str, troubles: tuple[str, ...] = TROUBLES) -> None:
    """One call on one path that fails."""
    name = rng.choice(list(world.urls))
    path, make = PATHS[speech := rng.choice(list(PATHS))]
    stream = rng.random() < 0.4
    if speech == "gemini":
        path += "streamGenerateContent" if stream else "generateContent"
    model = {"messages": "claude-x", "gemini": "gemini-x"}.get(
        speech, rng.choice(("gpt-4o", "both", "claude-y"))
    )
    body = orjson.dumps(make(model, stream))
    headers = {"content-type": "application/json", "cookie": f"session={world.secrets['cookie']}; b=2"}
    query: dict[str, str] = {"alt": "sse"} if "stream" in path else {}
    key = world.secrets["client key" if name == "keys" else "own key"]
    match rng.randint(0, 9):
        case 0:
            headers["authorization"] = f"Bearer {world.secrets['wrong key']}"
        case 1:
            headers |= {"authorization": f"Bearer {key}", "x-api-key": world.secrets["wrong key"]}
        case 2:
            headers["authorization"] = (
                f"Basic {base64.b64encode(('u:' + world.secrets['login']).encode()).decode()}"
            )
        case 3:
            query["key"] = world.secrets["url key"] if rng.random() < 0.5 else key
        case 4:
            headers[rng.choice(("x-goog-api-key", "api-key", "x-api-key"))] = key
        case _:
            headers["authorization"] = f"Bearer {key}"
    world.sim.reset()
    world.sim.set(reply=None)
    trouble = rng.choice(troubles)
    if trouble == "echo":
        world.sim.set(reply=echo(rng))
    elif trouble == "fault":
        world.sim.set(fault=rng.choice(QUICK), after=rng.choice((0, 1)))
    elif trouble == "body":
        body = broken(rng, body)
    elif trouble == "model":  # a client that puts its key where a model's name belongs
        body = body.replace(b'"' + model.encode() + b'"', b'"' + key.encode() + b'"')
        path = path.replace("gemini-x", key)
        headers = {"content-type": "application/json", "authorization": f"Bearer {key}"}
        world.sim.set(fault=rng.choice(("404", "500", "503")))
    elif trouble == "boom":
        headers["x-boom"] = rng.choice(BOOMS)
        if headers["x-boom"] == "on_failure":
            world.sim.set(fault="500")
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
        world.sim.set(reply=echo(rng))
    elif trouble == "type":
        headers["content-type"] = rng.choice(
            ("text/plain", "multipart/form-data; boundary=x", "application/json; charset=utf-16")
        )
    else:
        headers["x-simulate"] = rng.choice(
            ("fault=echo_key", "fault=503", "nonsense=" + world.secrets["client key"])
        )
    said = f"{where} {name} {speech} {trouble} {stream}"
    with suppress(aiohttp.ClientError, asyncio.TimeoutError):
        async with world.http.request(rng.choice(("POST", "POST", "POST", "POST", "GET", "PUT")) if trouble == "path" else "POST",
                                     world.urls[name] + path, params=query, data=body, headers=headers) as reply:  # fmt: skip
            world.see(f"{said}: head {reply.status}", f"{reply.reason} {dict(reply.headers)}")
            got = b""
            try:
                async for part in reply.content.iter_any():
                    got += part
            except aiohttp.ClientError as error:
                world.see(f"{said}: client's error", repr(error.__class__))
            world.see(f"{said}: body {reply.status}", got.decode("latin-1"))


async def administer(world: Any, rng: random.Random, where: str) -> None:
    """One call of the admin port: any route, with broken words in its path and its body. Wrong credentials come
    from another address: who guesses is made to wait."""
    url = rng.choice(list(world.admins.values()))
    route = rng.choice(routes())
    secret = world.secrets["literal"]
    path = re.sub(r"\{\w+\}", rng.choice(("acme", "..", "%00", "x" * 300)), route.path)
    params = {"key": world.secrets["url key"], "by": secret} if rng.random() < 0.3 else {}
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
    token = world.secrets["admin token" if right else "wrong admin token"]
    headers = {
        "authorization": rng.choice(("Bearer ", "Bearer ", "Basic ", "")) + token,
        "cookie": f"s={world.secrets['cookie']}",
    }
    if rng.random() < 0.2:
        headers["host"] = world.secrets["cookie"]
    if body:
        headers["content-type"] = "application/json"
    http = world.http if right and headers["authorization"].startswith("Bearer") else world.stranger
    async with http.request(method, url + path, params=params, data=body, headers=headers) as reply:
        world.see(
            f"{where} admin {method} {path} {reply.status}",
            f"{dict(reply.headers)} {(await reply.read()).decode('latin-1')}",
        )


def misread(world: Any, rng: random.Random, where: str) -> None:
    """A policy that has a secret where none belongs."""
    secret = world.secrets["literal"]
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
    loaded, findings = inspect_text(text, source="policy.yaml", base=world.folder)
    world.see(f"{where} findings", "\n".join(map(str, findings)))
    world.see(f"{where} repr", f"{loaded!r} {findings!r}")


async def start_badly(world: Any, rng: random.Random, where: str) -> None:
    """A gateway that cannot start, or loses its store at once."""
    secret = world.secrets["store password"]
    text = rng.choice((
        f"server: {{store: 'redis://u:{secret}@127.0.0.1:9/0'}}\nplugins: [{{use: cost_cap}}]\n",
        f"server: {{store: 'redis://u:{secret}@nowhere.invalid:9/0'}}\n",
        "providers: {a: {dialect: openai, api_key: env://CANARY_LINES}}\n",
        "providers: {a: {dialect: openai, api_key: file://keys.env#NOTHING}}\n",
        f"providers: {{a: {{dialect: openai, api_key: '{world.sealed[:-9]}AAAA'}}}}\n",
        f"providers: {{b: {{dialect: openai, api_key: '{world.sealed}'}}}}\n",
    ))  # fmt: skip
    stop = asyncio.Event()
    stop.set()
    free = HostPort("127.0.0.1", 0)
    try:
        await serve(policy(text, world.folder), free, free, stop=stop, signals=False)
    except ShieldError as error:
        world.see(f"{where} start", f"{error} {error!r} {error.__cause__!r} {error.__context__!r}")
        logs.log.exception("start_failed", error)


async def fuzz(world: Any, runs: int) -> None:
    for number in range(runs):
        rng = random.Random(number)
        where = f"seed {number}"
        kind = rng.random()
        if kind < 0.84:
            await ask(world, rng, where)
        elif kind < 0.92:
            await administer(world, rng, where)
        elif kind < 0.97:
            misread(world, rng, where)
        else:
            await start_badly(world, rng, where)
        world.logs(where)
    await world.look()
    world.objects()


async def test_no_canary_on_paths_that_fail(world: Any) -> None:
    await fuzz(world, 1000)

    assert world.count > 1200


async def test_a_key_in_place_of_a_models_name(world: Any) -> None:
    """A model's name is kept: in metrics, records and circuits. A client's key is not."""
    for number in range(80):
        await ask(world, random.Random(number), f"seed {number}", ("model",))
        world.logs(f"seed {number}")
    await world.look()


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
async def test_no_canary_on_paths_that_fail_nightly(world: Any) -> None:
    await fuzz(world, RUNS)
