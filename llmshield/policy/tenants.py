"""`tenants:`, `tiers:`, `identify:`, `trusted_proxies:`: who is calling, and how much they may."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BeforeValidator, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from llmshield import registry
from llmshield.policy.masking import found
from llmshield.policy.section import Count, Glob, Globs, Name, Section
from llmshield.policy.units import Money, Percent, PositiveDuration, RateLimit, TimeZone

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

ANONYMOUS = "anonymous"
"""The tenant of those who bring no key; without an entry of this name a key is required."""


@dataclass(slots=True, frozen=True)
class Identify:
    """One way to tell who is calling: a module of `llmshield.identity`, and the name behind its colon (of a header or
    a claim) where it wants one."""

    kind: str
    name: str = ""

    def __str__(self) -> str:
        return f"{self.kind}:{self.name}" if self.name else self.kind


def _identify(value: Any) -> Identify:
    kind, colon, name = value.partition(":") if isinstance(value, str) else ("", "", "")
    known = registry.names("identity")
    if kind in known:
        read = registry.find("identity", kind).read_name(name)
        if read is not None and bool(colon) == bool(name):
            return Identify(kind, read)
    forms = [registry.find("identity", each).form for each in known]
    choices = [form.replace("NAME", "x-llmshield-tenant").replace("CLAIM", "sub") for form in forms]
    raise PydanticCustomError(
        "identify",
        "found {found}, expected {expected}",
        {"found": found(value), "expected": f"{', '.join(forms[:-1])} or {forms[-1]}", "choices": choices},
    )


def _key_hash(value: Any) -> str:
    """The digest in lower case. A key itself must not stand in a policy, nor a shortened digest."""
    digest = (
        value.removeprefix("sha256:").lower()
        if isinstance(value, str) and value.startswith("sha256:")
        else ""
    )
    if len(digest) != 64 or not set(digest) <= set("0123456789abcdef"):
        what = (
            f"sha256: and {len(value) - 7} characters"
            if isinstance(value, str) and value.startswith("sha256:")
            else "no digest"
        )
        raise PydanticCustomError(
            "key_hash",
            "found {what}, expected sha256: and the 64 hexadecimal digits of the key's hash",
            {"what": what, "hint": 'printf %s "$KEY" | sha256sum'},
        )
    return f"sha256:{digest}"


def _network(value: Any) -> Network:
    try:
        if isinstance(value, str):
            return ipaddress.ip_network(value, strict=False)
    except ValueError:
        pass  # the message below says what was expected
    raise PydanticCustomError(
        "network", "found {found}, expected an address or network such as 10.0.0.0/8", {"found": found(value)}
    )


def _several(value: Any) -> Any:
    return value if isinstance(value, list | tuple) else (value,)


Identity: TypeAlias = Annotated[
    Identify,
    BeforeValidator(_identify),
    WithJsonSchema(
        {
            "type": "string",
            "pattern": r"^[a-z][a-z0-9_]*(:.+)?$",
            "examples": ["virtual_key", "jwt:sub", "signature", "header:x-llmshield-tenant"],
        }
    ),
]
KeyHash: TypeAlias = Annotated[
    str, BeforeValidator(_key_hash), WithJsonSchema({"type": "string", "pattern": "^sha256:[0-9A-Fa-f]{64}$"})
]
TrustedNetwork: TypeAlias = Annotated[
    Network, BeforeValidator(_network), WithJsonSchema({"type": "string", "examples": ["127.0.0.1/32"]})
]


class Queue(Section):
    """Where calls wait that exceed `concurrent`."""

    wait: PositiveDuration = Field(description="Longest wait.")
    length: Count = Field(description="Calls that may wait.")


class Tier(Section):
    """What each tenant of this tier may use."""

    rate: Annotated[
        tuple[RateLimit, ...],
        BeforeValidator(_several, json_schema_input_type=RateLimit | tuple[RateLimit, ...]),
    ] = Field(default=(), description="Requests or tokens per time; all of them hold.")
    concurrent: Count | None = Field(default=None, description="Calls at the same time.")
    queue: Queue | None = Field(
        default=None, description="Where calls wait that exceed `concurrent`; else they are refused."
    )
    budget: Annotated[
        tuple[Money, ...], BeforeValidator(_several, json_schema_input_type=Money | tuple[Money, ...])
    ] = Field(
        default=(),
        description="Money per calendar period (`5 USD/day`) or in any stretch of time (`5 USD/24h`), for each tenant; all of them hold.",
    )
    time_zone: TimeZone | None = Field(
        default=None,
        description="Whose days, weeks and months the budgets follow; else `server.time_zone`.",
    )
    warn_at: Annotated[
        tuple[Percent, ...], BeforeValidator(_several, json_schema_input_type=Percent | tuple[Percent, ...])
    ] = Field(default=(), description="Shares of each budget at which a warning is given, once per window.")
    models: Globs | None = Field(
        default=None,
        description="Models that may be asked for, or named as another choice (`fallbacks`); all without this.",
    )


class Tenant(Section):
    """Someone who calls."""

    tier: Name | None = Field(default=None, description="A name under `tiers`; no limits without it.")
    keys: tuple[KeyHash, ...] = Field(
        default=(), description="Client keys, each as `sha256:` and the hash of the whole key."
    )
    tags: dict[Name, Glob] = Field(default={}, description="Tags that all of its calls carry.")
    consent: tuple[Literal["transcripts"], ...] = Field(
        default=(),
        description="What the people of this tenant have agreed to: `transcripts` keeps their conversations.",
    )
