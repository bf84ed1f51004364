"""Providers over the admin port: shown with where each value comes from, set while they run, revoked, lifted."""

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from llmshield.errors import UpstreamError

KEY = "sk-CANARY-set-while-it-runs-0123456789"


@pytest.fixture(autouse=True)
def _sealed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMSHIELD_SECRET_KEY", secrets.token_urlsafe(32) + "=")


async def until(done: Callable[[], bool]) -> None:
    began = time.monotonic()
    while not done():
        assert time.monotonic() - began < 10
        await asyncio.sleep(0.02)


def settings(said: Any) -> dict[str, tuple[Any, str]]:
    return {each["name"]: (each["value"], each["source"]) for each in said.json["settings"]}


async def test_the_list(desk: Any) -> None:
    said = await desk.ask("GET", "/v1/providers", key="read")

    a, b = said.json["providers"]
    assert ("a", "b", True, "closed", "env", "good") == (
        a["name"], b["name"], a["active"], a["circuit"], a["key"]["from"], a["key"]["state"],
    )  # fmt: skip
    assert {"requests": None, "tokens": None} == a["remaining"]
    assert b"CANARY" not in said.body


async def test_every_value_tells_where_it_comes_from(desk: Any) -> None:
    said = await desk.ask("GET", "/v1/providers/a", key="read")
    found = settings(said)

    assert ("openai", "policy") == found["dialect"]
    assert ("env://KEY_OF_A", "policy") == found["api_key"]
    assert (600.0, "default") == found["timeout.total"]
    assert (2, "policy") == found["circuit.failures"]
    assert (30.0, "default") == found["circuit.window"]
    assert (["*"], "default") == found["models.allow"]
    assert {"api_key", "timeout", "models"} == {
        each["name"].partition(".")[0] for each in said.json["settings"] if each["settable"]
    }


async def test_a_key_is_set_and_unset(desk: Any) -> None:
    keys = desk.runtime.keys
    said = await desk.ask("POST", "/v1/providers/a/configure", {"api_key": KEY})
    await until(
        lambda: (
            keys.status("a") | {"age_s": 0} == {"from": "store", "state": "good", "age_s": 0, "failing": None}
        )
    )

    assert 200 == said.status
    assert KEY == keys.get("a")
    shown = await desk.ask("GET", "/v1/providers/a")
    assert ("env://KEY_OF_A", "run_time") == settings(shown)["api_key"]
    for answer in (said, shown, await desk.ask("GET", "/v1/policy"), await desk.ask("GET", "/status")):
        assert b"CANARY" not in answer.body
    notes = await desk.runtime.store.notes("provider_keys", 0)
    assert all(b"CANARY" not in note for note in notes.values())
    await desk.ask("POST", "/v1/providers/a/unset", {"names": ["api_key"]})
    await until(
        lambda: keys.get("a") == "sk-CANARY-of-provider-a-0123456789"
    )  # until it is read the former goes on
    assert ("env", "good") == (keys.status("a")["from"], keys.status("a")["state"])
    records = desk.records()
    assert ["provider.configure"] * 2 + ["provider.unset"] * 2 == [each["action"] for each in records]
    assert "CANARY" not in str(records)


async def test_timeouts_and_models_are_set_and_unset(desk: Any) -> None:
    said = await desk.ask(
        "POST",
        "/v1/providers/a/configure",
        {"timeout": {"total": "30s"}, "models": {"allow": ["gpt-*"], "deny": ["*-x"]}},
    )
    found = settings(said)
    live = desk.runtime.policy.providers["a"]

    assert (30.0, "run_time") == found["timeout.total"]
    assert (60.0, "default") == found["timeout.idle"]
    assert (["gpt-*"], "run_time") == found["models.allow"]
    assert (30.0, True, False) == (
        live.timeout.total,
        live.models.allows("gpt-4o"),
        live.models.allows("gpt-x"),
    )
    assert said.json["set_at"]
    policy = await desk.ask("GET", "/v1/policy")
    assert {"a": ["models.allow", "models.deny", "timeout.total"]} == policy.json["set_since"]
    said = await desk.ask("POST", "/v1/providers/a/unset", {"names": ["timeout", "models"]})
    assert (600.0, "default") == settings(said)["timeout.total"]
    begun, done, *_ = desk.records()
    assert ("30.0", "gpt-*") == (begun["detail"]["timeout.total_s"], begun["detail"]["models.allow"])
    assert "600.0" == done["detail"]["before.timeout.total"]


