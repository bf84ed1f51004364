"""What requests and answers of the admin port are made of: the base model, and the small types that endpoints share.

Bodies are strict (a number is no text), queries are read from text. An unknown key is refused: a misspelt `for` must not
become a block for ever. Times are text as RFC 3339 has it, in UTC; money is an exact decimal number of USD, in text.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, WithJsonSchema

from llmshield.policy.section import NAME
from llmshield.policy.units import positive_duration
from llmshield.windows import iso


class Shape(BaseModel):
    """A mapping of a request or an answer."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)


class Nothing(Shape):
    """The body of a request that takes none: an empty mapping, where a client has to send something."""


class Query(BaseModel):
    """What may stand behind the `?` of a request; also the names in its path."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


NamePart: TypeAlias = Annotated[str, StringConstraints(pattern=NAME)]
"""Of a provider, tenant or tier: letters, digits, dot, underscore, hyphen; 64 at the most."""
_TENANT = r"^[A-Za-z0-9_.~@+%-]{1,128}$"
TenantPart: TypeAlias = Annotated[str, StringConstraints(pattern=_TENANT)]
"""A tenant's name as the record has it; one that a token's claim gave may hold `@`, `+`, `~` and `%XX`."""
ModelName: TypeAlias = Annotated[str, StringConstraints(min_length=1, max_length=256, pattern=r"^[!-~]+$")]
"""A model as it is sent to the provider: visible ASCII."""
_WHOLE = r"^([1-9][0-9]{0,5}(ms|s)|[1-9][0-9]{0,4}m|[1-9][0-9]{0,2}h|([1-9][0-9]?|[12][0-9]{2}|3[0-5][0-9]|36[0-6])d)$"
"""What the description says of a length: whole numbers up to 366d. Fractions (`1.5h`) are read as well."""
Length: TypeAlias = Annotated[
    float,
    BeforeValidator(positive_duration),
    WithJsonSchema({"type": "string", "pattern": _WHOLE, "examples": ["30s", "10m", "24h", "7d"]}),
]
"""Seconds, from `10m`."""
Usd: TypeAlias = Annotated[str, Field(pattern=r"^-?[0-9]{1,12}\.[0-9]{12}$", examples=["0.012345678900"])]
"""An exact decimal number of USD."""
Moment: TypeAlias = Annotated[str, Field(examples=["2026-11-20T14:30:00Z"])]
"""A time in UTC."""
Words: TypeAlias = Annotated[
    str, StringConstraints(max_length=500, pattern=r"^[^\x00-\x1f\x7f\u0085\u2028\u2029]*$")
]
"""One line of text for people."""


def moment(ms: float) -> str | None:
    """A time of the store in milliseconds since 1970, as text; None for never, and for what is no time: whoever can
    write to the store can break it."""
    try:
        return iso(ms / 1000) if ms else None
    except (ValueError, OverflowError, OSError):
        return None
