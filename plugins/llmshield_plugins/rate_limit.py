"""rate_limit: so many requests per time, and so many at once.

The limits are the `rate:` and `concurrent:` of the caller's tier, counted per tenant; callers without a key
(`anonymous`) are counted by address, IPv6 by its /64. All windows of a call are one step: a refused call is
counted nowhere. Windows slide: no stretch of an hour ever holds more than `20/hour` (a request counts for its
window and up to 1/60 of it longer). Processes that share a store share the limits.

A place taken by a running call is given back when the call ends, on every path; what a killed process held is
free again after a minute.

Settings:

- `per_address: [600/minute]` (none): limits for each client address as well, whoever the tenant is.
- `concurrent_per_address: 20` (none): likewise for calls at once.
- `headers: true`: tell clients what is left (`RateLimit`, `RateLimit-Policy`, and the provider's own names).
- `local_share: 50%`: when the store is away, each process goes on by itself with this share of each limit
  (metric `llmshield_limiter_degraded`).

A refused call gets 429 with Retry-After: the time until a place in the fullest window is free.

Monitor mode: the decision is taken and counted, nothing is refused, no header is added.

Hooks: pre_request.

Example:

    tiers:
      free: {rate: [20/hour, 100/day], concurrent: 1}
    plugins:
      - use: rate_limit
        per_address: [600/minute]
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated
from urllib.parse import quote

from pydantic import Field

from llmshield import clock, hookspecs
from llmshield.call import Call
from llmshield.errors import StoreUnavailable
from llmshield.hookspecs import Plugin, Resources
from llmshield.ledger import iso
from llmshield.metrics import Metrics
from llmshield.policy import Percent, Policy, Rate, RateLimit
from llmshield.stores import Admission, Seat, Store, Window, at_once, open_store
from llmshield.verdicts import Block

_LEASE_S = 60.0
"""How long a place outlives the last sign of life of its process."""

_RENEW_S = _LEASE_S / 3
_SEAT_WAIT_S = 1.0
"""When a place may be free: nobody knows how long calls take."""

_ANONYMOUS = "anonymous"
_UNCOUNTED = frozenset({"models"})


@dataclass(slots=True, frozen=True)
class _Limits:
    """What a tier allows."""

    rates: tuple[Rate, ...]
    concurrent: int | None

    def shared(self, share: float) -> _Limits:
        """This share of it, at least one of each."""
        rates = tuple(Rate(max(1, int(rate.limit * share)), rate.seconds, rate.unit) for rate in self.rates)
        return _Limits(rates, None if self.concurrent is None else max(1, int(self.concurrent * share)))


class RateLimiter(Plugin):
    """Counts calls and refuses those beyond the limits."""

    class Settings(hookspecs.Settings):
        """What `rate_limit:` may say."""

        per_address: tuple[RateLimit, ...] = Field((), description="Limits for each client address.")
        concurrent_per_address: Annotated[int, Field(ge=1)] | None = Field(
            None, description="Calls at once from each client address."
        )
        headers: bool = Field(True, description="Tell clients what is left.")
        local_share: Percent = Field(
            0.5, description="Share of each limit per process while the store is away."
        )

    settings: Settings

    async def start(self, resources: Resources) -> None:
        """Compile the tiers' limits; open the store of last resort."""
        policy = resources.get(Policy)
        self._store: Store = resources.get(Store)  # type: ignore[type-abstract]
        self._local = open_store("memory://")
        share = self.settings.local_share
        self._tiers: dict[str | None, _Limits] = {
            name: _Limits(_lowest(tier.rate), tier.concurrent) for name, tier in policy.tiers.items()
        }
        self._address = _Limits(_lowest(self.settings.per_address), self.settings.concurrent_per_address)
        self._local_tiers = {name: limits.shared(share) for name, limits in self._tiers.items()}
        self._local_address = self._address.shared(share)
        self._has_address = bool(self._address.rates or self._address.concurrent)
        metrics = resources.get(Metrics)
        self._degraded = metrics.gauge(
            "llmshield_limiter_degraded", "1 while limits are kept by this process alone: the store is away."
        )
        self._degraded.set(0)
        self._refused = metrics.counter("llmshield_rate_limited_total", "Calls refused by a limit.", "limit")
        self._seats: dict[str, tuple[Seat, ...]] = {}
        self._renewer = asyncio.create_task(self._renew(), name="llmshield-seats")

    async def close(self) -> None:
        """Stop renewing places; those of calls that never end are free a minute later."""
        renewer = getattr(self, "_renewer", None)
        if renewer is not None:
            renewer.cancel()
            await asyncio.wait({renewer})

    def pre_request(self, call: Call) -> Block | Awaitable[Block | None] | None:
        """Count the call and take its places, or refuse it."""
        limits = self._tiers.get(call.tier)
        if (limits is None and not self._has_address) or call.operation in _UNCOUNTED:
            return None
        judging = self._judge(call, limits)
        return at_once(judging) if self._store.instant else judging

    async def _judge(self, call: Call, limits: _Limits | None) -> Block | None:
        enforced, now = call.enforced, clock.now()
        try:
            windows, seats = self._gates(call, limits, self._address, now)
            if not windows and not seats:
                return None
            said = await self._store.admit(windows, seats, int(now * 1000))
            self._degraded.set(0)
        except StoreUnavailable:
            self._degraded.set(1)
            windows, seats = self._gates(call, self._local_tiers.get(call.tier), self._local_address, now)
            said = await self._local.admit(windows, seats, int(now * 1000))
        if said.refused >= 0:
            return self._refuse(call, said, windows, seats, now)
        if seats:
            self._seats[call.id] = seats
            call.at_end(self._leave)
        if windows and enforced and self.settings.headers:
            call.response_headers.update(_headers(call.family, windows, said, now))
        return None

    def _gates(
        self, call: Call, limits: _Limits | None, address: _Limits, now: float
    ) -> tuple[tuple[Window, ...], tuple[Seat, ...]]:
        """The windows and places that this call needs."""
        windows: list[Window] = []
        seats: list[Seat] = []
        until_ms = int((now + _LEASE_S) * 1000)
        if limits is not None:
            who = _who(call.client) if call.tenant == _ANONYMOUS else _tenant(call.tenant)
            for rate in limits.rates:
                windows.append(Window(who, rate.limit, rate.seconds))
            if limits.concurrent is not None:
                seats.append(Seat(who, limits.concurrent, call.id, until_ms))
        if self._has_address:
            who = "each:" + _who(call.client)
            for rate in address.rates:
                windows.append(Window(who, rate.limit, rate.seconds))
            if address.concurrent is not None:
                seats.append(Seat(who, address.concurrent, call.id, until_ms))
        return tuple(windows), tuple(seats)

    def _refuse(
        self, call: Call, said: Admission, windows: Sequence[Window], seats: Sequence[Seat], now: float
    ) -> Block:
        headers = _headers(call.family, windows, said, now) if windows and self.settings.headers else {}
        if said.refused < len(windows):
            window = windows[said.refused]
            limit, wait = (
                f"{window.limit}/{_PER.get(window.seconds, f'{window.seconds}s')}",
                said.wait_ms / 1000,
            )
            whose = window.key
        else:
            seat = seats[said.refused - len(windows)]
            limit, wait = f"{seat.limit} at once", _SEAT_WAIT_S
            whose = seat.key
        self._refused.add(1, limit)
        subject = "this address" if "address:" in whose else f"tenant {call.tenant}"
        return Block(
            f"Rate limit of {limit} for {subject} is reached. Try again in {_seconds(wait)}.",
            kind="rate_limited",
            retry_after_s=wait,
            headers=headers,
        )

    async def _leave(self, call: Call) -> None:
        seats = self._seats.pop(call.id, None)
        if seats is None:
            return
        await self._local.leave(seats)
        try:
            await self._store.leave(seats)
        except StoreUnavailable:
            self._degraded.set(1)  # nobody renews the place: it is free in a minute

    async def _renew(self) -> None:
        """Keep the places of calls under way. A store that is away has none to keep."""
        while True:
            await asyncio.sleep(_RENEW_S)  # housekeeping keeps the machine's pace, whatever the clock says
            until_ms = int((clock.now() + _LEASE_S) * 1000)
            await self._local.expire(int(clock.now() * 1000))  # forgets windows that count nothing
            live = [seat._replace(until_ms=until_ms) for seats in self._seats.values() for seat in seats]
            if live:
                try:
                    await self._store.sit(live)
                except StoreUnavailable:
                    self._degraded.set(1)


