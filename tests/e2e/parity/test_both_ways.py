"""Synchronous SDKs through a policy, the HTTP heads that come back, and what goes upstream."""

import asyncio
from typing import Any

import anthropic
import openai
import pytest
from google import genai
from google.genai import types as gt

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    # google-genai inherits from aiohttp.ClientSession, which aiohttp deprecates.
    pytest.mark.filterwarnings("ignore:Inheritance class .* from ClientSession:DeprecationWarning"),
]

ASK = "What is the tide like today? \N{WATER WAVE} Grüße, ça va\u2028?"


async def test_synchronous_clients_get_the_same(both: tuple[Any, Any]) -> None:
    """The other half of each SDK: its own transport, in a thread."""

    def run(url: str) -> list[Any]:
        said: Any = [{"role": "user", "content": ASK}]
        with (
            openai.OpenAI(base_url=f"{url}/v1", api_key="sk-any") as spoken,
            anthropic.Anthropic(base_url=url, api_key="sk-ant-any") as claude,
            genai.Client(api_key="any", http_options=gt.HttpOptions(base_url=url)) as gemini,
        ):
            streams = (
                spoken.chat.completions.create(model="gpt-4o", messages=said, stream=True),
                claude.messages.create(model="claude-haiku-4-5", max_tokens=300, messages=said, stream=True),
                gemini.models.generate_content_stream(model="gemini-2.5-flash", contents=ASK),
            )
            return [
                both[0].plain(spoken.chat.completions.create(model="gpt-4o", messages=said)),
                both[0].plain(
                    claude.messages.create(model="claude-haiku-4-5", max_tokens=300, messages=said)
                ),
                both[0].plain(gemini.models.generate_content(model="gemini-2.5-flash", contents=ASK)),
                *(both[0].folded([both[0].plain(event) for event in stream]) for stream in streams),
            ]

    expected, got = await asyncio.gather(*(asyncio.to_thread(run, clients.url) for clients in both))

    assert expected == got


async def test_the_heads_differ_as_documented(both: tuple[Any, Any]) -> None:
    """Nothing is lost but accounts, cookies and hop-by-hop fields; ours come beside it."""
    heads = []
    for clients in both:
        chat = await clients.openai.chat.completions.with_raw_response.create(
            model="gpt-4o", messages=[{"role": "user", "content": ASK}]
        )
        message = await clients.anthropic.messages.with_raw_response.create(
            model="claude-haiku-4-5", max_tokens=300, messages=[{"role": "user", "content": ASK}]
        )
        heads.append(
            [{name.lower(): value for name, value in raw.headers.items()} for raw in (chat, message)]
        )
    for straight, guarded in zip(*heads, strict=True):
        lost = {n for n in straight if straight[n] != guarded.get(n) and "ratelimit" not in n}

        assert lost <= {
            "openai-organization",
            "anthropic-organization-id",
            "content-length",
            "date",
            "server",
            "connection",
        }
        assert {n for n in straight if "ratelimit" in n} <= set(guarded)
        assert guarded["x-llmshield-action"] == "allow"
        assert guarded["x-llmshield-attempts"] == "1"


async def test_what_goes_upstream_is_what_was_sent(both: tuple[Any, Any]) -> None:
    """Bodies and heads arrive as the SDK wrote them, but for what the policy adds: usage in streams, a bound."""
    said: Any = [{"role": "user", "content": ASK}]
    seen = []
    for clients in both:
        await clients.listed(
            await clients.openai.chat.completions.create(model="gpt-4o", messages=said, stream=True)
        )
        chat = clients.upstream[-1]
        await clients.anthropic.beta.messages.create(
            model="claude-haiku-4-5", max_tokens=300, messages=said, extra_query={"beta": "true"},
            betas=["context-1m-2025-08-07", "future-2030-01-01"],
        )  # fmt: skip
        beta = clients.upstream[-1]
        await clients.gemini.aio.models.generate_content(model="gemini-2.5-flash", contents=ASK)
        seen.append((chat, beta, clients.upstream[-1]))
    for straight, guarded in zip(*seen, strict=True):
        lost = {name for name, value in straight.headers if guarded.header(name) != value}
        added = {key: value for key, value in guarded.json.items() if straight.json.get(key) != value}

        assert lost <= {"host", "content-length", "accept-encoding", "connection", "accept"}
        assert (straight.path, straight.params, straight.key) == (guarded.path, guarded.params, guarded.key)
        assert set(straight.json) <= set(guarded.json)
        if guarded is seen[1][0]:
            assert set(added) == {"stream_options", "max_completion_tokens"}
            assert guarded.json["stream_options"] == {"include_usage": True}
        elif guarded is seen[1][1]:
            assert added == {}
            assert guarded.header("anthropic-beta") == "context-1m-2025-08-07,future-2030-01-01"
        else:
            assert set(added) == {"generationConfig"}
