"""The vault's public face: seal and unseal under this process's key ring.

    sealed = vault.seal(data, "audit:content:01J…")      # bytes -> bytes, 46 longer
    data = vault.unseal(sealed, "audit:content:01J…")    # another context, or one changed bit: SecretError
    secret = vault.derive("audit:identifiers")           # 32 bytes for a MAC, the same in every process

The context says what the data is and whose: a record that is moved to another place opens no more. Every use has a
prefix of its own. How it works is in `sealing`; the keys come from LLMSHIELD_SECRET_KEY and LLMSHIELD_PREVIOUS_KEYS.
"""

from __future__ import annotations

import os

from llmshield.resolvers._ring import PREVIOUS, VARIABLE, read_master, references, ring
from llmshield.sealing import KeyRing, new_key, weakness

__all__ = [
    "PREVIOUS", "VARIABLE", "KeyRing", "derive", "has_key", "is_current", "new_key", "read_master", "references",
    "ring", "seal", "unseal", "weakness",
]  # fmt: skip


def seal(data: bytes, context: str) -> bytes:
    """`data` sealed for `context`. About 8 us for a key. Raises: SecretError without a usable LLMSHIELD_SECRET_KEY."""
    return ring().seal(data, context)


def unseal(sealed: bytes, context: str) -> bytes:
    """What was sealed for `context`. Raises: SecretError when it was changed, is for another context, or its key is
    not there."""
    return ring().unseal(sealed, context)


def is_current(sealed: bytes) -> bool:
    """Whether this was sealed with the key that seals now. Raises: SecretError without a usable key."""
    return ring().is_current(sealed)


def derive(purpose: str) -> bytes:
    """32 bytes for a MAC or another key of this purpose. Raises: SecretError without a usable key."""
    return ring().derive(purpose)


def has_key() -> bool:
    """Whether LLMSHIELD_SECRET_KEY says anything at all."""
    return bool(os.environ.get(VARIABLE, "").strip())
