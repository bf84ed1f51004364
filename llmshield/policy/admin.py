"""`admin:`: who may do what on the admin port, under which names it answers, and what may be set while it runs."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import BeforeValidator, Field, StringConstraints

from llmshield.policy.identity import Tokens
from llmshield.policy.section import Line, Name, Section
from llmshield.policy.tenants import KeyHash

Role: TypeAlias = Literal["read", "operate", "admin"]
"""Each one may what those before it may: look; act on what runs (blocks, circuits, budgets); change keys and
settings."""
Settable: TypeAlias = Literal["api_key", "timeout", "models"]
"""What of a provider may be set while it runs. Its address is not among them: a key goes to the policy's host only."""

_HOST_NAME = r"^[A-Za-z0-9]([A-Za-z0-9.-]{0,252}[A-Za-z0-9])?$"


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


HostName: TypeAlias = Annotated[
    str, BeforeValidator(_lower), StringConstraints(strict=True, pattern=_HOST_NAME)
]


class AdminKey(Section):
    """A key for the admin port."""

    key: KeyHash = Field(
        description="`sha256:` and the hash of the whole key, 32 random characters or more (`openssl rand -hex 32`)."
    )
    role: Role = Field(
        description="`read`; `operate`: also blocks, circuits and budgets; `admin`: also keys and settings."
    )


class AdminJwt(Tokens):
    """Whose tokens are believed on the admin port, and which role they give."""

    name: Line = Field(default="sub", description="The claim that names who it is, for the record.")
    claim: Line = Field(
        default="roles",
        description="The claim with the roles: a text or a list; named or pointed at (`/a/b`).",
    )
    roles: dict[Line, Role] = Field(
        min_length=1, description="What each value of that claim gives; the highest counts."
    )


class Admin(Section):
    """Who may do what on the admin port. `LLMSHIELD_ADMIN_TOKEN` is an `admin` beside these."""

    keys: dict[Name, AdminKey] = Field(default={}, description="Keys by the names that the record shows.")
    jwt: AdminJwt | None = Field(default=None, description="Whose tokens are believed.")
    hosts: tuple[HostName, ...] = Field(
        default=(),
        description="Names under which the admin port is reached, besides `localhost` and addresses; any other `Host`"
        " is refused, since a web page can make a name of its own point here.",
    )
    configure: tuple[Settable, ...] = Field(
        default=("api_key",),
        description="What of a provider may be set while it runs: `api_key`, `timeout`, `models`. It is kept in the"
        " store, sealed, and wins over the policy.",
    )
