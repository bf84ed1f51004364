"""The SDKs for JavaScript through the sidecar: the same objects as straight from the provider, the right errors.

`openai`, `@anthropic-ai/sdk` and `ai` with its OpenAI and Anthropic providers, at the versions that the lock file in
node/ pins; `make test` installs them there where node and npm exist. The scripts in node/ do the asking.
"""

import asyncio
import hashlib
import json
import shutil
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from llmshield.mounts._request import HttpRequest
from llmshield.mounts.gateway import Gateway
from llmshield.runtime import Runtime
from llmshield.simulator import Simulator
from llmshield.testing import policy

OLDEST = 20
HERE = Path(__file__).parent / "node"
MISSING = (
    "node is not installed"
    if shutil.which("node") is None
    else "the npm packages are not installed: make npm"
    if not (HERE / "node_modules" / ".package-lock.json").exists()
    else ""
)
pytestmark = [
    pytest.mark.npm,
    pytest.mark.skipif(bool(MISSING), reason=MISSING),
    pytest.mark.asyncio(loop_scope="module"),
]

WORD = "open sesame hidden lamp"
KEYS = {name: f"sk-{name}-0123456789abcdef" for name in ("rich", "poor", "slow")}
POLICY = """
version: 1
defaults: {timeout: 10s}
server: {store: "memory://", limits: {body: 20KiB}}
providers:
  openai: {dialect: openai, base_url: "URL/v1", prices: {input: 1, output: 4}}
  anthropic: {dialect: anthropic, base_url: "URL", prices: {input: 1, output: 4}}
  openai-down: {dialect: openai, base_url: "http://127.0.0.1:9/v1", prices: {input: 1, output: 4}}
  anthropic-down: {dialect: anthropic, base_url: "http://127.0.0.1:9", prices: {input: 1, output: 4}}
routes:
  - {match: {model: "gpt-down"}, to: [openai-down]}
  - {match: {model: "claude-down"}, to: [anthropic-down]}
  - {match: {model: "*-secret"}, deny: {message: "Model {model} is not on the allow list."}}
  - {match: {model: "claude-*"}, to: [anthropic]}
  - {match: {any: true}, to: [openai]}
identify: [virtual_key]
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
  - {use: injection, deny: ["WORD"], scan: [system, user, assistant, tool]}
  - {use: pii, entities: {"*": {action: replace}}, restore: true, scan: [user, tool]}
  - {use: failover}
"""
HELLO = "Tell me about rivers."

# event: (whose key, model's second half, prompt)
EVENTS = {
    "block": ("rich", "small", f"Say {WORD}, please."),
    "budget": ("poor", "small", HELLO),
    "rate": ("slow", "small", HELLO),
    "down": ("rich", "down", HELLO),
    "key": ("wrong", "small", HELLO),
    "model": ("rich", "secret", HELLO),
    "large": ("rich", "small", "river " * 5000),
}
OPENAI = {
    "block": ("BadRequestError", 400, "content_policy_violation", "invalid_request_error", 1),
    "budget": ("RateLimitError", 429, "insufficient_quota", "insufficient_quota", 1),
    "rate": ("RateLimitError", 429, "rate_limit_exceeded", "rate_limit_error", 3),
    "down": ("InternalServerError", 503, "no_provider_available", "server_error", 3),
    "key": ("AuthenticationError", 401, "invalid_api_key", "invalid_request_error", 1),
    "model": ("NotFoundError", 404, "model_not_found", "invalid_request_error", 1),
    "large": ("BadRequestError", 400, "context_length_exceeded", "invalid_request_error", 1),
}
ANTHROPIC = {
    "block": ("BadRequestError", 400, None, "invalid_request_error", 1),
    "budget": ("PaymentRequiredError", 402, None, "billing_error", 1),
    "rate": ("RateLimitError", 429, None, "rate_limit_error", 3),
    "down": ("OverloadedError", 529, None, "overloaded_error", 3),
    "key": ("AuthenticationError", 401, None, "authentication_error", 1),
    "model": ("NotFoundError", 404, None, "not_found_error", 1),
    "large": ("ContentTooLargeError", 413, None, "request_too_large", 1),
}
# ai repeats every 408, 409, 429 and 5xx, whatever x-should-retry says; the class tells whether it did.
AI = {event: ("RetryError" if status in {429, 503} else "APICallError", status, code, kind, 3 if status in {429, 503} else 1)
      for event, (_, status, code, kind, _) in OPENAI.items()}  # fmt: skip
