"""One exchange through the rooms, over real sockets: order, verdicts, guards, ends and records."""

import asyncio
import json
import textwrap
import threading
import time
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from llmshield.dialects._json import load_reply
from llmshield.simulator import Scripted, Simulator
from llmshield.testing import gateway, policy

HEAD = """
import asyncio
from llmshield.hookspecs import Plugin
from llmshield.call import Stop
from llmshield.verdicts import *
SEEN = []
class Keep:
    def __init__(self): self.held = ""
    def feed(self, text):
        self.held += text
        return ""
    def flush(self): return self.held.upper()
class Broken:
    def feed(self, text): raise RuntimeError("a bug")
    def flush(self): return ""
class Mine(Plugin):
"""


class World:
    """A gateway with one plugin of the test's own, between a client and a simulator."""

    def __init__(self, folder: Path, sims: list[Simulator]) -> None:
        self.folder = folder
        self.sims = sims

    def policy(self, body: str, options: str = "", more: str = "", route: str = "") -> Any:
        (self.folder / "mine.py").write_text(HEAD + textwrap.indent(textwrap.dedent(body), "    "))
        names = "abc"[: len(self.sims)]
        providers = "".join(
            f"  {name}: {{dialect: openai, base_url: {sim.url}/v1, timeout: {{first_token: 2s, idle: 1s, total: 5s}}}}\n"
            for name, sim in zip(names, self.sims, strict=True)
        )
        return policy(
            f"server: {{debug_headers: true}}\nproviders:\n{providers}"
            f"routes:\n  - match: {{any: true}}\n    to: [{', '.join(names)}]\n    retry: {{attempts: 1}}\n{route}"
            f"plugins:\n  - use: ./mine.py\n{options}  - use: failover\n"
            f"audit: {{sink: file://{self.folder}/audit.jsonl}}\n{more}",
            base=self.folder,
        )

    def records(self) -> list[dict[str, Any]]:
        lines = (self.folder / "audit.jsonl").read_text().splitlines()
        return [record for line in lines if "request_id" in (record := json.loads(line))]


@pytest.fixture
def world(tmp_path: Path, primary: Simulator, backup: Simulator) -> World:
    return World(tmp_path, [primary, backup])


async def ask(
    url: str, text: str = "hello", *, headers: dict[str, str] | None = None, **more: Any
) -> tuple[int, Any, str]:
    body = {"model": "gpt-4o", "messages": [{"role": "user", "content": text}], **more}
    async with aiohttp.ClientSession() as http:
        async with http.post(f"{url}/v1/chat/completions", json=body, headers=headers) as reply:
            return reply.status, reply.headers, (await reply.read()).decode()


def said(data: str) -> str:
    """The text of a whole or a streamed chat reply."""
    if data.startswith("{"):
        return str(json.loads(data)["choices"][0]["message"]["content"])
    events = [json.loads(line[6:]) for line in data.splitlines() if line.startswith("data: {")]
    return "".join(e["choices"][0]["delta"].get("content") or "" for e in events if e.get("choices"))


BOTH = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])


@BOTH
async def test_an_answer_needs_no_provider(world: World, stream: bool) -> None:
    made = world.policy("def pre_request(self, call): return Answer('from the policy')")
    async with gateway(made) as (url, _):
        status, _, data = await ask(url, stream=stream)

    assert (200, "from the policy") == (status, said(data))
    assert [] == world.sims[0].calls
    assert [(200, "answer")] == [(r["status"], r["verdicts"][0]["action"]) for r in world.records()]


async def test_a_route_of_a_plugin_wins_over_the_policys(world: World) -> None:
    made = world.policy(
        "def choose_provider(self, call, route): return Route((Target('b', 'gpt-4o-mini'),), why='mine')"
    )
    async with gateway(made) as (url, _):
        _, headers, _ = await ask(url)

    assert "b" == headers["x-llmshield-provider"]
    assert "gpt-4o-mini" == world.sims[1].calls[0].model
    assert "mine" == world.records()[0]["route_why"]


