"""Limits in tokens: reserved before an attempt is sent, corrected to what it really used after it.

The bound. With `reserve: worst_case`, an attempt counts for the most it can use: each byte that is sent as a token
(no tokenizer makes more of text), and its output bound for each choice; a call without a bound gets one. It is let
through only if that has room in every window, and it counts in the step of its admission. What it did not use is
taken back from that very step. So at any moment, the attempts admitted in any stretch of a window's length have used
no more than its limit together, whatever they turn out to be.

Three things are outside of the bound and are counted when the provider reports them: what is not in the body's bytes
(files, earlier responses, tools of the provider), pictures and sound, and the part of a single prompt that is larger
than the limit itself. Such a prompt is let through only into an empty window.
"""

from __future__ import annotations

from collections.abc import Awaitable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, NamedTuple, TypeAlias

from llmshield import clock
from llmshield.call import Attempt, Call, Usage
from llmshield.errors import StoreUnavailable
from llmshield.metrics import Metrics
from llmshield.prices import Prices
from llmshield.stores import Admission, Store, Window, at_once
from llmshield.verdicts import Block, Skip
from llmshield_plugins.rate_limit.headers import tell
from llmshield_plugins.rate_limit.limits import PER, Rules
from llmshield_plugins.rate_limit.shared import Shared

_TEMPLATE_TOKENS = 64
"""Begin and end marks, and the bound that we may still put into the body."""
_TOOLS_TOKENS = 1_024
"""A provider's own prompt for tools (https://docs.anthropic.com/en/docs/agents-and-tools/tool-use/overview#pricing:
530 at the most)."""
_USUAL_TOKENS = 4096
"""Output bound for a model whose longest answer is not known."""
_LEAST_TOKENS = 16
"""An answer is not made shorter than this to fit a limit."""
_BYTES_PER_TOKEN = 4
_LIKELY_TOKENS = 1_024
"""What an answer needs that nobody bounded: `reserve: estimate` reckons with it, and the worst case gives no less."""

Gates: TypeAlias = Shared | Store
"""Where tokens are counted: the shared store, or our own share of it while that is away."""

_MOST_TOKENS = 10**12
"""The largest limit that a policy may name; a report beyond it is a lie, and no store could add it up."""

_UNCOUNTED = frozenset({"count_tokens", "models", "passthrough"})
"""Operations that use no tokens, or whose tokens nobody here can read."""


@dataclass(slots=True, frozen=True)
class Ticket:
    """A call that was let in: what holds for it, when it was counted, and what the gates said to that. `items` is its
    RateLimit so far."""

    call: Call
    rules: Rules
    shared: Rules
    at_ms: int
    said: Admission
    enforced: bool
    items: str


class _Need(NamedTuple):
    """What an attempt is reserved for: `tokens` in all, of them `into` for what is sent; `bound` is the output bound
    that the body needs for that (None: it has it)."""

    into: int
    choices: int
    tokens: int
    bound: int | None = None


