"""The policy: one YAML file, validated as a whole and compiled for the engine.

`load(path)` and `loads(text)` give a Policy or raise PolicyError with every finding; `inspect` gives both the
policy and its findings. Types of quantities (`Duration`, `Size`, ...) are for plugins' settings as well.
"""

from llmshield.policy.entries import PluginEntry
from llmshield.policy.findings import CODES, Finding
from llmshield.policy.loader import inspect, inspect_text, load, loads
from llmshield.policy.overrides import Exemption, Override
from llmshield.policy.policy import Policy
from llmshield.policy.providers import Circuit, Prices, Provider, Timeout
from llmshield.policy.routes import Match, Retry, Route, TargetShape
from llmshield.policy.server import Defaults, PathRule, Server
from llmshield.policy.tenants import Identify, Tenant, Tier
from llmshield.policy.units import (
    Budget,
    CallPrice,
    Duration,
    DurationRange,
    HostPort,
    Money,
    Percent,
    PositiveDuration,
    Range,
    Rate,
    RateLimit,
    Size,
    TimeZone,
    TokenPrice,
)

__all__ = [
    "CODES",
    "Budget",
    "CallPrice",
    "Circuit",
    "Defaults",
    "Duration",
    "DurationRange",
    "Exemption",
    "Finding",
    "HostPort",
    "Identify",
    "Match",
    "Money",
    "Override",
    "PathRule",
    "Percent",
    "PluginEntry",
    "Policy",
    "PositiveDuration",
    "Prices",
    "Provider",
    "Range",
    "Rate",
    "RateLimit",
    "Retry",
    "Route",
    "Server",
    "Size",
    "TargetShape",
    "Tenant",
    "Tier",
    "TimeZone",
    "Timeout",
    "TokenPrice",
    "inspect",
    "inspect_text",
    "load",
    "loads",
]
