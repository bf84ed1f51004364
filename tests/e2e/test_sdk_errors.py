"""Every SDK raises the class that its users catch, with the code they test for, after as many attempts as it should.

The tables are the specification: (SDK, event) -> class, code, type, and how many HTTP calls the gateway saw with the
SDK's own default of retries. Waiting between attempts is left out (`anyio.sleep` is where the SDKs wait).
"""

import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import anthropic
import anyio
import openai
import pytest
import pytest_asyncio
from google import genai
from google.genai import errors as gemini_errors
from google.genai import types as gt
from langchain_core import exceptions as lc
from langchain_openai import ChatOpenAI
from pydantic_ai import Agent
from pydantic_ai import exceptions as pai
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.google import GoogleModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.google import GoogleProvider
from pydantic_ai.providers.openai import OpenAIProvider

from llmshield.mounts._request import HttpRequest
from llmshield.mounts.gateway import Gateway
from llmshield.runtime import Runtime
from llmshield.simulator import Scripted, Simulator
from llmshield.testing import policy

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    # google-genai inherits from aiohttp.ClientSession, which aiohttp deprecates.
    pytest.mark.filterwarnings("ignore:Inheritance class .* from ClientSession:DeprecationWarning"),
]

WORD = "open sesame hidden lamp"
KEYS = {name: f"sk-{name}-0123456789abcdef" for name in ("rich", "poor", "slow")}
POLICY = """
version: 1
defaults: {timeout: 10s}
server: {store: "memory://", limits: {body: 20KiB}}
identify: [virtual_key]
providers:
  openai: {dialect: openai, base_url: "URL/v1", prices: {input: 1, output: 4}, api_key: env://E2E_PROVIDER_KEY}
  anthropic: {dialect: anthropic, base_url: "URL", prices: {input: 1, output: 4}, api_key: env://E2E_PROVIDER_KEY}
  gemini: {dialect: gemini, base_url: "URL", prices: {input: 1, output: 4}, api_key: env://E2E_PROVIDER_KEY}
  openai-down: {dialect: openai, base_url: "http://127.0.0.1:9/v1", prices: {input: 1, output: 4}}
  anthropic-down: {dialect: anthropic, base_url: "http://127.0.0.1:9", prices: {input: 1, output: 4}}
  gemini-down: {dialect: gemini, base_url: "http://127.0.0.1:9", prices: {input: 1, output: 4}}
  openai-late: {dialect: openai, base_url: "URL/v1", prices: {input: 1, output: 4}, api_key: env://E2E_PROVIDER_KEY, timeout: {first_token: 100ms}}
  anthropic-late: {dialect: anthropic, base_url: "URL", prices: {input: 1, output: 4}, api_key: env://E2E_PROVIDER_KEY, timeout: {first_token: 100ms}}
  gemini-late: {dialect: gemini, base_url: "URL", prices: {input: 1, output: 4}, api_key: env://E2E_PROVIDER_KEY, timeout: {first_token: 100ms}}
routes:
  - {match: {model: "gpt-down"}, to: [openai-down]}
  - {match: {model: "claude-down"}, to: [anthropic-down]}
  - {match: {model: "gemini-down"}, to: [gemini-down]}
  - {match: {model: "gpt-late"}, to: [openai-late]}
  - {match: {model: "claude-late"}, to: [anthropic-late]}
  - {match: {model: "gemini-late"}, to: [gemini-late]}
  - {match: {model: "*-secret"}, deny: {message: "Model {model} is not on the allow list."}}
  - {match: {model: "gpt-*"}, to: [openai]}
  - {match: {model: "claude-*"}, to: [anthropic]}
  - {match: {model: "gemini-*"}, to: [gemini]}
tenants:
  rich: {tier: rich, keys: ["sha256:RICH"]}
  poor: {tier: poor, keys: ["sha256:POOR"]}
  slow: {tier: slow, keys: ["sha256:SLOW"]}
tiers:
  rich: {rate: [100000/minute], budget: 1000 USD/day}
  poor: {budget: 0.000001 USD/day}
  slow: {rate: [1/hour]}
plugins:
  - {use: rate_limit}
  - {use: cost_cap}
  - {use: ./broken.py}
  - {use: injection, deny: ["WORD"], scan: [user, output]}
  - {use: failover}
"""
BROKEN = '''
"""Fails where a prompt says so."""
from llmshield.hookspecs import Plugin


class Broken(Plugin):
    def pre_request(self, call):
        if any("break it" in text.value for text in call.texts):
            raise RuntimeError("broken on purpose")
'''
HELLO = "Tell me about rivers."