@BOTH
async def test_filters_see_a_reply_whole_or_in_pieces_alike(world: World, stream: bool) -> None:
    made = world.policy(
        "def post_response(self, call, reply): reply.filter(lambda channel: Keep(), hold_back=9999)"
    )
    async with gateway(made) as (url, _):
        _, _, data = await ask(url, stream=stream)

    assert "HELLO, I AM PRIMARY. YOU SAID: HELLO" == said(data)


@BOTH
@pytest.mark.parametrize("mode", ["on_error: closed", "on_error: open", "mode: monitor"])
async def test_a_broken_filter_closes_unless_the_policy_says_open(
    world: World, stream: bool, mode: str
) -> None:
    made = world.policy(
        "def post_response(self, call, reply): reply.filter(lambda channel: Broken())", f"    {mode}\n"
    )
    async with gateway(made) as (url, _):
        status, _, data = await ask(url, stream=stream)

    if mode == "on_error: closed":
        assert status == 500 or "content_filter" in data
        assert "You said" not in data
    else:
        assert (200, True) == (status, "You said" in said(data))


@BOTH
async def test_a_stop_in_the_middle_lets_out_what_was_released_and_no_more(
    world: World, stream: bool
) -> None:
    body = """
    def post_response(self, call, reply):
        class Until:
            def __init__(self): self.seen = ""
            def feed(self, text):
                self.seen += text
                at = self.seen.find("You")
                if at < 0: return text
                return Stop(Block("no more"), release=text[: max(0, len(text) - (len(self.seen) - at))])
            def flush(self): return ""
        reply.filter(lambda channel: Until())
    """
    world.sims[0].set(delay=0.02)
    async with gateway(world.policy(body)) as (url, _):
        status, _, data = await ask(url, stream=stream)

    if stream:
        assert "Hello, I am primary. " == said(data)
        assert '"finish_reason":"content_filter"' in data
        assert data.endswith("data: [DONE]\n\n")
    else:
        assert 400 == status
    assert "block" == world.records()[0]["action"]


@BOTH
async def test_guards_of_attempts_run_for_each_and_ends_once(world: World, stream: bool) -> None:
    body = """
    def pre_request(self, call):
        def guard(attempt):
            attempt.clamp_output(7 if attempt.provider == "b" else 50)
            attempt.at_end(lambda a: SEEN.append((a.provider, a.outcome, a.output_bound)))
        call.guard_attempt(guard)
        call.at_end(lambda c: SEEN.append(("call", c.model, None)))
    """
    world.sims[0].set(fault="500")
    made = world.policy(body)
    async with gateway(made) as (url, _):
        status, headers, _ = await ask(url, stream=stream, max_tokens=500)
        await asyncio.sleep(0.05)

    import sys

    seen = next(
        m.SEEN
        for m in list(sys.modules.values())
        if getattr(m, "__file__", "") == str(world.folder / "mine.py")
    )
    assert 200 == status
    assert [("a", "failed", 50), ("b", "ok", 7), ("call", "gpt-4o", None)] == seen
    assert 7 == world.sims[1].calls[0].json["max_tokens"]
    assert "2" == headers["x-llmshield-attempts"]


@pytest.mark.parametrize(
    ("guard", "status", "provider"),
    [
        ("return Skip('not this one') if attempt.provider == 'a' else None", 200, "b"),
        ("return Skip('none')", 503, None),
        ("return Block('spent', kind='budget_spent')", 429, None),
        ("raise RuntimeError('a bug')", 500, None),
    ],
)
async def test_what_a_guard_may_say(world: World, guard: str, status: int, provider: str | None) -> None:
    body = f"def pre_request(self, call):\n    def guard(attempt):\n        {guard}\n    call.guard_attempt(guard)"
    async with gateway(world.policy(body)) as (url, _):
        got, headers, _ = await ask(url)

    assert status == got
    if provider:
        assert provider == headers["x-llmshield-provider"]
    else:
        assert [] == [*world.sims[0].calls, *world.sims[1].calls]


