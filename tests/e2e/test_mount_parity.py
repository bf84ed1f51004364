"""One policy, three mounts: every scenario has the same verdict, the same bytes upstream and the same bytes back.

The sidecar asks the provider itself; the middleware stands around an app that proxies to the same provider; the
transparent mount is a real mitmproxy in front of the same gateway, and its client believes to speak to the provider.
Only names may differ: the provider is `main` here and `app` there.
"""

import asyncio
import hashlib
import re
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

import aiohttp
import orjson
import pytest
import pytest_asyncio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

import llmshield_plugins
from llmshield import vault
from llmshield.mounts.asgi import ShieldMiddleware
from llmshield.simulator import Scripted, Simulator
from llmshield.testing import gateway, policy
from llmshield.transcripts import Kept, Transcripts

pytestmark = pytest.mark.asyncio(loop_scope="module")

WORD = "open sesame hidden lamp"
COMMON = """
version: 1
defaults: {timeout: 10s}
server: {store: "memory://", debug_headers: true, limits: {body: 20KiB, depth: 32}}
tenants:
  anonymous: {tier: pro}
  poor: {tier: poor, keys: ["sha256:POOR"]}
  slow: {tier: slow, keys: ["sha256:SLOW"]}
tiers:
  pro: {budget: 1000 USD/day}
  poor: {budget: 0.000001 USD/day}
  slow: {rate: [1/hour]}
routes:
  - {match: {model: "*-secret"}, deny: {message: "Model {model} is not on the allow list."}}
  - {match: {model: "both-*"}, to: [MAIN]}
  - {match: {model: "gpt-*"}, to: [MAIN, backup], retry: {attempts: 1}}
  - {match: {any: true}, to: [MAIN], retry: {attempts: 1}}
plugins:
  - {use: rate_limit}
  - {use: cost_cap}
  - {use: injection, deny: ["WORD"], scan: [system, user, assistant, tool, output]}
  - use: pii
    entities: {EMAIL_ADDRESS: {action: replace}, CREDIT_CARD: {action: mask, keep_last: 4}, US_SSN: {action: block}}
    restore: true
    scan: [user, tool, output]
  - {use: secrets, rules: {aws_access_key: block}}
  - {use: tools, arguments: {note: {path: {pattern: "/srv/[a-z]+"}}}}
  - {use: bots, user_agents: ["acme-scraper*"], block_at: 0.65, weights: {fast: 0, sequential: 0}}
  - {use: ensemble, members: [backup, second], answer: majority, models: ["both-*"]}
  - {use: transcripts, store: "sqlite:///KEPT"}
  - {use: failover}
""".replace("WORD", WORD)
KEYS = {name: f"sk-{name}-0123456789abcdef" for name in ("poor", "slow")}
for _name, _key in KEYS.items():
    COMMON = COMMON.replace(_name.upper(), hashlib.sha256(_key.encode()).hexdigest())
BACKUP = (
    '  backup: {dialect: openai, base_url: "BACKUP/v1", prices: {input: 1, output: 4}}\n'
    '  second: {dialect: anthropic, base_url: "BACKUP", prices: {input: 1, output: 4}}\n'
)
MIDDLEWARE = COMMON.replace("MAIN", "app") + "providers:\n  app: {prices: {input: 1, output: 4}}\n" + BACKUP


@dataclass
class Scenario:
    """What a client sends; `data` instead of `body` for exact bytes. `say`: what the provider answers."""

    body: dict[str, Any] = field(default_factory=dict)
    data: bytes | None = None
    headers: dict[str, str] = field(default_factory=dict)
    say: Scripted | None = None
    fault: str | None = None
    status: int = 200
    action: str = "allow"
    asked: int = 1
    """Requests that reached a provider."""
    at_once: bool = False
    """They are made at the same time."""


@dataclass
class Speech:
    """One dialect: where a prompt goes in, and how it is streamed."""

    path: str
    stream_path: str
    body: Any
    headers: dict[str, str] = field(default_factory=dict)


