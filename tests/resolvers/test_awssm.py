"""`awssm://` with boto3 against moto's server on a socket."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmshield import resolvers
from llmshield.errors import SecretError

CANARY = "CANARY-aws-3f21"


def ask(rest: str) -> str:
    return resolvers.resolve(f"awssm://{rest}", Path(), "openai")


@pytest.fixture
def secrets(aws: Callable[[str], Any]) -> Any:
    client = aws("secretsmanager")
    for name, kept in (("llm/openai", {"SecretString": CANARY}), ("two", {"SecretString": json.dumps({"a": CANARY, "b": 7})}),
                       ("bytes", {"SecretBinary": CANARY.encode()}), ("noise", {"SecretBinary": b"\xff\x00"})):  # fmt: skip
        try:
            client.create_secret(Name=name, **kept)
        except client.exceptions.ResourceExistsException:
            client.put_secret_value(SecretId=name, **kept)
    return client


def test_read(secrets: Any) -> None:
    arn = secrets.describe_secret(SecretId="llm/openai")["ARN"]

    assert CANARY == ask("llm/openai") == ask(arn) == ask("two#a") == ask("bytes")
    assert CANARY == ask("llm/openai?region=eu-central-1&stage=AWSCURRENT")
    first = secrets.get_secret_value(SecretId="llm/openai")["VersionId"]
    secrets.put_secret_value(SecretId="llm/openai", SecretString="newer")
    assert ("newer", CANARY) == (ask("llm/openai"), ask(f"llm/openai?version={first}"))


@pytest.mark.parametrize(
    ("rest", "words"),
    [
        ("none", "awssm://none: there is no such secret"),
        ("two?region=us-east-1", "there is no such secret"),
        ("two#c", "no text in the field 'c'; there is a, b"),
        ("two#b", "no text in the field 'b'"),
        ("llm/openai#a", "no JSON object"),
        ("noise", "no text"),
        ("two?colour=red", "unknown option 'colour'; it may have region, version, stage"),
    ],
)
def test_refused(rest: str, words: str, secrets: Any) -> None:
    with pytest.raises(SecretError, match=words) as caught:
        ask(rest)
    assert "CANARY" not in str(caught.value)


def test_aws_away_or_nobody(secrets: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    with pytest.raises(SecretError, match="AWS can't be asked: EndpointConnectionError"):
        ask("llm/openai")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere/credentials")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere/config")
    with pytest.raises(SecretError, match="NoCredentialsError; give this process a role"):
        ask("llm/openai")


def test_denied(stores: Callable[..., Any], aws: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """moto denies nothing, so this is the answer that AWS documents, from a server of its own."""
    body = {"__type": "AccessDeniedException", "Message": f"User {CANARY} is not authorized"}
    store = stores(lambda asked: (400, body, {"Content-Type": "application/x-amz-json-1.1"}))
    monkeypatch.setenv("AWS_ENDPOINT_URL", store.url)
    with pytest.raises(SecretError, match="access is denied; give this role the right to read it") as caught:
        ask("llm/openai")
    assert "CANARY" not in str(caught.value)
