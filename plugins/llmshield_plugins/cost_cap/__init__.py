"""cost_cap: a budget that is never overspent.

Before an attempt is sent, the most it can cost is reserved in the ledger: an upper bound of its input times the
price, and its output bound times the price, for each answer asked for. No room: the call is refused and nothing
is sent. When the attempt is over, what it did cost is settled and the rest is free again. Retries and failover
targets are attempts like any other and are reserved at their own price.

Budgets are the `budget:` of the caller's tier, counted per tenant, and the `caps:` here. Without either, calls are
only counted, for `/usage` and `llmshield spend`.

Settings:

- `on_unknown_price: deny | allow | {assume: 10 USD/Mtok}` (deny): a model without a price, under a cap.
- `missing_max_tokens: clamp | deny` (clamp): a call without `max_tokens` gets `default_max_tokens` as its bound, or
  less if the balance buys less. A bound that the balance does not buy is lowered likewise.
- `default_max_tokens` (the model's longest answer, 4096 where that is not known): all of it is held while such a
  call runs, so a lower one lets more calls run at once on a small budget.
- `min_max_tokens: 16`: a call is refused rather than made shorter than this.
- `on_unseen: context | deny` (context): content that the provider holds (`previous_response_id`, file ids, ...) is
  reserved at the model's context window; a model without a known one is refused.
- `tool_rounds: 3`: how often server-side tools are reckoned to send the whole context again.
- `lost_reply: full | estimate` (full): a call that was sent and never answered may have been billed: charge all
  that was reserved, or what was seen.
- `cut_stream: estimate | full` (estimate): what a stream costs that ended early (the client left, a guard stopped
  it): the text that came, or all that was reserved.
- `on_overrun: lock | record` (lock): a provider reports more than was reserved. It is charged in any case; `lock`
  refuses the tenant's further calls until the shortest of its windows ends.
- `caps:` list of `{by: [tenant, tier, key, model, provider, tag:NAME], limit: 5 USD/day, models: ["gpt-*"]}`: a
  budget for each combination of what stands in `by`; without `by`, one for all calls together.

Without usage from the provider, each byte sent and each character received is charged as a token: no tokenizer
makes more. A store that is away refuses calls (closed, whatever `on_error` says).

Monitor mode: everything is booked, nothing is refused or shortened.

Hooks: pre_request (hangs a guard on each attempt).

Example:

    tiers:
      free: {budget: 1 USD/day}
    plugins:
      - use: cost_cap
        on_unknown_price: {assume: 10 USD/Mtok}
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from functools import partial
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from llmshield import clock, hookspecs
from llmshield.call import Attempt, Call
from llmshield.errors import StoreUnavailable
from llmshield.hookspecs import Plugin, Resources
from llmshield.ledger import Ledger, Refusal, Reservation
from llmshield.metrics import Metrics
from llmshield.policy import Policy, TokenPrice
from llmshield.prices import (
    MTOK,
    Bound,
    ModelPrice,
    Prices,
    Quote,
    Rates,
)
from llmshield.stores import Labels, at_once
from llmshield.verdicts import Block
from llmshield_plugins.cost_cap.bounds import bound_of, price_options, seen_whole
from llmshield_plugins.cost_cap.caps import CapRule, Caps, describe
from llmshield_plugins.cost_cap.settlement import charge_for

_Kind = Literal["budget_spent", "store_unavailable", "model_denied", "bad_request"]

_FREE = frozenset({"count_tokens", "models"})
"""Operations that no provider bills."""

_APP = "app"
_USUAL_TOKENS = 4096
"""Output bound for a model whose longest answer is not known: the shortest of those in use."""
_LOCKS_S = 1.0
"""How soon a lock that another process set is known here."""


class AssumedPrice(BaseModel):
    """A price for whatever has none."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    assume: TokenPrice = Field(description="Price of a token whose price is not known, in USD/Mtok.")


