"""`env://NAME`: the environment variable of that name, read when it is needed."""

from __future__ import annotations

import os
from pathlib import Path

from llmshield.errors import SecretError
from llmshield.resolvers._value import clean


def resolve(rest: str, base: Path, owner: str | None = None) -> str:
    """The variable's value.

    Raises: SecretError when it is not set, empty, or can't be a key.
    """
    value = os.environ.get(rest)
    if value is None:
        raise SecretError(f"env://{rest}: the environment variable {rest!r} is not set; export it")
    return clean(value, f"env://{rest}")


def warn(rest: str, base: Path) -> str:
    """Nothing: a process's environment is as private as the process."""
    return ""
