"""Clients with a proxy and a CA in their environment; whose key is used, and who is asked."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Any

import pytest

from llmshield.simulator import Simulator

pytestmark = pytest.mark.asyncio(loop_scope="module")

OPENAI = """
import openai
client = openai.OpenAI(max_retries=0)
said = client.chat.completions.create(model="gpt-small", messages=[{"role": "user", "content": "tide"}])
parts = client.chat.completions.create(model="gpt-small", messages=[{"role": "user", "content": "tide"}], stream=True)
print(said.choices[0].message.content)
print("".join(part.choices[0].delta.content or "" for part in parts if part.choices))
try:
    client.chat.completions.create(model="gpt-small", messages=[{"role": "user", "content": "raise"}])
except openai.InternalServerError as error:
    print(error.status_code, error.code)
"""
ANTHROPIC = """
import anthropic
client = anthropic.Anthropic(max_retries=0)
ask = dict(model="claude-small", max_tokens=300, messages=[{"role": "user", "content": "tide"}])
print(client.messages.create(**ask).content[0].text)
with client.messages.stream(**ask) as parts:
    print("".join(parts.text_stream))
try:
    client.messages.create(**{**ask, "messages": [{"role": "user", "content": "raise"}]})
except anthropic.APIStatusError as error:
    print(error.status_code, error.body["error"]["type"])
"""


@pytest.mark.parametrize(
    ("program", "refusal"),
    [(OPENAI, "500 policy_unavailable"), (ANTHROPIC, "500 api_error")],
    ids=["openai", "anthropic"],
)
async def test_an_sdk_with_proxy_and_ca_in_its_environment(
    mount: Any, provider: Any, program: str, refusal: str
) -> None:
    environment = {
        **os.environ, "HTTPS_PROXY": mount.proxy, "SSL_CERT_FILE": str(mount.bundle), "OPENAI_API_KEY": "sk-own",
        "ANTHROPIC_API_KEY": "sk-own", "NO_PROXY": "",
    }  # fmt: skip
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, env=environment, stdout=-1, stderr=-1
    )
    out, err = await process.communicate()
    lines = out.decode().splitlines()

    assert process.returncode == 0, err.decode()
    assert lines[:2] == ["Hello, I am primary. You said: tide"] * 2
    assert lines[2] == refusal
    assert len(provider.sim.calls) == 2
    for call in provider.sim.calls:
        assert "sk-own" in (call.header("authorization") or call.header("x-api-key") or "")


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "stream"])
async def test_curl(mount: Any, provider: Any, streamed: bool, chat: Any) -> None:
    process = await asyncio.create_subprocess_exec(
        "curl", "-sS", "--max-time", "20", "https://api.openai.com/v1/chat/completions", "-H",
        "content-type: application/json", "-d", json.dumps(chat("tide", stream=streamed)),
        env={**os.environ, "HTTPS_PROXY": mount.proxy, "CURL_CA_BUNDLE": str(mount.bundle)}, stdout=-1, stderr=-1,
    )  # fmt: skip
    out, err = await process.communicate()

    assert process.returncode == 0, err
    assert (b"data: [DONE]" in out) is streamed
    assert len(provider.sim.calls) == 1


@pytest.mark.parametrize(
    ("host", "key"), [("api.openai.com", "Bearer sk-own"), ("swapped.test", "Bearer sk-of-the-policy")]
)
async def test_keys(http: Any, provider: Any, host: str, key: str, chat: Any) -> None:
    """A dummy key in the service is enough where the policy has one for the provider."""
    async with http(host, "/v1/chat/completions", chat("hi")) as reply:
        assert reply.status == 200

    assert [key] == [call.header("authorization") for call in provider.sim.calls]


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("fault", ["503", "500", "529", "fin", "cut", "html"])
async def test_another_provider_takes_over(
    http: Any, provider: Any, spare: Simulator, fault: str, streamed: bool, chat: Any
) -> None:
    """From OpenAI to Anthropic, in OpenAI's words; the service's own key does not travel there."""
    provider.sim.set(fault=fault, after=0)
    async with http(
        "api.openai.com", "/v1/chat/completions", chat("hi", "fails-over", stream=streamed)
    ) as reply:
        body = await reply.read()

    assert (200, "backup") == (reply.status, reply.headers["x-llmshield-provider"])
    assert b"sk-own" not in b"".join(value.encode() for call in spare.calls for _, value in call.headers)
    assert (b"data: [DONE]" in body) is streamed
