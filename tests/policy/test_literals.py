"""Literal secrets in policies: what production refuses, and what it must not take for one."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmshield.policy import inspect, inspect_text

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _production(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMSHIELD_ENV", "production")


@pytest.mark.parametrize(
    "path", [ROOT / "policy.example.yaml", *sorted((ROOT / "policies").glob("*.yaml"))], ids=str
)
def test_no_policy_of_ours_has_one(path: Path) -> None:
    assert [] == [str(item) for item in inspect(path)[1] if item.code == "LS309"]


@pytest.mark.parametrize(
    ("text", "places"),
    [
        ("plugins: [{use: ./p.py, with: {password: letmein}}]", ["plugins[0].with.password"]),
        ("plugins: [{use: ./p.py, with: {api_key: abc, inner: [{secret: x}]}}]",
         ["plugins[0].with.api_key", "plugins[0].with.inner[0].secret"]),
        ("plugins: [{use: ./p.py, with: {webhook_token: aB3-dE6_gH9}}]", ["plugins[0].with.webhook_token"]),
        ("plugins: [{use: ./p.py, with: {note: 'ghp_CANARY0123456789abcdefghijABCDEFGHIJ'}}]", ["plugins[0].with.note"]),
        ("server: {store: 'redis://user:CANARYpass@127.0.0.1/0'}", ["server.store"]),
        # references, words and amounts
        ("plugins: [{use: ./p.py, with: {token: 'env://TOKEN', private_key: block, first_token: 20s, max_token: '100 k'}}]", []),
        ("providers: {p: {dialect: openai, api_key: 'env://K', timeout: {first_token: 700ms}}}", []),
        ("plugins: [{use: ./p.py, with: {allow: [ghp_CANARY0123456789abcdefghijABCDEFGHIJ]}}]", []),
        ("server: {store: 'redis://127.0.0.1/0'}", []),
    ],
)  # fmt: skip
def test_what_is_one(text: str, places: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def found() -> list[str]:
        findings = inspect_text(f"version: 1\n{text}", base=Path())[1]
        assert "CANARY" not in "".join(map(str, findings))
        return [item.path for item in findings if item.code == "LS309"]

    assert places == found()
    monkeypatch.setenv("LLMSHIELD_ENV", "development")
    assert [] == found()
