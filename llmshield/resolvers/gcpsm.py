"""`gcpsm://PROJECT/NAME[?version=N][#FIELD]`: a secret of Google Secret Manager; the latest version without one.

Who is Google's library's business (Application Default Credentials). LLMSHIELD_GCPSM_ENDPOINT is another address of the
service, such as a regional one; one that is plain http on this machine is asked without credentials. Needs the extra
`gcp`.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from llmshield.errors import SecretError
from llmshield.resolvers._parts import READ_S, missing, picked, split

ENDPOINT = "LLMSHIELD_GCPSM_ENDPOINT"
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_lock = threading.Lock()
_clients: dict[str, Any] = {}

_WORDS = {
    "NotFound": "there is no such secret, or no such version",
    "PermissionDenied": "access is denied; give this account the role Secret Manager Secret Accessor",
    "Forbidden": "access is denied; give this account the role Secret Manager Secret Accessor",
    "FailedPrecondition": "this version is disabled or destroyed",
    "BadRequest": "this version is disabled or destroyed, or no such name can be",
    "Unauthorized": "the credentials are no good",
    "Unauthenticated": "the credentials are no good",
}


def resolve(rest: str, base: Path, owner: str | None = None) -> str:
    """The key. Raises: SecretError with what Google said and what to do."""
    ref = f"gcpsm://{rest}"
    parts = split(rest, ref, "version")
    project, mark, name = parts.path.partition("/")
    if not mark or not project or not name or "/" in name:
        raise SecretError(f"{ref}: expected gcpsm://PROJECT/NAME")
    full = f"projects/{project}/secrets/{name}/versions/{parts.options.get('version') or 'latest'}"
    try:
        from google.api_core.exceptions import GoogleAPICallError, RetryError
        from google.auth.exceptions import GoogleAuthError
        from requests.exceptions import RequestException
    except ImportError:
        raise missing("gcp", ref) from None
    try:
        answer = _client(ref).access_secret_version(name=full, timeout=READ_S, retry=None)
    except GoogleAuthError as error:
        raise SecretError(f"{ref}: no Google credentials here: {type(error).__name__}") from None
    except (GoogleAPICallError, RetryError) as error:
        what = type(error).__name__
        raise SecretError(f"{ref}: {_WORDS.get(what, f'Google refuses it ({what})')}") from None
    except RequestException as error:
        raise SecretError(f"{ref}: Google can't be reached: {type(error).__name__}") from None
    payload = answer.payload
    if payload.data_crc32c and not _is_whole(bytes(payload.data), int(payload.data_crc32c)):
        raise SecretError(f"{ref}: the answer was damaged on its way (its checksum is wrong)")
    try:
        return picked(bytes(payload.data).decode("utf-8"), parts.field, ref)
    except UnicodeDecodeError:
        raise SecretError(f"{ref}: what is kept there is no text") from None


def warn(rest: str, base: Path) -> str:
    """Nothing: Google guards it."""
    return ""


def _client(ref: str) -> Any:
    """The library's client over HTTP, which needs no threads of its own. Raises: SecretError for a bad endpoint."""
    from google.auth.credentials import AnonymousCredentials
    from google.cloud.secretmanager_v1 import SecretManagerServiceClient
    from google.cloud.secretmanager_v1.services.secret_manager_service.transports.rest import (
        SecretManagerServiceRestTransport,
    )

    endpoint = os.environ.get(ENDPOINT, "").strip()
    with _lock:
        if endpoint not in _clients:
            url = urlsplit(endpoint)
            if not endpoint:
                _clients[endpoint] = SecretManagerServiceClient(transport="rest")
            elif url.scheme == "https":
                _clients[endpoint] = SecretManagerServiceClient(
                    transport="rest", client_options={"api_endpoint": url.netloc}
                )
            elif url.scheme == "http" and url.hostname in _LOOPBACK:
                nobody: Any = AnonymousCredentials
                transport = SecretManagerServiceRestTransport(
                    host=url.netloc, credentials=nobody(), url_scheme="http"
                )
                _clients[endpoint] = SecretManagerServiceClient(transport=transport)
            else:
                raise SecretError(f"{ref}: {ENDPOINT} is neither https:// nor on this machine")
        return _clients[endpoint]


def _is_whole(data: bytes, expected: int) -> bool:
    """Whether the CRC32C of the payload is right: https://cloud.google.com/secret-manager/docs/data-integrity"""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF == expected