async def test_monitored_guards_change_nothing(world: World) -> None:
    body = """
    def pre_request(self, call):
        def guard(attempt):
            attempt.clamp_output(1)
            return Block("spent", kind="budget_spent")
        call.guard_attempt(guard)
    """
    async with gateway(world.policy(body, "    mode: monitor\n")) as (url, _):
        status, _, _ = await ask(url)

    assert 200 == status
    assert "max_tokens" not in world.sims[0].calls[0].json
    assert "would-block" in {verdict["action"] for verdict in world.records()[0]["verdicts"]}


async def test_a_client_that_leaves_ends_its_attempt_as_cancelled(world: World) -> None:
    world.sims[0].set(delay=0.05, tokens=200)
    async with gateway(world.policy("pass")) as (url, _), aiohttp.ClientSession() as http:
        body = {"model": "gpt-4o", "stream": True, "messages": [{"role": "user", "content": "hi"}]}
        reply = await http.post(f"{url}/v1/chat/completions", json=body)
        await reply.content.readany()
        reply.close()
        await asyncio.sleep(0.4)

    record = world.records()[0]
    assert ("cancelled", "client_gone") == (record["attempts"][0]["outcome"], record["error"])


@BOTH
async def test_a_degraded_answer_is_marked(world: World, stream: bool) -> None:
    for sim in world.sims:
        sim.set(fault="503")
    made = world.policy("pass", route="    degraded: {message: Later please.}\n")
    async with gateway(made) as (url, _):
        status, headers, data = await ask(url, stream=stream)

    assert (200, "Later please.", "true") == (status, said(data), headers["x-llmshield-degraded"])


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [
        ("503", 503, "no_provider_available"),
        ("silence", 504, "timeout"),
        ("429", 429, "rate_limit_exceeded"),
        ("400", 400, None),
    ],
)
async def test_when_all_fail_the_error_says_how(
    world: World, fault: str, status: int, code: str | None
) -> None:
    for sim in world.sims:
        sim.set(fault=fault, pause=4)
    async with gateway(world.policy("pass")) as (url, _):
        got, _, data = await ask(url)

    assert status == got
    if code:
        assert code == json.loads(data)["error"]["code"]


