"""rate_limit: so many requests and tokens per time, and so many calls at once.

The limits are the `rate:`, `concurrent:` and `queue:` of the caller's tier, counted per tenant; callers without a key
(`anonymous`) are counted by address, IPv6 by its /64. All windows of a call are one step: a refused call is
counted nowhere. Windows slide: no stretch of an hour ever holds more than `20/hour` (a request counts for its
window and up to 1/60 of it longer). Processes that share a store share the limits.

Tokens (`40000 tokens/minute`) are reserved before an attempt is sent and corrected to what it really used after it.

A place taken by a running call is given back when the call ends, on every path; what a killed process held is
free again after `lease`. Where the tier has a `queue`, a call above `concurrent` waits for a place, first come first
served, instead of being refused.

Settings:

- `per_address: [600/minute]` (none): limits for each client address as well, whoever the tenant is.
- `concurrent_per_address: 20` (none): likewise for calls at once.
- `headers: true`: tell clients what is left (`RateLimit`, `RateLimit-Policy`, and the provider's own names).
- `local_share: 50%`: when the store is away, each process goes on by itself with this share of each limit
  (metric `llmshield_limiter_degraded`).
- `lease: 60s`: how long a place outlives the last sign of life of its process.
- `reserve: worst_case | estimate` (worst_case): what a call counts against limits in tokens until its end. The worst
  case is never exceeded: each byte sent, and the whole answer that its bound allows; a call without a bound gets
  one. An estimate (a token for four bytes, 1024 for an unbounded answer) lets more calls run at once, and the
  limit be passed by what it was wrong by.
- `default_max_tokens` (the model's longest answer, 4096 where that is not known): the bound of a call without one,
  where a limit in tokens holds.

A refused call gets 429 with Retry-After: the time until a place in the fullest window is free.

Monitor mode: the decision is taken and counted, nothing is refused, nobody waits, no header is added.

Hooks: pre_request (hangs a guard on each attempt where a limit is in tokens).

Example:

    tiers:
      free: {rate: [20/hour, 100/day], concurrent: 1}
      pro: {rate: [100/hour, 40000 tokens/minute], concurrent: 3, queue: {wait: 2s, length: 20}}
    plugins:
      - use: rate_limit
        per_address: [600/minute]
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from functools import partial
from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from llmshield import clock, hookspecs
from llmshield.call import Call
from llmshield.errors import StoreUnavailable
from llmshield.hookspecs import Plugin, Resources
from llmshield.metrics import Metrics
from llmshield.policy import Percent, Policy, PositiveDuration, RateLimit
from llmshield.prices import Prices
from llmshield.stores import Admission, Seat, Store, Window, open_store
from llmshield.verdicts import Block, Wait
from llmshield_plugins.rate_limit.headers import tell
from llmshield_plugins.rate_limit.limits import ANONYMOUS, PER, Limits, RuleBook, Rules, tenant_key
from llmshield_plugins.rate_limit.queues import Full, Queues
from llmshield_plugins.rate_limit.shared import Shared
from llmshield_plugins.rate_limit.tokens import Ticket, TokenLimits, seconds

_SEAT_WAIT_S = 1.0
"""When a place may be free: nobody knows how long calls take."""

_TICK_S = 20.0
"""How often what is counted locally is looked through; more often where the lease is short."""


_Held: TypeAlias = tuple[tuple[Seat, ...], str, bool]
"""The places of one call, the key of the queue that waits for them, and whether they were taken locally."""


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
        lease: PositiveDuration = Field(
            60.0, description="How long a place outlives the last sign of life of its process."
        )
        reserve: Literal["worst_case", "estimate"] = Field(
            "worst_case", description="What a call counts against limits in tokens until its end."
        )
        default_max_tokens: Annotated[int, Field(ge=1)] | None = Field(
            None, description="Output bound of a call without one; else the model's longest answer."
        )

    settings: Settings

    async def start(self, resources: Resources) -> None:
        """Compile the tiers' limits; open the store of last resort."""
        policy = resources.get(Policy)
        self._store: Store = resources.get(Store)  # type: ignore[type-abstract]
        self._instant = self._store.instant
        self._shared = Shared(self._store, self.settings.lease, self._tell_away)
        self._headers = self.settings.headers
        self._local = open_store("memory://")
        share, lease = self.settings.local_share, self.settings.lease
        self._lease_ms = int(lease * 1000)
        tiers: dict[str | None, Limits] = {
            name: Limits.of(tier.rate, tier.concurrent, tier.queue) for name, tier in policy.tiers.items()
        }
        address = Limits.of(self.settings.per_address, self.settings.concurrent_per_address)
        self._tiers = tiers
        self._tier_of = {name: tenant.tier for name, tenant in policy.tenants.items()}
        self._rules = RuleBook(tiers, address)
        self._shared_rules = RuleBook(
            {name: limits.shared(share) for name, limits in tiers.items()}, address.shared(share)
        )
        metrics = resources.get(Metrics)
        self._degraded = metrics.gauge(
            "llmshield_limiter_degraded", "1 while limits are kept by this process alone: the store is away."
        )
        self._away = False
        self._degraded.set(0)
        self._refused = metrics.counter("llmshield_rate_limited_total", "Calls refused by a limit.", "limit")
        self._queues = Queues(metrics)
        self._tokens = None
        if self._rules.counts_tokens:
            self._tokens = TokenLimits(
                self._shared, self._local, resources.get(Prices), metrics, reserve=self.settings.reserve,
                default_max_tokens=self.settings.default_max_tokens, headers=self.settings.headers,
            )  # fmt: skip
        self._held: dict[str, _Held] = {}
        self._renewer = asyncio.create_task(self._renew(min(lease / 3, _TICK_S)), name="llmshield-seats")

    async def close(self) -> None:
        """Stop renewing places; those of calls that never end are free after their lease."""
        renewer = getattr(self, "_renewer", None)
        if renewer is not None:
            renewer.cancel()
            await asyncio.wait({renewer})
            await self._shared.close()

    def windows_of(self, tenant: str) -> Mapping[str, Sequence[Window]]:
        """The limits of a tenant's tier; callers without a key have theirs by address."""
        limits = self._tiers.get(self._tier_of.get(tenant))
        if limits is None or tenant == ANONYMOUS:
            return {}
        rules = Rules([(tenant_key(tenant), limits, "")])
        return {"requests": rules.requests, "tokens": rules.tokens}

    def pre_request(self, call: Call) -> Block | Wait | Awaitable[Block | Wait | None] | None:
        """Count the call and take its places, let it wait for one, or refuse it."""
        rules = self._rules.of(call)
        if rules is None or call.operation == "models":
            return None
        if rules.line and rules.line in self._queues and call.enforced:
            return self._stand_in_line(call, rules)  # behind those who wait already
        if not self._instant:
            return self._judge(call, rules)
        now = clock.now()
        now_ms = int(now * 1000)
        seats = rules.seats(call.id, now_ms + self._lease_ms) if rules.places else ()
        admission = self._store.admit_now(rules.requests, seats, now_ms)
        said = self._decide(call, rules, rules, seats, admission, now, locally=False)
        return self._stand_in_line(call, rules) if said == "full" else said

    async def _judge(self, call: Call, rules: Rules) -> Block | Wait | None:
        said = await self._take(call, rules)
        if said == "full":
            return self._stand_in_line(call, rules)
        if said is None and clock.overdue(call.deadline):
            await self._leave_all(call)  # too late for this hook: its end callbacks are not going to run
        return said

    async def _take(self, call: Call, rules: Rules) -> Block | Full | None:
        """Everything that this call needs, or nothing: None, why not, or that it may wait for a place."""
        now = clock.now()
        now_ms = int(now * 1000)
        seats = rules.seats(call.id, now_ms + self._lease_ms) if rules.places else ()
        try:
            admission = await self._shared.admit(rules.requests, seats, now_ms)
        except StoreUnavailable:
            here = self._share(call)
            seats = here.seats(call.id, now_ms + self._lease_ms)
            admission = await self._local.admit(here.requests, seats, now_ms)
            return self._decide(call, rules, here, seats, admission, now, locally=True)
        return self._decide(call, rules, rules, seats, admission, now, locally=False)

    def _decide(
        self, call: Call, rules: Rules, here: Rules, seats: tuple[Seat, ...], said: Admission, now: float, *,
        locally: bool,
    ) -> Block | Full | None:  # fmt: skip
        """What the gates' answer means for the call; `here` are the rules that they were asked by."""
        if said.refused >= 0:
            place = said.refused - len(here.requests)
            if self._headers and here.requests and call.enforced:
                self._tell(call, here, said, now)
            return "full" if place == 0 and here.line else self._refuse(call, here, said, place)
        if seats:
            self._held[call.id] = (seats, here.line, locally)
            call.at_end(self._leave)
        items = self._tell(call, here, said, now) if self._headers and here.requests and call.enforced else ""
        if self._tokens is not None and rules.tokens:
            ticket = Ticket(call, rules, self._share(call), int(now * 1000), said, call.enforced, items)
            self._tokens.watch(ticket)
        return None

    def _share(self, call: Call) -> Rules:
        shared = self._shared_rules.of(call)
        assert shared is not None  # a share of a limit is a limit
        return shared

    def _stand_in_line(self, call: Call, rules: Rules) -> Wait:
        queue = rules.queue
        assert queue is not None

        async def turn() -> Block | None:
            said = await self._queues.wait(
                rules.line, queue.length, queue.wait, partial(self._take, call, rules)
            )
            if said != "crowded" and said != "late":
                return said
            limit = f"{rules.places[0][1]} at once"
            self._refused.add(1, limit)
            what = f", and {queue.length} calls wait" if said == "crowded" else f" for {queue.wait:g} s"
            return Block(
                f"Rate limit of {limit} for {_subject(call, rules.line)} is reached{what}."
                f" Try again in {seconds(_SEAT_WAIT_S)}.",
                kind="rate_limited",
                retry_after_s=_SEAT_WAIT_S,
            )

        return Wait(turn, queue.wait)

    def _refuse(self, call: Call, rules: Rules, said: Admission, place: int) -> Block:
        if place < 0:
            window = rules.requests[said.refused]
            limit, wait, whose = f"{window.limit}/{PER[window.seconds]}", said.wait_ms / 1000, window.key
        else:
            whose, most = rules.places[place]
            limit, wait = f"{most} at once", _SEAT_WAIT_S
        self._refused.add(1, limit)
        return Block(
            f"Rate limit of {limit} for {_subject(call, whose)} is reached. Try again in {seconds(wait)}.",
            kind="rate_limited",
            retry_after_s=wait,
        )

    def _tell(self, call: Call, rules: Rules, said: Admission, now: float) -> str:
        headers = call.response_headers
        items = tell(
            headers, call.family, "requests", rules.names, rules.requests, said.used, said.resets_ms, now
        )
        headers["ratelimit-policy"] = rules.policy
        headers["ratelimit"] = items
        return items

    def _tell_away(self, away: bool) -> None:
        if away != self._away:
            self._away = away
            self._degraded.set(int(away))

    # -- places

    def _leave(self, call: Call) -> Awaitable[None] | None:
        held = self._held.pop(call.id, None)
        if held is None:
            return None
        if not self._instant:
            return self._give_back(held)
        self._store.leave_now(held[0])
        if held[1]:
            self._queues.wake(held[1])
        return None

    async def _leave_all(self, call: Call) -> None:
        held = self._held.pop(call.id, None)
        if held is not None:
            await self._give_back(held)

    async def _give_back(self, held: _Held) -> None:
        seats, line, locally = held
        if locally:
            await self._local.leave(seats)
        await self._shared.leave(
            seats
        )  # local ones as well: `_renew` takes them there when the store is back
        if line:
            self._queues.wake(line)

    async def _renew(self, every_s: float) -> None:
        """Keep the places of calls under way. A store that is away has none to keep."""
        while True:
            await asyncio.sleep(every_s)  # housekeeping keeps the machine's pace, whatever the clock says
            now_ms = int(clock.now() * 1000)
            await self._local.expire(now_ms)  # forgets windows that count nothing
            until_ms = now_ms + self._lease_ms
            living = [
                (seat._replace(until_ms=until_ms), locally)
                for seats, _, locally in self._held.values()
                for seat in seats
            ]
            if not living:
                continue
            await self._local.sit([seat for seat, locally in living if locally])
            try:
                await self._shared.sit([seat for seat, _ in living])
            except StoreUnavailable:
                self._tell_away(True)


def _subject(call: Call, key: str) -> str:
    return "this address" if "address:" in key else f"tenant {call.tenant}"
