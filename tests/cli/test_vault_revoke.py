"""`llmshield vault revoke` seen by gateways in processes of their own, in every client's words."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from typer.testing import CliRunner, Result

from llmshield.cli import build_app
from llmshield.simulator import SimulatorThread

KEY, BACKUP = "sk-CANARYprimary0001", "sk-CANARYbackup00002"
POLICY = """version: 1
server: {{store: "{store}", keys: {{lifetime: 1h}}}}
providers:
  openai: {{dialect: openai, base_url: "{url}/v1", api_key: "file://key"}}
  anthropic: {{dialect: anthropic, base_url: "{url}", api_key: "file://key"}}
  gemini: {{dialect: gemini, base_url: "{url}", api_key: "file://key"}}
  backup: {{dialect: openai, base_url: "{url}/v1", api_key: "file://backup"}}
routes:
  - {{match: {{model: "gpt-4o"}}, to: [openai]}}
  - {{match: {{model: "gpt-*"}}, to: [openai, backup]}}
  - {{match: {{model: "claude-*"}}, to: [anthropic]}}
  - {{match: {{model: "gemini-*"}}, to: [gemini]}}
plugins: [{{use: failover}}]
"""
MESSAGES = [{"role": "user", "content": "hello"}]
CALLS: dict[str, tuple[str, dict[str, Any]]] = {
    "openai": ("/v1/chat/completions", {"model": "gpt-4o", "messages": MESSAGES}),
    "anthropic": ("/v1/messages", {"model": "claude-sonnet-4-5", "max_tokens": 50, "messages": MESSAGES}),
    "gemini": (
        "/v1beta/models/gemini-2.5-flash:generateContent",
        {"contents": [{"parts": [{"text": "hello"}]}]},
    ),
}


def run(*words: str) -> Result:
    return CliRunner().invoke(build_app("vault"), ["vault", *words])


def ask(url: str, name: str, **changes: Any) -> tuple[int, Any]:
    path, body = CALLS[name]

    async def post() -> tuple[int, Any]:
        async with aiohttp.ClientSession() as http, http.post(url + path, json={**body, **changes}) as reply:
            return reply.status, await reply.json()

    return asyncio.run(post())


@pytest.fixture(params=["sqlite", pytest.param("redis", marks=pytest.mark.nightly)])
def served(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[list[str], Path, Any]]:
    """Two gateways over one store: their URLs, the policy, and the provider behind them."""
    store = f"sqlite:///{tmp_path}/book.db"
    if request.param == "redis":
        store = f"{request.getfixturevalue('redis_url')}?prefix=k{time.monotonic_ns()}"
    for name, key in (("key", KEY), ("backup", BACKUP)):
        (tmp_path / name).write_text(key)
    path = tmp_path / "policy.yaml"
    with SimulatorThread(name="p") as sim:
        path.write_text(POLICY.format(store=store, url=sim.url))
        processes = [
            subprocess.Popen(
                [sys.executable, "-m", "llmshield", "serve", "--policy", str(path), "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"],
                stderr=subprocess.PIPE, text=True, env={**os.environ},
            )
            for _ in range(2)
        ]  # fmt: skip
        try:
            yield [_url(each) for each in processes], path, sim
        finally:
            for each in processes:
                each.send_signal(signal.SIGTERM)
            for each in processes:
                each.communicate(timeout=30)


def _url(process: subprocess.Popen[str]) -> str:
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("llmshield serves "):
            return line.split()[2].rstrip(",")
    raise AssertionError("it did not start")


def test_revoked_everywhere_within_a_second(served: tuple[list[str], Path, Any]) -> None:
    urls, path, sim = served
    for url in urls:
        for name in CALLS:
            assert 200 == ask(url, name)[0]
    result = run("revoke", "openai", "--policy", str(path), "--reason", "it leaked")
    assert 0 == result.exit_code, result.output
    begun = time.monotonic()
    for url in urls:
        while ask(url, "openai")[0] == 200:
            assert time.monotonic() - begun < 1
    status, body = ask(urls[0], "openai")
    assert (503, "no_provider_available") == (status, body["error"]["code"])
    assert "The key of provider 'openai' was revoked" in body["error"]["message"]
    assert "CANARY" not in str(body)

    seen = len(sim.calls)
    for url in urls:  # a fallback is asked at once, with its own key, and nobody else is touched
        assert 200 == ask(url, "openai", model="gpt-4.1")[0]
        assert 200 == ask(url, "anthropic")[0]
    keys = {dict(call.headers).get("authorization", "") for call in sim.calls[seen:] if "chat" in call.path}
    assert {f"Bearer {BACKUP}"} == keys

    for name, code in (("anthropic", {503, 529}), ("gemini", {503})):
        assert 0 == run("revoke", name, "--policy", str(path)).exit_code
        begun = time.monotonic()
        while (answer := ask(urls[1], name))[0] == 200:
            assert time.monotonic() - begun < 1
        assert answer[0] in code
        assert f"provider '{name}' was revoked" in answer[1]["error"]["message"]

    (path.parent / "key").write_text("sk-CANARYsecond00003")  # replaced at the provider, then taken up again
    result = run("revoke", "openai", "--lift", "--policy", str(path))
    assert "taken up again" in result.stdout
    begun = time.monotonic()
    for url in urls:
        while ask(url, "openai")[0] != 200:
            assert time.monotonic() - begun < 5
    assert "Bearer sk-CANARYsecond00003" == dict(sim.calls[-1].headers)["authorization"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["revoke", "opnai", "--policy", "policy.yaml"], "no provider 'opnai'; did you mean 'openai'?"),
        (["revoke", "openai", "--store", "memory://"], "lives in the serving process only"),
        (["revoke", "openai", "--store", "nosuch://x"], "No store is called"),
    ],
)
def test_what_can_not_be_revoked(
    words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("policy.yaml").write_text(
        POLICY.format(store=f"sqlite:///{tmp_path}/b.db", url="http://127.0.0.1:9")
    )
    result = run(*words)

    assert 0 != result.exit_code
    assert said in f"{result.output}{result.exception}"


def test_lifting_what_was_not_revoked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = run("revoke", "openai", "--lift", "--store", f"sqlite:///{tmp_path}/b.db")

    assert 0 == result.exit_code
    assert "was not revoked" in result.stderr
