"""A body of one dialect, as a provider of another one would be asked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import orjson
import pytest

from llmshield.call import Call
from llmshield.registry import find
from llmshield.testing import read

PATHS = {
    "openai_chat": "/v1/chat/completions",
    "openai_responses": "/v1/responses",
    "anthropic_messages": "/v1/messages",
    "gemini": "/v1beta/models/m:generateContent",
}


@dataclass
class Told:
    """What a provider is told: its body, and what it is not told."""

    body: dict[str, Any]
    lost: list[str]
    missing: list[str]


def _asked(name: str, body: dict[str, Any]) -> Call:
    return read(orjson.loads(orjson.dumps(body)), path=PATHS[name])


@pytest.fixture(scope="session")
def asked() -> Callable[[str, dict[str, Any]], Call]:
    """`asked("openai_chat", body)`: the call in a body."""
    return _asked


@pytest.fixture(scope="session")
def told() -> Callable[..., Told]:
    """`told("openai_chat", body, "anthropic_messages", "claude-sonnet-4-5")`: what the target is told."""

    def tell(source: str, body: dict[str, Any], target: str, model: str) -> Told:
        c = find("translator", source)().read_conversation(_asked(source, body))
        c.model = model
        written = find("translator", target)().write_conversation(c)
        return Told(orjson.loads(orjson.dumps(written)), c.lost, c.missing)

    return tell
