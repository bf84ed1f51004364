"""Manual blocks: addresses, networks and tenants that may not call, until a time or until somebody takes it back.

They stand in the store (`llmshield block add`), so they outlive a restart, and every process of the store knows them
within a second: each keeps a copy and looks twice a second whether the shelf has changed. They hold before any
plugin, whatever the policy says. A store that is away changes nothing: the copy goes on.

A single IPv6 address is blocked as its /64, as limits count it: whoever has one has them all (RFC 6177).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import orjson

from llmshield import clock
from llmshield.addresses import parse
from llmshield.errors import CallError, ShieldError
from llmshield.stores import Store
from llmshield.watching import Watcher
from llmshield.windows import iso

SHELF = "blocks"
WATCH_S = 0.4
"""Between two looks at the shelf's revision: well inside the second in which a block has to hold."""

_TENANT = "tenant:"
_LONGEST_REASON = 500


@dataclass(slots=True, frozen=True)
class Blocked:
    """One block. `target` is a network (`192.0.2.7/32`) or `tenant:NAME`; times in ms, `until_ms` 0: for ever."""

    target: str
    since_ms: int
    until_ms: int = 0
    reason: str = ""

    @property
    def shown(self) -> str:
        """The target as people write it: a single address without its length."""
        address, _, length = self.target.rpartition("/")
        return address if length in ("32", "128") and not self.target.startswith(_TENANT) else self.target

    def dump(self) -> bytes:
        """As it stands in the store."""
        return orjson.dumps(
            {"since_ms": self.since_ms, "until_ms": self.until_ms, "reason": self.reason[:_LONGEST_REASON]}
        )

    @classmethod
    def load(cls, target: str, note: bytes) -> Blocked | None:
        """The block in a note; None for a note that is none (whoever can write to the store can break it)."""
        try:
            tree: Any = orjson.loads(note)
            found = cls(target, int(tree["since_ms"]), int(tree["until_ms"]), str(tree["reason"]))
            return found if read_target(target) == target else None
        except (ValueError, KeyError, TypeError, ShieldError):
            return None


def read_target(text: str) -> str:
    """The one spelling of an address, a network or `tenant:NAME`. Raises: ShieldError for anything else."""
    if text.startswith(_TENANT) and len(text) > len(_TENANT):
        return text
    try:
        network = ipaddress.ip_network(text.strip("[]"), strict=False)
    except ValueError:
        raise ShieldError(
            f"found {text!r:.100}, expected an address (192.0.2.7), a network (2001:db8::/48) or tenant:NAME"
        ) from None
    if isinstance(network, ipaddress.IPv6Network):
        mapped = network.network_address.ipv4_mapped
        if mapped is not None and network.prefixlen >= 96:
            return f"{mapped}/{network.prefixlen - 96}"
        if "/" not in text:
            network = network.supernet(new_prefix=64)
    return str(network)


async def add(store: Store, target: str, until_ms: int = 0, reason: str = "") -> Blocked:
    """Block a target, or change how long it is. Raises: ShieldError for no target, StoreUnavailable."""
    made = Blocked(read_target(target), _now_ms(), until_ms, reason)
    await store.put(SHELF, made.target, made.dump(), until_ms)
    return made


async def remove(store: Store, target: str) -> bool:
    """Take a block back; whether there was one. Raises: ShieldError for no target, StoreUnavailable."""
    return await store.strike(SHELF, read_target(target))


async def everyone(store: Store) -> list[Blocked]:
    """All blocks that hold, the oldest first. Raises: StoreUnavailable."""
    notes = await store.notes(SHELF, _now_ms())
    found = [made for target, note in notes.items() if (made := Blocked.load(target, note)) is not None]
    return sorted(found, key=lambda made: (made.since_ms, made.target))


class Blocks:
    """The blocks of a store as one process sees them."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._tenants: dict[str, int] = {}
        self._networks: dict[int, list[tuple[int, dict[int, int]]]] = {4: [], 6: []}
        self._revision = 0
        self._watcher = Watcher("blocks", self.refresh, WATCH_S)
        self.any = False
        """Whether anybody is blocked: if not, there is nothing to ask."""

    async def start(self) -> None:
        """Read the blocks, and watch them from now on; of a store that is away, as soon as it is there."""
        await self._watcher.start()

    async def close(self) -> None:
        """Stop watching."""
        await self._watcher.close()

    def check(self, tenant: str, address: str) -> None:
        """Raises: CallError `forbidden` for a tenant or address that is blocked."""
        self.check_address(address)
        self.check_tenant(tenant)

    def check_tenant(self, tenant: str) -> None:
        """Raises: CallError `forbidden` for a tenant that is blocked."""
        until_ms = self._tenants.get(tenant)
        if until_ms is not None and _holds(until_ms):
            raise CallError("forbidden", f"Tenant {tenant} is blocked{_until(until_ms)}.")

    def check_address(self, address: str) -> None:
        """Raises: CallError `forbidden` for an address that is blocked."""
        parsed = parse(address)
        if parsed is not None:
            number = int(parsed)
            for shift, blocked in self._networks[parsed.version]:
                until_ms = blocked.get(number >> shift)
                if until_ms is not None and _holds(until_ms):
                    raise CallError("forbidden", f"This address is blocked{_until(until_ms)}.")

    async def refresh(self) -> None:
        """Take over what has changed since the last look. Raises: StoreUnavailable."""
        revision = await self._store.revision(SHELF)
        if revision != self._revision:
            self._compile(await everyone(self._store))
            self._revision = revision

    def _compile(self, blocked: Iterable[Blocked]) -> None:
        tenants: dict[str, int] = {}
        by_length: dict[tuple[int, int], dict[int, int]] = {}
        for item in blocked:
            if item.target.startswith(_TENANT):
                tenants[item.target.removeprefix(_TENANT)] = item.until_ms
            else:
                network = ipaddress.ip_network(item.target)
                shift = network.max_prefixlen - network.prefixlen
                held = by_length.setdefault((network.version, shift), {})
                held[int(network.network_address) >> shift] = item.until_ms
        self._tenants = tenants
        self._networks = {
            version: [(shift, held) for (found, shift), held in by_length.items() if found == version]
            for version in (4, 6)
        }
        self.any = bool(tenants or by_length)


def _holds(until_ms: int) -> bool:
    return not until_ms or clock.now() * 1000 < until_ms


def _until(until_ms: int) -> str:
    return f" until {iso(until_ms / 1000)}" if until_ms else ""


def _now_ms() -> int:
    return int(clock.now() * 1000)
