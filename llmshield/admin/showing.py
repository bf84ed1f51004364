"""Values of a policy as the admin port shows them: nothing of a secret, whatever it is and wherever it stands.

References to keys are shown (`env://NAME`), sealed values are not; what stands under a secret's name and is no reference
is not shown at all. Durations are seconds, sizes bytes, prices pico-USD a token, as the policy was compiled.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from llmshield.policy.masking import MASK, REFERENCE, is_secret_key, mask_tokens
from llmshield.redact import redact
from llmshield.resolvers import SecretRef

_LONGEST = 2_000
_MOST = 1_000
_DEEPEST = 20


def reference(ref: SecretRef) -> str:
    """A reference to a key as it may be shown."""
    return f"enc://{MASK}" if ref.scheme == "enc" else redact(mask_tokens(str(ref)))


def shown(value: Any, name: str = "", depth: int = 0) -> Any:
    """A value as plain data for JSON; `name` is the key that it stands under."""
    if depth > _DEEPEST:
        return MASK
    if isinstance(value, SecretRef):
        return reference(value)
    if value is None or isinstance(value, bool | int):
        return value if not isinstance(value, int) or abs(value) < 2**63 else str(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, str):
        if is_secret_key(name) and not REFERENCE.match(value):
            return MASK
        return redact(mask_tokens(value))[:_LONGEST]
    if isinstance(value, BaseModel):
        value = {info.alias or key: getattr(value, key) for key, info in type(value).model_fields.items()}
        value |= {}
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        if type(value).__str__ is not object.__str__:
            return redact(mask_tokens(str(value)))  # a quantity as a policy writes it
        names = [each.name for each in dataclasses.fields(value) if not each.name.startswith("_")]
        value = {key: getattr(value, key) for key in names}
    if isinstance(value, Mapping):
        return {
            redact(mask_tokens(str(key)))[:200]: shown(each, str(key), depth + 1)
            for key, each in list(value.items())[:_MOST]
        }
    if isinstance(value, list | tuple | set | frozenset):
        return [shown(each, name, depth + 1) for each in list(value)[:_MOST]]
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, type):
        return value.__name__
    return redact(mask_tokens(str(value)))[:_LONGEST]