class TokenLimits:
    """Reserves and corrects. `headers` says whether clients are told."""

    def __init__(
        self, store: Shared, local: Store, prices: Prices, metrics: Metrics, *,
        reserve: Literal["worst_case", "estimate"], default_max_tokens: int | None, headers: bool,
    ) -> None:  # fmt: skip
        self._store = store
        self._local = local
        self._prices = prices
        self._worst = reserve == "worst_case"
        self._default = default_max_tokens
        self._headers = headers
        self._refused = metrics.counter("llmshield_rate_limited_total", "Calls refused by a limit.", "limit")

    def watch(self, ticket: Ticket) -> None:
        """Hang the reservation on every attempt that uses tokens."""
        if ticket.call.operation not in _UNCOUNTED:
            ticket.call.guard_attempt(partial(self._guard, ticket))

    def _guard(
        self, ticket: Ticket, attempt: Attempt
    ) -> Block | Skip | Awaitable[Block | Skip | None] | None:
        reserving = self._reserve(ticket, attempt)
        return at_once(reserving) if self._store.instant else reserving

    async def _reserve(self, ticket: Ticket, attempt: Attempt) -> Block | Skip | None:
        now = clock.now()
        now_ms = int(now * 1000)
        store: Gates = self._store
        rules = ticket.rules
        try:
            said, need = await self._admit(store, rules, attempt, now_ms)
        except StoreUnavailable:
            store, rules = self._local, ticket.shared
            said, need = await self._admit(store, rules, attempt, now_ms)
        if said.refused >= 0:
            return await self._refuse(ticket, attempt, store, rules, said, need.tokens, now)
        if need.bound is not None:
            attempt.clamp_output(need.bound)
        held = min(need.tokens, rules.smallest)
        attempt.at_end(partial(self._correct, ticket, store, rules, said, held, now_ms))
        if ticket.enforced and self._headers:
            self._tell(ticket, rules, said, now)
        return None

    async def _admit(
        self, store: Gates, rules: Rules, attempt: Attempt, now_ms: int
    ) -> tuple[Admission, _Need]:
        """Count what the attempt may need; a call without a bound makes do with what is left, if that is enough."""
        need = self._need(attempt, rules.smallest)
        said = await store.admit(rules.tokens, (), now_ms, min(need.tokens, rules.smallest))
        if said.refused >= 0 and need.bound is not None and attempt.output_bound is None:
            left = min(window.limit - hits for window, hits in zip(rules.tokens, said.used, strict=True))
            bound = (left - need.into) // need.choices
            if bound >= min(need.bound, _LIKELY_TOKENS):
                need = _Need(need.into, need.choices, need.into + bound * need.choices, bound)
                said = await store.admit(rules.tokens, (), now_ms, need.tokens)
        return said, need

    def _need(self, attempt: Attempt, smallest: int) -> _Need:
        into = _input(attempt)
        if attempt.call.operation == "embed":
            return _Need(into, 1, into if self._worst else -(-into // _BYTES_PER_TOKEN))
        choices = _choices(attempt)
        if not self._worst:
            likely = attempt.output_bound or self._default or _LIKELY_TOKENS
            return _Need(into, choices, -(-into // _BYTES_PER_TOKEN) + likely * choices)
        bound: int | None = None
        out = attempt.output_bound or 0
        if attempt.output_bound is None:
            out = bound = self._default or self._longest(attempt) or _USUAL_TOKENS
        room = (smallest - into) // choices
        if room < out and room >= _LEAST_TOKENS:
            out = bound = room
        return _Need(into, choices, into + out * choices, bound)

    def _longest(self, attempt: Attempt) -> int | None:
        price = self._prices.price(attempt.provider, attempt.call.family, attempt.model, ())
        return price.max_output if price is not None else None

    async def _refuse(
        self, ticket: Ticket, attempt: Attempt, store: Gates, rules: Rules, said: Admission, want: int, now: float
    ) -> Block | Skip:  # fmt: skip
        """No room: the call is refused and was no request; a further attempt is passed over."""
        window = rules.tokens[said.refused]
        limit = f"{window.limit} tokens/{PER[window.seconds]}"
        self._refused.add(1, limit)
        wait = said.wait_ms / 1000
        subject = "this address" if "address:" in window.key else f"tenant {ticket.call.tenant}"
        block = Block(
            f"Rate limit of {limit} for {subject} is reached: this call may use {want}."
            f" Try again in {seconds(wait)}.",
            kind="rate_limited",
            retry_after_s=wait,
        )
        if attempt.number > 1:
            return Skip(f"rate limit of {limit}", block)
        if ticket.enforced and rules.requests:
            await self._count(store, rules.requests, -1, ticket.at_ms)
            ticket = replace(ticket, items=self._tell_requests(ticket, rules, now))
        if ticket.enforced and self._headers:
            self._tell(ticket, rules, said, now)
        return block

    def _correct(
        self, ticket: Ticket, store: Gates, rules: Rules, said: Admission, held: int, at_ms: int, attempt: Attempt
    ) -> Awaitable[None] | None:  # fmt: skip
        more = used_by(attempt, held) - held
        if more == 0:
            return None
        if ticket.enforced and self._headers and more < 0:
            # A whole reply ends before its head is written: its client reads what it really has left.
            left = said._replace(used=tuple([hits + more for hits in said.used]))
            self._tell(ticket, rules, left, clock.now())
        now_ms = int(clock.now() * 1000)
        counting = self._count(store, rules.tokens, more, at_ms if more < 0 else now_ms)
        return at_once(counting) if store.instant else counting

    async def _count(self, store: Gates, windows: tuple[Window, ...], cost: int, at_ms: int) -> None:
        """A store that is away keeps the reservation until its window has gone by: too much, never too little."""
        with suppress(StoreUnavailable):
            await store.count(windows, int(clock.now() * 1000), cost, at_ms)

    def _tell_requests(self, ticket: Ticket, rules: Rules, now: float) -> str:
        """The requests that are left when this one was none."""
        said, call = ticket.said, ticket.call
        if not self._headers or not said.used:
            return ""
        used = [hits - 1 for hits in said.used]
        return tell(
            call.response_headers,
            call.family,
            "requests",
            rules.names,
            rules.requests,
            used,
            said.resets_ms,
            now,
        )

    def _tell(self, ticket: Ticket, rules: Rules, said: Admission, now: float) -> None:
        call = ticket.call
        headers = call.response_headers
        items = tell(
            headers, call.family, "tokens", rules.token_names, rules.tokens, said.used, said.resets_ms, now
        )
        headers["ratelimit-policy"] = rules.policy
        headers["ratelimit"] = f"{ticket.items}, {items}" if ticket.items else items


def used_by(attempt: Attempt, held: int) -> int:
    """The tokens that an attempt has used, `held` of which were reserved."""
    if not attempt.sent or (attempt.status is not None and attempt.status >= 400):
        return 0
    usage = attempt.usage
    if usage is None or not _sensible(usage):
        return min(held, attempt.input_bytes + attempt.output_chars)
    into, out = usage.input or 0, usage.output or 0
    used = into + out
    if attempt.outcome != "ok" and attempt.output_chars > out:  # cut: the report is older than the last text
        used = max(used, min(held, into + attempt.output_chars))
    return min(used, _MOST_TOKENS)


def _sensible(usage: Usage) -> bool:
    return not usage.malformed and (usage.input or 0) >= 0 and (usage.output or 0) >= 0


def _input(attempt: Attempt) -> int:
    tools = _TOOLS_TOKENS if attempt.body.get("tools") else 0
    if not attempt.unseen:
        return attempt.input_bytes + _TEMPLATE_TOKENS + tools
    # Pictures and sound are a megabyte of base64 and a thousand tokens: only what is text counts beforehand.
    texts = sum(len(text.value.encode("utf-8", "surrogatepass")) for text in attempt.call.texts)
    return min(attempt.input_bytes, texts) + _TEMPLATE_TOKENS + tools


def _choices(attempt: Attempt) -> int:
    body = attempt.body
    choices, best_of, prompts = attempt.choices, body.get("best_of"), body.get("prompt")
    if type(best_of) is int:
        choices = max(choices, best_of)
    if type(prompts) is list and prompts and type(prompts[0]) is not int:
        choices *= len(prompts)  # legacy completions answer each prompt
    return max(1, choices)


def seconds(wait: float) -> str:
    """A wait in words."""
    return f"{wait:.1f} s" if wait < 10 else f"{wait:.0f} s"
