"""`identity:`: what the ways of `identify` need to know, each under its own name."""

from __future__ import annotations

import ipaddress
from typing import Annotated, Any, Literal, TypeAlias
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, StringConstraints
from pydantic_core import PydanticCustomError

from llmshield.policy.egress import Host
from llmshield.policy.masking import found
from llmshield.policy.providers import Secret
from llmshield.policy.section import Line, Name, Section
from llmshield.policy.tenants import TrustedNetwork
from llmshield.policy.units import Duration, PositiveDuration

Algorithm: TypeAlias = Literal[
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "Ed25519", "EdDSA"
]
"""With public keys only: who can check a token with `HS256` can also make one, and an issuer's public key must never
pass for such a secret."""


def _listed(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


def is_key_set(value: Any) -> bool:
    """Whether this is where a key set may be: `https://...`, `http://` on this machine, or `file://path`."""
    if not isinstance(value, str) or len(value) > 2000 or any(char.isspace() for char in value):
        return False
    scheme, _, rest = value.partition("://")
    if scheme == "file":
        return bool(rest)
    try:
        url = urlsplit(value)
        usable = bool(url.hostname) and url.username is None and not url.fragment and url.port != 0
    except ValueError:  # a port that is no number, or half an IPv6 address
        return False
    return usable and (scheme == "https" or (scheme == "http" and _is_local(url.hostname or "")))


def _key_set(value: Any) -> Any:
    if is_key_set(value):
        return value
    raise PydanticCustomError(
        "unit",
        "found {found}, expected https://HOST/PATH or file://PATH",
        {"found": found(value), "hint": "plain http would let anybody on the way give out keys"},
    )


def _is_local(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


Several: TypeAlias = Annotated[
    tuple[Line, ...],
    BeforeValidator(_listed, json_schema_input_type=Line | tuple[Line, ...]),
    Field(min_length=1),
]
KeySet: TypeAlias = Annotated[
    str, BeforeValidator(_key_set), StringConstraints(pattern=r"^(https?|file)://\S+$")
]


class VirtualKeys(Section):
    """Keys that `llmshield keys create` has made."""

    outage: PositiveDuration = Field(
        default=600.0,
        description="How long keys of the store go on while the store is away, or after it has lost them.",
    )


class Claims(Section):
    """What else a token's claims say. A claim is named, or pointed at (`/org/plan`) where it lies deeper."""

    tier: Line | None = Field(
        default=None, description="The claim that names the tier; it must be one of `tiers`."
    )
    tags: dict[Name, Line] = Field(default={}, description="Tags of the call, each with its claim.")


class Tokens(Section):
    """Whose signed tokens are believed."""

    issuer: Line = Field(description="`iss`, exactly.")
    audience: Several = Field(description="One of these must be in `aud`.")
    jwks: KeySet | None = Field(
        default=None,
        description="Where the issuer's keys are: `https://...` or `file://path`; else its description says it"
        " (`/.well-known/openid-configuration`).",
    )
    algorithms: Annotated[
        tuple[Algorithm, ...],
        BeforeValidator(_listed, json_schema_input_type=Algorithm | tuple[Algorithm, ...]),
        Field(min_length=1),
    ] = Field(default=("RS256",), description="Algorithms that a token may be signed with.")
    leeway: Annotated[Duration, Field(le=300)] = Field(
        default=30.0, description="How far clocks may differ, for `exp`, `nbf` and `iat`."
    )
    require: tuple[Line, ...] = Field(
        default=(),
        description="Claims that must be there besides `iss`, `aud`, `exp` and those that are read.",
    )
    refresh: PositiveDuration = Field(default=600.0, description="How often the keys are fetched again.")
    outage: PositiveDuration = Field(
        default=3600.0, description="How long fetched keys are used while they can't be fetched again."
    )


class Jwt(Tokens):
    """Whose tokens are believed, for `jwt:CLAIM` in `identify`."""

    tier: Name | None = Field(
        default=None, description="The tier of tenants that neither the token nor the policy gives one."
    )
    claims: Claims = Field(default=Claims(), description="What else the claims say.")


class Signer(Section):
    """Somebody who signs requests."""

    tenant: Name = Field(description="Who it is.")
    tier: Name | None = Field(default=None, description="Its tier; else the tenant's.")
    secret: Secret = Field(
        description="Where the shared secret is, 16 bytes or more: `env://NAME`, `file://path`."
    )


class Signature(Section):
    """Who may sign requests, for `signature` in `identify`."""

    skew: Annotated[PositiveDuration, Field(le=3600)] = Field(
        default=300.0, description="How old, or how far ahead, a signature's time may be."
    )
    signers: dict[Name, Signer] = Field(min_length=1, description="Signers by the name that they sign with.")


Uid: TypeAlias = Annotated[str, StringConstraints(strict=True, pattern=r"^[0-9]{1,10}$")]
"""A user of this machine by number, in quotes: keys of a policy are text."""


class Ways(Section):
    """What the ways of `identify` need to know."""

    virtual_key: VirtualKeys = Field(default=VirtualKeys(), description="Keys that this gateway gave out.")
    jwt: Jwt | None = Field(default=None, description="Whose tokens are believed.")
    signature: Signature | None = Field(default=None, description="Who may sign requests.")
    address: dict[TrustedNetwork, Name] | None = Field(
        default=None, description="Networks of clients, each with its tenant; the narrowest wins."
    )
    sni: dict[Host, Name] | None = Field(
        default=None,
        description="Hosts that TLS handshakes name under the transparent mount, each with its tenant.",
    )
    uid: dict[Uid, Name] | None = Field(
        default=None,
        description="Users of this machine under the transparent mount, by number, each with its tenant.",
    )
