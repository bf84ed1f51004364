"""The windows of the memory store: what is counted now as plain objects, the long tail packed.

A limit of `100/day` has to be remembered for a day, whoever calls meanwhile: forgetting a caller early would free
its limit. So the `HOT` gates last made stay objects (about 400 bytes), and an older one whose hits all lie in one
step, which is what callers leave who came once, becomes 16 bytes in a table. A caller who comes again is unpacked.
A gate with hits in several steps stays an object: nothing is ever rounded.

Packed entries are found by 64 bits of a keyed hash, so that nobody can choose names that meet.
"""

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict

from llmshield.stores import STEPS, Window
from llmshield.stores._sums import Steps, add, prune

HOT = 10_000
"""Gates kept as objects before the oldest are packed: 4 MB."""

_SHARDS = 4096
_ENTRY = 8
_HITS = 24
"""Bits of an entry for its hits; the other 40 hold the step, enough for steps of 17 ms until the year 2560."""

_SLACK = 64 * _ENTRY
_AT_ONCE = 8
"""Objects looked at in one step: more than a step makes."""


class Gate:
    """The hits of one window: `steps` as `_sums` keeps them, and their sum."""

    __slots__ = ("hits", "step_ms", "steps")

    def __init__(self, step_ms: int) -> None:
        self.step_ms = step_ms
        self.steps: Steps = []
        self.hits = 0

    def add(self, step: int, cost: int) -> None:
        """Count hits in this step; a negative cost takes back what is there."""
        add(self.steps, step, cost)
        self.hits = sum(self.steps[1::2]) if cost < 0 else self.hits + cost


class Gates:
    """All windows of one store."""

    def __init__(self, hot: int = HOT) -> None:
        self._most = hot
        self.objects: OrderedDict[tuple[str, int], Gate] = OrderedDict()
        self._packed: dict[int, _Packed] = {}
        self._salt = os.urandom(16)
        self.crowded = False
        """Whether there are more objects than wanted: then `trim`."""

    def __len__(self) -> int:
        """How many windows count something, as objects and packed."""
        return len(self.objects) + sum(len(packed) for packed in self._packed.values())

    def at(self, window: Window, now_ms: int) -> Gate:
        """The gate of this window, without what lies outside of it now."""
        key, _, seconds = window
        gate = self.objects.get((key, seconds))
        if gate is None:
            return self._made(window, now_ms)
        steps = gate.steps
        if steps and steps[0] < now_ms // gate.step_ms - STEPS:
            prune(steps, now_ms // gate.step_ms)
            gate.hits = sum(steps[1::2])
        return gate

    def forget(self, now_ms: int) -> None:
        """Drop objects that count nothing any more."""
        for key, gate in list(self.objects.items()):
            if not gate.steps or gate.steps[-2] < now_ms // gate.step_ms - STEPS:
                del self.objects[key]

    def _made(self, window: Window, now_ms: int) -> Gate:
        """A gate that is no object yet: unpacked, or new."""
        step_ms = window.step_ms
        oldest = now_ms // step_ms - STEPS
        gate = Gate(step_ms)
        packed = self._packed.get(window.seconds)
        if packed is not None:
            entry = packed.take(self._digest(window.key))
            if entry >> _HITS >= oldest and entry:
                gate.steps = [entry >> _HITS, entry & (1 << _HITS) - 1]
                gate.hits = gate.steps[1]
        self.objects[window.key, window.seconds] = gate
        self.crowded = len(self.objects) > self._most
        return gate

    def trim(self, now_ms: int) -> None:
        """Pack what can be packed of the oldest objects, if they are many; the rest goes to the end of the line.

        Not while somebody holds a gate: hits added to it would be lost.
        """
        hot = self.objects
        for _ in range(min(_AT_ONCE, len(hot) - self._most)):
            (key, seconds), gate = hot.popitem(last=False)
            steps, oldest = gate.steps, now_ms // gate.step_ms - STEPS
            if not steps or steps[-2] < oldest or not gate.hits:
                continue
            if len(steps) == 2 and gate.hits < 1 << _HITS:
                packed = self._packed.get(seconds)
                if packed is None:
                    packed = self._packed[seconds] = _Packed()
                packed.put(self._digest(key), steps[0] << _HITS | steps[1], oldest << _HITS)
            else:
                hot[key, seconds] = gate
        self.crowded = len(hot) > self._most

    def _digest(self, key: str) -> bytes:
        return hashlib.blake2b(
            key.encode("utf-8", "surrogatepass"), digest_size=_ENTRY, key=self._salt
        ).digest()


class _Packed:
    """Digest -> entry, in many small pairs of arrays: each is searched at the speed of memory.

    A shard that has doubled drops what is over, so that it never holds more than twice what still counts.
    """

    __slots__ = ("_limits", "_shards")

    def __init__(self) -> None:
        self._shards: list[tuple[bytearray, bytearray] | None] = [None] * _SHARDS
        self._limits = [_SLACK] * _SHARDS

    def __len__(self) -> int:
        return sum(len(shard[0]) for shard in self._shards if shard is not None) // _ENTRY

    def take(self, digest: bytes) -> int:
        """Remove and return the entry; 0 if there is none."""
        shard = self._shards[int.from_bytes(digest[:2]) % _SHARDS]
        if shard is None:
            return 0
        digests, entries = shard
        at = digests.find(digest)
        while at % _ENTRY and at > 0:  # the same bytes across the border of two digests
            at = digests.find(digest, at + 1)
        if at < 0:
            return 0
        entry = int.from_bytes(entries[at : at + _ENTRY])
        for array in (digests, entries):  # the last one fills the gap
            array[at : at + _ENTRY] = array[-_ENTRY:]
            del array[-_ENTRY:]
        return entry

    def put(self, digest: bytes, entry: int, oldest: int) -> None:
        """Add an entry that is not there; entries below `oldest` are over."""
        index = int.from_bytes(digest[:2]) % _SHARDS
        shard = self._shards[index]
        if shard is None:
            shard = self._shards[index] = (bytearray(), bytearray())
        digests, entries = shard
        if len(digests) >= self._limits[index]:
            self._clean(digests, entries, oldest)
            self._limits[index] = 2 * len(digests) + _SLACK
        digests += digest
        entries += entry.to_bytes(_ENTRY)

    @staticmethod
    def _clean(digests: bytearray, entries: bytearray, oldest: int) -> None:
        kept = [
            at for at in range(0, len(entries), _ENTRY) if int.from_bytes(entries[at : at + _ENTRY]) >= oldest
        ]
        for array in (digests, entries):
            array[:] = b"".join([array[at : at + _ENTRY] for at in kept])
