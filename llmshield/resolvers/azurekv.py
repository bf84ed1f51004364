"""`azurekv://VAULT/NAME[?version=ID][#FIELD]`: a secret of Azure Key Vault; VAULT is its name, or its whole host name
(`team.vault.usgovcloudapi.net`).

Who is Azure's library's business (DefaultAzureCredential: AZURE_CLIENT_ID and so on, managed identities).
LLMSHIELD_AZUREKV_ENDPOINT is another https address of the vault. Needs the extra `azure`.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

from llmshield.errors import SecretError
from llmshield.resolvers._parts import CONNECT_S, READ_S, missing, picked, split

ENDPOINT = "LLMSHIELD_AZUREKV_ENDPOINT"
_lock = threading.Lock()
_clients: dict[tuple[str, ...], Any] = {}


def resolve(rest: str, base: Path, owner: str | None = None) -> str:
    """The key. Raises: SecretError with what Azure said and what to do."""
    ref = f"azurekv://{rest}"
    parts = split(rest, ref, "version")
    vault, mark, name = parts.path.partition("/")
    if not mark or not vault or not name or "/" in name:
        raise SecretError(f"{ref}: expected azurekv://VAULT/NAME")
    try:
        from azure.core.exceptions import (
            AzureError,
            ClientAuthenticationError,
            HttpResponseError,
            ResourceNotFoundError,
            ServiceRequestError,
        )
    except ImportError:
        raise missing("azure", ref) from None
    try:
        held = _client(vault, ref).get_secret(name, parts.options.get("version") or None)
    except ResourceNotFoundError:
        raise SecretError(f"{ref}: there is no such secret, or no such version") from None
    except ClientAuthenticationError:
        raise SecretError(f"{ref}: no credentials that Azure takes; give this process an identity") from None
    except HttpResponseError as error:
        denied = "access is denied; give this identity the role Key Vault Secrets User"
        said = denied if error.status_code == 403 else f"Azure answers {error.status_code}"
        raise SecretError(f"{ref}: {said}") from None
    except ServiceRequestError as error:
        raise SecretError(f"{ref}: the vault can't be reached: {type(error).__name__}") from None
    except AzureError as error:
        raise SecretError(f"{ref}: Azure can't be asked: {type(error).__name__}") from None
    return picked(held.value or "", parts.field, ref)


def warn(rest: str, base: Path) -> str:
    """Nothing: Azure guards it."""
    return ""


def _client(vault: str, ref: str) -> Any:
    from azure.identity import DefaultAzureCredential
    from azure.keyvault.secrets import SecretClient

    endpoint = os.environ.get(ENDPOINT, "").strip()
    if endpoint and not endpoint.startswith("https://"):
        raise SecretError(f"{ref}: {ENDPOINT} is not https://; tokens are sent over TLS only")
    url = endpoint or f"https://{vault if '.' in vault else f'{vault}.vault.azure.net'}"
    authority = os.environ.get("AZURE_AUTHORITY_HOST", "").strip()
    key = (url, authority, os.environ.get("AZURE_TENANT_ID", ""), os.environ.get("AZURE_CLIENT_ID", ""))
    with _lock:
        if key not in _clients:
            # An authority of one's own is in no list of Microsoft's, so it is not looked up there.
            limits: dict[str, Any] = {
                "connection_timeout": CONNECT_S,
                "read_timeout": READ_S,
                "retry_total": 1,
            }
            credential = DefaultAzureCredential(disable_instance_discovery=bool(authority), **limits)
            _clients[key] = SecretClient(url, credential, verify_challenge_resource=not endpoint, **limits)
    return _clients[key]
