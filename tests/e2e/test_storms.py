"""When everything is down: how much a gateway still asks, how long it waits, and when it stops.

CB-04 and CB-06: further tries are a fifth of the calls at the most, whatever the route says; advice to wait makes
no wait that is negative or long, and no busy loop; and a call as a whole has an end.
"""

import asyncio
import time
from typing import Any

import aiohttp
import pytest

from llmshield.attempts import Attempts
from llmshield.call import Attempt, Failure
from llmshield.circuits import Circuits
from llmshield.prices import Prices
from llmshield.simulator import Simulator
from llmshield.testing import Lent, call, gateway, policy, run_hook
from llmshield.traffic import Dialects
from llmshield.translation import Translations
from llmshield.verdicts import Route, Target
from llmshield_plugins.failover import Failover

CALLS_PER_S = 200


def _policy(
    urls: list[str], circuit: str, retry: str = "attempts: 2, when: [429, 5xx, connect, reset]"
) -> str:
    providers = "\n".join(
        f"  p{number}: {{dialect: openai, base_url: {url}/v1{circuit}}}" for number, url in enumerate(urls)
    )
    return f"""
providers:
{providers}
routes:
  - match: {{any: true}}
    to: [{", ".join(f"p{number}" for number in range(len(urls)))}]
    retry: {{{retry}, backoff: 10ms..50ms}}
audit: {{sink: none}}
plugins: [{{use: failover, timeout: 10s}}]
"""


async def _ask(http: aiohttp.ClientSession, url: str, stream: bool = False) -> tuple[int, dict[str, str]]:
    body = {"model": "m", "stream": stream, "messages": [{"role": "user", "content": "hi"}]}
    async with http.post(f"{url}/v1/chat/completions", json=body) as reply:
        await reply.read()
        return reply.status, dict(reply.headers)


@pytest.mark.parametrize("circuit", ["", ", circuit: {failures: 5, open_for: 2s}"], ids=["plain", "circuits"])
@pytest.mark.parametrize("seconds", [5, pytest.param(60, marks=pytest.mark.nightly)])
async def test_all_providers_down(seconds: int, circuit: str) -> None:
    """Attempts are counted at the providers, against the calls."""
    async with (
        Simulator(fault="503") as one,
        Simulator(fault="reset") as two,
        Simulator(fault="429") as three,
        gateway(_policy([one.url, two.url, three.url], circuit)) as (url, _),
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http,
    ):
        began = time.monotonic()
        asked: list[asyncio.Task[tuple[int, dict[str, str]]]] = []
        while len(asked) < seconds * CALLS_PER_S:
            due = min(seconds, time.monotonic() - began) * CALLS_PER_S
            asked += [asyncio.ensure_future(_ask(http, url)) for _ in range(int(due) - len(asked))]
            await asyncio.sleep(0.01)
        seen = await asyncio.gather(*asked)
        attempts = sum(len(sim.calls) for sim in (one, two, three))

        assert {status for status, _ in seen} <= {503, 429}
        assert attempts <= 1.2 * len(seen)
        assert attempts > 0


@pytest.mark.parametrize(
    "said", [None, 0.0, 0.5, 2.0, 60.0]
)  # `tests/dialects/test_retry.py`: there is no other advice
async def test_no_wait_is_negative_or_long(said: float | None) -> None:
    """What becomes of the advice where the same provider is the only one."""
    given = policy(_policy(["http://127.0.0.1:1"], ""))
    plugin = Failover(Failover.Settings())
    await plugin.start(Lent(given, Circuits(given.providers), Prices(given.providers)))
    attempt = Attempt(call("x"), number=1, provider="p0", model="gpt-4o", dialect="openai_chat", body={})
    route = Route((Target("p0"),))

    seen = await run_hook(
        plugin, "on_failure", call("x"), Failure(attempt, "status", 429, None, said, 1, False, route)
    )

    assert isinstance(seen.verdict, Route)
    assert 0.0 <= seen.verdict.after <= 60.0
    assert said is None or seen.verdict.after == said


@pytest.mark.parametrize("said", ["0", "-1", "NaN", "past", "garbage"])
async def test_advice_of_nothing_is_no_busy_loop(said: str) -> None:
    """However little it is to wait: each call asks as often as its route says, and all the calls within the budget."""
    async with (
        Simulator(fault="429", retry_after=said) as sim,
        gateway(_policy([sim.url], "", "attempts: 5, when: [429]")) as (url, _),
        aiohttp.ClientSession() as http,
    ):
        first = await _ask(http, url)
        alone = len(sim.calls)
        await asyncio.gather(*(_ask(http, url) for _ in range(100)))

        assert 429 == first[0]
        assert 5 == alone
        assert len(sim.calls) <= 101 + 30  # LEAST further tries in ten seconds


