"""Limits in tokens: never passed by what calls really use, whatever they reserve; told in the headers."""

import asyncio
import random
from collections import deque
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from llmshield.stores import open_store
from llmshield.testing import FakeProvider, FrozenClock, gateway
from llmshield.verdicts import Block, Skip

ALONE = 64
"""What the plugin adds to the bytes of a call."""


async def test_the_worst_case_is_reserved_and_the_rest_comes_back(asked: Any, time: FrozenClock) -> None:
    plugin = await asked.plugin("rate: [1000 tokens/minute]")
    first, second = asked.call(), asked.call()
    for call in (first, second):
        assert await asked.ask(plugin, call) is None
    running, said = await asked.attempt(first, size=300, bound=400)
    assert said is None
    assert first.response_headers["x-ratelimit-remaining-tokens"] == str(1000 - 300 - ALONE - 400)

    _, refused = await asked.attempt(second, size=300, bound=400)

    assert isinstance(refused, Block)
    assert refused.kind == "rate_limited"
    assert "1000 tokens/minute for tenant acme is reached: this call may use 764." in refused.message
    assert refused.retry_after_s is not None
    assert 59 <= refused.retry_after_s <= 61

    await asked.end_attempt(running, used=90)
    assert first.response_headers["x-ratelimit-remaining-tokens"] == "910"
    again = asked.call()
    await asked.ask(plugin, again)
    assert (await asked.attempt(again, size=300, bound=400))[1] is None
    assert again.response_headers["x-ratelimit-remaining-tokens"] == str(910 - 764)


async def test_no_stretch_of_a_minute_ever_uses_more(asked: Any, time: FrozenClock) -> None:
    """4,000 calls of random size, bound, real use and duration against an oracle that keeps every admission."""
    limit = 5_000
    plugin = await asked.plugin(f"rate: [{limit} tokens/minute]")
    rng = random.Random(23)
    admitted: deque[tuple[float, int]] = deque()
    running: list[tuple[float, Any, int]] = []
    refused = 0
    for _ in range(4_000):
        time.advance(rng.choice([0.05, 0.5, 2.0]))
        now = time.now()
        for item in [item for item in running if item[0] <= now]:
            running.remove(item)
            await asked.end_attempt(item[1], used=item[2])
        while admitted and admitted[0][0] <= now - 60:
            admitted.popleft()
        size, bound = rng.randrange(20, 800), rng.randrange(16, 1_500)
        call = asked.call()
        await asked.ask(plugin, call)
        attempt, said = await asked.attempt(call, size=size, bound=bound)
        if said is not None:
            refused += 1
            continue
        real = rng.randrange(1, size + bound)
        admitted.append((now, real))
        running.append((now + rng.choice([0, 1, 30, 90]), attempt, real))
        assert sum(tokens for _, tokens in admitted) <= limit
    assert 500 < refused < 3_500


async def test_a_call_without_a_bound_gets_one(asked: Any, time: FrozenClock) -> None:
    for settings, expected in (("", 16_384), ("default_max_tokens: 500", 500)):
        plugin = await asked.plugin("rate: [90000 tokens/minute]", settings)
        call = asked.call()
        await asked.ask(plugin, call)
        attempt, _ = await asked.attempt(call, bound=None)

        assert [clamp.tokens for clamp in attempt._proposals] == [expected]
        assert call.response_headers["x-ratelimit-remaining-tokens"] == str(90_000 - 164 - expected)


async def test_a_call_without_a_bound_makes_do_with_what_is_left(asked: Any, time: FrozenClock) -> None:
    plugin = await asked.plugin("rate: [3000 tokens/minute]")
    first, second, third = asked.call(), asked.call(), asked.call()
    for call in (first, second, third):
        await asked.ask(plugin, call)
    await asked.attempt(first, size=100, bound=500)
    attempt, said = await asked.attempt(second, size=100, bound=None)
    assert said is None
    assert [clamp.tokens for clamp in attempt._proposals] == [3_000 - 664 - 164]
    assert second.response_headers["x-ratelimit-remaining-tokens"] == "0"
    await asked.end_attempt(attempt, used=1_800)

    assert isinstance((await asked.attempt(third, size=100, bound=None))[1], Block)  # 372 are no answer


