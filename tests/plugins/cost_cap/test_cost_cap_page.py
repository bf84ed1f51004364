"""docs/budgets.md: its policies load, its commands run, its figures have the keys that there are."""

import asyncio
import json
import re
import shlex
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from llmshield.cli import build_app
from llmshield.stores import Labels, Line, open_store
from llmshield.testing import gateway, policy
from llmshield_plugins.cost_cap.caps import Caps

PAGE = (Path(__file__).parents[3] / "docs" / "budgets.md").read_text(encoding="utf-8")


def blocks(kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize("text", blocks("yaml"))
def test_its_policies_load(text: str) -> None:
    given = policy(text)
    settings: Any = given.plugins[0].settings

    assert Caps(given, settings.caps)
    assert given.tiers or settings.caps


COMMANDS = [line[2:] for block in blocks("console") for line in block.splitlines() if line.startswith("$ ")]


@pytest.mark.parametrize("command", COMMANDS)
def test_its_commands_run(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("policy.yaml").write_text(
        "version: 1\nserver: {store: 'sqlite:///llmshield.db'}\n"
        "providers: {mine: {dialect: openai, base_url: 'http://127.0.0.1:1/v1', prices: {input: 1, output: 2},"
        " models: {allow: [gpt-4o]}}}\nroutes: [{match: {any: true}, to: [mine]}]\n"
    )
    Path("prices.json").write_text('{"prices": []}')

    async def fill() -> None:
        store = open_store("sqlite:///llmshield.db")
        await store.open()
        await store.settle(
            "a", (Line("tenant=acme", "ever"),), 7, int(time.time() * 1000), Labels("acme", "p", "gpt-x")
        )
        await store.close()

    asyncio.run(fill())
    words = shlex.split(command.partition(" > ")[0], comments=True)
    assert words.pop(0) == "llmshield"
    ran = CliRunner().invoke(build_app(words[0]), words)

    assert ran.exit_code in ((0, 1) if words[:2] == ["prices", "diff"] else (0,)), ran.output
    assert "0.000000000007" in ran.stdout or words[0] == "prices"


def test_there_are_commands() -> None:
    assert len(COMMANDS) > 5


async def test_its_figures_have_the_keys_that_there_are() -> None:
    import aiohttp

    (shown,) = [json.loads(text) for text in blocks("json")]
    text = (
        "tenants: {acme: {tier: t}}\ntiers: {t: {rate: 100/hour, budget: 5 USD/24h, warn_at: 50%}}\n"
        "plugins: [{use: rate_limit}, {use: cost_cap, caps: [{limit: 1 USD/day}]}]"
    )
    async with gateway(text) as (_, admin), aiohttp.ClientSession() as client:
        async with client.get(admin + "/usage") as reply:
            found = await reply.json()
    there, here = shown["tenants"]["acme"], found["tenants"]["acme"]

    assert shown.keys() == found.keys()
    assert there.keys() == here.keys()
    assert there["budgets"][0].keys() == here["budgets"][0].keys()
    assert there["limits"][0].keys() == here["limits"][0].keys()
    assert there["remaining"].keys() == here["remaining"].keys()
