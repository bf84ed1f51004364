"""`vault://` against a server that answers as HashiCorp's API pages describe: KV version 2 and AppRole."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from llmshield import redact, resolvers
from llmshield.errors import SecretError
from llmshield.resolvers import vault
from llmshield.testing import FrozenClock

CANARY = "CANARY-4b0c99d1"
TOKEN, SECRET_ID = "hvs.CANARYtoken00000000000001", "CANARYsecretid-0002"


class Vault:
    """The parts of Vault that are asked for: secrets by path and version, tokens, one role."""

    def __init__(self) -> None:
        self.secrets: dict[str, list[dict[str, str] | None]] = {
            "kv/data/llm/openai": [{"api_key": "old"}, {"api_key": CANARY}],
            "kv/data/two": [{"a": CANARY, "b": "other"}],
            "kv/data/gone": [None],
        }
        self.tokens = {TOKEN}
        self.logins = 0
        self.lease = 3600
        self.fail: int | None = None
        self.namespace = ""

    def __call__(self, asked: Any) -> tuple[int, Any, dict[str, str]]:
        if self.fail is not None:
            location = {"Location": "http://127.0.0.1:9/v1/elsewhere"} if 300 <= self.fail < 400 else {}
            return self.fail, {"errors": [f"secret {CANARY}"]}, location
        if (
            asked.headers.get("x-vault-namespace", "") != self.namespace
            or asked.headers.get("x-vault-request") != "true"
        ):
            return 403, {"errors": ["permission denied"]}, {}
        if asked.method == "POST" and asked.path == "/v1/auth/approle/login":
            if json.loads(asked.body) != {"role_id": "role-1", "secret_id": SECRET_ID}:
                return 400, {"errors": ["invalid role or secret ID"]}, {}
            self.logins += 1
            token = f"hvs.CANARYlogin{self.logins:016}"
            self.tokens.add(token)
            auth = {"client_token": token, "lease_duration": self.lease, "renewable": True}
            return 200, {"auth": auth, "data": None}, {}
        if asked.headers.get("x-vault-token") not in self.tokens:
            return 403, {"errors": ["permission denied"]}, {}
        path, _, query = asked.path.removeprefix("/v1/").partition("?version=")
        versions = self.secrets.get(path, [])
        number = int(query or len(versions))
        if not 1 <= number <= len(versions):
            return 404, {"errors": []}, {}
        metadata = {"version": number, "deletion_time": "", "destroyed": False}
        if versions[number - 1] is None:
            return (
                404,
                {"data": {"data": None, "metadata": {**metadata, "deletion_time": "2026-01-01T00:00:00Z"}}},
                {},
            )
        return 200, {"lease_duration": 0, "data": {"data": versions[number - 1], "metadata": metadata}}, {}


@pytest.fixture
def served(stores: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Vault, Any]]:
    there = Vault()
    store = stores(there)
    for name in (
        "VAULT_NAMESPACE",
        "VAULT_CACERT",
        "VAULT_ROLE_ID",
        "VAULT_SECRET_ID",
        "VAULT_APPROLE_MOUNT",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("VAULT_ADDR", store.url + "/")
    monkeypatch.setenv("VAULT_TOKEN", TOKEN)
    vault._tokens.clear()
    yield there, store
    redact.forget(CANARY)


def ask(rest: str) -> str:
    return resolvers.resolve(f"vault://{rest}", Path("/nowhere"), "openai")


def test_read(served: tuple[Vault, Any]) -> None:
    assert CANARY == ask("kv/llm/openai#api_key") == ask("kv/llm/openai")
    assert "old" == ask("kv/llm/openai?version=1#api_key")
    assert CANARY == ask("kv/two#a")
    assert "vault" in resolvers.SecretRef.parse("vault://kv/x").__str__()  # type: ignore[union-attr]
    assert resolvers.warn("vault://kv/two#a", Path()) == ""


def test_the_token_is_in_a_header_and_nowhere_else(served: tuple[Vault, Any]) -> None:
    ask("kv/llm/openai")
    for asked in served[1].asked:
        assert TOKEN == asked.headers["x-vault-token"]
        assert TOKEN not in asked.path


def test_a_namespace(served: tuple[Vault, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    served[0].namespace = "team/a"
    monkeypatch.setenv("VAULT_NAMESPACE", "team/a")

    assert CANARY == ask("kv/llm/openai")


def approle(monkeypatch: pytest.MonkeyPatch, role: str = "role-1") -> None:
    monkeypatch.delenv("VAULT_TOKEN")
    monkeypatch.setenv("VAULT_ROLE_ID", role)
    monkeypatch.setenv("VAULT_SECRET_ID", SECRET_ID)


def test_approle_logs_in_once_for_its_lease(
    served: tuple[Vault, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    approle(monkeypatch)
    served[0].lease = 100
    with FrozenClock() as clock:
        assert [CANARY] * 3 == [ask("kv/llm/openai") for _ in range(3)]
        clock.advance(79)
        ask("kv/llm/openai")
        assert 1 == served[0].logins
        clock.advance(2)
        ask("kv/llm/openai")
        assert 2 == served[0].logins


def test_approle_logs_in_again_when_its_token_was_revoked(
    served: tuple[Vault, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    approle(monkeypatch)
    ask("kv/llm/openai")
    served[0].tokens.clear()

    assert CANARY == ask("kv/llm/openai")
    assert 2 == served[0].logins


def test_a_role_that_is_none(served: tuple[Vault, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    approle(monkeypatch, "role-9")

    with pytest.raises(SecretError, match="the login with AppRole failed: Vault takes it for wrong"):
        ask("kv/llm/openai")


@pytest.mark.parametrize(
    ("rest", "words"),
    [
        ("kv", "expected vault://MOUNT/PATH#FIELD"),
        ("kv/llm/openai?version=x", "the version is no number"),
        ("kv/llm/openai?colour=red", "unknown option 'colour'; it may have version"),
        ("kv/none", "there is no such secret"),
        ("kv/llm/openai?version=9", "there is no such secret"),
        ("kv/gone", "this version was deleted or destroyed"),
        ("kv/two", "several fields; write which one, such as #api_key .there is a, b."),
        ("kv/two#c", "no text in the field 'c'; there is a, b"),
    ],
)
def test_refused(rest: str, words: str, served: tuple[Vault, Any]) -> None:
    with pytest.raises(SecretError, match=words) as caught:
        ask(rest)
    assert "CANARY" not in str(caught.value)


@pytest.mark.parametrize(
    ("status", "words"),
    [(301, "redirect .301., which is not followed"), (307, "redirect"), (403, "Vault denies it"), (429, "active one"),
     (473, "active one"), (500, "Vault answers 500"), (502, "Vault answers 502"), (503, "sealed or in maintenance"),
     (200, "no data.data")],
)  # fmt: skip
def test_what_vault_says(status: int, words: str, served: tuple[Vault, Any]) -> None:
    served[0].fail = status
    with pytest.raises(SecretError, match=words) as caught:
        ask("kv/llm/openai")
    assert "CANARY" not in str(caught.value)
    assert 1 == len(served[1].asked)


@pytest.mark.parametrize("answer", [b"", b"<html>", b"[1", b"null", b'{"data":[]}', b"x" * (2**20 + 1)])
def test_answers_that_are_none(
    answer: bytes, stores: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VAULT_ADDR", stores(lambda asked: (200, answer, {})).url)
    monkeypatch.setenv("VAULT_TOKEN", TOKEN)
    with pytest.raises(SecretError, match=r"no data\.data|larger than"):
        ask("kv/llm/openai")


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"VAULT_ADDR": ""}, "export VAULT_ADDR"),
        ({"VAULT_ADDR": "vault.local:8200"}, "export VAULT_ADDR"),
        ({"VAULT_ADDR": "http://vault.example.com:8200"}, "plain http"),
        ({"VAULT_ADDR": "http://127.0.0.1:1"}, "can't be reached at 127.0.0.1: ConnectionRefused"),
        ({"VAULT_TOKEN": ""}, "set VAULT_TOKEN, or VAULT_ROLE_ID"),
        ({"VAULT_TOKEN": "hvs.CANARYnosuch000000000"}, "Vault denies it"),
    ],
)
def test_where_and_who(
    environment: dict[str, str], words: str, served: tuple[Vault, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SecretError, match=words) as caught:
        ask("kv/llm/openai")
    assert "CANARY" not in str(caught.value)