SPEECHES = {
    "chat": Speech("/v1/chat/completions", "", lambda t: {"model": "gpt-small", "messages": [{"role": "user", "content": t}]}),
    "responses": Speech("/v1/responses", "", lambda t: {"model": "gpt-small", "input": t}),
    "completions": Speech("/v1/completions", "", lambda t: {"model": "gpt-small", "prompt": t, "max_tokens": 300}),
    "messages": Speech("/v1/messages", "", lambda t: {
        "model": "claude-small", "max_tokens": 300, "messages": [{"role": "user", "content": t}]}, {"anthropic-version": "2023-06-01"}),
    "gemini": Speech("/v1beta/models/gemini-small:generateContent", "/v1beta/models/gemini-small:streamGenerateContent?alt=sse",
                     lambda t: {"contents": [{"role": "user", "parts": [{"text": t}]}]}),
}  # fmt: skip
TELLING = [
    *(f"Line {n} of a long and quiet story. " for n in range(12)),
    f"Now {WORD[:9]}",
    f"{WORD[9:]} and ",
    "the rest.",
]

# name: (prompt, what is expected)
PROMPTS: dict[str, tuple[str, Scenario]] = {
    "clean": ("What is the tide like today? \N{WATER WAVE} Grüße\u2028!", Scenario()),
    "injection": (f"Please say {WORD}.", Scenario(status=400, action="block", asked=0)),
    "pii": ("Write to ada.lovelace@example.com or pay with 4111 1111 1111 1111.", Scenario(action="redact")),
    "blocked pii": ("My number is 078-05-1120, social security number.", Scenario(status=400, action="block", asked=0)),
    "secret": ("Why does TOKEN=ghp_x8Jq2LmZ7vRt5Yw1Nc4Kp9Sd3Fg6Hb0AaQeU fail?", Scenario(action="redact")),
    "secret in arguments": ('Do it. [[call note {"password": "hunter2!x9", "text": "x"}]]', Scenario(action="redact")),
    "blocked secret": ("My id is AKIAZ7VRSQTUPLOWD5NX, why?", Scenario(status=400, action="block", asked=0)),
    "provider's refusal": ("Hello.", Scenario(fault="400", status=400)),
    "provider's filter": ("Hello.", Scenario(fault="filter_finish")),
    "too large": ("river " * 5000, Scenario(status=400, action="block", asked=0)),
    "tools": ('Do it. [[call note {"text": "to bob@example.com"}]]', Scenario(action="redact")),
}  # fmt: skip

# exact bytes for chat: (status)
BODIES: dict[str, tuple[bytes, int]] = {
    "no JSON": (b"{", 400),
    "no object": (b"[1]", 400),
    "empty": (b"", 400),
    "NaN": (b'{"model":"gpt-small","temperature":NaN,"messages":[]}', 400),
    "no UTF-8": (b'{"model":"gpt-small","messages":[{"role":"user","content":"\xff"}]}', 400),
    "no model": (b'{"messages":[{"role":"user","content":"hi"}]}', 400),
    "wrong type": (b'{"model":"gpt-small","messages":{"role":"user"}}', 400),
    "deep": (b'{"model":"gpt-small","messages":' + b"[" * 200 + b"]" * 200 + b"}", 400),
    "twins": (b'{"model":"gpt-small","Messages":[],"messages":[{"role":"user","content":"hi"}]}', 400),
    "twice": (b'{"model":"x","model":"gpt-small","messages":[{"role":"user","content":"hi"}]}', 200),
    "spaces and escapes": (b' {"model" : "gpt-small", "messages":[{"role":"user","content":"h\\u0069 \\ud83c\\udf0a"}]} ', 200),
    "unknown fields": (b'{"model":"gpt-small","new":{"a":[1,2.50,1e2]},"messages":[{"role":"user","content":"hi"}]}', 200),
    "denied model": (b'{"model":"gpt-secret","messages":[{"role":"user","content":"hi"}]}', 404),
}  # fmt: skip


ADVICE = frozenset({
    "retry-after", "retry-after-ms", "x-should-retry", "ratelimit", "ratelimit-policy", "x-ratelimit-limit-requests",
    "x-ratelimit-remaining-requests", "connection", "cache-control",
})  # fmt: skip
"""Headers that clients act on."""


