"""What of a provider was set while it runs: kept in the store, sealed, seen by every process within a second.

Its timeouts and its models; its key is `provider_keys`' part. What is set wins over the policy, value by value, until it
is unset. `providers` is the mapping that the whole house reads: an entry in it is replaced, never changed.

A note that can't be opened (another master key, or somebody wrote to the store) must not widen what a provider may be
asked: what this process knew goes on; where it knows nothing the provider is asked for no model.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Literal, TypeAlias

import orjson
from pydantic import ValidationError

from llmshield import clock, vault
from llmshield.errors import SecretError
from llmshield.logs import log
from llmshield.policy.providers import Models, Provider, Timeout
from llmshield.policy.section import Section
from llmshield.policy.units import write_duration
from llmshield.stores import Store
from llmshield.watching import Watcher

SHELF = "provider_settings"
WATCH_S = 0.4
"""Between two looks at the shelf's revision: well inside a second."""

Name: TypeAlias = Literal["timeout", "models"]
_NOTHING = Models(allow=("*",), deny=("*",))


class Set(Section):
    """What was set of one provider. Of `timeout` the given phases count, of `models` the whole."""

    timeout: Timeout | None = None
    models: Models | None = None

    @property
    def empty(self) -> bool:
        """Whether nothing is set."""
        return self.timeout is None and self.models is None

    def over(self, provider: Provider) -> Provider:
        """The provider with this over the policy's values."""
        timeout, models = provider.timeout, provider.models
        if self.timeout is not None:
            said = {name: getattr(self.timeout, name) for name in self.timeout.model_fields_set}
            timeout = timeout.model_copy(update=said)
        if self.models is not None:
            models = self.models
        return replace(provider, timeout=timeout, models=models)

    def merged(self, more: Set) -> Set:
        """This, with what `more` says over it."""
        timeout = self.timeout
        if more.timeout is not None:
            said = {name: getattr(more.timeout, name) for name in more.timeout.model_fields_set}
            timeout = more.timeout if timeout is None else timeout.model_copy(update=said)
        return Set(timeout=timeout, models=more.models or self.models)

    def without(self, names: frozenset[str]) -> Set:
        """This, without these names."""
        return Set(
            timeout=None if "timeout" in names else self.timeout,
            models=None if "models" in names else self.models,
        )


_UNSET = Set()


@dataclass(slots=True, frozen=True)
class Known:
    """What this process knows to be set of a provider, since when (ms), and whether its note can be opened."""

    said: Set = _UNSET
    since_ms: int = 0
    readable: bool = True


class ProviderSettings:
    """The providers of a policy as one process uses them."""

    def __init__(self, providers: Mapping[str, Provider], store: Store) -> None:
        self._policy = dict(providers)
        self._live = dict(providers)
        self.providers: Mapping[str, Provider] = MappingProxyType(self._live)
        self._store = store
        self._known: dict[str, Known] = {}
        self._revision: int | None = None
        self._watcher = Watcher("provider_settings", self.refresh, WATCH_S)
        self._looking = asyncio.Lock()

    async def start(self) -> None:
        """Take over what is set, and watch it from now on; of a store that is away, as soon as it is there."""
        await self._watcher.start()

    async def close(self) -> None:
        """Stop watching."""
        await self._watcher.close()

    def known(self, name: str) -> Known:
        """What is set of a provider."""
        return self._known.get(name, Known())

    async def refresh(self) -> None:
        """Take over what has changed since the last look. Raises: StoreUnavailable."""
        async with self._looking:
            revision = await self._store.revision(SHELF)
            if revision == self._revision:
                return
            notes = await self._store.notes(SHELF, int(clock.now() * 1000))
            for name, provider in self._policy.items():
                before = self._known.get(name, Known())
                known = self._read(name, notes.get(name), before)
                if known != before:
                    self._known[name] = known
                    self._live[name] = known.said.over(provider)
                    log.warning("provider_set", provider=name, readable=known.readable)
            self._revision = revision

    def _read(self, name: str, note: bytes | None, before: Known) -> Known:
        if note is None:
            return Known()
        try:
            return _opened(name, note)
        except (SecretError, ValueError, KeyError, TypeError) as error:
            log.error("provider_settings_unreadable", provider=name, error=type(error).__name__)
            said = before.said if before.since_ms else Set(models=_NOTHING)
            return Known(said, before.since_ms, readable=False)


async def configure(store: Store, name: str, more: Set) -> Set:
    """Set these of a provider, over what is set already; what is set then.

    Raises: SecretError without a usable LLMSHIELD_SECRET_KEY, or where what is set already can't be opened;
    StoreUnavailable.
    """
    return await _change(store, name, lambda there: there.merged(more))


async def deconfigure(store: Store, name: str, names: frozenset[str]) -> Set:
    """Take these back: the policy's values count again. What is set still. Raises: as `configure`."""
    if names >= {"timeout", "models"}:
        await store.strike(SHELF, name)  # also one that can't be opened
        return Set()
    return await _change(store, name, lambda there: there.without(names))


async def reseal(store: Store) -> int:
    """Seal all notes anew under the master key that seals now; how many were not.

    Raises: SecretError, StoreUnavailable.
    """
    count, now_ms = 0, int(clock.now() * 1000)
    for name, note in (await store.notes(SHELF, now_ms)).items():
        if not vault.is_current(note):
            await store.swap(
                SHELF, name, note, vault.seal(vault.unseal(note, _context(name)), _context(name)), 0, now_ms
            )
            count += 1
    return count


async def _change(store: Store, name: str, change: Callable[[Set], Set]) -> Set:
    """Replace a note by what becomes of it; two who do so at once lose nothing."""
    while True:
        now_ms = int(clock.now() * 1000)
        note = await store.look(SHELF, name, now_ms)
        try:
            there = _opened(name, note).said if note is not None else Set()
        except (ValueError, KeyError, TypeError):
            raise SecretError(f"What is set of provider {name!r} can't be read; unset it first.") from None
        made = change(there)
        if made.empty:
            await store.strike(SHELF, name)
            return made
        tree: dict[str, Any] = {"at_ms": now_ms}
        if made.timeout is not None:
            said = made.timeout.model_fields_set
            tree["timeout"] = {phase: write_duration(getattr(made.timeout, phase)) for phase in sorted(said)}
        if made.models is not None:
            tree["models"] = made.models.model_dump(exclude_none=True)
        new = vault.seal(orjson.dumps(tree), _context(name))
        if await store.swap(SHELF, name, note, new, 0, now_ms) == new:
            return made


def _opened(name: str, note: bytes) -> Known:
    """Raises: SecretError, ValueError, KeyError, TypeError for what is no note of this provider."""
    tree = orjson.loads(vault.unseal(note, _context(name)))
    models = tree.get("models")
    if models is not None:
        models = {key: tuple(globs) for key, globs in models.items()}
    try:
        said = Set.model_validate({"timeout": tree.get("timeout"), "models": models})
    except ValidationError as error:
        raise ValueError("not as it was written") from error
    return Known(said, int(tree["at_ms"]))


def _context(name: str) -> str:
    return f"admin:provider_settings:{name}"