REFUSED = [
    ("nobody", {"api_key": KEY}, 404),
    ("a", {}, 422),
    ("a", {"api_key": "short"}, 422),
    ("a", {"api_key": f"{KEY}\r\nx: y"}, 422),
    ("a", {"api_key": f"{KEY} "}, 422),
    ("a", {"api_key": "env://CANARY_KEY"}, 422),
    ("a", {"api_key": "file:///etc/passwd"}, 422),
    ("a", {"api_key": 5}, 422),
    ("a", {"base_url": "https://evil.example.com"}, 422),
    ("a", {"connect": "127.0.0.1:1"}, 422),
    ("a", {"prices": {"input": 0, "output": 0}}, 422),
    ("a", {"timeout": {}}, 422),
    ("a", {"timeout": {"total": 30}}, 422),
    ("a", {"timeout": {"total": "0s"}}, 422),
    ("a", {"models": {"allow": []}}, 422),
    ("a", {"models": {"allow": ["a b"]}}, 422),
]


@pytest.mark.parametrize(("name", "body", "status"), REFUSED)
async def test_what_cannot_be_set(desk: Any, name: str, body: dict[str, Any], status: int) -> None:
    said = await desk.ask("POST", f"/v1/providers/{name}/configure", body)

    assert status == said.status
    assert b"CANARY" not in said.body
    assert {} == await desk.runtime.store.notes("provider_keys", 0)


async def test_what_the_policy_does_not_let_be_set(open_desk: Any, tmp_path: Any) -> None:
    text = f"""
server: {{store: "sqlite:///{tmp_path}/b.db", state_dir: "{tmp_path}/s"}}
providers: {{a: {{dialect: openai}}}}
"""
    async with open_desk(text, token="a-token-of-some-length") as desk:
        said = await desk.ask(
            "POST", "/v1/providers/a/configure", {"timeout": {"total": "1s"}}, key="a-token-of-some-length"
        )

    assert (409, True) == (said.status, "admin.configure" in said.json["detail"])


async def test_without_a_master_key_nothing_is_set(desk: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LLMSHIELD_SECRET_KEY")
    for body in ({"api_key": KEY}, {"timeout": {"total": "1s"}}):
        said = await desk.ask("POST", "/v1/providers/a/configure", body)

        assert (409, True) == (said.status, "LLMSHIELD_SECRET_KEY" in said.json["detail"])
    assert ["begun", "failed"] * 2 == [each["outcome"] for each in desk.records()]


async def test_revoke_and_lift(desk: Any) -> None:
    said = await desk.ask("POST", "/v1/providers/a/revoke", {"reason": "seen in a log"}, key="operate")
    await until(lambda: desk.runtime.keys.status("a")["state"] == "revoked")

    assert 200 == said.status
    with pytest.raises(UpstreamError, match="revoked"):
        desk.runtime.keys.get("a")
    shown = (await desk.ask("GET", "/v1/providers/a")).json
    assert (False, "revoked") == (shown["active"], shown["key"]["state"])
    ask: Callable[..., Awaitable[Any]] = desk.ask
    assert 403 == (await ask("POST", "/v1/providers/a/lift", key="operate")).status
    assert 200 == (await ask("POST", "/v1/providers/a/lift")).status
    await until(lambda: desk.runtime.keys.status("a")["state"] == "good")
    assert "provider.lift" == desk.records()[-1]["action"]


@pytest.mark.parametrize("body", [{}, {"names": []}, {"names": ["base_url"]}, {"names": "api_key"}])
async def test_what_cannot_be_unset(desk: Any, body: dict[str, Any]) -> None:
    assert 422 == (await desk.ask("POST", "/v1/providers/a/unset", body)).status
