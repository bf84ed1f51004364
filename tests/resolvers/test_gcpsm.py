"""`gcpsm://` with Google's own client against a server that answers as the REST reference describes
(https://cloud.google.com/secret-manager/docs/reference/rest/v1/projects.secrets.versions/access)."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmshield import resolvers
from llmshield.errors import SecretError
from llmshield.resolvers import gcpsm

CANARY = "CANARY-gcp-9d20"
SECRETS = {"openai/latest": CANARY, "openai/1": "old", "two/latest": json.dumps({"a": CANARY})}
CHECKED = b"123456789", 0xE3069283  # the check value of CRC-32C (RFC 3720, B.4 has more)


def answer(asked: Any) -> tuple[int, Any, dict[str, str]]:
    path, _, action = asked.path.partition("?")[0].partition(":")
    parts = path.strip("/").split("/")
    if action != "access" or parts[:3] != ["v1", "projects", "team"]:
        return 403, {"error": {"code": 403, "message": f"denied {CANARY}", "status": "PERMISSION_DENIED"}}, {}
    name, version = parts[4], parts[6]
    if name == "disabled":
        return 400, {"error": {"code": 400, "message": CANARY, "status": "FAILED_PRECONDITION"}}, {}
    if name in ("checked", "damaged"):
        data, crc = CHECKED
        payload = {"data": base64.b64encode(data).decode(), "dataCrc32c": str(crc + (name == "damaged"))}
        return 200, {"name": path, "payload": payload}, {}
    text = SECRETS.get(f"{name}/{version}")
    if text is None:
        return 404, {"error": {"code": 404, "message": CANARY, "status": "NOT_FOUND"}}, {}
    return 200, {"name": path, "payload": {"data": base64.b64encode(text.encode()).decode()}}, {}


@pytest.fixture(autouse=True)
def _served(stores: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(gcpsm.ENDPOINT, stores(answer).url)


def ask(rest: str) -> str:
    return resolvers.resolve(f"gcpsm://{rest}", Path(), "openai")


def test_read() -> None:
    assert (CANARY, "old", CANARY) == (ask("team/openai"), ask("team/openai?version=1"), ask("team/two#a"))
    assert "123456789" == ask("team/checked")


@pytest.mark.parametrize(
    ("rest", "words"),
    [
        ("team", "expected gcpsm://PROJECT/NAME"),
        ("team/a/b", "expected gcpsm://PROJECT/NAME"),
        ("team/none", "there is no such secret, or no such version"),
        ("team/openai?version=9", "no such version"),
        ("other/openai", "access is denied; give this account the role"),
        ("team/disabled", "disabled or destroyed"),
        ("team/damaged", "damaged on its way"),
        ("team/two#b", "no text in the field 'b'; there is a"),
        ("team/openai?x=1", "unknown option"),
    ],
)
def test_refused(rest: str, words: str) -> None:
    with pytest.raises(SecretError, match=words) as caught:
        ask(rest)
    assert "CANARY" not in str(caught.value)


@pytest.mark.parametrize(
    ("endpoint", "words"),
    [
        ("http://127.0.0.1:1", "Google can't be reached|Google refuses it"),
        ("http://secretmanager.example.com", "neither https:// nor on this machine"),
        ("", "no Google credentials here: DefaultCredentialsError"),
    ],
)
def test_where_and_who(endpoint: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(gcpsm.ENDPOINT, endpoint)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/nowhere/credentials.json")
    gcpsm._clients.pop("", None)
    with pytest.raises(SecretError, match=words):
        ask("team/openai")
