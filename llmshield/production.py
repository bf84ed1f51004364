"""What production asks of a start: a strong master key, key files that nobody else reads, no literal in the policy.

`LLMSHIELD_ENV=production` switches it on. (Literals are found while the policy is read: `policy.literals`.) Everything is
told at once, each with its remedy, and nothing of a key.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from llmshield import resolvers, vault
from llmshield.deployment import is_production
from llmshield.errors import SecretError
from llmshield.policy import Policy


def refuse_unsafe(policy: Policy) -> None:
    """Raises: SecretError in production, with everything that is unsafe."""
    if not is_production():
        return
    found = [*master_key(), *key_files(policy)]
    if found:
        head = "LLMSHIELD_ENV is production, and this is not safe enough to start:"
        raise SecretError("\n  - ".join([head, *found]) if len(found) > 1 else f"{head} {found[0]}")


def master_key() -> Iterator[str]:
    """What is wrong with LLMSHIELD_SECRET_KEY, in production or not."""
    try:
        vault.ring()
        weak = vault.weakness(vault.read_master())
    except SecretError as error:
        yield str(error)
        return
    if weak:
        yield f"{vault.VARIABLE} is weak: {weak}; make a random one with `llmshield vault key`"
    for variable, reference in vault.references():
        try:
            if danger := resolvers.warn(reference, Path()):
                yield f"{variable}: {danger}"
        except SecretError as error:
            yield f"{variable}: {error}"


def key_files(policy: Policy) -> Iterator[str]:
    """Key files that others may read, or that are links."""
    for place, reference in references(policy):
        try:
            if danger := resolvers.warn(reference, policy.base or Path()):
                yield f"{place}: {danger}"
        except SecretError as error:
            yield f"{place}: {error}"


def references(policy: Policy) -> Iterator[tuple[str, resolvers.SecretRef]]:
    """(place, reference) of every secret that the policy names."""
    for name, provider in policy.providers.items():
        if provider.api_key is not None:
            yield f"providers.{name}.api_key", provider.api_key
    signature = policy.identity.signature
    for name, signer in signature.signers.items() if signature is not None else ():
        yield f"identity.signature.signers.{name}.secret", signer.secret