# event: (whose key, model's second half, prompt)
EVENTS: dict[str, tuple[str, str, str]] = {
    "block": ("rich", "small", f"Say {WORD}, please."),
    "budget": ("poor", "small", HELLO),
    "rate": ("slow", "small", HELLO),
    "down": ("rich", "down", HELLO),
    "timeout": ("rich", "late", f"[[simulate fault=silence]] {HELLO}"),
    "key": ("wrong", "small", HELLO),
    "model": ("rich", "secret", HELLO),
    "large": ("rich", "small", "river " * 5000),
    "plugin": ("rich", "small", "Now break it."),
}

# event: (class, status, code, type, attempts)
OPENAI = {
    "block": (openai.BadRequestError, 400, "content_policy_violation", "invalid_request_error", 1),
    "budget": (openai.RateLimitError, 429, "insufficient_quota", "insufficient_quota", 1),
    "rate": (openai.RateLimitError, 429, "rate_limit_exceeded", "rate_limit_error", 3),
    "down": (openai.InternalServerError, 503, "no_provider_available", "server_error", 3),
    "timeout": (openai.InternalServerError, 504, "timeout", "server_error", 3),
    "key": (openai.AuthenticationError, 401, "invalid_api_key", "invalid_request_error", 1),
    "model": (openai.NotFoundError, 404, "model_not_found", "invalid_request_error", 1),
    "large": (openai.BadRequestError, 400, "context_length_exceeded", "invalid_request_error", 1),
    "plugin": (openai.InternalServerError, 500, "policy_unavailable", "server_error", 3),
}
# event: (class, status, type, attempts)
ANTHROPIC = {
    "block": (anthropic.BadRequestError, 400, "invalid_request_error", 1),
    "budget": (anthropic.PaymentRequiredError, 402, "billing_error", 1),
    "rate": (anthropic.RateLimitError, 429, "rate_limit_error", 3),
    "down": (anthropic.OverloadedError, 529, "overloaded_error", 3),
    "timeout": (anthropic.GatewayTimeoutError, 504, "timeout_error", 3),
    "key": (anthropic.AuthenticationError, 401, "authentication_error", 1),
    "model": (anthropic.NotFoundError, 404, "not_found_error", 1),
    "large": (anthropic.ContentTooLargeError, 413, "request_too_large", 1),
    "plugin": (anthropic.InternalServerError, 500, "api_error", 3),
}
# event: (class, code, status, reason of the ErrorInfo); google-genai does not retry
GEMINI = {
    "block": (gemini_errors.ClientError, 400, "FAILED_PRECONDITION", "LLMSHIELD_INJECTION"),
    "budget": (gemini_errors.ClientError, 400, "FAILED_PRECONDITION", "BUDGET_EXCEEDED"),
    "rate": (gemini_errors.ClientError, 429, "RESOURCE_EXHAUSTED", None),
    "down": (gemini_errors.ServerError, 503, "UNAVAILABLE", "NO_PROVIDER_AVAILABLE"),
    "timeout": (gemini_errors.ServerError, 504, "DEADLINE_EXCEEDED", None),
    "key": (gemini_errors.ClientError, 401, "UNAUTHENTICATED", None),
    "model": (gemini_errors.ClientError, 404, "NOT_FOUND", "MODEL_DENIED"),
    "large": (gemini_errors.ClientError, 400, "INVALID_ARGUMENT", "TOO_LARGE"),
    "plugin": (gemini_errors.ServerError, 500, "INTERNAL", "POLICY_UNAVAILABLE"),
}
# event: (class, attempts); attempts are those of the SDK below
LANGCHAIN = {
    "block": (lc.ModelInvalidRequestError, 1),
    "budget": (lc.ModelRateLimitError, 1),
    "rate": (lc.ModelRateLimitError, 3),
    "down": (openai.InternalServerError, 3),
    "timeout": (openai.InternalServerError, 3),
    "key": (lc.ModelAuthenticationError, 1),
    "model": (lc.ModelNotFoundError, 1),
    "large": (lc.ModelInvalidRequestError, 1),
    "plugin": (openai.InternalServerError, 3),
}
# event: class, and by kind where it differs; attempts are those of the SDK below
PYDANTIC_AI: dict[Any, type[Exception]] = {
    "block": pai.ModelRequestRejectedError,
    "budget": pai.ModelQuotaExceededError,
    "rate": pai.ModelRateLimitError,
    "down": pai.ModelAPIError,
    "timeout": pai.ModelServerError,
    "key": pai.ModelAuthenticationError,
    "model": pai.ModelNotFoundError,
    "large": pai.ModelRequestRejectedError,
    "plugin": pai.ModelServerError,
    ("large", "anthropic"): pai.ModelHTTPError,  # 413 has no class of its own there
    ("budget", "google"): pai.ModelRequestRejectedError,
}


