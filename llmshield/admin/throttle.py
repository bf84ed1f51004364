"""How often an address may show a wrong credential: a few at once, then one now and then.

A key of 256 bits can't be guessed at any rate; a token that a person made up can. IPv6 addresses count as their /64.
Addresses that find no room share one count, so that making room never gives a guess back.
"""

from __future__ import annotations

from llmshield import clock
from llmshield.addresses import network_of

BURST = 30
EVERY_S = 2.0
"""Thirty wrong ones, and then thirty a minute."""
_KEPT = 4096


class Throttle:
    """Wrong credentials by address."""

    def __init__(self, burst: int = BURST, every_s: float = EVERY_S, kept: int = _KEPT) -> None:
        self._burst = burst
        self._every_s = every_s
        self._kept = kept
        self._paid_at: dict[str, float] = {}
        """When all wrong ones of an address so far are forgotten, in seconds of `clock.monotonic()`."""

    def wait_s(self, address: str) -> float:
        """Seconds until this address may try again; 0 when it may now."""
        paid_at = self._paid_at.get(self._key(address), 0.0)
        return max(0.0, paid_at - (self._burst - 1) * self._every_s - clock.monotonic())

    def count(self, address: str) -> None:
        """It was a wrong one."""
        now = clock.monotonic()
        if len(self._paid_at) >= self._kept:
            for each in [each for each, at in self._paid_at.items() if at <= now]:
                del self._paid_at[each]
        key = self._key(address)
        self._paid_at[key] = max(self._paid_at.get(key, 0.0), now) + self._every_s

    def _key(self, address: str) -> str:
        key = network_of(address)
        return key if key in self._paid_at or len(self._paid_at) < self._kept else ""
