"""Circuits as they stand in the store: one note for each provider and model, and what an operator says there.

A note holds lengths, not moments: machines need not agree about the time. Who learns of an open circuit counts its
break from then on; only a process that was not looking (it has just started, or the store was away) goes by the wall
clock, and never longer than the whole break.

The key of a note is JSON: `["openai","gpt-4o"]`, or `["openai"]` for all models of a provider at once, which only an
operator says.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import orjson

from llmshield import clock
from llmshield.circuits.breaker import BY_HAND, new_id
from llmshield.stores import Store

SHELF = "circuits"
KEPT_CLOSED_MS = 7 * 86_400_000
KEPT_OPEN_MS = 366 * 86_400_000
"""How long a note is kept after it means nothing any more; so long that no wall clock that is set ends it early. A
note that is gone says nothing: whoever saw it goes on."""

Key: TypeAlias = tuple[str, ...]
NoteState: TypeAlias = Literal["closed", "open", "probe"]
_LONGEST_REASON = 100


@dataclass(slots=True, frozen=True)
class Note:
    """How a circuit stands. `generation` names the break (or the time after one), `by` who wrote this, `id` makes it
    unlike any other note; `wait_s` is what was left of the break then (infinite: until it is closed), `break_s` its
    length without the provider's advice (None: the first one). `since_ms` is wall time."""

    state: NoteState
    generation: str
    by: str
    wait_s: float = 0.0
    break_s: float | None = None
    reason: str = ""
    since_ms: int = 0
    id: str = ""

    def dump(self) -> bytes:
        """As it stands in the store."""
        return orjson.dumps(
            {
                "state": self.state, "generation": self.generation, "by": self.by,
                "wait_s": self.wait_s if math.isfinite(self.wait_s) else None, "break_s": self.break_s,
                "reason": self.reason[:_LONGEST_REASON], "since_ms": self.since_ms or now_ms(), "id": self.id or new_id(),
            }
        )  # fmt: skip

    @classmethod
    def load(cls, raw: bytes) -> Note | None:
        """The note in these bytes; None for bytes that are none (whoever can write to the store can break it)."""
        try:
            tree: Any = orjson.loads(raw)
            state, wait_s, break_s = tree["state"], tree["wait_s"], tree["break_s"]
            if state not in ("closed", "open", "probe"):
                return None
            return cls(
                state, str(tree["generation"]), str(tree["by"]), math.inf if wait_s is None else _length(wait_s),
                None if break_s is None else _length(break_s), str(tree["reason"])[:_LONGEST_REASON],
                int(tree["since_ms"]), str(tree["id"]),
            )  # fmt: skip
        except (ValueError, KeyError, TypeError, OverflowError):
            return None

    @property
    def until_ms(self) -> int:
        """When the store may forget it; 0: never."""
        if self.state == "closed":
            return now_ms() + KEPT_CLOSED_MS
        return now_ms() + int(self.wait_s * 1000) + KEPT_OPEN_MS if math.isfinite(self.wait_s) else 0

    @property
    def left_s(self) -> float:
        """What is left of the break by the wall clock: from nothing to the whole of it."""
        return min(max(self.wait_s - (now_ms() - self.since_ms) / 1000, 0.0), self.wait_s)


def key_of(provider: str, model: str | None = None) -> str:
    """The key of a note."""
    return orjson.dumps([provider] if model is None else [provider, model]).decode()


def read_key(text: str) -> Key | None:
    """Provider, or provider and model; None for a key that is none."""
    try:
        parts: Any = orjson.loads(text)
    except ValueError:
        return None
    if isinstance(parts, list) and len(parts) in (1, 2) and all(isinstance(part, str) for part in parts):
        return tuple(parts)
    return None


async def everyone(store: Store) -> dict[Key, tuple[bytes, Note]]:
    """Every note, the oldest first. Raises: StoreUnavailable."""
    found = [
        (key, (raw, note))
        for text, raw in (await store.notes(SHELF, now_ms())).items()
        if (key := read_key(text)) is not None and (note := Note.load(raw)) is not None
    ]
    return dict(sorted(found, key=lambda item: (item[1][1].since_ms, item[0])))


async def hold_open(store: Store, provider: str, model: str | None, wait_s: float = math.inf) -> Note:
    """An operator opens a circuit, or all of a provider: for so long, or until it is closed. Raises: StoreUnavailable."""
    return await _say(store, provider, model, Note("open", new_id(), BY_HAND, wait_s, None, BY_HAND))


async def close(store: Store, provider: str, model: str | None) -> Note:
    """An operator closes a circuit, or all of a provider. Raises: StoreUnavailable."""
    return await _say(store, provider, model, Note("closed", new_id(), BY_HAND))


async def _say(store: Store, provider: str, model: str | None, note: Note) -> Note:
    await store.put(SHELF, key_of(provider, model), note.dump(), note.until_ms)
    return note


def _length(value: Any) -> float:
    """Seconds in a note. Raises: ValueError for what is no length."""
    seconds = float(value)
    if not 0 <= seconds < 1e9:
        raise ValueError
    return seconds


def now_ms() -> int:
    """Wall time in ms."""
    return int(clock.now() * 1000)
