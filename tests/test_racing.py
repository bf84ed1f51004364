"""Several providers asked at once: who speaks, who is cancelled and paid, what headers, record and metrics tell."""

import asyncio
import json
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from llmshield.call import Attempt, Usage
from llmshield.conversation import Answered, Choice, Finished, PartBegun, TextPart, ToolCallPart
from llmshield.errors import CallError, UpstreamError
from llmshield.racing import Candidate, Floor, TooFew, as_stream, collect, read_all_of, sum_of, together
from llmshield.simulator import Scripted, Simulator
from llmshield.testing import call, gateway, policy
from llmshield.translators.openai_chat import OpenAIChat
from llmshield.verdicts import Target

BOTH = pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])


class World:
    def __init__(self, folder: Path, sims: list[Simulator]) -> None:
        self.folder, self.sims = folder, sims

    def serve(
        self, hedge: str = "{after: 150ms, max_extra_cost: 100%}", plugins: str = "", mode: str = "", more: str = "",
    ) -> AbstractAsyncContextManager[tuple[str, str]]:  # fmt: skip
        names = "abc"[: len(self.sims)]
        providers = "".join(
            f"  {name}: {{dialect: openai, base_url: {sim.url}/v1, prices: {{input: 1, output: 4}},"
            f" timeout: {{connect: 1s, first_token: 3s, idle: 1s, total: 8s}}}}\n"
            for name, sim in zip(names, self.sims, strict=True)
        )
        return gateway(
            policy(
                f"providers:\n{providers}routes:\n  - match: {{any: true}}\n    to: [{', '.join(names)}]\n"
                f"    hedge: {hedge}\nplugins:\n{plugins}  - {{use: cost_cap}}\n  - {{use: failover{mode}}}\n"
                f"audit: {{sink: file://{self.folder}/audit.jsonl}}\n"
                f"tenants: {{anonymous: {{tier: t}}}}\ntiers: {{t: {{budget: 5 USD/day}}}}\n{more}",
                base=self.folder,
            )
        )

    def record(self) -> dict[str, Any]:
        lines = (self.folder / "audit.jsonl").read_text().splitlines()
        found = [record for line in lines if "request_id" in (record := json.loads(line))]
        assert isinstance(found[-1], dict)
        return found[-1]

    def outcomes(self) -> list[tuple[str, str]]:
        return [(each["provider"], each["outcome"]) for each in self.record()["attempts"]]


@pytest.fixture
def world(tmp_path: Path, primary: Simulator, backup: Simulator) -> World:
    return World(tmp_path, [primary, backup])


async def ask(url: str, streamed: bool, **more: Any) -> tuple[int, Any, str]:
    body = {"model": "gpt-4o", "stream": streamed, "messages": [{"role": "user", "content": "hi"}], **more}
    async with aiohttp.ClientSession() as http, http.post(f"{url}/v1/chat/completions", json=body) as reply:
        return reply.status, reply.headers, (await reply.read()).decode()


async def used(admin: str) -> dict[str, str]:
    async with aiohttp.ClientSession() as http, http.get(f"{admin}/usage") as reply:
        found: dict[str, str] = (await reply.json())["tenants"]["anonymous"]
        return found


async def soon(what: Callable[[], bool], within_s: float = 1.0) -> None:
    until = time.monotonic() + within_s
    while not what():
        assert time.monotonic() < until
        await asyncio.sleep(0.005)


@BOTH
async def test_the_second_is_asked_when_the_first_is_silent_and_the_loser_is_cancelled_and_paid(
    world: World, streamed: bool
) -> None:
    a, _ = world.sims
    a.set(ttft=2.0)
    async with world.serve() as (url, admin):
        began = time.monotonic()
        status, headers, data = await ask(url, streamed)
        took = time.monotonic() - began
        await soon(lambda: a.calls[0].disconnected)
        await asyncio.sleep(0.05)
        money = await used(admin)
        async with aiohttp.ClientSession() as http, http.get(f"{admin}/metrics") as reply:
            metrics = await reply.text()

    assert 200 == status
    assert "back" in data
    assert 0.15 <= took < 1.8
    assert ("b", "2") == (headers["x-llmshield-provider"], headers["x-llmshield-attempts"])
    assert [("a", "cancelled"), ("b", "ok")] == world.outcomes()
    record = world.record()
    assert "b" == record["provider"]
    assert record["route_why"].endswith("a second one after 0.15 s")
    assert record["overhead_ms"] <= record["latency_ms"] - 140  # the wait for both is nobody's overhead
    costs = [float(each["cost_usd"]) for each in record["attempts"]]
    assert all(costs)  # sent and never answered: charged
    assert (0.0, pytest.approx(sum(costs))) == (float(money["held_usd"]), float(money["spent_usd"]))
    assert 'llmshield_attempts_total{provider="a",outcome="cancelled"' in metrics


