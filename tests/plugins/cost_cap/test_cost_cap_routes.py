"""A budget that is spent sends nothing: every route of every dialect, and what no dialect knows.

The table of routes is made from the dialects themselves, so that a new one without a verdict here fails.
"""

import sys
from collections.abc import Callable, Iterator
from typing import Any

import orjson
import pytest

from llmshield import registry
from llmshield.dialects import gemini
from llmshield.traffic import Dialects

SPENT = "0.000000001 USD/day"
"""Less than any call costs."""


def routes() -> Iterator[tuple[str, str, str]]:
    """(dialect, operation, path) of everything that a dialect answers by POST, as its own module spells the paths."""
    known = Dialects()
    for name in sorted(registry.names("dialect")):
        dialect = known[name]
        module = vars(sys.modules[type(dialect).__module__])
        paths = {value for value in module.values() if isinstance(value, str) and value.startswith("/")}
        if endpoint := getattr(dialect, "endpoint", None):
            paths |= {f"/v1{endpoint}", endpoint}
        if name == "gemini":
            for place in ("models", "tunedModels"):
                paths |= {f"/v1beta/{place}/gemini-2.5-flash:{method}" for method in gemini.METHODS}
                paths |= {f"/v1/{place}/gemini-2.5-flash:{method}" for method in gemini.METHODS}
        claimed = [(path, known.find("POST", path, {})) for path in sorted(paths)]
        found = [(name, op, path) for path, hit in claimed if hit is not None for own, op in [hit] if own is dialect]  # fmt: skip
        assert found, f"no path of {name} was found: how does its module spell them?"
        yield from found


TABLE = list(routes())

HI = [{"role": "user", "content": "Hello"}]
PARTS = {"contents": [{"role": "user", "parts": [{"text": "Hello"}]}]}
BODIES: dict[tuple[str, str], dict[str, Any]] = {
    ("openai_chat", "generate"): {"model": "gpt-4o-mini", "messages": HI},
    ("openai_completions", "generate"): {"model": "gpt-3.5-turbo-instruct", "prompt": "Hello"},
    ("openai_responses", "generate"): {"model": "gpt-4o-mini", "input": "Hello"},
    ("openai_embeddings", "embed"): {"model": "text-embedding-3-small", "input": "Hello"},
    ("anthropic_messages", "generate"): {"model": "claude-haiku-4-5", "max_tokens": 50, "messages": HI},
    ("anthropic_messages", "count_tokens"): {"model": "claude-haiku-4-5", "messages": HI},
    ("gemini", "generate"): PARTS,
    ("gemini", "count_tokens"): PARTS,
    ("gemini", "embed"): {"content": PARTS["contents"][0]},
}
"""What is sent on each route; a route that is not here has no verdict."""
FREE = {"count_tokens"}
"""Operations that no provider bills: they pass with an empty purse."""


def test_the_table_holds_every_dialect_and_every_kind_of_call() -> None:
    assert {dialect for dialect, _, _ in TABLE} == set(registry.names("dialect"))
    assert {(dialect, operation) for dialect, operation, _ in TABLE} == set(BODIES)
    assert len(TABLE) >= 20


@pytest.mark.parametrize("streams", [False, True], ids=["whole", "stream"])
async def test_a_spent_budget_sends_not_a_byte(streams: bool, canned: Callable[..., Any]) -> None:
    async with canned(budget=SPENT) as house:
        for dialect, operation, path in TABLE:
            body = BODIES[dialect, operation]
            if streams and operation == "generate" and dialect != "gemini":
                body = {**body, "stream": True}
            if operation == "embed" and path.endswith(":batchEmbedContents"):
                body = {"requests": [body]}
            before = house.upstream.received, house.upstream.connections
            status, said = await house.post(path, body)
            if operation in FREE:
                assert house.upstream.received > before[0], path
                continue

            assert status in {400, 402, 404, 429}, (path, status, said)
            assert (house.upstream.received, house.upstream.connections) == before, path
            assert b"Budget" in said or b"No price" in said, (path, said)


UNKNOWN = [
    ("POST", "/v1/audio/speech", b'{"model": "tts-1", "input": "Hello"}'),
    ("POST", "/v1/audio/transcriptions", b"--x--"),
    ("POST", "/v1/images/generations", b'{"model": "gpt-image-1", "prompt": "Hello"}'),
    ("POST", "/v1/batches", b'{"input_file_id": "f", "endpoint": "/v1/chat/completions", "completion_window": "24h"}'),
    ("POST", "/v1/files", b"x" * 4_000),
    ("POST", "/v1/messages/batches", b'{"requests": []}'),
    ("POST", "/v1beta/models/gemini-2.5-flash:batchGenerateContent", b"{}"),
    ("POST", "/v1beta/models/veo-3:predictLongRunning", b"{}"),
    ("POST", "/v1/fine_tuning/jobs", b"{}"),
    ("POST", "/v1/moderations", b'{"input": "Hello"}'),
    ("POST", "/unheard/of", b"{}"),
    ("GET", "/v1/responses/resp_1", b""),
    ("POST", "/v1/responses/compact", b'{"model": "gpt-5", "input": "Hello"}'),
]  # fmt: skip


@pytest.mark.parametrize("paths", ["refused", "passed without a price", "passed with a price"])
async def test_what_no_dialect_knows_sends_nothing_either(
    paths: str, canned: Callable[..., Any], policy_text: str
) -> None:
    """Refused by default; let through by the policy, such a path costs its fee, and without one it has no price."""
    server = {
        "refused": "",
        "passed without a price": ", unknown_traffic: pass",
        "passed with a price": ', paths: [{{match: "/*", action: pass, price: 0.01 USD/call}}]',
    }[paths]
    text = policy_text.replace('store: "{store}"', 'store: "{store}"' + server)
    async with canned(budget=SPENT, text=text) as house:
        for method, path, body in UNKNOWN:
            async with house.client.request(method, house.url + path, data=body) as reply:
                status, said = reply.status, await reply.read()

            assert 400 <= status < 600, (path, said)
            assert house.upstream.connections == 0, path


@pytest.mark.parametrize("path", ["/v1/realtime", "/v1/chat/completions", "/v1/messages", "/v1/responses"])
async def test_a_web_socket_sends_nothing(path: str, canned: Callable[..., Any]) -> None:
    async with canned(budget=SPENT) as house:
        head = {
            "connection": "Upgrade", "upgrade": "websocket", "sec-websocket-version": "13",
            "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
        }  # fmt: skip
        async with house.client.get(f"{house.url}{path}?model=gpt-4o-mini", headers=head) as reply:
            assert reply.status >= 400

        assert house.upstream.connections == 0


async def test_money_that_is_there_is_sent_for(canned: Callable[..., Any]) -> None:
    """The same table with a full purse reaches the upstream: the rows above are refused for money alone."""
    async with canned() as house:
        house.upstream.body = orjson.dumps({"error": {"message": "x"}})
        for dialect, operation, path in TABLE:
            if "tunedModels" in path or path.endswith(":batchEmbedContents"):
                continue  # tuned models have no price in the list
            before = house.upstream.received
            await house.post(path, BODIES[dialect, operation])

            assert house.upstream.received > before, path
