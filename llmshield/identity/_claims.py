"""What a token claims, once it is verified."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

Claims: TypeAlias = Mapping[str, Any]


def claim(claims: Claims, name: str) -> Any:
    """A claim by its name, or by a pointer into it; None where there is none."""
    if not name.startswith("/"):
        return claims.get(name)
    value: Any = claims
    for step in name.split("/")[1:]:
        value = value.get(step.replace("~1", "/").replace("~0", "~")) if isinstance(value, dict) else None
    return value
