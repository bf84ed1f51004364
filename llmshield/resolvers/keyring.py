"""`keyring://SERVICE/USER`: a key in the system's keyring (macOS Keychain, Windows Credential Locker, Secret Service).

`keyring set SERVICE USER` puts it there. Needs the extra `keyring`.
"""

from __future__ import annotations

from pathlib import Path

from llmshield.errors import SecretError
from llmshield.resolvers._parts import missing, picked, split


def resolve(rest: str, base: Path, owner: str | None = None) -> str:
    """The key. Raises: SecretError when there is none, or no keyring."""
    ref = f"keyring://{rest}"
    parts = split(rest, ref)
    service, mark, user = parts.path.rpartition("/")
    if not mark or not service or not user:
        raise SecretError(f"{ref}: expected keyring://SERVICE/USER")
    try:
        import keyring
        from keyring.errors import KeyringError
    except ImportError:
        raise missing("keyring", ref) from None
    try:
        value = keyring.get_password(service, user)
    except KeyringError as error:
        raise SecretError(f"{ref}: the keyring can't be read: {type(error).__name__}") from None
    if value is None:
        raise SecretError(f"{ref}: the keyring has no such entry; run `keyring set {service} {user}`")
    return picked(value, parts.field, ref)


def warn(rest: str, base: Path) -> str:
    """Nothing: the system guards it."""
    return ""
