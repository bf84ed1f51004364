"""Circuit breakers: a provider that keeps failing is left alone for a while, and one probe finds out when it is back.

A circuit is one provider and one model. `breaker` is one circuit's state machine, in this process; `sharing` makes
the processes of a store agree; `notes` is what stands there, and what an operator says. Whoever asks sees `Circuits`
and `Permit`:

    permit = circuits.permit("openai", "gpt-4o")        # None: leave it alone
    if permit.probe and not await circuits.confirm(permit): ...     # another process probes
    permit.success(first_token_s) | failure(reason, retry_after_s) | refused() | abandon()

Rule: who got a permit reports once, whatever happens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Protocol

from llmshield import clock
from llmshield.circuits.breaker import BY_HAND, Breaker, Change, CircuitSettings, Permit, State, new_id
from llmshield.circuits.notes import Key, Note, now_ms
from llmshield.circuits.sharing import Sharing
from llmshield.logs import log
from llmshield.redact import shows_secret
from llmshield.stores import Store

__all__ = ["Breakable", "CircuitSettings", "Circuits", "Permit", "State"]

LIMIT = 1000
"""Circuits that are kept: models are named by callers."""
OTHER = "other"
"""The model of the circuit that all models of a provider share that found no room."""
_LONGEST_MODEL = 256
_RANK: dict[State, int] = {"closed": 0, "half_open": 1, "open": 2}


class Breakable(Protocol):
    """What `Circuits` wants to know of a provider."""

    @property
    def circuit(self) -> Any: ...


class Circuits:
    """The circuits of a policy's providers; those of one without `circuit:` are always closed."""

    def __init__(self, providers: Mapping[str, Breakable]) -> None:
        self._settings: dict[str, CircuitSettings] = {
            name: provider.circuit for name, provider in providers.items() if provider.circuit is not None
        }
        self._breakers: dict[tuple[str, str], Breaker] = {}
        self._held: dict[str, tuple[Note, float]] = {}
        self._sharing: Sharing | None = None

    async def start(self, store: Store) -> None:
        """Agree with the other processes of a store from now on; of one that nobody shares, nothing."""
        if self._settings and store.shared and self._sharing is None:
            self._sharing = Sharing(store, self._kept, self._hold)
            await self._sharing.start()

    async def close(self) -> None:
        """Agree no longer."""
        sharing, self._sharing = self._sharing, None
        if sharing is not None:
            await sharing.close()

    @property
    def alone(self) -> bool:
        """Whether the store is away, so that each process has circuits of its own."""
        return self._sharing is not None and self._sharing.alone

    # -- by hand -----------------------------------------------------------------------------------------------

    async def set_open(self, provider: str, model: str | None, seconds: float) -> None:
        """An operator opens a circuit, or all of a provider: for so long, or (infinite) until it is closed.

        Raises: StoreUnavailable where other processes can't be told.
        """
        await self._say(provider, model, Note("open", new_id(), BY_HAND, seconds, None, BY_HAND))

    async def set_closed(self, provider: str, model: str | None) -> None:
        """An operator closes a circuit, or all of a provider; what counted against it is forgotten. Raises: the same."""
        await self._say(provider, model, Note("closed", new_id(), BY_HAND))

    async def _say(self, provider: str, model: str | None, note: Note) -> None:
        """Through the store, where there is one that is shared: this process learns of it as the others do, but at
        once."""
        if provider not in self._settings:
            return
        if self._sharing is not None:
            await self._sharing.say(provider, model, note)
        elif model is None:
            self._hold(provider, replace(note, since_ms=now_ms(), id=new_id()), note.wait_s)
        elif note.state == "closed":
            self._make(provider, model).let_close(note.generation)
        else:
            self._make(provider, model).hold_open(note.generation, note.wait_s, note.break_s, note.reason)

    # -- asking ------------------------------------------------------------------------------------------------

    def permit(self, provider: str, model: str) -> Permit | None:
        """Leave to ask this provider for this model now, or None while its circuit is open or its probe is under way.

        A permit that is a `probe` needs to be confirmed before it is used.
        """
        breaker = self._breakers.get((provider, model))
        if breaker is None:
            if provider not in self._settings:
                return _FREE
            breaker = self._make(provider, model)
        return breaker.permit()

    async def confirm(self, permit: Permit) -> bool:
        """Whether a probe may be sent: no other process has one under way. Never raises."""
        return self._sharing is None or await self._sharing.confirm(permit)

    def state(self, provider: str, model: str | None = None) -> State:
        """How the circuit stands; `half_open` from the end of its break on. Without a model the worst of the provider."""
        if model is not None:
            breaker = self._at(provider, model)
            return "closed" if breaker is None else breaker.state
        worst: State = "open" if self._held_s(provider) else "closed"
        for (name, _), breaker in list(self._breakers.items()):
            if name == provider and _RANK[breaker.state] > _RANK[worst]:
                worst = breaker.state
        return worst

    def active(self, provider: str) -> bool:
        """Whether a provider may be asked for anything: not all that it was asked for is left alone."""
        mine = [breaker for (name, _), breaker in list(self._breakers.items()) if name == provider]
        return not self._held_s(provider) and (not mine or any(each.state != "open" for each in mine))

    def retry_after_s(self, provider: str, model: str) -> float:
        """Seconds until this provider may be asked for this model again; 0 when it may now."""
        breaker = self._at(provider, model)
        return 0.0 if breaker is None else breaker.retry_after_s

    def snapshot(self) -> dict[str, dict[str, dict[str, Any]]]:
        """Every circuit that has something to tell, by provider and model, for status page and metrics."""
        found: dict[str, dict[str, dict[str, Any]]] = {name: {} for name in self._settings}
        for (provider, model), breaker in sorted(self._breakers.items()):
            if breaker.opens or not breaker.quiet:
                found[provider][model] = breaker.snapshot()
        return found

    # -- inside ------------------------------------------------------------------------------------------------

    def _at(self, provider: str, model: str) -> Breaker | None:
        """The circuit, if one is kept or would be open: a provider may be held open whole."""
        if (provider, model) not in self._breakers and not self._held_s(provider):
            return None
        return self._make(provider, model)

    def _held_s(self, provider: str) -> float:
        """Seconds for which an operator still holds all models of a provider open."""
        held = self._held.get(provider)
        return max(0.0, held[1] - clock.monotonic()) if held is not None else 0.0

    def _make(self, provider: str, model: str) -> Breaker:
        """The breaker of this provider and model, made if it is new."""
        if len(model) > _LONGEST_MODEL or shows_secret(model):  # callers name models: one may send its key
            model = OTHER
        key = (provider, model)
        breaker = self._breakers.get(key)
        if breaker is not None:
            return breaker
        if len(self._breakers) >= LIMIT:
            self._sweep()
            if len(self._breakers) >= LIMIT and model != OTHER:
                return self._make(provider, OTHER)
        breaker = self._breakers[key] = Breaker(self._settings[provider], key, self._changed)
        last = self._sharing.meet(breaker) if self._sharing is not None else None
        left_s = self._held_s(provider)
        if left_s:
            note = self._held[provider][0]
            if last is None or last.since_ms < note.since_ms:
                breaker.hold_open(note.generation, left_s, note.break_s, note.reason)
        return breaker

    def _sweep(self) -> None:
        """Forget the circuits that have nothing on their mind."""
        for key, breaker in list(self._breakers.items()):
            if breaker.quiet:
                del self._breakers[key]
                if self._sharing is not None:
                    self._sharing.forget(breaker)

    def _changed(self, breaker: Breaker, change: Change) -> None:
        provider, model = breaker.key
        if change == "opened":
            log.warning(
                "circuit_opened", provider=provider, model=model, reason=breaker.reason,
                seconds=round(breaker.wait_s, 3),
            )  # fmt: skip
        elif change == "closed":
            log.info("circuit_closed", provider=provider, model=model)
        if self._sharing is not None:
            self._sharing.changed(breaker)

    def _kept(self, key: Key, make: bool) -> Breaker | None:
        """The breaker for a note of another process; None where this policy keeps none of its own for it."""
        provider, model = key
        if provider not in self._settings:
            return None
        breaker = self._make(provider, model) if make else self._breakers.get((provider, model))
        return breaker if breaker is not None and breaker.key == key else None

    def _hold(self, provider: str, note: Note, left_s: float) -> None:
        """An operator opened or closed all circuits of a provider."""
        before = self._held.get(provider)
        if provider not in self._settings or (before is not None and before[0].id == note.id):
            return
        self._held[provider] = (note, clock.monotonic() + left_s)
        for (name, _), breaker in list(self._breakers.items()):
            if name == provider:
                if note.state == "closed":
                    breaker.let_close(note.generation)
                else:
                    breaker.hold_open(note.generation, left_s, note.break_s, note.reason)


_FREE = Permit(None)