def untimed(name: str, value: str) -> str:
    """A header without the seconds that went by between two calls."""
    return re.sub(r"[0-9.]+", "N", value) if name.startswith("retry") else re.sub(r"t=[0-9]+", "t=N", value)


class Mounts:
    """The mounts that are here, and the providers that they share."""

    def __init__(
        self,
        sidecar: str,
        middleware: str,
        egress: Any,
        main: Simulator,
        backup: Simulator,
        http: Any,
        folder: Path,
    ) -> None:
        self.folder = folder
        """Here each has what it keeps, under its own name."""
        self.urls = {"sidecar": sidecar, "middleware": middleware}
        if egress is not None:
            self.urls["egress"] = ""
        self.egress = egress
        self.main, self.backup, self.http = main, backup, http

    def post(self, mount: str, path: str, **more: Any) -> Any:
        """A request through one of them; the client of the transparent mount asks the provider's own host."""
        if mount != "egress":
            return self.http.post(self.urls[mount] + path, **more)
        name = "claude" if path.startswith("/v1/messages") else "gemini" if "gemini" in path else "main"
        return self.http.post(
            f"https://{name}.llm.test{path}", proxy=self.egress.proxy, ssl=self.egress.roots, **more
        )

    async def run(self, path: str, scenario: Scenario, data: bytes) -> dict[str, Any]:
        """What the mounts make of it; fails where they differ. Returns what the sidecar did."""
        seen = {}
        for mount in self.urls:
            self.main.reset()
            self.backup.reset()
            self.main.set(stable=True)
            self.backup.set(stable=True)
            if scenario.say is not None:
                self.main.say(scenario.say)
            if scenario.fault is not None:
                self.main.set(fault=scenario.fault)
            headers = {
                "content-type": "application/json",
                "authorization": "Bearer sk-any",
                **scenario.headers,
            }
            async with self.post(mount, path, data=data, headers=headers) as reply:
                body = await reply.read()
                seen[mount] = {
                    "status": reply.status,
                    "body": unmarked(body),
                    "type": reply.headers["content-type"],
                    "action": reply.headers.get("x-llmshield-action"),
                    "attempts": reply.headers.get("x-llmshield-attempts"),
                    "model": reply.headers.get("x-llmshield-model"),
                    "cost": reply.headers.get("x-llmshield-cost"),
                    "plugins": re.sub(r"[0-9.]+ms", "ms", reply.headers.get("x-llmshield-plugins", "")),
                    "advice": {n: untimed(n, v) for n, v in reply.headers.items() if n.lower() in ADVICE},
                    "upstream": [
                        (c.path.removeprefix("/v1"), c.body) for c in (*self.main.calls, *self.backup.calls)
                    ],
                }
                if scenario.at_once:
                    seen[mount]["upstream"].sort()

        for mount in self.urls:
            assert seen["sidecar"] == seen[mount], mount
        return seen["sidecar"]


def unmarked(body: bytes) -> str:
    """A body without the id of its request and the seconds to wait, which some errors carry: a second may pass."""
    text = re.sub(r"\b[0-9A-HJKMNP-TV-Z]{26}\b", "ID", body.decode())
    return re.sub(r"again in [0-9.]+ s\b", "again in N s", text)


class Proxy:
    """An app that hands everything to one provider."""

    def __init__(self, target: str, http: aiohttp.ClientSession) -> None:
        self.target, self.http = target, http

    async def handle(self, request: Request) -> StreamingResponse:
        kept = ("content-type", "authorization", "anthropic-version", "x-goog-api-key", "x-simulate")
        headers = {name: value for name, value in request.headers.items() if name in kept}
        target = self.target + request.url.path + (f"?{request.url.query}" if request.url.query else "")
        answer = await self.http.request(request.method, target, data=await request.body(), headers=headers)

        async def relay() -> AsyncIterator[bytes]:
            async with answer:
                async for part in answer.content.iter_any():
                    yield part

        back = {
            n: v
            for n, v in answer.headers.items()
            if n.lower() not in ("content-length", "transfer-encoding")
        }
        return StreamingResponse(relay(), answer.status, back)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def mounts(serving_app: Any, tmp_path_factory: Any, request: Any) -> AsyncIterator[Mounts]:
    folder = tmp_path_factory.mktemp("kept")
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        stack.enter_context(pytest.MonkeyPatch.context()).setenv("LLMSHIELD_SECRET_KEY", vault.new_key())
        main, backup = await enter(Simulator()), await enter(Simulator(name="backup"))
        http = await enter(aiohttp.ClientSession())
        everything = [Route("/{path:path}", Proxy(main.url, http).handle, methods=["POST"])]
        around = MIDDLEWARE.replace("BACKUP", backup.url).replace("KEPT", str(folder / "middleware"))
        app = ShieldMiddleware(Starlette(routes=everything), policy=policy(around))
        given = sidecar_policy(main.url, backup.url)
        sidecar, _ = await enter(gateway(given.replace("KEPT", str(folder / "sidecar"))))
        given = given.replace("KEPT", str(folder / "egress"))
        egress = stack.enter_context(transparent(given, tmp_path_factory.mktemp("egress"), request))
        yield Mounts(sidecar, await enter(serving_app(app)), egress, main, backup, http, folder)


