"""Traffic that passes unread: where it goes, and what of its errors comes back."""

import asyncio

import aiohttp
import pytest

from llmshield.passing import _below_base
from llmshield.simulator import Simulator
from llmshield.testing import gateway

KEY = "sk-provider-0123456789abcdef"


@pytest.mark.parametrize(
    ("path", "family", "expected"),
    [
        ("/v1/audio/speech", "openai", "/audio/speech"),
        ("/audio/speech", "openai", "/audio/speech"),
        ("/v1", "openai", "/v1"),
        ("/v1@127.0.0.1/x", "openai", "/v1@127.0.0.1/x"),
        ("/v1:80/x", "openai", "/v1:80/x"),
        ("/v1/files", "anthropic", "/v1/files"),
    ],
)
def test_a_path_never_becomes_a_host(path: str, family: str, expected: str) -> None:
    """`http://provider` and `@127.0.0.1/x` would be a call, with our key, to 127.0.0.1."""
    assert expected == _below_base(path, family)


async def test_a_key_in_an_error_stays_here(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        body = b'{"error": "Incorrect API key provided: %b"}' % KEY.encode()
        writer.write(b"HTTP/1.1 401 Unauthorized\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
        writer.close()

    monkeypatch.setenv("PASSING_KEY", KEY)
    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    policy = (
        "server: {paths: [{match: '/v1/audio/*', action: pass}]}\n"
        f"providers:\n  a: {{dialect: openai, base_url: 'http://127.0.0.1:{port}/v1', api_key: 'env://PASSING_KEY'}}\n"
    )
    async with gateway(policy) as (url, _), aiohttp.ClientSession() as http:
        async with http.post(f"{url}/v1/audio/x") as reply:
            text = await reply.text()
            assert (401, True, False) == (reply.status, "Incorrect" in text, KEY in text)
        async with http.post(
            f"{url}/v1/chat/completions",
            json={"model": "m", "messages": [{"role": "user", "content": "hi"}]},
            headers={"authorization": "Bearer the-clients-dummy"},
        ) as reply:  # our key was refused, not the client's: its SDK must not say that its key is wrong
            assert 503 == reply.status
    server.close()
    await server.wait_closed()


async def test_credentials_in_a_query_do_not_pass(primary: Simulator) -> None:
    policy = (
        "server: {paths: [{match: '/v1/audio/*', action: pass}]}\n"
        f"providers:\n  a: {{dialect: openai, base_url: {primary.url}/v1}}\n"
    )
    async with gateway(policy) as (url, _), aiohttp.ClientSession() as http:
        await http.post(f"{url}/v1/audio/x?a=b&%6bey=client-key-1")

    assert "a=b" == primary.calls[0].query
    assert "Bearer client-key-1" == primary.calls[0].header(
        "authorization"
    )  # its own: the provider has no other
