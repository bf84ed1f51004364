"""bots: what is flagged and refused, and above all what is not."""

from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import aiohttp
import pytest

from llmshield.errors import PolicyError
from llmshield.metrics import Metrics
from llmshield.testing import FakeProvider, FrozenClock, HookRun, Lent, gateway, policy, read, run_hook
from llmshield_plugins.bots import Bots
from llmshield_plugins.bots.history import MOST, Histories, _Series

CHROME = (
    "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36"
)
PERSON = {
    "user-agent": CHROME,
    "accept-language": "de",
    "sec-fetch-site": "same-origin",
    "origin": "https://a.b",
}
SDK = {"user-agent": "AsyncOpenAI/Python 3.51.0", "x-stainless-lang": "python"}
CURL = {"user-agent": "curl/8.5.0"}
SCRAPER = {"user-agent": "Scrapy/2.12"}

Make = Callable[..., Awaitable[Bots]]


@pytest.fixture
def time() -> Iterator[FrozenClock]:
    with FrozenClock() as frozen:
        yield frozen


@pytest.fixture
def make(time: FrozenClock) -> Make:
    async def build(settings: str = "") -> Bots:
        given = policy(f"plugins: [{{use: bots{settings}}}]")
        entry = given.plugins[0]
        plugin = entry.plugin(entry.settings)
        assert isinstance(plugin, Bots)
        plugin.name = "bots"
        await plugin.start(Lent(given, Metrics()))
        return plugin

    return build


async def ask(
    plugin: Bots, headers: dict[str, str], text: str = "hello", client: str = "192.0.2.1", **more: Any
) -> HookRun:
    call = read({"model": "gpt-4o", "messages": [{"role": "user", "content": text}], **more}, headers=headers)
    call.client = client
    return await run_hook(plugin, "pre_request", call)


async def burst(
    plugin: Bots, time: FrozenClock, headers: dict[str, str], *, count: int = 12, gap: float = 0.1,
    text: str = "hello {}", **more: Any,
) -> HookRun:  # fmt: skip
    """So many calls, the last one's run."""
    for index in range(count):
        said = await ask(plugin, headers, text.format(index), **more)
        time.advance(gap)
    return said


# settings, headers, text, gap: action and signals of the twelfth call
CASES: list[tuple[str, dict[str, str], str, float, str, set[str]]] = [
    ("", PERSON, "hello", 5.0, "allow", set()),
    ("", PERSON, "hello", 0.1, "allow", set()),
    ("", PERSON, "item {}", 5.0, "flag", {"sequential"}),
    ("", PERSON, "item {}", 0.1, "flag", {"fast", "sequential"}),
    ("", SDK, "item {}", 0.01, "allow", set()),
    ("", CURL, "hello", 0.1, "allow", set()),
    ("", CURL, "item {}", 0.1, "flag", {"fast", "sequential"}),
    ("", SCRAPER, "hello", 5.0, "flag", {"user_agent"}),
    ("", SCRAPER, "item {}", 0.1, "block", {"user_agent", "fast", "sequential"}),
    ("", {}, "hello", 5.0, "allow", set()),
    ("", {}, "item {}", 5.0, "flag", {"user_agent", "sequential"}),
    (", browser: true", PERSON, "hello", 5.0, "allow", set()),
    (", browser: true", PERSON, "hello", 0.1, "allow", set()),
    (
        ", browser: true",
        {"user-agent": CHROME, "accept-language": "de", "origin": "x"},
        "hello",
        5.0,
        "allow",
        set(),
    ),
    (", browser: true", {"user-agent": CHROME}, "hello", 5.0, "flag", {"browser"}),
    (", browser: true", SDK, "hello", 5.0, "block", {"user_agent", "browser"}),
    (", browser: true", CURL, "hello", 5.0, "block", {"user_agent", "browser"}),
    (", browser: true", {**PERSON, "user-agent": "acme-mobile/4"}, "hello", 5.0, "allow", set()),
    (", browser: true, allow_user_agents: ['curl/*']", CURL, "item {}", 0.1, "allow", set()),
    (", user_agents: ['*acme*']", {"user-agent": "ACME-thing/1"}, "hello", 5.0, "flag", {"user_agent"}),
    (", user_agents: ['*python*']", SDK, "hello", 5.0, "flag", {"user_agent"}),
    (", block_at: 0.7", SCRAPER, "hello", 5.0, "block", {"user_agent"}),
    (", weights: {user_agent: 0}", SCRAPER, "hello", 0.1, "allow", set()),
    (", calls: 50", CURL, "item {}", 0.1, "allow", set()),
    (", gap: 50ms", CURL, "item {}", 0.1, "flag", {"sequential"}),
]


@pytest.mark.parametrize(("settings", "headers", "text", "gap", "action", "signals"), CASES)
async def test_the_twelfth_call(
    make: Make, time: FrozenClock, settings: str, headers: dict[str, str], text: str, gap: float, action: str,
    signals: set[str],
) -> None:  # fmt: skip
    said = await burst(await make(settings), time, headers, gap=gap, text=text)

    assert said.action == action
    assert {finding.type for finding in said.findings} == signals
    assert {finding.action for finding in said.findings} <= {action}