class Counted:
    """The gateway's handler, counting the calls that reach it."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self.calls = 0

    async def __call__(self, request: HttpRequest) -> None:
        self.calls += 1
        await self.app(request)


class Place:
    """A gateway, its provider, and the SDKs' clients by key."""

    def __init__(self, url: str, counted: Counted, sim: Simulator) -> None:
        self.url, self.counted, self.sim = url, counted, sim
        self.openai = {k: openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=v) for k, v in self.keys().items()}
        self.anthropic = {
            k: anthropic.AsyncAnthropic(base_url=url, api_key=v) for k, v in self.keys().items()
        }
        options = gt.HttpOptions(base_url=url)
        self.gemini = {k: genai.Client(api_key=v, http_options=options) for k, v in self.keys().items()}

    @staticmethod
    def keys() -> dict[str, str]:
        return {**KEYS, "wrong": "sk-nobody-knows-this-key"}

    async def close(self) -> None:
        for client in (*self.openai.values(), *self.anthropic.values()):
            await client.close()
        for made in self.gemini.values():
            await made.aio.aclose()

    async def raised(self, run: Callable[[], Awaitable[Any]]) -> tuple[Exception, int]:
        """What a call raises, and how many attempts the gateway saw."""
        self.counted.calls = 0
        with pytest.raises(Exception) as caught:
            await run()
        return caught.value, self.counted.calls


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def place(tmp_path_factory: pytest.TempPathFactory, serving_handler: Any) -> AsyncIterator[Place]:
    folder: Path = tmp_path_factory.mktemp("policy")
    (folder / "broken.py").write_text(BROKEN)
    given = POLICY.replace("WORD", WORD)
    for name, key in KEYS.items():
        given = given.replace(name.upper(), hashlib.sha256(key.encode()).hexdigest())
    async with AsyncExitStack() as stack:
        stack.enter_context(pytest.MonkeyPatch.context()).setenv(
            "E2E_PROVIDER_KEY", "sk-provider-abcdefghijk"
        )
        sim = await stack.enter_async_context(Simulator(require_key="sk-provider-abcdefghijk", delay=0.0))
        runtime = Runtime(policy(given.replace("URL", sim.url), base=folder), mount="gateway")
        await runtime.start()
        stack.push_async_callback(runtime.close)
        counted = Counted(Gateway(runtime))
        made = Place(await stack.enter_async_context(serving_handler(counted)), counted, sim)
        stack.push_async_callback(made.close)
        await made.openai["slow"].embeddings.create(model="gpt-small", input="x")  # its one call of the hour
        yield made


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    async def at_once(seconds: float) -> None:
        assert 0 < seconds <= 60

    monkeypatch.setattr(anyio, "sleep", at_once)


