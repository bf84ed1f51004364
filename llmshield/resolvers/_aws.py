"""AWS for resolvers: one client for each service and region, short limits, errors in a sentence without the value.

Who and where is boto3's business: AWS_PROFILE, AWS_REGION, roles, AWS_ENDPOINT_URL.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from llmshield.errors import SecretError
from llmshield.resolvers._parts import CONNECT_S, READ_S, missing

_lock = threading.Lock()
_clients: dict[tuple[str, ...], Any] = {}

_WORDS = {
    "AccessDeniedException": "access is denied; give this role the right to read it",
    "ResourceNotFoundException": "there is no such secret",
    "ParameterNotFound": "there is no such parameter",
    "ParameterVersionNotFound": "there is no such version of the parameter",
    "InvalidCiphertextException": "it was not made by this key, or was changed",
    "ExpiredTokenException": "the credentials have ended",
    "UnrecognizedClientException": "AWS does not know these credentials",
    "InvalidRequestException": "it is being deleted, or is not ready",
    "DecryptionFailure": "its KMS key can't open it",
}


def ask(service: str, region: str, ref: str, call: Callable[[Any], Any]) -> Any:
    """What `call` makes of the client of this service. Raises: SecretError."""
    try:
        from botocore.exceptions import BotoCoreError, ClientError
    except ImportError:
        raise missing("aws", ref) from None
    try:
        return call(_client(service, region))
    except ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", ""))
        raise SecretError(f"{ref}: {_WORDS.get(code, f'AWS refuses it ({code[:60]})')}") from None
    except BotoCoreError as error:
        name = type(error).__name__
        hint = {
            "NoCredentialsError": "; give this process a role, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
            "NoRegionError": "; set AWS_REGION, or write ?region=eu-central-1",
        }.get(name, "")
        raise SecretError(f"{ref}: AWS can't be asked: {name}{hint}") from None


def _client(service: str, region: str) -> Any:
    import os

    import boto3
    from botocore.config import Config

    # What changes whom we are or where we ask makes another client.
    key = (service, region, *(os.environ.get(name, "") for name in _ENVIRONMENT))
    with _lock:  # making one is not safe in threads, using it is
        client = _clients.get(key)
        if client is None:
            config = Config(connect_timeout=CONNECT_S, read_timeout=READ_S, retries={"total_max_attempts": 2})
            session: Any = boto3.Session()
            client = _clients[key] = session.client(service, region_name=region or None, config=config)
    return client


_ENVIRONMENT = ("AWS_ENDPOINT_URL", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE", "AWS_ACCESS_KEY_ID")
