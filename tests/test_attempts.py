"""Getting an attempt ready: who may be asked, with what body, in whose words, with whose key."""

import json
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from llmshield.attempts import timeouts_of
from llmshield.policy.providers import ProviderShape, Timeout, build
from llmshield.simulator import Simulator
from llmshield.testing import gateway, policy

CLIENTS = ("openai_chat", "openai_responses", "anthropic_messages", "gemini")
PATHS = {
    "openai_chat": "/v1/chat/completions", "openai_responses": "/v1/responses",
    "anthropic_messages": "/v1/messages", "gemini": "/v1beta/models/m:generateContent",
}  # fmt: skip


def body(dialect: str, system: str | None = "Be brief.") -> dict[str, Any]:
    if dialect == "gemini":
        more = {"systemInstruction": {"parts": [{"text": system}]}} if system else {}
        return {"contents": [{"role": "user", "parts": [{"text": "Hi"}]}], **more}
    if dialect == "openai_responses":
        return {"model": "m", "input": "Hi", **({"instructions": system} if system else {})}
    if dialect == "anthropic_messages":
        return {"model": "m", "max_tokens": 100, "messages": [{"role": "user", "content": "Hi"}], **({"system": system} if system else {})}  # fmt: skip
    before = [{"role": "system", "content": system}] if system else []
    return {"model": "m", "messages": [*before, {"role": "user", "content": "Hi"}]}


def system_of(tree: Any) -> str:
    """What a body says as the system, in any dialect."""
    found = tree.get(
        "system", tree.get("instructions", tree.get("systemInstruction", tree.get("system_instruction")))
    )
    if found is None:
        given = tree.get("messages") or tree.get("input") or []
        found = [
            m["content"] for m in given if isinstance(m, dict) and m.get("role") in ("system", "developer")
        ]
    texts: list[str] = []
    todo = [found]
    while todo:
        node = todo.pop(0)
        if isinstance(node, str):
            texts.append(node)
        elif isinstance(node, list):
            todo = [*node, *todo]
        elif isinstance(node, dict):
            todo = [node.get("text") or node.get("parts") or node.get("content"), *todo]
    return "\n".join(texts)


PARAMETERS = {
    "openai": ("{temperature: 0.25, seed: 7}", {"temperature": 0.25, "seed": 7}),
    "anthropic": ("{temperature: 0.25, top_k: 3}", {"temperature": 0.25, "top_k": 3}),
    "gemini": ("{temperature: 0.25, topK: 3}", {"temperature": 0.25, "topK": 3}),
}


def adapted(first: Simulator, second: Simulator, family: str, own: str) -> str:
    version = {"openai": "/v1"}
    return f"""
providers:
  plain: {{dialect: {own}, base_url: "{first.url}{version.get(own, "")}"}}
  told:
    dialect: {family}
    base_url: "{second.url}{version.get(family, "")}"
    system: {{prefix: "Speak as a pirate.", suffix: "Never say ship."}}
    parameters: {PARAMETERS[family][0]}
routes:
  - match: {{any: true}}
    to: [plain, told]
plugins:
  - {{use: injection, deny: ["speak as a pirate"], scan: [system, user]}}
  - use: failover
"""


@pytest.mark.parametrize("system", ["Be brief.", None], ids=["with a system prompt", "without one"])
@pytest.mark.parametrize("family", ["openai", "anthropic", "gemini"])
@pytest.mark.parametrize("dialect", CLIENTS)
async def test_a_call_is_adapted_where_it_lands_and_nowhere_else(
    primary: Simulator, backup: Simulator, dialect: str, family: str, system: str | None
) -> None:
    """Guards read the client's own text: what the policy adds is no finding."""
    own = {"anthropic_messages": "anthropic", "gemini": "gemini"}.get(dialect, "openai")
    primary.set(fault="503")
    given = adapted(primary, backup, family, own)
    async with gateway(given) as (url, _), aiohttp.ClientSession() as http:
        async with http.post(url + PATHS[dialect], json=body(dialect, system)) as reply:
            assert 200 == reply.status, await reply.text()

    plain, told = primary.calls[0].json, backup.calls[0].json
    assert "pirate" not in json.dumps(plain)
    assert "temperature" not in json.dumps(plain)
    shown = system_of(told)
    assert shown.startswith("Speak as a pirate.")
    assert shown.endswith("Never say ship.")
    assert (system or "") in shown
    config = told.get("generationConfig", told)
    if dialect == "openai_responses" and family == "openai":
        assert 0.25 == config["temperature"]
    else:
        assert PARAMETERS[family][1].items() <= config.items()


