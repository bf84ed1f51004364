"""The providers' keys at work: resolved at the start, read anew from time to time, revoked within a second.

A key is read again every `lifetime` seconds, off the path of calls, so that one that was changed where it is needs no
restart. While that place can't be reached, the last value goes on for `outage` seconds more; then the provider is asked
no more. A key that was put into the store (`configure`) comes before the policy's reference, sealed for its provider.

`llmshield vault revoke NAME` writes a note that every process of the store sees within a second: calls under way go on,
no further one is sent. A process that has seen it takes the provider up again only where the store says so itself
(`lift`), whatever becomes of the note.

Rule: no value is in a message, a repr or the status.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import orjson

from llmshield import clock, resolvers, vault
from llmshield.errors import SecretError, UpstreamError
from llmshield.logs import log
from llmshield.redact import remember
from llmshield.resolvers import SecretRef
from llmshield.resolvers._value import clean
from llmshield.stores import Store
from llmshield.watching import Watcher

SHELF = "provider_keys"
WATCH_S = 0.3
"""Between two looks at the shelf's revision: well inside the second in which a revocation has to hold."""
RESOLVE_S = 10.0
"""How long one place may take to give a key."""
_SOONEST_S, _LATEST_S = 1.0, 30.0
"""Between two tries to reach a place that could not be reached; it doubles."""
_KEY, _REVOKED = "key:", "revoked:"


class Keys(Protocol):
    """What an attempt asks: a provider's key, or None where the client's own is passed on.

    Raises: UpstreamError `key` where there is one that must not, or can't, be used.
    """

    def get(self, name: str, /) -> str | None: ...


@dataclass(slots=True)
class _Held:
    """One provider's key. Times are `clock.monotonic()` seconds."""

    reference: SecretRef | None
    value: str | None = field(default=None, repr=False)
    good_until: float = 0.0
    next_at: float = 0.0
    wait_s: float = _SOONEST_S
    read_at: float | None = None
    failing: str = ""
    sealed: str = ""
    """The store's reference; it comes before the policy's."""
    revoked_ms: int = 0
    reading: Future[str] | None = field(default=None, repr=False)
    is_former: bool = False
    """The value is that from before the last change: it goes on only while the new one is being read for the first
    time, so that no call falls between the two."""
    used_from: str = ""
    """`origin` of the value that calls use: after a change that of the former one, until the new one is read."""
    turn: int = 0
    """Rises when its key became another one: what was read before that is thrown away."""

    @property
    def origin(self) -> str:
        """Where the value comes from: `store`, the reference's scheme, or `client`."""
        return "store" if self.sealed else self.reference.scheme if self.reference is not None else "client"

    @property
    def reads(self) -> bool:
        """Whether there is a key to be read."""
        return bool(self.sealed) or self.reference is not None


