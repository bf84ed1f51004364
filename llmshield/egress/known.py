"""Hosts of LLM providers that are known by name (`providers.json`), so that calls to them are seen before any policy
names them. In a name `*` stands for one label or a part of one; the list grows by lines, no code knows a provider.
"""

from __future__ import annotations

import functools
import json
import re
from importlib import resources


@functools.cache
def hosts() -> dict[str, str]:
    """Name patterns, each with the provider's name."""
    found: dict[str, str] = json.loads(
        resources.files("llmshield.egress").joinpath("providers.json").read_text(encoding="utf-8")
    )
    return found


def provider_of(host: str) -> str | None:
    """Whose host this is; None where it is not known."""
    host = host.lower().rstrip(".")
    exact = hosts().get(host)
    if exact is not None:
        return exact
    return next((name for pattern, name in _patterns() if pattern.fullmatch(host)), None)


@functools.cache
def _patterns() -> list[tuple[re.Pattern[str], str]]:
    return [
        (re.compile(re.escape(host).replace(r"\*", "[a-z0-9_-]+")), name)
        for host, name in hosts().items()
        if "*" in host
    ]