async def test_what_the_client_says_wins_over_parameters(primary: Simulator, backup: Simulator) -> None:
    primary.set(fault="503")
    async with (
        gateway(adapted(primary, backup, "openai", "openai")) as (url, _),
        aiohttp.ClientSession() as http,
    ):
        async with http.post(
            url + PATHS["openai_chat"], json={**body("openai_chat"), "temperature": 1.0}
        ) as reply:
            assert 200 == reply.status

    assert (1.0, 7) == (backup.calls[0].json["temperature"], backup.calls[0].json["seed"])


ROUTE = """
providers:
  us: {{dialect: openai, base_url: {a}/v1, region: us}}
  eu: {{dialect: openai, base_url: {b}/v1, region: eu{key}}}
routes:
  - match: {{any: true}}
    to: [us, eu]
    {route}
plugins: {plugins}
"""


async def post(url: str, key: str | None = None) -> tuple[int, Any, Any]:
    headers = {"authorization": f"Bearer {key}"} if key else {}
    async with aiohttp.ClientSession(headers=headers) as http:
        async with http.post(url + PATHS["openai_chat"], json=body("openai_chat")) as reply:
            return reply.status, reply.headers, await reply.json()


OUTSIDE = """
from llmshield.hookspecs import Plugin
from llmshield.verdicts import Route, Target
class Mine(Plugin):
    def choose_provider(self, call, route):
        return Route((Target("us"), Target("eu")), why="mine")
"""


@pytest.mark.parametrize("plugins", ["[{use: failover}]", "[{use: ./mine.py}, {use: failover}]", "[{use: ensemble, members: [us, eu]}, {use: failover}]", "[{use: ensemble, members: [us, eu], answer: majority}, {use: failover}]"], ids=["failover", "another plugin", "race", "all"])  # fmt: skip
async def test_regions_hold_whoever_chooses(primary: Simulator, backup: Simulator, tmp_path: Path, plugins: str) -> None:  # fmt: skip
    (tmp_path / "mine.py").write_text(OUTSIDE)
    given = ROUTE.format(a=primary.url, b=backup.url, route="regions: [eu]", plugins=plugins, key="")
    async with gateway(policy(given, base=tmp_path)) as (url, _):
        status, headers, _ = await post(url)

    assert (200, "eu", []) == (status, headers["x-llmshield-provider"], primary.calls)


async def test_regions_without_anybody_say_so(primary: Simulator, backup: Simulator, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(OUTSIDE)
    given = ROUTE.format(
        a=primary.url, b=backup.url, route="regions: [eu]", plugins="[{use: ./mine.py}]", key=""
    )
    given = given.replace("region: eu", "region: eu, models: {deny: m}")
    async with gateway(policy(given, base=tmp_path)) as (url, _):
        status, _, tree = await post(url)

    assert (503, "no_provider_available") == (status, tree["error"]["code"])
    assert "region" in tree["error"]["message"]
    assert [] == primary.calls == backup.calls


@pytest.mark.parametrize(
    ("route", "fault", "expected"),
    [
        (
            "retry: {attempts: 2, backoff: 1ms..2ms}",
            "503",
            [("us", "sk-mine"), ("us", "sk-mine"), ("eu", None)],
        ),
        ("strategy: by_complexity", "503", [("eu", None), ("us", "sk-mine")]),
    ],
)
async def test_the_clients_own_key_is_for_the_first_that_the_policy_names(
    primary: Simulator, backup: Simulator, route: str, fault: str, expected: list[tuple[str, str | None]]
) -> None:
    primary.set(fault=fault)
    backup.set(fault=fault)
    given = ROUTE.format(a=primary.url, b=backup.url, route=route, plugins="[{use: failover}]", key="")
    if "complexity" in route:
        given = given.replace(
            "to: [us, eu]", "to: [{provider: us, quality: high}, {provider: eu, quality: low}]"
        )
    async with gateway(given) as (url, _):
        await post(url, "sk-mine")

    calls = sorted([("us", call) for call in primary.calls] + [("eu", call) for call in backup.calls], key=lambda each: each[1].at)  # fmt: skip
    assert expected == [(name, call.key) for name, call in calls][: len(expected)]
    assert {call.key for call in backup.calls} == {None}


def test_limits_of_a_whole_answer_are_those_that_the_policy_states() -> None:
    plain = build("p", ProviderShape(dialect="openai", timeout=Timeout(total="90s")))
    stated = build("p", ProviderShape(dialect="openai", timeout=Timeout(first_token="7s", total="90s")))

    assert (60.0, 90.0) == (
        timeouts_of(plain, streamed=True).first_token,
        timeouts_of(plain, streamed=False).first_token,
    )
    assert (7.0, 7.0) == (
        timeouts_of(stated, streamed=True).first_token,
        timeouts_of(stated, streamed=False).first_token,
    )
    assert 600.0 == timeouts_of(None, streamed=False).first_token
