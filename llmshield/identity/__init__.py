"""Who is calling: client key, token, signature or trusted header -> tenant and tier; before any plugin, before the
body is read.

One module of this room is one way to tell (a `Way`), and its name is the word in the policy's `identify`. The ways
are asked in the policy's order; the first that knows the caller wins, and one that is shown a credential of its own
that is no good refuses the call.

The same restriction holds for every way a key may come in (`Authorization: Bearer`, `x-api-key`, `api-key`,
`x-goog-api-key`, `?key=`); two different keys at once are refused. A credential of ours never travels to a provider.
Addresses are believed from trusted hops only.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, NamedTuple, Protocol, TypeAlias

from llmshield import client_keys, registry
from llmshield.blocks import Blocks
from llmshield.errors import CallError
from llmshield.heads import Head
from llmshield.identity._addresses import Trusted
from llmshield.identity._sent import as_bearer, carries_key, one_key, without_key
from llmshield.origins import Origin
from llmshield.policy import Policy
from llmshield.stores import Store

__all__ = [
    "ANONYMOUS",
    "Asked",
    "Caller",
    "House",
    "Identity",
    "Way",
    "Who",
    "as_bearer",
    "carries_key",
    "without_key",
]

ANONYMOUS = "anonymous"


class Caller(NamedTuple):
    """Who is calling. `key` is the client's own credential, to be passed on or dropped, never shown; `key_id` the
    start of its hash where it is one of our client keys (and must not travel on), or the signer; `tags` come from
    its token. `secret` is what this caller alone knows, where it knows anything: whatever is kept for it is sealed
    with it."""

    tenant: str
    tier: str | None
    key_id: str | None
    key: str | None
    address: str
    tags: Mapping[str, str] | None = None
    secret: str | None = None
    ours: bool = False
    """The key that was sent is a credential for us: no provider and no wrapped app is to see it."""

    def __repr__(self) -> str:
        return f"<Caller {self.tenant!r}>"


@dataclass(slots=True)
class Who:
    """What a way found out about a caller; it may keep one and give it again. `uses_key`: the key that was sent is
    what tells, and so is ours. The last Caller is kept beside it: most clients call from one address."""

    tenant: str
    tier: str | None
    key_id: str | None = None
    tags: Mapping[str, str] | None = None
    secret: str | None = field(default=None, repr=False)
    uses_key: bool = False
    last: Caller | None = field(default=None, repr=False)


class Asked(Protocol):
    """The request as its mount took it; `read_body` reads its body, and may be replaced by a way that checks it."""

    @property
    def method(self) -> str: ...
    @property
    def raw_path(self) -> bytes: ...
    @property
    def raw_query(self) -> bytes: ...
    @property
    def origin(self) -> Origin | None:
        """Where an intercepted call was going, and who had sent it; None under the other mounts."""
        ...

    @property
    def read_body(self) -> Callable[[int], Awaitable[bytes]]:
        """Reads the whole body. A plain attribute, to mypy a method (python/mypy#708): replace it with `setattr`."""
        ...


Found: TypeAlias = "Who | Awaitable[Who | None] | None"


@dataclass(slots=True, frozen=True)
class House:
    """What ways are made of: the policy, the shared store (None: none is needed to identify, in tests), and who of
    the peers is trusted."""

    policy: Policy
    store: Store | None
    trusted: Trusted

    @property
    def base(self) -> Path:
        """Where relative paths of the policy start."""
        return self.policy.base or Path()

    def tier_of(self, tenant: str) -> str | None:
        """The tier that the policy gives this tenant."""
        known = self.policy.tenants.get(tenant)
        return known.tier if known is not None else None


class Way(ABC):
    """One way to tell who is calling; made once for each entry of `identify`.

    `form` is how the policy writes it. `name` is what stands behind the colon there.
    """

    form: ClassVar[str]

    def __init__(self, name: str, house: House) -> None:
        self.name = name
        self.house = house

    @classmethod
    def read_name(cls, name: str) -> str | None:
        """What stands behind the colon, in the spelling that counts; None where it can't be used."""
        return None if name else ""

    async def start(self) -> None:  # noqa: B027  most ways need none
        """Get ready. Raises: ShieldError with the remedy."""

    async def close(self) -> None:  # noqa: B027
        """Let go of everything."""

    @abstractmethod
    def look(self, headers: Mapping[str, str], key: str | None, peer: str, asked: Asked | None) -> Found:
        """The caller, or None for a request that says nothing to this way; at once where it can, else awaitable.

        `headers` have lower-case names, `key` is the one key that was sent, `peer` the connection's address.

        Raises: CallError `unauthenticated` for a credential of this way that is no good.
        """


class Identity:
    """The policy's `identify`, `tenants` and `trusted_proxies`, compiled."""

    def __init__(self, policy: Policy, store: Store | None = None) -> None:
        self._trusted = Trusted(tuple(policy.trusted_proxies))
        house = House(policy, store, self._trusted)
        self._ways: tuple[Way, ...] = tuple(
            registry.find("identity", rule.kind)(rule.name, house) for rule in policy.identify
        )
        # What a proxy says about its client is nobody's business behind us (`x-llmshield-*` never goes up anyway).
        self._told = tuple(
            rule.name
            for rule in policy.identify
            if rule.kind == "header" and not rule.name.startswith("x-llmshield-")
        )
        self._policy_keys = frozenset(digest.removeprefix("sha256:") for digest in policy.keys)
        # Where a provider has no key of its own, a key that we do not know is the client's key for the provider.
        self._passes_keys = any(p.api_key is None for p in policy.providers.values()) or not policy.providers
        self._blocks = Blocks(store) if store is not None else None
        tenant = policy.tenants.get(ANONYMOUS)
        self._anonymous = (
            Who(ANONYMOUS, tenant.tier if tenant else None) if tenant or not policy.tenants else None
        )

    async def start(self) -> None:
        """Make every way ready. Raises: ShieldError with the remedy."""
        if self._blocks is not None:
            await self._blocks.start()
        for way in self._ways:
            await way.start()

    async def close(self) -> None:
        """Let go of what the ways hold."""
        if self._blocks is not None:
            await self._blocks.close()
        for way in self._ways:
            await way.close()

    def identify(
        self,
        headers: dict[str, str],
        query: str,
        peer: str,
        asked: Asked | None = None,
        head: Head | None = None,
    ) -> Caller | Awaitable[Caller]:
        """The caller of one request, at once where nothing has to be waited for; `peer` is the address of the
        connection. A header that has told who it is, or could have, is taken out.

        Raises: CallError `unauthenticated` for a missing, unknown or bad credential, `bad_request` for two different
        keys, `forbidden` for a caller that is blocked; the awaitable raises the same.
        """
        if (
            self._blocks is not None and self._blocks.any
        ):  # before its key is looked at: nobody learns what it is good for
            self._blocks.check_address(self._trusted.client(headers, peer))
        key = head.key if head is not None else False
        if key is False:
            key = one_key(headers, query)
            if head is not None:
                head.key = key
        for at, way in enumerate(self._ways):
            found = way.look(headers, key, peer, asked)
            if found is not None:
                if type(found) is Who:
                    return self._caller(found, key, headers, peer)
                return self._later(found, at, headers, key, peer, asked)  # type: ignore[arg-type]
        return self._unknown(key, headers, peer)

    async def _later(
        self, waiting: Awaitable[Who | None], at: int, headers: dict[str, str], key: str | None, peer: str,
        asked: Asked | None,
    ) -> Caller:  # fmt: skip
        """The same, from a way on that has to wait."""
        who = await waiting
        for way in self._ways[at + 1 :] if who is None else ():
            found = way.look(headers, key, peer, asked)
            who = found if found is None or isinstance(found, Who) else await found
            if who is not None:
                break
        return self._unknown(key, headers, peer) if who is None else self._caller(who, key, headers, peer)

    def _caller(self, who: Who, key: str | None, headers: dict[str, str], peer: str) -> Caller:
        address = self._trusted.client(headers, peer)
        for name in self._told:
            headers.pop(name, None)
        if self._blocks is not None and self._blocks.any:
            self._blocks.check_tenant(who.tenant)
        ours = key is not None and (who.uses_key or self._is_ours(key))
        if key is None or ours:
            last = who.last
            if last is not None and last.address == address and last.ours == ours:
                return last
            last = who.last = Caller(
                who.tenant, who.tier, who.key_id, None, address, who.tags, who.secret, ours
            )
            return last
        return Caller(
            who.tenant, who.tier, who.key_id, _fit_to_pass(key), address, who.tags, who.secret or key
        )

    def _is_ours(self, key: str) -> bool:
        """Whether this key is one of our client keys, good or bad, though another way told who is calling."""
        return client_keys.has_our_form(key) or (
            bool(self._policy_keys) and client_keys.digest_of(key) in self._policy_keys
        )

    def _unknown(self, key: str | None, headers: dict[str, str], peer: str) -> Caller:
        """Nobody knows who it is: anonymous, where the policy lets such calls in."""
        if key is None:
            if self._anonymous is None:
                raise CallError("unauthenticated", "No API key was sent; this gateway requires one.")
        elif self._anonymous is None or (
            self._policy_keys and not self._passes_keys and not self._is_ours(key)
        ):
            raise CallError("unauthenticated", "The API key is not one of this gateway's client keys.")
        return self._caller(self._anonymous, key, headers, peer)

    def trusts(self, peer: str) -> bool:
        """Whether this address is one of the policy's `trusted_proxies`."""
        return self._trusted.trusts(peer)

    def address(self, headers: Mapping[str, str], peer: str) -> str:
        """The client's address: the last hop of X-Forwarded-For that no trusted proxy wrote for itself."""
        return self._trusted.client(headers, peer)


def _fit_to_pass(key: str) -> str:
    """A key that may stand in a header. Raises: CallError for one that no provider has given out."""
    if key.isascii() and key.isprintable():
        return key
    raise CallError("bad_request", "The API key holds characters that can't stand in a key.")
