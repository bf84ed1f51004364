"""The policy that is in force, without its secrets."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from llmshield.admin.house import House
from llmshield.admin.shapes import Shape
from llmshield.admin.showing import shown
from llmshield.admin.table import Example, route
from llmshield.policy import Policy

_NOT_OF_THE_FILE = frozenset({"file", "hash", "base", "keys", "warnings"})


class EffectivePolicy(Shape):
    """The policy as it was read, with what was set of its providers since."""

    file: str = Field(description="Where it came from.")
    hash: str = Field(description="What identifies it: what the record of a call names.")
    set_since: dict[str, tuple[str, ...]] = Field(
        description="Providers with values that were set while it runs, and which; `GET /v1/providers/NAME` has them."
    )
    policy: dict[str, Any] = Field(
        description="Every section, defaults included. Durations are seconds, sizes bytes, prices pico-USD a token."
    )


@route("GET", "/v1/policy", role="read", example=Example())
async def show_policy(house: House) -> EffectivePolicy:
    """Show the policy that is in force, defaults included and secrets left out."""
    policy = house.policy
    sections = {
        name: getattr(policy, name) for name in Policy.__dataclass_fields__ if name not in _NOT_OF_THE_FILE
    }
    changed = {name: tuple(sorted(house.set_of(name))) for name in policy.providers if house.set_of(name)}
    return EffectivePolicy(
        file=policy.file,
        hash=policy.hash,
        set_since=changed,
        policy={name: shown(value, name) for name, value in sections.items() if not name.startswith("_")},
    )
