"""Idempotency-Key: a claim is renewed while its call is under way, and ends with the process that holds it."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from llmshield import idempotency
from llmshield.simulator import Simulator, SimulatorThread
from llmshield.testing import gateway


async def test_a_claim_that_nobody_renews_ends(
    primary: Simulator, store_url: str, monkeypatch: pytest.MonkeyPatch, post: Any, text_of: Any
) -> None:
    """A process that is gone neither renews nor closes: its key is free after the lease."""
    monkeypatch.setattr(idempotency, "LEASE_S", 0.4)
    close = idempotency.Claim.close

    async def gone(claim: Any, x: Any) -> None:
        claim._timer.cancel()
        claim._repeats._under_way.clear()

    monkeypatch.setattr(idempotency.Claim, "close", gone)
    async with gateway(text_of(store_url, primary.url)) as (url, _), aiohttp.ClientSession() as http:
        await post(http, url)
        monkeypatch.setattr(idempotency.Claim, "close", close)
        begun = time.monotonic()
        again = await post(http, url)

    assert (200, False) == (again.status, again.replayed)
    assert 0.1 < time.monotonic() - begun < 3
    assert 2 == len(primary.calls)


async def test_a_claim_is_renewed_while_its_call_is_under_way(
    primary: Simulator, store_url: str, monkeypatch: pytest.MonkeyPatch, post: Any, text_of: Any, body_of: Any
) -> None:
    monkeypatch.setattr(idempotency, "LEASE_S", 0.3)
    body = body_of("openai", "[[simulate ttft=0.6]] hello")
    text = text_of(store_url, primary.url)
    async with gateway(text) as (url, _), aiohttp.ClientSession() as http:
        answers = await asyncio.gather(post(http, url, body=body), post(http, url, body=body))

    assert 1 == len(primary.calls)
    assert answers[0].body == answers[1].body


def started(path: Path, code: str) -> "subprocess.Popen[str]":
    """`llmshield serve` in a process of its own, by this code."""
    return subprocess.Popen(
        [sys.executable, "-c", code, "serve", "--policy", str(path), "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"],
        stderr=subprocess.PIPE, text=True, env=dict(os.environ),
    )  # fmt: skip


def url_of(served: "subprocess.Popen[str]") -> str:
    assert served.stderr is not None
    return next(line.split()[2].rstrip(",") for line in served.stderr if line.startswith("llmshield serves "))


@pytest.mark.nightly
def test_sixty_four_at_once_over_four_processes_are_one(
    shared_url: str, tmp_path: Path, post: Any, text_of: Any, body_of: Any
) -> None:
    with SimulatorThread(name="p") as sim:
        path = tmp_path / "policy.yaml"
        path.write_text("version: 1\n" + text_of(shared_url, sim.url))
        served = [started(path, "from llmshield.cli import main; main()") for _ in range(4)]
        urls = [url_of(each) for each in served]
        bodies = [body_of("openai", f"[[simulate ttft=0.3]] hello {turn}") for turn in range(5)]

        async def run() -> None:
            async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
                for turn, body in enumerate(bodies):
                    answers = await asyncio.gather(
                        *(post(http, urls[n % 4], f"turn-{turn}", body=body) for n in range(64))
                    )
                    assert {(200, answers[0].body)} == {(each.status, each.body) for each in answers}
                    assert turn + 1 == len(sim.calls)

        asyncio.run(run())
        for each in served:
            each.send_signal(signal.SIGTERM)
        for each in served:
            each.communicate(timeout=30)


@pytest.mark.nightly
def test_a_crashed_process_blocks_its_key_no_longer_than_the_lease(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, post: Any, text_of: Any, body_of: Any
) -> None:
    """kill -9 while the provider is asked; the next call waits out what is left of the lease, and asks again."""
    monkeypatch.setattr(idempotency, "LEASE_S", 1.0)
    with SimulatorThread(name="p") as sim:
        path = tmp_path / "policy.yaml"
        store = f"sqlite:///{tmp_path}/book.db"
        path.write_text("version: 1\n" + text_of(store, sim.url))
        code = (
            "from llmshield import idempotency as i; i.LEASE_S = 1.0; from llmshield.cli import main; main()"
        )
        served = started(path, code)
        url = url_of(served)
        body = body_of("openai", "[[simulate ttft=3,first=1]] hello")

        async def run() -> Any:
            async with aiohttp.ClientSession() as http:
                lost = asyncio.create_task(post(http, url, body=body))
                while not sim.calls:
                    await asyncio.sleep(0.01)
                await asyncio.sleep(1.5)  # renewed meanwhile
                assert not lost.done()
                served.send_signal(signal.SIGKILL)
                with pytest.raises(aiohttp.ClientError):
                    await lost
                async with gateway(text_of(store, sim.url)) as (next_url, _):
                    return await post(http, next_url, body=body)

        answer = asyncio.run(run())
        served.communicate()

        assert (200, False) == (answer.status, answer.replayed)
        assert 2 == len(sim.calls)