@BOTH
async def test_who_is_quick_is_asked_alone(world: World, streamed: bool) -> None:
    async with world.serve() as (url, _):
        _, headers, _ = await ask(url, streamed)

    assert ("a", "1", []) == (
        headers["x-llmshield-provider"],
        headers["x-llmshield-attempts"],
        world.sims[1].calls,
    )


@BOTH
async def test_the_first_may_still_win(world: World, streamed: bool) -> None:
    """It is then the one that headers and record name, though the other was asked later."""
    a, b = world.sims
    a.set(ttft=0.3)
    b.set(ttft=2.0)
    async with world.serve() as (url, _):
        _, headers, _ = await ask(url, streamed)
        await soon(lambda: b.calls[0].disconnected)

    assert "a" == headers["x-llmshield-provider"]
    assert [("b", "cancelled"), ("a", "ok")] == world.outcomes()
    assert ("a", "gpt-4o") == (world.record()["provider"], world.record()["answered_model"])


@BOTH
@pytest.mark.parametrize(
    ("first", "second", "expected", "asked"),
    [
        ({"fault": "503"}, {}, 200, [("a", "failed"), ("b", "ok")]),  # before the hedge: plain failover
        ({"fault": "slow_head", "pause": 0.3}, {"ttft": 0.5}, 200, None),
        ({"fault": "503"}, {"fault": "503"}, 503, [("a", "failed"), ("b", "failed")]),
    ],
    ids=["first fails at once", "first is late", "both fail"],
)
async def test_failures_around_the_hedge(
    world: World, streamed: bool, first: dict[str, Any], second: dict[str, Any], expected: int, asked: Any
) -> None:
    world.sims[0].set(**first)
    world.sims[1].set(**second)
    async with world.serve() as (url, _):
        status, _, _ = await ask(url, streamed)

    assert expected == status
    assert asked is None or asked == world.outcomes()


@BOTH
async def test_both_fail_late_and_failover_goes_on_behind_them(tmp_path: Path, streamed: bool) -> None:
    """Neither is asked again, and the failure that counts is the later target's, whichever came last."""
    async with Simulator() as a, Simulator() as b, Simulator(name="third") as c:
        a.set(fault="slow_head+500", pause=0.3)
        b.set(fault="500")
        world = World(tmp_path, [a, b, c])
        async with world.serve("{after: 50ms, max_extra_cost: 100%}") as (url, _):
            status, headers, _ = await ask(url, streamed)

        assert (200, "c") == (status, headers["x-llmshield-provider"])
        assert (1, 1, 1) == (len(a.calls), len(b.calls), len(c.calls))


GUARD = """
import asyncio
from llmshield.call import Stop
from llmshield.hookspecs import Plugin
from llmshield.verdicts import Block
class Shout:
    def feed(self, text): return text.upper()
    def flush(self): return ""
class Mine(Plugin):
    async def post_response(self, call, reply):
        await asyncio.sleep(0.2)  # the other reply begins meanwhile
        reply.filter(lambda channel: Shout())
"""


@BOTH
async def test_a_reply_that_begins_while_the_head_is_read_gets_every_filter(
    world: World, streamed: bool
) -> None:
    (world.folder / "mine.py").write_text(GUARD)
    world.sims[0].set(ttft=0.1, text="quiet words")
    world.sims[1].set(ttft=0.02, text="quiet words")
    async with world.serve("{after: 50ms, max_extra_cost: 100%}", "  - use: ./mine.py\n") as (url, _):
        for _ in range(3):
            _, _, data = await ask(url, streamed)

            assert "quiet" not in data
            assert "QUIE" in data


REFUSES = """
from llmshield.hookspecs import Plugin
from llmshield.verdicts import Block
class Mine(Plugin):
    def pre_request(self, call):
        call.guard_attempt(lambda attempt: Block("no money", "budget_spent") if attempt.provider == "b" else None)
"""


