"""Policy: what the engine, the plugins and the mounts read. Made by `load`, never changed after."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from llmshield.policy.admin import Admin
from llmshield.policy.apps import App, Audit
from llmshield.policy.egress import Egress
from llmshield.policy.entries import PluginEntry
from llmshield.policy.findings import Finding
from llmshield.policy.identity import Ways
from llmshield.policy.overrides import Override
from llmshield.policy.providers import Provider
from llmshield.policy.routes import Condition, Route
from llmshield.policy.server import Defaults, Server
from llmshield.policy.tenants import Identify, Network, Tenant, Tier


@dataclass(slots=True, frozen=True)
class Policy:
    """One policy, validated and compiled.

    `file` names where it came from, `base` is the folder that relative paths in it start at (None without
    one), `hash` identifies what it says: spelling, comments and the order of keys do not count, the content of
    its `./file.py` plugins does. `keys` maps `sha256:...` of a client key to its tenant. `warnings` are findings
    that did not stop it.
    """

    file: str
    base: Path | None
    hash: str
    version: int
    server: Server
    admin: Admin
    defaults: Defaults
    providers: Mapping[str, Provider]
    routes: tuple[Route, ...]
    identify: tuple[Identify, ...]
    identity: Ways
    trusted_proxies: tuple[Network, ...]
    tenants: Mapping[str, Tenant]
    tiers: Mapping[str, Tier]
    keys: Mapping[str, str]
    plugins: tuple[PluginEntry, ...]
    overrides: tuple[Override, ...]
    apps: tuple[App, ...]
    egress: Egress | None
    audit: Audit
    warnings: tuple[Finding, ...]
    _routing: tuple[tuple[Condition, Route], ...] = field(init=False, repr=False, compare=False)

    def __repr__(self) -> str:
        return f"<Policy {self.file!r} {self.hash[:19]}>"

    def __post_init__(self) -> None:
        object.__setattr__(self, "_routing", tuple((route.match.compiled, route) for route in self.routes))

    def route_for(
        self, model: str, *, tenant: str = "", tier: str | None = None, tags: Mapping[str, str] | None = None
    ) -> Route | None:
        """The first route that matches such a call; None refuses it, unless the policy has no `routes` at all."""
        for condition, route in self._routing:
            if condition(model, tenant, tier, tags):
                return route
        return None

    def overrides_for(
        self,
        now: float,
        model: str,
        *,
        tenant: str = "",
        tier: str | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> tuple[Override, ...]:
        """The overrides that hold for such a call at `now` (seconds since 1970), in the policy's order."""
        return tuple(
            item
            for item in self.overrides
            if item.active(now) and item.match.matches(model, tenant, tier, tags)
        )
