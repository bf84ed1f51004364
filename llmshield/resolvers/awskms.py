"""`awskms://CIPHERTEXT[?region=R]`: a key that AWS KMS has encrypted, in base64; meant for LLMSHIELD_SECRET_KEY.

    aws kms generate-data-key --key-id alias/llmshield --key-spec AES_256 --query CiphertextBlob --output text

Its 32 bytes are given in base64, as LLMSHIELD_SECRET_KEY has them; a text is given as it is. Needs the extra `aws`.
"""

from __future__ import annotations

import base64
from pathlib import Path

from llmshield.errors import SecretError
from llmshield.resolvers._aws import ask
from llmshield.resolvers._parts import split
from llmshield.resolvers._value import clean
from llmshield.sealing import KEY_BYTES


def resolve(rest: str, base: Path, owner: str | None = None) -> str:
    """The key. Raises: SecretError with what AWS said and what to do."""
    path, mark, query = rest.partition("?")
    ref = "awskms://…"  # the ciphertext helps nobody in a message
    parts = split(f"-{mark}{query}", ref, "region")
    try:
        blob = base64.b64decode(
            path.replace("-", "+").replace("_", "/") + "=" * (-len(path) % 4), validate=True
        )
    except ValueError:
        raise SecretError(
            f"{ref}: found text that is no base64, expected what `aws kms encrypt` gives"
        ) from None
    answer = ask(
        "kms", parts.options.get("region", ""), ref, lambda client: client.decrypt(CiphertextBlob=blob)
    )
    plain = bytes(answer["Plaintext"])
    if len(plain) == KEY_BYTES:
        return base64.urlsafe_b64encode(plain).decode()
    try:
        return clean(plain.decode("ascii"), ref)
    except UnicodeDecodeError:
        raise SecretError(f"{ref}: found {len(plain)} bytes, expected {KEY_BYTES}, or a text") from None


def warn(rest: str, base: Path) -> str:
    """Nothing: AWS guards it."""
    return ""