@contextmanager
def transparent(given: str, folder: Any, request: Any) -> Iterator[Any]:
    """The third mount; None where there is no mitmproxy."""
    try:
        run = request.getfixturevalue("egress")
    except pytest.skip.Exception:
        yield None
        return
    hosts = "egress: {hosts: {main.llm.test: main, claude.llm.test: claude, gemini.llm.test: gemini}}\n"
    with run(given + hosts, folder) as mount:
        yield mount


def sidecar_policy(main: str, backup: str) -> str:
    given = COMMON.replace("  - {match: {any: true}, to: [MAIN], retry: {attempts: 1}}\n", (
        "  - {match: {model: 'claude-*'}, to: [claude], retry: {attempts: 1}}\n"
        "  - {match: {any: true}, to: [gemini], retry: {attempts: 1}}\n"))  # fmt: skip
    prices = "prices: {input: 1, output: 4}"
    return (
        given.replace("MAIN", "main")
        + f'providers:\n  main: {{dialect: openai, base_url: "{main}/v1", {prices}}}\n'
        + f'  claude: {{dialect: anthropic, base_url: "{main}", {prices}}}\n'
        + f'  gemini: {{dialect: gemini, base_url: "{main}", {prices}}}\n'
        + BACKUP.replace("BACKUP", backup)
    )


TOOL = {
    "name": "note",
    "description": "Keep a note.",
    "parameters": {"type": "object", "properties": {"text": {"type": "string"}}},
}


def asked(speech: str, prompt: str, streamed: bool, *, tools: bool = False) -> tuple[str, bytes]:
    """Path and body of a prompt in one dialect."""
    dialect = SPEECHES[speech]
    body = dialect.body(prompt)
    if tools:
        body["tools"] = {
            "chat": [{"type": "function", "function": TOOL}],
            "responses": [{"type": "function", **TOOL}],
            "messages": [{"name": TOOL["name"], "input_schema": TOOL["parameters"]}],
            "gemini": [{"functionDeclarations": [TOOL]}],
        }.get(speech)
        if speech == "completions":
            del body["tools"]
    path = dialect.path
    if streamed and dialect.stream_path:
        path = dialect.stream_path
    elif streamed:
        body["stream"] = True
    return path, orjson.dumps(body)


async def test_no_plugin_is_missing() -> None:
    """A plugin that comes has a scenario here, or at least a place in the policy that all of them run under."""
    there = {each.name for each in iter_modules(llmshield_plugins.__path__)}

    assert there == set(re.findall(r"use: (\w+)", COMMON))


async def test_no_mount_is_missing(mounts: Mounts, egress: Any) -> None:
    """Where there is no mitmproxy this is the one that is skipped."""
    assert {"sidecar", "middleware", "egress"} == set(mounts.urls)


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("name", PROMPTS)
@pytest.mark.parametrize("speech", SPEECHES)
async def test_prompts(mounts: Mounts, speech: str, name: str, streamed: bool) -> None:
    prompt, scenario = PROMPTS[name]
    scenario.headers = SPEECHES[speech].headers
    path, data = asked(speech, prompt, streamed, tools=name in ("tools", "secret in arguments"))
    got = await mounts.run(path, scenario, data)
    status = 413 if (name, speech) == ("too large", "messages") else scenario.status

    assert (status, scenario.action, scenario.asked) == (got["status"], got["action"], len(got["upstream"]))
    if name == "pii":
        assert "ada.lovelace" in got["body"]
        assert b"ada.lovelace" not in got["upstream"][0][1]
        assert b"1111 1111" not in got["upstream"][0][1]
    if "secret" in name:
        seen = [got["body"].encode(), *(body for _, body in got["upstream"])]
        assert not any(key in part for part in seen for key in (b"ghp_x8", b"AKIAZ7", b"hunter2"))


