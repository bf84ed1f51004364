"""`azurekv://` with Azure's own client and identity library against one TLS server that is vault and authority, as
https://learn.microsoft.com/rest/api/keyvault/secrets/get-secret and the OAuth client-credentials flow describe them."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from llmshield import resolvers
from llmshield.errors import SecretError
from llmshield.resolvers import azurekv

CANARY = "CANARY-az-6c31"
TENANT = "11111111-2222-3333-4444-555555555555"


def certificate(folder: Path) -> tuple[Path, ssl.SSLContext]:
    """A certificate for 127.0.0.1 that signs itself, and a server's context with it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder(
            name, name, key.public_key(), x509.random_serial_number(), now, now + datetime.timedelta(1)
        )
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False
        )
        .add_extension(x509.BasicConstraints(True, None), True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
        .sign(key, hashes.SHA256())
    )
    path = folder / "cert.pem"
    path.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(path, folder / "key.pem")
    return path, context


class Azure:
    """The vault `team` and its tenant's authority."""

    def __init__(self) -> None:
        self.url = ""
        self.secrets = {"openai": {"": CANARY, "v1": "old"}, "two": {"": f'{{"a": "{CANARY}"}}'}}
        self.fail: int | None = None

    def __call__(self, asked: Any) -> tuple[int, Any, dict[str, str]]:
        path = asked.path.partition("?")[0]
        if path.endswith("/.well-known/openid-configuration"):
            base = f"{self.url}/{TENANT}"
            return 200, {"issuer": f"{base}/v2.0", "authorization_endpoint": f"{base}/oauth2/v2.0/authorize",
                         "token_endpoint": f"{base}/oauth2/v2.0/token"}, {}  # fmt: skip
        if path == f"/{TENANT}/oauth2/v2.0/token":
            if parse_qs(asked.body.decode()).get("client_secret") != ["CANARYclientsecret"]:
                return 401, {"error": "invalid_client", "error_description": f"AADSTS7000215 {CANARY}"}, {}
            return 200, {"access_token": "CANARYtoken", "token_type": "Bearer", "expires_in": 3600}, {}
        if asked.headers.get("authorization") != "Bearer CANARYtoken":
            challenge = f'Bearer authorization="{self.url}/{TENANT}", resource="https://vault.azure.net"'
            return 401, {"error": {"code": "Unauthorized"}}, {"WWW-Authenticate": challenge}
        if self.fail is not None:
            return self.fail, {"error": {"code": "x", "message": CANARY}}, {}
        _, _, name, *version = path.rstrip("/").split("/")
        value = self.secrets.get(name, {}).get(version[0] if version else "")
        if value is None:
            return 404, {"error": {"code": "SecretNotFound", "message": CANARY}}, {}
        return (
            200,
            {"value": value, "id": f"{self.url}/secrets/{name}/v1", "attributes": {"enabled": True}},
            {},
        )


@pytest.fixture
def azure(stores: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Azure:
    path, context = certificate(tmp_path)
    there = Azure()
    there.url = stores(there, context).url
    for name, value in ((azurekv.ENDPOINT, there.url), ("AZURE_AUTHORITY_HOST", there.url), ("AZURE_TENANT_ID", TENANT),
                        ("AZURE_CLIENT_ID", "client-1"), ("AZURE_CLIENT_SECRET", "CANARYclientsecret"),
                        ("REQUESTS_CA_BUNDLE", str(path))):  # fmt: skip
        monkeypatch.setenv(name, value)
    azurekv._clients.clear()
    return there


def ask(rest: str) -> str:
    return resolvers.resolve(f"azurekv://{rest}", Path(), "openai")


def test_read(azure: Azure) -> None:
    assert (CANARY, "old", CANARY) == (ask("team/openai"), ask("team/openai?version=v1"), ask("team/two#a"))


@pytest.mark.parametrize(
    ("rest", "words"),
    [
        ("team", "expected azurekv://VAULT/NAME"),
        ("team/none", "there is no such secret, or no such version"),
        ("team/openai?version=v9", "no such version"),
        ("team/two#b", "no text in the field 'b'; there is a"),
        ("team/openai?x=1", "unknown option"),
    ],
)
def test_refused(rest: str, words: str, azure: Azure) -> None:
    with pytest.raises(SecretError, match=words) as caught:
        ask(rest)
    assert "CANARY" not in str(caught.value)


@pytest.mark.parametrize(
    ("status", "words"), [(403, "access is denied; give this identity"), (400, "Azure answers 400")]
)
def test_what_azure_says(status: int, words: str, azure: Azure) -> None:
    azure.fail = status
    with pytest.raises(SecretError, match=words) as caught:
        ask("team/openai")
    assert "CANARY" not in str(caught.value)


def test_nobody(azure: Azure, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_CLIENT_SECRET", "CANARYother")
    with pytest.raises(SecretError, match="no credentials that Azure takes") as caught:
        ask("team/openai")
    assert "CANARY" not in str(caught.value)


def test_tokens_go_over_tls_only(azure: Azure, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(azurekv.ENDPOINT, "http://127.0.0.1:1")
    with pytest.raises(SecretError, match="is not https://"):
        ask("team/openai")
