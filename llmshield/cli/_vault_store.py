"""What `llmshield vault` does in the store that gateways share: revoke a provider's key, seal stored ones anew."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from llmshield.cli._reading import policy_at, shared_store
from llmshield.errors import ShieldError

if TYPE_CHECKING:
    from llmshield.stores import Store

T = TypeVar("T")


def revoke(provider: str, policy: Path | None, url: str | None, reason: str, *, lift: bool) -> None:
    """Revoke a provider's key, or take it up again. Raises: ShieldError for a provider that the policy lacks."""
    from llmshield import provider_keys
    from llmshield.policy.findings import did_you_mean

    default = Path("policy.yaml")
    if policy is not None or (url is None and default.is_file()):
        names = list(policy_at(policy or default, "vault").providers)
        if provider not in names:
            hint = did_you_mean(provider, names) or f"there is {', '.join(names) or 'none'}"
            raise ShieldError(f"The policy has no provider {provider!r:.80}; {hint}")
    if lift:
        if _with(policy, url, lambda store: provider_keys.lift(store, provider)):
            print(f"{provider} is taken up again; running gateways read its key anew within a second")
        else:
            print(f"llmshield vault: {provider} was not revoked", file=sys.stderr)
        return
    _with(policy, url, lambda store: provider_keys.revoke(store, provider, reason))
    print(f"revoked {provider}; running gateways ask it no more within a second")
    print(
        f"llmshield vault: revoke the key at the provider too; `llmshield vault revoke {provider} --lift` ends this",
        file=sys.stderr,
    )


def configure(provider: str | None, secret: str, url: str) -> None:
    """Put a provider's key into the store, sealed. Raises: ShieldError."""
    from llmshield import provider_keys

    if provider is None:
        raise ShieldError("a key in a store needs a name; say --provider NAME")
    _with(None, url, lambda store: provider_keys.configure(store, provider, secret))
    print(
        f"running gateways use the key for {provider} within a second, before the policy's", file=sys.stderr
    )


def reseal(url: str) -> int:
    """How many keys and settings of providers in a store were sealed anew. Raises: ShieldError."""
    from llmshield import provider_keys, provider_settings

    async def both(store: Store) -> int:
        return await provider_keys.reseal(store) + await provider_settings.reseal(store)

    return _with(None, url, both)


def _with(policy: Path | None, url: str | None, work: Callable[[Store], Awaitable[T]]) -> T:
    store = shared_store(policy, url, "vault", make=True)

    async def run() -> T:
        await store.open()
        try:
            return await work(store)
        finally:
            await store.close()

    return asyncio.run(run())