@BOTH
async def test_a_guard_that_refuses_the_second_leaves_the_first(world: World, streamed: bool) -> None:
    (world.folder / "mine.py").write_text(REFUSES)
    world.sims[0].set(ttft=0.3)
    async with world.serve("{after: 50ms, max_extra_cost: 100%}", "  - use: ./mine.py\n") as (url, _):
        status, headers, _ = await ask(url, streamed)

    assert (200, "a") == (status, headers["x-llmshield-provider"])
    assert [("b", "blocked"), ("a", "ok")] == world.outcomes()


@BOTH
async def test_a_client_that_leaves_ends_both(world: World, streamed: bool) -> None:
    a, b = world.sims
    a.set(ttft=5.0)
    b.set(ttft=5.0)
    async with world.serve("{after: 50ms, max_extra_cost: 100%}") as (url, admin):
        asking = asyncio.create_task(ask(url, streamed))
        await soon(lambda: bool(b.calls))
        asking.cancel()
        await soon(lambda: a.calls[0].disconnected and b.calls[0].disconnected)
        await asyncio.sleep(0.1)
        money = await used(admin)

    assert 0.0 == float(money["held_usd"])
    assert [("a", "cancelled"), ("b", "cancelled")] == world.outcomes()


async def test_at_most_a_share_of_the_calls_is_hedged(world: World) -> None:
    world.sims[0].set(ttft=0.06)
    async with world.serve("{after: 20ms, max_extra_cost: 20%}") as (url, _):
        for _ in range(5):
            await asyncio.gather(*(ask(url, False) for _ in range(10)))

    assert 50 == len(world.sims[0].calls)
    assert 8 <= len(world.sims[1].calls) <= 10


async def test_a_percentile_needs_ten_measurements(world: World) -> None:
    async with world.serve("{after: p95, max_extra_cost: 100%}") as (url, _):
        for _ in range(10):
            await ask(url, True)
        world.sims[0].set(ttft=0.5)
        await ask(url, False)  # none of a whole answer yet
        assert [] == world.sims[1].calls
        await ask(url, True)

    assert 1 == len(world.sims[1].calls)
    assert "b" == world.record()["provider"]


async def test_in_monitor_mode_nobody_is_hedged(world: World) -> None:
    world.sims[0].set(ttft=0.2)
    async with world.serve("{after: 20ms, max_extra_cost: 100%}", mode=", mode: monitor") as (url, _):
        _, headers, _ = await ask(url, False)

    assert ("a", []) == (headers["x-llmshield-provider"], world.sims[1].calls)


@pytest.mark.parametrize("mid_stream", ["error", "continue"])
async def test_a_winner_that_breaks(world: World, mid_stream: str) -> None:
    """The loser of the hedge has not failed: it may go on."""
    a, b = world.sims
    a.provider.reply = lambda call: Scripted(text="four", simulate="" if len(a.calls) > 1 else "ttft=1s")
    b.provider.reply = lambda call: Scripted(
        text=["One ", "two ", "three "], simulate="fault=cut,after=4,delay=5ms"
    )
    async with world.serve(f"{{after: 50ms, max_extra_cost: 100%}}\n    mid_stream: {mid_stream}") as (
        url,
        _,
    ):
        _, _, data = await ask(url, True)

    last = [("a", "ok")] if mid_stream == "continue" else []
    assert [("a", "cancelled"), ("b", "failed"), *last] == world.outcomes()
    assert ('"error"' in data) == (mid_stream == "error")
    assert ("four" in data) == (mid_stream == "continue")
    assert 1 == len(b.calls)


async def test_the_clients_own_key_goes_to_the_first_alone(world: World) -> None:
    world.sims[0].set(ttft=0.3)
    async with world.serve("{after: 50ms, max_extra_cost: 100%}") as (url, _):
        async with aiohttp.ClientSession(headers={"authorization": "Bearer sk-mine"}) as http:
            body = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}]}
            async with http.post(f"{url}/v1/chat/completions", json=body) as reply:
                await reply.read()

    assert ("sk-mine", None) == (world.sims[0].calls[0].key, world.sims[1].calls[0].key)


