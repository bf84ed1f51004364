"""Asks with every Python client, whole and streamed, and prints what each got: {"client whole": ...} as JSON.

    ask.py OPENAI_URL ANTHROPIC_URL GEMINI_URL [CLIENT...]

Nothing here knows of a proxy: each client is used as its documentation says, and reads what its environment tells it.
Raw clients give the body's bytes (base64), SDKs their objects. A client that fails gives its error's name and words.
"""

import asyncio
import base64
import json
import sys
import warnings

openai_url, anthropic_url, gemini_url, *wanted = sys.argv[1:]
ASK = "Please write to ada.lovelace@example.com \N{WATER WAVE} Grüße\u2028!"
CHAT = {"model": "gpt-4o", "messages": [{"role": "user", "content": ASK}]}
HEAD = {"authorization": "Bearer sk-any", "content-type": "application/json"}
URL = f"{openai_url}/v1/chat/completions"
found: dict[str, object] = {}


def body(stream: bool) -> bytes:
    return json.dumps(CHAT | {"stream": stream}).encode()


def coded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def by_openai(stream: bool) -> object:
    import openai

    client = openai.OpenAI(base_url=f"{openai_url}/v1", api_key="sk-any", max_retries=0)
    if not stream:
        return client.chat.completions.create(**CHAT).model_dump(mode="json")
    return [event.model_dump(mode="json") for event in client.chat.completions.create(**CHAT, stream=True)]


def by_anthropic(stream: bool) -> object:
    import anthropic

    client = anthropic.Anthropic(base_url=anthropic_url, api_key="sk-ant-any", max_retries=0)
    asked = {"model": "claude-haiku-4-5", "max_tokens": 300, "messages": CHAT["messages"]}
    if not stream:
        return client.messages.create(**asked).model_dump(mode="json")
    return [event.model_dump(mode="json") for event in client.messages.create(**asked, stream=True)]


def by_google_genai(stream: bool) -> object:
    from google import genai
    from google.genai import types

    client = genai.Client(api_key="any", http_options=types.HttpOptions(base_url=gemini_url))

    def plain(reply: object) -> object:
        return reply.model_dump(mode="json", exclude={"sdk_http_response"})  # type: ignore[attr-defined]

    if not stream:
        return plain(client.models.generate_content(model="gemini-2.5-flash", contents=ASK))
    return [plain(e) for e in client.models.generate_content_stream(model="gemini-2.5-flash", contents=ASK)]


def by_requests(stream: bool) -> object:
    import requests

    with requests.post(URL, data=body(stream), headers=HEAD, stream=stream, timeout=30) as reply:
        return coded(b"".join(reply.iter_content(None)) if stream else reply.content)


def by_httpx(stream: bool) -> object:
    import httpx

    if not stream:
        return coded(httpx.post(URL, content=body(False), headers=HEAD, timeout=30).content)
    with httpx.stream("POST", URL, content=body(True), headers=HEAD, timeout=30) as reply:
        return coded(b"".join(reply.iter_bytes()))


def by_aiohttp(stream: bool) -> object:
    import aiohttp

    async def run() -> str:
        async with (
            aiohttp.ClientSession() as session,
            session.post(URL, data=body(stream), headers=HEAD) as reply,
        ):
            return coded(
                b"".join([part async for part in reply.content.iter_any()]) if stream else await reply.read()
            )

    return asyncio.run(run())


warnings.simplefilter("ignore")
for name, ask in [*globals().items()]:
    client = name.removeprefix("by_").replace("_", "-")
    if name.startswith("by_") and (not wanted or client in wanted):
        for stream in (False, True):
            try:
                found[f"{client} {'stream' if stream else 'whole'}"] = ask(stream)
            except Exception as error:
                found[f"{client} {'stream' if stream else 'whole'}"] = f"{type(error).__name__}: {error}"
print(json.dumps(found))