@pytest.mark.parametrize("speech", SPEECHES)
async def test_a_stop_in_the_middle(mounts: Mounts, speech: str) -> None:
    path, data = asked(speech, "Tell me a story.", True)
    said = Scripted(text=TELLING, simulate="delay=4ms")
    got = await mounts.run(path, Scenario(headers=SPEECHES[speech].headers, say=said), data)

    assert got["status"] == 200
    assert "Line 0 of" in got["body"]
    assert "the rest" not in got["body"]


@pytest.mark.parametrize("speech", SPEECHES)
async def test_a_reply_with_forbidden_words(mounts: Mounts, speech: str) -> None:
    path, data = asked(speech, "Tell me a story.", False)
    got = await mounts.run(path, Scenario(headers=SPEECHES[speech].headers, say=Scripted(text=TELLING)), data)

    assert (got["status"], got["action"]) == (400, "block")
    assert "Line 0 of" not in got["body"]


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("fault", ["503", "429", "error_in_200", "fin", "html"])
async def test_another_provider_answers(mounts: Mounts, fault: str, streamed: bool) -> None:
    """From the wrapped app the chain may go on to a provider, as from any other."""
    path, data = asked("chat", "Hello to carl.friedrich@example.com.", streamed)
    got = await mounts.run(path, Scenario(say=Scripted(text="x", simulate=f"fault={fault},after=0")), data)

    assert (got["status"], got["attempts"], got["action"]) == (200, "2", "redact")
    assert "I am backup. You said: Hello to carl.friedrich@example.com." in spoken(got["body"], streamed)
    assert len(got["upstream"]) == 2
    assert all(b"carl" not in body for _, body in got["upstream"])


def spoken(body: str, streamed: bool) -> str:
    """The text of a chat reply."""
    if not streamed:
        return str(orjson.loads(body)["choices"][0]["message"]["content"])
    events = [orjson.loads(line[6:]) for line in body.splitlines() if line.startswith("data: {")]
    return "".join(choice["delta"].get("content") or "" for event in events for choice in event["choices"])


@pytest.mark.parametrize("fault", ["503", "500", "html", "truncated_json"])
async def test_nobody_else_to_ask(mounts: Mounts, fault: str) -> None:
    path, data = asked("messages", "Hello.", False)
    got = await mounts.run(path, Scenario(headers=SPEECHES["messages"].headers, fault=fault), data)

    assert got["status"] == 529
    assert "overloaded_error" in got["body"]


@pytest.mark.parametrize("name", BODIES)
async def test_bodies(mounts: Mounts, name: str) -> None:
    data, status = BODIES[name]
    got = await mounts.run("/v1/chat/completions", Scenario(), data)

    assert status == got["status"]
    assert (status == 200) == bool(got["upstream"])


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"content-type": "text/plain"}, 415),
        ({"content-type": "multipart/form-data; boundary=x"}, 415),
        ({"content-type": "application/json; charset=utf-16"}, 415),
        ({"content-encoding": "gzip"}, 415),
        ({"content-encoding": "unknown"}, 415),
        ({"content-type": "application/json; charset=utf-8"}, 200),
    ],
)
async def test_heads(mounts: Mounts, headers: dict[str, str], status: int) -> None:
    path, data = asked("chat", "Hello.", False)
    got = await mounts.run(path, Scenario(headers=headers), data)

    assert status == got["status"]