class ProviderKeys:
    """The keys of a policy's providers as one process uses them. `references` holds a name for each provider."""

    def __init__(
        self,
        references: Mapping[str, SecretRef | None],
        base: Path,
        store: Store,
        *,
        lifetime_s: float = 300.0,
        outage_s: float = 3600.0,
    ) -> None:
        self._base = base
        self._store = store
        self._lifetime_s = lifetime_s
        self._outage_s = outage_s
        self._held = {name: _Held(reference) for name, reference in references.items()}
        self._ready: dict[str, str | None] = {}
        self._revision: int | None = None
        self._watcher = Watcher("provider_keys", self._look, WATCH_S)
        self._refresher: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()

    def get(self, name: str, /) -> str | None:
        """The key; None where the client's own is passed on (or the provider is not ours). Raises: UpstreamError."""
        try:
            return self._ready[name]
        except KeyError:
            held = self._held.get(name)
            if held is None:
                return None
            raise UpstreamError("key", _refusal(name, held)) from None

    async def start(self) -> None:
        """Read every key. Raises: SecretError with the provider and the remedy when one can't be had."""
        if self._refresher is not None:
            return
        await self._watcher.start()
        failures = await asyncio.gather(*(self._renew(name, held) for name, held in self._held.items()))
        for name, failure in zip(self._held, failures, strict=True):
            if failure and not self._held[name].revoked_ms:
                await self._watcher.close()
                raise SecretError(f"providers.{name}.api_key: {failure}")
        self._refresher = asyncio.create_task(self._refresh(), name="llmshield-key-refresh")

    async def close(self) -> None:
        """Stop reading."""
        await self._watcher.close()
        refresher, self._refresher = self._refresher, None
        if refresher is not None:
            refresher.cancel()
            await asyncio.wait({refresher})

    def status(self, name: str) -> dict[str, Any]:
        """Where a provider's key comes from, and whether it may be used: `good`, `outage` (the last value goes on),
        `lost` or `revoked`."""
        held = self._held.get(name)
        if held is None:
            return {"from": "client", "state": "good", "age_s": None, "failing": None}
        state = "revoked" if held.revoked_ms else "good" if not held.failing else "outage"
        if held.reads and state != "revoked" and name not in self._ready:
            state = "lost"
        age = None if held.read_at is None else round(clock.monotonic() - held.read_at, 1)
        origin = held.used_from if name in self._ready and held.used_from else held.origin
        return {"from": origin, "state": state, "age_s": age, "failing": held.failing or None}

    # -- reading ---------------------------------------------------------------------------------------------------

    async def _renew(self, name: str, held: _Held) -> str:
        """Read one key, and use it at once: others may take long."""
        failure = await self._read(name, held)
        self._publish()
        return failure

    async def _read(self, name: str, held: _Held) -> str:
        """Read one key; why it could not be, or ""."""
        if not held.reads:
            return ""
        reference: str | SecretRef | None = held.sealed or held.reference
        assert reference is not None
        turn, value = held.turn, ""
        try:
            if held.reading is not None and held.reading.running():
                raise TimeoutError  # one that hangs takes one thread, not one more with each try
            held.reading = _in_thread(reference, self._base, name)
            async with asyncio.timeout(RESOLVE_S):
                value = await asyncio.wrap_future(held.reading)
            failure = ""
        except SecretError as error:
            failure = str(error)
        except TimeoutError:
            failure = f"its place did not answer within {RESOLVE_S:g} s"
        except Exception as error:  # noqa: BLE001  a library's own error must not end the refreshing of all keys
            failure = f"{type(error).__name__} while it was read"
        if held.turn != turn:
            return "it became another one meanwhile"
        now = clock.monotonic()
        if failure:
            if not held.failing and held.read_at is not None:
                left = max(0.0, held.good_until - now)
                log.warning("provider_key_unread", provider=name, reason=failure, go_on_s=round(left))
            if held.is_former:
                held.value, held.is_former = None, False
            held.failing = failure
            held.next_at = now + held.wait_s
            held.wait_s = min(held.wait_s * 2, _LATEST_S)
            return failure
        remember(value)
        if held.failing:
            log.info("provider_key_read_again", provider=name)
        held.failing, held.wait_s = "", _SOONEST_S
        held.value, held.read_at, held.is_former = value, now, False
        held.good_until = now + self._lifetime_s + self._outage_s
        held.next_at = now + self._lifetime_s * random.uniform(0.9, 1.0)  # noqa: S311  spreads load over processes
        return ""

    def _publish(self) -> None:
        """Make what may be used what is used, at once for all calls."""
        now = clock.monotonic()
        ready: dict[str, str | None] = {}
        for name, held in self._held.items():
            if held.revoked_ms:
                continue
            if not held.reads:
                ready[name] = None
            elif held.value is not None and now < held.good_until:
                ready[name] = held.value
                if not held.is_former:
                    held.used_from = held.origin
            elif held.value is not None:
                held.value = None
                log.error("provider_key_lost", provider=name, reason=held.failing)
        self._ready = ready

    async def _refresh(self) -> None:
        """Read keys again when their time has come, and let go of those that could not be read for too long."""
        while True:
            now = clock.monotonic()
            due = [(name, held) for name, held in self._held.items() if held.reads and held.next_at <= now]
            if due:
                await asyncio.gather(*(self._renew(name, held) for name, held in due))
            self._publish()
            moments = [held.next_at for held in self._held.values() if held.reads]
            moments += [held.good_until for held in self._held.values() if held.value is not None]
            wait_s = min(moments, default=now + 3600.0) - clock.monotonic()
            self._wake.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(max(wait_s, 0.01), 3600.0)):
                    await self._wake.wait()

    # -- the store -------------------------------------------------------------------------------------------------

    async def _look(self) -> None:
        """Take over what the store says, if it has changed. Raises: StoreUnavailable."""
        revision = await self._store.revision(SHELF)
        if revision == self._revision:
            return
        notes = await self._store.notes(SHELF, _now_ms())
        for name, held in self._held.items():
            mark = _loaded(notes.get(_REVOKED + name))
            since = _ms(mark, "revoked_ms")
            if since and not held.revoked_ms:
                held.revoked_ms = since
                log.warning("provider_revoked", provider=name)
            elif held.revoked_ms and _ms(mark, "lifted_ms"):
                held.revoked_ms = 0
                self._reread(held)
                log.warning("provider_taken_up_again", provider=name)
            sealed = str(_loaded(notes.get(_KEY + name)).get("sealed", ""))
            if sealed != held.sealed:
                held.sealed = sealed
                before, good_until = held.value, held.good_until
                self._reread(held)
                if before is not None:
                    held.value, held.is_former = before, True
                    held.good_until = min(good_until, clock.monotonic() + RESOLVE_S)
        self._revision = revision
        self._publish()
        self._wake.set()

    def _reread(self, held: _Held) -> None:
        """Its key is another one now: what is known is good for nothing until it was read."""
        held.turn += 1
        held.value, held.is_former, held.next_at, held.wait_s = None, False, 0.0, _SOONEST_S


