"""`vault://MOUNT/PATH[?version=N][#FIELD]`: a secret of HashiCorp Vault's (or OpenBao's) KV version 2 engine.

Where and who, as Vault's own tools take it from the environment: VAULT_ADDR, VAULT_NAMESPACE, VAULT_CACERT, and either
VAULT_TOKEN or VAULT_ROLE_ID with VAULT_SECRET_ID (AppRole, at VAULT_APPROLE_MOUNT, `approle` without it). A token of
AppRole is kept until four fifths of its lease are over. Without a field the secret must have one only.

API: https://developer.hashicorp.com/vault/api-docs/secret/kv/kv-v2#read-secret-version,
https://developer.hashicorp.com/vault/api-docs/auth/approle#login-with-approle
"""

from __future__ import annotations

import http.client
import os
import ssl
import threading
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import orjson

from llmshield import clock
from llmshield.errors import SecretError
from llmshield.redact import remember
from llmshield.resolvers._parts import READ_S, of_object, split

MAX_BYTES = 2**20
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_lock = threading.Lock()
_tokens: dict[tuple[str, ...], tuple[str, float]] = {}
"""Tokens of AppRole, with the `clock.monotonic()` second until which they are used."""


def resolve(rest: str, base: Path, owner: str | None = None) -> str:
    """The key. Raises: SecretError with what Vault said and what to do."""
    ref = f"vault://{rest}"
    parts = split(rest, ref, "version")
    mount, _, path = parts.path.partition("/")
    if not mount or not path:
        raise SecretError(f"{ref}: expected vault://MOUNT/PATH#FIELD")
    version = parts.options.get("version", "")
    if version and not version.isdigit():
        raise SecretError(f"{ref}: the version is no number")
    target = f"/v1/{quote(unquote(mount))}/data/{quote(unquote(path))}" + (
        f"?version={version}" if version else ""
    )
    token, renewable = _token(ref, fresh=False)
    status, tree = _ask(ref, "GET", target, token)
    if status == 403 and renewable:  # revoked before its time
        status, tree = _ask(ref, "GET", target, _token(ref, fresh=True)[0])
    if status != 200:
        raise SecretError(f"{ref}: {_said(status, tree)}")
    data = _of(tree, "data", "data")
    if data is None:
        raise SecretError(f"{ref}: the answer has no data.data; expected an engine of version 2 at {mount}/")
    return of_object(data, parts.field, ref)


def warn(rest: str, base: Path) -> str:
    """Nothing: Vault guards it."""
    return ""


def _token(ref: str, *, fresh: bool) -> tuple[str, bool]:
    """The token to ask with, and whether a new one could be had. Raises: SecretError."""
    given = os.environ.get("VAULT_TOKEN", "").strip()
    if given:
        remember(given)
        return given, False
    role, secret = os.environ.get("VAULT_ROLE_ID", "").strip(), os.environ.get("VAULT_SECRET_ID", "").strip()
    if not role:
        raise SecretError(f"{ref}: nobody to be; set VAULT_TOKEN, or VAULT_ROLE_ID and VAULT_SECRET_ID")
    remember(secret)
    mount = os.environ.get("VAULT_APPROLE_MOUNT", "").strip() or "approle"
    key = (os.environ.get("VAULT_ADDR", ""), os.environ.get("VAULT_NAMESPACE", ""), mount, role, secret)
    with _lock:  # one login, whoever else waits for it
        token, until = _tokens.get(key, ("", 0.0))
        if token and not fresh and clock.monotonic() < until:
            return token, True
        body = orjson.dumps({"role_id": role, "secret_id": secret})
        status, tree = _ask(ref, "POST", f"/v1/auth/{quote(mount)}/login", "", body)
        made = _of(tree, "auth", "client_token")
        if status != 200 or not isinstance(made, str) or not made:
            raise SecretError(f"{ref}: the login with AppRole failed: {_said(status, tree)}")
        remember(made)
        lease = _of(tree, "auth", "lease_duration")
        seconds = float(lease) if isinstance(lease, int | float) and lease > 0 else 3600.0
        _tokens[key] = (made, clock.monotonic() + seconds * 0.8)
        return made, True


def _ask(ref: str, method: str, target: str, token: str, body: bytes | None = None) -> tuple[int, Any]:
    """Status and JSON of one request. Redirects are not followed: a token is for one host. Raises: SecretError."""
    address = os.environ.get("VAULT_ADDR", "").strip()
    url = urlsplit(address)
    if url.scheme not in ("http", "https") or not url.hostname:
        raise SecretError(f"{ref}: VAULT_ADDR is not set to an address; export VAULT_ADDR=https://HOST:8200")
    if (
        url.scheme == "http"
        and url.hostname not in _LOOPBACK
        and os.environ.get("LLMSHIELD_VAULT_INSECURE") != "1"
    ):
        raise SecretError(
            f"{ref}: VAULT_ADDR is plain http, so keys would be readable on the way; use https, or set"
            " LLMSHIELD_VAULT_INSECURE=1"
        )
    headers = {"X-Vault-Request": "true", "Accept": "application/json"}
    if token:
        headers["X-Vault-Token"] = token
    if namespace := os.environ.get("VAULT_NAMESPACE", "").strip():
        headers["X-Vault-Namespace"] = namespace
    if body is not None:
        headers["Content-Type"] = "application/json"
    connection: http.client.HTTPConnection
    try:
        if url.scheme == "https":
            context = ssl.create_default_context(cafile=os.environ.get("VAULT_CACERT", "").strip() or None)
            connection = http.client.HTTPSConnection(
                url.hostname, url.port or 443, timeout=READ_S, context=context
            )
        else:
            connection = http.client.HTTPConnection(url.hostname, url.port or 80, timeout=READ_S)
        try:
            connection.request(method, url.path.rstrip("/") + target, body, headers)
            answer = connection.getresponse()
            data = answer.read(MAX_BYTES + 1)
            status = answer.status
        finally:
            connection.close()
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise SecretError(
            f"{ref}: Vault can't be reached at {url.hostname}: {type(error).__name__}"
        ) from None
    if len(data) > MAX_BYTES:
        raise SecretError(f"{ref}: Vault's answer is larger than {MAX_BYTES} bytes")
    try:
        return status, orjson.loads(data) if data else None
    except ValueError:
        return status, None


def _said(status: int, tree: Any) -> str:
    """What a status means here (https://developer.hashicorp.com/vault/api-docs#http-status-codes); its texts stay out
    of messages."""
    if status == 404:
        if _of(tree, "data", "metadata") is not None:
            return "this version was deleted or destroyed; write a new one, or name another ?version="
        return "there is no such secret (404); `vault kv put` writes it, or the token may not even see it"
    if status == 403:
        return "Vault denies it (403): the token has ended, or no policy of it may read this path"
    if status == 400:
        return "Vault takes it for wrong (400): no such role, or its secret id has ended"
    if status == 429 or status in (472, 473):
        return f"this node does not answer reads ({status}); name the active one in VAULT_ADDR"
    if 300 <= status < 400:
        return f"it answers with a redirect ({status}), which is not followed; name the active node in VAULT_ADDR"
    if status == 503:
        return "Vault is sealed or in maintenance (503)"
    if status == 200:
        return "the answer is not what Vault's API describes"
    return f"Vault answers {status}"


def _of(tree: Any, *path: str) -> Any:
    for step in path:
        tree = tree.get(step) if isinstance(tree, dict) else None
    return tree