async def test_the_refusal_names_the_signals_and_nothing_else(make: Make, time: FrozenClock) -> None:
    said = await burst(await make(), time, SCRAPER, text="secret {}")

    assert said.verdict.kind == "forbidden"
    assert (
        said.verdict.message
        == "This call looks automated (fast, sequential, user_agent) and is refused by policy 'bots'."
    )
    assert said.findings[0].score == 0.94


async def test_a_page_that_asks_several_things_at_once_is_no_burst(make: Make, time: FrozenClock) -> None:
    plugin = await make(", browser: true, flag_at: 0.3")
    for _ in range(20):
        for _ in range(4):
            assert (await ask(plugin, PERSON)).action == "allow"
            time.advance(0.05)
        time.advance(2)


async def test_a_silent_caller_is_forgotten(make: Make, time: FrozenClock) -> None:
    plugin = await make(", flag_at: 0.5, memory: 1m")
    assert (await burst(plugin, time, CURL)).action == "flag"
    time.advance(61)

    assert (await ask(plugin, CURL, "hello 13")).action == "allow"


async def test_callers_are_told_apart(make: Make, time: FrozenClock) -> None:
    """By address (an IPv6 one by its /64) and tenant: what one does is not held against another."""
    plugin = await make(", flag_at: 0.5")
    for index in range(12):
        said = await ask(plugin, CURL, f"item {index}", client=f"192.0.2.{index}")
        assert said.action == "allow"
        same = await ask(plugin, CURL, f"item {index}", client=f"2001:db8::{index}")
        time.advance(0.1)

    assert same.action == "flag"


async def test_users_and_request_ids_that_count_are_a_sequence(make: Make, time: FrozenClock) -> None:
    plugin = await make()
    for index in range(12):
        by_user = await ask(
            plugin, CURL, f"{'x' * index} text", user=f"user-{1000 - index}", client="1.1.1.1"
        )
        by_id = await ask(plugin, {**CURL, "x-request-id": str(index)}, "x" * index, client="2.2.2.2")
        time.advance(5)

    assert [finding.type for finding in by_user.findings] == ["sequential"]
    assert [finding.type for finding in by_id.findings] == ["sequential"]


SEQUENCES: list[tuple[list[str], int]] = [
    (["a 1", "a 2", "a 3", "a 9"], 4),
    (["a 9", "a 7", "a 3"], 3),
    (["a 1", "a 2", "a 1", "a 2"], 2),
    (["a 1", "b 2", "c 3"], 1),
    (["a 1", "a 1", "a 1"], 1),
    (["page 1 of 5", "page 2 of 5", "page 3 of 5"], 3),
    (["1 and 1", "2 and 2", "3 and 3"], 1),
    (["no number", "no number"], 0),
    (["a 1", "a 2", "b 3", "a 4", "a 5", "a 6"], 3),
    ([f"a {10**14 + index}" for index in range(4)], 4),
]  # fmt: skip


@pytest.mark.parametrize(("texts", "run"), SEQUENCES)
def test_sequences(texts: list[str], run: int) -> None:
    series = _Series()

    assert [series.add(text) for text in texts][-1] == run


def test_the_memory_is_bounded_and_keeps_no_text() -> None:
    histories = Histories(gap_s=0.5, calls=10, memory_s=600)
    for index in range(MOST + 500):
        histories.of(f"caller {index}", 1.0)
    history = histories.of("caller 1", 2.0)
    call = read({"model": "m", "messages": [{"role": "user", "content": "my secret 12"}]})
    history.sequential(call)
    kept = [getattr(series, slot) for series in history._series.values() for slot in series.__slots__]

    assert len(histories) == MOST
    assert not any(isinstance(value, str) for value in kept)


async def test_operations_that_clients_call_by_themselves_are_not_judged(make: Make) -> None:
    plugin = await make(", flag_at: 0.1, block_at: 0.1")
    call = read({"model": "claude", "messages": []}, path="/v1/messages/count_tokens", headers=SCRAPER)

    assert (await run_hook(plugin, "pre_request", call)).action == "allow"


def test_thresholds_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(PolicyError, match="is above block_at"):
        policy("plugins: [{use: bots, flag_at: 0.9, block_at: 0.5}]")


async def test_behind_the_gateway() -> None:
    async with FakeProvider() as sim:
        text = f"""
providers: {{openai: {{dialect: openai, base_url: "{sim.url}/v1"}}}}
plugins: [{{use: bots, browser: true}}]
"""
        async with (
            gateway(text) as (url, _),
            aiohttp.ClientSession(headers={"authorization": "Bearer k"}) as client,
        ):
            statuses = []
            for headers in (PERSON, CURL):
                body = {"model": "gpt-4o", "messages": [{"role": "user", "content": "x"}]}
                async with client.post(f"{url}/v1/chat/completions", json=body, headers=headers) as reply:
                    statuses.append(reply.status)
                    told = await reply.text()

            assert statuses == [200, 403]
            assert "looks automated (user_agent, browser)" in told
            assert len(sim.calls) == 1
