"""Hosts that the policy does not list, and ways round it."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import aiohttp
import pytest

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_other_hosts_pass_undecrypted(mount: Any, provider: Any, curl: Any) -> None:
    """The client sees the other end's own certificate; here the name is an address of this machine."""
    to = f"localhost:{provider.port}"
    status, out = await curl(mount, "-k", "-v", "-H", "host: localhost", f"https://{to}/v1/models")

    assert status == 0, out
    assert "root of the providers" in out
    assert "llmshield" not in out.lower().replace("x-llmshield", "")


@pytest.mark.parametrize("extra", ["  unlisted: block\n", "  on_no_sni: block\n"])
async def test_what_the_policy_blocks(start: Any, provider: Any, extra: str, curl: Any) -> None:
    host = "localhost" if "unlisted" in extra else "127.0.0.1"  # by an address, curl sends no SNI
    async with start(extra=extra) as mount:
        status, _ = await curl(mount, "-k", f"https://{host}:{provider.port}/v1/models")
        plain, out = await curl(mount, f"http://localhost:{provider.plain}/v1/models")

    assert status != 0
    assert (plain, "forbidden" in out) == (0, "unlisted" in extra)
    assert provider.bytes == 0


async def test_plain_http_to_a_listed_host_obeys_the_policy(
    mount: Any, provider: Any, chat: Any, curl: Any
) -> None:
    said = ("-H", "content-type: application/json", "-d")
    good = await curl(mount, "http://api.openai.com/v1/chat/completions", *said, json.dumps(chat("tide")))
    bad = await curl(mount, "http://api.openai.com/v1/chat/completions", *said, json.dumps(chat("raise")))

    assert "You said: tide" in good[1]
    assert "policy_unavailable" in bad[1]
    assert len(provider.sim.calls) == 1


async def test_socks(start: Any, provider: Any, chat: Any, curl: Any) -> None:
    said = ("-H", "content-type: application/json", "-d")
    async with start("--mode", "socks5") as mount:
        proxy = ("-x", mount.proxy.replace("http:", "socks5h:"))
        url = "https://api.openai.com/v1/chat/completions"
        good = await curl(mount, *proxy, url, *said, json.dumps(chat("tide")))
        bad = await curl(mount, *proxy, url, *said, json.dumps(chat("raise")))
        closed = await curl(mount, *proxy, "-k", "https://169.254.169.254/")

    assert "You said: tide" in good[1]
    assert "policy_unavailable" in bad[1]
    assert closed[0] != 0
    assert len(provider.sim.calls) == 1


@pytest.mark.parametrize(
    "url", ["https://169.254.169.254/", "https://localhost:22/", "https://localhost:25/", "ADMIN"]
)
async def test_where_nobody_is_connected_to(mount: Any, url: str, curl: Any) -> None:
    status, out = await curl(mount, "-k", url.replace("ADMIN", mount.admin.replace("http:", "https:")))

    assert status == 56
    assert "403" in out


async def test_what_passes_is_counted_and_logged(start: Any, provider: Any, curl: Any) -> None:
    """TLS, HTTP and whatever else; a Host header is no way onto a terminal."""
    async with start(extra="  unlisted: log\n") as mount:
        tls = await curl(mount, "-k", f"https://localhost:{provider.port}/v1/models")
        plain = await curl(mount, "-H", "host: a\x1b[31mb", f"http://localhost:{provider.plain}/v1/models")
        reader, writer = await asyncio.open_connection("127.0.0.1", int(mount.proxy.rpartition(":")[2]))
        writer.write(f"CONNECT localhost:{provider.plain} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode())
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"\x00neither of them\r\n\r\n")
        await reader.read(100)
        writer.close()
        await asyncio.sleep(1.5)  # counts are told once a second
        async with aiohttp.ClientSession() as session, session.get(f"{mount.admin}/metrics") as reply:
            metrics = await reply.text()
    log = mount.log.read_text()

    assert (tls[0], plain[0]) == (0, 0)
    assert 'how="passed",host="localhost"} 2' in metrics
    assert 'how="passed",host="a?[31mb"} 1' in metrics
    assert log.count("passes unguarded to localhost") == 2
    assert "passes unguarded to a?[31mb" in log


async def test_services_of_this_machine_are_closed(start: Any, provider: Any, curl: Any) -> None:
    """Unless the policy opens them: by address, by name, by a spelling that only the resolver knows; TLS and plain."""
    async with start(loopback="block") as mount:
        listed = await curl(mount, "https://api.openai.com/v1/models")
        found = [
            await curl(mount, "-k", f"{scheme}://{host}:{port}/v1/models")
            for host in ("localhost", "127.0.0.1", "[::ffff:127.0.0.1]", "2130706433", "x.localhost")
            for scheme, port in (("https", provider.port), ("http", provider.plain))
        ]
        asked, provider.sim.calls[:] = [call.path for call in provider.sim.calls], []

    assert listed[0] == 0, (
        "the provider itself is dialled on this machine: that is the policy's own `connect`"
    )
    assert all('"data"' not in out for _, out in found)
    assert asked == ["/v1/models"]


async def test_a_client_that_does_not_know_our_authority(mount: Any, provider: Any, curl: Any) -> None:
    status, _ = await curl(mount, "https://api.openai.com/v1/models", roots=provider.roots)
    until = time.monotonic() + 10
    wanted = 'llmshield_egress_connections_total{how="distrusted",host="api.openai.com"}'
    async with aiohttp.ClientSession() as session:
        while True:
            async with session.get(f"{mount.admin}/metrics") as reply:
                if wanted in await reply.text():
                    break
            assert time.monotonic() < until
            await asyncio.sleep(0.2)

    assert status == 60