def _lowest(rates: Sequence[Rate]) -> tuple[Rate, ...]:
    """Of limits over the same time the lowest: each window is counted once. Requests only."""
    lowest: dict[int, Rate] = {}
    for rate in [rate for rate in rates if rate.unit == "requests"]:
        known = lowest.setdefault(rate.seconds, rate)
        if rate.limit < known.limit:
            lowest[rate.seconds] = rate
    return tuple(lowest.values())


_PER = {1: "second", 60: "minute", 3600: "hour", 86400: "day"}


@lru_cache(maxsize=4096)
def _tenant(name: str) -> str:
    return f"tenant:{quote(name, safe='', errors='replace')}"


@lru_cache(maxsize=4096)
def _who(client: str) -> str:
    """The caller's address as limits see it: an IPv6 one by its /64, an IPv4 one inside IPv6 as itself.

    A household or machine holds a whole /64 (RFC 6177), so single addresses in it mean nothing.
    """
    try:
        address = ipaddress.ip_address(client.partition("%")[0])
    except ValueError:
        return "address:none"
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is None:
            return f"address:{ipaddress.ip_network((int(address), 64), strict=False)}"
        return f"address:{address.ipv4_mapped}"
    return f"address:{address}"


def _headers(family: str, windows: Sequence[Window], said: Admission, now: float) -> dict[str, str]:
    """What is left, in the words of draft-ietf-httpapi-ratelimit-headers-11 and of the client's own provider."""
    policies, left = [], []
    tightest, least, fewest = 0, 2.0, 0
    for index, (_, limit, seconds) in enumerate(windows):
        name, policy = _words(limit, seconds)
        remaining = limit - said.used[index]
        if remaining < 0:
            remaining = 0
        policies.append(policy)
        left.append(f"{name};r={remaining};t={-(-said.resets_ms[index] // 1000)}")
        share = remaining / limit
        if share < least:
            tightest, least, fewest = index, share, remaining
    window, remaining, reset_ms = windows[tightest], fewest, said.resets_ms[tightest]
    out = {"ratelimit-policy": ", ".join(policies), "ratelimit": ", ".join(left)}
    if family == "anthropic":
        out["anthropic-ratelimit-requests-limit"] = str(window.limit)
        out["anthropic-ratelimit-requests-remaining"] = str(remaining)
        out["anthropic-ratelimit-requests-reset"] = iso(now + reset_ms / 1000)
    else:
        out["x-ratelimit-limit-requests"] = str(window.limit)
        out["x-ratelimit-remaining-requests"] = str(remaining)
        out["x-ratelimit-reset-requests"] = _go_duration(reset_ms)
    return out


@lru_cache(maxsize=1024)
def _words(limit: int, seconds: int) -> tuple[str, str]:
    """A window's name and its policy, as the header writes them."""
    name = f'"{_PER.get(seconds, seconds)}"'
    return name, f"{name};q={limit};w={seconds}"


def _go_duration(ms: int) -> str:
    """As OpenAI writes durations: `6m0s`, `1.5s`, `12ms`."""
    if ms < 1000:
        return f"{ms}ms"
    minutes, rest = divmod(ms, 60_000)
    hours, minutes = divmod(minutes, 60)
    seconds = f"{rest // 1000}s" if rest % 1000 == 0 else f"{rest / 1000:.3f}".rstrip("0") + "s"
    return f"{hours}h{minutes}m{seconds}" if hours else f"{minutes}m{seconds}" if minutes else seconds


def _seconds(wait: float) -> str:
    return f"{wait:.1f} s" if wait < 10 else f"{wait:.0f} s"
