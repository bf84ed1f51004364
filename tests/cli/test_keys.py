"""`llmshield keys` as a user runs it: what it prints and where, what it refuses, and what gateways make of it."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from typer.testing import CliRunner

from llmshield import client_keys
from llmshield.cli import build_app
from llmshield.errors import ShieldError
from llmshield.simulator import Simulator, SimulatorThread
from llmshield.testing import gateway, policy

LISTED = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"  # of "test"
POLICY = f"""version: 1
server: {{store: "STORE"}}
providers: {{p: {{dialect: openai, base_url: "URL/v1", api_key: env://PROVIDER_KEY}}}}
tenants: {{acme: {{tier: pro, keys: ["sha256:{LISTED}"]}}}}
tiers: {{pro: {{}}, free: {{}}}}
"""
CHAT = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hello"}]}


def written(tmp_path: Path, store: str = "", url: str = "http://127.0.0.1:9") -> Path:
    path = tmp_path / "policy.yaml"
    text = POLICY.replace("STORE", store or f"sqlite:///{tmp_path}/book.db").replace("URL", url)
    path.write_text(text)
    return path


def run(path: Path, *words: str) -> Any:
    first, *rest = words
    return CliRunner().invoke(build_app("keys"), ["keys", first, "--policy", str(path), *rest])


def listed(path: Path) -> dict[str, dict[str, Any]]:
    return {row["id"]: row for row in json.loads(run(path, "list", "--format", "json").stdout)}


def test_the_key_and_nothing_else_is_on_standard_output(tmp_path: Path) -> None:
    path = written(tmp_path)
    result = run(path, "create", "--tenant", "acme", "--expires", "90d", "--name", "ci")
    key = result.stdout.strip()

    assert 0 == result.exit_code
    assert client_keys.is_whole(key)
    assert key not in result.stderr
    row = listed(path)[client_keys.digest_of(key)[:12]]
    assert ("acme", "pro", "ci", "active", "store") == tuple(
        row[n] for n in ("tenant", "tier", "name", "state", "in")
    )
    assert row["expires"] > row["created"]
    assert key not in run(path, "list").stdout
    assert client_keys.digest_of(key) not in run(path, "list", "--format", "json").stdout


def test_as_json(tmp_path: Path) -> None:
    made = json.loads(
        run(written(tmp_path), "create", "--tenant", "new", "--tier", "free", "--format", "json").stdout
    )

    assert client_keys.digest_of(made["key"])[:12] == made["id"]
    assert ("new", "free", None) == (made["tenant"], made["tier"], made["expires"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--tenant", "new"), "--tier"),
        (("--tenant", "acme", "--tier", "gold"), "pro, free"),
        (("--tenant", "a b"), "letters"),
        (("--tenant", "acme\n"), "letters"),
        (("--tenant", "*"), "letters"),
        (("--tenant", "x" * 65), "letters"),
        (("--tenant", "acme", "--expires", "90"), "duration"),
        (("--tenant", "acme", "--expires", "0s"), "above zero"),
        (("--tenant", "acme", "--expires", "-1d"), "duration"),
        (("--tenant", "acme", "--expires", "10000d"), "366d"),
        (("--tenant", "acme", "--name", "a\x1b[31m"), "printable"),
        (("--tenant", "acme", "--name", "n" * 65), "printable"),
    ],
)
def test_wrong_usage(tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    path = written(tmp_path)
    result = run(path, "create", *words)

    assert 2 == result.exit_code
    assert said in result.stderr
    assert not [row for row in listed(path).values() if row["in"] == "store"]


@pytest.mark.parametrize(
    "id", ["", "*", "%", "' OR 1=1 --", "3f2a9c41d07", "ffffffffffff", "3F2A9C41D07E", "client_keys"]
)
def test_ids_that_are_none_revoke_nothing(tmp_path: Path, id: str) -> None:
    path = written(tmp_path)
    run(path, "create", "--tenant", "acme")
    result = run(path, "revoke", id)

    assert isinstance(result.exception, ShieldError)
    assert {"active"} == {row["state"] for row in listed(path).values()}


def test_revoking(tmp_path: Path) -> None:
    path = written(tmp_path)
    ids = [
        json.loads(run(path, "create", "--tenant", "acme", "--format", "json").stdout)["id"] for _ in range(3)
    ]
    first = run(path, "revoke", ids[1])
    again = run(path, "revoke", ids[1])

    assert (0, 0) == (first.exit_code, again.exit_code)
    states = [listed(path)[id]["state"] for id in ids]
    assert ["active", "revoked", "active"] == states


def test_a_key_of_the_policy_can_be_revoked_too(tmp_path: Path) -> None:
    path = written(tmp_path)
    result = run(path, "revoke", LISTED[:12])

    assert 0 == result.exit_code
    assert "delete it there too" in result.stderr
    assert ("revoked", "policy") == tuple(listed(path)[LISTED[:12]][name] for name in ("state", "in"))


def test_looking_makes_no_store(tmp_path: Path) -> None:
    path = written(tmp_path)

    assert [LISTED[:12]] == list(listed(path))
    assert not (tmp_path / "book.db").exists()


def test_memory_holds_no_keys_of_others(tmp_path: Path) -> None:
    result = run(written(tmp_path, "memory://"), "create", "--tenant", "acme")

    assert isinstance(result.exception, ShieldError)
    assert "sqlite:///" in str(result.exception)


@pytest.mark.parametrize(
    ("more", "said"),
    [("identify: ['header:x-t']\ntrusted_proxies: [127.0.0.1]\n", "virtual_key"), ("", "without a key")],
)
def test_policies_where_keys_mean_little_are_told(tmp_path: Path, more: str, said: str) -> None:
    path = written(tmp_path)
    text = "\n".join(line for line in path.read_text().splitlines() if not line.startswith("tenants"))
    path.write_text(f"{text}\n{more}")
    result = run(path, "create", "--tenant", "acme", "--tier", "pro")

    assert 0 == result.exit_code
    assert said in result.stderr


async def ask(url: str, key: str, **body: Any) -> int:
    async with aiohttp.ClientSession() as http:
        async with http.post(
            f"{url}/v1/chat/completions", json={**CHAT, **body}, headers={"x-api-key": key}
        ) as reply:
            await reply.read()
            return reply.status


async def test_a_running_gateway_knows_within_a_second(
    primary: Simulator, shared_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROVIDER_KEY", "sk-provider")
    path = written(tmp_path, shared_url, primary.url)
    async with gateway(policy(path.read_text())) as (url, _):
        made = await asyncio.to_thread(run, path, "create", "--tenant", "acme")
        key = made.stdout.strip()
        begun = time.monotonic()
        while await ask(url, key) != 200:
            assert time.monotonic() - begun < 1
            await asyncio.sleep(0.02)
        result = await asyncio.to_thread(run, path, "revoke", client_keys.digest_of(key)[:12])
        assert 0 == result.exit_code
        begun = time.monotonic()
        while await ask(url, key) != 401:
            assert time.monotonic() - begun < 1
            await asyncio.sleep(0.02)
        assert 401 == await ask(url, "test" * 3)
    async with gateway(policy(path.read_text())) as (url, _):  # after a restart
        assert 401 == await ask(url, key)
        assert 200 == await ask(url, "test")
    for call in primary.calls:
        assert key not in repr(call.headers)


async def test_a_stream_outlives_its_key_and_the_next_call_does_not(
    primary: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROVIDER_KEY", "sk-provider")
    path = written(tmp_path, url=primary.url)
    key = (await asyncio.to_thread(run, path, "create", "--tenant", "acme")).stdout.strip()
    text = "one two three four five six seven eight"
    body = {
        **CHAT,
        "stream": True,
        "messages": [{"role": "user", "content": f"[[simulate delay=0.1,tokens=20]] {text}"}],
    }
    async with gateway(policy(path.read_text())) as (url, _), aiohttp.ClientSession() as http:
        async with http.post(
            f"{url}/v1/chat/completions", json=body, headers={"authorization": f"Bearer {key}"}
        ) as reply:
            first = await reply.content.readline()
            await asyncio.to_thread(run, path, "revoke", client_keys.digest_of(key)[:12])
            await asyncio.sleep(0.7)
            assert 401 == await ask(url, key)
            rest = await reply.read()
    assert first.startswith(b"data: {")
    assert rest.endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize("kind", ["sqlite", pytest.param("redis", marks=pytest.mark.nightly)])
def test_several_gateways_in_processes_of_their_own(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Made and revoked by commands, seen by two `llmshield serve` that share the store."""
    shared_url = f"sqlite:///{tmp_path}/book.db"
    if kind == "redis":
        shared_url = f"{request.getfixturevalue('redis_url')}?prefix=k{time.monotonic_ns()}"
    with SimulatorThread(name="p") as sim:
        path = written(tmp_path, shared_url, sim.url)
        served = [
            subprocess.Popen(
                [sys.executable, "-m", "llmshield", "serve", "--policy", str(path), "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"],
                stderr=subprocess.PIPE, text=True, env={**os.environ, "PROVIDER_KEY": "sk-provider"},
            )
            for _ in range(2)
        ]  # fmt: skip
        try:
            urls = [_url(each) for each in served]
            key = run(path, "create", "--tenant", "acme").stdout.strip()
            for status in (200, 401):
                begun = time.monotonic()
                for url in urls:
                    while asyncio.run(ask(url, key)) != status:
                        assert time.monotonic() - begun < 1
                if status == 200:
                    run(path, "revoke", client_keys.digest_of(key)[:12])
        finally:
            for each in served:
                each.send_signal(signal.SIGTERM)
            for each in served:
                each.communicate(timeout=20)


def _url(process: "subprocess.Popen[str]") -> str:
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("llmshield serves "):
            return line.split()[2].rstrip(",")
    raise AssertionError("it did not start")
