"""The policy file as a whole: its sections, in the order in which they are best written."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ConfigDict, Field

from llmshield.policy.admin import Admin
from llmshield.policy.apps import App, Audit
from llmshield.policy.egress import Egress
from llmshield.policy.identity import Ways
from llmshield.policy.overrides import Override
from llmshield.policy.providers import ProviderShape
from llmshield.policy.routes import Route
from llmshield.policy.section import Name, Section
from llmshield.policy.server import Defaults, Mode, OnError, Server
from llmshield.policy.tenants import Identify, Identity, Tenant, Tier, TrustedNetwork
from llmshield.policy.units import PositiveDuration


class PluginUse(Section):
    """One plugin at work. Its own settings stand beside these keys, or under `with`."""

    model_config = ConfigDict(extra="allow")

    use: str = Field(min_length=1, description="The plugin's name, or `./file.py` beside the policy.")
    name: Name | None = Field(
        default=None, description="Its name in this policy, where the same plugin is used twice."
    )
    mode: Mode | None = Field(
        default=None, description="`enforce`, `monitor` or `disabled`; else as in `defaults`."
    )
    on_error: OnError | None = Field(
        default=None, description="`closed` or `open`; else as in `defaults`. `cost_cap` is always `closed`."
    )
    timeout: PositiveDuration | None = Field(
        default=None, description="Time for one hook; else as in `defaults`."
    )
    with_: dict[str, Any] = Field(default={}, alias="with", description="The plugin's settings.")


class PolicyFile(Section):
    """A policy."""

    version: Literal[1] = Field(default=1, description="The form of this file: 1.")
    server: Server = Field(default=Server(), description="Where calls come in and where state is kept.")
    admin: Admin = Field(default=Admin(), description="Who may do what on the admin port.")
    defaults: Defaults = Field(default=Defaults(), description="What holds for every plugin.")
    providers: dict[Name, ProviderShape] = Field(default={}, description="Who is asked.")
    routes: tuple[Route, ...] = Field(default=(), description="Which calls go where; the first match wins.")
    identify: tuple[Identity, ...] = Field(
        default=(Identify("virtual_key"),), description="How callers are told apart, tried in order."
    )
    identity: Ways = Field(default=Ways(), description="What the ways of `identify` need to know.")
    trusted_proxies: tuple[TrustedNetwork, ...] = Field(
        default=(), description="Whose `X-Forwarded-For` and tenant header are believed."
    )
    tenants: dict[Name, Tenant] = Field(default={}, description="Who may call; everyone without it.")
    tiers: dict[Name, Tier] = Field(default={}, description="How much they may.")
    plugins: tuple[PluginUse, ...] = Field(
        default=(), description="What happens to each call: top to bottom before it, bottom to top after."
    )
    overrides: tuple[Override, ...] = Field(default=(), description="Narrow exceptions.")
    apps: tuple[App, ...] = Field(default=(), description="JSON of the wrapped app's own.")
    egress: Egress | None = Field(default=None, description="What the transparent mount intercepts.")
    audit: Audit = Field(default=Audit(), description="Where the record of decisions goes.")