AI_ANTHROPIC = {event: ("RetryError" if status in {429, 529} else "APICallError", status, None, kind, 3 if status in {429, 529} else 1)
                for event, (_, status, _, kind, _) in ANTHROPIC.items()}  # fmt: skip
WAYS = {
    "openai": OPENAI,
    "openai-stream": OPENAI,
    "anthropic": ANTHROPIC,
    "anthropic-stream": ANTHROPIC,
    "ai": AI,
    "ai-anthropic": AI_ANTHROPIC,
}


class Counted:
    """The gateway's handler; counts the calls that reach it by their mark."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self.calls: dict[str, int] = {}

    async def __call__(self, request: HttpRequest) -> None:
        headers = {name.lower(): value for name, value in request.headers}
        mark = headers.get(b"x-test-call", b"").decode()
        self.calls[mark] = self.calls.get(mark, 0) + 1
        await self.app(request)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def place(serving_handler: Any) -> AsyncIterator[tuple[Simulator, Counted, str]]:
    version = await asyncio.create_subprocess_exec("node", "--version", stdout=asyncio.subprocess.PIPE)
    major = int((await version.communicate())[0].decode().lstrip("v").split(".")[0])
    if major < OLDEST:
        pytest.skip(f"node {major} is too old for these SDKs; {OLDEST} or later is needed")
    given = POLICY.replace("WORD", WORD)
    for name, key in {**KEYS, "rich": "sk-any"}.items():
        given = given.replace(name.upper(), hashlib.sha256(key.encode()).hexdigest())
    async with AsyncExitStack() as stack:
        sim = await stack.enter_async_context(Simulator(stable=True))
        runtime = Runtime(policy(given.replace("URL", sim.url)), mount="gateway")
        await runtime.start()
        stack.push_async_callback(runtime.close)
        counted = Counted(Gateway(runtime))
        yield sim, counted, await stack.enter_async_context(serving_handler(counted))


async def node(script: str, *arguments: str) -> Any:
    """What a script prints, as JSON."""
    process = await asyncio.create_subprocess_exec(
        "node", str(HERE / script), *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(60):
        out, error = await process.communicate()
    assert process.returncode == 0, error.decode()
    return json.loads(out)


async def test_objects_are_the_same(place: tuple[Simulator, Counted, str]) -> None:
    sim, _, url = place
    found = await node("parity.mjs", sim.url, url)
    different = {name: got for name, got in found.items() if got["straight"] != got["guarded"]}
    raised = {name: got for name, got in found.items() if "raised" in got["straight"]}

    assert len(found) > 25
    assert raised == {}
    assert different == {}


async def test_refusals_raise_the_right_class(place: tuple[Simulator, Counted, str]) -> None:
    _, counted, url = place
    keys = {**KEYS, "rich": "sk-any", "wrong": "sk-nobody-knows-this-key"}
    events = [
        {"event": event, "key": keys[key], "text": text, "model": {"openai": f"gpt-{model}", "anthropic": f"claude-{model}"}}
        for event, (key, model, text) in EVENTS.items()
    ]  # fmt: skip
    # The one call that `slow` has in an hour comes first.
    first = {
        "event": "first",
        "key": keys["slow"],
        "text": HELLO,
        "model": {"openai": "gpt-small", "anthropic": "x"},
    }
    found = {
        entry["mark"]: entry["raised"]
        for entry in await node("refusals.mjs", url, json.dumps([first, *events]))
    }
    wrong = []
    for way, table in WAYS.items():
        for event, expected in table.items():
            raised = found[f"{event}/{way}"] or {}
            got = (
                *(raised.get(name) for name in ("name", "status", "code", "type")),
                counted.calls[f"{event}/{way}"],
            )
            if expected != got:
                wrong.append(f"{event}/{way}: expected {expected}, got {got}")
            assert WORD not in str(raised)

    assert not wrong, "\n".join(wrong)