@pytest.mark.parametrize("speech", ["chat", "messages", "gemini"])
@pytest.mark.parametrize(("tenant", "statuses"), [("poor", {429, 402, 400}), ("slow", {429})])
async def test_limits(mounts: Mounts, speech: str, tenant: str, statuses: set[int]) -> None:
    path, data = asked(speech, "Hello.", False)
    # `slow` has one call in an hour, at each mount; whether it was spent before is all the same here.
    headers = {"authorization": f"Bearer {KEYS[tenant]}"}
    if tenant == "slow":
        for mount in mounts.urls:
            async with mounts.post(mount, SPEECHES["chat"].path, data=asked("chat", "x", False)[1],
                                        headers={"content-type": "application/json", **headers}) as reply:  # fmt: skip
                await reply.read()
    got = await mounts.run(path, Scenario(headers={**SPEECHES[speech].headers, **headers}), data)

    assert got["status"] in statuses
    assert got["upstream"] == []


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("speech", ["chat", "responses", "messages", "gemini"])
async def test_an_argument_that_no_tool_may_have(mounts: Mounts, speech: str, streamed: bool) -> None:
    path, data = asked(speech, 'Do it. [[call note {"path": "/etc/passwd"}]]', streamed, tools=True)
    got = await mounts.run(path, Scenario(headers=SPEECHES[speech].headers), data)

    assert len(got["upstream"]) == 1
    assert "passwd" not in got["body"]
    assert streamed or (got["status"], got["action"]) == (400, "block")


@pytest.mark.parametrize("speech", SPEECHES)
async def test_a_machine(mounts: Mounts, speech: str) -> None:
    path, data = asked(speech, "Hello.", False)
    agent = {**SPEECHES[speech].headers, "user-agent": "acme-scraper/1"}
    got = await mounts.run(path, Scenario(headers=agent), data)

    assert (got["status"], got["action"], got["upstream"]) == (403, "block", [])


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "stream"])
async def test_two_are_asked_at_once(mounts: Mounts, streamed: bool) -> None:
    path, data = asked("chat", "Hello to carl.friedrich@example.com.", streamed)
    got = await mounts.run(path, Scenario(at_once=True), data.replace(b"gpt-small", b"both-small"))

    assert (got["status"], got["action"]) == (200, "redact")
    assert "I am backup. You said: Hello to carl.friedrich@example.com." in spoken(got["body"], streamed)
    assert [path for path, _ in got["upstream"]] == ["/chat/completions", "/messages"]
    assert all(b"carl" not in body for _, body in got["upstream"])


UNALIKE = frozenset({"id", "at", "until", "provider"})
"""Members of a transcript that no two calls share."""
PERSON = {
    "chat": {"user": "P"},
    "responses": {"safety_identifier": "P"},
    "messages": {"metadata": {"user_id": "P"}},
}


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("speech", PERSON)
async def test_what_is_kept_of_who_agreed(mounts: Mounts, speech: str, streamed: bool) -> None:
    """The same transcript, and one of the two calls only: the other has no consent."""
    person = f"alice of {speech} {streamed}"
    path, data = asked(speech, "Write to ada.lovelace@example.com.", streamed)
    named = orjson.loads(orjson.dumps(PERSON[speech]).replace(b'"P"', orjson.dumps(person)))
    data = orjson.dumps({**orjson.loads(data), **named})
    said = SPEECHES[speech].headers
    await mounts.run(path, Scenario(headers=said), data)
    await mounts.run(path, Scenario(headers={**said, "x-llmshield-consent": "transcripts"}), data)
    kept = {
        mount: await asyncio.to_thread(transcripts, mounts.folder / mount, person) for mount in mounts.urls
    }

    assert kept == dict.fromkeys(mounts.urls, kept["sidecar"])
    assert "<EMAIL_ADDRESS_1>" in str(kept["sidecar"])
    assert "ada.lovelace" not in str(kept["sidecar"])


def transcripts(file: Path, person: str) -> dict[str, Any]:
    """The one that is kept of a person; it is written behind the answer."""
    until = time.monotonic() + 30
    while True:
        place = Transcripts(Kept(f"sqlite:///{file}"))
        found = list(place.export(person, None)) if place.open(make=False) else []
        place.close()
        if found:
            (one,) = found
            return {name: value for name, value in one.items() if name not in UNALIKE}
        assert time.monotonic() < until
        time.sleep(0.05)