def model(event: str, family: str) -> str:
    return f"{family}-{EVENTS[event][1]}"


async def drained(stream: Any) -> None:
    async for _ in await stream:
        pass


def openai_calls(place: Place, event: str) -> dict[str, Callable[[], Awaitable[Any]]]:
    key, _, text = EVENTS[event]
    c, name = place.openai[key], model(event, "gpt")
    said: Any = [{"role": "user", "content": text}]
    # An embedding's input is no prompt that the simulator looks into.
    fault = {"x-simulate": "fault=silence"} if event == "timeout" else {}
    return {
        "chat": lambda: c.chat.completions.create(model=name, messages=said, max_tokens=50),
        "chat-stream": lambda: drained(c.chat.completions.create(model=name, messages=said, stream=True)),
        "responses": lambda: c.responses.create(model=name, input=text),
        "responses-stream": lambda: drained(c.responses.create(model=name, input=text, stream=True)),
        "completions": lambda: c.completions.create(model=name, prompt=text),
        "embeddings": lambda: c.embeddings.create(model=name, input=text, extra_headers=fault),
    }


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize(
    "call", ["chat", "chat-stream", "responses", "responses-stream", "completions", "embeddings"]
)
async def test_openai(place: Place, call: str, event: str) -> None:
    error, attempts = await place.raised(openai_calls(place, event)[call])
    assert isinstance(error, openai.APIStatusError)
    got = (type(error), error.status_code, error.code, error.type, attempts)

    assert OPENAI[event] == got
    assert error.request_id
    assert error.message
    assert WORD not in str(error)
    assert "rivers" not in str(error)


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "stream"])
async def test_anthropic(place: Place, event: str, streamed: bool) -> None:
    key, _, text = EVENTS[event]
    asked: Any = {
        "model": model(event, "claude"),
        "max_tokens": 50,
        "messages": [{"role": "user", "content": text}],
    }

    async def run() -> None:
        if streamed:
            await drained(place.anthropic[key].messages.create(**asked, stream=True))
        else:
            await place.anthropic[key].messages.create(**asked)

    error, attempts = await place.raised(run)
    assert isinstance(error, anthropic.APIStatusError)

    assert ANTHROPIC[event] == (type(error), error.status_code, error.type, attempts)
    assert error.request_id
    assert WORD not in str(error)


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "stream"])
async def test_gemini(place: Place, event: str, streamed: bool) -> None:
    key, _, text = EVENTS[event]
    models = place.gemini[key].aio.models
    asked: Any = {"model": model(event, "gemini"), "contents": text}

    async def run() -> None:
        if streamed:
            await drained(models.generate_content_stream(**asked))
        else:
            await models.generate_content(**asked)

    error, attempts = await place.raised(run)
    assert isinstance(error, gemini_errors.APIError)
    details = error.details["error"].get("details", [])
    reason = next((d["reason"] for d in details if d["@type"].endswith("ErrorInfo")), None)

    assert (*GEMINI[event], 1) == (type(error), error.code, error.status, reason, attempts)
    assert WORD not in str(error)
    if event == "rate":
        assert next(d for d in details if d["@type"].endswith("RetryInfo"))["retryDelay"].endswith("s")