def _in_thread(reference: str | SecretRef, base: Path, name: str) -> Future[str]:
    """Resolve in a thread of its own, which ends with the process: a place that hangs must not hold up its end."""
    future: Future[str] = Future()
    future.set_running_or_notify_cancel()

    def run() -> None:
        try:
            future.set_result(resolvers.resolve(reference, base, name))
        except BaseException as error:  # noqa: BLE001  it is raised where the key is waited for
            future.set_exception(error)

    threading.Thread(target=run, name=f"llmshield-key-{name}", daemon=True).start()
    return future


def _refusal(name: str, held: _Held) -> str:
    if held.revoked_ms:
        return f"The key of provider {name!r} was revoked; it is asked no more."
    return f"The key of provider {name!r} can't be read where it is kept; the call is refused."


# -- what commands and the admin port do ---------------------------------------------------------------------------


async def revoke(store: Store, name: str, reason: str = "") -> None:
    """Stop the use of a provider's key in every process of the store. Raises: StoreUnavailable."""
    note = {"revoked_ms": _now_ms(), "reason": reason[:500]}
    await store.put(SHELF, _REVOKED + name, orjson.dumps(note))


async def lift(store: Store, name: str) -> bool:
    """Take a provider up again, with its key read anew; whether it was revoked. Raises: StoreUnavailable."""
    there = _loaded(await store.look(SHELF, _REVOKED + name, _now_ms()))
    await store.put(SHELF, _REVOKED + name, orjson.dumps({"lifted_ms": _now_ms()}))
    return bool(_ms(there, "revoked_ms"))


async def revoked(store: Store) -> dict[str, dict[str, Any]]:
    """The providers that are revoked, with when and why. Raises: StoreUnavailable."""
    found = {
        key.removeprefix(_REVOKED): _loaded(note)
        for key, note in (await store.notes(SHELF, _now_ms())).items()
        if key.startswith(_REVOKED)
    }
    return {name: mark for name, mark in found.items() if _ms(mark, "revoked_ms")}


async def configured(store: Store) -> dict[str, str]:
    """The store's keys, sealed, by provider. Raises: StoreUnavailable."""
    notes = await store.notes(SHELF, _now_ms())
    found = {key.removeprefix(_KEY): _loaded(note) for key, note in notes.items() if key.startswith(_KEY)}
    return {name: str(note["sealed"]) for name, note in found.items() if note.get("sealed")}


async def configure(store: Store, name: str, secret: str) -> None:
    """Put a provider's key into the store, sealed for it: every process uses it within a second, before the policy's.

    Raises: SecretError without LLMSHIELD_SECRET_KEY, or for what can't be a key; StoreUnavailable.
    """
    remember(secret)
    sealed = vault.ring().seal_reference(clean(secret, "the key"), name)
    await store.put(SHELF, _KEY + name, orjson.dumps({"sealed": sealed, "since_ms": _now_ms()}))


async def deconfigure(store: Store, name: str) -> bool:
    """Take a provider's key out of the store: the policy's reference counts again. Raises: StoreUnavailable."""
    return await store.strike(SHELF, _KEY + name)


async def reseal(store: Store) -> int:
    """Seal the store's keys anew under the master key that seals now; how many were not. Raises: SecretError,
    StoreUnavailable."""
    count = 0
    ring = vault.ring()
    for key, note in (await store.notes(SHELF, _now_ms())).items():
        sealed = str(_loaded(note).get("sealed", ""))
        if key.startswith(_KEY) and sealed and not ring.is_current_reference(sealed):
            name = key.removeprefix(_KEY)
            again = ring.seal_reference(ring.unseal_reference(sealed, name), name)
            new = orjson.dumps({**_loaded(note), "sealed": again})
            await store.swap(SHELF, key, note, new, 0, _now_ms())  # somebody's newer key stays
            count += 1
    return count


def _loaded(note: bytes | None) -> dict[str, Any]:
    """What a note says; nothing for one that is none (whoever can write to the store can break it)."""
    try:
        tree = orjson.loads(note) if note else {}
    except ValueError:
        return {}
    return tree if isinstance(tree, dict) else {}


def _ms(note: dict[str, Any], name: str) -> int:
    value = note.get(name)
    return value if type(value) is int else 0


def _now_ms() -> int:
    return int(clock.now() * 1000)