class CostCap(Plugin):
    """Reserves before an attempt is sent, settles after it."""

    class Settings(hookspecs.Settings):
        """What `cost_cap:` may say."""

        on_unknown_price: Literal["deny", "allow"] | AssumedPrice = Field(
            "deny", description="A model without a price, under a cap."
        )
        missing_max_tokens: Literal["clamp", "deny"] = Field(
            "clamp", description="A call without an output bound."
        )
        default_max_tokens: Annotated[int, Field(ge=1)] | None = Field(
            None, description="Output bound of a call without one; else the model's longest answer."
        )
        min_max_tokens: Annotated[int, Field(ge=1)] = Field(
            16, description="The shortest answer worth asking for."
        )
        on_unseen: Literal["context", "deny"] = Field(
            "context", description="Content that the provider holds."
        )
        tool_rounds: Annotated[int, Field(ge=1, le=100)] = Field(
            3, description="Rounds of server-side tools reserved."
        )
        lost_reply: Literal["full", "estimate"] = Field(
            "full", description="What a call without any answer costs."
        )
        cut_stream: Literal["estimate", "full"] = Field(
            "estimate", description="What a stream that ended early costs."
        )
        on_overrun: Literal["lock", "record"] = Field(
            "lock", description="A provider charges more than was reserved."
        )
        caps: tuple[CapRule, ...] = Field((), description="Budgets besides those of the tiers.")

    settings: Settings

    async def start(self, resources: Resources) -> None:
        """Compile the caps; find out who is locked."""
        self._policy = resources.get(Policy)
        self._ledger = resources.get(Ledger)
        self._prices = resources.get(Prices)
        self._caps = Caps(self._policy, self.settings.caps)
        self._ledger.declare(self._caps.of_tenant)
        metrics = resources.get(Metrics)
        self._overruns = metrics.counter(
            "llmshield_cost_overrun_total", "Attempts that cost more than was reserved.", "provider"
        )
        self._refusals = metrics.counter(
            "llmshield_cost_refused_total", "Attempts refused for money.", "reason"
        )
        self._locks: dict[str, float] = {}
        await self._see_locks()
        self._watch = asyncio.create_task(self._watch_locks(), name="llmshield-cost-locks")

    async def close(self) -> None:
        """Stop looking for locks."""
        watch = getattr(self, "_watch", None)
        if watch is not None:
            self._ledger.forget(self._caps.of_tenant)
            watch.cancel()
            await asyncio.wait({watch})

    def pre_request(self, call: Call) -> None:
        """Hang the guard on every attempt that can cost something."""
        if call.operation not in _FREE:
            call.guard_attempt(partial(self._guard, call.enforced))

    async def _guard(self, enforced: bool, attempt: Attempt) -> Block | None:
        """Reserve what this attempt may cost; no room, no attempt."""
        call = attempt.call
        provider = self._policy.providers.get(attempt.provider)
        if attempt.provider == _APP and (provider is None or provider.prices is None):
            return None  # the wrapped app pays its own bills unless the policy puts a price on it
        caps = self._caps.of_attempt(attempt)
        price = self._price(attempt)
        if price is None:
            return self._unpriced(attempt) if caps else None
        bound, bounded = bound_of(attempt, price, self.settings.tool_rounds)
        output = self._output(attempt, price)
        if caps:
            if not bounded or (self.settings.on_unseen == "deny" and not seen_whole(attempt)):
                return self._refuse("unseen", _unseen_message(attempt))
            if output is None:
                return self._refuse(
                    "no_bound", "A budget holds: this call must bound its answer (max_tokens)."
                )
            if clock.now() < self._locks.get(call.tenant, 0.0):
                message = f"Tenant {call.tenant} is locked: a provider charged more than was reserved."
                return self._refuse("locked", message, kind="budget_spent")
        output = output or 0
        quote = Quote(price, bound)
        want = quote.worst_case(output)
        least = quote.worst_case(min(output, self.settings.min_max_tokens))
        labels = Labels(_clean(call.tenant), attempt.provider, _clean(attempt.model))
        id = f"{call.id}.{attempt.number}"
        block = None
        try:
            held = await self._ledger.reserve(id, labels, caps, want, least)
            if isinstance(held, Refusal):
                block = self._refuse("spent", describe(held, least), kind="budget_spent")
                if enforced:
                    return block
                uncapped = await self._ledger.reserve(id, labels, self._caps.unlimited(caps), want, want)
                assert isinstance(uncapped, Reservation)
                held = uncapped
        except StoreUnavailable:
            return self._refuse(
                "store", "The budget can't be checked now; nothing was sent.", kind="store_unavailable"
            )
        attempt.reserved_picousd = held.amount
        attempt.at_end(partial(self._settle, held, price, bound))
        if caps and block is None:
            self._clamp(attempt, price, quote, held, output)
        return block

    def _price(self, attempt: Attempt) -> ModelPrice | None:
        call = attempt.call
        if call.operation == "passthrough":
            rule = next((rule for rule in self._policy.server.paths if rule.matches(call.path)), None)
            fee = rule.price if rule is not None else None
            return None if fee is None else ModelPrice(Rates(0, 0), per_call=fee)
        provider = self._policy.providers.get(attempt.provider)
        family = (provider.dialect if provider is not None else None) or call.family
        price = self._prices.price(attempt.provider, family, attempt.model, price_options(attempt.body))
        if price is not None and (price.generates or call.operation == "embed"):
            return price
        assumed = self.settings.on_unknown_price
        if isinstance(assumed, AssumedPrice):
            rate = assumed.assume * MTOK
            return ModelPrice(Rates(rate, rate), context=price.context if price else None, source="assumed")
        return None

    def _unpriced(self, attempt: Attempt) -> Block | None:
        if self.settings.on_unknown_price == "allow":
            return None
        if attempt.call.operation == "passthrough":
            return self._refuse(
                "unpriced", "This path has no price, and a budget holds.", kind="model_denied"
            )
        return self._refuse(
            "unpriced",
            f"No price is known for model {attempt.model[:100]!r} at provider {attempt.provider!r}, and a budget holds.",
            kind="model_denied",
        )

    def _output(self, attempt: Attempt, price: ModelPrice) -> int | None:
        """The output bound to reserve for, in tokens for each answer; None: the policy wants one from the client."""
        if attempt.call.operation != "generate":
            return 0
        if attempt.output_bound is not None:
            return attempt.output_bound
        if self.settings.missing_max_tokens == "deny":
            return None
        return self.settings.default_max_tokens or price.max_output or _USUAL_TOKENS

    def _clamp(
        self, attempt: Attempt, price: ModelPrice, quote: Quote, held: Reservation, output: int
    ) -> None:
        """Put the bound that was reserved for into the body."""
        if attempt.call.operation != "generate":
            return
        if held.amount < held.wanted:
            bought = quote.affordable_output(held.amount)
            attempt.clamp_output(min(output, bought, price.max_output or bought))
        elif attempt.output_bound is None:
            attempt.clamp_output(output)

    def _settle(
        self, held: Reservation, price: ModelPrice, bound: Bound, attempt: Attempt
    ) -> Awaitable[None] | None:
        settling = self._settled(held, price, bound, attempt)
        return at_once(settling) if self._ledger.instant else settling

    async def _settled(self, held: Reservation, price: ModelPrice, bound: Bound, attempt: Attempt) -> None:
        charge = charge_for(
            attempt, price, bound, held.amount,
            lost_in_full=self.settings.lost_reply == "full", cut_in_full=self.settings.cut_stream == "full",
        )  # fmt: skip
        if charge is None:
            attempt.cost_picousd = 0
            await self._ledger.release(held)
            return
        attempt.cost_picousd = charge.amount
        if charge.usage is not None:
            attempt.usage = charge.usage
        await self._ledger.settle(held, charge.amount, charge.tokens_in, charge.tokens_out)
        if charge.amount > held.amount:
            await self._overrun(attempt, held)

    async def _overrun(self, attempt: Attempt, held: Reservation) -> None:
        """The bill is more than was reserved: count it, and lock the tenant where the policy says so."""
        self._overruns.add(1, attempt.provider)
        until_ms = min((line.ends_ms for line in held.lines if line.limit is not None), default=0)
        if until_ms and self.settings.on_overrun == "lock":
            self._locks[attempt.call.tenant] = until_ms / 1000
            await self._ledger.lock(attempt.call.tenant, held.id, until_ms)

    async def _watch_locks(self) -> None:
        """Learn of locks that other processes set. Without a store nothing is sent anyway."""
        while True:
            await asyncio.sleep(_LOCKS_S)  # housekeeping keeps the machine's pace, whatever the clock says
            try:
                await self._see_locks()
            except StoreUnavailable:
                continue

    async def _see_locks(self) -> None:
        if self.settings.on_overrun == "lock":
            self._locks = await self._ledger.locks()

    def _refuse(self, reason: str, message: str, *, kind: _Kind = "bad_request") -> Block:
        self._refusals.add(1, reason)
        return Block(message, kind=kind)


def _clean(name: str) -> str:
    """A name that clients choose, as the journal keeps it: of bounded length, and UTF-8."""
    return name[:200] if name.isascii() else name[:200].encode("utf-8", "replace").decode()


def _unseen_message(attempt: Attempt) -> str:
    what = ", ".join(attempt.unseen)
    return f"This call refers to content that can't be priced beforehand ({what}), and a budget holds."
