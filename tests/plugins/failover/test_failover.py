"""failover as a table: after which failure whom it asks next; circuits over real calls."""

import asyncio
import random
from typing import Any

import aiohttp
import pytest

from llmshield.call import Attempt, Failure
from llmshield.circuits import Circuits
from llmshield.policy import Policy
from llmshield.prices import Prices
from llmshield.simulator import Simulator
from llmshield.testing import FrozenClock, Lent, call, gateway, policy, run_hook
from llmshield.verdicts import Answer, Route, Target
from llmshield_plugins.failover import Failover

POLICY = policy("""
providers:
  a: {dialect: openai, base_url: http://127.0.0.1:1/v1, circuit: {failures: 2, window: 30s, open_for: 10s}}
  b: {dialect: openai, base_url: http://127.0.0.1:2/v1}
routes:
  - match: {model: last}
    to: [a]
    degraded: {message: Later.}
  - match: {any: true}
    to: [a, {provider: b, model: other}]
    retry: {attempts: 2, when: [429, 5xx, connect], backoff: 100ms..400ms}
""")
ROUTE = Route((Target("a"), Target("b", "other")))
AGAIN, NEXT, NOBODY = "again", "next", "nobody"


async def made(given: Policy = POLICY) -> Failover:
    plugin = Failover(Failover.Settings())
    await plugin.start(Lent(given, Circuits(given.providers), Prices(given.providers)))
    return plugin


def failure(
    reason: str, status: int | None = None, *, tries: int = 1, visible: bool = False, retry_after: float | None = None,
    provider: str = "a", model: str = "gpt-4o", route: Route = ROUTE,
) -> Failure:  # fmt: skip
    attempt = Attempt(call("x"), number=1, provider=provider, model=model, dialect="openai_chat", body={})
    return Failure(attempt, reason, status, None, retry_after, tries, visible, route)


def outcome(verdict: Any) -> str:
    if verdict is None:
        return NOBODY
    return AGAIN if verdict.targets[0].provider == "a" else NEXT


@pytest.mark.parametrize(
    ("reason", "status", "tries", "expected"),
    [
        ("status", 429, 1, AGAIN),
        ("status", 429, 2, NEXT),
        ("status", 503, 1, AGAIN),
        ("status", 500, 2, NEXT),
        ("connect", None, 1, AGAIN),
        ("reset", None, 1, NEXT),  # not in `when`
        ("first_token", 504, 1, NEXT),
        ("idle", 504, 1, NEXT),
        ("total", 504, 1, NEXT),
        ("malformed", 200, 1, NEXT),
        ("truncated", 200, 1, NEXT),
        ("error_in_stream", 200, 1, NEXT),
        ("context_length", 400, 1, NEXT),
        ("content_policy", 400, 1, NOBODY),
        ("status", 400, 1, NOBODY),
        ("status", 413, 1, NOBODY),
        ("status", 422, 1, NOBODY),
        ("status", 401, 1, NEXT),
        ("status", 403, 1, NEXT),
        ("status", 404, 1, NEXT),
        ("skipped", None, 1, NEXT),
    ],
)
async def test_after_which_failure_whom(reason: str, status: int | None, tries: int, expected: str) -> None:
    seen = await run_hook(await made(), "on_failure", call("x"), failure(reason, status, tries=tries))

    assert expected == outcome(seen.verdict)


async def test_the_last_target_is_the_end_and_nothing_visible_is_repeated() -> None:
    plugin = await made()
    last = failure("status", 500, provider="b", model="other", tries=2)

    assert (await run_hook(plugin, "on_failure", call("x"), last)).verdict is None
    assert (await run_hook(plugin, "on_failure", call("x"), failure("reset", visible=True))).verdict is None


async def test_a_degraded_message_is_the_last_word() -> None:
    alone = failure("status", 500, tries=9, model="last", route=Route((Target("a"),)))
    seen = await run_hook(await made(), "on_failure", call("x", model="last"), alone)

    assert Answer("Later.", degraded=True) == seen.verdict


@pytest.mark.parametrize(
    ("retry_after", "expected", "wait"),
    [(0.3, AGAIN, 0.3), (30.0, NEXT, 0.0), (0.0, AGAIN, 0.0)],
)
async def test_retry_after_is_honoured_or_another_is_asked(
    retry_after: float, expected: str, wait: float
) -> None:
    seen = await run_hook(
        await made(), "on_failure", call("x"), failure("status", 429, retry_after=retry_after)
    )

    assert (expected, wait) == (outcome(seen.verdict), seen.verdict.after)


async def test_backoff_is_full_jitter_below_a_doubling_ceiling() -> None:
    random.seed(1)
    plugin = await made()
    waits = []
    for _ in range(200):
        seen = await run_hook(plugin, "on_failure", call("x"), failure("status", 503))
        waits.append(seen.verdict.after)

    assert max(waits) <= 0.1
    assert min(waits) < 0.02


@pytest.mark.parametrize(
    ("outcome_", "reason", "status", "opens"),
    [
        ("failed", "status", 500, True),
        ("failed", "connect", None, True),
        ("failed", "truncated", 200, True),
        ("failed", "first_token", 504, True),
        ("failed", "error_in_stream", 200, True),
        ("failed", "error_in_stream", 429, False),
        ("failed", "content_policy", 400, False),
        ("failed", "context_length", 400, False),
        ("failed", "key", None, False),
        ("failed", None, None, False),  # an error of our own
        ("skipped", "skipped", None, False),
        ("failed", "status", 429, False),
        ("failed", "status", 401, False),
        ("cancelled", None, None, False),
        ("blocked", None, 200, False),
        ("ok", None, 200, False),
    ],
)
async def test_what_opens_a_circuit(
    outcome_: Any, reason: str | None, status: int | None, opens: bool
) -> None:
    plugin = await made()
    with FrozenClock():
        for _ in range(2):
            subject = call("x")
            await run_hook(plugin, "pre_request", subject)
            attempt = Attempt(subject, number=1, provider="a", model="m", dialect="openai_chat", body={})
            assert subject._attempt_guards[0].run(attempt) is None
            attempt.sent, attempt.outcome, attempt.reason, attempt.status = True, outcome_, reason, status
            for end in attempt._ends:
                end(attempt)
        state = plugin._circuits.state("a", "m")

    assert ("open" if opens else "closed") == state


async def test_a_failing_provider_is_left_alone_and_comes_back(primary: Simulator, backup: Simulator) -> None:
    given = policy(f"""
providers:
  a: {{dialect: openai, base_url: {primary.url}/v1, circuit: {{failures: 2, window: 30s, open_for: 300ms}}}}
  b: {{dialect: openai, base_url: {backup.url}/v1}}
routes:
  - match: {{any: true}}
    to: [a, b]
    retry: {{attempts: 1}}
plugins: [{{use: failover}}]
""")
    async with gateway(given) as (url, _), aiohttp.ClientSession() as http:

        async def ask() -> str:
            body = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}]}
            async with http.post(f"{url}/v1/chat/completions", json=body) as reply:
                assert 200 == reply.status
                return reply.headers["x-llmshield-provider"]

        primary.set(fault="503")
        first = [await ask() for _ in range(6)]
        asked = len(primary.calls)
        primary.set(fault="none")
        await asyncio.sleep(0.4)
        later = [await ask() for _ in range(3)]

    assert ["b"] * 6 == first
    assert 2 == asked  # the circuit opened after two; the other four calls left it alone
    assert ["a"] * 3 == later