@pytest.mark.parametrize("other", ["anthropic", "gemini"])
@BOTH
async def test_a_hedge_of_another_dialect(tmp_path: Path, primary: Simulator, backup: Simulator, other: str, streamed: bool) -> None:  # fmt: skip
    primary.set(ttft=1.0)
    given = f"""
providers:
  a: {{dialect: openai, base_url: {primary.url}/v1}}
  b: {{dialect: {other}, base_url: {backup.url}}}
routes:
  - match: {{any: true}}
    to: [a, b]
    hedge: {{after: 50ms, max_extra_cost: 100%}}
plugins: [{{use: failover}}]
"""
    async with gateway(given) as (url, _):
        status, headers, data = await ask(url, streamed)

    assert (200, "b") == (status, headers["x-llmshield-provider"])
    assert "back" in data


# -- parts -------------------------------------------------------------------------------------------------------------


def attempt(number: int) -> Attempt:
    return Attempt(call("x"), number=number, provider="p", model="m", dialect="openai_chat", body={})


async def test_only_the_first_claims_the_floor() -> None:
    one, two = attempt(1), attempt(2)
    attempts = [one, two]
    floor = Floor()
    floor.claim(one, attempts)
    floor.claim(one, attempts)

    assert [two, one] == attempts
    with pytest.raises(asyncio.CancelledError):
        floor.claim(two, attempts)


@pytest.mark.parametrize(
    ("members", "quorum", "expected"),
    [
        ("ooo", 1, 3),
        ("off", 1, 1),
        ("off", 2, TooFew),
        ("fff", 1, TooFew),
        ("obf", 1, 1),  # a budget refuses one: it is missed
        ("bbb", 1, CallError),
        ("obf", 2, CallError),
        ("oox", 1, RuntimeError),  # a bug is never missed in silence
    ],
)
async def test_a_quorum(members: str, quorum: int, expected: Any) -> None:
    async def one(target: Target) -> Candidate:
        kind = target.provider[0]
        if kind == "f":
            raise UpstreamError("reset", "gone")
        if kind == "b":
            raise CallError("budget_spent", "no")
        if kind == "x":
            raise RuntimeError("bug")
        return Candidate(attempt(1), None, None, target, "text")  # type: ignore[arg-type]

    targets = [Target(f"{kind}{number}") for number, kind in enumerate(members)]
    if isinstance(expected, int):
        candidates, missed = await collect(targets, one, quorum)
        assert (expected, len(members) - expected) == (len(candidates), missed)
    else:
        with pytest.raises(expected):
            await collect(targets, one, quorum)


def answered(*parts: Any, usage: Usage | None = None) -> Answered:
    return Answered("m", [Choice(list(parts), "stop")], usage, "id")


def test_tools_are_a_part_of_what_is_compared() -> None:
    one = answered(TextPart("Hm."), ToolCallPart("1", "f", '{"b": 1, "a": 2}'))
    same = answered(TextPart("Hm."), ToolCallPart("2", "f", '{"a":2,"b":1}'))
    other = answered(TextPart("Hm."), ToolCallPart("2", "f", '{"a":3,"b":1}'))

    assert read_all_of(one) == read_all_of(same) == 'Hm.\nf({"a":2,"b":1})'
    assert read_all_of(one) != read_all_of(other)


def test_usage_adds_up_and_nobodys_own_is_changed() -> None:
    one, two = Usage(input=10, output=3, cache_read=2), Usage(input=5, output=4, reasoning=1)

    total = sum_of([one, two])
    assert total is not None
    assert (15, 7, 2, 1) == (total.input, total.output, total.cache_read, total.reasoning)
    assert (10, 3) == (one.input, one.output)
    assert sum_of([]) is None
    assert 2 == len(together([answered(TextPart("a")), answered(TextPart("b"))]).choices)


def test_a_whole_reply_as_a_stream_says_the_same() -> None:
    asked = call("x")
    said = answered(TextPart("Hello"), ToolCallPart("c1", "f", '{"a": 1}'), usage=Usage(input=3, output=2))
    reader = OpenAIChat().reader()

    happened = reader.feed(as_stream(said, OpenAIChat().writer(asked)))
    assert ["text", "tool_call"] == [each.kind for each in happened if isinstance(each, PartBegun)]
    assert ["stop"] == [each.finish for each in happened if isinstance(each, Finished)]
