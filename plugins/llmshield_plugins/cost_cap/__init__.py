"""cost_cap: a budget that is never overspent.

Before an attempt is sent, the most it can cost is reserved in the ledger: an upper bound of its input times the
price, and its output bound times the price, for each answer asked for. No room: the call is refused and nothing
is sent. When the attempt is over, what it did cost is settled and the rest is free again. Retries and failover
targets are attempts like any other and are reserved at their own price.

Budgets are the `budget:` of the caller's tier, counted per tenant, and the `caps:` here: per calendar minute, hour, day,
week or month (`5 USD/day`, in `time_zone`), or rolling (`5 USD/24h`: in any stretch of 24 hours). Without either, calls
are only counted, for `/usage` and `llmshield spend`. At each share in `warn_at` a warning is logged, once per window.

Settings:

- `on_unknown_price: deny | allow | {assume: 10 USD/Mtok}` (deny): a model without a price, under a cap.
- `missing_max_tokens: clamp | deny` (clamp): a call without `max_tokens` gets `default_max_tokens` as its bound, or
  less if the balance buys less. A bound that the balance does not buy is lowered likewise.
- `default_max_tokens` (the model's longest answer, 4096 where that is not known): all of it is held while such a
  call runs, so a lower one lets more calls run at once on a small budget.
- `min_max_tokens: 16`: a call is refused rather than made shorter than this.
- `on_unseen: context | deny` (context): content that the provider holds (`previous_response_id`, file ids, ...) is
  reserved at the model's context window; a model without a known one is refused.
- `tool_rounds: 3`: how often server-side tools are reckoned to send the whole context again. A body without a bound
  of its own gets this one, where the API has a word for it (`max_tool_calls`, `max_uses`).
- `tool_prices: {code_interpreter: 0.03 USD/call}`: what a use of a server-side tool costs. The price list knows
  searches; other tools that cost more than tokens are refused without a price here.
- `lost_reply: full | estimate` (full): a call that was sent and never answered may have been billed: charge all
  that was reserved, or what was seen.
- `cut_stream: estimate | full` (estimate): what a stream costs that ended early (the client left, a guard stopped
  it): the text that came, or all that was reserved. A model that thinks unseen is charged in full in any case.
- `on_overrun: lock | record` (lock): a provider reports more than was reserved. It is charged in any case; `lock`
  refuses the tenant's further calls until the shortest of its windows ends.
- `caps:` list of `{limit: 5 USD/day, by: [tenant, tier, key, model, provider, tag:NAME]}`: a budget for each
  combination of what stands in `by`; without `by`, one for all calls together. `models`, `providers`, `tenants`,
  `tiers`, `keys` (globs) and `tags: {NAME: glob}` narrow it down; `time_zone` and `warn_at` as in a tier. Where one
  is narrowed to providers (by `by` or `providers`) and spent, they are passed over: the route's next target is asked.

Without usage from the provider, each byte sent and each character received is charged as a token: no tokenizer
makes more. A store that is away refuses calls (closed, whatever `on_error` says).

A stream that would outrun its reservation is stopped with the dialect's own stop signal. `cost_cap` stands in a
policy once: two would book the same money twice.

Monitor mode: everything is booked, nothing is refused, shortened or stopped.

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
from collections.abc import Awaitable, Callable, Sequence
from functools import lru_cache, partial
from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from llmshield import clock, hookspecs
from llmshield.call import Attempt, Call
from llmshield.errors import BookLost, StoreUnavailable
from llmshield.hookspecs import Plugin, Resources
from llmshield.ledger import Cap, Ledger, Reservation
from llmshield.metrics import Metrics
from llmshield.policy import CallPrice, Policy, TokenPrice
from llmshield.prices import MTOK, Bound, ModelPrice, Prices, Quote
from llmshield.stores import Labels, at_once
from llmshield.verdicts import Block, Skip
from llmshield_plugins.cost_cap import headers
from llmshield_plugins.cost_cap.booking import Booking, Terms
from llmshield_plugins.cost_cap.bounds import TEMPLATE_TOKENS, bound_of, is_plain, plain_bound, seen_whole
from llmshield_plugins.cost_cap.caps import CapRule, Caps, describe, is_a_providers
from llmshield_plugins.cost_cap.tariff import Plain, Tariff
from llmshield_plugins.cost_cap.tools import NOTHING, Offered, offered_by
from llmshield_plugins.cost_cap.warnings import Warnings

_CapsOf = Callable[[str], Sequence[Cap]]
_LOST = "The money book is lost: see `llmshield budget rebuild` and `llmshield budget reset`."
_Kind = Literal["budget_spent", "store_unavailable", "model_denied", "bad_request"]

_FREE = frozenset({"count_tokens", "models"})
"""Operations that no provider bills."""

_APP = "app"
_KEPT_S = 60.0
_MOST_KEPT = 4096
_USUAL_TOKENS = 4096
"""Output bound for a model whose longest answer is not known: the shortest of those in use."""
_WARN_S = 1.0
"""How soon a budget that is nearly spent is warned of."""


class AssumedPrice(BaseModel):
    """A price for whatever has none."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    assume: TokenPrice = Field(description="Price of a token whose price is not known, in USD/Mtok.")

    @model_validator(mode="before")
    @classmethod
    def _as_text(cls, given: object) -> object:  # 'assume: 10 USD/Mtok'
        return {"assume": given[7:].strip()} if isinstance(given, str) and given[:7] == "assume:" else given