async def test_one_keys_limit_does_not_shut_others_out() -> None:
    """A 429 is said to a key: it opens no circuit, and another caller is served."""

    def reply(received: Any) -> Any:
        return {"status": 429, "body": "{}"} if received.key == "spent" else None

    async with (
        Simulator(reply=reply) as sim,
        gateway(_policy([sim.url], ", circuit: {failures: 2, open_for: 60s}", "attempts: 1")) as (url, _),
    ):
        async with aiohttp.ClientSession(headers={"authorization": "Bearer spent"}) as http:
            spent = {(await _ask(http, url))[0] for _ in range(10)}
        async with aiohttp.ClientSession(headers={"authorization": "Bearer fresh"}) as http:
            fresh = await _ask(http, url)

        assert {429} == spent
        assert 200 == fresh[0]


LIMITED = """
server: {{limits: {{call: 600ms}}}}
providers:
  a: {{dialect: openai, base_url: {url}/v1, timeout: {{first_token: 400ms, idle: 400ms}}}}
  b: {{dialect: openai, base_url: {url}/v1, timeout: {{first_token: 400ms, idle: 400ms}}}}
  c: {{dialect: openai, base_url: {url}/v1, timeout: {{first_token: 400ms, idle: 400ms}}}}
routes:
  - match: {{model: patient}}
    to: [a]
    retry: {{attempts: 5, when: [429], backoff: 5s..5s}}
  - match: {{model: "kind"}}
    to: [a, b, c]
    degraded: {{message: Later.}}
  - match: {{any: true}}
    to: [a, b, c]
    mid_stream: continue
plugins: [{{use: failover}}]
"""


# fault: (settings of the provider, model, streamed, status or ending, most attempts)
ENDS = {
    "silence": ({"fault": "silence"}, "m", False, "504", 2),
    "silence, streamed": ({"fault": "silence"}, "m", True, "504", 2),
    "one that talks on": ({"fault": "endless", "delay": 0.02}, "m", True, "broken", 2),
    "one that stalls": ({"fault": "stall", "delay": 0.02, "after": 5}, "m", True, "broken", 2),
    "a wait that is too long": ({"fault": "429", "retry_after": "30"}, "patient", False, "429", 1),
    "a last word": ({"fault": "silence"}, "kind", False, "Later.", 2),
}


@pytest.mark.parametrize("name", ENDS)
async def test_a_call_has_an_end(name: str) -> None:
    """`server.limits.call` holds over all attempts, waits and resumptions."""
    settings, model, stream, expected, attempts = ENDS[name]
    async with (
        Simulator(**settings) as sim,
        gateway(LIMITED.format(url=sim.url)) as (url, _),
        aiohttp.ClientSession() as http,
    ):
        body = {"model": model, "stream": stream, "messages": [{"role": "user", "content": "word " * 40}]}
        began = time.monotonic()
        async with http.post(f"{url}/v1/chat/completions", json=body) as reply:
            said = (await reply.read()).decode()
        took = time.monotonic() - began

        assert took < 6.0  # whatever else runs here; without an end it would be for ever
        assert len(sim.calls) <= attempts
        if expected == "broken":
            assert 200 == reply.status
            assert '"error"' in said.rsplit("data:", 1)[-1]
        elif expected.isdigit():
            assert int(expected) == reply.status
            assert "error" in said
        else:
            assert expected in said
        if expected == "504":
            assert "No provider answered within 0.6 s, the limit of a call" in said


@pytest.mark.parametrize(("written", "seconds"), [("", 600.0), ("server: {limits: {call: 5s}}", 5.0)])
@pytest.mark.parametrize("total", ["10s", "20m"])
async def test_the_limit_of_a_call_is_no_shorter_than_an_attempts_own(
    written: str, seconds: float, total: str
) -> None:
    """Save where the policy says so."""
    given = policy(
        f"{written}\nproviders: {{a: {{dialect: openai, base_url: http://127.0.0.1:1/v1, timeout: {{total: {total}}}}}}}"
    )
    made = Attempts(given, {}, {}, Translations(Dialects()), {})

    assert made.call_s == (seconds if written else max(seconds, given.providers["a"].timeout.total))


@pytest.mark.parametrize("dead", [1, 2])
async def test_a_fallback_that_is_well_and_slow_serves_all(dead: int) -> None:
    """What fails over is no storm, however many do it at once and however long the answers take."""
    async with (
        Simulator(fault="503") as down,
        Simulator(ttft=1.5) as slow,
        gateway(_policy([*[down.url] * dead, slow.url], "", "attempts: 1")) as (url, _),
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http,
    ):
        assert 200 == (await _ask(http, url))[0]
        asked: list[asyncio.Task[tuple[int, dict[str, str]]]] = []
        for _ in range(80):
            asked.append(asyncio.ensure_future(_ask(http, url)))
            await asyncio.sleep(0.01)

        assert {200} == {status for status, _ in await asyncio.gather(*asked)}
