"""Asking a provider on purpose: real sockets, the provider's own dialect and key, and the money of a call."""

from typing import Any

import pytest

from llmshield.simulator import Simulator

POLICY = """
server: {{store: "sqlite:///{folder}/book.db", state_dir: "{folder}/state"}}
audit: {{sink: "file://{folder}/audit.jsonl"}}
providers:
  openai: {{dialect: openai, base_url: "{url}/v1", api_key: "env://KEY_OF_A", circuit: {{failures: 1, open_for: 60s}}}}
  anthropic: {{dialect: anthropic, base_url: "{url}", api_key: "env://KEY_OF_A"}}
  gemini: {{dialect: gemini, base_url: "{url}", api_key: "env://KEY_OF_A"}}
  away: {{dialect: openai, base_url: "http://127.0.0.1:9/v1", api_key: "env://KEY_OF_A"}}
tenants: {{acme: {{tier: pro}}, poor: {{tier: none}}}}
tiers: {{pro: {{budget: 5 USD/day}}, none: {{budget: 0.0000001 USD/day}}}}
plugins: [{{use: cost_cap}}, {{use: failover}}]
"""
TOKEN = "a-token-of-some-length"


@pytest.fixture
def text() -> str:
    return POLICY.replace("{{", "{").replace("}}", "}")


async def test_a_list_of_models(open_desk: Any, primary: Simulator, text: str) -> None:
    async with open_desk(text, token=TOKEN, url=primary.url) as desk:
        said = {
            name: (await desk.ask("POST", f"/v1/providers/{name}/test", {}, key=TOKEN)).json
            for name in ("openai", "anthropic", "gemini", "away")
        }

    for name in ("openai", "anthropic", "gemini"):
        assert (True, 200, None) == (said[name]["ok"], said[name]["status"], said[name]["reason"]), said[name]
        assert said[name]["models"] >= 1
    assert (False, None, "connect") == (said["away"]["ok"], said["away"]["status"], said["away"]["reason"])
    assert {"GET"} == {call.method for call in primary.calls}
    assert {b""} == {call.body for call in primary.calls}
    sent = [dict(call.headers) for call in primary.calls]
    assert "Bearer sk-CANARY-of-provider-a-0123456789" == sent[0]["authorization"]
    assert "sk-CANARY-of-provider-a-0123456789" == sent[1]["x-api-key"]
    assert "sk-CANARY-of-provider-a-0123456789" == sent[2]["x-goog-api-key"]
    assert "CANARY" not in str(said)


@pytest.mark.parametrize(
    ("name", "model"),
    [("openai", "gpt-4o"), ("anthropic", "claude-sonnet-4-5"), ("gemini", "gemini-2.5-flash")],
)
async def test_a_few_tokens(open_desk: Any, primary: Simulator, text: str, name: str, model: str) -> None:
    async with open_desk(text, token=TOKEN, url=primary.url) as desk:
        body = {"ask": "generate", "model": model, "tenant": "acme"}
        said = (await desk.ask("POST", f"/v1/providers/{name}/test", body, key=TOKEN)).json
        usage = (await desk.ask("GET", "/usage", key=TOKEN)).json["tenants"]["acme"]
        records = desk.records()

    assert (True, 200, model) == (said["ok"], said["status"], said["model"]), said
    assert said["output_tokens"] >= 1
    assert said["cost_usd"] == usage["spent_usd"] != "0.000000000000"
    assert "0.000000000000" == usage["held_usd"]
    (call,) = primary.calls
    assert any(
        str(each) in str(call.body) for each in ("max_tokens", "max_completion_tokens", "maxOutputTokens")
    )
    assert {"ok": True, "status": 200, "reason": None} == records[1]["detail"]


async def test_caps_and_circuits_hold(open_desk: Any, primary: Simulator, text: str) -> None:
    async with open_desk(text, token=TOKEN, url=primary.url) as desk:

        async def ask(tenant: str) -> Any:
            body = {"ask": "generate", "model": "gpt-4o", "tenant": tenant}
            return (await desk.ask("POST", "/v1/providers/openai/test", body, key=TOKEN)).json

        broke = await ask("poor")
        assert (False, "budget_spent", []) == (broke["ok"], broke["reason"], primary.calls)
        await desk.runtime.circuits.set_open("openai", None, 60)
        assert (False, "circuit_open", []) == (
            (said := await ask("acme"))["ok"],
            said["reason"],
            primary.calls,
        )
        listed = (await desk.ask("POST", "/v1/providers/openai/test", {}, key=TOKEN)).json
        assert listed["ok"]
        usage = (await desk.ask("GET", "/usage", key=TOKEN)).json["tenants"]
        assert {"0.000000000000"} == {each["held_usd"] for each in usage.values()}


async def test_a_provider_that_refuses(open_desk: Any, text: str) -> None:
    async with Simulator(name="x") as sim:
        sim.set(fault="401")
        async with open_desk(text, token=TOKEN, url=sim.url) as desk:
            said = await desk.ask("POST", "/v1/providers/openai/test", {}, key=TOKEN)

    assert (200, False, 401) == (said.status, said.json["ok"], said.json["status"])
    assert b"CANARY" not in said.body


@pytest.mark.parametrize("body", [{}, {"ask": "generate", "model": "gpt-4o"}])
async def test_the_wrapped_app_is_no_provider_to_ask(open_desk: Any, body: dict[str, Any]) -> None:
    async with open_desk("providers: {app: {models: {deny: x}}}", token=TOKEN) as desk:
        said = await desk.ask("POST", "/v1/providers/app/test", body, key=TOKEN)
        shown = await desk.ask("GET", "/v1/providers/app", key=TOKEN)

    assert (200, False, "skipped") == (said.status, said.json["ok"], said.json["reason"])
    assert (200, None) == (shown.status, shown.json["dialect"])


@pytest.mark.parametrize(
    ("name", "body", "status"),
    [
        ("nobody", {}, 404),
        ("openai", {"ask": "generate"}, 422),
        ("openai", {"ask": "embed"}, 422),
        ("openai", {"ask": "generate", "model": "a b"}, 422),
        ("openai", {"prompt": "x"}, 422),
    ],
)
async def test_refusals(open_desk: Any, text: str, name: str, body: dict[str, Any], status: int) -> None:
    async with open_desk(text, token=TOKEN) as desk:
        assert status == (await desk.ask("POST", f"/v1/providers/{name}/test", body, key=TOKEN)).status
