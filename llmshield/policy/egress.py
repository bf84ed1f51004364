"""`egress:`: which hosts the transparent mount intercepts, for whom they stand, and what happens to everything else."""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BeforeValidator, Field, StringConstraints
from pydantic_core import PydanticCustomError

from llmshield.policy.masking import found
from llmshield.policy.section import Count, Name, Section
from llmshield.policy.tenants import TrustedNetwork
from llmshield.policy.units import Address, HostPort

Way: TypeAlias = Literal["regular", "transparent", "socks5", "local"]
"""How clients come in: by a proxy setting, by a rule of the kernel, by SOCKS, or taken from processes of this machine."""


def _pattern(value: Any) -> str:
    """A host name in lower case, or `*.` and one."""
    if isinstance(value, str) and value.isascii():
        name = value.lower().removeprefix("*.")
        labels = name.split(".")
        if (
            len(name) <= 253
            and len(labels) > 1
            and not labels[-1].isdigit()
            and all(
                0 < len(label) <= 63
                and label.replace("-", "").replace("_", "").isalnum()
                and label[0] != "-"
                and label[-1] != "-"
                for label in labels
            )
        ):
            return value.lower()
    raise PydanticCustomError(
        "unit",
        "found {found}, expected a host name such as api.openai.com, or *.openai.azure.com",
        {"found": found(value), "hint": "a wildcard stands for the first label and nothing else"},
    )


Host: TypeAlias = Annotated[
    str, BeforeValidator(_pattern), StringConstraints(pattern=r"^(\*\.)?[a-z0-9_.-]+$", max_length=255)
]
Port: TypeAlias = Annotated[Count, Field(le=65535)]


class Bypass(Section):
    """Who is never intercepted: programs that pin certificates. It is counted."""

    clients: tuple[TrustedNetwork, ...] = Field(default=(), description="Addresses or networks of clients.")
    hosts: tuple[Host, ...] = Field(default=(), description="Hosts that stay closed though `hosts` has them.")


class Egress(Section):
    """What the transparent mount intercepts."""

    hosts: dict[Host, Name] = Field(
        default={},
        description="Hosts, each with the provider that it stands for; `*.` for all names below one.",
    )
    unlisted: Literal["pass", "block", "log"] = Field(
        default="pass",
        description="What happens to other hosts: undecrypted they pass, are refused, or pass and are logged.",
    )
    on_no_sni: Literal["pass", "block", "log"] | None = Field(
        default=None,
        description="The same for TLS that names no host; else as `unlisted`. To an address of one of `hosts` it is always refused.",
    )
    websocket: Literal["block", "pass"] = Field(
        default="block",
        description="WebSockets to `hosts`: no guard sees inside them. What passes is counted.",
    )
    grpc: Literal["block", "pass"] = Field(
        default="block", description="gRPC to `hosts`: no guard sees inside it. What passes is counted."
    )
    bypass: Bypass = Field(default=Bypass(), description="Who is never intercepted.")
    mode: Way = Field(default="regular", description="How clients come in; `--mode` wins.")
    listen: Address = Field(
        default=HostPort("127.0.0.1", 8080), description="Where the proxy listens; `--listen` wins."
    )
    ports: tuple[Port, ...] = Field(
        default=(80, 443),
        min_length=1,
        description="Ports that clients may be connected to, wherever they go.",
    )
    loopback: Literal["block", "pass"] = Field(
        default="block",
        description="Whether clients of the proxy may be connected to services of this machine, by an address or by a name that"
        " leads there.",
    )
    on_crash: Literal["block", "bypass"] = Field(
        default="block",
        description="Without a gateway calls are refused, or hosts pass undecrypted and unguarded until it is back.",
    )
    ca: Annotated[str, StringConstraints(strict=True, min_length=1, max_length=4096)] | None = Field(
        default=None,
        description="Folder of the certificate authority; in the user's state folder without it.",
    )

    @cached_property
    def _wildcards(self) -> tuple[tuple[str, str], ...]:
        """Suffixes such as `.openai.azure.com`, the longest first."""
        found = [(host[1:], name) for host, name in self.hosts.items() if host.startswith("*.")]
        return tuple(sorted(found, key=lambda item: -len(item[0])))

    def provider_of(self, host: str) -> str | None:
        """The provider that a host stands for; None for one that is not intercepted."""
        host = host.lower().rstrip(".")
        name = self.hosts.get(host)
        if name is None:
            name = next((name for suffix, name in self._wildcards if host.endswith(suffix)), None)
        return name