async def test_an_answer_is_made_to_fit_a_prompt_is_let_in_alone(asked: Any, time: FrozenClock) -> None:
    plugin = await asked.plugin("rate: [2000 tokens/minute, 100000 tokens/day]")
    call = asked.call(n=2)
    await asked.ask(plugin, call)
    attempt, said = await asked.attempt(call, size=500, bound=5_000)
    assert said is None
    assert [clamp.tokens for clamp in attempt._proposals] == [(2_000 - 500 - ALONE) // 2]
    await asked.end_attempt(attempt, used=10)

    large = asked.call()
    await asked.ask(plugin, large)
    assert (await asked.attempt(large, size=9_000, bound=100))[1] is not None  # the window is not empty
    time.advance(62)
    attempt, said = await asked.attempt(large, size=9_000, bound=100)
    assert said is None
    assert attempt._proposals == []
    await asked.end_attempt(attempt, used=2_300)
    assert large.response_headers["x-ratelimit-remaining-tokens"] == "0"


async def test_a_refused_call_was_no_request_and_a_retry_is_passed_over(
    asked: Any, time: FrozenClock
) -> None:
    plugin = await asked.plugin("rate: [10/minute, 1000 tokens/minute]")
    first, second = asked.call(), asked.call()
    await asked.ask(plugin, first)
    await asked.attempt(first, size=100, bound=500)
    assert isinstance((await asked.attempt(first, size=100, bound=500, number=2))[1], Skip)
    await asked.ask(plugin, second)
    assert second.response_headers["x-ratelimit-remaining-requests"] == "8"
    assert isinstance((await asked.attempt(second, size=100, bound=500))[1], Block)

    third = asked.call()
    await asked.ask(plugin, third)

    assert third.response_headers["x-ratelimit-remaining-requests"] == "8"


ENDINGS: list[tuple[dict[str, Any], int]] = [
    ({"used": 50}, 50),
    ({"used": 5_000}, 5_000),
    ({"used": None, "output_chars": 30}, 100 + 30),
    ({"used": None, "output_chars": 9_999}, 564),
    ({"used": 50, "outcome": "cancelled", "output_chars": 200}, 34 + 200),
    ({"used": 50, "status": 500}, 0),
    ({"used": 50, "sent": False}, 0),
]


@pytest.mark.parametrize(("how", "counts"), ENDINGS)
async def test_what_an_attempt_has_used(
    asked: Any, time: FrozenClock, how: dict[str, Any], counts: int
) -> None:
    """564 tokens are reserved; a report is the truth, without one each byte and character counts as one."""
    plugin = await asked.plugin("rate: [10000 tokens/minute]")
    call, after = asked.call(), asked.call()
    await asked.ask(plugin, call)
    attempt, _ = await asked.attempt(call, size=100, bound=400)
    await asked.end_attempt(attempt, **how)
    await asked.ask(plugin, after)
    await asked.attempt(after, size=100, bound=400)

    assert after.response_headers["x-ratelimit-remaining-tokens"] == str(10_000 - counts - 564)


async def test_malformed_usage_credits_nobody(asked: Any, time: FrozenClock) -> None:
    plugin = await asked.plugin("rate: [10000 tokens/minute]")
    call, after = asked.call(), asked.call()
    await asked.ask(plugin, call)
    attempt, _ = await asked.attempt(call, size=100, bound=400)
    await asked.end_attempt(attempt, used=-900_000, output_chars=5)
    await asked.ask(plugin, after)
    await asked.attempt(after, size=100, bound=400)

    assert after.response_headers["x-ratelimit-remaining-tokens"] == str(10_000 - 105 - 564)


@pytest.mark.parametrize("store", ["memory", "sqlite", "redis"])
async def test_a_report_beyond_all_measure_fills_the_window(
    asked: Any, tmp_path: Path, request: pytest.FixtureRequest, store: str
) -> None:
    """On every store; the attempt after it is refused, and in time let in again."""
    urls = {"memory": "memory://", "sqlite": f"sqlite:///{tmp_path / 'book.db'}"}
    opened = open_store(urls.get(store) or request.getfixturevalue("redis")[0])
    await opened.open()
    plugin = await asked.plugin("rate: [10000 tokens/second]", store=opened)
    call = asked.call()
    await asked.ask(plugin, call)
    attempt, _ = await asked.attempt(call, size=100, bound=400)
    await asked.end_attempt(attempt, used=3 * 2**70)
    refused = (await asked.attempt(call, size=100, bound=400))[1]
    await asyncio.sleep(1.1)
    again = (await asked.attempt(call, size=100, bound=400))[1]

    assert isinstance(refused, Block)
    assert again is None
    await plugin.close()
    await opened.close()


async def test_an_estimate_lets_more_in_and_clamps_nothing(asked: Any, time: FrozenClock) -> None:
    plugin = await asked.plugin("rate: [3000 tokens/minute]", "reserve: estimate")
    call = asked.call()
    await asked.ask(plugin, call)
    attempt, _ = await asked.attempt(call, size=4_000 - ALONE, bound=None)

    assert attempt._proposals == []
    assert call.response_headers["x-ratelimit-remaining-tokens"] == str(3_000 - 1_000 - 1_024)


async def test_pictures_count_when_they_are_reported(asked: Any, time: FrozenClock) -> None:
    plugin = await asked.plugin("rate: [1000 tokens/minute]")
    call = asked.call()
    await asked.ask(plugin, call)
    attempt, said = await asked.attempt(call, size=1_000_000, bound=100, unseen=("image_data",))
    assert said is None
    assert int(call.response_headers["x-ratelimit-remaining-tokens"]) > 700
    await asked.end_attempt(attempt, used=950)

    assert (await asked.attempt(call, size=100, bound=100, number=2))[1] is not None


async def test_operations_without_tokens_reserve_none(asked: Any, time: FrozenClock) -> None:
    plugin = await asked.plugin("rate: [100 tokens/minute]")
    count = asked.call(path="/v1/messages/count_tokens")
    await asked.ask(plugin, count)

    assert count.operation == "count_tokens"
    assert count._attempt_guards == []


async def test_headers_of_both_units_in_both_dialects(asked: Any, time: FrozenClock) -> None:
    plugin = await asked.plugin(
        "rate: [20/hour, 1000 tokens/minute]", "per_address: [5/minute, 900 tokens/minute]"
    )
    call = asked.call(path="/v1/messages", max_tokens=10)
    await asked.ask(plugin, call)
    await asked.attempt(call, size=100, bound=10)
    headers = call.response_headers

    assert headers["ratelimit-policy"] == (
        '"hour";q=20;w=3600, "minute-tokens";q=1000;qu="tokens";w=60, '
        '"address-minute";q=5;w=60, "address-minute-tokens";q=900;qu="tokens";w=60'
    )
    names = [item.partition(";")[0] for item in headers["ratelimit"].split(", ")]
    assert names == ['"hour"', '"address-minute"', '"minute-tokens"', '"address-minute-tokens"']
    assert headers["anthropic-ratelimit-requests-limit"] == "5"
    assert headers["anthropic-ratelimit-tokens-limit"] == "900"
    assert headers["anthropic-ratelimit-tokens-remaining"] == str(900 - 174)
    assert headers["anthropic-ratelimit-tokens-reset"].endswith("Z")


async def test_monitor_mode_reserves_refuses_and_tells_nothing(asked: Any, time: FrozenClock) -> None:
    plugin = await asked.plugin("rate: [600 tokens/minute]")
    for said in (None, Block):
        call = asked.call()
        assert await asked.ask(plugin, call, enforced=False) is None
        verdict = (await asked.attempt(call, size=100, bound=300))[1]
        assert verdict is None if said is None else isinstance(verdict, said)
        assert call.response_headers == {}
        assert call._attempt_guards[0].enforced is False


async def test_behind_the_gateway() -> None:
    async with FakeProvider() as sim:
        text = f"""
providers: {{openai: {{dialect: openai, base_url: "{sim.url}/v1"}}}}
tenants: {{anonymous: {{tier: free}}}}
tiers: {{free: {{rate: [50/hour, 1500 tokens/minute]}}}}
plugins: [{{use: rate_limit}}]
"""
        async with (
            gateway(text) as (url, _),
            aiohttp.ClientSession(headers={"authorization": "Bearer k"}) as client,
        ):

            async def post(**more: Any) -> tuple[int, Any, Any]:
                body = {"model": "gpt-4o", "messages": [{"role": "user", "content": "x"}], **more}
                async with client.post(f"{url}/v1/chat/completions", json=body) as reply:
                    return reply.status, reply.headers, await reply.text()

            left = 1_500
            for stream in (False, True, False):
                status, headers, _ = await post(max_tokens=300, stream=stream)
                assert status == 200
                if not stream:
                    assert int(headers["x-ratelimit-remaining-tokens"]) > left - 300
                left = int(headers["x-ratelimit-remaining-tokens"])
            assert sim.calls[0].json["max_tokens"] == 300
            status, _, _ = await post()
            assert status == 200
            bound = sim.calls[-1].json["max_completion_tokens"]
            assert 1_024 <= bound < left
            status, headers, text = await post(max_tokens=1_400)

            assert status == 429
            assert "1500 tokens/minute" in text
            assert 0 < int(headers["retry-after-ms"]) <= 60_000
            assert headers["x-ratelimit-remaining-requests"] == "46"
