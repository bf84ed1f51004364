"""Through real mounts with real SDKs: what is kept of calls that go well, break, fail over, are refused or answered again."""

import asyncio
import contextlib
import time

import aiohttp
import anthropic
import openai
import pytest
import uvicorn

from llmshield import vault
from llmshield.mounts.asgi import ShieldMiddleware
from llmshield.simulator import Simulator, SimulatorApp
from llmshield.testing import gateway, policy
from llmshield.transcripts import Kept, Transcripts

YES = {"x-llmshield-consent": "transcripts"}
MAIL = "alice@quince.example"
WORDS = f"The quinces are poor, write to {MAIL} about it."
CLEAN = "The quinces are poor, write to <EMAIL_ADDRESS_1> about it."
PLUGINS = """
server: {store: "memory://"}
plugins:
  - use: transcripts
    store: sqlite:///transcripts.db
  - use: pii
    entities: {EMAIL_ADDRESS: {action: replace}, US_SSN: {action: block}, IP_ADDRESS: {action: redact}}
    restore: true
    scan: [user, tool, output]
  - use: failover
"""
POLICY = (
    """
providers:
  a: {dialect: openai, base_url: "A/v1", timeout: {first_token: 5s, idle: 300ms, total: 9s}}
  b: {dialect: openai, base_url: "B/v1"}
  c: {dialect: anthropic, base_url: "B"}
routes:
  - {match: {model: "claude-*"}, to: [c]}
  - {match: {model: "go-on"}, to: [a, b], mid_stream: continue}
  - {match: {model: "again"}, to: [a, b], mid_stream: restart_marker}
  - {match: {model: "hedge"}, to: [a, b], hedge: {after: 50ms, max_extra_cost: 100%}}
  - {match: {any: true}, to: [a, b]}
"""
    + PLUGINS
)


@pytest.fixture(autouse=True)
def here(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LLMSHIELD_SECRET_KEY", vault.new_key())


@contextlib.asynccontextmanager
async def serving(primary, backup, text=POLICY):
    async with gateway(policy(text.replace("A/v1", f"{primary.url}/v1").replace("B", backup.url))) as (
        url,
        admin,
    ):
        yield url, admin


def transcripts(user="alice"):
    """What is kept, read as `privacy export` reads it."""
    kept = Transcripts(Kept("sqlite:///transcripts.db"))
    if not kept.open(make=False):
        return []
    try:
        return list(kept.export(user, None))
    finally:
        kept.close()


def said(transcript, role):
    return "".join(text for who, _, text in transcript["texts"] if who == role)


async def soon(count, user="alice"):
    """The transcripts, once there are so many."""
    deadline = time.monotonic() + 20
    while len(found := await asyncio.to_thread(transcripts, user)) < count:
        assert time.monotonic() < deadline, f"{len(found)} of {count}"
        await asyncio.sleep(0.05)
    assert len(found) == count
    return found


async def openai_chat(base, **more):
    async with openai.AsyncOpenAI(base_url=f"{base}/v1", api_key="k", max_retries=0) as client:
        return (
            (
                await client.chat.completions.create(
                    model="m",
                    user="alice",
                    messages=[{"role": "user", "content": WORDS}],
                    extra_headers=YES,
                    **more,
                )
            )
            .choices[0]
            .message.content
        )


async def openai_stream(base):
    async with openai.AsyncOpenAI(base_url=f"{base}/v1", api_key="k", max_retries=0) as client:
        stream = await client.chat.completions.create(
            model="m",
            user="alice",
            messages=[{"role": "user", "content": WORDS}],
            stream=True,
            extra_headers=YES,
        )
        return "".join([part.choices[0].delta.content or "" async for part in stream if part.choices])


async def openai_responses(base):
    async with openai.AsyncOpenAI(base_url=f"{base}/v1", api_key="k", max_retries=0) as client:
        made = await client.responses.create(
            model="m", input=WORDS, safety_identifier="alice", extra_headers=YES
        )
        return made.output_text


async def openai_responses_stream(base):
    async with openai.AsyncOpenAI(base_url=f"{base}/v1", api_key="k", max_retries=0) as client:
        async with client.responses.stream(model="m", input=WORDS, user="alice", extra_headers=YES) as stream:
            return (await stream.get_final_response()).output_text


async def anthropic_messages(base):
    async with anthropic.AsyncAnthropic(base_url=base, api_key="k", max_retries=0) as client:
        made = await client.messages.create(
            model="claude-x", max_tokens=200, messages=[{"role": "user", "content": WORDS}],
            metadata={"user_id": "alice"}, extra_headers=YES,
        )  # fmt: skip
        return made.content[0].text


async def anthropic_stream(base):
    async with anthropic.AsyncAnthropic(base_url=base, api_key="k", max_retries=0) as client:
        async with client.messages.stream(
            model="claude-x", max_tokens=200, messages=[{"role": "user", "content": WORDS}],
            metadata={"user_id": "alice"}, extra_headers=YES,
        ) as stream:  # fmt: skip
            return await stream.get_final_text()


SDKS = [
    openai_chat,
    openai_stream,
    openai_responses,
    openai_responses_stream,
    anthropic_messages,
    anthropic_stream,
]


@contextlib.asynccontextmanager
async def middleware():
    """The middleware around the simulator as the wrapped app, on a socket."""
    app = ShieldMiddleware(SimulatorApp(), policy=policy(PLUGINS))
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, ws="none"))
    running = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.005)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        await running