async def test_keys_go_to_their_own_provider_only(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEY_OF_B", "sk-provider-b-secret")
    a, b = world.sims
    a.set(fault="500")
    made = policy(
        f"providers:\n  a: {{dialect: openai, base_url: {a.url}/v1}}\n"
        f"  b: {{dialect: openai, base_url: {b.url}/v1, api_key: env://KEY_OF_B}}\n"
        "routes:\n  - match: {any: true}\n    to: [a, b]\n    retry: {attempts: 1}\nplugins: [{use: failover}]\n"
    )
    async with gateway(made) as (url, _):
        await ask(
            url, headers={"authorization": "Bearer client-own-key", "cookie": "c=1", "x-llmshield-tags": "t"}
        )

    assert "client-own-key" == a.calls[0].key
    assert "sk-provider-b-secret" == b.calls[0].key
    for call in (*a.calls, *b.calls):
        assert {"cookie", "x-llmshield-tags"}.isdisjoint(dict(call.headers))


async def test_a_clients_key_never_goes_to_a_failover_target(world: World) -> None:
    world.sims[0].set(fault="500")
    async with gateway(world.policy("pass")) as (url, _):
        await ask(url, headers={"authorization": "Bearer client-own-key"})

    assert "client-own-key" == world.sims[0].calls[0].key
    assert "client-own-key" not in str(world.sims[1].calls[0].headers)


async def test_a_key_that_a_provider_echoes_is_scrubbed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ECHOED", "sk-echoed-0123456789abcdef0123456789")
    world.sims[0].set(fault="echo_key")
    made = policy(
        f"providers: {{a: {{dialect: openai, base_url: {world.sims[0].url}/v1, api_key: env://ECHOED}}}}\n"
    )
    async with gateway(made) as (url, _):
        _, headers, data = await ask(url)

    assert "sk-echoed" not in data + str(headers)


async def test_overrides_hold_for_their_tenant_and_their_time(world: World) -> None:
    more = (
        "overrides:\n  - match: {model: gpt-4o}\n    plugins: {mine: {mode: monitor}}\n    reason: a drill\n"
        "    until: 2099-01-01\n"
    )
    async with gateway(world.policy("def pre_request(self, call): return Block('no')", more=more)) as (
        url,
        _,
    ):
        status, headers, _ = await ask(url)

    assert (200, "would-block") == (status, headers["x-llmshield-action"])
    assert ["a drill"] == world.records()[0]["overrides"]


async def test_simulated_failures_need_the_policys_word(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIMULATE_A_FAILURE", "true")
    async with gateway(world.policy("pass")) as (url, _):
        assert "a" == (await ask(url))[1]["x-llmshield-provider"]
    made = policy(
        f"server: {{simulation: true}}\nproviders:\n  a: {{dialect: openai, base_url: {world.sims[0].url}/v1}}\n"
        f"  b: {{dialect: openai, base_url: {world.sims[1].url}/v1}}\n"
        "routes:\n  - match: {any: true}\n    to: [a, b]\n    retry: {attempts: 1}\nplugins: [{use: failover}]\n"
    )
    async with gateway(made) as (url, _):
        assert "b" == (await ask(url))[1]["x-llmshield-provider"]
        fault = {"x-llmshield-simulate": "b=429"}
        assert 429 == (await ask(url, headers=fault))[0] or 503 == (await ask(url, headers=fault))[0]


@BOTH
async def test_what_a_filter_saw_is_in_the_record(world: World, stream: bool) -> None:
    body = """
    def post_response(self, call, reply):
        reply.filter(lambda channel: Keep(), hold_back=9999)
        reply.at_end(lambda r: call.report("SHOUT", "mask", count=2, place="reply"))
    """
    async with gateway(world.policy(body)) as (url, _):
        await ask(url, stream=stream)

    verdict = next(v for v in world.records()[0]["verdicts"] if v["hook"] == "reply")
    assert ("mine", "redact", "SHOUT", 2) == (
        verdict["plugin"], verdict["action"], verdict["findings"][0]["type"], verdict["findings"][0]["count"],
    )  # fmt: skip


async def test_a_model_that_no_provider_may_be_asked_for_is_denied(world: World) -> None:
    made = policy(
        f"providers:\n  a: {{dialect: openai, base_url: {world.sims[0].url}/v1, models: {{deny: ['gpt-4o']}}}}\n"
        "routes:\n  - match: {any: true}\n    to: [a]\n    degraded: {message: Sorry}\nplugins: [{use: failover}]\n"
    )
    async with gateway(made) as (url, _):
        status, _, data = await ask(url)

    assert (404, "model_not_found") == (status, json.loads(data)["error"]["code"])
    assert [] == world.sims[0].calls


async def test_a_large_answer_is_read_beside_the_loop(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many small values take long to walk; a small answer is read at once."""
    seen: list[tuple[bool, bool]] = []

    def watched(data: Any) -> Any:
        seen.append((len(data) > 256 * 1024, threading.current_thread() is threading.main_thread()))
        return load_reply(data)

    monkeypatch.setattr("llmshield.relay.load_reply", watched)
    choice = {"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}
    statuses = []
    async with gateway(world.policy("def post_response(self, call, reply): pass")) as (url, _):
        for count in (1, 10_000):
            reply = {
                "id": "c",
                "object": "chat.completion",
                "created": 1,
                "model": "m",
                "choices": [choice] * count,
            }
            world.sims[0].say(Scripted(body=json.dumps(reply).encode()))
            statuses.append((await ask(url))[0])

    assert [200, 200] == statuses
    assert [(False, True), (True, False)] == seen


@BOTH
async def test_a_route_has_its_own_limit_for_silence(world: World, stream: bool) -> None:
    """The lesser of the route's and the provider's holds; after it the next target is asked, not the same one again."""
    world.sims[0].set(fault="silence")
    made = world.policy("pass", route="    first_token: 150ms\n")
    async with gateway(made) as (url, _):
        before = time.monotonic()
        status, headers, _ = await ask(url, stream=stream)
        took = time.monotonic() - before

    assert (200, "b") == (status, headers["x-llmshield-provider"])
    assert 0.15 <= took < 1.5, "the provider's own limit is 2 s"
    assert [("a", "first_token"), ("b", None)] == [
        (tried["provider"], tried["reason"]) for tried in world.records()[0]["attempts"]
    ]
