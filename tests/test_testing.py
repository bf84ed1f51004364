"""What plugin authors are promised: the documented plugin and its documented tests run as they stand in the docs."""

import re
import subprocess
import sys
from pathlib import Path

import aiohttp
import pytest

from llmshield import clock
from llmshield.errors import PluginError, WireError
from llmshield.hookspecs import Plugin
from llmshield.testing import FakeProvider, FrozenClock, Lent, call, gateway, policy, read, run_hook

PAGE = Path(__file__).resolve().parent.parent / "docs" / "writing-plugins.md"
BLOCKS = dict(re.findall(r"```python\n# (.*?)\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL))


def write_documented(folder: Path) -> None:
    plugin = BLOCKS["no_competitors.py"] + BLOCKS["the rest of no_competitors.py"]
    (folder / "no_competitors.py").write_text(plugin, encoding="utf-8")
    (folder / "test_no_competitors.py").write_text(BLOCKS["test_no_competitors.py"], encoding="utf-8")


def test_the_documented_plugin_has_fewer_than_thirty_lines() -> None:
    assert len(BLOCKS["no_competitors.py"].strip().splitlines()) < 30


def test_the_documented_tests_pass(tmp_path: Path) -> None:
    write_documented(tmp_path)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-o",
        "asyncio_mode=auto",
        "-p",
        "no:cacheprovider",
        str(tmp_path),
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    assert 0 == done.returncode, done.stdout + done.stderr
    assert "3 passed" in done.stdout


async def test_the_documented_plugin_works_in_a_gateway(tmp_path: Path) -> None:
    write_documented(tmp_path)
    async with FakeProvider() as provider:
        given = policy(
            f"providers: {{p: {{dialect: openai, base_url: {provider.url}/v1}}}}\n"
            "plugins:\n  - use: ./no_competitors.py\n    with: {names: [Initech]}\n",
            base=tmp_path,
        )
        async with gateway(given) as (url, _), aiohttp.ClientSession() as http:
            body = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Buy from Initech?"}]}
            async with http.post(f"{url}/v1/chat/completions", json=body) as reply:
                error = (await reply.json())["error"]
                assert (400, "content_policy_violation") == (reply.status, error["code"])
            provider.say("Have you tried Initech?")
            body = {"model": "gpt-4o", "stream": True, "messages": [{"role": "user", "content": "Hello"}]}
            async with http.post(f"{url}/v1/chat/completions", json=body) as reply:
                assert "Initech" not in await reply.text()


async def test_a_frozen_clock_moves_when_told() -> None:
    with FrozenClock(1000.0) as time:
        before = clock.monotonic()
        await clock.sleep(30)
        time.step(-3600)

        assert 30 == clock.monotonic() - before
        assert 1000.0 + 30 - 3600 == clock.now()
    assert clock.now() > 1_700_000_000


def test_read_speaks_every_dialect() -> None:
    made = read(
        {"model": "c", "max_tokens": 5, "messages": [{"role": "user", "content": "hi"}]}, path="/v1/messages"
    )

    assert ("anthropic_messages", ["hi"]) == (made.dialect, [text.value for text in made.prompts("user")])
    with pytest.raises(WireError):
        read({}, path="/nothing")


async def test_wrong_hooks_and_missing_things_are_told() -> None:
    with pytest.raises(PluginError, match="no hook 'pre_reqest'"):
        await run_hook(Plugin(None), "pre_reqest", call("x"))
    with pytest.raises(PluginError, match="No FrozenClock"):
        Lent(1, "two").get(FrozenClock)