@pytest.mark.parametrize("mount", ["gateway", "middleware"])
async def test_every_sdk_whole_and_streamed_in_both_mounts(mount, primary, backup):
    """The client reads its own address, the provider and the store its placeholder."""
    async with contextlib.AsyncExitStack() as stack:
        if mount == "gateway":
            base, _ = await stack.enter_async_context(serving(primary, backup))
        else:
            base = await stack.enter_async_context(middleware())
        for number, ask in enumerate(SDKS):
            assert MAIL in await ask(base), ask.__name__
            found = (await soon(number + 1))[-1]
            assert (said(found, "user"), found["complete"]) == (CLEAN, True), ask.__name__
            assert said(found, "output").count("EMAIL_ADDRESS_1") == 1, ask.__name__
            assert MAIL not in str(found)
    assert {each["dialect"] for each in transcripts()} == {
        "openai_chat",
        "openai_responses",
        "anthropic_messages",
    }


async def post(base, body, headers=YES, path="/v1/chat/completions"):
    async with (
        aiohttp.ClientSession() as http,
        http.post(f"{base}{path}", json=body, headers=headers) as reply,
    ):
        return reply.status, await reply.text()


def body(words=WORDS, **more):
    return {"model": "m", "user": "alice", "messages": [{"role": "user", "content": words}], **more}


async def test_without_consent_nothing_and_with_it_only_conversations(primary, backup):
    async with serving(primary, backup) as (base, admin):
        for headers in ({}, {"x-llmshield-consent": "none"}):
            for stream in (False, True):
                assert (await post(base, body(stream=stream), headers))[0] == 200
        assert (await post(base, {"model": "m", "input": WORDS, "user": "alice"}, path="/v1/embeddings"))[
            0
        ] == 200
        assert (await post(base, {**body(), "user": None}))[0] == 200
        assert (await post(base, body("My number is 457-55-5462.")))[0] == 400, "refused"
        assert (await post(base, body("Say hello.")))[0] == 200
        (only,) = await soon(1)
        assert said(only, "user") == "Say hello."
        async with aiohttp.ClientSession() as http, http.get(f"{admin}/metrics") as reply:
            metrics = await reply.text()
        assert "llmshield_transcripts_kept 1" in metrics
        assert "llmshield_transcripts_dropped 0" in metrics
        assert not any("consent" in dict(call.headers) for call in primary.calls)
        assert not any(name.startswith("x-llmshield") for call in primary.calls for name, _ in call.headers)


async def test_a_guard_that_stops_an_answer_leaves_nothing(primary, backup):
    async with serving(primary, backup) as (base, _):
        for stream in (False, True):
            await post(base, body("[[simulate text=Call%20me%3A%20457-55-5462%2C%20now]]", stream=stream))
        await post(base, body("[[simulate text=From%20192.168.7.33%20it%20came]]"))
        (only,) = await soon(1)
    assert said(only, "output") == "From [IP_ADDRESS] it came" or "192.168" not in said(only, "output")


@pytest.mark.parametrize("fault", ["500", "cut", "malformed"])
async def test_failover_leaves_the_last_attempt_only(fault, backup):
    async with Simulator(name="primary", fault=(fault,), after=0) as broken:
        async with serving(broken, backup) as (base, _):
            for stream in (False, True):
                status, _ = await post(base, body("Say hello.", stream=stream))
                assert status == 200
            for found in await soon(2):
                assert (found["provider"], found["complete"]) == ("b", True)
                assert said(found, "output").count("Hello") == 1


@pytest.mark.parametrize(
    ("model", "complete", "provider"), [("go-on", True, "b"), ("again", True, "b"), ("m", False, "a")]
)
async def test_a_stream_that_breaks(model, complete, provider, backup):
    async with Simulator(
        name="primary", fault=("cut",), after=4, text="One two three four five six."
    ) as broken:
        async with serving(broken, backup) as (base, _):
            _, got = await post(base, body("Say hello.", model=model, stream=True))
            (found,) = await soon(1)
    assert (found["complete"], found["provider"]) == (complete, provider)
    words = said(found, "output")
    assert words.startswith("One two"), "what the client has seen of the first is a part of it"
    assert ("Hello" in words) == complete
    assert got


async def test_of_a_race_the_winner_is_kept(backup):
    async with Simulator(name="primary", ttft=0.3, delay=0.05, text="I am the slow one, really.") as slow:
        async with serving(slow, backup) as (base, _):
            for stream in (False, True):
                assert (await post(base, body("Say hello.", model="hedge", stream=stream)))[0] == 200
            for found in await soon(2):
                assert found["provider"] == "b"
                assert "slow" not in said(found, "output")


