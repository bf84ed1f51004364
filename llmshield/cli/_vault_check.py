"""`llmshield vault check`: whether every key of a policy can be had, and what is unsafe about it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from llmshield.errors import SecretError

if TYPE_CHECKING:
    from llmshield.policy import Policy
    from llmshield.resolvers import SecretRef


def check(policy: Policy) -> int:
    """Write a line for each key and for each thing to do; 0 when every key can be had and nothing is unsafe."""
    from llmshield import production, resolvers, vault
    from llmshield.deployment import is_production

    bad = 0
    sealed = any(reference.scheme == "enc" for _, reference in production.references(policy))
    if vault.has_key() or sealed or is_production():
        for problem in production.master_key():
            print(f"bad     {problem}")
            bad += 1
    for problem in production.key_files(policy):
        print(f"bad     {problem}")
        bad += 1
    base = policy.base or Path()
    needs_previous = False
    for place, reference in production.references(policy):
        _, name, *rest = place.split(".")
        owner = name if place.startswith("providers.") else f"signer:{rest[1]}"
        try:
            resolvers.resolve(reference, base, owner)
        except SecretError as error:
            print(f"bad     {place}: {error}")
            bad += 1
            continue
        advice, old = _advice(reference, base, owner)
        needs_previous |= old
        print(
            f"{'advice' if advice else 'good'}  {'' if advice else '  '}{place}{': ' + advice if advice else ''}"
        )
    for name, provider in policy.providers.items():
        if provider.api_key is None and provider.dialect is not None:
            print(f"good    providers.{name}: no key here, the client's own is passed on to it")
    stored, old = _store(policy)
    if not (needs_previous or old or bad or stored) and _has_previous():
        print(
            f"advice  {vault.PREVIOUS}: no key of this policy needs it any more; take it away, unless sealed records of"
            " the audit log are to be read with it"
        )
    return 1 if bad or stored else 0


def _store(policy: Policy) -> tuple[int, bool]:
    """What is bad about the keys in the store that gateways share, and whether one needs a previous master key."""
    import asyncio

    from llmshield import provider_keys
    from llmshield.cli._reading import shared_state
    from llmshield.errors import ShieldError
    from llmshield.stores import open_store

    store = open_store(policy.server.store)
    if not store.shared or (store.url.scheme == "sqlite" and not Path(store.url.path).is_file()):
        return 0, False

    async def look() -> tuple[dict[str, str], dict[str, dict[str, object]]]:
        store, state = shared_state(policy, "vault")
        state.recall(store)
        await store.open()
        try:
            return await provider_keys.configured(store), await provider_keys.revoked(store)
        finally:
            await store.close()

    try:
        configured, revoked = asyncio.run(look())
    except ShieldError as error:
        print(f"advice  server.store: keys in it were not looked at: {error}")
        return 0, True
    bad, old = 0, False
    for name in sorted(configured):
        found = _stored(name, configured[name])
        bad += found.startswith("bad")
        old |= found.startswith("advice")
        print(found)
    for name in sorted(revoked):
        print(f"advice  providers.{name}: revoked; `llmshield vault revoke {name} --lift` ends it")
    return bad, old


def _stored(name: str, reference: str) -> str:
    """A line about a key that was configured in the store."""
    from llmshield import vault

    try:
        ring = vault.ring()
        ring.unseal_reference(reference, name)
        if ring.is_current_reference(reference):
            return f"good    providers.{name}: its key is in the store"
        return f"advice  providers.{name}: its key in the store is sealed with a previous key; `llmshield vault rotate --store`"
    except SecretError as error:
        return f"bad     providers.{name}: its key in the store: {error}"


def _advice(reference: SecretRef, base: Path, owner: str) -> tuple[str, bool]:
    """What to do about a sealed key that opens, and whether it needs a previous master key."""
    from llmshield import key_files, vault
    from llmshield.sealing import FERNET, read_reference

    if reference.scheme != "enc":
        return "", False
    ring, text = vault.ring(), reference.rest
    path, mark, name = text.partition("#")
    if mark:
        text = key_files.read(base / path, ring).entries[name].removeprefix("enc://")
    if text.startswith(FERNET):
        return (
            f"a Fernet token is good for any provider; `llmshield vault rotate --provider {owner}` seals it anew",
            True,
        )
    if not ring.is_current_reference(text):
        how = f"--file {path}" if mark else f"--provider {owner}"
        return f"sealed with a previous key; `llmshield vault rotate {how}`", True
    if not read_reference(text)[0]:
        return f"sealed for any provider; `llmshield vault rotate --provider {owner}` binds it", False
    return "", False


def _has_previous() -> bool:
    import os

    from llmshield import vault

    return bool(os.environ.get(vault.PREVIOUS, "").strip())