class CostCap(Plugin):
    """Reserves before an attempt is sent, settles after it."""

    once: ClassVar[bool] = True
    fails_closed: ClassVar[bool] = True

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
        tool_prices: dict[str, CallPrice] = Field(
            {}, description="What a use of a server-side tool costs, by its kind; overrides the price list."
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
        policy = resources.get(Policy)
        self._ledger = resources.get(Ledger)
        settings = self.settings
        assumed = settings.on_unknown_price
        self._tariff = Tariff(
            policy, resources.get(Prices),
            assumed.assume if isinstance(assumed, AssumedPrice) else None, settings.tool_prices,
        )  # fmt: skip
        self._caps = Caps(policy, settings.caps)
        self._ledger.declare(self._caps.of_tenant, self._caps.on_account if settings.caps else None)
        metrics = resources.get(Metrics)
        self._warnings = Warnings(self._ledger, metrics) if self._caps.warns else None
        overruns = metrics.counter(
            "llmshield_cost_overrun_total", "Attempts that cost more than was reserved.", "provider"
        )
        self._refusals = metrics.counter(
            "llmshield_cost_refused_total", "Attempts refused for money.", "reason"
        )
        # The ledger's own copy of what all processes share, kept up to date there.
        self._locks: dict[str, float] = self._ledger.books.locked if settings.on_overrun == "lock" else {}
        self._terms = Terms(
            name=self.name or "cost_cap", ledger=self._ledger, tariff=self._tariff, locks=self._locks, overruns=overruns,
            locking=settings.on_overrun == "lock", lost_in_full=settings.lost_reply == "full",
            cut_in_full=settings.cut_stream == "full", instant=self._ledger.instant, warnings=self._warnings,
        )  # fmt: skip
        self._instant = self._ledger.instant
        self._rules = bool(settings.caps)
        self._lately: dict[
            tuple[str, str | None, str, str, str, str], tuple[tuple[Cap, ...], Labels, Plain | None]
        ] = {}
        self._since = 0.0
        self._guards = (partial(self._guard, False), partial(self._guard, True))
        self._shortest = settings.min_max_tokens
        self._watch = asyncio.create_task(self._keep_warning(), name="llmshield-cost-warnings")

    def budgets(self, policy: Policy) -> tuple[_CapsOf, _CapsOf | None]:
        """Which caps hold for a tenant, and on an account, as `Ledger.declare` takes them; without being started."""
        caps = Caps(policy, self.settings.caps)
        return caps.of_tenant, caps.on_account if self.settings.caps else None

    async def close(self) -> None:
        """Stop looking for what to warn of."""
        watch = getattr(self, "_watch", None)
        if watch is not None:
            self._ledger.forget(self._caps.of_tenant, self._caps.on_account)
            watch.cancel()
            await asyncio.wait({watch})

    def pre_request(self, call: Call) -> None:
        """Hang the guard on every attempt that can cost something."""
        if call.operation not in _FREE:
            call.guard_attempt(self._guards[call.enforced])

    def _guard(
        self, enforced: bool, attempt: Attempt
    ) -> Block | Skip | Awaitable[Block | Skip | None] | None:
        """Reserve what this attempt may cost; no room, no attempt."""
        if attempt.provider == _APP and not self._tariff.prices_app:
            return None  # the wrapped app pays its own bills unless the policy puts a price on it
        call = attempt.call
        plain = is_plain(attempt)
        tenant, tier, provider, model = call.tenant, call.tier, attempt.provider, attempt.model
        if plain:
            caps, labels, known = self._known(tenant, tier, provider, model, attempt)
            price = known.price if known is not None else None
        else:
            caps, labels, known = self._caps.of_attempt(attempt), _labels(tenant, provider, model), None
            price = self._tariff.of(attempt)
        if price is None:
            return self._unpriced(attempt) if caps else None
        output = attempt.output_bound
        if output is None or call.operation != "generate" or (caps and call.output_bound is None):
            output = self._output(attempt, price)
        offered, bounded = NOTHING, True
        bound: Bound | None = None
        tokens = attempt.input_bytes + TEMPLATE_TOKENS
        if known is not None and tokens <= known.tokens:
            fixed, rate = tokens * known.into + known.fee, known.out * (attempt.choices or 1)
        else:
            if plain:
                bound = plain_bound(attempt, price)
            else:
                offered = offered_by(attempt, price, self.settings.tool_rounds)
                bound, bounded = bound_of(attempt, price, offered)
            fixed, rate = Quote(price, bound).figures
        if caps and (not plain or output is None or self._locks):
            block = self._refused(attempt, output, offered, bounded=bounded)
            if block is not None:
                return block
            if offered.limit is not None:
                attempt.limit_rounds(offered.limit)
        output = output or 0
        want = least = -(-(fixed + output * rate) // MTOK)
        if output > self._shortest:
            least = -(-(fixed + self._shortest * rate) // MTOK)
        booking = Booking(self._terms, price, fixed, rate, bound, offered.silent, output, plain)
        id = f"{call.id}.{attempt.number}"
        if self._instant:
            held = self._ledger.reserve_now(id, labels, caps, want, least)
            if type(held) is Reservation:
                self._hold(attempt, booking, held, caps, enforced=enforced)
                return None
        asked = self._book(enforced, attempt, booking, id, labels, caps, want, least)
        return at_once(asked) if self._instant else asked

    def _known(
        self, tenant: str, tier: str | None, provider: str, model: str, attempt: Attempt
    ) -> tuple[tuple[Cap, ...], Labels, Plain | None]:
        """Budgets, names and price of a plain attempt; what only its tenant, provider and model decide is kept."""
        now = clock.now()
        if not self._since <= now < self._since + _KEPT_S or len(self._lately) >= _MOST_KEPT:
            self._lately.clear()
            self._since = now
        call = attempt.call
        key = (tenant, tier, provider, model, call.operation, call.family)
        found = self._lately.get(key)
        if found is None:
            labels, plain = _labels(tenant, provider, model), self._tariff.plain(attempt)
            found = self._lately[key] = (self._caps.of_attempt(attempt), labels, plain)
        if self._rules:  # these look at more than that
            return self._caps.of_attempt(attempt), found[1], found[2]
        return found

    async def _book(
        self, enforced: bool, attempt: Attempt, booking: Booking, id: str, labels: Labels,
        caps: tuple[Cap, ...], want: int, least: int,
    ) -> Block | Skip | None:  # fmt: skip
        """Hold the money for an attempt, and hang its end on it."""
        try:
            held = await self._ledger.reserve(id, labels, caps, want, least)
            if isinstance(held, Reservation):
                self._hold(attempt, booking, held, caps, enforced=enforced)
                return None
            if enforced:
                headers.tell_refused(attempt.call.response_headers, held)
            block = self._refuse("spent", describe(held, least), kind="budget_spent")
            if enforced and is_a_providers(held.cap):
                return Skip("its budget is spent", block)
            if not enforced:
                held = await self._ledger.reserve(id, labels, self._caps.unlimited(caps), want, want)
                assert isinstance(held, Reservation)
                self._hold(attempt, booking, held, (), enforced=False)
            return block
        except StoreUnavailable as error:
            message = "The budget can't be checked now; nothing was sent."
            if isinstance(error, BookLost):
                message = f"{message} {_LOST}"
            return self._refuse("store", message, kind="store_unavailable")

    @staticmethod
    def _hold(
        attempt: Attempt, booking: Booking, held: Reservation, caps: tuple[Cap, ...], *, enforced: bool
    ) -> None:
        """The money is there: hang the end on the attempt, and the bound that was reserved for into its body."""
        booking.held = held
        attempt.reserved_picousd = held.amount
        attempt.prices = booking.price.source
        attempt.at_end(booking.settle)
        booking.tells = enforced and not attempt.call.stream
        if enforced and attempt.call.stream:
            headers.tell(attempt.call.response_headers, held)
        if caps and attempt.call.operation == "generate":
            if held.amount < held.wanted:
                bought = booking.quote.affordable_output(held.amount)
                attempt.clamp_output(min(booking.output, bought, booking.price.max_output or bought))
            elif attempt.output_bound is None or attempt.output_bound > booking.output:
                attempt.clamp_output(booking.output)
            if enforced and attempt.call.stream:
                booking.watch_over(attempt)

    def _refused(
        self, attempt: Attempt, output: int | None, offered: Offered, *, bounded: bool
    ) -> Block | None:
        """Why an attempt under a budget can't be sent whatever the balance is, or None."""
        if not bounded or (self.settings.on_unseen == "deny" and not seen_whole(attempt)):
            what = ", ".join(attempt.unseen)
            return self._refuse(
                "unseen",
                f"This call refers to content that can't be priced beforehand ({what}), and a budget holds.",
            )
        if attempt.body.get("fallbacks") or attempt.body.get("models"):
            message = (
                "This call lets the provider choose another model (fallbacks, models), and a budget holds."
            )
            return self._refuse("models", message)
        if offered.unpriced and self.settings.on_unknown_price != "allow":
            return self._refuse(
                "unpriced",
                f"No price is known for the provider's tool {offered.unpriced!r}, and a budget holds; the policy's"
                " `tool_prices` may give one.",
                kind="model_denied",
            )
        if output is None:
            return self._refuse("no_bound", "A budget holds: this call must bound its answer (max_tokens).")
        tenant = attempt.call.tenant
        if clock.now() < self._locks.get(tenant, 0.0):
            message = f"Tenant {tenant} is locked: a provider charged more than was reserved."
            return self._refuse("locked", message, kind="budget_spent")
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
        bound, usual = attempt.output_bound, self.settings.default_max_tokens
        if bound is None and self.settings.missing_max_tokens == "deny":
            return None
        if bound is None:
            return usual or price.max_output or _USUAL_TOKENS
        # Who translated an unbounded call into words that need a bound has chosen one; the policy's is the one that counts.
        return bound if usual is None or attempt.call.output_bound is not None else min(bound, usual)

    async def _keep_warning(self) -> None:
        """Warn of budgets that are nearly spent."""
        while self._warnings is not None:
            await asyncio.sleep(_WARN_S)  # housekeeping keeps the machine's pace, whatever the clock says
            await self._warnings.look()

    def _refuse(self, reason: str, message: str, *, kind: _Kind = "bad_request") -> Block:
        self._refusals.add(1, reason)
        return Block(message, kind=kind)


@lru_cache(maxsize=4096)
def _labels(tenant: str, provider: str, model: str) -> Labels:
    return Labels(_clean(tenant), provider, _clean(model))


def _clean(name: str) -> str:
    """A name that clients choose, as the journal keeps it: of bounded length, and UTF-8."""
    return name[:200] if name.isascii() else name[:200].encode("utf-8", "replace").decode()
