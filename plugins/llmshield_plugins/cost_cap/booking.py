"""The money of one attempt: watched while its reply streams, settled when it is over."""

from __future__ import annotations

from collections.abc import Awaitable, Coroutine
from dataclasses import dataclass
from typing import Any

from llmshield.call import Attempt
from llmshield.ledger import Ledger, Reservation
from llmshield.prices import Bound, ModelPrice, Quote, cost, sensible
from llmshield.series import Counter
from llmshield.stores import at_once
from llmshield.verdicts import Block
from llmshield_plugins.cost_cap.bounds import plain_bound
from llmshield_plugins.cost_cap.headers import tell
from llmshield_plugins.cost_cap.settlement import charge_for
from llmshield_plugins.cost_cap.tariff import Tariff
from llmshield_plugins.cost_cap.warnings import Warnings

_NEVER = 2**63


@dataclass(slots=True)
class Terms:
    """What all bookings of one plugin share. `locks` has the locked tenants and the ends of their locks."""

    name: str
    ledger: Ledger
    tariff: Tariff
    overruns: Counter
    locks: dict[str, float]
    locking: bool
    lost_in_full: bool
    cut_in_full: bool
    instant: bool
    """Whether no step of the store waits."""
    warnings: Warnings | None = None


class Booking:
    """A hold and what it was made for: `fixed` and `rate` are what the call costs at the most (`Quote.at`), `output` is
    the bound of each choice.

    `bound` is None for a call of nothing but text whose price has one rate (see `Plain`). `silent` are fees that no
    report shows.
    """

    __slots__ = (
        "_bound",
        "_fixed",
        "_limit",
        "_plain",
        "_rate",
        "_silent",
        "_terms",
        "held",
        "output",
        "price",
        "tells",
    )

    held: Reservation

    def __init__(
        self, terms: Terms, price: ModelPrice, fixed: int, rate: int, bound: Bound | None, silent: int,
        output: int, plain: bool,
    ) -> None:  # fmt: skip
        self._terms = terms
        self.price = price
        self._fixed = fixed
        self._rate = rate
        self._bound = bound
        self._silent = silent
        self.output = output
        self._plain = plain
        self._limit = _NEVER
        self.tells = False
        """Whether the answer's head says what is left, once this is settled."""

    @property
    def quote(self) -> Quote:
        """What the call costs at the most, for any output bound."""
        return Quote.at(self._fixed, self._rate)

    def _bounds(self, attempt: Attempt) -> Bound:
        return self._bound if self._bound is not None else plain_bound(attempt, self.price)

    def watch_over(self, attempt: Attempt) -> None:
        """Stop the stream of this attempt where it would outrun what is held.

        Text that the provider's tools found and an echo of the prompt are no output: for them there is room as
        well. Sound and pictures are not counted by their text.
        """
        rates, bound = self.price.rates, self._bounds(attempt)
        if not bound.media and rates.output_image is None and rates.output_audio is None:
            room = (self.quote.affordable_output(self.held.amount) + 1) * bound.choices + bound.extra_output
            self._limit = 12 * (room if self._plain else room + bound.input)
        attempt.watch = (self._terms.name, self._look)

    def _look(self, attempt: Attempt) -> Block | None:
        if attempt.output_twelfths <= self._limit:
            usage = attempt.usage
            if usage is None or not sensible(usage):
                return None
            long_cache = self._bounds(attempt).long_cache
            if cost(self.price, usage, long_cache=long_cache) <= self.held.amount:
                return None
        return Block(
            "The provider's answer goes beyond what was reserved for it; it was stopped.", kind="budget_spent"
        )

    def settle(self, attempt: Attempt) -> Awaitable[None] | None:
        """Charge what the attempt did cost; the rest of the hold is free again."""
        terms, held, price = self._terms, self.held, self.price
        usage = attempt.usage
        least = 0
        if usage is not None and usage.served:
            served = terms.tariff.as_served(attempt, price, usage)
            if served is None:
                least = held.amount  # in a way that nobody asked for and that has no price: likely dearer
            else:
                price = served
        if (
            not least and self._bound is None and attempt.outcome == "ok" and attempt.status == 200
            and usage is not None and sensible(usage) and terms.instant
        ):  # fmt: skip
            amount = attempt.cost_picousd = cost(price, usage)
            if amount <= held.amount and terms.warnings is None:
                if self.tells:
                    tell(attempt.call.response_headers, held, amount)
                terms.ledger.settle_now(held, amount, usage.input or 0, usage.output or 0)
                return None
        charge = charge_for(
            attempt, price, self._bounds(attempt), held.amount,
            lost_in_full=terms.lost_in_full, cut_in_full=terms.cut_in_full,
        )  # fmt: skip
        if self.tells:
            tell(attempt.call.response_headers, held, charge[0] if charge is not None else 0)
        work: Coroutine[Any, Any, None]
        if charge is None:
            attempt.cost_picousd = 0
            work = terms.ledger.release(held)
        else:
            amount, into, out, estimate = charge
            amount = max(amount, least)
            if self._silent and amount < held.amount:
                amount = min(held.amount, amount + self._silent)
            attempt.cost_picousd = amount
            if estimate is not None:
                attempt.usage = estimate
            work = terms.ledger.settle(held, amount, into, out)
            if amount > held.amount:
                work = self._overrun(attempt, work)
            if terms.warnings is not None:
                work = self._noted(terms.warnings, work)
        if terms.instant:
            at_once(work)
            return None
        return work

    async def _noted(self, warnings: Warnings, settling: Coroutine[Any, Any, None]) -> None:
        await settling
        warnings.touch(self.held)

    async def _overrun(self, attempt: Attempt, settling: Coroutine[Any, Any, None]) -> None:
        """The bill is more than was reserved: count it, and lock the tenant where the policy says so."""
        terms, held = self._terms, self.held
        await settling
        terms.overruns.add(1, attempt.provider)
        until_ms = min((line.ends_ms for line in held.lines if line.limit is not None), default=0)
        if until_ms and terms.locking:
            terms.locks[attempt.call.tenant] = until_ms / 1000
            await terms.ledger.lock(attempt.call.tenant, held.id, until_ms)
