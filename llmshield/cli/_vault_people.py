"""`llmshield vault rotate --policy FILE`: the keys of people, sealed anew under the master key that seals now."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llmshield.policy import Policy

GOOD, FAILED = 0, 1


def reseal(policy: Policy) -> int:
    """Have every kind of personal data seal its keys anew; what is left is said. Returns the exit status."""
    from llmshield import registry, vault
    from llmshield.errors import ShieldError

    status = GOOD
    current = vault.ring().id
    for name in registry.names("holder"):
        holder = registry.find("holder", name)(policy)
        try:
            done = holder.reseal()
        except (ShieldError, OSError) as error:
            print(f"llmshield vault: {holder.what}: {error}", file=sys.stderr)
            status = FAILED
            continue
        print(
            f"{holder.what}: the keys of {done.people} people are sealed with {current} now", file=sys.stderr
        )
        for left in done.left:
            print(f"llmshield vault: {holder.what}: {left}", file=sys.stderr)
            status = FAILED
    return status