async def test_a_client_that_leaves(backup):
    async with Simulator(name="primary", delay=0.02, text="word " * 400) as slow:
        async with serving(slow, backup) as (base, _):
            async with aiohttp.ClientSession() as http:
                reply = await http.post(
                    f"{base}/v1/chat/completions", json=body("Count.", stream=True), headers=YES
                )
                got = b""
                while b"word" not in got:
                    got += await reply.content.readany()
                reply.close()
            (found,) = await soon(1)
    assert (found["complete"], said(found, "user")) == (False, "Count.")
    assert 0 < len(said(found, "output")) < 2000


async def test_an_answer_that_is_given_again_is_kept_once(primary, backup):
    text = POLICY.replace('server: {store: "memory://"}', 'server: {store: "memory://", idempotency: {}}')
    async with serving(primary, backup, text) as (base, _):
        for _ in range(3):
            assert (await post(base, body("Say hello."), {**YES, "idempotency-key": "k1"}))[0] == 200
        await asyncio.sleep(0.3)
        await soon(1)
    assert len(primary.calls) == 1


async def test_tool_calls_and_history_are_kept_as_the_provider_saw_them(primary, backup):
    tools = [{"type": "function", "function": {"name": "send", "parameters": {
        "type": "object", "properties": {"to": {"type": "string"}}, "required": ["to"]}}}]  # fmt: skip
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": f"I am {MAIL}"},
        {"role": "assistant", "content": "Noted."},
        {"role": "user", "content": "[[simulate args=echo]] use the tool for me"},
    ]
    async with serving(primary, backup) as (base, _):
        for stream in (False, True):
            asked = {
                **body(),
                "messages": messages,
                "tools": tools,
                "tool_choice": "required",
                "stream": stream,
            }
            assert (await post(base, asked))[0] == 200
        found = await soon(2)
    for each in found:
        roles = [role for role, _, _ in each["texts"]]
        assert {"system", "user", "assistant", "tool", "output"} <= set(roles)
        assert MAIL not in str(each)
        assert "<EMAIL_ADDRESS_1>" in said(each, "user")
        assert any(place.startswith("tool_arguments") for _, place, _ in each["texts"])
    assert found[0]["texts"] == found[1]["texts"], "streamed or whole, the same is kept"


async def test_a_tenants_consent_and_an_override_that_takes_the_cleaner_away(primary, backup):
    text = POLICY + (
        'identify: ["header:x-llmshield-tenant"]\ntrusted_proxies: [127.0.0.1/32]\n'
        "tenants: {acme: {consent: [transcripts]}, other: {}, raw: {consent: [transcripts]}}\n"
        "overrides:\n  - {match: {tenant: raw}, plugins: {pii: {mode: disabled}}, reason: test, until: 2999-01-31}\n"
    )
    async with serving(primary, backup, text) as (base, _):
        for tenant in ("other", "raw", "acme"):
            assert (await post(base, body(f"I am of {tenant}."), {"x-llmshield-tenant": tenant}))[0] == 200
        (only,) = await soon(1)
    assert (only["tenant"], only["consent"], said(only, "user")) == ("acme", "tenant", "I am of acme.")


async def test_monitor_mode_keeps_nothing(primary, backup):
    text = POLICY.replace("  - use: transcripts\n", "  - use: transcripts\n    mode: monitor\n")
    async with serving(primary, backup, text) as (base, admin):
        assert (await post(base, body()))[0] == 200
        async with aiohttp.ClientSession() as http, http.get(f"{admin}/metrics") as reply:
            assert 'action="would-keep"' in await reply.text()
    assert transcripts() == []


async def test_what_waits_is_written_when_the_gateway_stops(primary, backup):
    async with serving(primary, backup) as (base, _):
        await asyncio.gather(*(post(base, body(f"Number {number}.")) for number in range(100)))
    assert len(transcripts()) == 100


FAILING = """
from llmshield.hookspecs import Plugin


class Cleaner:
    def feed(self, text):
        if "quinces" in text:
            raise ValueError("a bug")
        return text

    def flush(self):
        return ""


class Failing(Plugin):
    def pre_request(self, call):
        pass

    def post_response(self, call, reply):
        reply.filter(lambda channel: Cleaner())
"""


async def test_a_cleaner_that_fails_in_the_middle_of_a_reply_and_is_passed_over(primary, backup, tmp_path):
    (tmp_path / "failing.py").write_text(FAILING)
    text = POLICY.replace("    store: sqlite", "    cleaned_by: [pii, failing]\n    store: sqlite").replace(
        "  - use: pii", "  - {use: ./failing.py, on_error: open}\n  - use: pii"
    )
    async with gateway(
        policy(text.replace("A/v1", f"{primary.url}/v1").replace("B", backup.url), base=tmp_path)
    ) as (base, admin):
        for stream in (False, True):
            assert (await post(base, body("Say quinces.", stream=stream)))[0] == 200
            assert (await post(base, body("Say plums.", stream=stream)))[0] == 200
        for found in await soon(2):
            assert said(found, "user") == "Say plums."
        async with aiohttp.ClientSession() as http, http.get(f"{admin}/metrics") as reply:
            assert 'action="unclean"' in await reply.text()