@pytest.mark.parametrize("event", EVENTS)
async def test_langchain(place: Place, event: str) -> None:
    key, _, text = EVENTS[event]
    c = place.openai[key]
    chat = ChatOpenAI(model=model(event, "gpt"), api_key="any", client=object(),  # type: ignore[arg-type]
                      async_client=c.chat.completions, root_async_client=c)  # fmt: skip
    error, attempts = await place.raised(lambda: chat.ainvoke(text))
    kind, expected = LANGCHAIN[event]

    assert isinstance(error, kind), type(error).__mro__
    assert expected == attempts


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("kind", ["chat", "responses", "anthropic", "google"])
async def test_pydantic_ai(place: Place, kind: str, event: str) -> None:
    key, _, text = EVENTS[event]
    spoken = OpenAIProvider(openai_client=place.openai[key])
    made: Any = {
        "chat": lambda: OpenAIChatModel(model(event, "gpt"), provider=spoken),
        "responses": lambda: OpenAIResponsesModel(model(event, "gpt"), provider=spoken),
        "anthropic": lambda: AnthropicModel(
            model(event, "claude"), provider=AnthropicProvider(anthropic_client=place.anthropic[key])
        ),
        "google": lambda: GoogleModel(
            model(event, "gemini"), provider=GoogleProvider(client=place.gemini[key])
        ),
    }[kind]()
    error, attempts = await place.raised(lambda: Agent(made).run(text))

    assert isinstance(error, PYDANTIC_AI.get((event, kind), PYDANTIC_AI[event])), type(error).__mro__
    assert {"anthropic": ANTHROPIC[event][3], "google": 1}.get(kind, OPENAI[event][4]) == attempts


# -- unknown traffic -----------------------------------------------------------------------------------------------


async def test_what_no_dialect_knows_is_refused_in_the_words_of_its_sdk(place: Place) -> None:
    async def files() -> Any:
        return await place.openai["rich"].files.list()

    async def batches() -> Any:
        return await place.anthropic["rich"].messages.batches.list()

    async def caches() -> Any:
        return await place.gemini["rich"].aio.caches.list()

    for run, kind in (
        (files, openai.NotFoundError),
        (batches, anthropic.NotFoundError),
        (caches, gemini_errors.ClientError),
    ):
        error, attempts = await place.raised(run)
        assert (kind, 1) == (type(error), attempts)


# -- streams that end early ----------------------------------------------------------------------------------------

TELLING = [
    *(f"Line {n} of a long and quiet story. " for n in range(12)),
    f"Now {WORD[:9]}",
    f"{WORD[9:]} and ",
    "the rest.",
]
SAID: Any = [{"role": "user", "content": HELLO}]


async def test_a_stopped_chat_stream_ends_with_content_filter(place: Place) -> None:
    place.sim.say(Scripted(text=TELLING, simulate="delay=3ms"))
    chunks = [c async for c in await place.openai["rich"].chat.completions.create(
        model="gpt-small", messages=SAID, stream=True, stream_options={"include_usage": True})]  # fmt: skip
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)

    assert text.startswith("Line 0 of a long")
    assert WORD not in text
    assert "the rest" not in text
    assert [c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason] == [
        "content_filter"
    ]
    assert chunks[-1].usage is not None


async def test_a_parsing_helper_raises_on_a_stopped_chat_stream(place: Place) -> None:
    place.sim.say(Scripted(text=TELLING, simulate="delay=3ms"))
    with pytest.raises(openai.ContentFilterFinishReasonError):
        async with place.openai["rich"].chat.completions.stream(
            model="gpt-small", messages=SAID, response_format={"type": "json_object"}
        ) as stream:
            await stream.get_final_completion()


