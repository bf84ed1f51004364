"""The certificate authority is replaced while calls go on: nobody is cut off who was given what each step hands out."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import os
import signal
import ssl
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

pytestmark = pytest.mark.asyncio(loop_scope="module")

PATH = ("api.openai.com", "/v1/chat/completions")


class Traffic:
    """A client that never stops calling, in turns over a connection that it keeps and over a new one."""

    def __init__(self, client: Any, body: Any, mount: Any, roots: str) -> None:
        self.outcomes: collections.Counter[Any] = collections.Counter()
        self.mount = mount
        self._of, self._body = client, body
        self._roots = ssl.create_default_context(cadata=roots)

    async def go(self) -> None:
        async with aiohttp.ClientSession() as kept:
            while True:
                await self._call(kept)
                async with aiohttp.ClientSession() as fresh:
                    await self._call(fresh)
                await asyncio.sleep(0.05)

    async def _call(self, session: aiohttp.ClientSession) -> None:
        try:
            # Below the proxy's own trust: what this client was given, and nothing else.
            async with self._of(session, Trusting(self.mount.proxy, self._roots))(*PATH, self._body) as reply:
                await reply.read()
                self.outcomes[reply.status] += 1
        except aiohttp.ClientConnectorCertificateError:
            self.outcomes["distrusts"] += 1
        except (aiohttp.ClientError, OSError) as error:
            self.outcomes[type(error).__name__] += 1

    async def more(self, times: int = 6) -> dict[Any, int]:
        """What so many further calls come to."""
        self.outcomes.clear()
        while self.outcomes.total() < times:
            await asyncio.sleep(0.01)
        return dict(self.outcomes)


class Trusting:
    """A run as a client with roots of its own sees it."""

    def __init__(self, proxy: str, roots: ssl.SSLContext) -> None:
        self.proxy, self.roots = proxy, roots


@contextlib.asynccontextmanager
async def going(*traffic: Traffic) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(each.go()) for each in traffic]
        yield
        for task in tasks:
            task.cancel()


async def shield(folder: Path, *words: str) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "llmshield", "egress", "ca", *words, "--ca", "ca", cwd=folder, stdout=-1, stderr=-1
    )  # fmt: skip
    out, err = await process.communicate()
    assert process.returncode == 0, (out + err).decode()


async def exported(folder: Path) -> str:
    """The roots that are handed out now."""
    await shield(folder, "export", "--dir", "public")
    return (folder / "public" / "ca.crt").read_text()


async def test_no_client_is_cut_off_between_the_steps(
    start: Any, provider: Any, chat: Any, client: Any
) -> None:
    """One client keeps the old root; one is given each export as the page on clients says. A stream that began before the
    switch ends whole in the old run while a new one takes the calls."""
    good = {200}
    async with start() as before:
        folder = before.log.parent
        old = Traffic(client, chat("hi"), before, await exported(folder))
        async with going(old):
            await shield(folder, "rotate", "--policy", "policy.yaml")
            both = await exported(folder)
            told = Traffic(client, chat("hi"), before, both)
            async with going(told):
                assert set(await old.more()) == set(await told.more()) == good, "made, and not used yet"
                await shield(folder, "rotate", "--switch")
                os.kill(before.children()["gateway"], signal.SIGKILL)
                await asyncio.sleep(0.1)
                await asyncio.to_thread(before.wait_healthy)
                await told.more(2)
                assert set(await old.more()) == set(await told.more()) == good, (
                    "a run signs with what it began with"
                )
                provider.sim.set(delay="100ms", tokens=90)
                async with aiohttp.ClientSession() as session:
                    async with client(session, before)(*PATH, chat("hi", stream=True)) as stream:
                        await stream.content.readany()
                        provider.sim.set(delay="0ms", tokens=5)
                        async with start(folder=folder) as after:
                            told.mount = old.mount = after
                            await old.more(4), await told.more(4)  # under way when they were led elsewhere
                            assert set(await told.more()) == good
                            assert set(await old.more()) == {"distrusts"}, "who was not given the new root"
                            before.process.terminate()
                            assert b"[DONE]" in await stream.read()
                            assert await asyncio.to_thread(before.process.wait, 40) == 0
                            await shield(folder, "rotate", "--finish")
                            new = Traffic(client, chat("hi"), after, await exported(folder))
                            async with going(new):
                                assert set(await new.more()) == set(await told.more()) == good

    assert both.count("BEGIN CERTIFICATE") == 2 * (folder / "public" / "ca.crt").read_text().count(
        "BEGIN CERT"
    )
    assert not (folder / "ca" / "previous").exists()
