"""`awsssm://` with boto3 against moto's server on a socket."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmshield import resolvers
from llmshield.errors import SecretError

CANARY = "CANARY-ssm-77ab"


def ask(rest: str) -> str:
    return resolvers.resolve(f"awsssm://{rest}", Path(), "openai")


@pytest.fixture
def parameters(aws: Callable[[str], Any]) -> Any:
    client = aws("ssm")
    for name, value in (
        ("/llm/openai", "old"),
        ("/llm/openai", CANARY),
        ("plain", CANARY),
        ("/json", f'{{"k": "{CANARY}"}}'),
    ):
        client.put_parameter(Name=name, Value=value, Type="SecureString", Overwrite=True)
    return client


def test_read(parameters: Any) -> None:
    assert CANARY == ask("llm/openai") == ask("/llm/openai") == ask("plain") == ask("/json#k")
    assert CANARY == ask("plain?region=eu-central-1")
    assert "old" == ask("/llm/openai:1")


@pytest.mark.parametrize(
    ("rest", "words"),
    [
        ("none", "awsssm://none: there is no such parameter"),
        ("plain#k", "no JSON object"),
        ("plain?x=1", "unknown option"),
    ],
)
def test_refused(rest: str, words: str, parameters: Any) -> None:
    with pytest.raises(SecretError, match=words) as caught:
        ask(rest)
    assert "CANARY" not in str(caught.value)
