"""Production: what is not safe does not start, ends at once, says what to do, and shows no key. Real processes."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from llmshield import production, vault
from llmshield.errors import PolicyError, SecretError
from llmshield.testing import policy

CANARY = "sk-CANARYcanary0123456789abcdefABCDEF"
STRONG = vault.new_key()
PROVIDER = "providers: {{openai: {{dialect: openai, api_key: '{}'}}}}"


def refused(text: str, base: Path, monkeypatch: pytest.MonkeyPatch, **environment: str) -> str:
    """What production says to this policy; "" when it may start."""
    monkeypatch.setenv("LLMSHIELD_ENV", "production")
    for name in (vault.VARIABLE, vault.PREVIOUS):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    try:
        production.refuse_unsafe(policy(text, base=base))
    except (SecretError, PolicyError) as error:
        return str(error)
    return ""


def weak(key: bytes) -> str:
    return base64.b64encode(key).decode()


@pytest.mark.parametrize(
    ("text", "environment", "expected"),
    [
        (PROVIDER.format("env://K"), {}, ["LLMSHIELD_SECRET_KEY is not set", "llmshield vault key"]),
        (PROVIDER.format("env://K"), {vault.VARIABLE: "short"}, ["LLMSHIELD_SECRET_KEY: found", "llmshield vault key"]),
        (PROVIDER.format("env://K"), {vault.VARIABLE: weak(bytes(32))}, ["is weak: its bytes repeat", "llmshield vault key"]),
        (PROVIDER.format("env://K"), {vault.VARIABLE: weak(b"correct horse battery staple 123")},
         ["is weak: it is a text", "llmshield vault key"]),
        (PROVIDER.format("env://K"), {vault.VARIABLE: "file://{tmp}/master-open"}, ["may read", "chmod 600"]),
        (PROVIDER.format("env://K"), {vault.VARIABLE: "file://{tmp}/master-link"}, ["symbolic link", "name the file itself"]),
        (PROVIDER.format("env://K"), {vault.VARIABLE: "file://{tmp}/none"}, ["No such file"]),
        (PROVIDER.format("file://open"), {vault.VARIABLE: STRONG}, ["providers.openai.api_key", "may read", "chmod 600"]),
        (PROVIDER.format("file://link"), {vault.VARIABLE: STRONG}, ["symbolic link", "name the file itself"]),
        (PROVIDER.format("enc://open#x"), {vault.VARIABLE: STRONG}, ["may read", "chmod 600"]),
        (PROVIDER.format(CANARY), {vault.VARIABLE: STRONG}, ["LS309", "found a literal", "env://NAME"]),
        ("server: {store: 'redis://:secret-word-1@127.0.0.1/0'}", {vault.VARIABLE: STRONG},
         ["LS309", "password in an address", "store: env://NAME"]),
        ("routes: [{match: {any: true}, deny: {message: 'call with " + CANARY + "'}}]", {vault.VARIABLE: STRONG},
         ["LS309", "looks like a key", "env://NAME"]),
        # what may start
        (PROVIDER.format("env://K"), {vault.VARIABLE: STRONG}, []),
        (PROVIDER.format("file://private"), {vault.VARIABLE: STRONG}, []),
        (PROVIDER.format("env://K"), {vault.VARIABLE: "file://{tmp}/master"}, []),
        ("server: {store: 'env://STORE'}", {vault.VARIABLE: STRONG}, []),
        ("tenants: {a: {tier: t, keys: ['sha256:" + "ab" * 32 + "']}}\ntiers: {t: {}}", {vault.VARIABLE: STRONG}, []),
    ],
)  # fmt: skip
def test_what_production_says(
    text: str,
    environment: dict[str, str],
    expected: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, content, mode in (("private", CANARY, 0o600), ("open", CANARY, 0o644), ("master", STRONG, 0o600),
                                ("master-open", STRONG, 0o644)):  # fmt: skip
        (tmp_path / name).write_text(content)
        (tmp_path / name).chmod(mode)
    (tmp_path / "link").symlink_to("private")
    (tmp_path / "master-link").symlink_to("master")
    environment = {name: value.format(tmp=tmp_path) for name, value in environment.items()}
    said = refused(f"version: 1\n{text}", tmp_path, monkeypatch, **environment)

    assert all(words in said for words in expected), said
    assert bool(expected) is bool(said), said
    for secret in (CANARY, STRONG, "secret-word-1", *environment.values()):
        assert secret.startswith("file://") or secret not in said
    monkeypatch.setenv("LLMSHIELD_ENV", "development")
    if "LS309" not in expected or CANARY not in text:
        production.refuse_unsafe(policy(f"version: 1\n{text}", base=tmp_path))


def test_everything_is_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_text(CANARY)
        (tmp_path / name).chmod(0o644)
    text = "version: 1\nproviders: {a: {dialect: openai, api_key: 'file://a'}, b: {dialect: openai, api_key: 'file://b'}}"
    said = refused(text, tmp_path, monkeypatch)

    assert 3 == said.count("\n  - ")


@pytest.mark.parametrize("mode", [0o600, 0o644])
def test_the_gateway_ends_at_once(mode: int, tmp_path: Path) -> None:
    """As a user starts it: with a private key file it serves, with an open one it says why and ends."""
    (tmp_path / "key").write_text(CANARY)
    (tmp_path / "key").chmod(mode)
    path = tmp_path / "policy.yaml"
    path.write_text("version: 1\nproviders: {p: {dialect: openai, api_key: 'file://key'}}\n")
    started = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "llmshield", "serve", "--policy", str(path), "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"],
        env={**os.environ, "LLMSHIELD_ENV": "production", vault.VARIABLE: STRONG},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    if mode == 0o600:
        assert process.stderr is not None
        line = next(line for line in process.stderr if "serves" in line)
        process.terminate()
        process.communicate()
        assert "llmshield serves http://127.0.0.1" in line
        return
    out, err = process.communicate(timeout=60)

    assert 1 == process.returncode
    assert "chmod 600" in err
    assert "Traceback" not in err
    assert CANARY not in out + err
    assert STRONG not in out + err
    assert time.monotonic() - started < 30


async def test_the_middleware_refuses_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from llmshield.runtime import Runtime

    monkeypatch.setenv("LLMSHIELD_ENV", "production")
    monkeypatch.delenv(vault.VARIABLE, raising=False)
    made: Any = Runtime(policy("version: 1\n"), mount="asgi")
    with pytest.raises(SecretError, match="LLMSHIELD_SECRET_KEY is not set"):
        await made.start()