async def test_a_stopped_responses_stream_fails(place: Place) -> None:
    place.sim.say(Scripted(text=TELLING, simulate="delay=3ms"), Scripted(text=TELLING, simulate="delay=3ms"))
    events = [
        e
        async for e in await place.openai["rich"].responses.create(
            model="gpt-small", input=HELLO, stream=True
        )
    ]
    last = events[-1]
    text = "".join(e.delta for e in events if e.type == "response.output_text.delta")

    assert last.type == "response.failed"
    assert (last.response.status, last.response.error.code) == ("failed", "invalid_prompt")
    assert text.startswith("Line 0 of a long")
    assert "the rest" not in text
    assert [e.sequence_number for e in events] == sorted({e.sequence_number for e in events})
    with pytest.raises(RuntimeError):
        async with place.openai["rich"].responses.stream(model="gpt-small", input=HELLO) as stream:
            await stream.get_final_response()


async def test_a_stopped_messages_stream_ends_with_refusal(place: Place) -> None:
    place.sim.say(Scripted(text=TELLING, simulate="delay=3ms"))
    async with place.anthropic["rich"].messages.stream(
        model="claude-small", max_tokens=400, messages=SAID
    ) as stream:
        kinds = [e.type async for e in stream]
        message = await stream.get_final_message()
    text = "".join(b.text for b in message.content if b.type == "text")

    assert message.stop_reason == "refusal"
    assert text.startswith("Line 0 of a long")
    assert "the rest" not in text
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert message.usage.input_tokens > 0


async def test_a_stopped_gemini_stream_ends_with_its_reason(place: Place) -> None:
    place.sim.say(Scripted(text=TELLING, simulate="delay=3ms"))
    chunks = [c async for c in await place.gemini["rich"].aio.models.generate_content_stream(
        model="gemini-small", contents=HELLO)]  # fmt: skip
    text = "".join(c.text or "" for c in chunks)

    assert chunks[-1].candidates is not None
    assert chunks[-1].candidates[0].finish_reason == gt.FinishReason.PROHIBITED_CONTENT
    assert chunks[-1].usage_metadata is not None
    assert text.startswith("Line 0 of a long")
    assert "the rest" not in text


async def test_a_whole_reply_with_the_same_words_is_refused(place: Place) -> None:
    """Verdict parity: what stops a stream refuses a whole reply."""
    for _ in range(3):
        place.sim.say(Scripted(text=TELLING, simulate="delay=3ms"))
    with pytest.raises(openai.BadRequestError):
        await place.openai["rich"].chat.completions.create(model="gpt-small", messages=SAID)
    with pytest.raises(anthropic.BadRequestError):
        await place.anthropic["rich"].messages.create(model="claude-small", max_tokens=400, messages=SAID)
    with pytest.raises(gemini_errors.ClientError):
        await place.gemini["rich"].aio.models.generate_content(model="gemini-small", contents=HELLO)


@pytest.mark.parametrize("fault", ["fin", "cut", "error_in_200"])
async def test_a_broken_stream_raises(place: Place, fault: str) -> None:
    """The provider goes away after text was shown: never a short answer that looks complete."""
    tail = f"[[simulate fault={fault}&after=60&tokens=400&delay=1ms]]"
    said: Any = [{"role": "user", "content": f"{HELLO} {tail}"}]

    async def chat() -> None:
        await drained(
            place.openai["rich"].chat.completions.create(model="gpt-small", messages=said, stream=True)
        )

    async def responses() -> None:
        await drained(place.openai["rich"].responses.create(model="gpt-small", input=said, stream=True))

    async def messages() -> None:
        await drained(place.anthropic["rich"].messages.create(
            model="claude-small", max_tokens=500, messages=said, stream=True))  # fmt: skip

    async def gemini() -> None:
        await drained(place.gemini["rich"].aio.models.generate_content_stream(
            model="gemini-small", contents=said[0]["content"]))  # fmt: skip

    for run, kind in (
        (chat, openai.APIError),
        (responses, openai.APIError),
        (messages, anthropic.APIStatusError),
        (gemini, gemini_errors.APIError),
    ):
        error, attempts = await place.raised(run)
        assert isinstance(error, kind), (run.__name__, type(error))
        assert attempts == 1
        if isinstance(error, openai.APIError):
            assert (error.type, error.code) == ("server_error", "upstream_error")
