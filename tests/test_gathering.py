"""Routes that ask all targets for somebody to pick from, and questions of a plugin's own beside the call."""

import json
import re
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from llmshield.simulator import Received, Scripted, Simulator
from llmshield.testing import call, gateway, policy
from llmshield.verdicts import Target

PAGE = Path(__file__).resolve().parent.parent / "docs" / "writing-plugins.md"
BLOCKS = dict(re.findall(r"```python\n# (.*?)\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL))
BOTH = pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])


def made(folder: Path, sim: Simulator, plugin: str, before: str = "", more: str = "") -> Any:
    (folder / "mine.py").write_text(plugin)
    return policy(
        f"providers:\n"
        f"  small: {{dialect: openai, base_url: {sim.url}/v1, prices: {{input: 1, output: 4}}}}\n"
        f"  large: {{dialect: anthropic, base_url: {sim.url}, prices: {{input: 10, output: 40}}}}\n"
        f"routes:\n  - match: {{any: true}}\n    to: [small]\n"
        f"plugins:\n{before}  - {{use: ./mine.py, timeout: 3s}}\n  - {{use: cost_cap{more}}}\n  - use: failover\n"
        f"tenants: {{anonymous: {{tier: t}}}}\ntiers: {{t: {{budget: 5 USD/day}}}}\n"
        f"audit: {{sink: file://{folder}/audit.jsonl}}\n",
        base=folder,
    )


async def ask(url: str, text: str, *, stream: bool = False) -> tuple[int, Any, str]:
    body = {"model": "gpt-4o-mini", "stream": stream, "messages": [{"role": "user", "content": text}]}
    headers = {"authorization": "Bearer sk-client"}
    async with aiohttp.ClientSession(headers=headers) as http:
        async with http.post(f"{url}/v1/chat/completions", json=body) as reply:
            return reply.status, reply.headers, (await reply.read()).decode()


def record(folder: Path, which: int = -1) -> Any:
    """A record of a gateway that has stopped: until then it may still be in a queue."""
    lines = (folder / "audit.jsonl").read_text().splitlines()
    return [found for line in lines if "request_id" in (found := json.loads(line))][which]


def classifier(received: Received) -> Scripted | None:
    if b"Is this about law?" not in received.body:
        return None
    return Scripted(text="Yes." if b"sue" in received.body else "No.", usage=(20, 1))


@BOTH
async def test_the_documented_plugin_asks_and_routes(
    tmp_path: Path, primary: Simulator, streamed: bool
) -> None:
    primary.provider.reply = classifier
    async with gateway(made(tmp_path, primary, BLOCKS["by_topic.py"])) as (url, _):
        _, law, data = await ask(url, "May I sue them?", stream=streamed)
        _, other, _ = await ask(url, "What is a fish?", stream=streamed)
    told = record(tmp_path, 0)

    assert ("large", "small") == (law["x-llmshield-provider"], other["x-llmshield-provider"])
    assert "primary" in data or streamed
    assert "law" == told["route_why"]
    assert [("small", "ok"), ("large", "ok")] == [
        (each["provider"], each["outcome"]) for each in told["attempts"]
    ]
    assert "0.000024000000" == told["attempts"][0]["cost_usd"]
    question, answer = primary.calls[:2]
    assert (5, None) == (question.json["max_tokens"] if "max_tokens" in question.json else question.json["max_completion_tokens"], question.key)  # fmt: skip
    assert not question.stream
    assert streamed == answer.stream


async def test_what_is_asked_aside_holds_no_value_that_is_replaced(
    tmp_path: Path, primary: Simulator
) -> None:
    pii = '  - {use: pii, entities: {"EMAIL_ADDRESS": {action: replace}}, restore: true}\n'
    primary.provider.reply = classifier
    async with gateway(made(tmp_path, primary, BLOCKS["by_topic.py"], pii)) as (url, _):
        await ask(url, "May I sue mia.wong@example.com?")

    assert 2 == len(primary.calls)
    assert all(b"mia.wong" not in received.body for received in primary.calls)


@pytest.mark.parametrize("trouble", ["503", "drop", "budget"])
async def test_a_question_that_fails_is_the_plugins_to_handle(
    tmp_path: Path, primary: Simulator, trouble: str
) -> None:
    def reply(received: Received) -> Scripted | None:
        asked = classifier(received)
        return Scripted(simulate=f"fault={trouble}") if asked is not None else None

    if trouble != "budget":
        primary.provider.reply = reply
    # A guard that refuses whatever bounds its answer to five tokens: the question, never the call.
    plugin = BLOCKS["by_topic.py"] + (
        """

    def pre_request(self, call):
        from llmshield.verdicts import Block

        call.guard_attempt(lambda attempt: Block("no", "budget_spent") if attempt.output_bound == 5 else None)
"""
        if trouble == "budget"
        else ""
    )
    async with gateway(made(tmp_path, primary, plugin)) as (url, _):
        status, headers, _ = await ask(url, "May I sue them?")

    assert (200, "small") == (status, headers["x-llmshield-provider"])
    outcomes = [each["outcome"] for each in record(tmp_path)["attempts"]]
    assert ["blocked" if trouble == "budget" else "failed", "ok"] == outcomes


EARLY = """
from llmshield.hookspecs import Plugin
from llmshield.verdicts import Target
class Early(Plugin):
    async def pre_request(self, call):
        try:
            await call.ask(Target("small"), "hello")
        except RuntimeError:
            call.report("early", "flag")
"""


async def test_before_every_guard_hangs_nobody_can_be_asked(tmp_path: Path, primary: Simulator) -> None:
    async with gateway(made(tmp_path, primary, EARLY)) as (url, _):
        assert 200 == (await ask(url, "hello"))[0]

    assert 1 == len(primary.calls)
    assert "early" in json.dumps(record(tmp_path)["verdicts"])
    with pytest.raises(RuntimeError):
        await call("x").ask(Target("small"), "hello")


PICKS = """
from llmshield.hookspecs import Plugin
from llmshield.verdicts import Route, Target
class Picks(Plugin):
    def choose_provider(self, call, route):
        async def pick(candidates):
            {body}
        return Route((Target("small", "one"), Target("large", "two")), mode="all", why="both", pick=pick)
"""


@BOTH
@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("return [next(n for n, c in enumerate(candidates) if c.target.provider == 'large')]", "two"),
        ("return []", "one"),  # no choice: the first
        ("return [9, -1]", "one"),
        ("raise ValueError('a bug')", None),
    ],
    ids=["one", "none", "nonsense", "a bug"],
)
async def test_whoever_picks(tmp_path: Path, primary: Simulator, streamed: bool, body: str, expected: str | None) -> None:  # fmt: skip
    primary.provider.reply = lambda received: Scripted(text=f"{received.model}")
    async with gateway(made(tmp_path, primary, PICKS.format(body=body))) as (url, _):
        status, _, data = await ask(url, "hello", stream=streamed)

    assert (200 if expected else 500) == status
    assert 2 == len(primary.calls)
    assert {None} == {received.key for received in primary.calls}  # the client's own key is nobody's here
    if expected:
        assert f'"{expected}"' in data
    outcomes = {each["outcome"] for each in record(tmp_path)["attempts"]}
    assert {"ok"} == outcomes
    assert all(float(each["cost_usd"]) > 0 for each in record(tmp_path)["attempts"])
