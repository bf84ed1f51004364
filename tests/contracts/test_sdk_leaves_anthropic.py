"""Every string leaf of the Anthropic SDK's types is scanned, or on the dialect's written list.

The types are those of the installed SDK: an upgrade that adds a leaf that no model reads fails here until the list
says so; one that adds a text is covered already.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import orjson
import pytest
from anthropic import types
from anthropic.types import beta
from anthropic.types.beta import message_count_tokens_params as beta_count
from anthropic.types.beta import message_create_params as beta_create

from llmshield.call import Call
from llmshield.dialects import WireRequest
from llmshield.dialects._anthropic_pieces import NOT_TEXT as REPLY_NOT_TEXT
from llmshield.dialects._anthropic_texts import NOT_TEXT, OPAQUE
from llmshield.dialects.anthropic_messages import AnthropicMessages

Leaves = Callable[[Any, str], Iterator[tuple[tuple[str, ...], Any]]]

DIALECT = AnthropicMessages()
TOKEN = "CANARYx7f"
WORDS = "canary with blanks"

REQUESTS = [
    types.message_create_params.MessageCreateParamsStreaming,
    beta_create.MessageCreateParamsStreaming,
    types.message_count_tokens_params.MessageCountTokensParams,
    beta_count.MessageCountTokensParams,
]
BASE = {"model": "claude-x", "messages": [{"role": "user", "content": "hi"}]}

SEALED_PLACES = {("redacted_thinking", "data"), ("base64", "data")}
"""Bytes: sealed by the API, or of a picture or PDF (the call is marked unseen)."""

NO_NAMES_IN_REPLIES = "names inside a tool call's arguments are no texts of a reply: a filter sees values"


def read(body: dict[str, Any]) -> Call:
    return DIALECT.read_call("id", "generate", WireRequest("POST", "/v1/messages"), {**BASE, **body})


def listed(path: tuple[str, ...], value: Any, names: set[str]) -> bool:
    """True when the leaf's own name is on the list, or its place is one of `SEALED_PLACES`."""
    named = [step for step in path if not step.startswith("*")]
    if named and named[-1] in names:
        return True
    kinds = {node.get("type") for node in nodes(value)}
    return any(named and named[-1] == name and kind in kinds for kind, name in SEALED_PLACES)


def nodes(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
        for inner in value.values():
            yield from nodes(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from nodes(inner)


@pytest.mark.parametrize(
    "kind", REQUESTS, ids=lambda kind: f"{kind.__module__.split('.')[-2]}.{kind.__name__}"
)
def test_every_leaf_of_a_request(kind: Any, sdk_leaves: Leaves) -> None:
    names = {*NOT_TEXT, *OPAQUE}
    missed, count = set(), 0
    for path, body in sdk_leaves(kind, TOKEN):
        if path == ("stream",):
            continue
        count += 1
        call = read(body)
        if not any(TOKEN in text.value for text in call.texts) and not listed(path, body, names):
            missed.add(".".join(path))

    assert missed == set()
    assert count > 200


@pytest.mark.parametrize("kind", REQUESTS[:2], ids=["messages", "beta"])
def test_a_text_in_any_leaf_is_scanned_list_or_not(kind: Any, sdk_leaves: Leaves) -> None:
    missed = {
        ".".join(path)
        for path, body in sdk_leaves(kind, WORDS)
        if path != ("stream",) and not any(WORDS in text.value for text in read(body).texts)
    }

    assert missed == set()


@pytest.mark.parametrize("kind", [types.Message, beta.BetaMessage], ids=["messages", "beta"])
def test_every_leaf_of_a_reply(kind: Any, sdk_leaves: Leaves) -> None:
    call = read({})
    missed, count = set(), 0
    for path, tree in sdk_leaves(kind, TOKEN):
        count += 1
        tree = {"content": [], **aliased(tree)}
        pieces = DIALECT.read_reply(call, tree).pieces
        if any(piece.holder[piece.key] == TOKEN for piece in pieces) or path[-1] == "*name":
            continue
        if not listed(path, tree, {*REPLY_NOT_TEXT}):
            missed.add(".".join(path))

    assert missed == set()
    assert count > 100


STARTS = [
    {"type": "text", "text": ""},
    {"type": "thinking", "thinking": ""},
    {"type": "tool_use", "id": "i", "name": "f", "input": {}},
]


@pytest.mark.parametrize(
    "kind", [types.RawMessageStreamEvent, beta.BetaRawMessageStreamEvent], ids=["messages", "beta"]
)
def test_every_leaf_of_an_event(kind: Any, sdk_leaves: Leaves) -> None:
    call = read({"stream": True})
    missed, count = set(), 0
    for path, tree in sdk_leaves(kind, TOKEN):
        count += 1
        event = aliased(tree)
        events = [event]
        if event["type"] not in ("message_start", "content_block_start"):
            events.insert(0, {"type": "content_block_start", "index": 0, "content_block": STARTS[0]})
        if event["type"] != "message_start":
            events.insert(0, {"type": "message_start", "message": {}})
        codec = DIALECT.open_stream(call)
        data = b"".join(b"event: x\ndata: %b\n\n" % orjson.dumps(one) for one in events)
        last = codec.feed(data)[-1]
        if any(piece.holder[piece.key] == TOKEN for piece in last.pieces) or path[-1] == "*name":
            continue
        if not listed(path, event, {*REPLY_NOT_TEXT}):
            missed.add(".".join(path))

    assert missed == set()
    assert count > 100


def aliased(tree: Any) -> Any:
    """`from_` is how the SDK spells the field `from` in Python."""
    if isinstance(tree, dict):
        return {("from" if key == "from_" else key): aliased(value) for key, value in tree.items()}
    return [aliased(value) for value in tree] if isinstance(tree, list) else tree
