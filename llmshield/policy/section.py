"""What all sections of a policy have in common: the base model and the small types of their keys."""

from __future__ import annotations

from typing import Annotated, Any, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictBool, StrictInt, StringConstraints
from pydantic_core import PydanticCustomError

from llmshield.policy.masking import found
from llmshield.redact import redact


class Section(BaseModel):
    """A mapping of a policy: unknown keys are refused, nothing changes after it was read."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=False, hide_input_in_errors=True)

    def __repr__(self) -> str:
        """As pydantic writes it, without secrets: a store's URL may hold a password."""
        return redact(super().__repr__())

    __str__ = __repr__


def _many(value: Any) -> Any:
    """One text stands for a list of one."""
    return (value,) if isinstance(value, str) else value


def _distinct(value: tuple[Any, ...]) -> tuple[Any, ...]:
    seen: set[Any] = set()
    for item in value:
        if item in seen:
            raise PydanticCustomError(
                "twice", "found {found} twice, expected each once", {"found": found(item)}
            )
        seen.add(item)
    return value


NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
Name: TypeAlias = Annotated[str, StringConstraints(strict=True, pattern=NAME)]
"""Of a provider, tenant, tier or plugin: letters, digits, dot, underscore, hyphen; 64 at the most."""
Line: TypeAlias = Annotated[str, StringConstraints(strict=True, min_length=1, max_length=2000)]
"""A text that is not empty."""
Flag: TypeAlias = StrictBool
Count: TypeAlias = Annotated[StrictInt, Field(ge=1)]
Glob: TypeAlias = Annotated[str, StringConstraints(strict=True, min_length=1, max_length=256)]
"""A name with wildcards: `*` any run of characters, `?` one."""
Globs: TypeAlias = Annotated[
    tuple[Glob, ...],
    BeforeValidator(_many, json_schema_input_type=Glob | tuple[Glob, ...]),
    Field(min_length=1),
]
"""One glob, or a list of them."""
